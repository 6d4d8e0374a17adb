//! What can have happened to a message. Times are the provider's where the provider reported them, else the engine's.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::aggregate::stored_events;
use crate::ids::{ContactId, RunId, SenderId, TenantId};

/// The public status of a message. Each message has exactly one at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MessageStatus {
    /// Waits for its turn; a deferred message is pending too.
    Pending,
    /// Claimed for a call whose outcome is not known yet.
    Dispatching,
    /// WhatsApp answered 2xx with a message id.
    Sent,
    Delivered,
    Read,
    /// WhatsApp refused it for good.
    Failed,
    /// Never queued, for a reason.
    Skipped,
    /// A call may have reached WhatsApp and nobody knows; held until a webhook or an operator settles it.
    Unknown,
    /// Unknown for longer than its window.
    Unconfirmed,
    /// Its time passed before it was sent.
    Expired,
    Cancelled,
}

impl MessageStatus {
    pub const ALL: [Self; 11] = [
        Self::Pending,
        Self::Dispatching,
        Self::Sent,
        Self::Delivered,
        Self::Read,
        Self::Failed,
        Self::Skipped,
        Self::Unknown,
        Self::Unconfirmed,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The public name, as in the API and in stored events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Dispatching => "dispatching",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Unknown => "unknown",
            Self::Unconfirmed => "unconfirmed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Does a run wait for it? Unknown messages hold nothing open.
    pub fn holds_run_open(self) -> bool {
        matches!(self, Self::Pending | Self::Dispatching)
    }
}

/// How far a message ever came. Each is reached at most once, so that a funnel is a sum over the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Milestone {
    /// A call was made, or may have been.
    Attempted,
    Sent,
    Delivered,
    Read,
}

impl Milestone {
    pub const ALL: [Self; 4] = [Self::Attempted, Self::Sent, Self::Delivered, Self::Read];

    pub fn name(self) -> &'static str {
        match self {
            Self::Attempted => "attempted",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
        }
    }
}

/// What an event does to the counters of its run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    pub run_id: RunId,
    /// `None` for the first event of a message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<MessageStatus>,
    pub to: MessageStatus,
    /// Milestones reached by this very event; at most four.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reached: Vec<Milestone>,
}

/// Messages of one sender are fed in two lanes, so that offers never hold up reminders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    Utility,
    Marketing,
}

impl Lane {
    pub const ALL: [Self; 2] = [Self::Utility, Self::Marketing];

    pub fn name(self) -> &'static str {
        match self {
            Self::Utility => "utility",
            Self::Marketing => "marketing",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }
}

/// What to do with a message whose call may or may not have been accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnUnknown {
    /// Wait for a webhook or an operator; never send again.
    #[default]
    Hold,
    /// Send again once the window has passed; may reach a person twice.
    Resend,
}

/// Why a contact of the audience gets no message. A closed list: every value is shown to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// A variable of the template has neither a value nor a fallback for this contact.
    MissingVariable,
    /// A variable of the template has a value for this contact that WhatsApp would refuse, such as a broken link.
    InvalidVariable,
    /// A text of the template is too long with this contact's values.
    TextTooLong,
    /// The contact wants no messages at all.
    OptedOut,
    /// The contact wants no offers.
    MarketingStopped,
    /// Nobody recorded that the contact agreed to such messages.
    NoOptIn,
    /// A message to the contact could not be delivered a while ago.
    Undeliverable,
    /// WhatsApp withholds offers to the contact for a while.
    Cooling,
    /// The contact was erased.
    Erased,
}

impl SkipReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::MissingVariable => "missing_variable",
            Self::InvalidVariable => "invalid_variable",
            Self::TextTooLong => "text_too_long",
            Self::OptedOut => "opted_out",
            Self::MarketingStopped => "marketing_stopped",
            Self::NoOptIn => "no_opt_in",
            Self::Undeliverable => "undeliverable",
            Self::Cooling => "cooling",
            Self::Erased => "erased",
        }
    }
}

/// How WhatsApp accepted a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    Accepted,
    /// Held for quality assessment of its template.
    Held,
    /// Its template is paused.
    Paused,
}

/// Why a claimed message was given back without a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    RunPaused,
    RunEnded,
    CampaignPaused,
    CampaignEnded,
    ContactOptedOut,
    DeadlinePassed,
    /// The engine shut down before the call.
    Shutdown,
    /// The call journal shows that the process that claimed it ended before the call.
    NeverCalled,
    /// The connection to WhatsApp could not be made; no byte of the request left.
    NotConnected,
}

impl ReleaseReason {
    pub fn name(self) -> &'static str {
        match self {
            Self::RunPaused => "run_paused",
            Self::RunEnded => "run_ended",
            Self::CampaignPaused => "campaign_paused",
            Self::CampaignEnded => "campaign_ended",
            Self::ContactOptedOut => "contact_opted_out",
            Self::DeadlinePassed => "deadline_passed",
            Self::Shutdown => "shutdown",
            Self::NeverCalled => "never_called",
            Self::NotConnected => "not_connected",
        }
    }
}

