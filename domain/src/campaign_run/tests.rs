use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cqrs_es::test::TestFramework;
use uuid::Uuid;

use super::{
    Audience, CampaignRun, CampaignRunCommand as Command, CampaignRunError as Error, CampaignRunEvent as Event,
    FrozenTemplate, RunDefinition, RunStatus as Status, StallReason,
};
use crate::aggregate::{CommandEnvelope, Decider, Position};
use crate::campaign::{ParameterMapping, Trigger};
use crate::ids::{CampaignId, SenderId, TemplateId, TenantId};
use crate::message::{Lane, MessageStatus, OnUnknown};

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));
const CAMPAIGN: Option<CampaignId> = Some(CampaignId(Uuid::from_u128(3)));

const OPEN: [Status; 3] = [Status::Running, Status::Paused, Status::Stalled];
const ENDED: [Status; 3] = [Status::Completed, Status::Cancelled, Status::Expired];

const RESOLVE: Command = Command::ResolveAudience { queued: 5, skipped: 2 };
const STALL: Command = Command::Stall { reason: StallReason::SetupMissing };

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_000, 0).expect("a valid time")
}

fn definition() -> RunDefinition {
    RunDefinition {
        campaign_id: CAMPAIGN,
        trigger: Trigger::Manual,
        nominal_at: now(),
        template: FrozenTemplate {
            template_id: TemplateId(Uuid::from_u128(4)),
            name: "reminder".to_owned(),
            language: "en".to_owned(),
            components: serde_json::json!([{"type": "BODY", "text": "Hello"}]),
            variables: Vec::new(),
        },
        parameters: ParameterMapping::new(),
        audience: Audience::Segment { name: "gold".to_owned() },
        sender_id: SenderId(Uuid::from_u128(5)),
        lane: Lane::Utility,
        on_unknown: OnUnknown::Hold,
    }
}

fn start() -> Command {
    Command::Start { definition: definition() }
}

fn counts(counts: &[(MessageStatus, u64)]) -> BTreeMap<MessageStatus, u64> {
    counts.iter().copied().collect()
}

fn complete_with(messages: &[(MessageStatus, u64)]) -> Command {
    Command::Complete { counts: counts(messages), as_of: 90 }
}

fn complete() -> Command {
    complete_with(&[(MessageStatus::Sent, 5), (MessageStatus::Skipped, 2), (MessageStatus::Pending, 0)])
}

fn paused(epoch: u32, cause: Option<Position>) -> Event {
    Event::Paused { epoch, cause }
}

fn resumed(epoch: u32, cause: Option<Position>) -> Event {
    Event::Resumed { epoch, cause }
}

fn asked_by(tenant_id: TenantId, command: &Command, cause: Option<Position>) -> CommandEnvelope<Command> {
    CommandEnvelope { tenant_id, at: now(), cause, command: command.clone() }
}

fn when(given: &[Event], envelope: CommandEnvelope<Command>) -> Result<Vec<Event>, Error> {
    TestFramework::<CampaignRun>::with(()).given(given.to_vec()).when(envelope).inspect_result()
}

fn fold(events: &[Event]) -> CampaignRun {
    let mut run = CampaignRun::default();
    for event in events {
        run.evolve(event);
    }
    run
}

/// The events of a person's commands that must all succeed, one after the other.
fn after(commands: &[Command]) -> Vec<Event> {
    caused(&commands.iter().map(|command| (command.clone(), None)).collect::<Vec<_>>())
}

/// The same, with what a saga reacted to.
fn caused(commands: &[(Command, Option<Position>)]) -> Vec<Event> {
    let mut events = Vec::new();
    for (command, cause) in commands {
        events.extend(when(&events, asked_by(TENANT, command, *cause)).expect("the history is possible"));
    }
    events
}

