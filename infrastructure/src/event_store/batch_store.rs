//! The high-rate path: group commit.
//!
//! Concurrent callers' commands are gathered, the first at once, then whatever comes within about a millisecond, up to
//! several hundred, and run as one batch. While a batch commits, the next one gathers, so batches grow with the load and
//! a lone command waits for nobody. Commands that come together stay together: what `execute_many` is given is one
//! transaction. Commands are routed to writers by aggregate, so that two writers of one process never race for the same
//! message, and each writer remembers the states that it will soon be asked for.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::{CommandEnvelope, Decider};
use domain::consent::{Consent, ConsentCommand};
use domain::message::{Message, MessageCommand};
use sqlx::PgPool;
use sqlx::pool::PoolConnection;
use sqlx::postgres::Postgres;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{RoundOutcome, run_round};
use super::state_cache::StateCache;
use super::{Addressed, CommandError, Committed};

pub type MessageStore = BatchStore<Message>;
pub type ConsentStore = BatchStore<Consent>;

#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Commands per batch. Commands that were given together are not cut apart, however many they are.
    pub batch_max: usize,
    /// How long a batch that is not full waits for more once it has a second command.
    pub batch_wait: Duration,
    /// How often a command that lost the race is decided again.
    pub conflict_retries_max: u32,
    /// Batches that may be in the database at once.
    pub writers: usize,
    /// Aggregates whose state is remembered, over all writers; with 0 every command loads its aggregate.
    pub states_max: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            batch_max: 1000,
            batch_wait: Duration::from_millis(1),
            conflict_retries_max: 5,
            writers: 1,
            states_max: 20_000,
        }
    }
}

/// A database that has not answered by then is gone without a goodbye. Whether it committed is not known, so nobody gets
/// a receipt.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// A connection that was not used for longer may have died unnoticed.
const HELD_MAX: Duration = Duration::from_secs(1);
/// Groups of commands that may wait in front of one writer; callers beyond that wait to be let in.
const QUEUE_MAX: usize = 1024;

pub(super) type Command<A> = Addressed<<A as Commanded>::Kind>;
type Answer<A> = Result<Committed<A>, CommandError<<A as cqrs_es::Aggregate>::Error>>;

/// What the batch path has to know of an aggregate beside its decisions.
pub trait Commanded: Decider<Command = CommandEnvelope<<Self as Commanded>::Kind>> + Clone + 'static {
    /// The kind of command inside the envelope.
    type Kind: Send + Sync + 'static;

    /// Is it normally the first command of its aggregate? Then the history is looked for only if it turns out that
    /// there is one.
    fn creates(_: &Self::Kind) -> bool {
        false
    }

    /// Would the answer to this command be the same after any later event? Then it may be given on a state that may not
    /// be the latest.
    fn is_final_for(&self, _: &CommandEnvelope<Self::Kind>) -> bool {
        false
    }

    /// Are more commands likely to come soon?
    fn expects_more(&self) -> bool {
        false
    }

    /// The attempt that an id of WhatsApp's belongs to which is heard of for the first time; `None` if it may be another.
    fn latest_attempt(&self) -> Option<u32> {
        None
    }
}

impl Commanded for Message {
    type Kind = MessageCommand;

    fn creates(command: &MessageCommand) -> bool {
        matches!(command, MessageCommand::QueueMessage { .. } | MessageCommand::Skip { .. })
    }

    fn is_final_for(&self, command: &CommandEnvelope<MessageCommand>) -> bool {
        Self::is_final_for(self, command)
    }

    fn expects_more(&self) -> bool {
        self.is_under_way()
    }

    fn latest_attempt(&self) -> Option<u32> {
        self.certain_attempt()
    }
}

impl Commanded for Consent {
    type Kind = ConsentCommand;
}

/// A cheap handle to the writers of one aggregate type.
pub struct BatchStore<A: Commanded> {
    writers: Vec<mpsc::Sender<Group<A>>>,
}

impl<A: Commanded> Clone for BatchStore<A> {
    fn clone(&self) -> Self {
        Self { writers: self.writers.clone() }
    }
}

