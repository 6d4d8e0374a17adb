//! What holds for any commands in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Decider, Position};
use domain::campaign::{
    Campaign, CampaignCommand, CampaignDefinition, CampaignError, CampaignEvent, CampaignType, ParameterMapping,
    SkippedBecause, Trigger,
};
use domain::campaign_run::{
    Audience, CampaignRun, CampaignRunCommand, CampaignRunEvent, FrozenTemplate, RunDefinition, StallReason,
};
use domain::consent::{Consent, ConsentCommand, ConsentEvent, ConsentSource};
use domain::ids::{ContactId, RunId, SenderId, TemplateId, TenantId};
use domain::message::{
    Acceptance, FailureClass, Lane, Message, MessageCommand, MessageError, MessageEvent, MessageStatus, Milestone,
    OnUnknown, ReleaseReason, Resolution, SkipReason,
};
use domain::schedule::{Recurrence, Schedule};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

const TENANT: TenantId = TenantId(Uuid::from_u128(1));
const STRANGER: TenantId = TenantId(Uuid::from_u128(2));
const RUN: RunId = RunId(Uuid::from_u128(3));
const CONTACT: ContactId = ContactId(Uuid::from_u128(4));
const SENDER: SenderId = SenderId(Uuid::from_u128(5));
const TEMPLATE: TemplateId = TemplateId(Uuid::from_u128(6));

const COMMANDS_MAX: usize = 60;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() }
}

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(seconds, 0).expect("a valid time")
}

fn local() -> jiff::civil::DateTime {
    jiff::civil::date(2026, 12, 1).at(10, 0, 0, 0)
}

/// An aggregate with all events that it ever had.
struct Played<A: Decider> {
    state: A,
    log: Vec<A::Event>,
}

impl<A, C> Played<A>
where
    A: Decider<Command = CommandEnvelope<C>> + PartialEq + Debug,
    A::Error: PartialEq + Debug,
    C: Clone + Debug,
{
    fn new() -> Self {
        Self { state: A::default(), log: Vec::new() }
    }

    /// Gives a command as the log does, and once more: the second time never changes anything.
    fn give(&mut self, envelope: &CommandEnvelope<C>) -> Result<Vec<A::Event>, A::Error> {
        let decision = self.state.decide(envelope);
        if let Ok(events) = &decision {
            for event in events {
                self.state.evolve(event);
                self.log.push(event.clone());
            }
        }
        if let Ok(again) = self.state.decide(envelope) {
            assert!(again.is_empty(), "{envelope:?} twice gives {again:?}");
        }
        decision
    }

    fn give_at(&mut self, seconds: i64, command: C) -> Result<Vec<A::Event>, A::Error> {
        self.give(&CommandEnvelope::new(TENANT, at(seconds), command))
    }

    /// The state is what the log says, and nothing else.
    fn assert_refolds(&self) {
        let mut refolded = A::default();
        for event in &self.log {
            refolded.evolve(event);
        }
        assert_eq!(refolded, self.state);
    }
}

// Message

/// A command that is made when its turn comes, since most attempts that are drawn blindly would be refused.
#[derive(Debug, Clone)]
enum MessageStep {
    Command(MessageCommand),
    /// These concern the present attempt, give or take the number.
    Begin(i64),
    Release(i64),
    Defer(i64),
    OutcomeUnknown(i64),
}

