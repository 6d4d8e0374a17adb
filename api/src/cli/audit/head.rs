use infrastructure::seals::{Head, last_seal};

use super::super::context::Context;
use super::super::error::Failure;
use super::super::installation::Installation;

/// Always one JSON document: it is made to be kept as a file.
pub(super) async fn run(context: &Context) -> anyhow::Result<()> {
    let seal =
        context.on_installation(async |installation: &Installation| Ok(last_seal(&installation.pool).await?)).await?;
    let seal = seal.ok_or_else(|| {
        Failure::new("nothing is sealed yet").next("run an engine with the role projector, and wait a few seconds")
    })?;
    context.out.document(&Head::of(&seal))
}
