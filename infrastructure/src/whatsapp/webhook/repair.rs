//! A name that was cut in the middle of an emoji leaves half a surrogate pair in the body, and some bytes are no text
//! at all. JSON readers refuse the whole body for that; here the broken character alone is replaced.

use std::borrow::Cow;

/// What stands where a character was broken, as a JSON escape.
const REPLACEMENT: &str = "\\ufffd";
/// `\uXXXX`
const ESCAPE_BYTES: usize = 6;

/// The body with its broken characters replaced; `None` if it has none.
pub(super) fn repaired(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    match without_lone_surrogates(&text) {
        Some(repaired) => Some(repaired),
        None => match text {
            Cow::Owned(text) => Some(text),
            Cow::Borrowed(_) => None,
        },
    }
}

fn without_lone_surrogates(text: &str) -> Option<String> {
    let mut repaired = String::new();
    // Everything before this is copied.
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = text[at..].find('\\') {
        at += found;
        match escape(text, at) {
            Some(0xd800..=0xdbff) if matches!(escape(text, at + ESCAPE_BYTES), Some(0xdc00..=0xdfff)) => {
                at += 2 * ESCAPE_BYTES;
            }
            Some(0xd800..=0xdfff) => {
                repaired.push_str(&text[copied..at]);
                repaired.push_str(REPLACEMENT);
                at += ESCAPE_BYTES;
                copied = at;
            }
            Some(_) => at += ESCAPE_BYTES,
            // Another escape: the backslash and one character, which may be a backslash too.
            None => at += 1 + text[at + 1..].chars().next().map_or(0, char::len_utf8),
        }
    }
    (copied > 0).then(|| {
        repaired.push_str(&text[copied..]);
        repaired
    })
}

/// The code unit of a `\uXXXX` at this place.
fn escape(text: &str, at: usize) -> Option<u16> {
    let digits = text.get(at..at + ESCAPE_BYTES)?.strip_prefix("\\u")?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u16::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_broken_characters_are_replaced() {
        for (body, expected) in [
            (r#""\ud83d""#, Some(r#""\ufffd""#)),
            (r#""a\ud83dz""#, Some(r#""a\ufffdz""#)),
            (r#""\udc00""#, Some(r#""\ufffd""#)),
            (r#""\ud83d\ud83d\ude00""#, Some(r#""\ufffd\ud83d\ude00""#)),
            (r#""\uD83D\u0041""#, Some(r#""\ufffd\u0041""#)),
            (r#""\ud83d\ude00""#, None),
            (r#""\\ud83d""#, None),
            (r#""\\\ud83d""#, Some(r#""\\\ufffd""#)),
            (r#""\u+83d""#, None),
            (r#""\"#, None),
            (r#""\é\ud83d"#, Some(r#""\é\ufffd"#)),
        ] {
            assert_eq!(repaired(body.as_bytes()).as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(repaired(b"\"a\xff\"").as_deref(), Some("\"a\u{fffd}\""));
        assert_eq!(repaired(b"\"a\xff\\ud83d\"").as_deref(), Some("\"a\u{fffd}\\ufffd\""));
    }
}
