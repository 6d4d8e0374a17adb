use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::aggregate::CommandEnvelope;
use domain::campaign::{ParameterMapping, Trigger};
use domain::campaign_run::{Audience, CampaignRunCommand, FrozenTemplate, RunDefinition};
use domain::ids::{MessageId, RunId, SenderId};
use domain::message::{Lane, MessageCommand, OnUnknown};
use domain::phone::{self, Phone};
use domain::template::{FillError, Template as Content};
use infrastructure::contacts::{SUPPRESSED, ensure_contact};
use infrastructure::event_store::{Addressed, Attachment, RecipientRow};
use infrastructure::templates::Template;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::find;
use crate::http::auth::Caller;
use crate::http::body::JsonObject;
use crate::http::fields::{Faults, Fields, kind_of};
use crate::http::path::{IdPath, parse_id};
use crate::http::problem::{Answer, Problem, of_store};
use crate::http::senders;
use crate::http::state::ApiState;

/// To whom a template is sent to try it out, and with which values.
#[derive(ToSchema)]
#[schema(as = TestMessage)]
#[expect(dead_code, reason = "it documents the body, which is read field by field so that all faults are told at once")]
pub(in crate::http) struct TestMessageDocument {
    /// A phone number in any form that an upload takes.
    to: String,
    /// A value for each variable of the template, by its name: `{"1": "Asha"}`.
    variables: Option<BTreeMap<String, String>>,
    /// Without it the tenant's default sender sends.
    sender_id: Option<Uuid>,
}

/// A test message on its way.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct TestMessageAnswer {
    run_id: Uuid,
    message_id: Uuid,
    position: i64,
}

struct TestMessage {
    to: Phone,
    values: BTreeMap<String, String>,
    sender_id: Option<SenderId>,
}

/// Sends one filled template to one number, as an ordinary message of a run of its own.
#[utoipa::path(
    post,
    path = "/v1/templates/{id}/test",
    tag = "templates",
    operation_id = "test_template",
    params(("id" = Uuid, Path)),
    request_body = TestMessageDocument,
    responses((status = 202, body = TestMessageAnswer))
)]
pub(in crate::http) async fn test(
    State(state): State<ApiState>,
    caller: Caller,
    IdPath(id): IdPath,
    JsonObject(body): JsonObject,
) -> Answer<(StatusCode, Json<TestMessageAnswer>)> {
    let template = find(&state, &caller, id).await?;
    let mut faults = Faults::default();
    let read = read(body, &template, state.clock.now(), &mut faults);
    if let Some(TestMessage { sender_id: Some(sender_id), .. }) = &read
        && infrastructure::senders::find_sender(&state.pool, caller.tenant.id, *sender_id).await?.is_none()
    {
        faults.push("sender_id", senders::unknown(&state, &caller).await?);
    }
    let message = match read {
        Some(message) if faults.is_empty() => message,
        _ => return Err(faults.into_problem()),
    };
    if !template.is_approved() {
        return Err(Problem::conflict(format!(
            "The template is {} at WhatsApp; only an approved one can be sent.",
            template.status
        )));
    }
    send(&state, &caller, template, message).await.map(|answer| (StatusCode::ACCEPTED, Json(answer)))
}

fn read(body: Map<String, Value>, template: &Template, at: DateTime<Utc>, faults: &mut Faults) -> Option<TestMessage> {
    let mut fields = Fields::of(body, "", &["to", "variables", "sender_id"], faults);
    let to = fields.required_text("to", faults);
    let to = to.and_then(|text| phone::normalize(&text).map_err(|error| faults.push("to", error)).ok());
    let given = fields.object("variables", faults).unwrap_or_default();
    let values = match Content::parse(&template.components) {
        Ok(content) => read_values(&given, &content, at, faults),
        Err(error) => {
            faults.push("id", format!("the template {} cannot be sent by this release: {error}", template.name));
            BTreeMap::new()
        }
    };
    let sender_id = fields.text("sender_id", faults).and_then(|text| {
        let id = parse_id(&text).map(SenderId);
        if id.is_none() {
            faults.push("sender_id", "is not an id");
        }
        id
    });
    faults.is_empty().then_some(())?;
    Some(TestMessage { to: to?, values, sender_id })
}

