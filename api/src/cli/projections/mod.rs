//! `ektola projections`: the read models, how far they are, folding one of them anew, and what they could not take in.

mod list;
mod parked;
mod rebuild;
mod switch;
mod verify;

use std::sync::Arc;

use projections::projection::Projection;
use projections::rebuild::{RebuildError, Rebuilder};
use projections::registry;

use super::context::Context;
use super::error::{Failure, UsageError};
use super::installation::Installation;

#[derive(Debug, clap::Subcommand)]
pub enum ProjectionsCommand {
    /// List the read models and their versions: how far each is behind the log, and what it could not take in.
    #[command(visible_alias = "status")]
    List,
    /// Fold a read model anew from the log beside the live one, verify it and switch to it; sending goes on meanwhile.
    ///
    /// One that was interrupted goes on where it stopped.
    Rebuild(rebuild::RebuildArgs),
    /// Compare the live rows of a read model with those of its other version.
    Verify(NameArgs),
    /// Make the version that is ready the live one; the present one is kept.
    Switch(NameArgs),
    /// Make the version that was live before the live one again.
    SwitchBack(NameArgs),
    /// Give up the version that is being built or is ready, or else the one that was live before.
    Cancel(NameArgs),
    /// List the aggregates whose events a read model could not take in, the oldest first.
    Parked(parked::ParkedArgs),
    /// Let a read model take in again what it has parked.
    Retry(parked::RetryArgs),
    /// Leave out the event at which an aggregate was parked, for good, and take in those behind it.
    Discard(parked::DiscardArgs),
}

#[derive(Debug, clap::Args)]
pub struct NameArgs {
    /// The name of the read model, as `projections list` shows it.
    name: String,
}

pub async fn run(command: ProjectionsCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        ProjectionsCommand::List => list::list(context).await,
        ProjectionsCommand::Rebuild(args) => rebuild::rebuild(&args, context).await,
        ProjectionsCommand::Verify(args) => verify::verify(&args.name, context).await,
        ProjectionsCommand::Switch(args) => switch::switch(&args.name, switch::Direction::Forward, context).await,
        ProjectionsCommand::SwitchBack(args) => switch::switch(&args.name, switch::Direction::Back, context).await,
        ProjectionsCommand::Cancel(args) => switch::cancel(&args.name, context).await,
        ProjectionsCommand::Parked(args) => parked::list(&args, context).await,
        ProjectionsCommand::Retry(args) => parked::retry(&args, context).await,
        ProjectionsCommand::Discard(args) => parked::discard(&args, context).await,
    }
}

fn named(name: &str) -> Result<Arc<dyn Projection>, UsageError> {
    registry::find(name).ok_or_else(|| {
        let known: Vec<&str> = registry::all().iter().map(|projection| projection.name()).collect();
        UsageError::new(format!("there is no read model named {name}"))
            .next(format!("choose one of: {}", known.join(", ")))
    })
}

async fn rebuilder(installation: &Installation) -> anyhow::Result<Rebuilder> {
    Ok(Rebuilder::connect(&installation.url, &installation.pool).await.map_err(failed)?)
}

/// What to do about it.
fn failed(error: RebuildError) -> Failure {
    let next = match &error {
        RebuildError::Busy { .. } => Some("wait for it: ektola projections list shows how far it is".to_owned()),
        RebuildError::None { projection, .. } => Some(format!("ektola projections rebuild {projection} makes one")),
        RebuildError::Behind { projection, .. } => Some(format!(
            "let the engine bring it up (ektola projections list), or run ektola projections rebuild {projection}"
        )),
        RebuildError::Incomplete { projection, .. } => Some(format!(
            "ektola projections cancel {projection}, then rebuild it; if that does not help, the log has to be examined"
        )),
        RebuildError::Unsteady { .. } => Some("try again when less is going on".to_owned()),
        RebuildError::Mark(_)
        | RebuildError::Read(_)
        | RebuildError::Database(_)
        | RebuildError::Overtaken { .. }
        | RebuildError::BrokenOff { .. } => Some("run the same command again: it goes on where it stopped".to_owned()),
    };
    let message = error.to_string();
    let failure = match error {
        RebuildError::Database(source) => Failure::new(message).because(source),
        RebuildError::Mark(source) => Failure::new(message).because(source),
        RebuildError::Read(source) => Failure::new(message).because(source),
        _ => Failure::new(message),
    };
    match next {
        Some(next) => failure.next(next),
        None => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_name_is_answered_with_all_known_ones() {
        let error = anyhow::Error::from(named("mesages").err().unwrap());
        let next = super::super::error::next_step(&error).unwrap();
        for projection in registry::all() {
            assert!(next.contains(projection.name()), "{next}");
        }
    }
}
