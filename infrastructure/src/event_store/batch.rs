//! One batch: load in one query, decide in order, append in one statement, and tell each command its own outcome.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use domain::aggregate::{CommandEnvelope, Decider, Position};
use sqlx::PgPool;
use uuid::Uuid;

use super::append::{AppendRows, append_in_tx};
use super::{Addressed, CommandError, Committed, Metadata};

/// What became of one command in one round.
pub(super) enum RoundOutcome<A: Decider> {
    Ended(Result<Committed<A>, CommandError<A::Error>>),
    /// Another writer was faster: try again from a fresh load.
    LostRace,
}

/// Runs commands once, in order, and answers one outcome for each, in the same order.
///
/// Commands for the same aggregate are folded on the same state. When the database refuses the rows of a batch, the
/// batch is halved until the command that it refuses stands alone, so that a poisoned command fails by itself.
pub(super) async fn run_round<A, C>(pool: &PgPool, commands: &[&Addressed<C>]) -> Vec<RoundOutcome<A>>
where
    A: Decider<Command = CommandEnvelope<C>> + Clone,
    A::Error: Send,
    C: Sync + Send,
{
    match try_round(pool, commands).await {
        Ok(outcomes) => outcomes,
        Err(RoundError::Refused(source)) if commands.len() > 1 => {
            tracing::warn!(commands = commands.len(), error = %source, "the database refused a batch; halving it");
            let (first, second) = commands.split_at(commands.len() / 2);
            let mut outcomes = Box::pin(run_round(pool, first)).await;
            outcomes.extend(Box::pin(run_round(pool, second)).await);
            outcomes
        }
        Err(RoundError::Refused(source)) => {
            let source = Arc::new(source);
            commands.iter().map(|_| RoundOutcome::Ended(Err(CommandError::Poisoned(source.clone())))).collect()
        }
        Err(RoundError::Unavailable(source)) => {
            let source = Arc::new(source);
            commands.iter().map(|_| RoundOutcome::Ended(Err(CommandError::Unavailable(source.clone())))).collect()
        }
    }
}

enum RoundError {
    /// The rows themselves are at fault.
    Refused(sqlx::Error),
    /// No answer, or none to be relied on. The commit may have happened: nobody gets a receipt.
    Unavailable(sqlx::Error),
}

impl From<sqlx::Error> for RoundError {
    fn from(error: sqlx::Error) -> Self {
        let data_is_at_fault = error.as_database_error().and_then(|e| e.code()).is_some_and(|code| {
            // Classes 22 (data exception), 23 (constraint violation), and 21000 (one row named twice).
            code.starts_with("22") || code.starts_with("23") || code == "21000"
        });
        if data_is_at_fault { Self::Refused(error) } else { Self::Unavailable(error) }
    }
}

struct Working<A> {
    state: A,
    last_sequence: i64,
    staged: usize,
}

async fn try_round<A, C>(pool: &PgPool, commands: &[&Addressed<C>]) -> Result<Vec<RoundOutcome<A>>, RoundError>
where
    A: Decider<Command = CommandEnvelope<C>> + Clone,
{
    let mut torn: HashSet<Uuid> = HashSet::new();
    // Each turn takes at least one aggregate out of the batch, so the loop ends; in practice it runs once.
    loop {
        let (mut working, unreadable) = load::<A>(pool, commands).await?;
        let mut rows = AppendRows::default();
        let mut decisions = Vec::with_capacity(commands.len());
        for command in commands {
            let decision = match (torn.contains(&command.id), unreadable.get(&command.id)) {
                (true, _) => Decision::Torn,
                (false, Some(reason)) => Decision::Unreadable(reason.clone()),
                (false, None) => decide_one(command, working.entry(command.id).or_insert_with(empty), &mut rows),
            };
            decisions.push(decision);
        }
        let appended = if rows.is_empty() { HashMap::new() } else { append(pool, &rows, &working, &mut torn).await? };
        let Some(appended) = AppendedRows::whole(appended, &torn, &decisions, commands) else { continue };
        return Ok(decisions
            .into_iter()
            .zip(commands)
            .map(|(decision, command)| appended.outcome(decision, command.id, &working))
            .collect());
    }
}

fn empty<A: Decider>() -> Working<A> {
    Working { state: A::default(), last_sequence: 0, staged: 0 }
}

enum Decision<A: Decider> {
    Staged {
        events: Vec<(i64, A::Event)>,
        state: A,
    },
    Refused(A::Error),
    Unreadable(Arc<serde_json::Error>),
    /// A part of what this aggregate appended in an earlier turn came back; it is tried again by itself.
    Torn,
}

