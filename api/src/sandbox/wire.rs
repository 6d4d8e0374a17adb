//! The Graph API's side of the wire: the call that sends a template, its answer, and the error envelope.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::components::{self, Component};
use super::graph_error::GraphError;

const HEXADECIMAL: &[u8; 16] = b"0123456789ABCDEF";
/// Meta's limit for `biz_opaque_callback_data`, in characters.
const CALLBACK_CHARS_MAX: usize = 512;
const USER_ID_CHARS_MAX: usize = 128;
/// E.164 allows 15 digits; shorter than 7 is no subscriber's number anywhere.
const RECIPIENT_DIGITS: std::ops::RangeInclusive<usize> = 7..=15;

/// The body of a send, as far as the sandbox reads it.
#[derive(Debug, Deserialize)]
pub(super) struct SendBody<'a> {
    #[serde(borrow)]
    messaging_product: Option<Cow<'a, str>>,
    #[serde(borrow)]
    to: Option<Cow<'a, str>>,
    #[serde(borrow)]
    recipient: Option<Cow<'a, str>>,
    #[serde(borrow)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    template: Option<Template<'a>>,
    #[serde(borrow)]
    biz_opaque_callback_data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    product_policy: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
struct Template<'a> {
    #[serde(borrow)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow)]
    language: Option<Language<'a>>,
    #[serde(borrow)]
    components: Option<Vec<Component<'a>>>,
}

#[derive(Debug, Deserialize)]
struct Language<'a> {
    #[serde(borrow)]
    code: Option<Cow<'a, str>>,
}

/// A send that WhatsApp would accept, whatever its template.
#[derive(Debug)]
pub(super) struct Send<'a> {
    /// The recipient as the caller wrote it.
    pub(super) to: Cow<'a, str>,
    /// The recipient as WhatsApp calls it: digits, or a business-scoped user id.
    pub(super) wa_id: String,
    pub(super) template: Cow<'a, str>,
    pub(super) language: Cow<'a, str>,
    pub(super) components: Vec<Component<'a>>,
    pub(super) callback: Option<Cow<'a, str>>,
    /// Whether a marketing message may go the way of all others when it cannot go its own.
    pub(super) fallback: bool,
}

impl<'a> Send<'a> {
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, GraphError> {
        let body: SendBody<'a> = serde_json::from_slice(body)
            .map_err(|_| GraphError::invalid("The request body is not a JSON object of the documented shape."))?;
        if body.messaging_product.as_deref() != Some("whatsapp") {
            return Err(GraphError::invalid("The parameter messaging_product must be whatsapp."));
        }
        let (to, wa_id) = recipient(body.to, body.recipient)?;
        if body.r#type.as_deref() != Some("template") {
            return Err(GraphError::message_type());
        }
        let template = body.template.ok_or_else(|| GraphError::missing("The parameter template is required."))?;
        let name =
            filled(template.name).ok_or_else(|| GraphError::missing("The parameter template.name is required."))?;
        let language = filled(template.language.and_then(|language| language.code))
            .ok_or_else(|| GraphError::missing("The parameter template.language.code is required."))?;
        let components = template.components.unwrap_or_default();
        components::check(&components)?;
        let fallback = match body.product_policy.as_deref() {
            None | Some("CLOUD_API_FALLBACK") => true,
            Some("STRICT") => false,
            Some(_) => return Err(GraphError::value("product_policy must be CLOUD_API_FALLBACK or STRICT.")),
        };
        let callback = body.biz_opaque_callback_data;
        if callback.as_ref().is_some_and(|callback| callback.chars().count() > CALLBACK_CHARS_MAX) {
            return Err(GraphError::value("The parameter biz_opaque_callback_data is longer than 512 characters."));
        }
        Ok(Self { to, wa_id, template: name, language, components, callback, fallback })
    }
}

/// The recipient as the caller wrote it and as WhatsApp calls it. A number goes before a user id.
fn recipient<'a>(
    to: Option<Cow<'a, str>>,
    user_id: Option<Cow<'a, str>>,
) -> Result<(Cow<'a, str>, String), GraphError> {
    let Some(to) = filled(to) else {
        let user_id = filled(user_id).ok_or_else(|| GraphError::missing("The parameter to is required."))?;
        if !is_user_id(&user_id) {
            return Err(GraphError::value("The parameter recipient is not a business-scoped user id."));
        }
        let name = user_id.clone().into_owned();
        return Ok((user_id, name));
    };
    let wa_id = digits_of(&to);
    let written_as_number = to.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '(' | ')' | ' '));
    if !written_as_number || !RECIPIENT_DIGITS.contains(&wa_id.len()) {
        return Err(GraphError::value("The parameter to is not a phone number."));
    }
    Ok((to, wa_id))
}

