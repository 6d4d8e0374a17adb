//! The body of a status webhook, as Meta writes it: pure ASCII with everything else and the slash escaped, signed
//! over exactly those bytes. A receiver that parses and re-serialises before it checks the signature fails here as it
//! would fail there.

use std::io::{self, Write};

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Serialize;
use serde_json::ser::Formatter;
use sha2::Sha256;

use super::behavior::Status;
use super::schedule::OwedMessage;

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
    statuses: Vec<StatusItem<'a>>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    display_phone_number: &'static str,
    phone_number_id: &'a str,
}

#[derive(Serialize)]
struct StatusItem<'a> {
    id: &'a str,
    status: Status,
    timestamp: &'a str,
    recipient_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    biz_opaque_callback_data: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pricing: Option<Pricing>,
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<[StatusError; 1]>,
}

#[derive(Serialize)]
struct Pricing {
    billable: bool,
    pricing_model: &'static str,
    category: &'static str,
    r#type: &'static str,
}

const PRICING: Pricing = Pricing { billable: true, pricing_model: "PMP", category: "utility", r#type: "regular" };

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

const UNDELIVERABLE: StatusError = StatusError {
    code: 131_026,
    title: "Message undeliverable",
    message: "Message undeliverable",
    error_data: StatusErrorData { details: "Message Undeliverable." },
    href: "https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes/",
};

/// The body that announces the next status of each message, happening at `timestamp` (whole seconds since 1970).
pub(super) fn compose(waba_id: &str, timestamp: i64, messages: &[OwedMessage]) -> Vec<u8> {
    let timestamp = timestamp.to_string();
    let mut changes: Vec<Change<'_>> = Vec::new();
    for message in messages {
        let fields = message.fields();
        let item = StatusItem {
            id: fields.wamid,
            status: message.status(),
            timestamp: &timestamp,
            recipient_id: fields.recipient_id,
            biz_opaque_callback_data: fields.callback,
            pricing: matches!(message.status(), Status::Sent | Status::Delivered).then_some(PRICING),
            errors: (message.status() == Status::Failed).then_some([UNDELIVERABLE]),
        };
        // One change per number: a body seldom has more than a few.
        match changes.iter_mut().find(|change| change.value.metadata.phone_number_id == fields.phone_number_id) {
            Some(change) => change.value.statuses.push(item),
            None => changes.push(change_of(fields.phone_number_id, item)),
        }
    }
    let payload = Payload { object: "whatsapp_business_account", entry: [Entry { id: waba_id, changes }] };
    ascii(&payload, messages.len() * 400 + 256)
}

/// JSON without a byte above 127, in about `length` bytes.
pub(super) fn ascii(payload: &impl Serialize, length: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(length);
    payload
        .serialize(&mut serde_json::Serializer::with_formatter(&mut body, Ascii))
        .expect("strings and numbers always serialise into memory");
    body
}

fn change_of<'a>(phone_number_id: &'a str, item: StatusItem<'a>) -> Change<'a> {
    let metadata = Metadata { display_phone_number: DISPLAY_PHONE_NUMBER, phone_number_id };
    Change { value: Value { messaging_product: "whatsapp", metadata, statuses: vec![item] }, field: "messages" }
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
    use super::*;

    fn owed(phone_number_id: &str, callback: Option<&str>, fate: Fate) -> OwedMessage {
        OwedMessage::new("wamid.a/b+c", phone_number_id, "919812345678", callback, fate, 0).expect("it owes a status")
    }

    #[test]
    fn everything_beyond_ascii_and_the_slash_is_escaped_and_reads_back() {
        let body = compose("1", 1_739_321_024, &[owed("1055", Some("ä \u{1f490} नमस्ते \"\n"), Fate::Read)]);
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
        let json: Json = serde_json::from_slice(&compose("77", 0, &messages)).unwrap();
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
