//! What comes from the other side, made up by a tool: `POST /_inbound`. A user writes to a number, taps a button, or
//! stops and resumes marketing; or any webhook at all. It is posted signed like statuses are, and messages count
//! against the number's rate. It is in no file: a sandbox that ends forgets what it has not posted.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio_util::bytes::Bytes;

use super::graph_error::GraphError;
use super::status_body::{DISPLAY_PHONE_NUMBER, ascii};
use super::wire::{digits_of, is_user_id};

/// The most messages of one request; as many as one webhook can carry.
const COUNT_MAX: usize = 1_000;
const TEXT_CHARS_MAX: usize = 4_096;

/// The body of `POST /_inbound`; its keys tell which of these it is.
#[derive(Debug)]
pub(super) enum InboundRequest {
    Messages(Messages),
    Preference(Preference),
    Raw(Raw),
}

/// Messages of one user.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Messages {
    /// The number that is written to.
    pub(super) phone_number_id: String,
    /// Who writes: a phone number, or nothing for a user who shows only the id.
    from: Option<String>,
    /// The business-scoped id of the user.
    user_id: Option<String>,
    #[serde(default = "default_name")]
    name: String,
    #[serde(default = "default_text")]
    text: String,
    #[serde(default = "one")]
    pub(super) count: usize,
    /// A tap on a quick-reply button instead of a text.
    button: Option<Button>,
    /// Any other message instead of a text: its `type` and the object of that name.
    message: Option<Map<String, Value>>,
    /// The id of the message that this one answers.
    context: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Button {
    payload: String,
    text: String,
}

/// A user stops marketing, or takes it again.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Preference {
    phone_number_id: String,
    from: Option<String>,
    user_id: Option<String>,
    #[serde(default = "default_name")]
    name: String,
    preference: Choice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Choice {
    Stop,
    Resume,
}

/// A webhook as it is: one field with its value, or whole entries.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Raw {
    field: Option<String>,
    value: Option<Value>,
    /// The account that is named; without it the sandbox's own.
    waba_id: Option<String>,
    entry: Option<Vec<Value>>,
}

fn default_text() -> String {
    "Hello".to_owned()
}

fn default_name() -> String {
    "Sandbox User".to_owned()
}

fn one() -> usize {
    1
}

/// The answer: the ids of the messages, in their order.
#[derive(Debug, Serialize)]
pub(super) struct InboundAnswer {
    pub(super) messages: Vec<String>,
}

impl InboundRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, GraphError> {
        let body: Map<String, Value> = serde_json::from_slice(body).map_err(unreadable)?;
        let has = |key: &str| body.contains_key(key);
        if has("field") || has("entry") {
            let raw: Raw = read(body)?;
            raw.check()?;
            return Ok(Self::Raw(raw));
        }
        if has("preference") {
            let preference: Preference = read(body)?;
            check_number(&preference.phone_number_id)?;
            check_user(preference.from.as_deref(), preference.user_id.as_deref())?;
            return Ok(Self::Preference(preference));
        }
        let messages: Messages = read(body)?;
        messages.check()?;
        Ok(Self::Messages(messages))
    }
}

fn read<T: DeserializeOwned>(body: Map<String, Value>) -> Result<T, GraphError> {
    serde_json::from_value(Value::Object(body)).map_err(unreadable)
}

#[expect(clippy::needless_pass_by_value, reason = "the signature is that of a map over errors")]
fn unreadable(error: serde_json::Error) -> GraphError {
    GraphError::invalid(format!("The body cannot be read: {error}"))
}

fn check_number(phone_number_id: &str) -> Result<(), GraphError> {
    if !phone_number_id.is_empty() && phone_number_id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(());
    }
    Err(GraphError::invalid("phone_number_id must be digits."))
}

fn check_user(from: Option<&str>, user_id: Option<&str>) -> Result<(), GraphError> {
    if from.is_none() && user_id.is_none() {
        return Err(GraphError::invalid("from or user_id must say who it is."));
    }
    if from.is_some_and(|from| digits_of(from).is_empty()) {
        return Err(GraphError::invalid("from must be a phone number."));
    }
    if user_id.is_some_and(|user_id| !is_user_id(user_id)) {
        return Err(GraphError::invalid("user_id must be a business-scoped user id, such as IN.1A2b3C."));
    }
    Ok(())
}

