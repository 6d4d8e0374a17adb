use domain::aggregate::Position;
use projections::generation::GenerationState;
pub(super) use projections::rebuild::Direction;
use projections::rebuild::{self, SwitchReport};
use serde::Serialize;

use super::super::context::Context;
use super::super::installation::Installation;
use super::super::output::count;
use super::rebuild::took;
use super::{failed, named, rebuilder};

#[derive(Serialize)]
pub(super) struct SwitchAnswer {
    name: &'static str,
    version: i32,
    generation: i32,
    position: Position,
    /// How long readers may have waited.
    seconds: f64,
}

impl From<SwitchReport> for SwitchAnswer {
    fn from(report: SwitchReport) -> Self {
        Self {
            name: report.projection,
            version: report.version,
            generation: report.generation,
            position: report.position,
            seconds: report.seconds,
        }
    }
}

#[derive(Serialize)]
struct CancelAnswer {
    name: String,
    generation: i32,
    version: i32,
    was: GenerationState,
}

pub(super) async fn switch(name: &str, direction: Direction, context: &Context) -> anyhow::Result<()> {
    let projection = named(name)?;
    let report = context
        .on_installation(async |installation: &Installation| {
            let mut rebuilder = rebuilder(installation).await?;
            Ok(rebuild::switch(&mut rebuilder, &projection, direction).await.map_err(failed)?)
        })
        .await?;
    let answer = SwitchAnswer::from(report);
    context.out.answer(&answer, |_| text_of_switch(&answer))
}

pub(super) fn text_of_switch(answer: &SwitchAnswer) -> String {
    format!(
        "{}: version {} (generation {}) is live from position {}, switched in {}; the other is kept until \
         ektola projections cancel {}.",
        answer.name,
        answer.version,
        answer.generation,
        count(answer.position),
        took(answer.seconds),
        answer.name
    )
}

pub(super) async fn cancel(name: &str, context: &Context) -> anyhow::Result<()> {
    let projection = named(name)?;
    let dropped = context
        .on_installation(async |installation: &Installation| {
            let mut rebuilder = rebuilder(installation).await?;
            Ok(rebuild::cancel(&mut rebuilder, &projection).await.map_err(failed)?)
        })
        .await?;
    let answer = CancelAnswer {
        name: dropped.projection,
        generation: dropped.number,
        version: dropped.version,
        was: dropped.state,
    };
    context.out.answer(&answer, |_| {
        let what = match answer.was {
            GenerationState::Building => "was being built",
            GenerationState::Ready => "was ready",
            GenerationState::Previous | GenerationState::Live => "was live before",
        };
        format!("{}: the version that {what} (generation {}) is given up.", answer.name, answer.generation)
    })
}