/// Commands that came together, and who waits for their answers.
struct Group<A: Commanded> {
    commands: Vec<Command<A>>,
    answer: oneshot::Sender<Vec<Answer<A>>>,
}

impl<A: Commanded> BatchStore<A>
where
    A::Error: Send + Sync,
    A::Event: Send,
{
    /// Starts the writers. They end when `shutdown` is cancelled, after what has been accepted is committed.
    pub fn start(pool: &PgPool, config: &BatchConfig, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let count = config.writers.max(1);
        let writers = (0..count)
            .map(|_| {
                let (sender, groups) = mpsc::channel(QUEUE_MAX);
                let cache = StateCache::new(config.states_max.div_ceil(count));
                let writer = Writer { pool: pool.clone(), connection: None, config: config.clone(), groups, cache };
                tasks.spawn(writer.run(shutdown.clone()));
                sender
            })
            .collect();
        Self { writers }
    }

    pub async fn execute(&self, command: Command<A>) -> Answer<A> {
        let writer = self.writer_of(&command);
        let answers = self.submit(writer, vec![command]).await.await;
        answers.ok().and_then(|mut answers| answers.pop()).unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Answers in the order of the commands; those for the same aggregate are also decided in this order. With one
    /// writer all of them are one transaction.
    pub async fn execute_many(&self, commands: Vec<Command<A>>) -> Vec<Answer<A>> {
        let count = commands.len();
        let mut groups: Vec<(Vec<usize>, Vec<Command<A>>)> = self.writers.iter().map(|_| Default::default()).collect();
        for (place, command) in commands.into_iter().enumerate() {
            let (places, group) = &mut groups[self.writer_of(&command)];
            places.push(place);
            group.push(command);
        }
        let mut submitted = Vec::with_capacity(groups.len());
        for (writer, (places, group)) in groups.into_iter().enumerate().filter(|(_, (_, group))| !group.is_empty()) {
            submitted.push((places, self.submit(writer, group).await));
        }
        let mut answers: Vec<Answer<A>> = Vec::with_capacity(count);
        answers.resize_with(count, || Err(CommandError::ShuttingDown));
        for (places, answered) in submitted {
            for (place, answer) in places.into_iter().zip(answered.await.unwrap_or_default()) {
                answers[place] = answer;
            }
        }
        answers
    }

    /// Hands commands to their writer. A writer that has ended drops them, and with them the sending half.
    async fn submit(&self, writer: usize, commands: Vec<Command<A>>) -> oneshot::Receiver<Vec<Answer<A>>> {
        let (answer, answered) = oneshot::channel();
        drop(self.writers[writer].send(Group { commands, answer }).await);
        answered
    }

    fn writer_of(&self, command: &Command<A>) -> usize {
        // The last bytes of every id of ours are random or a hash.
        let bytes = command.id.as_bytes();
        usize::from(u16::from_be_bytes([bytes[14], bytes[15]])) % self.writers.len()
    }
}

struct Writer<A: Commanded> {
    pool: PgPool,
    /// Kept from batch to batch, so that a command does not pay for a look at the pool.
    connection: Option<Held>,
    config: BatchConfig,
    groups: mpsc::Receiver<Group<A>>,
    cache: StateCache<A>,
}

struct Held {
    connection: PoolConnection<Postgres>,
    used: Instant,
}

/// A group of which some commands may have ended.
struct Open<A: Commanded> {
    commands: Vec<Command<A>>,
    answers: Vec<Option<Answer<A>>>,
    open: usize,
    answer: oneshot::Sender<Vec<Answer<A>>>,
}

impl<A: Commanded> Open<A> {
    fn new(group: Group<A>) -> Self {
        let open = group.commands.len();
        let mut answers = Vec::with_capacity(open);
        answers.resize_with(open, || None);
        Self { commands: group.commands, answers, open, answer: group.answer }
    }

    fn settle(&mut self, place: usize, answer: Answer<A>) {
        self.answers[place] = Some(answer);
        self.open -= 1;
    }

    /// The caller may have gone; what was committed stands in the log all the same.
    fn send(self) {
        drop(self.answer.send(self.answers.into_iter().flatten().collect()));
    }
}

impl<A: Commanded> Writer<A>
where
    A::Error: Send + Sync,
    A::Event: Send,
{
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                group = self.groups.recv() => group,
                () = tokio::time::sleep(HELD_MAX), if self.connection.is_some() => {
                    self.connection = None;
                    continue;
                }
                () = shutdown.cancelled(), if !self.groups.is_closed() => {
                    self.groups.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let batch = self.gather(first).await;
            self.commit(batch).await;
        }
    }

    async fn gather(&mut self, first: Group<A>) -> Vec<Open<A>> {
        let mut commands = first.commands.len();
        let mut batch = vec![Open::new(first)];
        let deadline = Instant::now() + self.config.batch_wait;
        while commands < self.config.batch_max {
            let next = match self.groups.try_recv() {
                Ok(group) => group,
                // A lone command has nobody to wait for.
                Err(_) if batch.len() == 1 => break,
                Err(_) => match tokio::time::timeout_at(deadline, self.groups.recv()).await {
                    Ok(Some(group)) => group,
                    Ok(None) | Err(_) => break,
                },
            };
            commands += next.commands.len();
            batch.push(Open::new(next));
        }
        batch
    }

    async fn commit(&mut self, mut batch: Vec<Open<A>>) {
        for round in 0..=self.config.conflict_retries_max {
            self.round(round > 0, &mut batch).await;
            let (ended, open): (Vec<_>, Vec<_>) = batch.into_iter().partition(|group| group.open == 0);
            ended.into_iter().for_each(Open::send);
            batch = open;
            if batch.is_empty() {
                return;
            }
        }
        let attempts = self.config.conflict_retries_max + 1;
        settle_all(&mut batch, || CommandError::Conflict { attempts });
        batch.into_iter().for_each(Open::send);
    }

    /// Runs what is open once.
    async fn round(&mut self, fresh: bool, batch: &mut [Open<A>]) {
        let places: Vec<(usize, usize)> = batch
            .iter()
            .enumerate()
            .flat_map(|(group, open)| (0..open.commands.len()).map(move |place| (group, place)))
            .filter(|(group, place)| batch[*group].answers[*place].is_none())
            .collect();
        let commands: Vec<&Command<A>> = places.iter().map(|(group, place)| &batch[*group].commands[*place]).collect();
        let pool = self.pool.clone();
        let (held, cache) = (&mut self.connection, &mut self.cache);
        let round = async {
            let mut connection = match held.take() {
                Some(held) if held.used.elapsed() < HELD_MAX => held.connection,
                // The pool looks whether it still works.
                idle => {
                    drop(idle);
                    pool.acquire().await?
                }
            };
            let outcomes = run_round::<A>(&mut connection, cache, fresh, &commands).await;
            let failed =
                |outcome: &RoundOutcome<A>| matches!(outcome, RoundOutcome::Ended(Err(CommandError::Unavailable(_))));
            // One that failed is given back to the pool, which looks at it before anybody has it again.
            if !outcomes.iter().any(failed) {
                *held = Some(Held { connection, used: Instant::now() });
            }
            Ok::<_, sqlx::Error>(outcomes)
        };
        let outcomes = match tokio::time::timeout(ROUND_MAX, round).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => return unavailable(batch, error),
            Err(_) => {
                let silent = std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in time");
                return unavailable(batch, silent);
            }
        };
        for ((group, place), outcome) in places.into_iter().zip(outcomes) {
            if let RoundOutcome::Ended(answer) = outcome {
                batch[group].settle(place, answer);
            }
        }
    }
}

fn unavailable<A: Commanded>(batch: &mut [Open<A>], source: impl std::error::Error + Send + Sync + 'static) {
    let source: Arc<dyn std::error::Error + Send + Sync> = Arc::new(source);
    settle_all(batch, || CommandError::Unavailable(source.clone()));
}

fn settle_all<A: Commanded>(batch: &mut [Open<A>], error: impl Fn() -> CommandError<A::Error>) {
    for group in batch {
        for place in 0..group.answers.len() {
            if group.answers[place].is_none() {
                group.settle(place, Err(error()));
            }
        }
    }
}
