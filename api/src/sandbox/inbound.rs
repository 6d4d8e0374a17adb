//! Messages from users to a number of the business, made up by a tool: `POST /_inbound`. They are posted as signed
//! webhooks like statuses are, and count against the number's rate. They are in no file: a sandbox that ends forgets
//! those that it has not posted.

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::bytes::Bytes;

use super::graph_error::GraphError;
use super::status_body::{DISPLAY_PHONE_NUMBER, ascii};
use super::wire::digits_of;

/// The most messages of one request; as many as one webhook can carry.
const COUNT_MAX: usize = 1_000;
const TEXT_CHARS_MAX: usize = 4_096;

/// The body of `POST /_inbound`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InboundRequest {
    /// The number that is written to.
    pub(super) phone_number_id: String,
    /// Who writes: a phone number.
    from: String,
    #[serde(default = "default_text")]
    text: String,
    #[serde(default = "default_count")]
    pub(super) count: usize,
}

fn default_text() -> String {
    "Hello".to_owned()
}

fn default_count() -> usize {
    1
}

/// The answer: the ids of the messages, in their order.
#[derive(Debug, Serialize)]
pub(super) struct InboundAnswer {
    pub(super) messages: Vec<String>,
}

impl InboundRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, GraphError> {
        let request: Self = serde_json::from_slice(body).map_err(|_| {
            GraphError::invalid(
                "The body must be an object with phone_number_id, from and, if need be, text and count.",
            )
        })?;
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(&request.phone_number_id) {
            return Err(GraphError::invalid("phone_number_id must be digits."));
        }
        if digits_of(&request.from).is_empty() {
            return Err(GraphError::invalid("from must be a phone number."));
        }
        if !(1..=COUNT_MAX).contains(&request.count) {
            return Err(GraphError::invalid("count must be 1 to 1000."));
        }
        if request.text.chars().count() > TEXT_CHARS_MAX {
            return Err(GraphError::invalid("text is longer than 4096 characters."));
        }
        Ok(request)
    }

    /// The sender's number as WhatsApp calls it.
    pub(super) fn wa_id(&self) -> String {
        digits_of(&self.from)
    }

    /// Webhook bodies with these messages, at most `batch_max` in each; `timestamp` in whole seconds since 1970.
    pub(super) fn bodies(&self, waba_id: &str, timestamp: i64, ids: &[String], batch_max: usize) -> Vec<Bytes> {
        let (wa_id, timestamp) = (self.wa_id(), timestamp.to_string());
        let body = |ids: &[String]| {
            let text = json!({"body": self.text});
            let message = |id| json!({"from": wa_id, "id": id, "timestamp": timestamp, "type": "text", "text": text});
            let messages: Vec<_> = ids.iter().map(message).collect();
            let value = json!({
                "messaging_product": "whatsapp",
                "metadata": {"display_phone_number": DISPLAY_PHONE_NUMBER, "phone_number_id": self.phone_number_id},
                "contacts": [{"profile": {"name": "Sandbox User"}, "wa_id": wa_id}],
                "messages": messages,
            });
            let entry = json!({"id": waba_id, "changes": [{"value": value, "field": "messages"}]});
            let payload = json!({"object": "whatsapp_business_account", "entry": [entry]});
            Bytes::from(ascii(&payload, ids.len() * 256 + 512))
        };
        ids.chunks(batch_max.max(1)).map(body).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn messages_are_written_as_whatsapp_writes_them() {
        let text = r#"{"phone_number_id": "1055", "from": "+91 98123 45600", "text": "नमस्ते", "count": 3}"#;
        let request = InboundRequest::parse(text.as_bytes()).unwrap();
        let ids = ["wamid.a", "wamid.b", "wamid.c"].map(str::to_owned);
        let bodies = request.bodies("77", 1_739_321_024, &ids, 2);
        assert!(bodies.iter().all(|body| body.is_ascii()));
        let bodies: Vec<Value> = bodies.iter().map(|body| serde_json::from_slice(body).unwrap()).collect();
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
                "text": {"body": "नमस्ते"},
            })
        );
        assert_eq!(bodies[1]["entry"][0]["changes"][0]["value"]["messages"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn what_cannot_be_a_message_is_refused() {
        for body in [
            "{}",
            r#"{"phone_number_id": "x", "from": "91"}"#,
            r#"{"phone_number_id": "1", "from": "x"}"#,
            r#"{"phone_number_id": "1", "from": "91", "count": 0}"#,
            r#"{"phone_number_id": "1", "from": "91", "count": 1001}"#,
            r#"{"phone_number_id": "1", "from": "91", "txt": "Hello"}"#,
        ] {
            assert_eq!(InboundRequest::parse(body.as_bytes()).expect_err("it is refused").code, 100, "{body}");
        }
    }
}
