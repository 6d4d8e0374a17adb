//! What a variable takes, and how a value is brought into the form in which WhatsApp accepts it.

use std::fmt;

use chrono::DateTime;
use serde_json::Value;
use thiserror::Error;

/// WhatsApp refuses a value with more spaces in a row.
const SPACES_IN_A_ROW_MAX: usize = 4;
const COUPON_CHARS_MAX: usize = 15;
const LINK_CHARS_MAX: usize = 2000;
const PAYLOAD_CHARS_MAX: usize = 256;
const FILENAME_CHARS_MAX: usize = 240;
const MEDIA_ID_DIGITS_MAX: usize = 32;
const SECTIONS_MAX: usize = 10;
const PRODUCTS_MAX: usize = 30;
const SECTION_TITLE_CHARS_MAX: usize = 24;
/// Smaller numbers are seconds or years, but never the milliseconds of an offer's end.
const MILLISECONDS_MIN: i64 = 1_000_000_000_000;
const MILLISECONDS_MAX: i64 = 9_999_999_999_999;

/// What a variable takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueKind {
    Text,
    /// What comes after the fixed part of a URL.
    UrlSuffix,
    /// An https link, or the id of a file that was uploaded to WhatsApp.
    Media,
    Filename,
    /// Comes back to us, or names something at Meta.
    Payload,
    CouponCode,
    Latitude,
    Longitude,
    /// A point in time, to come.
    Instant,
    /// A JSON object.
    Object,
    /// The products of a multi-product message, as Meta's JSON.
    Sections,
}

/// A value that WhatsApp would refuse; says what the variable takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("takes {0}")]
pub struct BadValue(pub ValueKind);

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text => f.write_str("a text that is not empty"),
            Self::UrlSuffix => f.write_str("the end of a URL, without spaces"),
            Self::Media => {
                f.write_str("a link that begins with https:// or the id of a file at WhatsApp, which is a number")
            }
            Self::Filename => write!(f, "a file name of 1 to {FILENAME_CHARS_MAX} characters without slashes"),
            Self::Payload => write!(f, "a text of 1 to {PAYLOAD_CHARS_MAX} characters"),
            Self::CouponCode => write!(f, "a code of 1 to {COUPON_CHARS_MAX} letters a to z and digits"),
            Self::Latitude => f.write_str("a latitude from -90 to 90, such as 19.0760"),
            Self::Longitude => f.write_str("a longitude from -180 to 180, such as 72.8777"),
            Self::Instant => f.write_str(
                "a time to come with its offset, such as 2026-12-31T23:59:00+05:30, or in milliseconds since 1970",
            ),
            Self::Object => f.write_str("a JSON object"),
            Self::Sections => write!(
                f,
                "a JSON list of 1 to {SECTIONS_MAX} sections such as [{{\"title\": \"Rings\", \"product_items\": \
                 [{{\"product_retailer_id\": \"ring-1\"}}]}}], with up to {PRODUCTS_MAX} products"
            ),
        }
    }
}

impl ValueKind {
    /// The value in the form in which it is sent. Whether a time is to come is for the caller to say.
    pub fn read(self, text: &str) -> Result<String, BadValue> {
        let cleaned = clean(text);
        let taken = !cleaned.is_empty()
            && match self {
                Self::Text => true,
                Self::UrlSuffix => !cleaned.contains(char::is_whitespace) && cleaned.len() <= LINK_CHARS_MAX,
                Self::Media => is_media(&cleaned),
                Self::Filename => cleaned.chars().count() <= FILENAME_CHARS_MAX && !cleaned.contains(['/', '\\']),
                Self::Payload => cleaned.chars().count() <= PAYLOAD_CHARS_MAX,
                Self::CouponCode => {
                    cleaned.len() <= COUPON_CHARS_MAX && cleaned.bytes().all(|byte| byte.is_ascii_alphanumeric())
                }
                Self::Latitude => is_coordinate(&cleaned, 90.0),
                Self::Longitude => is_coordinate(&cleaned, 180.0),
                Self::Instant => return milliseconds(&cleaned).map(|ms| ms.to_string()).ok_or(BadValue(self)),
                // Spaces inside the strings of JSON are the tenant's.
                Self::Object => {
                    return json(text).filter(Value::is_object).map(|it| it.to_string()).ok_or(BadValue(self));
                }
                Self::Sections => {
                    return json(text).filter(are_sections).map(|it| it.to_string()).ok_or(BadValue(self));
                }
            };
        if taken { Ok(cleaned) } else { Err(BadValue(self)) }
    }
}

