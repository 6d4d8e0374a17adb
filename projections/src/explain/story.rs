//! The facts as one outcome, one sentence, and the links that led there.

use chrono::{DateTime, Utc};
use domain::aggregate::Position;
use domain::campaign_run::{Audience, CampaignRunEvent};
use domain::consent::ConsentEvent;
use domain::message::{MessageEvent, MessageStatus, ReleaseReason, SkipReason};
use infrastructure::whatsapp::reactions::meaning;
use jiff::Timestamp;
use jiff::tz::TimeZoneDatabase;
use uuid::Uuid;

use super::facts::{Facts, Run};
use super::holds::{AHEAD_SHOWN, Hold};
use super::{Explanation, Link};

/// What the answer comes to.
struct Outcome {
    name: &'static str,
    reason: Option<String>,
    sentence: String,
}

impl Outcome {
    fn new(name: &'static str, reason: Option<&str>, sentence: String) -> Self {
        Self { name, reason: reason.map(str::to_owned), sentence }
    }
}

pub(super) fn tell(facts: &Facts, held: Option<Hold>, zone: &str) -> Explanation {
    let outcome = match &facts.run {
        None => Outcome::new("not_run", None, format!("{} has not run yet.", facts.campaign_name)),
        Some(run) => match facts.status() {
            Some(status) => of_message(facts, run, status, held, zone),
            None => without_message(facts, run, zone),
        },
    };
    Explanation {
        contact_id: facts.contact.0,
        campaign_id: facts.campaign.0,
        campaign_name: facts.campaign_name.clone(),
        run_id: facts.run.as_ref().map(|run| run.id.0),
        message_id: facts.message_id.map(Uuid::from),
        outcome: outcome.name,
        reason: outcome.reason,
        sentence: outcome.sentence,
        chain: facts.run.as_ref().map(|run| chain(facts, run)).unwrap_or_default(),
    }
}

/// In the order of the log. What happened to the run after the message had reached its end is left out.
fn chain(facts: &Facts, run: &Run) -> Vec<Link> {
    let mut links: Vec<Link> = run.trigger.iter().cloned().collect();
    let mut started = run.started.clone();
    if let Audience::Segment { name } = &run.definition.audience {
        let clause = match is_member_at(facts, started.position) {
            true => format!("the contact was in the segment {name:?}"),
            false if facts.message_id.is_some() => {
                format!("the contact was in the segment {name:?}, and was erased since")
            }
            false => format!("the contact was not in the segment {name:?}"),
        };
        started.text = format!("{}; {clause}", started.text);
    }
    let end = facts
        .message
        .last()
        .filter(|told| !told.event.transition().to.holds_run_open())
        .map_or(Position::MAX, |told| told.link.position);
    let begin = started.position;
    links.push(started);
    links.extend(run.later.iter().map(|told| told.link.clone()).filter(|link| link.position < end));
    // The last word before the run counts, and those that came while it was under way.
    let before = facts.consent.iter().rev().find(|told| told.link.position < begin);
    links.extend(before.map(|told| told.link.clone()));
    let during = |link: &Link| link.position > begin && link.position < end;
    links.extend(facts.consent.iter().map(|told| told.link.clone()).filter(during));
    links.extend(facts.message.iter().map(|told| told.link.clone()));
    links.sort_by_key(|link| link.position);
    links
}

fn is_member_at(facts: &Facts, position: Position) -> bool {
    facts.memberships.iter().any(|membership| membership.holds_at(position))
}

fn without_message(facts: &Facts, run: &Run, zone: &str) -> Outcome {
    let started = run.started.position;
    let Audience::Segment { name } = &run.definition.audience else {
        let sentence = "This run is a test message for one contact, who is another.".to_owned();
        return Outcome::new("not_in_audience", Some("other_contact"), sentence);
    };
    if is_member_at(facts, started) {
        return not_decided(facts, run, name, zone);
    }
    let when = format!("when {} resolved its audience at {}", of_run(run), local(run.started.time, zone));
    let earlier = facts.memberships.iter().rev().find(|membership| membership.to.is_some_and(|to| to <= started));
    let later = facts.memberships.iter().find(|membership| membership.from > started);
    let (reason, rest) = match (earlier, later, facts.erased_at()) {
        (_, _, Some(at)) => ("erased", format!("the contact's data were erased at {}", local(at, zone))),
        (None, Some(later), _) => match (later.added_at, facts.contact_created_at) {
            (Some(at), Some(created)) if created > run.started.time => {
                ("contact_added_later", format!("the contact was added at {}, after the run", local(at, zone)))
            }
            (Some(at), _) => ("added_later", format!("added at {}", local(at, zone))),
            (None, _) => ("added_later", "added later".to_owned()),
        },
        (Some(earlier), Some(later), _) => (
            "not_in_segment",
            format!("removed at {}, added again at {}", shown(earlier.removed_at, zone), shown(later.added_at, zone)),
        ),
        (Some(earlier), None, _) => ("removed_before", format!("removed at {}", shown(earlier.removed_at, zone))),
        (None, None, _) => ("never_in_segment", "the contact was never in it".to_owned()),
    };
    Outcome::new("not_in_audience", Some(reason), format!("Not in segment {name:?} {when}; {rest}."))
}

