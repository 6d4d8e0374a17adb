use chrono::{DateTime, Utc};
use cqrs_es::test::TestFramework;
use jiff::civil;
use uuid::Uuid;

use super::{
    Campaign, CampaignCommand as Command, CampaignDefinition, CampaignError as Error, CampaignEvent as Event,
    CampaignStatus as Status, CampaignType, ParameterMapping, SkippedBecause, Trigger,
};
use crate::aggregate::{CommandEnvelope, Decider};
use crate::ids::{RunId, TemplateId, TenantId};
use crate::message::OnUnknown;
use crate::schedule::{Recurrence, Schedule};

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));
const NOW: i64 = 1_000;

const ALL: [Status; 5] = [Status::Draft, Status::Active, Status::Paused, Status::Completed, Status::Cancelled];

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a valid time")
}

fn local() -> civil::DateTime {
    civil::date(2026, 12, 1).at(10, 0, 0, 0)
}

fn definition(name: &str) -> CampaignDefinition {
    CampaignDefinition {
        name: name.to_owned(),
        template_id: TemplateId(Uuid::from_u128(3)),
        segment: "gold".to_owned(),
        campaign_type: CampaignType::Utility,
        schedule: Schedule::try_new(Recurrence::Daily, local(), None, "UTC").expect("a valid schedule"),
        parameters: ParameterMapping::new(),
        sender_id: None,
        on_unknown: OnUnknown::Hold,
    }
}

fn create() -> Command {
    Command::Create { definition: definition("first") }
}

fn revise(based_on: u32, name: &str) -> Command {
    Command::Revise { based_on, definition: definition(name) }
}

fn run(number: u128) -> RunId {
    RunId(Uuid::from_u128(number))
}

fn occurrence(revision: u32, nominal: i64) -> Command {
    let trigger = Trigger::Schedule { revision, local: local() };
    Command::TriggerRun { run_id: run(10), trigger, nominal_at: at(nominal) }
}

fn manual(number: u128, nominal: i64) -> Command {
    Command::TriggerRun { run_id: run(number), trigger: Trigger::Manual, nominal_at: at(nominal) }
}

fn skip(revision: u32, nominal: i64) -> Command {
    let because = SkippedBecause::Missed;
    Command::SkipOccurrence { revision, local: local(), nominal_at: at(nominal), because }
}

fn asked_by(tenant_id: TenantId, command: &Command) -> CommandEnvelope<Command> {
    CommandEnvelope::new(tenant_id, at(NOW), command.clone())
}

fn when(given: &[Event], envelope: CommandEnvelope<Command>) -> Result<Vec<Event>, Error> {
    TestFramework::<Campaign>::with(()).given(given.to_vec()).when(envelope).inspect_result()
}

fn fold(events: &[Event]) -> Campaign {
    let mut campaign = Campaign::default();
    for event in events {
        campaign.evolve(event);
    }
    campaign
}

/// The events of commands that must all succeed, one after the other.
fn after(commands: &[Command]) -> Vec<Event> {
    let mut events = Vec::new();
    for command in commands {
        events.extend(when(&events, asked_by(TENANT, command)).expect("the history is possible"));
    }
    events
}

/// The command leads to this event alone; a second time it leads to nothing; another tenant finds no campaign.
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

/// Refused to a person in these states. A saga is told the same while the campaign lives; once it has ended, the
/// saga's word is out of date and does nothing.
fn is_refused_in(statuses: &[Status], command: &Command) {
    for status in statuses.iter().copied() {
        let error = Error::NotAllowed { status };
        is_refused(&reaching(status), command, error.clone());
        let by_a_saga = when(&after(&reaching(status)), asked_by(TENANT, command).caused_by(7));
        let ended = matches!(status, Status::Completed | Status::Cancelled);
        assert_eq!(by_a_saga, if ended { Ok(Vec::new()) } else { Err(error) }, "{command:?} in {status:?}");
    }
}

