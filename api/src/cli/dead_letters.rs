//! `ektola dead-letters`: what could not be applied or sent and is kept for a person.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use clap::builder::PossibleValuesParser;
use infrastructure::clock::Clock;
use infrastructure::dead_letters::{self, DeadLetter, Handled, Outcome, Report, Selection, Source, SourceCount};
use infrastructure::event_store::{BatchConfig, MessageStore};
use serde::Serialize;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::output::{Align, Output, Table, count, duration, instant};
use super::status::zone_of_all;

const NEXT_AFTER_LIST: &str = "next: `ektola dead-letters retry ID...` once the cause is gone, or `discard ID...`";
const NEXT_AFTER_RETRY: &str = "next: `ektola dead-letters list` shows, in a moment, what failed again";

#[derive(Debug, clap::Subcommand)]
pub enum DeadLettersCommand {
    /// List what could not be applied or sent, newest first, each with its reason.
    List(ListArgs),
    /// Give letters back to the engine: webhooks are interpreted again, messages are put on the ready list.
    ///
    /// Of a webhook just the item that the letter names is interpreted, so that what was discarded of the same webhook
    /// stays discarded.
    Retry(SelectionArgs),
    /// Take letters away for good; messages are cancelled.
    Discard(SelectionArgs),
}

#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Only those of one source.
    #[arg(long, value_name = "SOURCE", value_parser = source_names())]
    source: Option<String>,
    /// How many are listed at most, 1 to 1000.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, clap::Args)]
pub struct SelectionArgs {
    /// The ids of the letters.
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<i64>,
    /// All letters that there are.
    #[arg(long)]
    all: bool,
    /// With --all: only those of one source.
    #[arg(long, value_name = "SOURCE", value_parser = source_names(), requires = "all", conflicts_with = "ids")]
    source: Option<String>,
}

impl SelectionArgs {
    fn selection(&self) -> Selection {
        if self.all { Selection::All(source_of(self.source.as_deref())) } else { Selection::Ids(self.ids.clone()) }
    }
}

fn source_names() -> PossibleValuesParser {
    Source::ALL.map(Source::name).into()
}

fn source_of(name: Option<&str>) -> Option<Source> {
    name.and_then(Source::parse)
}

#[derive(Serialize)]
struct ListAnswer {
    counts: Vec<CountAnswer>,
    letters: Vec<LetterAnswer>,
}

#[derive(Serialize)]
struct CountAnswer {
    source: &'static str,
    letters: i64,
    /// `null` if there is none.
    oldest_parked_at: Option<DateTime<Utc>>,
}

#[derive(Serialize)]
struct LetterAnswer {
    id: i64,
    /// `webhook` or `dispatch`.
    source: &'static str,
    /// The webhook body's id, or `id/item`; or the message's id.
    reference: String,
    /// `null`: not known.
    tenant_id: Option<String>,
    reason: String,
    attempts: u32,
    parked_at: DateTime<Utc>,
    age_s: i64,
}

#[derive(Serialize)]
struct HandledAnswer {
    letters: Vec<HandledLetter>,
    /// Ids that no letter has.
    unknown: Vec<i64>,
}

#[derive(Serialize)]
struct HandledLetter {
    id: i64,
    source: &'static str,
    reference: String,
    /// `pending`, `ready`, `cancelled`, `obsolete`, `discarded` or `kept`.
    outcome: &'static str,
    detail: String,
}

pub async fn run(command: DeadLettersCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        DeadLettersCommand::List(args) => list(&args, context).await,
        DeadLettersCommand::Retry(args) => {
            let report = context
                .on_installation(async |installation: &Installation| {
                    Ok(dead_letters::retry(&installation.pool, &args.selection()).await?)
                })
                .await?;
            answer_handled(report, context.out, Some(NEXT_AFTER_RETRY))
        }
        DeadLettersCommand::Discard(args) => {
            let report = context
                .on_installation(async |installation: &Installation| {
                    discard(&installation.pool, &context.clock, &args.selection()).await
                })
                .await?;
            answer_handled(report, context.out, None)
        }
    }
}

