use chrono::{DateTime, Utc};
use cqrs_es::test::TestFramework;
use uuid::Uuid;

use super::{
    Acceptance, FailureClass, Lane, Message, MessageCommand as Command, MessageError as Error, MessageEvent as Event,
    MessageStatus as Status, Milestone, OnUnknown, Pricing, ReleaseReason, Resolution, SkipReason, Transition,
};
use crate::aggregate::{CommandEnvelope, Decider};
use crate::ids::{ContactId, RunId, SenderId, TenantId};

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));
const RUN: RunId = RunId(Uuid::from_u128(3));
const CONTACT: ContactId = ContactId(Uuid::from_u128(4));
const SENDER: SenderId = SenderId(Uuid::from_u128(5));
const JOURNAL: Uuid = Uuid::from_u128(6);

const NOW: i64 = 1_000;
const DUE: i64 = 900;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a valid time")
}

fn queue() -> Command {
    queue_with(OnUnknown::Hold)
}

fn queue_with(on_unknown: OnUnknown) -> Command {
    Command::QueueMessage { run_id: RUN, contact_id: CONTACT, sender_id: SENDER, lane: Lane::Utility, on_unknown }
}

fn skip() -> Command {
    Command::Skip { run_id: RUN, contact_id: CONTACT, sender_id: SENDER, reason: SkipReason::OptedOut }
}

fn begin(attempt: u32) -> Command {
    Command::BeginDispatch { attempt, deadline: at(NOW + 10), journal_id: JOURNAL }
}

fn release(attempt: u32) -> Command {
    Command::ReleaseDispatch { attempt, reason: ReleaseReason::RunPaused }
}

fn sent() -> Command {
    Command::MarkSent { attempt: None, acceptance: Acceptance::Accepted, at: at(1) }
}

/// The answer to the call of an attempt.
fn answered(attempt: u32) -> Command {
    Command::MarkSent { attempt: Some(attempt), acceptance: Acceptance::Accepted, at: at(1) }
}

fn pricing() -> Option<Pricing> {
    Some(Pricing { billable: Some(true), category: Some("utility".to_owned()), pricing_type: None })
}

fn delivered() -> Command {
    Command::MarkDelivered { at: at(2), pricing: pricing() }
}

fn read() -> Command {
    Command::MarkRead { at: at(3), pricing: None }
}

fn failed() -> Command {
    Command::MarkFailed { attempt: None, code: 131_026, class: FailureClass::Undeliverable, at: at(4) }
}

/// A status that reports a failure after acceptance; of this attempt, or without saying of which.
fn gave_up(attempt: Option<u32>) -> Command {
    Command::RetryFailed { attempt, code: 131_000, at: at(4), until: at(DUE), retries_max: 1 }
}

fn defer(attempt: u32) -> Command {
    Command::Defer { attempt, until: at(DUE), code: 131_056 }
}

fn unknown(attempt: u32) -> Command {
    Command::MarkOutcomeUnknown { attempt }
}

fn settle(resolution: Resolution) -> Command {
    Command::Settle { resolution }
}

fn moves(from: Status, to: Status, reached: &[Milestone]) -> Transition {
    Transition { run_id: RUN, from: Some(from), to, reached: reached.to_vec() }
}

fn starts_as(to: Status) -> Transition {
    Transition { run_id: RUN, from: None, to, reached: Vec::new() }
}

fn asked_by(tenant_id: TenantId, command: &Command) -> CommandEnvelope<Command> {
    CommandEnvelope::new(tenant_id, at(NOW), command.clone())
}

fn when(given: &[Event], envelope: CommandEnvelope<Command>) -> Result<Vec<Event>, Error> {
    TestFramework::<Message>::with(()).given(given.to_vec()).when(envelope).inspect_result()
}

fn fold(events: &[Event]) -> Message {
    let mut message = Message::default();
    for event in events {
        message.evolve(event);
    }
    message
}

/// The events of commands that must all succeed, one after the other.
fn after(commands: &[Command]) -> Vec<Event> {
    let mut events = Vec::new();
    for command in commands {
        events.extend(when(&events, asked_by(TENANT, command)).expect("the history is possible"));
    }
    events
}