/// A country of two letters, a dot, and up to 128 letters and digits.
pub(super) fn is_user_id(text: &str) -> bool {
    text.split_once('.').is_some_and(|(country, id)| {
        country.len() == 2
            && country.bytes().all(|byte| byte.is_ascii_uppercase())
            && (1..=USER_ID_CHARS_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    })
}

/// A number by its digits, however it is written; a business-scoped user id as it is.
pub(super) fn recipient_key(recipient: &str) -> String {
    if is_user_id(recipient) { recipient.to_owned() } else { digits_of(recipient) }
}

/// Another number of the same length at most that WhatsApp could know the recipient by: as in Brazil and Mexico, where
/// the digit after the area or the country comes and goes.
pub(super) fn other_wa_id(wa_id: &str) -> Option<String> {
    let (head, tail) = wa_id.split_at_checked(4)?;
    Some(format!("{head}{}", tail.get(1..)?))
}

fn filled(text: Option<Cow<'_, str>>) -> Option<Cow<'_, str>> {
    text.filter(|text| !text.is_empty())
}

pub(super) fn digits_of(number: &str) -> String {
    number.chars().filter(char::is_ascii_digit).collect()
}

/// The answer to an accepted send.
#[derive(Debug, Serialize)]
pub(super) struct Accepted<'a> {
    messaging_product: &'static str,
    contacts: [AcceptedContact<'a>; 1],
    messages: [AcceptedMessage<'a>; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    success: Option<bool>,
}

#[derive(Debug, Serialize)]
struct AcceptedContact<'a> {
    input: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct AcceptedMessage<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_status: Option<&'static str>,
}

impl<'a> Accepted<'a> {
    /// As the endpoint for marketing messages answers.
    pub(super) fn answering_marketing(self, marketing: bool) -> Self {
        Self { success: marketing.then_some(true), ..self }
    }

    /// `wa_id` is what WhatsApp calls the recipient.
    pub(super) fn new(
        send: &'a Send<'_>,
        wa_id: &'a str,
        wamid: Option<&'a str>,
        message_status: Option<&'static str>,
    ) -> Self {
        let (wa_id, user_id) = if is_user_id(wa_id) { (None, Some(wa_id)) } else { (Some(wa_id), None) };
        Self {
            messaging_product: "whatsapp",
            contacts: [AcceptedContact { input: &send.to, wa_id, user_id }],
            messages: [AcceptedMessage { id: wamid, message_status }],
            success: None,
        }
    }
}

/// Makes up ids. Nothing that the same ledger made up before comes again: `ordinal` differs from call to call and
/// `at_us`, the time, from one run of the sandbox to the next.
pub(super) fn random_bytes(seed: u64, ordinal: u64, at_us: i64) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(seed.to_be_bytes());
    hash.update(ordinal.to_be_bytes());
    hash.update(at_us.to_be_bytes());
    hash.finalize().into()
}

/// An id laid out as the real ones are: the recipient's digits and 18 hexadecimal ones, with their lengths, in base64.
pub(super) fn wamid(wa_id: &str, random: &[u8; 32]) -> String {
    let mut bytes = Vec::with_capacity(48);
    bytes.extend_from_slice(&[0x1c, 0x18, u8::try_from(wa_id.len()).unwrap_or(u8::MAX)]);
    bytes.extend_from_slice(wa_id.as_bytes());
    bytes.extend_from_slice(&[0x15, 0x02, 0x00, 0x11, 0x18, 18]);
    for byte in &random[..9] {
        bytes.extend([byte >> 4, byte & 15].map(|digit| HEXADECIMAL[usize::from(digit)]));
    }
    bytes.push(0);
    format!("wamid.{}", STANDARD.encode(bytes))
}

pub(super) fn fbtrace_id(random: &[u8; 32]) -> String {
    format!("A{}", URL_SAFE_NO_PAD.encode(&random[..16]))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn valid() -> Value {
        json!({
            "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+91 (98123) 45678",
            "type": "template", "biz_opaque_callback_data": "m1",
            "template": {
                "name": "greeting", "language": {"code": "en"},
                "components": [{"type": "body", "parameters": [{"type": "text", "text": "Asha    Rao"}]}],
            },
        })
    }

    fn refusal(body: &Value) -> u32 {
        Send::parse(body.to_string().as_bytes()).expect_err("it is refused").code
    }

    #[test]
    fn a_valid_send_is_read() {
        let body = valid().to_string();
        let send = Send::parse(body.as_bytes()).unwrap();
        assert_eq!((&*send.to, &*send.wa_id), ("+91 (98123) 45678", "919812345678"));
        assert_eq!((&*send.template, send.callback.as_deref()), ("greeting", Some("m1")));
    }

    #[test]
    fn each_fault_has_its_code() {
        let changed = |pointer: &str, value: Value| {
            let mut body = valid();
            *body.pointer_mut(pointer).expect("the field is there") = value;
            refusal(&body)
        };
        assert_eq!(Send::parse(b"{").expect_err("it is refused").code, 100);
        assert_eq!(changed("/messaging_product", Value::Null), 100);
        assert_eq!(changed("/messaging_product", json!("sms")), 100);
        assert_eq!(changed("/to", Value::Null), 131_008);
        assert_eq!(changed("/to", json!("")), 131_008);
        assert_eq!(changed("/to", json!("12345")), 131_009);
        assert_eq!(changed("/to", json!("asha 9812345678")), 131_009);
        assert_eq!(changed("/type", json!("text")), 131_051);
        assert_eq!(changed("/template", Value::Null), 131_008);
        assert_eq!(changed("/template/name", json!("")), 131_008);
        assert_eq!(changed("/template/language", json!({})), 131_008);
        assert_eq!(changed("/biz_opaque_callback_data", json!("x".repeat(513))), 131_009);
        assert_eq!(changed("/template/components/0/parameters/0/text", Value::Null), 131_008);
        assert_eq!(changed("/template/components/0/parameters/0/text", json!("two\nlines")), 132_018);
        let mut body = valid();
        body["product_policy"] = json!("LOOSE");
        assert_eq!(refusal(&body), 131_009);
    }

    #[test]
    fn a_wamid_embeds_the_recipient_and_differs_from_call_to_call() {
        let made = |ordinal| wamid("919812345678", &random_bytes(7, ordinal, 0));
        let decoded = STANDARD.decode(made(1).strip_prefix("wamid.").unwrap()).unwrap();
        assert_eq!(&decoded[3..15], b"919812345678");
        assert_eq!(made(1), made(1));
        assert_ne!(made(1), made(2));
    }
}