async fn list(args: &ListArgs, context: &Context) -> anyhow::Result<()> {
    let source = source_of(args.source.as_deref());
    let (letters, counts, zone) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let letters = dead_letters::list(pool, source, args.limit).await?;
            Ok((letters, dead_letters::counts(pool).await?, zone_of_all(pool).await?))
        })
        .await?;
    let now = context.clock.now();
    let counts = counts.iter().filter(|count| source.is_none_or(|source| count.source == source));
    let answer = ListAnswer {
        counts: counts.map(CountAnswer::of).collect(),
        letters: letters.into_iter().map(|letter| LetterAnswer::of(letter, now)).collect(),
    };
    context.out.answer(&answer, |out| text_of_list(&answer, *out, now, &zone))
}

async fn discard(pool: &PgPool, clock: &Clock, selection: &Selection) -> anyhow::Result<Report> {
    let (writers, stop) = (TaskTracker::new(), CancellationToken::new());
    let messages = MessageStore::start(pool, &BatchConfig::default(), &writers, &stop);
    let discarded = dead_letters::discard(pool, &messages, clock, selection).await;
    stop.cancel();
    writers.close();
    writers.wait().await;
    Ok(discarded?)
}

impl CountAnswer {
    fn of(count: &SourceCount) -> Self {
        Self { source: count.source.name(), letters: count.letters, oldest_parked_at: count.oldest_parked_at }
    }
}

impl LetterAnswer {
    fn of(letter: DeadLetter, now: DateTime<Utc>) -> Self {
        Self {
            id: letter.id,
            source: letter.source.name(),
            reference: letter.reference,
            tenant_id: letter.tenant_id.map(|tenant| tenant.to_string()),
            reason: letter.reason,
            attempts: letter.attempts,
            parked_at: letter.parked_at,
            age_s: (now - letter.parked_at).num_seconds().max(0),
        }
    }
}

impl HandledLetter {
    fn of(handled: Handled) -> Self {
        let (outcome, detail) = match handled.outcome {
            Outcome::Pending => ("pending", "it is interpreted again".to_owned()),
            Outcome::Ready => ("ready", "the message is on the ready list".to_owned()),
            Outcome::Cancelled => ("cancelled", "the message is cancelled".to_owned()),
            Outcome::Obsolete(Some(status)) => ("obsolete", format!("the message is {} by now", status.name())),
            Outcome::Obsolete(None) => ("obsolete", "there is no such message".to_owned()),
            Outcome::Discarded => ("discarded", "the letter is gone".to_owned()),
            Outcome::Kept(reason) => ("kept", reason.to_owned()),
        };
        Self { id: handled.id, source: handled.source.name(), reference: handled.reference, outcome, detail }
    }
}

fn text_of_list(answer: &ListAnswer, out: Output, now: DateTime<Utc>, zone: &str) -> String {
    let total: i64 = answer.counts.iter().map(|count| count.letters).sum();
    if total == 0 {
        return "There are no dead letters.".to_owned();
    }
    let mut counts = Table::new([("source", Align::Left), ("letters", Align::Right), ("oldest", Align::Left)]);
    for row in &answer.counts {
        let oldest = row.oldest_parked_at.map_or_else(|| "none".to_owned(), |parked_at| age(now - parked_at));
        counts.row([row.source.to_owned(), count(row.letters), oldest]);
    }
    let mut letters = Table::new([
        ("id", Align::Right),
        ("source", Align::Left),
        ("reference", Align::Left),
        ("attempts", Align::Right),
        ("parked", Align::Left),
        ("age", Align::Left),
        ("reason", Align::Left),
    ]);
    for letter in &answer.letters {
        letters.row([
            letter.id.to_string(),
            letter.source.to_owned(),
            letter.reference.clone(),
            count(letter.attempts),
            instant(letter.parked_at, zone),
            age(now - letter.parked_at),
            letter.reason.clone(),
        ]);
    }
    format!("{}\n\n{}\n\n{NEXT_AFTER_LIST}", out.table(&counts), out.table(&letters))
}

fn age(age: TimeDelta) -> String {
    duration(age.to_std().unwrap_or(Duration::ZERO))
}