/// The command leads to this event alone; a second time it leads to nothing; another tenant finds no message.
fn leads_to(given: &[Command], command: &Command, event: Event) {
    let mut events = after(given);
    if !events.is_empty() {
        refuses_strangers(&events, command);
    }
    assert_eq!(when(&events, asked_by(TENANT, command)), Ok(vec![event.clone()]), "{given:?}, then {command:?}");
    events.push(event);
    is_done_once(&events, command);
    refuses_strangers(&events, command);
}

/// A command that has succeeded yields nothing the next time. The exception is the right to call: an empty answer
/// must never look like a receipt.
fn is_done_once(events: &[Event], command: &Command) {
    let again = when(events, asked_by(TENANT, command));
    match command {
        Command::BeginDispatch { attempt, .. } => {
            assert_eq!(again, Err(Error::AttemptBegun { attempt: *attempt, latest: *attempt }), "after {events:?}");
        }
        command => assert_eq!(again, Ok(Vec::new()), "{command:?} twice, after {events:?}"),
    }
}

fn refuses_strangers(events: &[Event], command: &Command) {
    assert_eq!(when(events, asked_by(STRANGER, command)), Err(Error::NotFound), "{command:?} after {events:?}");
}

fn does_nothing(given: &[Command], command: &Command) {
    assert_eq!(when(&after(given), asked_by(TENANT, command)), Ok(Vec::new()), "{given:?}, then {command:?}");
}

fn is_refused(given: &[Command], command: &Command, error: Error) {
    assert_eq!(when(&after(given), asked_by(TENANT, command)), Err(error), "{given:?}, then {command:?}");
}

/// The shortest history that ends in this status.
fn reaching(status: Status) -> Vec<Command> {
    let tail = match status {
        Status::Skipped => return vec![skip()],
        Status::Pending => vec![],
        Status::Dispatching => vec![begin(1)],
        Status::Sent => vec![begin(1), sent()],
        Status::Delivered => vec![begin(1), delivered()],
        Status::Read => vec![begin(1), read()],
        Status::Failed => vec![begin(1), failed()],
        Status::Unknown => vec![begin(1), unknown(1)],
        Status::Unconfirmed => vec![begin(1), unknown(1), settle(Resolution::Unconfirmed)],
        Status::Expired => vec![Command::Expire],
        Status::Cancelled => vec![Command::Cancel],
    };
    [vec![queue()], tail].concat()
}

#[test]
fn every_status_can_be_reached() {
    for status in Status::ALL {
        assert_eq!(fold(&after(&reaching(status))).status(), Some(status));
    }
}

#[test]
fn a_message_starts_queued_or_skipped() {
    leads_to(
        &[],
        &queue(),
        Event::Queued {
            tenant_id: TENANT,
            transition: starts_as(Status::Pending),
            contact_id: CONTACT,
            sender_id: SENDER,
            lane: Lane::Utility,
            on_unknown: OnUnknown::Hold,
        },
    );
    leads_to(
        &[],
        &skip(),
        Event::Skipped {
            tenant_id: TENANT,
            transition: starts_as(Status::Skipped),
            contact_id: CONTACT,
            sender_id: SENDER,
            reason: SkipReason::OptedOut,
        },
    );
    does_nothing(&[queue()], &skip());
    does_nothing(&[skip()], &queue());
    does_nothing(&[queue(), begin(1), sent()], &queue());
}

#[test]
fn nothing_else_can_happen_to_a_message_that_does_not_exist() {
    for command in [
        begin(1),
        release(1),
        sent(),
        delivered(),
        read(),
        failed(),
        defer(1),
        unknown(1),
        settle(Resolution::Sent),
        Command::Expire,
        Command::Cancel,
    ] {
        is_refused(&[], &command, Error::NotFound);
    }
}

#[test]
fn a_claim_is_begun_and_given_back() {
    let started = |attempt| Event::DispatchStarted {
        transition: moves(Status::Pending, Status::Dispatching, &[]),
        attempt,
        deadline: at(NOW + 10),
        journal_id: JOURNAL,
    };
    leads_to(&[queue()], &begin(1), started(1));
    leads_to(&[queue(), begin(1), release(1)], &begin(2), started(2));
    leads_to(&[queue(), begin(1), defer(1)], &begin(2), started(2));
    let transition = moves(Status::Dispatching, Status::Pending, &[]);
    let reason = ReleaseReason::RunPaused;
    leads_to(&[queue(), begin(1)], &release(1), Event::DispatchReleased { transition, attempt: 1, reason });
}

