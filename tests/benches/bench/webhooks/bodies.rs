//! Signed status webhooks in the form that WhatsApp gives them.

use std::fmt::Write as _;

use anyhow::Result;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;

use super::generator::Request;
use crate::installation::APP_SECRET;
use crate::life::Messages;

/// A message is read after so many statuses of other messages: 300 ms at 5,000/s.
const APART: u32 = 1_500;

#[derive(Debug, Clone, Copy)]
enum Status {
    Delivered,
    Read,
}

/// What every status of one number has in common.
pub(super) struct Origin<'a> {
    pub(super) messages: &'a Messages,
    pub(super) phone_number_id: &'a str,
    /// `127.0.0.1:4711`.
    pub(super) host: String,
    /// Seconds since 1970.
    pub(super) at: i64,
}

impl Origin<'_> {
    /// `delivered` and `read` of each of the first so many messages, so many statuses in a body. Every one of them
    /// changes something.
    pub(super) fn requests(&self, messages: u32, per_body: usize) -> Result<Vec<Request>> {
        order(messages).chunks(per_body).map(|statuses| self.request(statuses)).collect()
    }

    fn request(&self, statuses: &[(u32, Status)]) -> Result<Request> {
        let statuses: Vec<Value> = statuses.iter().map(|(number, status)| self.status(*number, *status)).collect();
        let metadata = json!({"display_phone_number": "15555550100", "phone_number_id": self.phone_number_id});
        let value = json!({"messaging_product": "whatsapp", "metadata": metadata, "statuses": statuses});
        let entry = json!({"id": "100000000000001", "changes": [{"value": value, "field": "messages"}]});
        let body = serde_json::to_vec(&json!({"object": "whatsapp_business_account", "entry": [entry]}))?;
        let mut mac = Hmac::<Sha256>::new_from_slice(APP_SECRET.as_bytes())?;
        mac.update(&body);
        let mut request = format!(
            "POST /webhooks/whatsapp HTTP/1.1\r\nhost: {}\r\nuser-agent: facebookexternalua\r\n\
             content-type: application/json\r\ncontent-length: {}\r\nx-hub-signature-256: sha256=",
            self.host,
            body.len()
        );
        for byte in mac.finalize().into_bytes() {
            write!(request, "{byte:02x}")?;
        }
        request.push_str("\r\n\r\n");
        let mut request = request.into_bytes();
        request.extend_from_slice(&body);
        Ok(request.into_boxed_slice())
    }

    fn status(&self, number: u32, status: Status) -> Value {
        let message = self.messages.message(number).to_string();
        let (name, pricing) = match status {
            Status::Delivered => ("delivered", true),
            Status::Read => ("read", false),
        };
        let mut value = json!({
            "id": wamid(number),
            "status": name,
            "timestamp": self.at.to_string(),
            "recipient_id": recipient(number).trim_start_matches('+'),
            "biz_opaque_callback_data": message,
        });
        if pricing {
            value["pricing"] =
                json!({"billable": true, "pricing_model": "PMP", "category": "utility", "type": "regular"});
        }
        value
    }
}

/// Blocks of messages, each delivered and then read.
fn order(messages: u32) -> Vec<(u32, Status)> {
    let firsts = (0..messages).step_by(APART as usize);
    firsts
        .flat_map(|first| {
            let block = first..messages.min(first + APART);
            let delivered = block.clone().map(|number| (number, Status::Delivered));
            delivered.chain(block.map(|number| (number, Status::Read)))
        })
        .collect()
}

pub(super) fn wamid(number: u32) -> String {
    format!("wamid.HBgMOTE5{number:09}FQIAERgSQzA4RkM4QkFGRjkxQjYxNkQ2AA==")
}

pub(super) fn recipient(number: u32) -> String {
    format!("+919{number:09}")
}
