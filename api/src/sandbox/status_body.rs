//! The body of a status webhook, as Meta writes it: pure ASCII with everything else and the slash escaped, signed
//! over exactly those bytes. A receiver that parses and re-serialises before it checks the signature fails here as it
//! would fail there.

use std::io::{self, Write};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::ser::Formatter;
use sha2::Sha256;

use super::behavior::Status;
use super::codes;
use super::draws::Draws;
use super::schedule::OwedMessage;
use super::settings::{Contacts, RecipientId, StatusSettings};
use super::wire::is_user_id;

const HEXADECIMAL: &[u8; 16] = b"0123456789abcdef";
pub(super) const DISPLAY_PHONE_NUMBER: &str = "15555550100";

#[derive(Serialize)]
struct Payload<'a> {
    object: &'static str,
    entry: [Entry<'a>; 1],
}

#[derive(Serialize)]
struct Entry<'a> {
    id: &'a str,
    changes: Vec<Change<'a>>,
}

#[derive(Serialize)]
struct Change<'a> {
    value: Value<'a>,
    field: &'static str,
}

#[derive(Serialize)]
struct Value<'a> {
    messaging_product: &'static str,
    metadata: Metadata<'a>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    contacts: Vec<Contact<'a>>,
    statuses: Vec<StatusItem<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unheard_of: Option<bool>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    display_phone_number: &'static str,
    phone_number_id: &'a str,
}

#[derive(Serialize)]
struct Contact<'a> {
    profile: Profile,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

#[derive(Serialize)]
struct Profile {
    name: &'static str,
}

#[derive(Serialize)]
struct StatusItem<'a> {
    id: &'a str,
    status: Status,
    timestamp: Timestamp<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient_user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    conversation: Option<Conversation<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[StatusError; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unheard_of: Option<[u8; 2]>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(untagged)]
enum Timestamp<'a> {
    Text(&'a str),
    Number(i64),
}

#[derive(Serialize)]
struct Conversation<'a> {
    id: &'static str,
    expiration_timestamp: i64,
    origin: Origin<'a>,
}

#[derive(Serialize)]
struct Origin<'a> {
    r#type: &'a str,
}

#[derive(Serialize)]
struct Pricing<'a> {
    billable: bool,
    pricing_model: &'static str,
    category: &'a str,
    r#type: &'static str,
}

#[derive(Serialize)]
struct StatusError {
    code: u32,
    title: &'static str,
    message: &'static str,
    error_data: StatusErrorData,
    href: &'static str,
}

#[derive(Serialize)]
struct StatusErrorData {
    details: &'static str,
}

impl StatusError {
    fn of(code: u32) -> Self {
        let title = codes::title(code);
        Self { code, title, message: title, error_data: StatusErrorData { details: title }, href: HREF }
    }
}

const HREF: &str = "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/";
const DAY_S: i64 = 86_400;
/// Of a message that another program sent from the same number.
const FOREIGN_WAMID: &str = "wamid.HBgMOTE5ODEyMzQ1NjAwFQIAERgSRk9SRUlHTjAwMDAwMDAwMDAwAA==";

/// How statuses are written.
pub(super) struct Style<'a> {
    pub(super) waba_id: &'a str,
    /// Whole seconds since 1970.
    pub(super) timestamp: i64,
    pub(super) settings: &'a StatusSettings,
    /// The draws of the body.
    pub(super) draws: Draws,
}

/// Purposes of draws.
const FOREIGN: u64 = 1;
const ORDER: u64 = 2;

