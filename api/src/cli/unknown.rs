//! `ektola unknown`: calls of which nobody knows whether WhatsApp accepted them.

use chrono::{DateTime, Utc};
use clap::ValueEnum;
use domain::ids::{MessageId, RunId, TenantId};
use domain::message::Resolution;
use infrastructure::event_store::{Actor, BatchConfig, MessageStore};
use infrastructure::unknown::{self, SettleError, UnknownOutcome};
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::output::{Align, Output, Table, duration, instant};
use super::status::zone_of_all;
use super::tenant;

const NEXT_AFTER_LIST: &str =
    "next: look the recipient up in WhatsApp Manager, then `ektola unknown settle ID --as sent|not-sent`";

#[derive(Debug, clap::Subcommand)]
pub enum UnknownCommand {
    /// List the calls whose outcome nobody knows, the oldest first.
    ///
    /// A webhook settles them whenever it comes. Without one they count as unconfirmed after a while.
    List(ListArgs),
    /// Say what became of messages whose outcome is in doubt.
    Settle(SettleArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those of one tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Only those of one run.
    #[arg(long, value_name = "RUN")]
    run: Option<Uuid>,
    /// How many are listed at most, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub struct SettleArgs {
    /// The ids of the messages.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<Uuid>,
    /// What became of them.
    #[arg(long = "as", value_name = "OUTCOME")]
    outcome: SettleAs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SettleAs {
    /// WhatsApp accepted the call.
    Sent,
    /// WhatsApp did not accept it, and it is not tried again.
    NotSent,
    /// Try again, which may reach the contact twice. Only for campaigns with `on_unknown` set to `resend`.
    Resend,
}

impl From<SettleAs> for Resolution {
    fn from(outcome: SettleAs) -> Self {
        match outcome {
            SettleAs::Sent => Self::Sent,
            SettleAs::NotSent => Self::NotSent,
            SettleAs::Resend => Self::Resend,
        }
    }
}

#[derive(Serialize)]
struct OutcomeAnswer {
    message_id: String,
    tenant_id: String,
    run_id: String,
    campaign_id: Option<String>,
    contact_id: Option<String>,
    status: &'static str,
    attempt: i32,
    unknown_since: DateTime<Utc>,
    unconfirmed_at: Option<DateTime<Utc>>,
    age_s: i64,
}

#[derive(Serialize)]
struct ListAnswer {
    outcomes: Vec<OutcomeAnswer>,
}

#[derive(Serialize)]
struct SettledAnswer {
    messages: Vec<SettledMessage>,
}

#[derive(Serialize)]
struct SettledMessage {
    message_id: String,
    /// `null`: it could not be settled.
    status: Option<&'static str>,
    /// Why it could not be settled.
    reason: Option<String>,
}

pub async fn run(command: UnknownCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        UnknownCommand::List(args) => list(&args, context).await,
        UnknownCommand::Settle(args) => settle(&args, context).await,
    }
}

async fn list(args: &ListArgs, context: &Context) -> anyhow::Result<()> {
    let (found, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::named(pool, args.tenant.as_deref()).await?.map(|tenant| tenant.id);
            let found = unknown::list(pool, tenant, args.run.map(RunId), None, i64::from(args.limit)).await?;
            Ok((found, zone_of_all(pool).await?))
        })
        .await?;
    let now = context.clock.now();
    let answer = ListAnswer { outcomes: found.iter().map(|outcome| OutcomeAnswer::of(outcome, now)).collect() };
    context.out.answer(&answer, |out| text_of_list(&answer, *out, &zone))
}

impl OutcomeAnswer {
    fn of(outcome: &UnknownOutcome, now: DateTime<Utc>) -> Self {
        Self {
            message_id: outcome.message_id.to_string(),
            tenant_id: outcome.tenant_id.to_string(),
            run_id: outcome.run_id.to_string(),
            campaign_id: outcome.campaign_id.map(|id| id.to_string()),
            contact_id: outcome.contact_id.map(|id| id.to_string()),
            status: outcome.status().name(),
            attempt: outcome.attempt,
            age_s: (now - outcome.unknown_since).num_seconds().max(0),
            unknown_since: outcome.unknown_since,
            unconfirmed_at: outcome.unconfirmed_at,
        }
    }
}