/// Prints what was done, and fails if something that was asked for could not be done.
fn answer_handled(report: Report, out: Output, next: Option<&str>) -> anyhow::Result<()> {
    let answer =
        HandledAnswer { letters: report.handled.into_iter().map(HandledLetter::of).collect(), unknown: report.unknown };
    out.answer(&answer, |out| text_of_handled(&answer, *out, next))?;
    let kept = answer.letters.iter().filter(|letter| letter.outcome == "kept").count();
    if answer.unknown.is_empty() && kept == 0 {
        return Ok(());
    }
    let unknown: Vec<String> = answer.unknown.iter().map(i64::to_string).collect();
    let failure = if unknown.is_empty() {
        let letters = if kept == 1 { "1 letter is".to_owned() } else { format!("{kept} letters are") };
        Failure::new(format!("{letters} still there")).next("the answer says of each what keeps it")
    } else {
        Failure::new(format!("no dead letter has the id {}", unknown.join(", ")))
            .next("`ektola dead-letters list` shows those that there are")
    };
    Err(failure.into())
}

fn text_of_handled(answer: &HandledAnswer, out: Output, next: Option<&str>) -> String {
    if answer.letters.is_empty() {
        return "There was nothing to do.".to_owned();
    }
    let mut table = Table::new([
        ("id", Align::Right),
        ("source", Align::Left),
        ("reference", Align::Left),
        ("outcome", Align::Left),
        ("", Align::Left),
    ]);
    for letter in &answer.letters {
        table.row([
            letter.id.to_string(),
            letter.source.to_owned(),
            letter.reference.clone(),
            letter.outcome.to_owned(),
            letter.detail.clone(),
        ]);
    }
    let next = next.filter(|_| answer.letters.iter().any(|letter| ["pending", "ready"].contains(&letter.outcome)));
    let next = next.map_or(String::new(), |next| format!("\n\n{next}"));
    format!("{}{next}", out.table(&table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_767_355_265, 0).unwrap()
    }

    fn letter(id: i64, age_s: i64) -> LetterAnswer {
        let letter = DeadLetter {
            id,
            source: Source::Webhook,
            reference: format!("{id}/0"),
            tenant_id: None,
            reason: "the item has no usable message id".to_owned(),
            attempts: 1,
            parked_at: now() - TimeDelta::seconds(age_s),
        };
        LetterAnswer::of(letter, now())
    }

    fn handled(outcome: Outcome) -> Report {
        let handled = Handled { id: 7, source: Source::Dispatch, reference: "m".to_owned(), outcome };
        Report { handled: vec![handled], unknown: Vec::new() }
    }

    #[test]
    fn the_list_shows_counts_and_ages_and_the_next_step() {
        let oldest_parked_at = Some(now() - TimeDelta::hours(2));
        let counts = vec![
            CountAnswer { source: "webhook", letters: 1200, oldest_parked_at },
            CountAnswer { source: "dispatch", letters: 0, oldest_parked_at: None },
        ];
        let answer = ListAnswer { counts, letters: vec![letter(7, 65)] };
        let text = text_of_list(&answer, Output::plain(), now(), "UTC");
        for line in [
            "webhook     1,200  2 h 0 min",
            "dispatch        0  none",
            " 7  webhook  7/0               1  2026-01-02 12:00:00 UTC  1 min 5 s  the item has no usable message id",
            NEXT_AFTER_LIST,
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line:?} is not in\n{text}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_a_failure_and_what_is_done_already_is_none() {
        for outcome in [Outcome::Ready, Outcome::Cancelled, Outcome::Obsolete(None)] {
            assert!(answer_handled(handled(outcome.clone()), Output::plain(), None).is_ok(), "{outcome:?}");
        }
        assert!(answer_handled(handled(Outcome::Kept("gone")), Output::plain(), None).is_err());
        let unknown = Report { unknown: vec![3, 9], ..Report::default() };
        let error = answer_handled(unknown, Output::plain(), None).unwrap_err();
        assert!(error.to_string().contains("3, 9"), "{error}");
    }
}