fn insert(object: &mut Map<String, Value>, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

/// A user as webhooks name one.
fn contact(name: &str, from: Option<&str>, user_id: Option<&str>) -> Value {
    let mut contact = Map::new();
    contact.insert("profile".to_owned(), json!({ "name": name }));
    insert(&mut contact, "wa_id", from.map(digits_of));
    insert(&mut contact, "user_id", user_id);
    Value::Object(contact)
}

fn value(phone_number_id: &str, contact: &Value, key: &str, items: &[Value]) -> Value {
    json!({
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": DISPLAY_PHONE_NUMBER, "phone_number_id": phone_number_id},
        "contacts": [contact],
        key: items,
    })
}

/// A body with one change. Those that are about messages have no time of their own.
pub(super) fn change(waba_id: &str, field: &str, value: &Value, time: Option<i64>) -> Bytes {
    let mut entry = Map::new();
    entry.insert("id".to_owned(), waba_id.into());
    insert(&mut entry, "time", time);
    entry.insert("changes".to_owned(), json!([{"value": value, "field": field}]));
    entries(&[Value::Object(entry)])
}

fn entries(entries: &[Value]) -> Bytes {
    Bytes::from(ascii(&json!({"object": "whatsapp_business_account", "entry": entries}), 1_024))
}

/// A recipient as a webhook names one: by number, or by the business-scoped id.
fn who(recipient: &str) -> (Option<String>, Option<String>) {
    let recipient = recipient.to_owned();
    if is_user_id(&recipient) { (None, Some(recipient)) } else { (Some(recipient), None) }
}

impl Messages {
    /// The answer of a recipient to the message with the id `context`, by a tap if there is a payload.
    pub(super) fn reply(number: &str, recipient: &str, text: &str, payload: Option<&str>, context: String) -> Self {
        let (from, user_id) = who(recipient);
        let button = payload.map(|payload| Button { payload: payload.to_owned(), text: text.to_owned() });
        Self {
            phone_number_id: number.to_owned(),
            from,
            user_id,
            name: default_name(),
            text: text.to_owned(),
            count: 1,
            // Who types an answer seldom quotes what is answered.
            context: button.is_some().then_some(context),
            button,
            message: None,
        }
    }

    fn check(&self) -> Result<(), GraphError> {
        check_number(&self.phone_number_id)?;
        check_user(self.from.as_deref(), self.user_id.as_deref())?;
        if !(1..=COUNT_MAX).contains(&self.count) {
            return Err(GraphError::invalid("count must be 1 to 1000."));
        }
        if self.text.chars().count() > TEXT_CHARS_MAX {
            return Err(GraphError::invalid("text is longer than 4096 characters."));
        }
        if self.message.as_ref().is_some_and(|message| !message.get("type").is_some_and(Value::is_string)) {
            return Err(GraphError::invalid("message must have a type."));
        }
        Ok(())
    }

    /// The sender as WhatsApp calls it.
    pub(super) fn wa_id(&self) -> String {
        self.from.as_deref().map(digits_of).or_else(|| self.user_id.clone()).unwrap_or_default()
    }

    /// Webhook bodies with these messages, at most `batch_max` in each; `timestamp` in whole seconds since 1970.
    pub(super) fn bodies(&self, waba_id: &str, timestamp: i64, ids: &[String], batch_max: usize) -> Vec<Bytes> {
        let contact = contact(&self.name, self.from.as_deref(), self.user_id.as_deref());
        let body = |ids: &[String]| {
            let messages: Vec<_> = ids.iter().map(|id| self.one(id, timestamp)).collect();
            change(waba_id, "messages", &value(&self.phone_number_id, &contact, "messages", &messages), None)
        };
        ids.chunks(batch_max.max(1)).map(body).collect()
    }

    fn one(&self, id: &str, timestamp: i64) -> Value {
        let mut message = Map::new();
        insert(&mut message, "from", self.from.as_deref().map(digits_of));
        insert(&mut message, "from_user_id", self.user_id.as_deref());
        message.insert("id".to_owned(), id.into());
        message.insert("timestamp".to_owned(), timestamp.to_string().into());
        let context = self.context.as_ref().map(|id| json!({"from": DISPLAY_PHONE_NUMBER, "id": id}));
        insert(&mut message, "context", context);
        match (&self.button, &self.message) {
            (_, Some(other)) => message.extend(other.clone()),
            (Some(button), None) => {
                message.insert("type".to_owned(), "button".into());
                message.insert("button".to_owned(), json!(button));
            }
            (None, None) => {
                message.insert("type".to_owned(), "text".into());
                message.insert("text".to_owned(), json!({"body": self.text}));
            }
        }
        Value::Object(message)
    }
}

impl Preference {
    pub(super) fn stop(number: &str, recipient: &str) -> Self {
        let (from, user_id) = who(recipient);
        let (phone_number_id, name) = (number.to_owned(), default_name());
        Self { phone_number_id, from, user_id, name, preference: Choice::Stop }
    }

    /// The user as WhatsApp calls one.
    pub(super) fn wa_id(&self) -> String {
        self.from.as_deref().map(digits_of).or_else(|| self.user_id.clone()).unwrap_or_default()
    }

    pub(super) fn stops(&self) -> bool {
        self.preference == Choice::Stop
    }

    pub(super) fn body(&self, waba_id: &str, timestamp: i64) -> Bytes {
        let (from, user_id) = (self.from.as_deref(), self.user_id.as_deref());
        let mut preference = Map::new();
        insert(&mut preference, "wa_id", from.map(digits_of));
        insert(&mut preference, "user_id", user_id);
        let detail = match self.preference {
            Choice::Stop => "User requested to stop marketing messages",
            Choice::Resume => "User requested to resume marketing messages",
        };
        preference.insert("detail".to_owned(), detail.into());
        preference.insert("category".to_owned(), "marketing_messages".into());
        preference.insert("value".to_owned(), json!(self.preference));
        preference.insert("timestamp".to_owned(), timestamp.into());
        let contact = contact(&self.name, from, user_id);
        let preferences = [Value::Object(preference)];
        let value = value(&self.phone_number_id, &contact, "user_preferences", &preferences);
        change(waba_id, "user_preferences", &value, None)
    }
}

impl Raw {
    fn check(&self) -> Result<(), GraphError> {
        let whole = match (&self.entry, &self.field, &self.value) {
            (Some(_), None, None) => self.waba_id.is_none(),
            (None, Some(_), Some(_)) => true,
            _ => false,
        };
        if whole { Ok(()) } else { Err(GraphError::invalid("Either field and value, or entry alone, is needed.")) }
    }

    pub(super) fn body(&self, waba_id: &str, timestamp: i64) -> Bytes {
        match (&self.field, &self.value) {
            (Some(field), Some(value)) => {
                let about_messages = matches!(&**field, "messages" | "user_preferences" | "standby");
                let time = (!about_messages).then_some(timestamp);
                change(self.waba_id.as_deref().unwrap_or(waba_id), field, value, time)
            }
            _ => entries(self.entry.as_deref().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(body: &Value) -> Messages {
        match InboundRequest::parse(body.to_string().as_bytes()).unwrap() {
            InboundRequest::Messages(messages) => messages,
            other => panic!("no messages: {other:?}"),
        }
    }

    fn values(bodies: &[Bytes]) -> Vec<Value> {
        assert!(bodies.iter().all(|body| body.is_ascii()));
        bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect()
    }

    #[test]
    fn messages_are_written_as_whatsapp_writes_them() {
        let body = json!({"phone_number_id": "1055", "from": "+91 98123 45600", "text": "नमस्ते\u{0}", "count": 3});
        let ids = ["wamid.a", "wamid.b", "wamid.c"].map(str::to_owned);
        let bodies = values(&messages(&body).bodies("77", 1_739_321_024, &ids, 2));
        assert_eq!(bodies.len(), 2);
        let value = &bodies[0]["entry"][0]["changes"][0]["value"];
        assert_eq!(
            (&bodies[0]["entry"][0]["id"], &value["metadata"]["phone_number_id"]),
            (&json!("77"), &json!("1055"))
        );
        assert_eq!(value["contacts"][0]["wa_id"], "919812345600");
        assert_eq!(
            value["messages"][1],
            json!({
                "from": "919812345600", "id": "wamid.b", "timestamp": "1739321024", "type": "text",
                "text": {"body": "नमस्ते\u{0}"},
            })
        );
        assert_eq!(bodies[1]["entry"][0]["changes"][0]["value"]["messages"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_tap_names_its_button_and_the_message_that_it_answers() {
        let button = json!({"payload": "stop", "text": "Stop promotions"});
        let body = json!({"phone_number_id": "1055", "user_id": "IN.1a", "button": button, "context": "wamid.ours"});
        let bodies = values(&messages(&body).bodies("77", 1, &["wamid.a".to_owned()], 1));
        assert_eq!(
            bodies[0]["entry"][0]["changes"][0]["value"]["messages"],
            json!([{
                "from_user_id": "IN.1a", "id": "wamid.a", "timestamp": "1", "type": "button", "button": button,
                "context": {"from": DISPLAY_PHONE_NUMBER, "id": "wamid.ours"},
            }])
        );
    }

    #[test]
    fn what_cannot_be_a_message_is_refused() {
        for body in [
            "{}",
            "[]",
            r#"{"phone_number_id": "x", "from": "91"}"#,
            r#"{"phone_number_id": "1"}"#,
            r#"{"phone_number_id": "1", "from": "x"}"#,
            r#"{"phone_number_id": "1", "user_id": "91"}"#,
            r#"{"phone_number_id": "1", "from": "91", "count": 0}"#,
            r#"{"phone_number_id": "1", "from": "91", "count": 1001}"#,
            r#"{"phone_number_id": "1", "from": "91", "txt": "Hello"}"#,
            r#"{"phone_number_id": "1", "from": "91", "message": {"image": {}}}"#,
            r#"{"phone_number_id": "1", "from": "91", "preference": "perhaps"}"#,
            r#"{"field": "account_update"}"#,
            r#"{"field": "account_update", "value": {}, "entry": []}"#,
        ] {
            assert_eq!(InboundRequest::parse(body.as_bytes()).expect_err("it is refused").code, 100, "{body}");
        }
    }
}