fn text_of_list(answer: &ListAnswer, out: Output, zone: &str) -> String {
    if answer.outcomes.is_empty() {
        return "No outcome is unknown.".to_owned();
    }
    let mut table = Table::new([
        ("message", Align::Left),
        ("status", Align::Left),
        ("attempt", Align::Right),
        ("since", Align::Left),
        ("age", Align::Right),
        ("run", Align::Left),
    ]);
    for row in &answer.outcomes {
        let age = duration(std::time::Duration::from_secs(row.age_s.unsigned_abs()));
        table.row([
            row.message_id.clone(),
            row.status.to_owned(),
            row.attempt.to_string(),
            instant(row.unknown_since, zone),
            age,
            row.run_id.clone(),
        ]);
    }
    format!("{}\n\n{NEXT_AFTER_LIST}", out.table(&table))
}

async fn settle(args: &SettleArgs, context: &Context) -> anyhow::Result<()> {
    let now = context.clock.now();
    let messages = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let (writers, stop) = (TaskTracker::new(), CancellationToken::new());
            let store = MessageStore::start(pool, &BatchConfig::default(), &writers, &stop);
            let settled = settle_all(pool, &store, &args.ids, args.outcome.into(), now).await;
            stop.cancel();
            writers.close();
            writers.wait().await;
            settled
        })
        .await?;
    let answer = SettledAnswer { messages };
    context.out.answer(&answer, |out| text_of_settled(&answer, *out))?;
    let failed = answer.messages.iter().filter(|message| message.reason.is_some()).count();
    if failed == 0 {
        return Ok(());
    }
    let what = if failed == 1 { "1 message was".to_owned() } else { format!("{failed} messages were") };
    Err(Failure::new(format!("{what} not settled")).next("`ektola unknown list` shows those in doubt").into())
}

async fn settle_all(
    pool: &PgPool,
    store: &MessageStore,
    ids: &[Uuid],
    resolution: Resolution,
    now: DateTime<Utc>,
) -> anyhow::Result<Vec<SettledMessage>> {
    let mut settled = Vec::with_capacity(ids.len());
    for id in ids {
        let outcome = match tenant_of(pool, *id).await? {
            Some(tenant) => {
                unknown::settle(pool, store, tenant, MessageId(*id), resolution, Actor::Operator, now).await
            }
            None => Err(SettleError::NotFound),
        };
        let (status, reason) = match outcome {
            Ok(settled) => (Some(settled.status.name()), None),
            Err(SettleError::Store(error)) => return Err(error.into()),
            Err(SettleError::Database(error)) => return Err(error.into()),
            Err(error @ (SettleError::NotFound | SettleError::NotAllowed { .. } | SettleError::RunEnded)) => {
                (None, Some(error.to_string()))
            }
        };
        settled.push(SettledMessage { message_id: id.to_string(), status, reason });
    }
    Ok(settled)
}

/// The log knows whose a message is.
async fn tenant_of(pool: &PgPool, message: Uuid) -> Result<Option<TenantId>, sqlx::Error> {
    let tenant = sqlx::query_scalar!(
        r#"SELECT tenant_id AS "tenant_id!" FROM events
           WHERE aggregate_type = 'Message' AND aggregate_id = $1 AND sequence = 1"#,
        message.to_string(),
    )
    .fetch_optional(pool)
    .await?;
    Ok(tenant.map(TenantId))
}

fn text_of_settled(answer: &SettledAnswer, out: Output) -> String {
    let mut table = Table::new([("message", Align::Left), ("now", Align::Left)]);
    for message in &answer.messages {
        let now = message.status.map(str::to_owned).or_else(|| message.reason.clone()).unwrap_or_default();
        table.row([message.message_id.clone(), now]);
    }
    out.table(&table)
}
