use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use domain::campaign::{CampaignCommand, CampaignDefinition, CampaignType};
use domain::ids::{SenderId, TemplateId};
use domain::message::OnUnknown;
use domain::schedule::{DateRole, LocalTime, Recurrence, Schedule, ScheduleError};
use infrastructure::templates::{self, Template};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::document::CampaignAnswer;
use super::parameters::{check_against_template, read_parameters};
use super::{answer, refused};
use crate::http::auth::Caller;
use crate::http::body::JsonObject;
use crate::http::fields::{Faults, Fields};
use crate::http::path::parse_id;
use crate::http::problem::Answer;
use crate::http::senders;
use crate::http::state::ApiState;

const NAME_CHARS_MAX: usize = 200;
const FIELDS: [&str; 11] = [
    "name",
    "template_id",
    "target_segment",
    "campaign_type",
    "recurrence_type",
    "start_date",
    "end_date",
    "language",
    "parameters",
    "sender_id",
    "on_unknown",
];
const CAMPAIGN_TYPES: [(&str, CampaignType); 2] =
    [("utility", CampaignType::Utility), ("marketing", CampaignType::Marketing)];
const RECURRENCES: [(&str, Recurrence); 4] = [
    ("once", Recurrence::Once),
    ("daily", Recurrence::Daily),
    ("weekly", Recurrence::Weekly),
    ("monthly", Recurrence::Monthly),
];
const ON_UNKNOWN: [(&str, OnUnknown); 2] = [("hold", OnUnknown::Hold), ("resend", OnUnknown::Resend)];

/// A campaign to be made. A date without an offset is local time of the tenant's zone.
#[derive(ToSchema)]
#[schema(as = NewCampaign)]
#[expect(dead_code, reason = "it documents the body, which is read field by field so that all faults are told at once")]
pub(in crate::http) struct NewCampaignDocument {
    /// 1 to 200 characters.
    name: String,
    template_id: Uuid,
    target_segment: String,
    /// `utility` or `marketing`.
    campaign_type: String,
    /// `once`, `daily`, `weekly` or `monthly`.
    recurrence_type: String,
    /// `2026-12-01`, `2026-12-01T10:00` or `2026-12-01T10:00:00+05:30`. Day 29 to 31 falls on the last day of a
    /// shorter month.
    start_date: String,
    /// A date alone includes that day.
    end_date: Option<String>,
    /// Must be the template's.
    language: Option<String>,
    /// From the variables of the template to where their values come from:
    /// `{"1": {"attribute": "name", "fallback": "Customer"}, "header.image": {"value": "https://cdn.example/a.jpg"}}`.
    parameters: Option<BTreeMap<String, NewParameter>>,
    /// Without it each run uses the tenant's default sender.
    sender_id: Option<Uuid>,
    /// `hold` (the default) or `resend`.
    on_unknown: Option<String>,
}

/// Where the value of a variable comes from: an attribute of the contact, or one value for all.
#[derive(ToSchema)]
#[expect(dead_code, reason = "it documents the body")]
pub(in crate::http) struct NewParameter {
    /// A column of the uploads.
    attribute: Option<String>,
    /// Used where the contact has no value; without one such a contact is skipped.
    fallback: Option<String>,
    /// The same for every contact, instead of an attribute.
    value: Option<String>,
}

/// Creates a campaign as a draft. Everything that is wrong with the body is told at once.
#[utoipa::path(
    post,
    path = "/v1/campaigns",
    tag = "campaigns",
    operation_id = "create_campaign",
    request_body = NewCampaignDocument,
    responses((status = 201, body = CampaignAnswer))
)]
pub(in crate::http) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    JsonObject(body): JsonObject,
) -> Answer<Response> {
    let definition = read(&state, &caller, body).await?;
    let id = new_id(state.clock.now());
    let created = state.give(&state.campaigns, &caller, id, CampaignCommand::Create { definition }).await;
    let created = created.map_err(|error| refused("created", &error))?;
    let campaign = answer(&state, &caller, id, &created).await?;
    Ok((StatusCode::CREATED, [(LOCATION, format!("/v1/campaigns/{id}"))], Json(campaign)).into_response())
}