#[test]
fn an_attempt_begins_once_whatever_happened_since() {
    let begun = || Error::AttemptBegun { attempt: 1, latest: 1 };
    let resend = settle(Resolution::Resend);
    for since in [vec![], vec![release(1)], vec![defer(1)], vec![sent()], vec![failed()], vec![unknown(1)]] {
        is_refused(&[vec![queue(), begin(1)], since].concat(), &begin(1), begun());
    }
    is_refused(&[queue_with(OnUnknown::Resend), begin(1), unknown(1), resend], &begin(1), begun());
    is_refused(&[queue(), begin(1), release(1), Command::Cancel], &begin(1), begun());
    let earlier = Error::AttemptBegun { attempt: 1, latest: 2 };
    is_refused(&[queue(), begin(1), release(1), begin(2)], &begin(1), earlier);
    is_refused(&[queue()], &begin(0), Error::AttemptBegun { attempt: 0, latest: 0 });
}

#[test]
fn attempts_begin_in_order() {
    is_refused(&[queue()], &begin(2), Error::AttemptOutOfOrder { attempt: 2, next: 1 });
    is_refused(&[queue(), begin(1), release(1)], &begin(3), Error::AttemptOutOfOrder { attempt: 3, next: 2 });
}

#[test]
fn only_a_pending_message_is_claimed() {
    for status in Status::ALL.into_iter().filter(|status| *status != Status::Pending) {
        is_refused(&reaching(status), &begin(2), Error::NotAllowed { status });
    }
}

#[test]
fn a_deferred_message_waits_for_its_time() {
    let given = after(&[queue(), begin(1), defer(1)]);
    let begin_at = |seconds| when(&given, CommandEnvelope::new(TENANT, at(seconds), begin(2)));
    assert_eq!(begin_at(DUE - 1), Err(Error::NotDue));
    assert_eq!(begin_at(DUE).expect("it is due").len(), 1);
}

#[test]
fn the_time_of_a_deferral_binds_no_later_attempt() {
    let given = after(&[queue(), begin(1), defer(1), begin(2), release(2)]);
    let third = when(&given, CommandEnvelope::new(TENANT, at(DUE - 1), begin(3)));
    assert_eq!(third.expect("it was released, not deferred").len(), 1);
}

#[test]
fn a_claim_that_is_not_open_has_nothing_to_give_back() {
    for since in [vec![], vec![begin(1), release(1), begin(2)], vec![begin(1), sent()], vec![begin(1), defer(1)]] {
        let given = [vec![queue()], since].concat();
        does_nothing(&given, &release(1));
        does_nothing(&given, &unknown(1));
    }
    does_nothing(&[queue(), begin(1)], &release(2));
    does_nothing(&[queue(), begin(1), unknown(1)], &release(1));
}

#[test]
fn a_later_fact_implies_the_earlier_ones() {
    use Milestone::{Attempted, Delivered, Read, Sent};
    let facts = |from, reached: [&[Milestone]; 3]| {
        [
            Event::Sent {
                transition: moves(from, Status::Sent, reached[0]),
                acceptance: Acceptance::Accepted,
                at: at(1),
            },
            Event::Delivered { transition: moves(from, Status::Delivered, reached[1]), at: at(2), pricing: pricing() },
            Event::Read { transition: moves(from, Status::Read, reached[2]), at: at(3), pricing: None },
        ]
    };
    let claimed = [queue(), begin(1)];
    let all: &[Milestone] = &[Attempted, Sent, Delivered, Read];
    let from_claim = facts(Status::Dispatching, [&all[..2], &all[..3], all]);
    let from_release = facts(Status::Pending, [&all[..2], &all[..3], all]);
    let from_unknown = facts(Status::Unknown, [&all[1..2], &all[1..3], &all[1..]]);
    for (number, command) in [sent(), delivered(), read()].into_iter().enumerate() {
        leads_to(&claimed, &command, from_claim[number].clone());
        // A claim that was wrongly taken for never called.
        leads_to(&[queue(), begin(1), release(1)], &command, from_release[number].clone());
        leads_to(&[queue(), begin(1), unknown(1)], &command, from_unknown[number].clone());
    }
    let [_, delivered_event, read_event] = facts(Status::Sent, [&[], &[Delivered], &[Delivered, Read]]);
    leads_to(&[queue(), begin(1), sent()], &delivered(), delivered_event);
    leads_to(&[queue(), begin(1), sent()], &read(), read_event);
    let [_, _, read_event] = facts(Status::Delivered, [&[], &[], &[Read]]);
    leads_to(&[queue(), begin(1), sent(), delivered()], &read(), read_event);
}