fn reaching(status: Status) -> Vec<Command> {
    let tail = match status {
        Status::Draft => vec![],
        Status::Active => vec![Command::Activate],
        Status::Paused => vec![Command::Activate, Command::Pause],
        Status::Completed => vec![Command::Activate, Command::Complete],
        Status::Cancelled => vec![Command::Cancel],
    };
    [vec![create()], tail].concat()
}

#[test]
fn every_status_can_be_reached() {
    for status in ALL {
        assert_eq!(fold(&after(&reaching(status))).status(), Some(status));
    }
}

#[test]
fn a_campaign_is_created_as_a_draft() {
    leads_to(&[], &create(), Event::Created { tenant_id: TENANT, definition: definition("first") });
    does_nothing(&[create()], &Command::Create { definition: definition("another") });
    let campaign = fold(&after(&[create()]));
    assert_eq!(campaign.tenant_id(), Some(TENANT));
    assert_eq!(campaign.revision(), 1);
    assert_eq!(campaign.definition(), Some(&definition("first")));
    assert_eq!(campaign.last_nominal_at(), None);
}

#[test]
fn nothing_else_can_happen_to_a_campaign_that_does_not_exist() {
    let commands = [
        revise(1, "second"),
        Command::Activate,
        Command::Pause,
        Command::Resume,
        Command::Cancel,
        occurrence(1, 10),
        manual(20, 10),
        skip(1, 10),
        Command::Complete,
    ];
    for command in commands {
        is_refused(&[], &command, Error::NotFound);
    }
    let nobody = Campaign::default();
    assert_eq!((nobody.tenant_id(), nobody.status(), nobody.revision()), (None, None, 0));
}

#[test]
fn a_campaign_that_has_not_ended_can_be_revised() {
    for status in [Status::Draft, Status::Active, Status::Paused] {
        let event = Event::Revised { revision: 2, definition: definition("second") };
        leads_to(&reaching(status), &revise(1, "second"), event);
        let campaign = fold(&after(&[reaching(status), vec![revise(1, "second"), revise(2, "third")]].concat()));
        assert_eq!(campaign.status(), Some(status));
        assert_eq!(campaign.revision(), 3);
        assert_eq!(campaign.definition(), Some(&definition("third")));
    }
    is_refused_in(&[Status::Completed, Status::Cancelled], &revise(1, "second"));
}

#[test]
fn a_revision_of_something_older_is_refused_unless_it_changes_nothing() {
    let revised = [create(), revise(1, "second")];
    is_refused(&revised, &revise(1, "third"), Error::RevisionMoved { based_on: 1, current: 2 });
    is_refused(&revised, &revise(3, "third"), Error::RevisionMoved { based_on: 3, current: 2 });
    does_nothing(&revised, &revise(1, "second"));
    does_nothing(&revised, &revise(2, "second"));
    does_nothing(&[create(), revise(1, "second"), Command::Cancel], &revise(1, "second"));
}

#[test]
fn the_status_follows_people() {
    let now = at(NOW);
    leads_to(&reaching(Status::Draft), &Command::Activate, Event::Activated { at: now });
    is_refused_in(&[Status::Paused, Status::Completed, Status::Cancelled], &Command::Activate);

    leads_to(&reaching(Status::Active), &Command::Pause, Event::Paused { at: now });
    is_refused_in(&[Status::Draft, Status::Completed, Status::Cancelled], &Command::Pause);

    leads_to(&reaching(Status::Paused), &Command::Resume, Event::Resumed { at: now });
    does_nothing(&reaching(Status::Active), &Command::Resume);
    is_refused_in(&[Status::Draft, Status::Completed, Status::Cancelled], &Command::Resume);
    assert_eq!(
        fold(&after(&[reaching(Status::Paused), vec![Command::Resume]].concat())).status(),
        Some(Status::Active)
    );

    for status in [Status::Draft, Status::Active, Status::Paused] {
        leads_to(&reaching(status), &Command::Cancel, Event::Cancelled { at: now });
    }
    is_refused_in(&[Status::Completed], &Command::Cancel);

    leads_to(&reaching(Status::Active), &Command::Complete, Event::Completed { at: now });
    is_refused_in(&[Status::Draft, Status::Paused, Status::Cancelled], &Command::Complete);
}

