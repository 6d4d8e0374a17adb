//! `ektola notices`: what stands still until a person acts.

use chrono::{DateTime, Utc};
use infrastructure::trouble::{self, Notice};
use serde::Serialize;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::output::{Align, Output, Table, count, instant};
use super::status::zone_of_all;
use super::tenant;

#[derive(Debug, clap::Subcommand)]
pub enum NoticesCommand {
    /// List what stands still, why, and what to do about it, the newest first.
    List(ListArgs),
    /// Close notices. Nothing is resumed by that: resume the campaign.
    Done(DoneArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those of one tenant.
    #[arg(long, value_name = "NAME")]
    tenant: Option<String>,
    /// Those that are done too.
    #[arg(long)]
    all: bool,
    /// How many are listed at most, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub struct DoneArgs {
    /// The ids of the notices.
    #[arg(value_name = "ID", required = true)]
    ids: Vec<i64>,
}

#[derive(Serialize)]
struct ListAnswer {
    notices: Vec<NoticeAnswer>,
}

#[derive(Serialize)]
struct NoticeAnswer {
    id: i64,
    tenant_id: String,
    scope: &'static str,
    scope_id: String,
    scope_name: Option<String>,
    code: i32,
    meaning: &'static str,
    advice: &'static str,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    refusals: i64,
    done_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct DoneAnswer {
    done: Vec<i64>,
    /// Ids that no notice has.
    unknown: Vec<i64>,
}

pub async fn run(command: NoticesCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        NoticesCommand::List(args) => list(&args, context).await,
        NoticesCommand::Done(args) => done(&args, context).await,
    }
}

async fn list(args: &ListArgs, context: &Context) -> anyhow::Result<()> {
    let (found, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenant = tenant::named(pool, args.tenant.as_deref()).await?.map(|tenant| tenant.id);
            let found = trouble::list(pool, tenant, args.all, None, i64::from(args.limit)).await?;
            Ok((found, zone_of_all(pool).await?))
        })
        .await?;
    let answer = ListAnswer { notices: found.into_iter().map(NoticeAnswer::of).collect() };
    context.out.answer(&answer, |out| text_of_list(&answer, *out, &zone))
}

impl NoticeAnswer {
    fn of(notice: Notice) -> Self {
        Self {
            id: notice.id,
            tenant_id: notice.tenant_id.to_string(),
            scope: notice.scope.name(),
            code: notice.code,
            meaning: notice.meaning(),
            advice: notice.advice(),
            first_at: notice.first_at,
            last_at: notice.last_at,
            refusals: notice.refusals,
            done_at: notice.done_at,
            scope_id: notice.key,
            scope_name: notice.name,
        }
    }
}

fn text_of_list(answer: &ListAnswer, out: Output, zone: &str) -> String {
    if answer.notices.is_empty() {
        return "Nothing stands still.".to_owned();
    }
    let mut table = Table::new([
        ("id", Align::Right),
        ("what", Align::Left),
        ("code", Align::Right),
        ("meaning", Align::Left),
        ("refusals", Align::Right),
        ("last", Align::Left),
        ("done", Align::Left),
    ]);
    let mut advice: Vec<String> = Vec::new();
    for row in &answer.notices {
        table.row([
            row.id.to_string(),
            format!("{} {}", row.scope, row.scope_name.as_ref().unwrap_or(&row.scope_id)),
            row.code.to_string(),
            row.meaning.to_owned(),
            count(row.refusals),
            instant(row.last_at, zone),
            row.done_at.map(|at| instant(at, zone)).unwrap_or_default(),
        ]);
        if row.done_at.is_none() {
            advice.push(format!("{}: {}", row.id, row.advice));
        }
    }
    let table = out.table(&table);
    if advice.is_empty() {
        return table;
    }
    format!("{table}\n\nwhat to do\n{}\n\nnext: `ektola notices done ID...` once it is done", advice.join("\n"))
}

async fn done(args: &DoneArgs, context: &Context) -> anyhow::Result<()> {
    let now = context.clock.now();
    let answer = context
        .on_installation(async |installation: &Installation| {
            let mut answer = DoneAnswer { done: Vec::new(), unknown: Vec::new() };
            for id in &args.ids {
                let found = trouble::finish(&installation.pool, None, *id, now).await?;
                if found { answer.done.push(*id) } else { answer.unknown.push(*id) }
            }
            Ok(answer)
        })
        .await?;
    context.out.answer(&answer, |_| match answer.done.len() {
        1 => "1 notice is done.".to_owned(),
        number => format!("{number} notices are done."),
    })?;
    if answer.unknown.is_empty() {
        return Ok(());
    }
    let unknown: Vec<String> = answer.unknown.iter().map(i64::to_string).collect();
    let failure = Failure::new(format!("no notice has the id {}", unknown.join(", ")));
    Err(failure.next("`ektola notices list` shows those that there are").into())
}
