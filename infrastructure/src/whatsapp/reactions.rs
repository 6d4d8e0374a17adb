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
    /// Nothing of what is named can be sent until a person has acted. The message has failed; except that one which met
    /// the pause of more than a template as the answer to its call was not accepted, and waits with the others.
    Pause(PauseScope),
}

/// What a wait holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryScope {
    /// This message alone; others keep flowing.
    Contact,
    /// The messages with this template, each as it meets the refusal.
    Template,
    /// Every message of this sender.
    Sender,
    /// Every message of every sender of the same account for which this process sends.
    Account,
}

/// What must stop until a person has acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PauseScope {
    /// Everything with this template.
    Template,
    /// Everything from this number.
    Sender,
    /// Everything from the numbers of the same WhatsApp Business Account.
    Account,
    /// Everything from all numbers of the business.
    Portfolio,
}

impl Reaction {
    pub fn pause(self) -> Option<PauseScope> {
        match self {
            Self::Pause(scope) => Some(scope),
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

/// What a person can do about the code; `None` where nothing has to be done, or nobody knows what.
pub fn advice(code: i32) -> Option<&'static str> {
    find(code).and_then(|row| row.advice)
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
    advice: Option<&'static str>,
}

const PERMANENT: Reaction = Reaction::Fail(FailureClass::Permanent);
const UNDELIVERABLE: Reaction = Reaction::Fail(FailureClass::Undeliverable);
const STOPPED: Reaction = Reaction::Fail(FailureClass::Stopped);
const COOLING: Reaction = Reaction::Fail(FailureClass::Cooling);
const CONFIGURATION: Reaction = Reaction::Fail(FailureClass::Configuration);
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
    Row { codes: code..=code, meaning, answer: reaction, status: reaction, advice: None }
}

const fn split(code: i32, meaning: &'static str, answer: Reaction, status: Reaction) -> Row {
    Row { codes: code..=code, meaning, answer, status, advice: None }
}

const fn pause(code: i32, meaning: &'static str, scope: PauseScope, advice: &'static str) -> Row {
    range(code..=code, meaning, Reaction::Pause(scope), advice)
}

/// The data of one campaign do not fit; see [`FailureClass::Configuration`].
const fn setup(code: i32, meaning: &'static str, advice: &'static str) -> Row {
    range(code..=code, meaning, CONFIGURATION, advice)
}

const fn range(codes: RangeInclusive<i32>, meaning: &'static str, reaction: Reaction, advice: &'static str) -> Row {
    Row { codes, meaning, answer: reaction, status: reaction, advice: Some(advice) }
}

const TOKEN: &str = "make a new access token in Meta's Business Manager and give it to the number with `ektola sender add`, then resume";
const PERMISSION: &str = "give the app the permissions whatsapp_business_messaging and whatsapp_business_management for this account in Meta's Business Manager, then resume";
const POLICY: &str = "read Meta's notice in the Business Manager's Account Quality, appeal or change what is sent, and resume only after that";
const NUMBER: &str = "look at the number in WhatsApp Manager, make it ready to send there, then resume";
const BILLING: &str = "mend the payment method of the account in Meta's Business Manager (accounts sold to India are billed in INR), then resume";
const PIN: &str = "set the number's two-step PIN in WhatsApp Manager and register the number again, then resume";
const TEMPLATE: &str = "compare the template with the one in WhatsApp Manager, bring it up to date with `ektola templates sync`, then resume or make another campaign";
const TEMPLATE_QUALITY: &str = "Meta has stopped the template because readers blocked or reported it; change its text or choose another template before you resume";
const DATA: &str =
    "compare the campaign's parameters with the template's variables; send a test message before you resume";

#[rustfmt::skip]
static TABLE: &[Row] = &[
    // The token, the app and its permissions.
    pause(0, "the access token could not be authenticated", PauseScope::Account, TOKEN),
    split(1, "invalid request or trouble at WhatsApp", AMBIGUOUS, PERMANENT),
    split(2, "temporary outage at WhatsApp", AMBIGUOUS, ONCE_MORE),
    pause(3, "a capability or permission is missing", PauseScope::Account, PERMISSION),
    row(4, "the app's call rate was exceeded", ACCOUNT_RATE),
    pause(10, "a permission is missing or was removed", PauseScope::Account, PERMISSION),
    pause(33, "the sender's number is not known or was deleted", PauseScope::Sender, NUMBER),
    setup(100, "invalid parameter", DATA),
    pause(190, "the access token has expired or is not valid", PauseScope::Account, TOKEN),
    range(200..=299, "a permission is missing", Reaction::Pause(PauseScope::Account), PERMISSION),
    pause(368, "the account is blocked for a policy violation", PauseScope::Account, POLICY),
    row(613, "the call rate was exceeded", ACCOUNT_RATE),
    row(80007, "the account's rate was exceeded", ACCOUNT_RATE),
    row(80008, "too many management calls for the account", ACCOUNT_RATE),

    // The number, the contact and the message.
    row(130403, "the business blocked this contact", STOPPED),
    row(130429, "the sender's throughput was exceeded", SENDER_RATE),
    row(130472, "withheld: the contact is part of an experiment", COOLING),
    row(130497, "the business may not send to this country", PERMANENT),
    split(131000, "something went wrong at WhatsApp", AMBIGUOUS, ONCE_MORE),
    pause(131005, "access denied", PauseScope::Account, PERMISSION),
    setup(131008, "a required parameter is missing", DATA),
    setup(131009, "a parameter has an invalid value", DATA),
    row(131014, "the request is not valid for this address", PERMANENT),
    split(131016, "the service is not available", AMBIGUOUS, ONCE_MORE),
    row(131021, "recipient and sender are the same", PERMANENT),
    row(131026, "the message cannot be delivered to this contact", UNDELIVERABLE),
    setup(131030, "the contact is not on the test number's list", DATA),
    pause(131031, "the account is locked", PauseScope::Account, POLICY),
    pause(131037, "the sender's display name is not approved", PauseScope::Sender, NUMBER),
    pause(131042, "the account's payment method has a problem", PauseScope::Account, BILLING),
    row(131043, "the message expired before it was delivered", PERMANENT),
    pause(131045, "the sender's number is not registered", PauseScope::Sender, NUMBER),
    row(131047, "more than 24 hours since the contact's last message", PERMANENT),
    pause(131048, "the sender is restricted because of spam reports", PauseScope::Sender, POLICY),
    row(131049, "withheld: the contact gets enough offers for now", COOLING),
    row(131050, "the contact stopped offers of this business", STOPPED),
    setup(131051, "unsupported message type", DATA),
    row(131052, "received media could not be downloaded", PERMANENT),
    row(131053, "the media of the message could not be processed", ONCE_MORE),
    setup(131055, "the method is not allowed for this message", TEMPLATE),
    row(131056, "too many messages to this contact in a short time", PAIR_RATE),
    row(131057, "the sender's account is in maintenance", MAINTENANCE),
    setup(131062, "this message needs a phone number as its recipient", DATA),
    setup(131063, "offers through the Cloud API are switched off for the account", TEMPLATE),
    pause(131064, "too many templates in the wrong category", PauseScope::Template, POLICY),

    // The template.
    pause(132000, "the number of parameters differs from the template's", PauseScope::Template, TEMPLATE),
    pause(132001, "the template does not exist or is not approved in this language", PauseScope::Template, TEMPLATE),
    row(132005, "the filled text is too long", PERMANENT),
    pause(132007, "the template violates a content policy", PauseScope::Template, POLICY),
    pause(132012, "a parameter has another format than the template's", PauseScope::Template, TEMPLATE),
    pause(132015, "the template is paused for its quality", PauseScope::Template, TEMPLATE_QUALITY),
    pause(132016, "the template is disabled for good", PauseScope::Template, TEMPLATE_QUALITY),
    setup(132018, "the template's parameters are not valid", DATA),
    pause(132068, "the template's flow is blocked", PauseScope::Template, TEMPLATE),
    pause(132069, "the template's flow is throttled", PauseScope::Template, TEMPLATE),

    // The registration of the number.
    pause(133000, "an earlier deregistration is incomplete", PauseScope::Sender, NUMBER),
    split(133004, "the server is temporarily not available", AMBIGUOUS, ONCE_MORE),
    pause(133005, "the two-step PIN is wrong", PauseScope::Sender, PIN),
    pause(133006, "the number must be verified again", PauseScope::Sender, PIN),
    pause(133008, "too many guesses of the two-step PIN", PauseScope::Sender, PIN),
    pause(133009, "the two-step PIN was entered too fast", PauseScope::Sender, PIN),
    pause(133010, "the sender's number is not registered on the platform", PauseScope::Sender, NUMBER),
    pause(133015, "the sender's number was deleted a moment ago", PauseScope::Sender, NUMBER),
    pause(133016, "too many registration attempts", PauseScope::Sender, NUMBER),

    // Payments, marketing messages, and the rest.
    pause(134011, "the payment terms are not accepted", PauseScope::Account, BILLING),
    setup(134100, "not a marketing template", TEMPLATE),
    row(134101, "the template is still being synchronised", TEMPLATE_SYNC),
    split(134102, "the template is not available", AMBIGUOUS, PERMANENT),
    // As a status of a message that was held: Meta has stopped the whole portfolio.
    Row {
        codes: 135000..=135000,
        meaning: "a fault of the request, or held messages were dropped",
        answer: PERMANENT,
        status: Reaction::Pause(PauseScope::Portfolio),
        advice: Some(POLICY),
    },
    row(137000, "the contact's identity has changed", UNDELIVERABLE),
    range(2_388_000..=2_388_999, "the template is not well formed", CONFIGURATION, TEMPLATE),
];

#[cfg(test)]
#[path = "reactions_tests.rs"]
mod tests;