/// Ordered by the engine's time, so that lists show campaigns in the order in which they were made.
fn new_id(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, now.timestamp_subsec_nanos()))
}

async fn read(state: &ApiState, caller: &Caller, body: Map<String, Value>) -> Answer<CampaignDefinition> {
    let mut faults = Faults::default();
    let mut fields = Fields::of(body, "", &FIELDS, &mut faults);
    let name = read_name(&mut fields, &mut faults);
    let template_id = fields.required_text("template_id", &mut faults);
    let segment = read_segment(&mut fields, &mut faults);
    let campaign_type = fields.required_choice("campaign_type", &CAMPAIGN_TYPES, &mut faults);
    let schedule = read_schedule(&mut fields, &caller.tenant.zone, &mut faults);
    let language = fields.text("language", &mut faults);
    let parameters = read_parameters(&mut fields, &mut faults);
    let sender_id = fields.text("sender_id", &mut faults);
    let on_unknown = fields.choice("on_unknown", &ON_UNKNOWN, &mut faults).unwrap_or_default();

    let template = match template_id {
        Some(text) => find_template(state, caller, &text, &mut faults).await?,
        None => None,
    };
    if let Some(template) = &template {
        check_against_template(template, language.as_deref(), &parameters, &mut faults);
    }
    let sender_id = match sender_id {
        Some(text) => find_sender(state, caller, &text, &mut faults).await?,
        None => None,
    };
    match (name, template, segment, campaign_type, schedule) {
        (Some(name), Some(template), Some(segment), Some(campaign_type), Some(schedule)) if faults.is_empty() => {
            let template_id = template.id;
            Ok(CampaignDefinition {
                name,
                template_id,
                segment,
                campaign_type,
                schedule,
                parameters,
                sender_id,
                on_unknown,
            })
        }
        _ => Err(faults.into_problem()),
    }
}

fn read_name(fields: &mut Fields, faults: &mut Faults) -> Option<String> {
    let name = fields.required_text("name", faults)?;
    if name.trim().is_empty() || name.chars().count() > NAME_CHARS_MAX || name.contains(char::is_control) {
        faults.push("name", format!("must have 1 to {NAME_CHARS_MAX} characters, without control characters"));
        return None;
    }
    Some(name)
}

/// Without spaces at its ends, which the segments of contacts never have.
fn read_segment(fields: &mut Fields, faults: &mut Faults) -> Option<String> {
    let segment = fields.required_text("target_segment", faults)?.trim().to_owned();
    if segment.is_empty() {
        faults.push("target_segment", "must not be empty; GET /v1/segments lists the segments");
        return None;
    }
    Some(segment)
}

fn read_schedule(fields: &mut Fields, zone: &str, faults: &mut Faults) -> Option<Schedule> {
    let recurrence = fields.required_choice("recurrence_type", &RECURRENCES, faults);
    let start = fields.required_text("start_date", faults);
    let start = start.and_then(|text| read_date("start_date", &text, zone, DateRole::Start, faults));
    let end = fields.text("end_date", faults);
    let end_is_read = end.is_none();
    let end = end.and_then(|text| read_date("end_date", &text, zone, DateRole::End, faults));
    let end_is_read = end_is_read || end.is_some();
    // Without a recurrence the dates can still be compared: any will do.
    let schedule = Schedule::try_new(recurrence.unwrap_or(Recurrence::Once), start?.0, end.map(|end| end.0), zone);
    match schedule {
        Ok(schedule) if recurrence.is_some() && end_is_read => Some(schedule),
        Ok(_) => None,
        Err(error) => {
            let field = match error {
                ScheduleError::EndBeforeStart => "end_date",
                ScheduleError::StartOutOfRange | ScheduleError::UnknownZone(_) => "start_date",
            };
            faults.push(field, error);
            None
        }
    }
}

fn read_date(field: &str, text: &str, zone: &str, role: DateRole, faults: &mut Faults) -> Option<LocalTime> {
    LocalTime::parse(text, zone, role).map_err(|error| faults.push(field, error)).ok()
}

