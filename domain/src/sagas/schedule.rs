//! When a campaign's occurrences are due, and when the campaign is over.
//!
//! Each occurrence is run or skipped, exactly once, and either is an event. After a time in which the engine did not
//! run, the latest occurrence that was missed is run and the ones before it are skipped as missed: a period is made
//! up for, a heap of periods is not. While a campaign is paused, its occurrences are skipped as paused; the only
//! occurrence of a `once` campaign waits instead.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::run::ended_run_of;
use super::{Saga, SagaCommand, SagaRequest};
use crate::campaign::{CampaignCommand, CampaignEvent, SkippedBecause, Trigger};
use crate::event::{Event, RecordedEvent};
use crate::ids::{CampaignId, RunId, TenantId};
use crate::schedule::{Occurrence, Recurrence, Schedule};

/// An occurrence whose time has passed is still run this long after the schedule's end.
const LATE_PAST_END_MAX: TimeDelta = TimeDelta::hours(1);

/// Occurrences that one waking looks at; a longer absence takes several wakings.
const OCCURRENCES_PER_WAKING_MAX: usize = 100;

pub struct ScheduleSaga;

/// Per campaign.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ScheduleState {
    plan: Option<Plan>,
    phase: Phase,
    /// Occurrences at or before this are not run.
    floor: Option<DateTime<Utc>>,
    /// The time of the last occurrence that was run or skipped.
    handled: Option<DateTime<Utc>>,
    open_runs: BTreeSet<RunId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Plan {
    tenant_id: TenantId,
    revision: u32,
    schedule: Schedule,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    #[default]
    Draft,
    Active,
    Paused,
    Ended,
}

impl Saga for ScheduleSaga {
    const NAME: &'static str = "saga:schedule";
    type State = ScheduleState;

    fn key(event: &RecordedEvent) -> Option<Uuid> {
        match &event.event {
            Event::Campaign(_) => Some(event.aggregate_id),
            Event::CampaignRun(run) => ended_run_of(run).map(Uuid::from),
            Event::Message(_) | Event::Consent(_) => None,
        }
    }

    fn react(state: &mut ScheduleState, event: &RecordedEvent) -> Vec<SagaCommand> {
        match &event.event {
            Event::Campaign(campaign) => state.campaign_event(campaign),
            Event::CampaignRun(_) => {
                state.open_runs.remove(&RunId(event.aggregate_id));
            }
            Event::Message(_) | Event::Consent(_) => {}
        }
        Vec::new()
    }

    fn timer(state: &ScheduleState) -> Option<DateTime<Utc>> {
        let plan = state.plan.as_ref()?;
        match (state.phase, state.upcoming(plan).next()) {
            (Phase::Active, Some(next)) => Some(next.at),
            // Nothing left to run: the campaign is over as soon as its last run is.
            (Phase::Active, None) => state.open_runs.is_empty().then_some(DateTime::UNIX_EPOCH),
            (Phase::Paused, Some(next)) if plan.schedule.recurrence != Recurrence::Once => Some(next.at),
            (Phase::Paused | Phase::Draft | Phase::Ended, _) => None,
        }
    }

    fn wake(state: &ScheduleState, key: Uuid, now: DateTime<Utc>) -> Vec<SagaCommand> {
        let Some(plan) = &state.plan else { return Vec::new() };
        let campaign = CampaignId(key);
        let due: Vec<Occurrence> = state
            .upcoming(plan)
            .take(OCCURRENCES_PER_WAKING_MAX + 1)
            .take_while(|occurrence| occurrence.at <= now)
            .collect();
        if state.phase == Phase::Active && due.len() > OCCURRENCES_PER_WAKING_MAX {
            // The latest is not among these; it comes with a later waking.
            let earlier = &due[..OCCURRENCES_PER_WAKING_MAX];
            return earlier.iter().map(|missed| plan.skip(campaign, missed, SkippedBecause::Missed)).collect();
        }
        let Some((latest, earlier)) = due.split_last() else {
            let over =
                state.phase == Phase::Active && state.open_runs.is_empty() && state.upcoming(plan).next().is_none();
            return if over { vec![plan.command(campaign, CampaignCommand::Complete)] } else { Vec::new() };
        };
        match state.phase {
            Phase::Active => {
                let mut commands: Vec<_> =
                    earlier.iter().map(|missed| plan.skip(campaign, missed, SkippedBecause::Missed)).collect();
                commands.push(if plan.is_too_late(latest, now) {
                    plan.skip(campaign, latest, SkippedBecause::Missed)
                } else {
                    plan.trigger(campaign, latest)
                });
                commands
            }
            Phase::Paused if plan.schedule.recurrence != Recurrence::Once => {
                due.iter().map(|occurrence| plan.skip(campaign, occurrence, SkippedBecause::Paused)).collect()
            }
            Phase::Paused | Phase::Draft | Phase::Ended => Vec::new(),
        }
    }
}

