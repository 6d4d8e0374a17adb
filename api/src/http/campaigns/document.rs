use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::campaign::{ParameterMapping, ParameterSource};
use domain::message::OnUnknown;
use projections::campaigns::read::{CampaignRow, NextRun};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A campaign, with its schedule as it comes out in the tenant's zone.
#[derive(Serialize, ToSchema)]
#[schema(as = Campaign)]
pub(in crate::http) struct CampaignDocument {
    id: Uuid,
    name: String,
    /// `draft`, `active`, `paused`, `completed` or `cancelled`.
    pub(super) status: &'static str,
    template_id: Uuid,
    template_name: Option<String>,
    language: Option<String>,
    target_segment: String,
    /// `utility` or `marketing`.
    campaign_type: &'static str,
    /// `once`, `daily`, `weekly` or `monthly`.
    recurrence_type: &'static str,
    /// Local time of the zone.
    start_date: String,
    /// Local time of the zone; a date alone includes that day.
    end_date: Option<String>,
    zone: String,
    /// From the variables of the template to where their values come from.
    parameters: BTreeMap<String, ParameterDocument>,
    /// Null: the tenant's default sender at the time of each run.
    sender_id: Option<Uuid>,
    sender_phone_number_id: Option<String>,
    /// `hold` or `resend`.
    on_unknown: &'static str,
    revision: i32,
    /// How many runs were triggered.
    runs: i64,
    /// The last occurrence that was run or skipped, in local time of the zone.
    last_occurrence: Option<String>,
    created_at: DateTime<Utc>,
    activated_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    next_run_at: Option<DateTime<Utc>>,
    /// The next five occurrences.
    next_runs: Vec<NextRunDocument>,
    /// The place in the log that this shows; of a command, the one that it reached.
    pub(super) position: i64,
}

/// Where the value of a variable comes from.
#[derive(Serialize, ToSchema)]
#[schema(as = Parameter)]
#[serde(untagged)]
pub(in crate::http) enum ParameterDocument {
    Attribute {
        /// The contact's attribute: a column of the upload.
        attribute: String,
        /// Used where the contact has no value; without one such a contact is skipped.
        #[serde(skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    Constant {
        /// The same for every contact.
        value: String,
    },
}

/// A coming occurrence.
#[derive(Serialize, ToSchema)]
#[schema(as = NextRun)]
pub(in crate::http) struct NextRunDocument {
    local: String,
    zone: String,
    at: DateTime<Utc>,
}

impl From<CampaignRow> for CampaignDocument {
    fn from(row: CampaignRow) -> Self {
        Self {
            id: row.id.0,
            name: row.name,
            status: row.status.name(),
            template_id: row.template_id.0,
            template_name: row.template_name,
            language: row.language,
            target_segment: row.target_segment,
            campaign_type: row.campaign_type.name(),
            recurrence_type: row.recurrence_type.name(),
            start_date: row.start_date,
            end_date: row.end_date,
            zone: row.zone,
            parameters: parameters(row.parameters),
            sender_id: row.sender_id.map(Uuid::from),
            sender_phone_number_id: row.sender_phone_number_id,
            on_unknown: on_unknown_name(row.on_unknown),
            revision: row.revision,
            runs: row.runs,
            last_occurrence: row.last_occurrence,
            created_at: row.created_at,
            activated_at: row.activated_at,
            ended_at: row.ended_at,
            next_run_at: row.next_run_at,
            next_runs: row.next_runs.into_iter().map(NextRunDocument::from).collect(),
            position: row.position,
        }
    }
}

impl From<NextRun> for NextRunDocument {
    fn from(next: NextRun) -> Self {
        Self { local: next.local, zone: next.zone, at: next.at }
    }
}

fn parameters(mapping: ParameterMapping) -> BTreeMap<String, ParameterDocument> {
    mapping
        .into_iter()
        .map(|(name, source)| {
            let document = match source {
                ParameterSource::Attribute { attribute, fallback } => {
                    ParameterDocument::Attribute { attribute, fallback }
                }
                ParameterSource::Constant { value } => ParameterDocument::Constant { value },
            };
            (name, document)
        })
        .collect()
}

fn on_unknown_name(on_unknown: OnUnknown) -> &'static str {
    match on_unknown {
        OnUnknown::Hold => "hold",
        OnUnknown::Resend => "resend",
    }
}

/// What a command on a campaign answers: the campaign as a GET would show it, or, if the read models are far behind,
/// what the command itself knows of it.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
pub(in crate::http) enum CampaignAnswer {
    Shown(Box<CampaignDocument>),
    Known { id: Uuid, name: String, status: &'static str, position: i64 },
}