fn decide_one<A, C>(command: &Addressed<C>, working: &mut Working<A>, rows: &mut AppendRows) -> Decision<A>
where
    A: Decider<Command = CommandEnvelope<C>> + Clone,
{
    let events = match working.state.decide(&command.envelope) {
        Ok(events) => events,
        Err(refusal) => return Decision::Refused(refusal),
    };
    let mut staged = Vec::with_capacity(events.len());
    if !events.is_empty() {
        let metadata = Metadata::of(&command.envelope, &command.actor).to_json();
        for event in events {
            working.last_sequence += 1;
            working.staged += 1;
            rows.push(command.id, working.last_sequence, &event, metadata.clone());
            working.state.evolve(&event);
            staged.push((working.last_sequence, event));
        }
        if let Some(attachment) = &command.attachment {
            rows.attach(command.id, attachment.clone());
        }
    }
    Decision::Staged { events: staged, state: working.state.clone() }
}

type Loaded<A> = (HashMap<Uuid, Working<A>>, HashMap<Uuid, Arc<serde_json::Error>>);

async fn load<A: Decider>(pool: &PgPool, commands: &[&Addressed<impl Sized>]) -> Result<Loaded<A>, RoundError> {
    let ids: Vec<String> =
        commands.iter().map(|command| command.id).collect::<HashSet<_>>().iter().map(Uuid::to_string).collect();
    let history = sqlx::query!(
        r#"SELECT aggregate_id::uuid AS "id!", sequence, payload FROM events
           WHERE aggregate_type = $1 AND aggregate_id = ANY($2)
           ORDER BY aggregate_id, sequence"#,
        A::TYPE,
        &ids,
    )
    .fetch_all(pool)
    .await?;
    let mut working: HashMap<Uuid, Working<A>> = HashMap::with_capacity(ids.len());
    let mut unreadable = HashMap::new();
    for row in history {
        match serde_json::from_value::<A::Event>(row.payload) {
            Ok(event) => {
                let entry = working.entry(row.id).or_insert_with(empty);
                entry.state.evolve(&event);
                entry.last_sequence = row.sequence;
            }
            Err(error) => {
                unreadable.entry(row.id).or_insert_with(|| Arc::new(error));
            }
        }
    }
    Ok((working, unreadable))
}

/// Appends and commits, unless an aggregate came back in part: then nothing stands, and `torn` names it.
async fn append<A>(
    pool: &PgPool,
    rows: &AppendRows,
    working: &HashMap<Uuid, Working<A>>,
    torn: &mut HashSet<Uuid>,
) -> Result<HashMap<(Uuid, i64), Position>, RoundError>
where
    A: Decider,
{
    let mut tx = pool.begin().await?;
    let appended = append_in_tx(&mut tx, A::TYPE, rows).await?;
    let mut came_back: HashMap<Uuid, usize> = HashMap::new();
    for (id, _) in appended.keys() {
        *came_back.entry(*id).or_default() += 1;
    }
    let torn_now: Vec<Uuid> = came_back
        .into_iter()
        .filter(|(id, count)| working.get(id).is_some_and(|entry| entry.staged != *count))
        .map(|(id, _)| id)
        .collect();
    if torn_now.is_empty() {
        tx.commit().await.map_err(RoundError::Unavailable)?;
    } else {
        tx.rollback().await?;
        torn.extend(torn_now);
    }
    Ok(appended)
}

struct AppendedRows(HashMap<(Uuid, i64), Position>);

impl AppendedRows {
    /// `None` when the turn was rolled back because an aggregate that took part in it was torn.
    fn whole<A: Decider, C>(
        rows: HashMap<(Uuid, i64), Position>,
        torn: &HashSet<Uuid>,
        decisions: &[Decision<A>],
        commands: &[&Addressed<C>],
    ) -> Option<Self> {
        let rolled_back = decisions
            .iter()
            .zip(commands)
            .any(|(decision, command)| torn.contains(&command.id) && !matches!(decision, Decision::Torn));
        (!rolled_back).then_some(Self(rows))
    }

    fn outcome<A: Decider>(
        &self,
        decision: Decision<A>,
        id: Uuid,
        working: &HashMap<Uuid, Working<A>>,
    ) -> RoundOutcome<A> {
        let entry = working.get(&id);
        let lost = entry.is_some_and(|entry| entry.staged > 0 && !self.0.contains_key(&(id, entry.last_sequence)));
        match decision {
            Decision::Torn => RoundOutcome::LostRace,
            Decision::Unreadable(source) => {
                RoundOutcome::Ended(Err(CommandError::Unreadable { aggregate_id: id, source }))
            }
            // Whatever was decided on a state that did not come to be has to be decided again.
            _ if lost => RoundOutcome::LostRace,
            Decision::Refused(refusal) => RoundOutcome::Ended(Err(CommandError::Refused(refusal))),
            Decision::Staged { events, state } => {
                let events = events
                    .into_iter()
                    .filter_map(|(sequence, event)| Some((*self.0.get(&(id, sequence))?, event)))
                    .collect();
                RoundOutcome::Ended(Ok(Committed { events, state }))
            }
        }
    }
}