#[test]
fn an_occurrence_is_run_once() {
    let trigger = Trigger::Schedule { revision: 1, local: local() };
    let event = Event::RunTriggered { run_id: run(10), trigger, nominal_at: at(50) };
    leads_to(&reaching(Status::Active), &occurrence(1, 50), event);
    is_refused_in(&[Status::Draft, Status::Paused, Status::Completed, Status::Cancelled], &occurrence(1, 50));

    let ran = [create(), Command::Activate, occurrence(1, 50)];
    assert_eq!(fold(&after(&ran)).last_nominal_at(), Some(at(50)));
    // The same one and those before it, run or skipped, also under a newer revision and in any later state.
    for later in [vec![], vec![Command::Pause], vec![Command::Cancel], vec![revise(1, "second")]] {
        let given = [&ran[..], &later].concat();
        for nominal in [49, 50] {
            does_nothing(&given, &occurrence(1, nominal));
            does_nothing(&given, &occurrence(2, nominal));
            does_nothing(&given, &skip(1, nominal));
        }
    }
    assert_eq!(fold(&after(&[&ran[..], &[occurrence(1, 51)]].concat())).last_nominal_at(), Some(at(51)));
}

#[test]
fn an_occurrence_is_skipped_once() {
    let event =
        Event::OccurrenceSkipped { revision: 1, local: local(), nominal_at: at(50), because: SkippedBecause::Missed };
    for status in [Status::Active, Status::Paused] {
        leads_to(&reaching(status), &skip(1, 50), event.clone());
    }
    is_refused_in(&[Status::Draft, Status::Completed, Status::Cancelled], &skip(1, 50));
    let skipped = [create(), Command::Activate, skip(1, 50)];
    assert_eq!(fold(&after(&skipped)).last_nominal_at(), Some(at(50)));
    does_nothing(&skipped, &occurrence(1, 50));
    does_nothing(&skipped, &skip(1, 40));
}

#[test]
fn an_occurrence_of_another_revision_is_refused() {
    let given = [create(), Command::Activate, revise(1, "second")];
    let moved = |based_on| Error::RevisionMoved { based_on, current: 2 };
    for based_on in [1, 3] {
        is_refused(&given, &occurrence(based_on, 50), moved(based_on));
        is_refused(&given, &skip(based_on, 50), moved(based_on));
    }
}

#[test]
fn a_person_triggers_a_run_once_per_key() {
    let event = Event::RunTriggered { run_id: run(20), trigger: Trigger::Manual, nominal_at: at(50) };
    leads_to(&reaching(Status::Active), &manual(20, 50), event);
    is_refused_in(&[Status::Draft, Status::Paused, Status::Completed, Status::Cancelled], &manual(20, 50));

    let ran = [create(), Command::Activate, manual(20, 50)];
    does_nothing(&ran, &manual(20, 60));
    does_nothing(&[&ran[..], &[manual(21, 50), Command::Pause]].concat(), &manual(20, 70));
    assert_eq!(after(&[&ran[..], &[manual(21, 50)]].concat()).len(), 4, "another key is another run");
}

#[test]
fn a_persons_run_takes_no_occurrences_place() {
    let given = [create(), Command::Activate, manual(20, 60)];
    assert_eq!(fold(&after(&given)).last_nominal_at(), None);
    let trigger = Trigger::Schedule { revision: 1, local: local() };
    let event = Event::RunTriggered { run_id: run(10), trigger, nominal_at: at(50) };
    leads_to(&given, &occurrence(1, 50), event);
}

#[test]
fn a_campaign_sends_no_test_messages() {
    let test = Command::TriggerRun { run_id: run(30), trigger: Trigger::Test, nominal_at: at(50) };
    is_refused_in(&ALL, &test);
}