#[test]
fn statuses_out_of_order_change_nothing_that_is_known() {
    does_nothing(&[queue(), begin(1), delivered()], &sent());
    does_nothing(&[queue(), begin(1), read()], &sent());
    does_nothing(&[queue(), begin(1), read()], &delivered());
    does_nothing(&[queue(), begin(1), sent(), read()], &delivered());
}

#[test]
fn a_refusal_fails_a_message() {
    let event = |from, to, reached: &[Milestone]| Event::Failed {
        transition: moves(from, to, reached),
        code: 131_026,
        class: FailureClass::Undeliverable,
        at: at(4),
    };
    leads_to(&[queue(), begin(1)], &failed(), event(Status::Dispatching, Status::Failed, &[Milestone::Attempted]));
    leads_to(&[queue(), begin(1), sent()], &failed(), event(Status::Sent, Status::Failed, &[]));
    leads_to(&[queue(), begin(1), unknown(1)], &failed(), event(Status::Unknown, Status::Failed, &[]));
    // Recorded, but what reached the contact stays delivered or read.
    for (known, status) in [(delivered(), Status::Delivered), (read(), Status::Read)] {
        leads_to(&[queue(), begin(1), known], &failed(), event(status, status, &[]));
    }
}

#[test]
fn delivered_after_failed_shows_delivered_and_sent_does_not() {
    let transition = moves(Status::Failed, Status::Delivered, &[Milestone::Sent, Milestone::Delivered]);
    let event = Event::Delivered { transition, at: at(2), pricing: pricing() };
    leads_to(&[queue(), begin(1), failed()], &delivered(), event);
    let transition = moves(Status::Failed, Status::Failed, &[Milestone::Sent]);
    let event = Event::Sent { transition, acceptance: Acceptance::Accepted, at: at(1) };
    leads_to(&[queue(), begin(1), failed()], &sent(), event);
}

#[test]
fn whatsapp_has_no_status_for_a_message_that_was_never_handed_to_it() {
    for given in [queue(), skip()] {
        for command in [sent(), delivered(), read(), failed()] {
            is_refused(std::slice::from_ref(&given), &command, Error::NeverDispatched);
        }
    }
}

#[test]
fn a_retryable_refusal_defers_the_present_attempt() {
    let event = |from, reached: &[Milestone]| Event::Deferred {
        transition: moves(from, Status::Pending, reached),
        attempt: 1,
        until: at(DUE),
        code: 131_056,
        after_acceptance: false,
    };
    leads_to(&reaching(Status::Dispatching), &defer(1), event(Status::Dispatching, &[Milestone::Attempted]));
    for status in [Status::Sent, Status::Unknown, Status::Unconfirmed] {
        leads_to(&reaching(status), &defer(1), event(status, &[]));
    }
    for status in [Status::Delivered, Status::Read, Status::Failed] {
        is_refused(&reaching(status), &defer(1), Error::NotAllowed { status });
    }
    is_refused(&reaching(Status::Sent), &defer(2), Error::NotAllowed { status: Status::Sent });
    // Word of an attempt that another one followed.
    does_nothing(&[queue(), begin(1), release(1), begin(2)], &defer(1));
    does_nothing(&[queue(), begin(1), release(1)], &defer(1));
}

