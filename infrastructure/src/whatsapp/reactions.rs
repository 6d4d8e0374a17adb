//! The one table from WhatsApp's error codes to what the engine does about them.
//!
//! The same code may come as the answer to a call or, later, in a `failed` status. In an answer the question is
//! whether the message may have been accepted all the same; a status says plainly that it failed, so that there a
//! retry cannot reach a person twice. The codes decide, not the HTTP status: the same code is seen with several.
//!
//! The codes and their meanings are Meta's. How long a wait is, is configuration: see [`RetryLadder`](super::retry_ladder::RetryLadder).

use std::ops::RangeInclusive;

use domain::message::FailureClass;

use super::retry_ladder::Rung;

/// How a code reached us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    /// The HTTP answer to our call.
    Answer,
    /// A `failed` status in a webhook.
    Status,
}

/// What to do about a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// The message may be sent again after the wait, and what `scope` names is left alone until then.
    Retry { rung: Rung, scope: RetryScope },
    /// This message has failed for good.
    Fail(FailureClass),
    /// The message may have been accepted.
    Ambiguous,
    /// Nothing of this sender can be sent until a person has acted. As an answer: the message waits with the others.
    /// As a status: the message has failed.
    StallSender,
    /// Nothing with this template can be sent until a person has acted. The message has failed.
    StallTemplate,
}

/// What a wait holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryScope {
    /// This message alone; others keep flowing.
    Contact,
    /// Every message with this template.
    Template,
    /// Every message of this sender.
    Sender,
    /// Every message of every sender of the same account.
    Account,
}

/// What must stop until a person has acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    Sender,
    Template,
}

impl Reaction {
    pub fn stall(self) -> Option<Stall> {
        match self {
            Self::StallSender => Some(Stall::Sender),
            Self::StallTemplate => Some(Stall::Template),
            Self::Retry { .. } | Self::Fail(_) | Self::Ambiguous => None,
        }
    }
}

/// What to do about this code. Unknown codes fail, so that nothing is retried without a bound.
pub fn reaction(code: i32, channel: Channel) -> Reaction {
    match (find(code), channel) {
        (Some(row), Channel::Answer) => row.answer,
        (Some(row), Channel::Status) => row.status,
        (None, Channel::Answer) => CONFIGURATION,
        (None, Channel::Status) => PERMANENT,
    }
}

/// What the code means, in a few words for people; `None` for an unknown code.
pub fn meaning(code: i32) -> Option<&'static str> {
    find(code).map(|row| row.meaning)
}

/// Is a call with this code known to be refused before it was processed, whatever the HTTP status?
pub fn refused_unprocessed(code: i32) -> bool {
    matches!(code, 4 | 613 | 80007 | 130429 | 131056)
}

fn find(code: i32) -> Option<&'static Row> {
    TABLE.iter().find(|row| row.codes.contains(&code))
}

struct Row {
    codes: RangeInclusive<i32>,
    meaning: &'static str,
    answer: Reaction,
    status: Reaction,
}

const PERMANENT: Reaction = Reaction::Fail(FailureClass::Permanent);
const UNDELIVERABLE: Reaction = Reaction::Fail(FailureClass::Undeliverable);
const STOPPED: Reaction = Reaction::Fail(FailureClass::Stopped);
const COOLING: Reaction = Reaction::Fail(FailureClass::Cooling);
const CONFIGURATION: Reaction = Reaction::Fail(FailureClass::Configuration);
const STALL_SENDER: Reaction = Reaction::StallSender;
const STALL_TEMPLATE: Reaction = Reaction::StallTemplate;
const AMBIGUOUS: Reaction = Reaction::Ambiguous;

const fn retry(rung: Rung, scope: RetryScope) -> Reaction {
    Reaction::Retry { rung, scope }
}

const ACCOUNT_RATE: Reaction = retry(Rung::AccountRate, RetryScope::Account);
const SENDER_RATE: Reaction = retry(Rung::SenderRate, RetryScope::Sender);
const PAIR_RATE: Reaction = retry(Rung::PairRate, RetryScope::Contact);
const MAINTENANCE: Reaction = retry(Rung::Maintenance, RetryScope::Sender);
const TEMPLATE_SYNC: Reaction = retry(Rung::TemplateSync, RetryScope::Template);
/// For trouble on WhatsApp's side that a status reports: the message failed, and a little later it may pass.
const ONCE_MORE: Reaction = retry(Rung::Trouble, RetryScope::Contact);

/// The same in both channels.
const fn row(code: i32, meaning: &'static str, reaction: Reaction) -> Row {
    Row { codes: code..=code, meaning, answer: reaction, status: reaction }
}

const fn split(code: i32, meaning: &'static str, answer: Reaction, status: Reaction) -> Row {
    Row { codes: code..=code, meaning, answer, status }
}

const fn range(codes: RangeInclusive<i32>, meaning: &'static str, reaction: Reaction) -> Row {
    Row { codes, meaning, answer: reaction, status: reaction }
}

