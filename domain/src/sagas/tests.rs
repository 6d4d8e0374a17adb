use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use jiff::civil;
use uuid::Uuid;

use super::*;
use crate::aggregate::Position;
use crate::campaign::{CampaignEvent, CampaignType, ParameterMapping, SkippedBecause};
use crate::campaign_run::CampaignRunEvent;
use crate::event::Event;
use crate::ids::{ContactId, SenderId, TemplateId};
use crate::message::{Lane, MessageEvent, MessageStatus, OnUnknown, Transition};
use crate::schedule::{Recurrence, Schedule};

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const CAMPAIGN: CampaignId = CampaignId(Uuid::from_u128(2));
const RUN: RunId = RunId(Uuid::from_u128(3));

/// Local time and UTC are the same in these tests' zone; zones are the schedule's own matter.
fn day(day: i8, hour: i8) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::days(20_788 + i64::from(day)) + TimeDelta::hours(i64::from(hour))
}

fn local(at: DateTime<Utc>) -> civil::DateTime {
    let text = at.naive_utc().format("%Y-%m-%dT%H:%M:%S").to_string();
    text.parse().expect("a civil time")
}

fn definition(recurrence: Recurrence, start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> CampaignDefinition {
    CampaignDefinition {
        name: "Reminders".to_owned(),
        template_id: TemplateId(Uuid::from_u128(4)),
        segment: "gold".to_owned(),
        campaign_type: CampaignType::Utility,
        schedule: Schedule::try_new(recurrence, local(start), end.map(local), "UTC").expect("a valid schedule"),
        parameters: ParameterMapping::new(),
        sender_id: None,
        on_unknown: OnUnknown::Hold,
    }
}

/// Plays events into a saga, one position after the other, and collects what it asks for.
struct Player<S: Saga> {
    state: S::State,
    position: Position,
}

impl<S: Saga> Player<S> {
    fn new() -> Self {
        Self { state: S::State::default(), position: 0 }
    }

    fn play(&mut self, aggregate_id: impl Into<Uuid>, event: Event) -> Vec<SagaRequest> {
        self.position += 1;
        let event = RecordedEvent {
            position: self.position,
            tenant_id: TENANT,
            aggregate_id: aggregate_id.into(),
            sequence: 1,
            at: day(0, 0),
            event,
        };
        assert!(S::key(&event).is_some(), "the saga does not care for {event:?}");
        let commands = S::react(&mut self.state, &event);
        assert!(commands.iter().all(|command| command.cause == Some(self.position) && command.tenant_id == TENANT));
        commands.into_iter().map(|command| command.request).collect()
    }

    fn campaign(&mut self, event: CampaignEvent) -> Vec<SagaRequest> {
        self.play(CAMPAIGN, Event::Campaign(event))
    }

    fn run(&mut self, run: RunId, event: CampaignRunEvent) -> Vec<SagaRequest> {
        self.play(run, Event::CampaignRun(event))
    }

    fn wake(&self, now: DateTime<Utc>) -> Vec<CampaignCommand> {
        S::wake(&self.state, CAMPAIGN.0, now)
            .into_iter()
            .map(|command| match command.request {
                SagaRequest::Campaign(id, command) => {
                    assert_eq!(id, CAMPAIGN);
                    command
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    fn timer(&self) -> Option<DateTime<Utc>> {
        S::timer(&self.state)
    }
}

fn scheduled(recurrence: Recurrence, start: DateTime<Utc>, end: Option<DateTime<Utc>>) -> Player<ScheduleSaga> {
    let mut player = Player::new();
    player.campaign(CampaignEvent::Created { tenant_id: TENANT, definition: definition(recurrence, start, end) });
    player
}

/// Feeds a command's event back, as the log does.
fn happen(player: &mut Player<ScheduleSaga>, command: CampaignCommand) {
    player.campaign(match command {
        CampaignCommand::TriggerRun { run_id, trigger, nominal_at } => {
            CampaignEvent::RunTriggered { run_id, trigger, nominal_at }
        }
        CampaignCommand::SkipOccurrence { revision, local, nominal_at, because } => {
            CampaignEvent::OccurrenceSkipped { revision, local, nominal_at, because }
        }
        other => panic!("{other:?}"),
    });
}

fn triggered_at(command: &CampaignCommand) -> Option<DateTime<Utc>> {
    match command {
        CampaignCommand::TriggerRun { nominal_at, .. } => Some(*nominal_at),
        _ => None,
    }
}

fn skipped_at(command: &CampaignCommand) -> Option<(DateTime<Utc>, SkippedBecause)> {
    match command {
        CampaignCommand::SkipOccurrence { nominal_at, because, .. } => Some((*nominal_at, *because)),
        _ => None,
    }
}

fn run_ended(player: &mut Player<ScheduleSaga>, run: RunId) {
    let counts = BTreeMap::new();
    player.run(run, CampaignRunEvent::Completed { campaign_id: Some(CAMPAIGN), counts, as_of: 1, at: day(0, 0) });
}

#[test]
fn a_draft_waits_for_nothing() {
    let player = scheduled(Recurrence::Daily, day(1, 10), None);
    assert_eq!(player.timer(), None);
    assert!(player.wake(day(9, 0)).is_empty());
}

#[test]
fn a_daily_campaign_runs_each_day_and_once_a_day() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    for date in 1..4 {
        assert_eq!(player.timer(), Some(day(date, 10)));
        assert!(player.wake(day(date, 9)).is_empty(), "too early");
        let commands = player.wake(day(date, 10));
        assert_eq!(commands.iter().map(triggered_at).collect::<Vec<_>>(), [Some(day(date, 10))]);
        assert_eq!(commands, player.wake(day(date, 11)), "the same occurrence is the same run");
        happen(&mut player, commands.into_iter().next().expect("one command"));
        assert!(player.wake(day(date, 11)).is_empty(), "run already");
    }
}

#[test]
fn a_recurring_campaign_whose_start_has_passed_waits_for_its_next_occurrence() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(5, 12) });
    assert_eq!(player.timer(), Some(day(6, 10)));
    assert!(player.wake(day(6, 9)).is_empty());
}

#[test]
fn a_once_campaign_whose_start_has_passed_runs_on_activation_and_then_completes() {
    let mut player = scheduled(Recurrence::Once, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(5, 12) });
    assert_eq!(player.timer(), Some(day(1, 10)));
    let commands = player.wake(day(5, 12));
    assert_eq!(commands.iter().map(triggered_at).collect::<Vec<_>>(), [Some(day(1, 10))]);
    let CampaignCommand::TriggerRun { run_id, .. } = commands[0] else { panic!("no run") };
    happen(&mut player, commands.into_iter().next().expect("one command"));
    assert_eq!(player.timer(), None, "its run is still open");
    assert!(player.wake(day(5, 13)).is_empty());
    run_ended(&mut player, run_id);
    assert!(player.timer().is_some());
    assert_eq!(player.wake(day(5, 14)), [CampaignCommand::Complete]);
}