#[test]
fn what_whatsapp_gave_up_after_acceptance_is_tried_again_as_often_as_allowed() {
    let deferred = |from, attempt, reached: &[Milestone]| Event::Deferred {
        transition: moves(from, Status::Pending, reached),
        attempt,
        until: at(DUE),
        code: 131_000,
        after_acceptance: true,
    };
    let given_up = |from, to, reached: &[Milestone]| Event::Failed {
        transition: moves(from, to, reached),
        code: 131_000,
        class: FailureClass::RetriesExhausted,
        at: at(4),
    };
    for attempt in [None, Some(1)] {
        let dispatching = reaching(Status::Dispatching);
        leads_to(&dispatching, &gave_up(attempt), deferred(Status::Dispatching, 1, &[Milestone::Attempted]));
        for status in [Status::Sent, Status::Unknown, Status::Unconfirmed] {
            leads_to(&reaching(status), &gave_up(attempt), deferred(status, 1, &[]));
        }
        // What reached the contact is not sent again.
        for status in [Status::Delivered, Status::Read] {
            leads_to(&reaching(status), &gave_up(attempt), given_up(status, status, &[]));
        }
        does_nothing(&reaching(Status::Failed), &gave_up(attempt));
        let again = [queue(), begin(1), sent(), gave_up(attempt)];
        does_nothing(&again, &gave_up(attempt));
        let second = [&again[..], &[begin(2), answered(2)]].concat();
        leads_to(&second, &gave_up(attempt.map(|_| 2)), given_up(Status::Sent, Status::Failed, &[]));
    }
    is_refused(&[queue()], &gave_up(None), Error::NeverDispatched);
}

#[test]
fn an_acceptance_under_a_new_id_settles_the_latest_attempt() {
    let in_doubt = [queue(), begin(1), sent(), gave_up(Some(1)), begin(2), unknown(2)];
    does_nothing(&in_doubt, &sent());
    let confirm = Command::ConfirmLatestAttempt { at: at(1) };
    let event = Event::Sent {
        transition: moves(Status::Unknown, Status::Sent, &[]),
        acceptance: Acceptance::Accepted,
        at: at(1),
    };
    leads_to(&in_doubt, &confirm, event);
    does_nothing(&[&in_doubt[..], std::slice::from_ref(&confirm)].concat(), &confirm);
    does_nothing(&[queue(), begin(1), sent(), gave_up(Some(1))], &confirm);
    let resent = [
        queue_with(OnUnknown::Resend),
        begin(1),
        unknown(1),
        Command::Settle { resolution: Resolution::Resend },
        begin(2),
        unknown(2),
    ];
    does_nothing(&resent, &confirm);
}

/// The failure is reported first, and the word that WhatsApp had accepted comes behind it.
#[test]
fn an_acceptance_that_comes_after_its_failure_does_not_stop_the_retry() {
    let gave_up_first = [queue(), begin(1), gave_up(None)];
    for late in [answered(1), sent()] {
        does_nothing(&gave_up_first, &late);
        let again = [&gave_up_first[..], &[late.clone(), begin(2)]].concat();
        assert_eq!(fold(&after(&again)).status(), Some(Status::Dispatching), "{late:?}");
    }
    let in_doubt = [queue(), begin(1), unknown(1), gave_up(None)];
    does_nothing(&in_doubt, &sent());
    does_nothing(
        &gave_up_first,
        &Command::MarkFailed { attempt: Some(1), code: 1, class: FailureClass::Permanent, at: at(4) },
    );
}

#[test]
fn a_failure_of_an_earlier_attempt_is_not_taken_for_one_of_the_present() {
    let second = [queue(), begin(1), sent(), gave_up(Some(1)), begin(2), answered(2)];
    does_nothing(&second, &gave_up(Some(1)));
    does_nothing(
        &second,
        &Command::MarkFailed { attempt: Some(1), code: 1, class: FailureClass::Permanent, at: at(4) },
    );
}

#[test]
fn after_a_second_call_in_doubt_a_failure_without_its_attempt_is_never_retried() {
    let resent = [
        queue_with(OnUnknown::Resend),
        begin(1),
        unknown(1),
        Command::Settle { resolution: Resolution::Resend },
        begin(2),
        answered(2),
    ];
    let failed = Event::Failed {
        transition: moves(Status::Sent, Status::Failed, &[]),
        code: 131_000,
        class: FailureClass::RetriesExhausted,
        at: at(4),
    };
    leads_to(&resent, &gave_up(None), failed);
    assert_eq!(fold(&after(&[&resent[..], &[gave_up(Some(2))]].concat())).status(), Some(Status::Pending));
}

