//! Turns stored webhook bodies into commands, many at a time.
//!
//! One process at a time interprets, by a lease; another one beside it that does not know yet that it has lost the
//! lease does harmless work, for interpreting a body twice changes nothing. What cannot be applied is parked alone, and
//! the rest of its body goes on.
//!
//! A step that was not full is followed by a pause, so that at a middling load one commit serves many bodies. After a
//! full one the next is taken and read while the former commits.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use chrono::TimeDelta;
use domain::message::MessageError;
use futures::FutureExt as _;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::applying::{FailureRules, apply};
use super::owners::Owners;
use super::pending::{Body, Pending, Rest, Step, StepLimits};
use super::reading::{Contents, Place, VerifiedNews, read};
use crate::clock::Clock;
use crate::event_store::{CommandError, MessageStore};
use crate::inbound::{Heard, InboundError, Listener};
use crate::lease;
use crate::postgres::is_refusal;
use crate::templates::news;

#[derive(Debug, Clone)]
pub struct InterpreterConfig {
    /// Bodies of one step.
    pub batch_max: u32,
    /// Bytes of bodies of one step; a single body may have more.
    pub batch_bytes_max: u32,
    /// Time from the beginning of a step that was not full to that of the next.
    pub poll: Duration,
    /// A body that failed so often is parked.
    pub attempts_max: u32,
    /// A status whose message is still not known after this belongs to another application that sends from the same number.
    pub waiting_max: Duration,
    pub failures: FailureRules,
}

const LEASE: &str = "webhook-interpreter";
const LEASE_TTL: Duration = Duration::from_secs(5);
/// How often the lease is renewed.
const LEASE_RENEWAL: Duration = Duration::from_secs(1);
/// How often waiting statuses are looked through, and bodies that failed in another process.
const CHORES: Duration = Duration::from_secs(1);
/// Waiting statuses taken up in one go.
const WAITING_PAGE: i64 = 1000;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// After so many failures in a row that seem to come from the surroundings, the bodies are suspected after all.
const TROUBLES_MAX: u32 = 10;

