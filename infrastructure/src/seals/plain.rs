//! The canonical form of what nearly every event is, without a tree in between: objects whose names are ASCII, texts
//! without escapes, short whole numbers. Their canonical form is the same text without spaces, in the order of the names.
//!
//! Sealing was a quarter of the engine's work at full speed while every event was parsed into a tree first.

use super::canonical::is_short_integer;

/// As deep as the JSON reader that takes over where this one gives up.
const DEPTH_MAX: usize = 100;

/// Writes the canonical form; `None`, with some bytes written, if there is more in it than this knows.
pub(super) fn put(out: &mut Vec<u8>, json: &str) -> Option<()> {
    let mut reader = Reader { json, at: 0 };
    reader.value(out, 0)?;
    reader.spaces();
    (reader.at == json.len()).then_some(())
}

struct Reader<'a> {
    json: &'a str,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    fn spaces(&mut self) {
        while self.next() == Some(b' ') {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.spaces();
        if self.next()? != byte {
            return None;
        }
        self.at += 1;
        Some(())
    }

    /// Is it this byte that comes next? Then it is passed over.
    fn takes(&mut self, byte: u8) -> bool {
        self.expect(byte).is_some()
    }

    /// What stands from here up to the first byte that does not belong to it.
    fn token(&mut self, belongs: impl Fn(u8) -> bool) -> Option<&'a str> {
        let rest = self.json.get(self.at..)?;
        let length = rest.bytes().position(|byte| !belongs(byte)).unwrap_or(rest.len());
        self.at += length;
        rest.get(..length)
    }

    fn value(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        self.spaces();
        match self.next()? {
            b'{' => self.object(out, depth),
            b'[' => self.array(out, depth),
            b'"' => {
                let text = self.text()?;
                quoted(out, text);
                Some(())
            }
            b'-' | b'0'..=b'9' => {
                let number = self.token(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E'))?;
                out.extend_from_slice(number.as_bytes());
                is_short_integer(number).then_some(())
            }
            _ => {
                let word = self.token(|byte| byte.is_ascii_lowercase())?;
                out.extend_from_slice(word.as_bytes());
                matches!(word, "true" | "false" | "null").then_some(())
            }
        }
    }

    /// Without its quotes; `None` if anything in it is escaped, or has to be.
    fn text(&mut self) -> Option<&'a str> {
        self.expect(b'"')?;
        let text = self.token(|byte| byte >= b' ' && byte != b'"' && byte != b'\\')?;
        (self.next()? == b'"').then(|| self.at += 1)?;
        Some(text)
    }

    fn array(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.expect(b'[')?;
        out.push(b'[');
        if !self.takes(b']') {
            loop {
                self.value(out, depth + 1)?;
                if !self.takes(b',') {
                    break;
                }
                out.push(b',');
            }
            self.expect(b']')?;
        }
        out.push(b']');
        Some(())
    }

    /// Each member is written with a comma before it; that of the first becomes the brace.
    fn object(&mut self, out: &mut Vec<u8>, depth: usize) -> Option<()> {
        self.expect(b'{')?;
        if self.takes(b'}') {
            out.extend_from_slice(b"{}");
            return Some(());
        }
        let begin = out.len();
        let mut members = Vec::new();
        loop {
            let start = out.len();
            self.spaces();
            // By UTF-16 code units, as RFC 8785 sorts, is by bytes only for ASCII.
            let name = self.text().filter(|name| name.is_ascii())?;
            out.push(b',');
            quoted(out, name);
            self.expect(b':')?;
            out.push(b':');
            self.value(out, depth + 1)?;
            members.push((name, start, out.len()));
            if !self.takes(b',') {
                break;
            }
        }
        self.expect(b'}')?;
        if !members.is_sorted_by(|one, next| one.0 < next.0) {
            sort(out, begin, &mut members)?;
        }
        *out.get_mut(begin)? = b'{';
        out.push(b'}');
        Some(())
    }
}

/// `None` if two members have the same name.
fn sort(out: &mut Vec<u8>, begin: usize, members: &mut [(&str, usize, usize)]) -> Option<()> {
    members.sort_unstable();
    if !members.is_sorted_by(|one, next| one.0 < next.0) {
        return None;
    }
    let written = out.split_off(begin);
    for (_, start, end) in members {
        out.extend_from_slice(written.get(*start - begin..*end - begin)?);
    }
    Some(())
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Option<String> {
        let mut out = Vec::new();
        put(&mut out, json)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn an_ordinary_event_is_written_in_the_order_of_its_names() {
        let json = r#"{"MessageSent": {"at": "2026-12-01T04:30:00Z", "attempt": 12, "transition": {"to": "sent", "from": null, "run_id": "0193"}, "b": [], "a": [1, {}, true]}}"#;
        let canonical = r#"{"MessageSent":{"a":[1,{},true],"at":"2026-12-01T04:30:00Z","attempt":12,"b":[],"transition":{"from":null,"run_id":"0193","to":"sent"}}}"#;
        assert_eq!(of(json).as_deref(), Some(canonical));
        assert_eq!(of(r#"{"name": "सोना é"}"#).as_deref(), Some(r#"{"name":"सोना é"}"#));
    }

    #[test]
    fn what_is_not_ordinary_is_left_to_others() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for json in [
            r#"{"a": "\u0000"}"#,
            r#"{"é": 1}"#,
            r#"{"a": 1, "a": 2}"#,
            r#"{"a": 1.5}"#,
            r#"{"a": -0}"#,
            "9007199254740993",
            "nul",
            r#"{"a": 1"#,
            r#"{"a": 1} x"#,
            r#""a"#,
            "",
            deep.as_str(),
        ] {
            assert_eq!(of(json), None, "{json}");
        }
    }
}