/// A value that WhatsApp accepts in a variable: no line break, no tab, no long run of spaces, no control character.
/// The result may be empty, which counts as no value.
pub fn clean(value: &str) -> String {
    let readable: String = value.chars().filter(|c| c.is_whitespace() || !c.is_control()).collect();
    let mut cleaned = String::with_capacity(readable.len());
    let mut rest = readable.trim_matches(|c: char| c.is_whitespace() || is_blank(c));
    while let Some(start) = rest.find(char::is_whitespace) {
        let (text, tail) = rest.split_at(start);
        let end = tail.find(|c: char| !c.is_whitespace()).unwrap_or(tail.len());
        let (run, tail) = tail.split_at(end);
        let breaks = run.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'));
        cleaned.push_str(text);
        cleaned.push_str(if breaks || run.chars().count() > SPACES_IN_A_ROW_MAX { " " } else { run });
        rest = tail;
    }
    cleaned.push_str(rest);
    cleaned
}

/// Signs that show nothing and join nothing; a value made of them alone would arrive empty. The joiners stay, since
/// Indian scripts and emoji need them.
fn is_blank(c: char) -> bool {
    matches!(c, '\u{200b}' | '\u{2060}' | '\u{feff}')
}

/// Is it an id and not a link?
pub(super) fn is_media_id(text: &str) -> bool {
    (1..=MEDIA_ID_DIGITS_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_media(text: &str) -> bool {
    if is_media_id(text) {
        return true;
    }
    let Some(rest) = text.strip_prefix("https://") else { return false };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.contains('.') && !host.contains('@') && text.len() <= LINK_CHARS_MAX && !text.contains(char::is_whitespace)
}

fn is_coordinate(text: &str, max: f64) -> bool {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'-'));
    plain && text.parse::<f64>().is_ok_and(|number| number.abs() <= max)
}

fn milliseconds(text: &str) -> Option<i64> {
    let ms = text
        .parse::<i64>()
        .ok()
        .or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|instant| instant.timestamp_millis()))?;
    (MILLISECONDS_MIN..=MILLISECONDS_MAX).contains(&ms).then_some(ms)
}

fn json(text: &str) -> Option<Value> {
    serde_json::from_str(text).ok()
}

fn are_sections(value: &Value) -> bool {
    let Some(sections) = value.as_array() else { return false };
    let products: usize = sections.iter().map(|section| items(section).map_or(0, Vec::len)).sum();
    (1..=SECTIONS_MAX).contains(&sections.len()) && products <= PRODUCTS_MAX && sections.iter().all(is_section)
}

fn is_section(section: &Value) -> bool {
    let is_text = |value: &Value, field: &str, chars_max: usize| {
        let text = value.get(field).and_then(Value::as_str);
        text.is_some_and(|text| (1..=chars_max).contains(&text.chars().count()))
    };
    is_text(section, "title", SECTION_TITLE_CHARS_MAX)
        && items(section).is_some_and(|items| {
            !items.is_empty() && items.iter().all(|item| is_text(item, "product_retailer_id", PAYLOAD_CHARS_MAX))
        })
}

fn items(section: &Value) -> Option<&Vec<Value>> {
    section.get("product_items").and_then(Value::as_array)
}