async fn find_template(state: &ApiState, caller: &Caller, text: &str, faults: &mut Faults) -> Answer<Option<Template>> {
    let found = match parse_id(text) {
        Some(id) => templates::find_template(&state.pool, caller.tenant.id, TemplateId(id)).await?,
        None => None,
    };
    if found.is_none() {
        faults.push("template_id", crate::http::templates::unknown(state, caller).await?);
    }
    Ok(found)
}

async fn find_sender(state: &ApiState, caller: &Caller, text: &str, faults: &mut Faults) -> Answer<Option<SenderId>> {
    let found = match parse_id(text) {
        Some(id) => infrastructure::senders::find_sender(&state.pool, caller.tenant.id, SenderId(id)).await?,
        None => None,
    };
    if found.is_none() {
        faults.push("sender_id", senders::unknown(state, caller).await?);
    }
    Ok(found.map(|sender| sender.id))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const ZONE: &str = "Asia/Kolkata";

    fn fields(body: &Value) -> Fields {
        Fields::of(body.as_object().unwrap().clone(), "", &FIELDS, &mut Faults::default())
    }

    fn faulty(faults: Faults) -> Vec<String> {
        faults
            .check()
            .err()
            .map_or_else(Vec::new, |problem| problem.faults.into_iter().map(|fault| fault.field).collect())
    }

    fn schedule(body: &Value) -> (Option<Schedule>, Vec<String>) {
        let mut faults = Faults::default();
        (read_schedule(&mut fields(body), ZONE, &mut faults), faulty(faults))
    }

    #[test]
    fn dates_are_local_and_an_end_includes_its_day() {
        let body = json!({"recurrence_type": "daily", "start_date": "2026-12-01T10:00", "end_date": "2026-12-01"});
        let (schedule, faults) = schedule(&body);
        assert!(faults.is_empty());
        let next: Vec<_> = schedule.unwrap().occurrences_after(DateTime::UNIX_EPOCH).map(|next| next.at).collect();
        assert_eq!(next, ["2026-12-01T04:30:00Z".parse::<DateTime<Utc>>().unwrap()]);
    }

    #[test]
    fn each_fault_of_a_schedule_is_told_at_its_field() {
        let of = |body: Value| schedule(&body).1;
        assert_eq!(of(json!({})), ["recurrence_type", "start_date"]);
        assert_eq!(
            of(json!({"recurrence_type": "yearly", "start_date": "2026-13-01", "end_date": "soon"})),
            ["recurrence_type", "start_date", "end_date"]
        );
        assert_eq!(
            of(json!({"recurrence_type": "once", "start_date": "2026-12-02", "end_date": "2026-12-01"})),
            ["end_date"]
        );
        assert_eq!(of(json!({"start_date": "2026-12-02", "end_date": "2026-12-01"})), ["recurrence_type", "end_date"]);
        assert_eq!(of(json!({"recurrence_type": "once", "start_date": "1969-12-01"})), ["start_date"]);
    }

    #[test]
    fn an_end_that_cannot_be_read_never_counts_as_none() {
        let (schedule, faults) =
            schedule(&json!({"recurrence_type": "daily", "start_date": "2026-12-01", "end_date": "x"}));
        assert_eq!((schedule, faults), (None, vec!["end_date".to_owned()]));
    }

    #[test]
    fn a_name_is_bounded_in_characters() {
        let of = |name: &str| read_name(&mut fields(&json!({"name": name})), &mut Faults::default());
        assert!(of(&"ह".repeat(200)).is_some() && of("Diwali").is_some());
        for name in [String::new(), "  ".to_owned(), "x".repeat(201), "a\nb".to_owned()] {
            assert_eq!(of(&name), None);
        }
    }

    #[test]
    fn ids_follow_the_engines_time() {
        let at = |text: &str| new_id(text.parse().unwrap());
        assert!(at("2026-12-01T00:00:00Z") < at("2026-12-01T00:00:01Z"));
    }
}