fn read_values(
    given: &Map<String, Value>,
    content: &Content,
    at: DateTime<Utc>,
    faults: &mut Faults,
) -> BTreeMap<String, String> {
    let known: Vec<&str> = content.slots().iter().map(|slot| slot.name.as_str()).collect();
    for name in given.keys().filter(|name| !known.contains(&name.as_str())) {
        faults.unknown("variables.", name, &known);
    }
    let mut values = BTreeMap::new();
    for slot in content.slots() {
        let path = format!("variables.{}", slot.name);
        match given.get(&slot.name) {
            None | Some(Value::Null) if slot.required => {
                faults.push(path, "is missing; the template cannot be sent without a value for it");
            }
            None | Some(Value::Null) => {}
            Some(Value::String(text)) => match slot.kind.read(text) {
                Ok(value) => drop(values.insert(slot.name.clone(), value)),
                Err(error) => faults.push(path, error),
            },
            Some(other) => faults.push(path, format!("must be a string, not {}", kind_of(other))),
        }
    }
    if faults.is_empty() {
        // What only shows in the whole: a text that is too long, an offer that has ended.
        match content.fill_with(&values, at) {
            Ok(_) => {}
            Err(error @ (FillError::Missing { .. } | FillError::TooLong { .. })) => faults.push("variables", error),
            Err(FillError::Invalid { name, takes }) => {
                faults.push(format!("variables.{name}"), format!("takes {takes}"));
            }
        }
    }
    values
}

/// The message first, with its recipient and values; then the run, whose audience finds the message there.
async fn send(
    state: &ApiState,
    caller: &Caller,
    template: Template,
    message: TestMessage,
) -> Answer<TestMessageAnswer> {
    let now = state.clock.now();
    let tenant = caller.tenant.id;
    let sender = senders::serving(state, caller, message.sender_id).await?;
    if state.eraser.suppressed(tenant).await?.contains(&message.to) {
        return Err(Problem::field("to", SUPPRESSED));
    }
    let contact_id = ensure_contact(&state.pool, tenant, &message.to, now).await?;
    let run_id = RunId::of_test(template.id, Uuid::new_v4(), now);
    let message_id = MessageId::of(run_id, contact_id, now);
    let lane = if template.category == "MARKETING" { Lane::Marketing } else { Lane::Utility };
    let queue =
        MessageCommand::QueueMessage { run_id, contact_id, sender_id: sender.id, lane, on_unknown: OnUnknown::Hold };
    let recipient = RecipientRow {
        tenant_id: tenant.0,
        contact_id: contact_id.0,
        phone: message.to.as_str().to_owned(),
        variables: json!(message.values),
    };
    let queue = Addressed::new(message_id, CommandEnvelope::new(tenant, now, queue), caller.actor());
    let queued = state.messages.execute(queue.with(Attachment::Recipient(recipient))).await;
    queued.map_err(|error| of_store(&error))?;

    let definition = RunDefinition {
        campaign_id: None,
        trigger: Trigger::Test,
        nominal_at: now,
        template: FrozenTemplate {
            template_id: template.id,
            name: template.name,
            language: template.language,
            components: template.components,
            variables: template.variables,
        },
        parameters: ParameterMapping::new(),
        audience: Audience::Contact { contact_id },
        sender_id: sender.id,
        lane,
        on_unknown: OnUnknown::Hold,
    };
    let started = state.give(&state.runs, caller, run_id, CampaignRunCommand::Start { definition }).await;
    let started = started.map_err(|error| of_store(&error))?;
    let position = state.reached(run_id.0, &started).await?;
    Ok(TestMessageAnswer { run_id: run_id.0, message_id: message_id.0, position })
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::http::templates::sample;

    fn read_json(body: Value, variables: &[&str]) -> Result<TestMessage, Vec<(String, String)>> {
        let Value::Object(body) = body else { panic!("not an object") };
        let mut faults = Faults::default();
        match read(body, &sample(variables), DateTime::UNIX_EPOCH, &mut faults) {
            Some(message) => Ok(message),
            None => Err(faults.into_problem().faults.into_iter().map(|fault| (fault.field, fault.reason)).collect()),
        }
    }

    #[test]
    fn a_number_and_the_values_are_read() {
        let body = json!({"to": "98123 45621", "variables": {"1": " Asha\nDevi "}});
        let message = read_json(body, &["1"]).ok().unwrap();
        assert_eq!(message.to.as_str(), "+919812345621");
        assert_eq!(message.values["1"], "Asha Devi");
        assert!(read_json(json!({"to": "9812345621"}), &[]).is_ok());
    }

    #[test]
    fn every_variable_needs_a_value_and_no_other_is_taken() {
        let body = json!({"to": "9812345621", "variables": {"1": "", "2": 5, "9": "x"}, "sender_id": "x"});
        let faults = read_json(body, &["1", "2", "3"]).err().unwrap();
        let mut fields: Vec<&str> = faults.iter().map(|(field, _)| field.as_str()).collect();
        fields.sort_unstable();
        assert_eq!(fields, ["sender_id", "variables.1", "variables.2", "variables.3", "variables.9"]);
    }

    #[test]
    fn no_reason_repeats_the_number() {
        let faults = read_json(json!({"to": "02249812345", "variables": {"1": "x"}}), &["1"]).err().unwrap();
        assert_eq!(faults[0].0, "to");
        assert!(!faults[0].1.contains("49812345"));
    }
}
