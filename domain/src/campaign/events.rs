//! What can have happened to a campaign.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use jiff::civil;
use serde::{Deserialize, Serialize};

use crate::aggregate::stored_events;
use crate::ids::{RunId, SenderId, TemplateId, TenantId};
use crate::message::{Lane, OnUnknown};
use crate::schedule::Schedule;
use crate::template::clean;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignStatus {
    Draft,
    Active,
    Paused,
    Completed,
    Cancelled,
}

impl CampaignStatus {
    pub fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Completed => "completed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// What the messages are about; decides their lane and which consent they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignType {
    Utility,
    Marketing,
}

impl CampaignType {
    pub fn name(self) -> &'static str {
        self.lane().name()
    }

    pub fn lane(self) -> Lane {
        match self {
            Self::Utility => Lane::Utility,
            Self::Marketing => Lane::Marketing,
        }
    }
}

/// Where the value of a template's variable comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum ParameterSource {
    Attribute {
        /// The contact's attribute: a column of the upload.
        attribute: String,
        /// Used where the contact has no value; without one such a contact is skipped.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fallback: Option<String>,
    },
    /// The same for every contact.
    Constant { value: String },
}

impl ParameterSource {
    /// The text for a contact with these attributes; what shows nothing counts as no value.
    pub fn value<'a>(&'a self, attributes: &'a BTreeMap<String, String>) -> Option<&'a str> {
        let candidates = match self {
            Self::Attribute { attribute, fallback } => [attributes.get(attribute), fallback.as_ref()],
            Self::Constant { value } => [Some(value), None],
        };
        candidates.into_iter().flatten().map(String::as_str).find(|text| !clean(text).is_empty())
    }
}

/// From the name of a template's variable to its source.
pub type ParameterMapping = BTreeMap<String, ParameterSource>;

/// Everything that a person says about a campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CampaignDefinition {
    pub name: String,
    pub template_id: TemplateId,
    pub segment: String,
    pub campaign_type: CampaignType,
    pub schedule: Schedule,
    pub parameters: ParameterMapping,
    /// `None`: the tenant's default sender at the time of each run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<SenderId>,
    #[serde(default)]
    pub on_unknown: OnUnknown,
}

/// What started a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// An occurrence of the schedule of this revision, at this local time.
    Schedule { revision: u32, local: civil::DateTime },
    /// A person, now.
    Manual,
    /// A test message of a template.
    Test,
}

/// Why an occurrence was not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkippedBecause {
    /// The engine was not running, and a later occurrence is due as well.
    Missed,
    /// The campaign was paused.
    Paused,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum CampaignEvent {
    #[serde(rename = "CampaignCreated")]
    Created { tenant_id: TenantId, definition: CampaignDefinition },
    /// The definition was replaced; `revision` is the new one. The first is 1.
    #[serde(rename = "CampaignRevised")]
    Revised { revision: u32, definition: CampaignDefinition },
    /// Occurrences before `at` are not run, except the only one of a `once` campaign.
    #[serde(rename = "CampaignActivated")]
    Activated { at: DateTime<Utc> },
    #[serde(rename = "CampaignPaused")]
    Paused { at: DateTime<Utc> },
    #[serde(rename = "CampaignResumed")]
    Resumed { at: DateTime<Utc> },
    #[serde(rename = "CampaignCancelled")]
    Cancelled { at: DateTime<Utc> },
    /// A run is to start. `nominal_at` is the occurrence's time, or the time of a person's request.
    #[serde(rename = "RunTriggered")]
    RunTriggered { run_id: RunId, trigger: Trigger, nominal_at: DateTime<Utc> },
    #[serde(rename = "OccurrenceSkipped")]
    OccurrenceSkipped { revision: u32, local: civil::DateTime, nominal_at: DateTime<Utc>, because: SkippedBecause },
    /// The schedule has no further occurrence and every run has ended.
    #[serde(rename = "CampaignCompleted")]
    Completed { at: DateTime<Utc> },
}

stored_events!(CampaignEvent {
    Created => "CampaignCreated" v "1",
    Revised => "CampaignRevised" v "1",
    Activated => "CampaignActivated" v "1",
    Paused => "CampaignPaused" v "1",
    Resumed => "CampaignResumed" v "1",
    Cancelled => "CampaignCancelled" v "1",
    RunTriggered => "RunTriggered" v "1",
    OccurrenceSkipped => "OccurrenceSkipped" v "1",
    Completed => "CampaignCompleted" v "1",
});