#[test]
fn a_late_sent_does_not_stop_the_retry() {
    let deferred = [queue(), begin(1), sent(), defer(1)];
    does_nothing(&deferred, &sent());
    assert_eq!(fold(&after(&[&deferred[..], &[sent(), begin(2)]].concat())).status(), Some(Status::Dispatching));
    // Nor is it taken for the outcome of the second attempt, whose own answer counts for the status, not again for the
    // funnel.
    let dispatching = [&deferred[..], &[begin(2)]].concat();
    does_nothing(&dispatching, &sent());
    does_nothing(&dispatching, &answered(1));
    let transition = moves(Status::Dispatching, Status::Sent, &[]);
    let event = Event::Sent { transition, acceptance: Acceptance::Accepted, at: at(1) };
    leads_to(&dispatching, &answered(2), event);
    does_nothing(&[&deferred[..], &[Command::Cancel]].concat(), &sent());
}

#[test]
fn a_deferral_that_is_repeated_later_is_not_a_second_one() {
    does_nothing(&[queue(), begin(1), defer(1), Command::Cancel], &defer(1));
    does_nothing(&[queue(), begin(1), defer(1), sent()], &defer(1));
}

#[test]
fn a_message_that_arrived_after_all_is_not_sent_again() {
    let arrived = [queue(), begin(1), sent(), defer(1), delivered()];
    assert_eq!(fold(&after(&arrived)).status(), Some(Status::Delivered));
    is_refused(&arrived, &begin(2), Error::NotAllowed { status: Status::Delivered });
}

#[test]
fn a_doubtful_outcome_is_unknown_and_can_be_settled() {
    let transition = moves(Status::Dispatching, Status::Unknown, &[Milestone::Attempted]);
    leads_to(&reaching(Status::Dispatching), &unknown(1), Event::OutcomeUnknown { transition, attempt: 1 });
    let transition = moves(Status::Unknown, Status::Unconfirmed, &[]);
    leads_to(&reaching(Status::Unknown), &settle(Resolution::Unconfirmed), Event::Unconfirmed { transition });
    for from in [Status::Unknown, Status::Unconfirmed] {
        let settled =
            |to, reached: &[_]| Event::Settled { transition: moves(from, to, reached), attempt: 1, at: at(NOW) };
        leads_to(&reaching(from), &settle(Resolution::Sent), settled(Status::Sent, &[Milestone::Sent]));
        leads_to(&reaching(from), &settle(Resolution::NotSent), settled(Status::Failed, &[]));
        is_refused(&reaching(from), &settle(Resolution::Resend), Error::NotAllowed { status: from });
        let mut may_resend = reaching(from);
        may_resend[0] = queue_with(OnUnknown::Resend);
        leads_to(&may_resend, &settle(Resolution::Resend), settled(Status::Pending, &[]));
        is_refused(&may_resend, &begin(1), Error::AttemptBegun { attempt: 1, latest: 1 });
        assert_eq!(
            fold(&after(&[&may_resend[..], &[settle(Resolution::Resend), begin(2)]].concat())).status(),
            Some(Status::Dispatching)
        );
    }
}

#[test]
fn what_is_not_in_doubt_is_not_settled() {
    let all = [Resolution::Unconfirmed, Resolution::Sent, Resolution::NotSent, Resolution::Resend];
    for resolution in all {
        // A webhook was faster.
        for status in [Status::Sent, Status::Delivered, Status::Read, Status::Failed] {
            does_nothing(&reaching(status), &settle(resolution));
        }
        for status in [Status::Pending, Status::Dispatching, Status::Skipped, Status::Expired, Status::Cancelled] {
            is_refused(&reaching(status), &settle(resolution), Error::NotAllowed { status });
        }
    }
}

#[test]
fn a_webhook_overrules_a_settlement() {
    let written_off = [&reaching(Status::Unknown)[..], &[settle(Resolution::NotSent)]].concat();
    assert_eq!(fold(&after(&[&written_off[..], &[delivered()]].concat())).status(), Some(Status::Delivered));
}

#[test]
fn only_a_pending_message_expires_or_is_cancelled() {
    for (command, end) in [(Command::Expire, Status::Expired), (Command::Cancel, Status::Cancelled)] {
        let event = |to| match to {
            Status::Expired => Event::Expired { transition: moves(Status::Pending, to, &[]) },
            _ => Event::Cancelled { transition: moves(Status::Pending, to, &[]) },
        };
        leads_to(&[queue()], &command, event(end));
        leads_to(&[queue(), begin(1), defer(1)], &command, event(end));
        for status in Status::ALL.into_iter().filter(|status| ![Status::Pending, end].contains(status)) {
            is_refused(&reaching(status), &command, Error::NotAllowed { status });
        }
    }
}