/// The command leads to this event alone, whoever gives it; a second time it leads to nothing; another tenant finds
/// no run.
fn leads_to(given: &[Command], command: &Command, event: impl Fn(Option<Position>) -> Event) {
    for cause in [None, Some(7)] {
        let mut events = after(given);
        let asked = |events: &[Event], tenant_id| when(events, asked_by(tenant_id, command, cause));
        if !events.is_empty() {
            assert_eq!(asked(&events, STRANGER), Err(Error::NotFound), "{command:?}");
        }
        assert_eq!(asked(&events, TENANT), Ok(vec![event(cause)]), "{given:?}, then {command:?}");
        events.push(event(cause));
        assert_eq!(asked(&events, TENANT), Ok(Vec::new()), "{command:?} twice");
        assert_eq!(asked(&events, STRANGER), Err(Error::NotFound), "{command:?}");
    }
}

fn does_nothing(given: &[Command], command: &Command) {
    for cause in [None, Some(7)] {
        assert_eq!(
            when(&after(given), asked_by(TENANT, command, cause)),
            Ok(Vec::new()),
            "{given:?}, then {command:?}"
        );
    }
}

/// Refused to a person; a saga's word is out of date and does nothing.
fn is_refused_in(statuses: &[Status], command: &Command) {
    for status in statuses.iter().copied() {
        let given = after(&reaching(status));
        let error = Error::NotAllowed { status };
        assert_eq!(when(&given, asked_by(TENANT, command, None)), Err(error), "{command:?}");
        assert_eq!(when(&given, asked_by(TENANT, command, Some(7))), Ok(Vec::new()), "{command:?} in {status:?}");
    }
}

fn reaching(status: Status) -> Vec<Command> {
    let tail = match status {
        Status::Running => vec![],
        Status::Paused => vec![Command::Pause],
        Status::Stalled => vec![STALL],
        Status::Completed => vec![RESOLVE, complete()],
        Status::Cancelled => vec![Command::Cancel],
        Status::Expired => vec![Command::Expire],
    };
    [vec![start()], tail].concat()
}

#[test]
fn every_status_can_be_reached() {
    for status in [OPEN, ENDED].concat() {
        assert_eq!(fold(&after(&reaching(status))).status(), Some(status));
        assert_eq!(status.has_ended(), ENDED.contains(&status));
    }
}

#[test]
fn a_run_starts_once() {
    leads_to(&[], &start(), |_| Event::Started { tenant_id: TENANT, definition: definition() });
    for status in [OPEN, ENDED].concat() {
        does_nothing(&reaching(status), &start());
    }
    let run = fold(&after(&[start()]));
    assert_eq!((run.tenant_id(), run.status()), (Some(TENANT), Some(Status::Running)));
    assert_eq!(run.definition(), Some(&definition()));
    assert!(!run.audience_resolved());
}

#[test]
fn nothing_else_can_happen_to_a_run_that_does_not_exist() {
    for command in [RESOLVE, Command::Pause, Command::Resume, Command::Cancel, Command::Expire, STALL, complete()] {
        for cause in [None, Some(7)] {
            assert_eq!(when(&[], asked_by(TENANT, &command, cause)), Err(Error::NotFound), "{command:?}");
        }
    }
}

#[test]
fn the_audience_closes_once_while_the_run_is_open() {
    for status in OPEN {
        leads_to(&reaching(status), &RESOLVE, |_| Event::AudienceResolved { queued: 5, skipped: 2 });
        let run = fold(&after(&[reaching(status), vec![RESOLVE]].concat()));
        assert!(run.audience_resolved());
        assert_eq!(run.status(), Some(status));
    }
    is_refused_in(&[Status::Cancelled, Status::Expired], &RESOLVE);
    does_nothing(&reaching(Status::Completed), &RESOLVE);
    does_nothing(&[start(), RESOLVE, Command::Cancel], &RESOLVE);
    does_nothing(&[start(), RESOLVE], &Command::ResolveAudience { queued: 6, skipped: 2 });
}

#[test]
fn a_run_is_paused_and_resumed() {
    leads_to(&reaching(Status::Running), &Command::Pause, |cause| paused(1, cause));
    leads_to(&reaching(Status::Stalled), &Command::Pause, |cause| paused(1, cause));
    leads_to(&reaching(Status::Paused), &Command::Resume, |cause| resumed(1, cause));
    leads_to(&reaching(Status::Stalled), &Command::Resume, |cause| resumed(0, cause));
    does_nothing(&reaching(Status::Running), &Command::Resume);
    is_refused_in(&ENDED, &Command::Pause);
    is_refused_in(&ENDED, &Command::Resume);
}