/// The class of a refusal, from the one table of provider codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// This message can never be delivered.
    Permanent,
    /// The contact cannot be reached on WhatsApp.
    Undeliverable,
    /// The contact stopped offers.
    Stopped,
    /// WhatsApp withholds offers to this contact for now.
    Cooling,
    /// The template, the number or the account is set up wrong or blocked.
    Configuration,
    /// A retryable refusal that was retried as often as allowed.
    RetriesExhausted,
}

impl FailureClass {
    pub fn name(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Undeliverable => "undeliverable",
            Self::Stopped => "stopped",
            Self::Cooling => "cooling",
            Self::Configuration => "configuration",
            Self::RetriesExhausted => "retries_exhausted",
        }
    }
}

/// What WhatsApp says about the price of a message, as reported in a status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pricing {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub billable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pricing_type: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum MessageEvent {
    /// The message may be sent. Its phone and variables lie in `message_recipients`.
    #[serde(rename = "MessageQueued")]
    Queued {
        tenant_id: TenantId,
        transition: Transition,
        contact_id: ContactId,
        sender_id: SenderId,
        lane: Lane,
        on_unknown: OnUnknown,
    },
    #[serde(rename = "MessageSkipped")]
    Skipped {
        tenant_id: TenantId,
        transition: Transition,
        contact_id: ContactId,
        sender_id: SenderId,
        reason: SkipReason,
    },
    /// The receipt: whoever appended this may call WhatsApp once, until the deadline.
    #[serde(rename = "DispatchStarted")]
    DispatchStarted { transition: Transition, attempt: u32, deadline: DateTime<Utc>, journal_id: uuid::Uuid },
    /// The call was not made.
    #[serde(rename = "DispatchReleased")]
    DispatchReleased { transition: Transition, attempt: u32, reason: ReleaseReason },
    #[serde(rename = "MessageSent")]
    Sent { transition: Transition, acceptance: Acceptance, at: DateTime<Utc> },
    #[serde(rename = "MessageDelivered")]
    Delivered {
        transition: Transition,
        at: DateTime<Utc>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pricing: Option<Pricing>,
    },
    #[serde(rename = "MessageRead")]
    Read {
        transition: Transition,
        at: DateTime<Utc>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pricing: Option<Pricing>,
    },
    #[serde(rename = "MessageFailed")]
    Failed { transition: Transition, code: i32, class: FailureClass, at: DateTime<Utc> },
    /// WhatsApp refused this attempt for now; a new one may be made from `until` on.
    #[serde(rename = "MessageDeferred")]
    Deferred {
        transition: Transition,
        attempt: u32,
        until: DateTime<Utc>,
        code: i32,
        /// Was the call accepted first, and reported as failed by a status?
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        after_acceptance: bool,
    },
    /// The call may or may not have been accepted.
    #[serde(rename = "OutcomeUnknown")]
    OutcomeUnknown { transition: Transition, attempt: u32 },
    /// No webhook spoke within the window.
    #[serde(rename = "MessageUnconfirmed")]
    Unconfirmed { transition: Transition },
    /// An operator, or the campaign's `on_unknown`, decided what the unknown outcome of this attempt was.
    #[serde(rename = "MessageSettled")]
    Settled { transition: Transition, attempt: u32, at: DateTime<Utc> },
    #[serde(rename = "MessageExpired")]
    Expired { transition: Transition },
    #[serde(rename = "MessageCancelled")]
    Cancelled { transition: Transition },
}

stored_events!(MessageEvent {
    Queued => "MessageQueued" v "1",
    Skipped => "MessageSkipped" v "1",
    DispatchStarted => "DispatchStarted" v "1",
    DispatchReleased => "DispatchReleased" v "1",
    Sent => "MessageSent" v "1",
    Delivered => "MessageDelivered" v "1",
    Read => "MessageRead" v "1",
    Failed => "MessageFailed" v "1",
    Deferred => "MessageDeferred" v "1",
    OutcomeUnknown => "OutcomeUnknown" v "1",
    Unconfirmed => "MessageUnconfirmed" v "1",
    Settled => "MessageSettled" v "1",
    Expired => "MessageExpired" v "1",
    Cancelled => "MessageCancelled" v "1",
});

impl MessageEvent {
    pub fn transition(&self) -> &Transition {
        match self {
            Self::Queued { transition, .. }
            | Self::Skipped { transition, .. }
            | Self::DispatchStarted { transition, .. }
            | Self::DispatchReleased { transition, .. }
            | Self::Sent { transition, .. }
            | Self::Delivered { transition, .. }
            | Self::Read { transition, .. }
            | Self::Failed { transition, .. }
            | Self::Deferred { transition, .. }
            | Self::OutcomeUnknown { transition, .. }
            | Self::Unconfirmed { transition }
            | Self::Settled { transition, .. }
            | Self::Expired { transition }
            | Self::Cancelled { transition } => transition,
        }
    }
}
