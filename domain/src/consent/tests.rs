use chrono::{DateTime, Utc};
use cqrs_es::test::TestFramework;
use uuid::Uuid;

use super::{
    Consent, ConsentCommand as Command, ConsentError as Error, ConsentEvent as Event, ConsentSource as Source,
};
use crate::aggregate::{CommandEnvelope, Decider};
use crate::ids::TenantId;
use crate::message::{Lane, SkipReason};

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));

const OF_THE_CONTACT: [Source; 2] = [Source::Keyword, Source::UserPreferences];
const OF_OTHERS: [Source; 4] = [Source::Upload, Source::ProviderRefusal, Source::Api, Source::Operator];

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000, 0).expect("a valid time")
}

fn opt_in(source: Source) -> Command {
    Command::OptIn { source, wording: Some("Send me offers".to_owned()), said_at: now() }
}

fn opt_out() -> Command {
    Command::OptOut { source: Source::Operator, said_at: now() }
}

fn stop() -> Command {
    Command::StopMarketing { source: Source::ProviderRefusal, said_at: now() }
}

fn resume(source: Source) -> Command {
    Command::ResumeMarketing { source, said_at: now() }
}

fn opted_in(source: Source) -> Event {
    Event::OptedIn { tenant_id: TENANT, source, wording: Some("Send me offers".to_owned()), at: now() }
}

fn resumed(source: Source) -> Event {
    Event::MarketingResumed { tenant_id: TENANT, source, at: now() }
}

fn seconds_later(seconds: i64) -> DateTime<Utc> {
    now() + chrono::TimeDelta::seconds(seconds)
}

fn asked_by(tenant_id: TenantId, command: &Command) -> CommandEnvelope<Command> {
    CommandEnvelope::new(tenant_id, now(), command.clone())
}

fn when(given: &[Event], envelope: CommandEnvelope<Command>) -> Result<Vec<Event>, Error> {
    TestFramework::<Consent>::with(()).given(given.to_vec()).when(envelope).inspect_result()
}

/// The events of commands that must all succeed, one after the other.
fn after(commands: &[Command]) -> Vec<Event> {
    let mut events = Vec::new();
    for command in commands {
        events.extend(when(&events, asked_by(TENANT, command)).expect("the history is possible"));
    }
    events
}

/// The command leads to this event alone; a second time it leads to nothing; another tenant finds no contact.
fn leads_to(given: &[Command], command: &Command, event: Event) {
    let mut events = after(given);
    if !events.is_empty() {
        assert_eq!(when(&events, asked_by(STRANGER, command)), Err(Error::NotFound), "{command:?}");
    }
    assert_eq!(when(&events, asked_by(TENANT, command)), Ok(vec![event.clone()]), "{given:?}, then {command:?}");
    events.push(event);
    assert_eq!(when(&events, asked_by(TENANT, command)), Ok(Vec::new()), "{command:?} twice");
    assert_eq!(when(&events, asked_by(STRANGER, command)), Err(Error::NotFound), "{command:?}");
}

fn does_nothing(given: &[Command], command: &Command) {
    assert_eq!(when(&after(given), asked_by(TENANT, command)), Ok(Vec::new()), "{given:?}, then {command:?}");
}

fn is_refused(given: &[Command], command: &Command, error: Error) {
    assert_eq!(when(&after(given), asked_by(TENANT, command)), Err(error), "{given:?}, then {command:?}");
}

/// What the contact refuses after these commands: reminders, offers.
fn refusals(commands: &[Command]) -> [Option<SkipReason>; 2] {
    let mut consent = Consent::default();
    for event in after(commands) {
        consent.evolve(&event);
    }
    [Lane::Utility, Lane::Marketing].map(|lane| {
        assert_eq!(consent.allows(lane), consent.refusal(lane).is_none());
        consent.refusal(lane)
    })
}

#[test]
fn every_word_may_be_the_first() {
    let source = Source::Operator;
    leads_to(&[], &opt_in(Source::Upload), opted_in(Source::Upload));
    leads_to(&[], &opt_out(), Event::OptedOut { tenant_id: TENANT, source, at: now() });
    let source = Source::ProviderRefusal;
    leads_to(&[], &stop(), Event::MarketingStopped { tenant_id: TENANT, source, at: now() });
    leads_to(&[], &Command::Erase, Event::Erased { tenant_id: TENANT, at: now() });
    // Nothing was stopped, so there is nothing to resume.
    does_nothing(&[], &resume(Source::Keyword));
}

#[test]
fn what_a_contact_allows() {
    let (out, stopped, erased) =
        (Some(SkipReason::OptedOut), Some(SkipReason::MarketingStopped), Some(SkipReason::Erased));
    let contact = Source::Keyword;
    let table: [(&[Command], _); 11] = [
        (&[], [None, None]),
        (&[opt_in(Source::Upload)], [None, None]),
        (&[stop()], [None, stopped]),
        (&[opt_out()], [out, out]),
        (&[stop(), opt_out()], [out, out]),
        (&[stop(), resume(Source::Operator)], [None, None]),
        (&[opt_out(), opt_in(contact)], [None, None]),
        (&[stop(), opt_out(), opt_in(contact)], [None, stopped]),
        (&[stop(), opt_out(), resume(contact)], [None, None]),
        (&[opt_in(contact), opt_out()], [out, out]),
        (&[stop(), opt_out(), Command::Erase], [erased, erased]),
    ];
    for (commands, expected) in table {
        assert_eq!(refusals(commands), expected, "{commands:?}");
    }
}