#[test]
fn after_an_absence_the_latest_occurrence_runs_and_those_before_it_are_skipped() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    let commands = player.wake(day(4, 18));
    let missed = |date| Some((day(date, 10), SkippedBecause::Missed));
    assert_eq!(commands[..3].iter().map(skipped_at).collect::<Vec<_>>(), [missed(1), missed(2), missed(3)]);
    assert_eq!(commands[3..].iter().map(triggered_at).collect::<Vec<_>>(), [Some(day(4, 10))]);
    for command in commands {
        happen(&mut player, command);
    }
    assert_eq!(player.timer(), Some(day(5, 10)));
}

#[test]
fn after_a_year_of_absence_one_occurrence_runs() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    let now = day(0, 12) + TimeDelta::days(365);
    let mut triggered = Vec::new();
    for _ in 0..10 {
        for command in player.wake(now) {
            triggered.extend(triggered_at(&command));
            happen(&mut player, command);
        }
    }
    assert_eq!(triggered, [day(0, 10) + TimeDelta::days(365)]);
}

#[test]
fn nothing_runs_long_after_the_end_and_the_campaign_completes() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), Some(day(3, 23)));
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    let commands = player.wake(day(6, 0));
    assert_eq!(commands.len(), 3);
    assert!(commands.iter().all(|command| skipped_at(command).is_some()), "{commands:?}");
    for command in commands {
        happen(&mut player, command);
    }
    assert_eq!(player.wake(day(6, 0)), [CampaignCommand::Complete]);
}

#[test]
fn an_occurrence_at_the_very_end_runs() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), Some(day(1, 10)));
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    let commands = player.wake(day(1, 10) + TimeDelta::seconds(1));
    assert_eq!(commands.iter().map(triggered_at).collect::<Vec<_>>(), [Some(day(1, 10))]);
}

#[test]
fn occurrences_of_a_paused_campaign_are_skipped_but_once_waits() {
    let mut daily = scheduled(Recurrence::Daily, day(1, 10), None);
    daily.campaign(CampaignEvent::Activated { at: day(0, 9) });
    daily.campaign(CampaignEvent::Paused { at: day(0, 10) });
    let commands = daily.wake(day(1, 10));
    assert_eq!(commands.iter().map(skipped_at).collect::<Vec<_>>(), [Some((day(1, 10), SkippedBecause::Paused))]);

    let mut once = scheduled(Recurrence::Once, day(1, 10), None);
    once.campaign(CampaignEvent::Activated { at: day(0, 9) });
    once.campaign(CampaignEvent::Paused { at: day(0, 10) });
    assert_eq!(once.timer(), None);
    assert!(once.wake(day(2, 0)).is_empty());
    once.campaign(CampaignEvent::Resumed { at: day(2, 0) });
    assert_eq!(once.wake(day(2, 0)).iter().map(triggered_at).collect::<Vec<_>>(), [Some(day(1, 10))]);
}

