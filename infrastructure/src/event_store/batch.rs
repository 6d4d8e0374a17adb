//! One batch: load in one query, decide in order, append in one statement, and tell each command its own outcome.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use domain::aggregate::Position;
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::append::{AppendRows, append};
use super::batch_store::{Command, Commanded};
use super::state_cache::{Known, StateCache};
use super::{CommandError, Committed, Metadata};

/// What became of one command in one round.
pub(super) enum RoundOutcome<A: Commanded> {
    Ended(Result<Committed<A>, CommandError<A::Error>>),
    /// Another writer was faster: try again from a fresh load.
    LostRace,
}

/// Runs commands once, in order, and answers one outcome for each, in the same order.
///
/// Commands for the same aggregate are folded on the same state. When the database refuses the rows of a batch, the
/// batch is halved until the command that it refuses stands alone, so that a poisoned command fails by itself.
///
/// `fresh`: nothing is assumed, for these commands have lost a race before.
pub(super) async fn run_round<A: Commanded>(
    connection: &mut PgConnection,
    cache: &mut StateCache<A>,
    fresh: bool,
    commands: &[&Command<A>],
) -> Vec<RoundOutcome<A>> {
    let failed = match try_round(connection, cache, fresh, commands).await {
        Ok(outcomes) => return outcomes,
        Err(RoundError::Refused(source)) if commands.len() > 1 => {
            tracing::warn!(commands = commands.len(), error = %source, "the database refused a batch; halving it");
            let (first, second) = commands.split_at(commands.len() / 2);
            let mut outcomes = Box::pin(run_round(connection, cache, fresh, first)).await;
            outcomes.extend(Box::pin(run_round(connection, cache, fresh, second)).await);
            return outcomes;
        }
        Err(failed) => failed,
    };
    match failed {
        RoundError::Refused(source) => {
            let source = Arc::new(source);
            commands.iter().map(|_| RoundOutcome::Ended(Err(CommandError::Poisoned(source.clone())))).collect()
        }
        RoundError::Unavailable(source) => {
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

/// An aggregate at the beginning of a round.
struct Base<A> {
    known: Known<A>,
    /// From the cache, or taken for new: the log may know more.
    assumed: bool,
}

/// The aggregates of a round, by id.
struct Bases<A> {
    by_id: HashMap<Uuid, Base<A>>,
    unreadable: HashMap<Uuid, Arc<serde_json::Error>>,
}

async fn try_round<A: Commanded>(
    connection: &mut PgConnection,
    cache: &mut StateCache<A>,
    fresh: bool,
    commands: &[&Command<A>],
) -> Result<Vec<RoundOutcome<A>>, RoundError> {
    let mut bases = Bases::assumed(cache, fresh, commands);
    let mut torn: HashSet<Uuid> = HashSet::new();
    let missing: HashSet<Uuid> =
        commands.iter().map(|command| command.id).filter(|id| !bases.by_id.contains_key(id)).collect();
    bases.load(connection, missing).await?;
    // Each turn makes at least one aggregate certain or takes one out of the batch, so the loop ends; it seldom runs
    // more than once.
    loop {
        let pass = Pass::decide(&bases, commands, &torn);
        if !pass.doubted.is_empty() {
            bases.load(connection, pass.doubted).await?;
            continue;
        }
        let appended = match pass.append(connection).await? {
            Appended::Whole(rows) => rows,
            Appended::Torn(ids) => {
                torn.extend(ids);
                continue;
            }
        };
        return Ok(pass.outcomes(cache, commands, &appended));
    }
}

impl<A: Commanded> Bases<A> {
    /// What can be assumed without asking the log.
    fn assumed(cache: &mut StateCache<A>, fresh: bool, commands: &[&Command<A>]) -> Self {
        let mut by_id = HashMap::with_capacity(commands.len());
        for command in commands {
            if by_id.contains_key(&command.id) {
                continue;
            }
            let new = || A::creates(&command.envelope.command).then(Known::new);
            // It is taken out: only a round that ends well puts it back.
            let cached = cache.take(command.id);
            if let Some(known) = cached.or_else(|| new().filter(|_| cache.is_used())).filter(|_| !fresh) {
                by_id.insert(command.id, Base { known, assumed: true });
            }
        }
        Self { by_id, unreadable: HashMap::new() }
    }

    async fn load(&mut self, connection: &mut PgConnection, ids: HashSet<Uuid>) -> Result<(), RoundError> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let wanted: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        // One index lookup for each aggregate: with `= ANY` the planner may walk the whole index of the type instead. And
        // one row for each: a sequence has no gaps, so the number of its events is the last one's.
        let histories = sqlx::query!(
            r#"SELECT wanted.place AS "place!",
                      ARRAY(SELECT payload::text FROM events
                            WHERE aggregate_type = $1 AND aggregate_id = wanted.id
                            ORDER BY sequence) AS "payloads!"
               FROM unnest($2::text[]) WITH ORDINALITY AS wanted (id, place)"#,
            A::TYPE,
            &wanted,
        )
        .fetch_all(connection)
        .await?;
        for row in histories {
            let place = usize::try_from(row.place - 1).ok();
            let Some(id) = place.and_then(|place| ids.get(place)).copied() else { continue };
            let mut known: Known<A> = Known::new();
            for payload in row.payloads {
                match serde_json::from_str::<A::Event>(&payload) {
                    Ok(event) => {
                        known.state.evolve(&event);
                        known.last_sequence += 1;
                    }
                    Err(error) => {
                        self.unreadable.entry(id).or_insert_with(|| Arc::new(error));
                    }
                }
            }
            self.by_id.insert(id, Base { known, assumed: false });
        }
        Ok(())
    }
}

impl<A: Commanded> Known<A> {
    fn new() -> Self {
        Self { state: A::default(), last_sequence: 0 }
    }
}

/// All commands decided once, on one view of their aggregates.
struct Pass<A: Commanded> {
    decisions: Vec<Decision<A>>,
    working: HashMap<Uuid, Working<A>>,
    rows: AppendRows,
    /// Aggregates of which the log has to be asked first.
    doubted: HashSet<Uuid>,
}

struct Working<A> {
    known: Known<A>,
    staged: usize,
}

enum Decision<A: Commanded> {
    Staged {
        events: Vec<(i64, A::Event)>,
        state: A,
    },
    Refused(A::Error),
    Unreadable(Arc<serde_json::Error>),
    /// A part of what this aggregate appended in an earlier turn came back; it is tried again by itself.
    Torn,
    /// The pass is thrown away.
    Doubted,
}

impl<A: Commanded> Pass<A> {
    fn decide(bases: &Bases<A>, commands: &[&Command<A>], torn: &HashSet<Uuid>) -> Self {
        let mut pass = Self {
            decisions: Vec::with_capacity(commands.len()),
            working: HashMap::with_capacity(bases.by_id.len()),
            rows: AppendRows::default(),
            doubted: HashSet::new(),
        };
        for command in commands {
            let decision = match (bases.unreadable.get(&command.id), bases.by_id.get(&command.id)) {
                (Some(reason), _) => Decision::Unreadable(reason.clone()),
                (None, Some(base)) if !torn.contains(&command.id) => pass.decide_one(base, command),
                (None, _) => Decision::Torn,
            };
            pass.decisions.push(decision);
        }
        pass
    }

    fn decide_one(&mut self, base: &Base<A>, command: &Command<A>) -> Decision<A> {
        let working =
            self.working.entry(command.id).or_insert_with(|| Working { known: base.known.clone(), staged: 0 });
        let decision = working.known.state.decide(&command.envelope);
        // What was staged on an assumed state proves it when it is appended; an answer without events proves nothing.
        let proven = !base.assumed || working.staged > 0 || matches!(&decision, Ok(events) if !events.is_empty());
        if !proven && !working.known.state.is_final_for(&command.envelope) {
            self.doubted.insert(command.id);
            return Decision::Doubted;
        }
        let events = match decision {
            Ok(events) => events,
            Err(refusal) => return Decision::Refused(refusal),
        };
        let mut staged = Vec::with_capacity(events.len());
        if !events.is_empty() {
            let metadata = Metadata::of(&command.envelope, &command.actor).to_json();
            for event in events {
                working.known.last_sequence += 1;
                working.staged += 1;
                self.rows.push(command.id, working.known.last_sequence, &event, metadata.clone());
                working.known.state.evolve(&event);
                staged.push((working.known.last_sequence, event));
            }
            if let Some(attachment) = &command.attachment {
                self.rows.attach(command.id, attachment.clone(), working.known.state.latest_attempt());
            }
        }
        Decision::Staged { events: staged, state: working.known.state.clone() }
    }

    /// Appends and commits, unless an aggregate came back in part: then nothing stands.
    async fn append(&self, connection: &mut PgConnection) -> Result<Appended, RoundError> {
        if self.rows.is_empty() {
            return Ok(Appended::Whole(HashMap::new()));
        }
        // A statement of its own is a transaction. It saves two round trips, and no aggregate can be torn that appends
        // one event alone.
        if self.working.values().all(|working| working.staged <= 1) {
            return Ok(Appended::Whole(append(connection, A::TYPE, &self.rows).await?));
        }
        let mut tx = connection.begin().await?;
        let appended = append(&mut tx, A::TYPE, &self.rows).await?;
        let mut came_back: HashMap<Uuid, usize> = HashMap::new();
        for (id, _) in appended.keys() {
            *came_back.entry(*id).or_default() += 1;
        }
        let torn: Vec<Uuid> = came_back
            .into_iter()
            .filter(|(id, count)| self.working.get(id).is_some_and(|working| working.staged != *count))
            .map(|(id, _)| id)
            .collect();
        if torn.is_empty() {
            tx.commit().await.map_err(RoundError::Unavailable)?;
            return Ok(Appended::Whole(appended));
        }
        tx.rollback().await?;
        Ok(Appended::Torn(torn))
    }

    fn outcomes(
        self,
        cache: &mut StateCache<A>,
        commands: &[&Command<A>],
        appended: &HashMap<(Uuid, i64), Position>,
    ) -> Vec<RoundOutcome<A>> {
        let lost: HashSet<Uuid> = self
            .working
            .iter()
            .filter(|(id, working)| working.staged > 0 && !appended.contains_key(&(**id, working.known.last_sequence)))
            .map(|(id, _)| *id)
            .collect();
        for (id, working) in self.working {
            if !lost.contains(&id) && working.known.state.expects_more() {
                cache.put(id, working.known);
            }
        }
        self.decisions
            .into_iter()
            .zip(commands)
            .map(|(decision, command)| {
                // Whatever was decided on a state that did not come to be has to be decided again.
                if lost.contains(&command.id) {
                    return RoundOutcome::LostRace;
                }
                match decision {
                    Decision::Torn | Decision::Doubted => RoundOutcome::LostRace,
                    Decision::Unreadable(source) => {
                        RoundOutcome::Ended(Err(CommandError::Unreadable { aggregate_id: command.id, source }))
                    }
                    Decision::Refused(refusal) => RoundOutcome::Ended(Err(CommandError::Refused(refusal))),
                    Decision::Staged { events, state } => {
                        let events = events
                            .into_iter()
                            .filter_map(|(sequence, event)| Some((*appended.get(&(command.id, sequence))?, event)))
                            .collect();
                        RoundOutcome::Ended(Ok(Committed { events, state }))
                    }
                }
            })
            .collect()
    }
}

enum Appended {
    Whole(HashMap<(Uuid, i64), Position>),
    /// Rolled back: of these aggregates only a part could be appended.
    Torn(Vec<Uuid>),
}