/// In the segment, and without a message.
fn not_decided(facts: &Facts, run: &Run, segment: &str, zone: &str) -> Outcome {
    let ended = run.later.iter().find_map(|told| match told.event {
        CampaignRunEvent::Cancelled { .. } => Some(("run_cancelled", "cancelled", told.link.time)),
        CampaignRunEvent::Expired { .. } => Some(("run_expired", "expired", told.link.time)),
        _ => None,
    });
    if let Some((reason, how, at)) = ended {
        let sentence = format!(
            "In segment {segment:?}, but {} was {how} at {} before it came to this contact.",
            of_run(run),
            local(at, zone)
        );
        return Outcome::new("not_reached", Some(reason), sentence);
    }
    if let Some(at) = facts.erased_at() {
        let sentence = format!("In segment {segment:?}, but the contact's data were erased at {}.", local(at, zone));
        return Outcome::new("not_reached", Some("erased"), sentence);
    }
    // It cannot be, and whoever asks must hear of it rather than wait.
    if run.later.iter().any(|told| matches!(told.event, CampaignRunEvent::AudienceResolved { .. })) {
        let sentence = format!(
            "In segment {segment:?}, but {} has resolved its audience without a decision about this contact. That is a fault \
             of the engine; please report it with the output of `ektola audit run {}`.",
            of_run(run),
            run.id
        );
        return Outcome::new("not_reached", Some("not_decided"), sentence);
    }
    let sentence = format!("In segment {segment:?}; {} is still working through its audience.", of_run(run));
    Outcome::new("resolving", Some("resolving"), sentence)
}

fn of_run(run: &Run) -> String {
    format!("run {}", run.id)
}

fn of_message(facts: &Facts, run: &Run, status: MessageStatus, held: Option<Hold>, zone: &str) -> Outcome {
    let name = status.name();
    let last = facts.message.iter().rev().map(|told| (&told.event, told.link.time));
    match status {
        MessageStatus::Pending => pending(name, held, zone),
        MessageStatus::Dispatching => {
            let sentence = "Claimed for a call to WhatsApp; the answer is awaited.".to_owned();
            Outcome::new(name, Some("call_under_way"), sentence)
        }
        MessageStatus::Skipped => skipped(facts, name),
        MessageStatus::Failed => failed(facts, name, zone),
        MessageStatus::Sent | MessageStatus::Delivered | MessageStatus::Read => {
            Outcome::new(name, None, reached(facts, status, zone))
        }
        MessageStatus::Unknown | MessageStatus::Unconfirmed => {
            let at = last.map(|(_, time)| time).next();
            let sentence = format!(
                "The call of {} may or may not have reached WhatsApp; it is not repeated, so that nobody gets the message \
                 twice. `ektola unknown` lists what can be done.",
                shown(at, zone)
            );
            Outcome::new(name, Some("outcome_unknown"), sentence)
        }
        MessageStatus::Expired => {
            Outcome::new(name, Some("expired"), "Its time passed before it could be sent.".to_owned())
        }
        MessageStatus::Cancelled => cancelled(facts, run, name, zone),
    }
}

fn pending(name: &'static str, held: Option<Hold>, zone: &str) -> Outcome {
    let Some(hold) = held else {
        return Outcome::new(name, Some("queued"), "Queued; it is sent when its turn comes.".to_owned());
    };
    let sentence = match &hold {
        Hold::RunPaused { since } => format!("Held: the run is paused since {}.", local(*since, zone)),
        Hold::RunStalled { since, reason } => format!(
            "Held: the engine has stopped the run at {} ({reason}); `ektola notices` says what to do.",
            local(*since, zone)
        ),
        Hold::Deferred { until, code, meaning } => format!(
            "Held: WhatsApp refused it for now with code {code}{}; it is tried again from {}.",
            in_words(*meaning),
            local(*until, zone)
        ),
        Hold::PairLimit { until } => format!(
            "Held by the pair limit: the contact had a message a moment ago; this one may go from {}.",
            local(*until, zone)
        ),
        Hold::Parked => "Set aside for a person: `ektola dead-letters list` says why.".to_owned(),
        Hold::Pacing { ahead, rate_per_s } => {
            let more = if *ahead >= AHEAD_SHOWN { "at least " } else { "" };
            format!(
                "Waiting for its turn: {more}{ahead} messages of the run are before it, and the number sends \
                 {rate_per_s} per second."
            )
        }
        Hold::Queued => "Queued for dispatch; it is sent within seconds.".to_owned(),
    };
    Outcome::new(name, Some(hold.reason()), sentence)
}