#[rustfmt::skip]
static TABLE: &[Row] = &[
    // The token, the app and its permissions.
    row(0, "the access token could not be authenticated", STALL_SENDER),
    split(1, "invalid request or trouble at WhatsApp", AMBIGUOUS, PERMANENT),
    split(2, "temporary outage at WhatsApp", AMBIGUOUS, ONCE_MORE),
    row(3, "a capability or permission is missing", STALL_SENDER),
    row(4, "the app's call rate was exceeded", ACCOUNT_RATE),
    row(10, "a permission is missing or was removed", STALL_SENDER),
    row(33, "the sender's number is not known or was deleted", STALL_SENDER),
    row(100, "invalid parameter", CONFIGURATION),
    row(190, "the access token has expired or is not valid", STALL_SENDER),
    range(200..=299, "a permission is missing", STALL_SENDER),
    row(368, "the account is blocked for a policy violation", STALL_SENDER),
    row(613, "the call rate was exceeded", ACCOUNT_RATE),
    row(80007, "the account's rate was exceeded", ACCOUNT_RATE),
    row(80008, "too many management calls for the account", ACCOUNT_RATE),

    // The number, the contact and the message.
    row(130403, "the business blocked this contact", STOPPED),
    row(130429, "the sender's throughput was exceeded", SENDER_RATE),
    row(130472, "withheld: the contact is part of an experiment", COOLING),
    row(130497, "the business may not send to this country", CONFIGURATION),
    split(131000, "something went wrong at WhatsApp", AMBIGUOUS, ONCE_MORE),
    row(131005, "access denied", STALL_SENDER),
    row(131008, "a required parameter is missing", CONFIGURATION),
    row(131009, "a parameter has an invalid value", CONFIGURATION),
    row(131014, "the request is not valid for this address", PERMANENT),
    split(131016, "the service is not available", AMBIGUOUS, ONCE_MORE),
    row(131021, "recipient and sender are the same", PERMANENT),
    row(131026, "the message cannot be delivered to this contact", UNDELIVERABLE),
    row(131030, "the contact is not on the test number's list", CONFIGURATION),
    row(131031, "the account is locked", STALL_SENDER),
    row(131037, "the sender's display name is not approved", STALL_SENDER),
    row(131042, "the account's payment method has a problem", STALL_SENDER),
    row(131043, "the message expired before it was delivered", PERMANENT),
    row(131045, "the sender's number is not registered", STALL_SENDER),
    row(131047, "more than 24 hours since the contact's last message", PERMANENT),
    row(131048, "the sender is restricted because of spam reports", STALL_SENDER),
    row(131049, "withheld: the contact gets enough offers for now", COOLING),
    row(131050, "the contact stopped offers of this business", STOPPED),
    row(131051, "unsupported message type", CONFIGURATION),
    row(131052, "received media could not be downloaded", PERMANENT),
    row(131053, "the media of the message could not be processed", ONCE_MORE),
    row(131055, "the method is not allowed for this message", CONFIGURATION),
    row(131056, "too many messages to this contact in a short time", PAIR_RATE),
    row(131057, "the sender's account is in maintenance", MAINTENANCE),
    row(131062, "this message needs a phone number as its recipient", CONFIGURATION),
    row(131063, "offers through the Cloud API are switched off for the account", CONFIGURATION),
    row(131064, "too many templates in the wrong category", STALL_TEMPLATE),

    // The template.
    row(132000, "the number of parameters differs from the template's", STALL_TEMPLATE),
    row(132001, "the template does not exist or is not approved in this language", STALL_TEMPLATE),
    row(132005, "the filled text is too long", PERMANENT),
    row(132007, "the template violates a content policy", STALL_TEMPLATE),
    row(132012, "a parameter has another format than the template's", STALL_TEMPLATE),
    row(132015, "the template is paused for its quality", STALL_TEMPLATE),
    row(132016, "the template is disabled for good", STALL_TEMPLATE),
    row(132018, "the template's parameters are not valid", CONFIGURATION),
    row(132068, "the template's flow is blocked", STALL_TEMPLATE),
    row(132069, "the template's flow is throttled", STALL_TEMPLATE),

    // The registration of the number.
    row(133000, "an earlier deregistration is incomplete", STALL_SENDER),
    split(133004, "the server is temporarily not available", AMBIGUOUS, ONCE_MORE),
    row(133005, "the two-step PIN is wrong", STALL_SENDER),
    row(133006, "the number must be verified again", STALL_SENDER),
    row(133008, "too many guesses of the two-step PIN", STALL_SENDER),
    row(133009, "the two-step PIN was entered too fast", STALL_SENDER),
    row(133010, "the sender's number is not registered on the platform", STALL_SENDER),
    row(133015, "the sender's number was deleted a moment ago", STALL_SENDER),
    row(133016, "too many registration attempts", STALL_SENDER),

    // Payments, marketing messages, and the rest.
    row(134011, "the payment terms are not accepted", STALL_SENDER),
    row(134100, "not a marketing template", CONFIGURATION),
    row(134101, "the template is still being synchronised", TEMPLATE_SYNC),
    split(134102, "the template is not available", AMBIGUOUS, PERMANENT),
    row(135000, "a fault of the request, or held messages were dropped", PERMANENT),
    row(137000, "the contact's identity has changed", UNDELIVERABLE),
    range(2_388_000..=2_388_999, "the template is not well formed", CONFIGURATION),
];

#[cfg(test)]
#[path = "reactions_tests.rs"]
mod tests;
