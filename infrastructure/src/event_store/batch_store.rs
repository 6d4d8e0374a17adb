//! The high-rate path: group commit.
//!
//! Concurrent callers' commands are gathered, the first at once, then whatever comes within about a millisecond, up to
//! a few hundred, and run as one batch. While a batch commits, the next one gathers, so batches grow with the load and
//! a lone command waits for nobody. Commands are routed to writers by aggregate, so that two writers of one process
//! never race for the same message.

use std::sync::Arc;
use std::time::Duration;

use domain::aggregate::{CommandEnvelope, Decider};
use domain::consent::Consent;
use domain::message::Message;
use sqlx::PgPool;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{RoundOutcome, run_round};
use super::{Addressed, CommandError, Committed};

pub type MessageStore = BatchStore<Message>;
pub type ConsentStore = BatchStore<Consent>;

#[derive(Debug, Clone)]
pub struct BatchConfig {
    /// Commands per batch.
    pub batch_max: usize,
    /// How long a batch that is not full waits for more once it has a second command.
    pub batch_wait: Duration,
    /// How often a command that lost the race is decided again.
    pub conflict_retries_max: u32,
    /// Batches that may be in the database at once.
    pub writers: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { batch_max: 256, batch_wait: Duration::from_millis(1), conflict_retries_max: 5, writers: 2 }
    }
}

/// A database that has not answered by then is gone without a goodbye. Whether it committed is not known, so nobody gets
/// a receipt.
const ROUND_MAX: Duration = Duration::from_secs(30);
/// Commands that may wait in front of one writer; callers beyond that wait to be let in.
const QUEUE_MAX: usize = 4096;

type Command<A> = Addressed<<A as Commanded>::Kind>;
type Answer<A> = Result<Committed<A>, CommandError<<A as cqrs_es::Aggregate>::Error>>;

/// Names the kind of command inside an aggregate's envelope.
pub trait Commanded: Decider<Command = CommandEnvelope<<Self as Commanded>::Kind>> + Clone + 'static {
    type Kind: Send + Sync + 'static;
}

impl Commanded for Message {
    type Kind = domain::message::MessageCommand;
}

impl Commanded for Consent {
    type Kind = domain::consent::ConsentCommand;
}

/// A cheap handle to the writers of one aggregate type.
pub struct BatchStore<A: Commanded> {
    writers: Vec<mpsc::Sender<Job<A>>>,
}

impl<A: Commanded> Clone for BatchStore<A> {
    fn clone(&self) -> Self {
        Self { writers: self.writers.clone() }
    }
}

struct Job<A: Commanded> {
    command: Command<A>,
    answer: oneshot::Sender<Answer<A>>,
}

impl<A: Commanded> BatchStore<A>
where
    A::Error: Send + Sync,
    A::Event: Send,
{
    /// Starts the writers. They end when `shutdown` is cancelled, after what has been accepted is committed.
    pub fn start(pool: &PgPool, config: &BatchConfig, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let writers = (0..config.writers.max(1))
            .map(|_| {
                let (sender, jobs) = mpsc::channel(QUEUE_MAX);
                let writer = Writer { pool: pool.clone(), config: config.clone(), jobs };
                tasks.spawn(writer.run(shutdown.clone()));
                sender
            })
            .collect();
        Self { writers }
    }

    pub async fn execute(&self, command: Command<A>) -> Answer<A> {
        self.submit(command).await.await.unwrap_or(Err(CommandError::ShuttingDown))
    }

    /// Answers in the order of the commands; those for the same aggregate are also decided in this order.
    pub async fn execute_many(&self, commands: Vec<Command<A>>) -> Vec<Answer<A>> {
        let mut submitted = Vec::with_capacity(commands.len());
        for command in commands {
            submitted.push(self.submit(command).await);
        }
        let mut answers = Vec::with_capacity(submitted.len());
        for answer in submitted {
            answers.push(answer.await.unwrap_or(Err(CommandError::ShuttingDown)));
        }
        answers
    }

    /// Hands a command to its writer. A writer that has ended drops the command, and with it the sending half.
    async fn submit(&self, command: Command<A>) -> oneshot::Receiver<Answer<A>> {
        let (answer, answered) = oneshot::channel();
        let writer = &self.writers[self.writer_of(&command)];
        drop(writer.send(Job { command, answer }).await);
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
    config: BatchConfig,
    jobs: mpsc::Receiver<Job<A>>,
}

impl<A: Commanded> Writer<A>
where
    A::Error: Send + Sync,
    A::Event: Send,
{
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            let first = tokio::select! {
                job = self.jobs.recv() => job,
                () = shutdown.cancelled(), if !self.jobs.is_closed() => {
                    self.jobs.close();
                    continue;
                }
            };
            let Some(first) = first else { return };
            let batch = self.gather(first).await;
            self.commit(batch).await;
        }
    }

    async fn gather(&mut self, first: Job<A>) -> Vec<Job<A>> {
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + self.config.batch_wait;
        while batch.len() < self.config.batch_max {
            match self.jobs.try_recv() {
                Ok(job) => batch.push(job),
                // A lone command has nobody to wait for.
                Err(_) if batch.len() == 1 => break,
                Err(_) => match tokio::time::timeout_at(deadline, self.jobs.recv()).await {
                    Ok(Some(job)) => batch.push(job),
                    Ok(None) | Err(_) => break,
                },
            }
        }
        batch
    }

    async fn commit(&self, mut batch: Vec<Job<A>>) {
        for _ in 0..=self.config.conflict_retries_max {
            let commands: Vec<&Command<A>> = batch.iter().map(|job| &job.command).collect();
            let round = run_round::<A, A::Kind>(&self.pool, &commands);
            let Ok(outcomes) = tokio::time::timeout(ROUND_MAX, round).await else {
                return refuse_all(batch);
            };
            let mut lost = Vec::new();
            for (job, outcome) in batch.into_iter().zip(outcomes) {
                match outcome {
                    // The caller may have gone; what was committed stands in the log all the same.
                    RoundOutcome::Ended(answer) => drop(job.answer.send(answer)),
                    RoundOutcome::LostRace => lost.push(job),
                }
            }
            batch = lost;
            if batch.is_empty() {
                return;
            }
        }
        let attempts = self.config.conflict_retries_max + 1;
        for job in batch {
            drop(job.answer.send(Err(CommandError::Conflict { attempts })));
        }
    }
}

fn refuse_all<A: Commanded>(batch: Vec<Job<A>>) {
    let source: Arc<dyn std::error::Error + Send + Sync> =
        Arc::new(std::io::Error::new(std::io::ErrorKind::TimedOut, "the database did not answer in time"));
    for job in batch {
        drop(job.answer.send(Err(CommandError::Unavailable(source.clone()))));
    }
}