fn message_step() -> impl Strategy<Value = MessageStep> {
    let near = || prop_oneof![4 => Just(0), 1 => -2..=2_i64];
    let resolution =
        prop::sample::select(vec![Resolution::Unconfirmed, Resolution::Sent, Resolution::NotSent, Resolution::Resend]);
    let reported = prop_oneof![
        4 => prop::option::of(1..4_u32).prop_map(|attempt| MessageCommand::MarkSent { attempt, acceptance: Acceptance::Accepted, at: at(1) }),
        2 => Just(MessageCommand::MarkDelivered { at: at(2), pricing: None }),
        2 => Just(MessageCommand::MarkRead { at: at(3), pricing: None }),
        2 => prop::option::of(1..4_u32).prop_map(|attempt| MessageCommand::MarkFailed { attempt, code: 1, class: FailureClass::Permanent, at: at(4) }),
        1 => Just(MessageCommand::ConfirmLatestAttempt { at: at(1) }),
        3 => prop::option::of(1..4_u32).prop_map(|attempt| MessageCommand::RetryFailed { attempt, code: 2, at: at(4), until: at(5), retries_max: 2 }),
        4 => resolution.prop_map(|resolution| MessageCommand::Settle { resolution }),
        1 => Just(MessageCommand::Expire),
        1 => Just(MessageCommand::Cancel),
        1 => Just(queue(OnUnknown::Hold)),
        1 => Just(skip()),
    ];
    prop_oneof![
        6 => near().prop_map(MessageStep::Begin),
        3 => near().prop_map(MessageStep::Release),
        3 => near().prop_map(MessageStep::Defer),
        2 => near().prop_map(MessageStep::OutcomeUnknown),
        8 => reported.prop_map(MessageStep::Command),
    ]
}

fn queue(on_unknown: OnUnknown) -> MessageCommand {
    MessageCommand::QueueMessage {
        run_id: RUN,
        contact_id: CONTACT,
        sender_id: SENDER,
        lane: Lane::Marketing,
        on_unknown,
    }
}

fn skip() -> MessageCommand {
    MessageCommand::Skip { run_id: RUN, contact_id: CONTACT, sender_id: SENDER, reason: SkipReason::Erased }
}

impl MessageStep {
    fn command(self, message: &Message, now: i64) -> MessageCommand {
        let near =
            |distance: i64| u32::try_from((i64::from(message.attempt) + distance).max(0)).expect("a small number");
        match self {
            Self::Command(command) => command,
            Self::Begin(distance) => MessageCommand::BeginDispatch {
                attempt: near(distance + 1),
                deadline: at(now + 10),
                journal_id: Uuid::nil(),
            },
            Self::Release(distance) => {
                MessageCommand::ReleaseDispatch { attempt: near(distance), reason: ReleaseReason::Shutdown }
            }
            Self::Defer(distance) => MessageCommand::Defer { attempt: near(distance), until: at(now + 2), code: 2 },
            Self::OutcomeUnknown(distance) => MessageCommand::MarkOutcomeUnknown { attempt: near(distance) },
        }
    }
}

fn first_message_command() -> impl Strategy<Value = MessageCommand> {
    prop_oneof![5 => Just(queue(OnUnknown::Hold)), 5 => Just(queue(OnUnknown::Resend)), 1 => Just(skip())]
}