impl ScheduleState {
    fn campaign_event(&mut self, event: &CampaignEvent) {
        match event {
            CampaignEvent::Created { tenant_id, definition } => {
                self.plan = Some(Plan { tenant_id: *tenant_id, revision: 1, schedule: definition.schedule.clone() });
            }
            CampaignEvent::Revised { revision, definition } => {
                if let Some(plan) = &mut self.plan {
                    plan.revision = *revision;
                    plan.schedule = definition.schedule.clone();
                }
            }
            CampaignEvent::Activated { at } | CampaignEvent::Resumed { at } => {
                self.phase = Phase::Active;
                self.floor = Some(*at);
            }
            CampaignEvent::Paused { .. } => self.phase = Phase::Paused,
            CampaignEvent::Cancelled { .. } | CampaignEvent::Completed { .. } => self.phase = Phase::Ended,
            CampaignEvent::RunTriggered { run_id, trigger, nominal_at } => {
                self.open_runs.insert(*run_id);
                match trigger {
                    Trigger::Schedule { .. } => self.handled = Some(*nominal_at),
                    Trigger::Manual | Trigger::Test => {}
                }
            }
            CampaignEvent::OccurrenceSkipped { nominal_at, .. } => self.handled = Some(*nominal_at),
        }
    }

    /// The occurrences that were neither run nor skipped yet, in order.
    fn upcoming<'a>(&self, plan: &'a Plan) -> Box<dyn Iterator<Item = Occurrence> + 'a> {
        if plan.schedule.recurrence == Recurrence::Once {
            let first = self.handled.is_none().then(|| plan.schedule.first());
            return Box::new(first.into_iter());
        }
        let after = self.handled.max(self.floor).unwrap_or(DateTime::<Utc>::MIN_UTC);
        Box::new(plan.schedule.occurrences_after(after))
    }
}

impl Plan {
    fn command(&self, campaign: CampaignId, command: CampaignCommand) -> SagaCommand {
        SagaCommand { tenant_id: self.tenant_id, cause: None, request: SagaRequest::Campaign(campaign, command) }
    }

    fn trigger(&self, campaign: CampaignId, occurrence: &Occurrence) -> SagaCommand {
        let run_id = RunId::of_occurrence(campaign, self.revision, occurrence.local, occurrence.at);
        let trigger = Trigger::Schedule { revision: self.revision, local: occurrence.local };
        self.command(campaign, CampaignCommand::TriggerRun { run_id, trigger, nominal_at: occurrence.at })
    }

    fn skip(&self, campaign: CampaignId, occurrence: &Occurrence, because: SkippedBecause) -> SagaCommand {
        let (local, nominal_at) = (occurrence.local, occurrence.at);
        self.command(campaign, CampaignCommand::SkipOccurrence { revision: self.revision, local, nominal_at, because })
    }

    /// A `once` campaign is never too late: a start that has passed runs on activation.
    fn is_too_late(&self, occurrence: &Occurrence, now: DateTime<Utc>) -> bool {
        let Some(end) = self.schedule.end_at() else { return false };
        self.schedule.recurrence != Recurrence::Once && now > end && now - occurrence.at > LATE_PAST_END_MAX
    }
}