#[test]
fn only_the_contact_lifts_an_opt_out() {
    for source in OF_THE_CONTACT {
        leads_to(&[opt_out()], &opt_in(source), opted_in(source));
        leads_to(&[opt_out()], &resume(source), resumed(source));
        leads_to(&[opt_in(Source::Upload), opt_out()], &opt_in(source), opted_in(source));
    }
    for source in OF_OTHERS {
        is_refused(&[opt_out()], &opt_in(source), Error::OptedOut);
        is_refused(&[opt_out()], &resume(source), Error::OptedOut);
        is_refused(&[opt_in(Source::Upload), opt_out()], &opt_in(source), Error::OptedOut);
        is_refused(&[stop(), opt_out()], &resume(source), Error::OptedOut);
    }
}

#[test]
fn anybody_lifts_a_stop_of_offers_by_name_and_nobody_by_an_opt_in() {
    for source in [&OF_THE_CONTACT[..], &OF_OTHERS[..]].concat() {
        leads_to(&[stop()], &resume(source), resumed(source));
        leads_to(&[stop()], &opt_in(source), opted_in(source));
        assert_eq!(refusals(&[stop(), opt_in(source)]), [None, Some(SkipReason::MarketingStopped)]);
    }
}

#[test]
fn what_is_known_is_not_said_again() {
    does_nothing(&[opt_in(Source::Upload)], &opt_in(Source::Keyword));
    does_nothing(&[opt_in(Source::Upload), stop()], &opt_in(Source::Keyword));
    does_nothing(&[opt_out()], &Command::OptOut { source: Source::Api, said_at: now() });
    does_nothing(&[stop()], &Command::StopMarketing { source: Source::UserPreferences, said_at: now() });
    does_nothing(&[opt_out()], &Command::StopMarketing { source: Source::Operator, said_at: now() });
    does_nothing(&[opt_in(Source::Upload)], &resume(Source::Keyword));
}

#[test]
fn offers_stop_before_everything_does() {
    let event = Event::OptedOut { tenant_id: TENANT, source: Source::Operator, at: now() };
    leads_to(&[stop()], &opt_out(), event);
}

#[test]
fn an_erased_contact_says_nothing_any_more() {
    for given in [vec![], vec![opt_in(Source::Upload)], vec![opt_out()], vec![stop()]] {
        leads_to(&given, &Command::Erase, Event::Erased { tenant_id: TENANT, at: now() });
        let erased = [given, vec![Command::Erase]].concat();
        for command in [opt_in(Source::Keyword), opt_out(), stop(), resume(Source::Keyword)] {
            is_refused(&erased, &command, Error::Erased);
        }
    }
}

/// WhatsApp delivers late and out of order: what was said last counts, whenever it becomes known.
#[test]
fn a_word_that_comes_late_does_not_undo_a_later_one() {
    let said_at = seconds_later(10);
    let stop_at = |source, said_at| Command::StopMarketing { source, said_at };
    let out_at = |source, said_at| Command::OptOut { source, said_at };
    let resume_at = |source, said_at| Command::ResumeMarketing { source, said_at };
    let agree_at = |source, said_at| Command::OptIn { source, wording: None, said_at };
    let stopped_and_resumed = [stop(), resume_at(Source::Keyword, said_at)];
    for source in [Source::Keyword, Source::UserPreferences, Source::ProviderRefusal] {
        does_nothing(&stopped_and_resumed, &stop_at(source, seconds_later(9)));
        does_nothing(&stopped_and_resumed, &out_at(source, seconds_later(9)));
        let event = Event::MarketingStopped { tenant_id: TENANT, source, at: said_at };
        // In the same second nobody can tell which was first: in doubt it stops.
        leads_to(&stopped_and_resumed, &stop_at(source, said_at), event);
    }
    for given in [stop_at(Source::Keyword, said_at), out_at(Source::UserPreferences, said_at)] {
        for source in OF_THE_CONTACT {
            does_nothing(std::slice::from_ref(&given), &resume_at(source, seconds_later(9)));
            does_nothing(std::slice::from_ref(&given), &agree_at(source, seconds_later(9)));
        }
    }
    does_nothing(&[stop(), agree_at(Source::Keyword, said_at)], &out_at(Source::Keyword, seconds_later(9)));
}

/// A stop that is said again changes nothing now, but a resumption from in between must not lift it when it comes.
#[test]
fn a_stop_that_is_said_again_outlasts_a_late_resumption() {
    let stop_at = |seconds| Command::StopMarketing { source: Source::Keyword, said_at: seconds_later(seconds) };
    let late = Command::ResumeMarketing { source: Source::Keyword, said_at: seconds_later(15) };
    let out = Command::OptOut { source: Source::Keyword, said_at: seconds_later(10) };
    for first in [stop_at(10), out, opt_out()] {
        let event = Event::MarketingStopped { tenant_id: TENANT, source: Source::Keyword, at: seconds_later(20) };
        leads_to(std::slice::from_ref(&first), &stop_at(20), event);
        let again = [first, stop_at(20)];
        does_nothing(&again, &late);
        does_nothing(&again, &stop_at(20));
    }
}

/// The tenant's clock is another one than WhatsApp's: what it says counts when it says it.
#[test]
fn the_tenants_word_counts_whatever_its_clock_shows() {
    let later = seconds_later(10);
    let given = [stop(), Command::ResumeMarketing { source: Source::Keyword, said_at: later }];
    for source in [Source::Api, Source::Operator] {
        let event = Event::OptedOut { tenant_id: TENANT, source, at: now() };
        leads_to(&given, &Command::OptOut { source, said_at: now() }, event);
    }
    let out_later = Command::OptOut { source: Source::Operator, said_at: later };
    leads_to(&[out_later], &resume(Source::Keyword), resumed(Source::Keyword));
}