fn play_message(first: MessageCommand, steps: Vec<MessageStep>) -> Played<Message> {
    let mut message = Played::<Message>::new();
    message.give_at(0, first).expect("the first command succeeds");
    for (now, step) in (1..).zip(steps) {
        let command = step.command(&message.state, now);
        let stranger = message.state.decide(&CommandEnvelope::new(STRANGER, at(now), command.clone()));
        assert_eq!(stranger, Err(MessageError::NotFound));
        let decision = message.give_at(now, command.clone());
        if matches!(command, MessageCommand::BeginDispatch { .. }) {
            // An empty answer must never look like a receipt.
            assert_ne!(decision, Ok(Vec::new()));
        }
    }
    message
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_message_is_what_its_log_says(first in first_message_command(), steps in vec(message_step(), 0..COMMANDS_MAX)) {
        play_message(first, steps).assert_refolds();
    }

    /// The store answers such commands from a state that may not be the latest.
    #[test]
    fn a_final_answer_stays_the_answer(
        first in first_message_command(),
        steps in vec(message_step(), 0..COMMANDS_MAX),
        asked in vec(message_step(), 1..20),
    ) {
        let mut states = vec![Message::default()];
        let message = play_message(first, steps);
        for event in &message.log {
            let mut next = states[states.len() - 1].clone();
            next.evolve(event);
            states.push(next);
        }
        for (now, step) in (1..).zip(asked) {
            let command = step.command(&message.state, now);
            for tenant in [TENANT, STRANGER] {
                let envelope = CommandEnvelope::new(tenant, at(now), command.clone());
                if let Some(first_final) = states.iter().position(|state| state.is_final_for(&envelope)) {
                    let answer = states[first_final].decide(&envelope);
                    prop_assert!(!matches!(&answer, Ok(events) if !events.is_empty()));
                    for later in &states[first_final..] {
                        prop_assert_eq!(later.decide(&envelope), answer.clone());
                    }
                }
            }
        }
    }

    #[test]
    fn counters_are_sums_over_the_log(first in first_message_command(), steps in vec(message_step(), 0..COMMANDS_MAX)) {
        let message = play_message(first, steps);
        let mut status = None;
        let mut counts: BTreeMap<MessageStatus, i64> = BTreeMap::new();
        let mut reached: BTreeMap<Milestone, i64> = BTreeMap::new();
        for transition in message.log.iter().map(MessageEvent::transition) {
            prop_assert_eq!(transition.run_id, RUN);
            prop_assert_eq!(transition.from, status);
            status = Some(transition.to);
            if let Some(from) = transition.from {
                *counts.entry(from).or_default() -= 1;
            }
            *counts.entry(transition.to).or_default() += 1;
            for milestone in &transition.reached {
                *reached.entry(*milestone).or_default() += 1;
            }
            // Each milestone once, and never one without those before it.
            let funnel = Milestone::ALL.map(|milestone| reached.get(&milestone).copied().unwrap_or_default());
            prop_assert!(funnel[0] <= 1, "{:?}", funnel);
            prop_assert!(funnel.is_sorted_by(|earlier, later| earlier >= later), "{:?}", funnel);
        }
        prop_assert_eq!(message.state.status(), status);
        counts.retain(|_, count| *count != 0);
        prop_assert_eq!(counts.into_iter().collect::<Vec<_>>(), status.map(|status| (status, 1)).into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn an_attempt_begins_once(first in first_message_command(), steps in vec(message_step(), 0..COMMANDS_MAX)) {
        let message = play_message(first, steps);
        let mut latest = 0;
        let mut open = false;
        for event in &message.log {
            if let MessageEvent::DispatchStarted { attempt, .. } = event {
                prop_assert_eq!(*attempt, latest + 1);
                prop_assert!(!open, "attempt {} began while the one before was open", attempt);
                latest = *attempt;
            }
            open = event.transition().to == MessageStatus::Dispatching;
        }
        prop_assert_eq!(message.state.attempt, latest);
    }

    /// A call whose outcome is in doubt is followed by another one only where WhatsApp said that the first had failed,
    /// or where the campaign asks for it.
    #[test]
    fn doubt_is_never_answered_with_a_blind_second_call(steps in vec(message_step(), 0..COMMANDS_MAX)) {
        let message = play_message(queue(OnUnknown::Hold), steps);
        for event in &message.log {
            let transition = event.transition();
            let in_doubt = matches!(transition.from, Some(MessageStatus::Unknown | MessageStatus::Unconfirmed));
            if in_doubt && transition.to == MessageStatus::Pending {
                prop_assert!(matches!(event, MessageEvent::Deferred { .. }), "{:?}", event);
            }
        }
    }
}

// Campaign

#[derive(Debug, Clone)]
enum CampaignStep {
    Command(CampaignCommand),
    /// These are based on the present revision, give or take the number.
    Revise(i64, String),
    Occurrence(i64, i64),
    Skip(i64, i64),
}

fn definition(name: &str) -> CampaignDefinition {
    CampaignDefinition {
        name: name.to_owned(),
        template_id: TEMPLATE,
        segment: "gold".to_owned(),
        campaign_type: CampaignType::Marketing,
        schedule: Schedule::try_new(Recurrence::Weekly, local(), None, "Asia/Kolkata").expect("a valid schedule"),
        parameters: ParameterMapping::new(),
        sender_id: None,
        on_unknown: OnUnknown::Hold,
    }
}

fn campaign_step() -> impl Strategy<Value = CampaignStep> {
    let near = || prop_oneof![4 => Just(0), 1 => -1..=1_i64];
    let nominal = || 0..30_i64;
    let manual = (0..4_u128, nominal()).prop_map(|(run, nominal)| CampaignCommand::TriggerRun {
        run_id: RunId(Uuid::from_u128(run)),
        trigger: Trigger::Manual,
        nominal_at: at(nominal),
    });
    let asked = prop_oneof![
        1 => Just(CampaignCommand::Create { definition: definition("a") }),
        6 => Just(CampaignCommand::Activate),
        4 => Just(CampaignCommand::Pause),
        6 => Just(CampaignCommand::Resume),
        1 => Just(CampaignCommand::Cancel),
        1 => Just(CampaignCommand::Complete),
        6 => manual,
    ];
    prop_oneof![
        8 => asked.prop_map(CampaignStep::Command),
        2 => (near(), "[abc]").prop_map(|(distance, name)| CampaignStep::Revise(distance, name)),
        6 => (near(), nominal()).prop_map(|(distance, nominal)| CampaignStep::Occurrence(distance, nominal)),
        4 => (near(), nominal()).prop_map(|(distance, nominal)| CampaignStep::Skip(distance, nominal)),
    ]
}

impl CampaignStep {
    fn command(self, campaign: &Campaign) -> CampaignCommand {
        let near =
            |distance: i64| u32::try_from((i64::from(campaign.revision()) + distance).max(0)).expect("a small number");
        match self {
            Self::Command(command) => command,
            Self::Revise(distance, name) => {
                CampaignCommand::Revise { based_on: near(distance), definition: definition(&name) }
            }
            Self::Occurrence(distance, nominal) => CampaignCommand::TriggerRun {
                run_id: RUN,
                trigger: Trigger::Schedule { revision: near(distance), local: local() },
                nominal_at: at(nominal),
            },
            Self::Skip(distance, nominal) => CampaignCommand::SkipOccurrence {
                revision: near(distance),
                local: local(),
                nominal_at: at(nominal),
                because: SkippedBecause::Paused,
            },
        }
    }
}

fn play_campaign(steps: Vec<CampaignStep>) -> Played<Campaign> {
    let mut campaign = Played::<Campaign>::new();
    campaign.give_at(0, CampaignCommand::Create { definition: definition("a") }).expect("the first command succeeds");
    for step in steps {
        let command = step.command(&campaign.state);
        let stranger = campaign.state.decide(&CommandEnvelope::new(STRANGER, at(1), command.clone()));
        assert_eq!(stranger, Err(CampaignError::NotFound));
        let _refused_or_not = campaign.give_at(1, command);
    }
    campaign
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_campaign_is_what_its_log_says(steps in vec(campaign_step(), 0..COMMANDS_MAX)) {
        play_campaign(steps).assert_refolds();
    }

    #[test]
    fn an_occurrence_is_run_or_skipped_at_most_once(steps in vec(campaign_step(), 0..COMMANDS_MAX)) {
        let campaign = play_campaign(steps);
        let mut handled = BTreeSet::new();
        let mut manual = BTreeSet::new();
        let mut revision = 1;
        for event in &campaign.log {
            match event {
                CampaignEvent::RunTriggered { trigger: Trigger::Schedule { revision: of, .. }, nominal_at, .. }
                | CampaignEvent::OccurrenceSkipped { revision: of, nominal_at, .. } => {
                    prop_assert_eq!(*of, revision);
                    prop_assert!(handled.insert(*nominal_at), "{:?} is handled twice", nominal_at);
                    prop_assert_eq!(handled.last(), Some(nominal_at), "occurrences are handled in the order of time");
                }
                CampaignEvent::RunTriggered { run_id, .. } => {
                    prop_assert!(manual.insert(*run_id), "{} is triggered twice", run_id);
                }
                CampaignEvent::Revised { revision: next, .. } => {
                    revision += 1;
                    prop_assert_eq!(*next, revision);
                }
                CampaignEvent::Created { .. }
                | CampaignEvent::Activated { .. }
                | CampaignEvent::Paused { .. }
                | CampaignEvent::Resumed { .. }
                | CampaignEvent::Cancelled { .. }
                | CampaignEvent::Completed { .. } => {}
            }
        }
        prop_assert_eq!(campaign.state.last_nominal_at(), handled.last().copied());
    }

    #[test]
    fn the_end_of_a_campaign_is_its_last_event(steps in vec(campaign_step(), 0..COMMANDS_MAX)) {
        let campaign = play_campaign(steps);
        let ended = |event: &CampaignEvent| {
            matches!(event, CampaignEvent::Cancelled { .. } | CampaignEvent::Completed { .. })
        };
        let (_, before) = campaign.log.split_last().expect("it was created");
        prop_assert!(!before.iter().any(ended), "{:?}", campaign.log);
    }
}

// CampaignRun

fn run_definition() -> RunDefinition {
    RunDefinition {
        campaign_id: None,
        trigger: Trigger::Manual,
        nominal_at: at(0),
        template: FrozenTemplate {
            template_id: TEMPLATE,
            name: "reminder".to_owned(),
            language: "en".to_owned(),
            components: serde_json::Value::Null,
            variables: Vec::new(),
        },
        parameters: ParameterMapping::new(),
        audience: Audience::Segment { name: "gold".to_owned() },
        sender_id: SENDER,
        lane: Lane::Marketing,
        on_unknown: OnUnknown::Hold,
    }
}

fn run_command() -> impl Strategy<Value = CampaignRunCommand> {
    prop_oneof![
        1 => Just(CampaignRunCommand::Start { definition: run_definition() }),
        2 => (0..9_u64, 0..9_u64).prop_map(|(queued, skipped)| CampaignRunCommand::ResolveAudience { queued, skipped }),
        4 => Just(CampaignRunCommand::Pause),
        4 => Just(CampaignRunCommand::Resume),
        1 => Just(CampaignRunCommand::Cancel),
        1 => Just(CampaignRunCommand::Expire),
        2 => Just(CampaignRunCommand::Stall { reason: StallReason::SetupMissing }),
        2 => (0..2_u64, 0..9_u64).prop_map(|(pending, sent)| CampaignRunCommand::Complete {
            counts: BTreeMap::from([(MessageStatus::Pending, pending), (MessageStatus::Sent, sent)]),
            as_of: 1,
        }),
    ]
}

fn play_run(commands: Vec<(CampaignRunCommand, Option<Position>)>) -> Played<CampaignRun> {
    let mut run = Played::<CampaignRun>::new();
    run.give_at(0, CampaignRunCommand::Start { definition: run_definition() }).expect("the first command succeeds");
    for (command, cause) in commands {
        let envelope = CommandEnvelope { tenant_id: TENANT, at: at(1), cause, command };
        let _refused_or_not = run.give(&envelope);
    }
    run
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_run_is_what_its_log_says(commands in vec((run_command(), prop::option::of(0..9_i64)), 0..COMMANDS_MAX)) {
        let run = play_run(commands);
        run.assert_refolds();
        let mut pauses = 0;
        let mut closed = false;
        let mut ended = false;
        for event in &run.log {
            prop_assert!(!ended, "{:?} after the end", event);
            match event {
                CampaignRunEvent::AudienceResolved { .. } => {
                    prop_assert!(!closed, "the audience closes once");
                    closed = true;
                }
                CampaignRunEvent::Paused { epoch, .. } => {
                    pauses += 1;
                    prop_assert_eq!(*epoch, pauses);
                }
                CampaignRunEvent::Resumed { epoch, .. } => prop_assert_eq!(*epoch, pauses),
                CampaignRunEvent::Completed { counts, .. } => {
                    prop_assert!(closed, "completed with an open audience");
                    prop_assert_eq!(counts.get(&MessageStatus::Pending), Some(&0));
                    ended = true;
                }
                CampaignRunEvent::Cancelled { .. } | CampaignRunEvent::Expired { .. } => ended = true,
                CampaignRunEvent::Started { .. } | CampaignRunEvent::Stalled { .. } => {}
            }
        }
    }

    /// What the run saga does after a crash: it reads a part of the campaign's events again and repeats itself.
    #[test]
    fn a_saga_that_begins_again_changes_nothing(
        stalls in vec(any::<bool>(), 0..8),
        cancelled in any::<bool>(),
        again_from in 0..10_usize,
    ) {
        let mut by_the_saga = Vec::new();
        let mut commands = Vec::new();
        for (number, stalled) in (0..).zip(stalls) {
            let command = if number % 2 == 0 { CampaignRunCommand::Pause } else { CampaignRunCommand::Resume };
            by_the_saga.push((command.clone(), Some(10 + number)));
            commands.push((command, Some(10 + number)));
            if stalled {
                commands.push((CampaignRunCommand::Stall { reason: StallReason::SetupMissing }, None));
            }
        }
        if cancelled {
            by_the_saga.push((CampaignRunCommand::Cancel, Some(90)));
            commands.push((CampaignRunCommand::Cancel, Some(90)));
        }
        let mut run = play_run(commands);
        for (command, cause) in by_the_saga.into_iter().skip(again_from) {
            let envelope = CommandEnvelope { tenant_id: TENANT, at: at(2), cause, command };
            prop_assert_eq!(run.give(&envelope), Ok(Vec::new()), "{:?}", envelope);
        }
    }
}

// Consent

fn consent_command() -> impl Strategy<Value = ConsentCommand> {
    let source = || {
        prop::sample::select(vec![
            ConsentSource::Upload,
            ConsentSource::Keyword,
            ConsentSource::UserPreferences,
            ConsentSource::ProviderRefusal,
            ConsentSource::Api,
            ConsentSource::Operator,
        ])
    };
    prop_oneof![
        4 => source().prop_map(|source| ConsentCommand::OptIn { source, wording: None, said_at: at(0) }),
        4 => source().prop_map(|source| ConsentCommand::OptOut { source, said_at: at(0) }),
        4 => source().prop_map(|source| ConsentCommand::StopMarketing { source, said_at: at(0) }),
        4 => source().prop_map(|source| ConsentCommand::ResumeMarketing { source, said_at: at(0) }),
        1 => Just(ConsentCommand::Erase),
    ]
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn only_the_contacts_own_word_lifts_an_opt_out(commands in vec(consent_command(), 0..COMMANDS_MAX)) {
        let mut consent = Played::<Consent>::new();
        for command in commands {
            let before = consent.state.clone();
            let events = consent.give_at(1, command).unwrap_or_default();
            prop_assert!(events.len() <= 1);
            if before.refusal(Lane::Utility) == Some(SkipReason::Erased) {
                prop_assert!(events.is_empty(), "nothing follows an erasure");
            }
            let was_out = before.refusal(Lane::Utility) == Some(SkipReason::OptedOut);
            if was_out && consent.state.allows(Lane::Utility) {
                let lifted = matches!(
                    events.first(),
                    Some(ConsentEvent::OptedIn { source, .. } | ConsentEvent::MarketingResumed { source, .. })
                        if source.is_contact()
                );
                prop_assert!(lifted, "{:?}", events);
            }
            // Whoever takes offers takes reminders.
            prop_assert!(consent.state.allows(Lane::Utility) || !consent.state.allows(Lane::Marketing));
        }
        consent.assert_refolds();
    }
}