/// The body that announces the next status of each message.
pub(super) fn compose(style: &Style<'_>, messages: &[OwedMessage]) -> Vec<u8> {
    let (settings, text) = (style.settings, style.timestamp.to_string());
    let timestamp =
        if settings.timestamps_as_numbers { Timestamp::Number(style.timestamp) } else { Timestamp::Text(&text) };
    let mut changes: Vec<Change<'_>> = Vec::new();
    for message in messages {
        let fields = message.fields();
        let item = status_item(style, timestamp, message);
        // One change per number: a body seldom has more than a few.
        let place = changes.iter().position(|c| c.value.metadata.phone_number_id == fields.phone_number_id);
        let place = place.unwrap_or_else(|| {
            changes.push(change_of(fields.phone_number_id, settings));
            changes.len() - 1
        });
        let value = &mut changes[place].value;
        value.contacts.extend(contact(settings.contacts, &item));
        value.statuses.push(item);
    }
    if settings.foreign_share > 0.0
        && style.draws.uniform(FOREIGN) < settings.foreign_share
        && let Some(change) = changes.first_mut()
    {
        change.value.statuses.push(foreign(timestamp));
    }
    if settings.shuffle {
        changes.iter_mut().for_each(|change| style.draws.shuffle(ORDER, &mut change.value.statuses));
    }
    let payload = Payload { object: "whatsapp_business_account", entry: [Entry { id: style.waba_id, changes }] };
    ascii(&payload, messages.len() * 400 + 256)
}

fn status_item<'a>(style: &Style<'a>, timestamp: Timestamp<'a>, message: &'a OwedMessage) -> StatusItem<'a> {
    let (settings, fields, step, course) = (style.settings, message.fields(), message.step(), message.course());
    let recipient = course.and_then(|course| course.wa_id.as_deref()).unwrap_or(fields.recipient_id);
    let user_id = is_user_id(recipient).then_some(recipient);
    let recipient_id = match (settings.recipient_id, user_id) {
        (RecipientId::Empty, _) => Some(""),
        (RecipientId::Present, None) => Some(recipient),
        (RecipientId::Absent, _) | (RecipientId::Present, Some(_)) => None,
    };
    let category = course.and_then(|course| course.category.as_deref()).unwrap_or("utility");
    let pricing = Pricing { billable: true, pricing_model: "PMP", category, r#type: "regular" };
    let expires = style.timestamp + DAY_S;
    StatusItem {
        id: course.and_then(|course| course.shown_wamid.as_deref()).unwrap_or(fields.wamid),
        status: step.status,
        timestamp,
        recipient_id,
        // Messages that failed do not tell the id of a user who was written to by number.
        recipient_user_id: user_id,
        biz_opaque_callback_data: fields.callback.filter(|_| course.is_none_or(|course| !course.no_echo)),
        conversation: settings.conversation.then_some(Conversation {
            id: "5a6b7c8d9e0f",
            expiration_timestamp: expires,
            origin: Origin { r#type: category },
        }),
        pricing: matches!(step.status, Status::Sent | Status::Delivered).then_some(pricing),
        errors: step.code.map(|code| [StatusError::of(code)]),
        unheard_of: settings.unknown_fields.then_some([1, 2]),
    }
}

fn contact<'a>(contacts: Contacts, item: &StatusItem<'a>) -> Option<Contact<'a>> {
    let shown = match contacts {
        Contacts::Never => false,
        Contacts::NotOnFailed => item.status != Status::Failed,
        Contacts::Always => true,
    };
    let wa_id = item.recipient_id.filter(|id| !id.is_empty());
    shown.then_some(Contact { profile: Profile { name: "Sandbox User" }, wa_id, user_id: item.recipient_user_id })
}

fn foreign(timestamp: Timestamp<'_>) -> StatusItem<'_> {
    StatusItem {
        id: FOREIGN_WAMID,
        status: Status::Delivered,
        timestamp,
        recipient_id: Some("919812345600"),
        recipient_user_id: None,
        biz_opaque_callback_data: None,
        conversation: None,
        pricing: None,
        errors: None,
        unheard_of: None,
    }
}

/// JSON without a byte above 127, in about `length` bytes.
pub(super) fn ascii(payload: &impl Serialize, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length);
    payload
        .serialize(&mut serde_json::Serializer::with_formatter(&mut body, Ascii))
        .expect("strings and numbers always serialise into memory");
    body
}

fn change_of<'a>(phone_number_id: &'a str, settings: &StatusSettings) -> Change<'a> {
    let value = Value {
        messaging_product: "whatsapp",
        metadata: Metadata { display_phone_number: DISPLAY_PHONE_NUMBER, phone_number_id },
        contacts: Vec::new(),
        statuses: Vec::new(),
        unheard_of: settings.unknown_fields.then_some(true),
    };
    Change { value, field: "messages" }
}