#[test]
fn a_cancelled_campaign_triggers_nothing() {
    let mut player = scheduled(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Activated { at: day(0, 9) });
    player.campaign(CampaignEvent::Cancelled { at: day(0, 10) });
    assert_eq!(player.timer(), None);
    assert!(player.wake(day(1, 10)).is_empty());
}

#[test]
fn a_campaigns_open_runs_follow_it() {
    let mut player = Player::<RunSaga>::new();
    let definition = definition(Recurrence::Daily, day(1, 10), None);
    player.campaign(CampaignEvent::Created { tenant_id: TENANT, definition: definition.clone() });
    let other = RunId(Uuid::from_u128(9));
    for run_id in [RUN, other] {
        let trigger = Trigger::Manual;
        let asked =
            player.campaign(CampaignEvent::RunTriggered { run_id, trigger: trigger.clone(), nominal_at: day(1, 10) });
        let definition = Box::new(definition.clone());
        assert_eq!(
            asked,
            [SagaRequest::StartRun { run_id, campaign_id: CAMPAIGN, definition, trigger, nominal_at: day(1, 10) }]
        );
    }
    let ended =
        CampaignRunEvent::Completed { campaign_id: Some(CAMPAIGN), counts: BTreeMap::new(), as_of: 1, at: day(1, 11) };
    assert!(player.run(other, ended).is_empty());
    for (event, command) in [
        (CampaignEvent::Paused { at: day(1, 11) }, CampaignRunCommand::Pause),
        (CampaignEvent::Resumed { at: day(1, 12) }, CampaignRunCommand::Resume),
        (CampaignEvent::Cancelled { at: day(1, 13) }, CampaignRunCommand::Cancel),
    ] {
        assert_eq!(player.campaign(event), [SagaRequest::Run(RUN, command)]);
    }
}

fn message_moves(from: Option<MessageStatus>, to: MessageStatus) -> Event {
    let transition = Transition { run_id: RUN, from, to, reached: Vec::new() };
    Event::Message(match to {
        MessageStatus::Pending => MessageEvent::Queued {
            tenant_id: TENANT,
            transition,
            contact_id: ContactId(Uuid::from_u128(5)),
            sender_id: SenderId(Uuid::from_u128(6)),
            lane: Lane::Utility,
            on_unknown: OnUnknown::Hold,
        },
        MessageStatus::Unknown => MessageEvent::OutcomeUnknown { transition, attempt: 1 },
        _ => MessageEvent::Cancelled { transition },
    })
}

#[test]
fn a_run_completes_when_its_audience_is_closed_and_nothing_is_open() {
    let mut player = Player::<CompletionSaga>::new();
    let (one, other) = (Uuid::from_u128(20), Uuid::from_u128(21));
    assert!(player.play(one, message_moves(None, MessageStatus::Pending)).is_empty());
    assert!(
        player.play(one, message_moves(Some(MessageStatus::Pending), MessageStatus::Cancelled)).is_empty(),
        "open audience"
    );
    assert!(player.play(other, message_moves(None, MessageStatus::Pending)).is_empty());
    assert!(player.run(RUN, CampaignRunEvent::AudienceResolved { queued: 2, skipped: 0 }).is_empty(), "one is pending");
    // An unknown outcome holds nothing open.
    let asked = player.play(other, message_moves(Some(MessageStatus::Pending), MessageStatus::Unknown));
    let counts = BTreeMap::from([(MessageStatus::Cancelled, 1), (MessageStatus::Unknown, 1)]);
    assert_eq!(asked, [SagaRequest::Run(RUN, CampaignRunCommand::Complete { counts, as_of: 5 })]);
    // What comes later changes counts, never the completion.
    assert!(player.play(other, message_moves(Some(MessageStatus::Unknown), MessageStatus::Cancelled)).is_empty());
}

#[test]
fn a_run_without_contacts_completes_at_once() {
    let mut player = Player::<CompletionSaga>::new();
    let asked = player.run(RUN, CampaignRunEvent::AudienceResolved { queued: 0, skipped: 0 });
    assert_eq!(asked, [SagaRequest::Run(RUN, CampaignRunCommand::Complete { counts: BTreeMap::new(), as_of: 1 })]);
}
