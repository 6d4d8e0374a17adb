use projections::generation::GenerationState;
use projections::rebuild::{self, VerifyReport};
use serde::Serialize;

use super::super::context::Context;
use super::super::error::Failure;
use super::super::installation::Installation;
use super::super::output::count;
use super::rebuild::took;
use super::{failed, named, rebuilder};

#[derive(Serialize)]
pub(super) struct VerifyAnswer {
    #[serde(flatten)]
    report: VerifyReport,
    equal: bool,
}

impl From<VerifyReport> for VerifyAnswer {
    fn from(report: VerifyReport) -> Self {
        Self { equal: report.is_equal(), report }
    }
}

impl VerifyAnswer {
    /// Rows of two versions may differ; those of one must not.
    pub(super) fn holds(&self) -> bool {
        self.equal || !self.report.versions_agree()
    }
}

pub(super) async fn verify(name: &str, context: &Context) -> anyhow::Result<()> {
    let projection = named(name)?;
    let report = context
        .on_installation(async |installation: &Installation| {
            let progress = context.out.progress(&format!("verifying {name}"), 0);
            let mut rebuilder = rebuilder(installation).await?;
            let report = rebuild::verify(&mut rebuilder, &projection).await.map_err(failed)?;
            progress.finish();
            Ok(report)
        })
        .await?;
    let answer = VerifyAnswer::from(report);
    context.out.answer(&answer, |_| text_of_verification(&answer))?;
    if answer.holds() {
        return Ok(());
    }
    Err(Failure::new(format!("the two versions of {name} differ"))
        .next(format!(
            "the live rows may have been changed by hand: ektola projections rebuild {name} folds them from the log"
        ))
        .into())
}

pub(super) fn text_of_verification(answer: &VerifyAnswer) -> String {
    let report = &answer.report;
    let rows: i64 = report.tables.iter().map(|table| table.rows).sum();
    let other = match report.state {
        GenerationState::Previous => "the previous version",
        _ => "the rebuilt version",
    };
    let (position, seconds) = (count(report.position), took(report.seconds));
    if answer.equal {
        let rows = count(rows);
        return format!(
            "{}: {other} equals the live one: {rows} rows, the same digest at position {position} ({seconds}).",
            report.projection
        );
    }
    let why = if report.versions_agree() {
        String::new()
    } else {
        format!(" (version {} against the live version {})", report.version, report.live_version)
    };
    let mut lines = vec![format!(
        "{}: {other} differs from the live one{why} at position {position} ({seconds}):",
        report.projection
    )];
    for table in &report.tables {
        let Some(difference) = &table.difference else { continue };
        lines.push(format!(
            "  {}: {} rows live, {} in the other; {} only live, {} only in the other",
            table.table,
            count(table.live_rows),
            count(table.rows),
            count(difference.only_live),
            count(difference.only_other)
        ));
        lines.extend(difference.examples.iter().map(|example| format!("    {example}")));
    }
    for (parked, whose) in report.parked.into_iter().zip(["the live one", other]) {
        if parked > 0 {
            lines.push(format!("  {whose} has parked {} aggregates", count(parked)));
        }
    }
    lines.join("\n")
}