/// The value of `X-Hub-Signature-256`.
pub(super) fn signature(app_secret: &[u8], body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret).expect("HMAC takes a key of any length");
    mac.update(body);
    let mut text = String::with_capacity(7 + 64);
    text.push_str("sha256=");
    for byte in mac.finalize().into_bytes() {
        text.extend([byte >> 4, byte & 15].map(|digit| char::from(HEXADECIMAL[usize::from(digit)])));
    }
    text
}

/// Writes JSON without a byte above 127.
struct Ascii;

impl Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        // The usual case, byte by byte.
        if fragment.bytes().all(|byte| byte.is_ascii() && byte != b'/') {
            return writer.write_all(fragment.as_bytes());
        }
        let escaped = |c: char| !c.is_ascii() || c == '/';
        let mut rest = fragment;
        while let Some(at) = rest.find(escaped) {
            let (plain, from) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut chars = from.chars();
            match chars.next() {
                Some('/') => writer.write_all(b"\\/")?,
                Some(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        write!(writer, "\\u{unit:04x}")?;
                    }
                }
                None => break,
            }
            rest = chars.as_str();
        }
        writer.write_all(rest.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value as Json;

    use super::super::behavior::Fate;
    use super::super::schedule::Way;
    use super::*;

    fn owed(phone_number_id: &str, callback: Option<&str>, fate: Fate) -> OwedMessage {
        OwedMessage::new("wamid.a/b+c", phone_number_id, "919812345678", callback, Way::Usual(fate), 0)
            .expect("it owes a status")
    }

    fn plain(waba_id: &str, timestamp: i64, messages: &[OwedMessage]) -> Vec<u8> {
        let settings = StatusSettings::default();
        compose(&Style { waba_id, timestamp, settings: &settings, draws: Draws::new(0, "", 0) }, messages)
    }

    #[test]
    fn everything_beyond_ascii_and_the_slash_is_escaped_and_reads_back() {
        let body = plain("1", 1_739_321_024, &[owed("1055", Some("ä \u{1f490} नमस्ते \"\n"), Fate::Read)]);
        assert!(body.is_ascii());
        let text = String::from_utf8(body).unwrap();
        assert!(text.contains(r"\u00e4 \ud83d\udc90 \u0928") && text.contains(r"wamid.a\/b+c"), "{text}");
        let json: Json = serde_json::from_str(&text).unwrap();
        let status = &json["entry"][0]["changes"][0]["value"]["statuses"][0];
        assert_eq!(status["biz_opaque_callback_data"], "ä \u{1f490} नमस्ते \"\n");
        assert_eq!(status["id"], "wamid.a/b+c");
        assert_eq!(status["timestamp"], "1739321024");
    }

    #[test]
    fn statuses_are_grouped_by_number() {
        let messages =
            [owed("1", None, Fate::Read), owed("2", None, Fate::Undeliverable), owed("1", None, Fate::Delivered)];
        let json: Json = serde_json::from_slice(&plain("77", 0, &messages)).unwrap();
        assert_eq!(json["entry"][0]["id"], "77");
        let changes = json["entry"][0]["changes"].as_array().unwrap();
        let shape: Vec<_> = changes
            .iter()
            .map(|change| &change["value"])
            .map(|value| (value["metadata"]["phone_number_id"].as_str(), value["statuses"].as_array().map(Vec::len)))
            .collect();
        assert_eq!(shape, [(Some("1"), Some(2)), (Some("2"), Some(1))]);
        let failed = &changes[1]["value"]["statuses"][0];
        assert_eq!((failed["status"].as_str(), failed["errors"][0]["code"].as_u64()), (Some("failed"), Some(131_026)));
        assert!(failed.get("pricing").is_none() && failed.get("biz_opaque_callback_data").is_none());
        assert_eq!(changes[0]["value"]["statuses"][0]["pricing"]["billable"], true);
    }

    #[test]
    fn the_signature_is_the_published_one_for_a_known_key_and_text() {
        // Test case 2 of RFC 4231.
        assert_eq!(
            signature(b"Jefe", b"what do ya want for nothing?"),
            "sha256=5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }
}