#[test]
fn the_epoch_counts_pauses() {
    let twice = [start(), Command::Pause, Command::Resume, Command::Pause, Command::Resume];
    assert_eq!(after(&twice)[1..], [paused(1, None), resumed(1, None), paused(2, None), resumed(2, None)]);
}

#[test]
fn what_was_heeded_is_not_heeded_again() {
    let given = caused(&[(start(), Some(5)), (Command::Pause, Some(10)), (Command::Resume, Some(20))]);
    assert_eq!(given[1..], [paused(1, Some(10)), resumed(1, Some(20))]);
    // The saga begins again from before the pause.
    for cause in [9, 10, 20] {
        assert_eq!(when(&given, asked_by(TENANT, &Command::Pause, Some(cause))), Ok(Vec::new()));
    }
    assert_eq!(when(&given, asked_by(TENANT, &Command::Pause, Some(21))), Ok(vec![paused(2, Some(21))]));
    // A person is always heeded, and does not make the saga's older word new.
    let mut given = given;
    given.extend(when(&given, asked_by(TENANT, &Command::Pause, None)).expect("it runs"));
    assert_eq!(given.last(), Some(&paused(2, None)));
    for cause in [10, 20] {
        assert_eq!(when(&given, asked_by(TENANT, &Command::Resume, Some(cause))), Ok(Vec::new()));
    }
    assert_eq!(when(&given, asked_by(TENANT, &Command::Resume, Some(21))), Ok(vec![resumed(2, Some(21))]));
}

#[test]
fn an_open_run_is_cancelled_or_expires() {
    for status in OPEN {
        leads_to(&reaching(status), &Command::Cancel, |_| Event::Cancelled { campaign_id: CAMPAIGN, at: now() });
        leads_to(&reaching(status), &Command::Expire, |_| Event::Expired { campaign_id: CAMPAIGN, at: now() });
    }
    is_refused_in(&[Status::Completed, Status::Expired], &Command::Cancel);
    is_refused_in(&[Status::Completed, Status::Cancelled], &Command::Expire);
}

#[test]
fn only_a_running_run_stalls() {
    let reason = StallReason::TemplateRefused { code: 132_015 };
    let stall = Command::Stall { reason: reason.clone() };
    leads_to(&reaching(Status::Running), &stall, |_| Event::Stalled { reason: reason.clone() });
    does_nothing(&reaching(Status::Stalled), &stall);
    is_refused_in(&[Status::Paused], &stall);
    is_refused_in(&ENDED, &stall);
}

#[test]
fn a_run_completes_when_nothing_of_it_is_open() {
    let messages = [
        (MessageStatus::Pending, 0),
        (MessageStatus::Dispatching, 0),
        (MessageStatus::Sent, 3),
        (MessageStatus::Unknown, 4),
        (MessageStatus::Cancelled, 1),
    ];
    for status in OPEN {
        leads_to(&[reaching(status), vec![RESOLVE]].concat(), &complete_with(&messages), |_| Event::Completed {
            campaign_id: CAMPAIGN,
            counts: counts(&messages),
            as_of: 90,
            at: now(),
        });
    }
    does_nothing(&reaching(Status::Completed), &complete_with(&[(MessageStatus::Pending, 1)]));
    is_refused_in(&[Status::Cancelled, Status::Expired], &complete());
}

#[test]
fn a_run_does_not_complete_early() {
    let refused = |given: &[Command], command, error: Error| {
        for cause in [None, Some(7)] {
            assert_eq!(when(&after(given), asked_by(TENANT, &command, cause)), Err(error.clone()), "{command:?}");
        }
    };
    refused(&[start()], complete(), Error::AudienceOpen);
    let open = [(MessageStatus::Pending, 2), (MessageStatus::Dispatching, 3), (MessageStatus::Sent, 9)];
    refused(&[start(), RESOLVE], complete_with(&open), Error::MessagesOpen { open: 5 });
    refused(&[start(), RESOLVE], complete_with(&open[1..]), Error::MessagesOpen { open: 3 });
}