fn skipped(facts: &Facts, name: &'static str) -> Outcome {
    let reason = facts.message.iter().find_map(|told| match &told.event {
        MessageEvent::Skipped { reason, .. } => Some(*reason),
        _ => None,
    });
    let why = match reason {
        Some(SkipReason::MissingVariable) => {
            "a variable of the template has neither a value nor a fallback for this contact"
        }
        Some(SkipReason::InvalidVariable) => "a variable has a value for this contact that WhatsApp would refuse",
        Some(SkipReason::TextTooLong) => "a text is too long with this contact's values",
        Some(SkipReason::OptedOut) => "the contact wants no messages at all",
        Some(SkipReason::MarketingStopped) => "the contact wants no offers",
        Some(SkipReason::NoOptIn) => "nobody recorded that the contact agreed to such messages",
        Some(SkipReason::Undeliverable) => "a message to the contact could not be delivered a while ago",
        Some(SkipReason::Cooling) => "WhatsApp withholds offers to the contact for a while",
        Some(SkipReason::Erased) => "the contact was erased",
        None => "of a reason that the log does not say",
    };
    Outcome::new(name, reason.map(SkipReason::name), format!("Skipped: {why}."))
}

fn failed(facts: &Facts, name: &'static str, zone: &str) -> Outcome {
    let failure = facts.message.iter().rev().find_map(|told| match &told.event {
        MessageEvent::Failed { code, class, at, .. } => Some((*code, class.name(), *at)),
        MessageEvent::Deferred { code, .. } => Some((*code, "retries_exhausted", told.link.time)),
        _ => None,
    });
    match failure {
        Some((code, class, at)) => Outcome::new(
            name,
            Some(class),
            format!("Refused by WhatsApp at {} with code {code}{}.", local(at, zone), in_words(meaning(code))),
        ),
        None => Outcome::new(name, Some("settled"), "A person settled its unknown outcome as failed.".to_owned()),
    }
}

fn reached(facts: &Facts, status: MessageStatus, zone: &str) -> String {
    let when = facts.message.iter().rev().find_map(|told| match &told.event {
        MessageEvent::Sent { at, .. } if status == MessageStatus::Sent => Some(*at),
        MessageEvent::Delivered { at, .. } if status == MessageStatus::Delivered => Some(*at),
        MessageEvent::Read { at, .. } if status == MessageStatus::Read => Some(*at),
        _ => None,
    });
    let when = shown(when, zone);
    match status {
        MessageStatus::Read => format!("Read by the contact at {when}."),
        MessageStatus::Delivered => format!("Delivered to the contact's phone at {when}."),
        _ => format!("Accepted by WhatsApp at {when}; no delivery was reported so far."),
    }
}

fn cancelled(facts: &Facts, run: &Run, name: &'static str, zone: &str) -> Outcome {
    let at = facts.message.last().map(|told| told.link.time);
    let stopped = facts.message.iter().rev().any(|told| {
        matches!(told.event, MessageEvent::DispatchReleased { reason: ReleaseReason::ContactOptedOut, .. })
    });
    let word = facts.consent.iter().rev().find(|told| told.link.position > run.started.position);
    let ended = run.later.iter().any(|told| matches!(told.event, CampaignRunEvent::Cancelled { .. }));
    let (reason, why) = match (word, ended) {
        (Some(word), false) if matches!(word.event, ConsentEvent::Erased { .. }) => {
            ("erased", ": the contact's data were erased".to_owned())
        }
        (Some(word), false) => ("consent", format!(": {}", word.link.text)),
        (_, true) => ("run_cancelled", ": the run was cancelled".to_owned()),
        (None, false) if stopped => ("consent", ": the contact wants no such messages".to_owned()),
        (None, false) => ("cancelled", String::new()),
    };
    Outcome::new(name, Some(reason), format!("Cancelled at {} before it was sent{why}.", shown(at, zone)))
}

fn in_words(meaning: Option<&str>) -> String {
    meaning.map(|meaning| format!(" ({meaning})")).unwrap_or_default()
}

fn shown(time: Option<DateTime<Utc>>, zone: &str) -> String {
    time.map_or_else(|| "an unknown time".to_owned(), |time| local(time, zone))
}

fn local(time: DateTime<Utc>, zone: &str) -> String {
    let Ok(timestamp) = Timestamp::new(time.timestamp(), 0) else { return time.to_rfc3339() };
    match TimeZoneDatabase::bundled().get(zone) {
        Ok(found) => format!("{} {zone}", timestamp.to_zoned(found).strftime("%Y-%m-%d %H:%M:%S")),
        Err(_) => format!("{} UTC", timestamp.strftime("%Y-%m-%d %H:%M:%S")),
    }
}