pub struct Interpreter {
    pub pool: PgPool,
    pub clock: Clock,
    pub messages: MessageStore,
    pub listener: Listener,
    pub config: InterpreterConfig,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum InterpretError {
    #[error("the inbox could not be read or changed")]
    Database(#[from] sqlx::Error),
    #[error("a status could not be applied")]
    Command(#[source] CommandError<MessageError>),
    #[error(transparent)]
    Inbound(#[from] InboundError),
    /// What it was is logged by the hook of the process.
    #[error("the interpreter panicked")]
    Panicked,
}

impl InterpretError {
    /// Is it about what was interpreted, and not about the surroundings?
    fn blames_the_bodies(&self) -> bool {
        match self {
            Self::Database(error) => is_refusal(error),
            Self::Command(CommandError::Unavailable(source)) => source.downcast_ref().is_some_and(is_refusal),
            Self::Inbound(InboundError::Database(error)) => is_refusal(error),
            Self::Inbound(InboundError::Command(CommandError::Unavailable(source))) => {
                source.downcast_ref().is_some_and(is_refusal)
            }
            Self::Command(_) | Self::Inbound(InboundError::Command(_)) => false,
            Self::Panicked => true,
        }
    }

    fn reason(&self) -> String {
        let mut reason = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            reason = format!("{reason}: {cause}");
            source = cause.source();
        }
        reason
    }
}

/// A step with what its bodies hold.
struct Taken {
    step: Step,
    contents: Result<Contents, InterpretError>,
    /// Was there no room for more?
    full: bool,
}

/// What one process works with while it holds the lease.
struct Work {
    interpreter: Interpreter,
    pending: Pending,
    owners: Owners,
    /// The next step, which was taken while the former was under way.
    ahead: Option<Taken>,
    /// May there be bodies that failed before?
    failed: bool,
    chores_at: Instant,
    /// Steps in a row that failed for something in their surroundings.
    troubles: u32,
}

impl Interpreter {
    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        let pool = self.pool.clone();
        let (tenure, current) = watch::channel(None);
        tokio::select! {
            () = hold_lease(&pool, holder, tenure) => {}
            () = Work::new(self, holder).run(current, &shutdown) => {}
        }
        if let Err(error) = lease::release(&pool, LEASE, holder).await {
            tracing::debug!(%error, "the interpreter's lease ends by itself");
        }
    }
}

/// Keeps the lease as long as it is polled. Each time that it is gained is another tenure.
async fn hold_lease(pool: &PgPool, holder: Uuid, tenure: watch::Sender<Option<u64>>) {
    let mut tenures = 0;
    loop {
        match lease::hold(pool, LEASE, holder, LEASE_TTL).await {
            Ok(true) if tenure.borrow().is_none() => {
                tenures += 1;
                tenure.send_replace(Some(tenures));
            }
            Ok(true) => {}
            Ok(false) => drop(tenure.send_replace(None)),
            // Nothing is taken when the lease has run out, whatever is believed here.
            Err(error) => tracing::debug!(%error, "the interpreter's lease could not be renewed"),
        }
        tokio::time::sleep(LEASE_RENEWAL).await;
    }
}

impl Work {
    fn new(interpreter: Interpreter, holder: Uuid) -> Self {
        let pool = interpreter.pool.clone();
        let attempts_max = i32::try_from(interpreter.config.attempts_max).unwrap_or(i32::MAX);
        Self {
            pending: Pending { pool: pool.clone(), holder, lease: LEASE, attempts_max },
            owners: Owners::new(pool),
            interpreter,
            ahead: None,
            failed: true,
            chores_at: Instant::now(),
            troubles: 0,
        }
    }

    async fn run(mut self, mut tenure: watch::Receiver<Option<u64>>, shutdown: &CancellationToken) {
        let mut recovered = None;
        let mut failing = false;
        while !shutdown.is_cancelled() {
            let current = *tenure.borrow_and_update();
            if current.is_none() {
                tokio::select! {
                    _ = tenure.changed() => continue,
                    () = shutdown.cancelled() => break,
                }
            }
            let started = Instant::now();
            let turn = async {
                if recovered != current {
                    self.ahead = None;
                    self.pending.recover(self.interpreter.clock.now()).await?;
                    self.failed = true;
                    recovered = current;
                }
                self.turn().await
            };
            let turned = turn.await;
            let pause = match &turned {
                Ok(true) => Duration::ZERO,
                Ok(false) => self.interpreter.config.poll.saturating_sub(started.elapsed()),
                Err(_) => RETRY_PAUSE,
            };
            let failed_before = std::mem::replace(&mut failing, turned.is_err());
            if let Err(error) = turned
                && !failed_before
            {
                tracing::warn!(error = &error as &dyn std::error::Error, "webhooks wait; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
        self.give_back_ahead().await;
    }

    async fn give_back_ahead(&mut self) {
        let Some(ahead) = self.ahead.take() else { return };
        if let Err(error) = self.pending.give_back(&ahead.step).await {
            tracing::debug!(%error, "bodies that were taken come again by themselves");
        }
    }

    /// `true` if there is more to do at once.
    async fn turn(&mut self) -> Result<bool, InterpretError> {
        let mut more = false;
        if self.chores_at <= Instant::now() {
            self.chores_at = Instant::now() + CHORES;
            self.failed = true;
            let since_min = self.interpreter.clock.now()
                - TimeDelta::from_std(self.interpreter.config.waiting_max).unwrap_or(TimeDelta::MAX);
            more |= self.pending.take_up_waiting(since_min, WAITING_PAGE).await?;
        }
        let taken = match self.ahead.take() {
            Some(taken) => Some(taken),
            None => self.take(None).await?,
        };
        if let Some(taken) = taken {
            more |= taken.full;
            self.interpret_with_look_ahead(taken).await?;
        }
        // After the others, so that what fails for ever does not keep them from their turn.
        if self.failed {
            self.failed = self.interpret_failed().await?;
        }
        Ok(more || self.failed)
    }

    async fn interpret_with_look_ahead(&mut self, taken: Taken) -> Result<(), InterpretError> {
        if !taken.full {
            let interpreted = self.interpret(taken).await;
            return self.note(interpreted);
        }
        let under_way = taken.step.clone();
        let (interpreted, ahead) = tokio::join!(self.interpret(taken), self.take(Some(&under_way)));
        // What went wrong there goes wrong again when its turn comes.
        self.ahead = ahead.unwrap_or_default();
        self.note(interpreted)
    }

    fn note(&mut self, interpreted: Result<bool, InterpretError>) -> Result<(), InterpretError> {
        match interpreted {
            Ok(done) => {
                self.failed |= !done;
                self.troubles = 0;
                Ok(())
            }
            Err(error) => {
                self.troubles += 1;
                Err(error)
            }
        }
    }

    /// The next step, already read; `None` if nothing is pending.
    async fn take(&self, under_way: Option<&Step>) -> Result<Option<Taken>, InterpretError> {
        let config = &self.interpreter.config;
        let (bodies, bytes) = (i64::from(config.batch_max), i64::from(config.batch_bytes_max));
        let (step, taken) = self.pending.take(StepLimits { bodies, bytes }, under_way).await?;
        if taken.is_empty() {
            return Ok(None);
        }
        let taken_bytes: usize = taken.iter().map(|body| body.body.len()).sum();
        let full = taken.len() >= usize::try_from(bodies).unwrap_or(usize::MAX)
            || taken_bytes >= usize::try_from(bytes).unwrap_or(usize::MAX);
        Ok(Some(Taken { step, contents: self.read(&taken).await, full }))
    }

    /// One of the bodies that failed before; `false` if there is none.
    async fn interpret_failed(&mut self) -> Result<bool, InterpretError> {
        let Some((step, body)) = self.pending.take_failed().await? else { return Ok(false) };
        let contents = self.read(std::slice::from_ref(&body)).await;
        let interpreted = self.interpret(Taken { step, contents, full: false }).await;
        self.note(interpreted).map(|()| true)
    }

    async fn read(&self, bodies: &[Body]) -> Result<Contents, InterpretError> {
        let owners = self.owners.recent().await?;
        let attempt = |owners| {
            let read = AssertUnwindSafe(|| read(bodies, owners, self.interpreter.clock.now()));
            std::panic::catch_unwind(read).map_err(|_| InterpretError::Panicked)
        };
        let contents = attempt(&owners)?;
        if !contents.has_unknown_number {
            return Ok(contents);
        }
        // It may have been added a moment ago.
        attempt(&*self.owners.read().await?)
    }

    /// Applies a step and ends it. `false` if something about its bodies made it fail, which is counted. Trouble of the
    /// surroundings is an error and is not counted, unless it never ends while the inbox itself can be changed.
    async fn interpret(&self, taken: Taken) -> Result<bool, InterpretError> {
        let step = taken.step;
        let interpreted = match taken.contents {
            Ok(contents) => {
                let applied = AssertUnwindSafe(self.apply(&step, contents)).catch_unwind().await;
                applied.unwrap_or(Err(InterpretError::Panicked))
            }
            Err(error) => Err(error),
        };
        match interpreted {
            Ok(()) => Ok(true),
            Err(error) if error.blames_the_bodies() || self.troubles >= TROUBLES_MAX => {
                self.pending.fail(&step, &error.reason(), self.interpreter.clock.now()).await?;
                Ok(false)
            }
            Err(error) => {
                self.pending.give_back(&step).await?;
                Err(error)
            }
        }
    }

    async fn apply(&self, step: &Step, contents: Contents) -> Result<(), InterpretError> {
        let Interpreter { pool, messages, listener, clock, config } = &self.interpreter;
        let now = clock.now();
        let Contents { located, templates, parked, heard, recipients, inbound, unknown, has_unknown_number: _ } =
            contents;
        let mut rest = Rest { parked, waiting: Vec::new(), inbound, unknown };
        let (places, heard): (Vec<Place>, Vec<Heard>) = heard.into_iter().unzip();
        let refusals = listener.hear(&heard, &recipients, now).await?;
        for ((place, heard), refusal) in places.into_iter().zip(&heard).zip(refusals) {
            rest.parked.extend(refusal.map(|reason| place.parked(Some(heard.tenant_id), reason)));
        }
        if !located.is_empty() {
            apply(pool, messages, &config.failures, located, now, &mut rest).await?;
        }
        for VerifiedNews { place, senders, news } in templates {
            if news::apply(pool, &senders, &news, now).await? == news::Applied::Foreign {
                rest.parked.push(place.parked(None, "foreign: signed with the secret of another account"));
            }
        }
        self.pending.end(step, rest, now).await?;
        Ok(())
    }
}
