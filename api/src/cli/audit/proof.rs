use std::path::PathBuf;

use infrastructure::seals::{Checked, Proof, PublicKey, check, prove};
use uuid::Uuid;

use super::super::context::Context;
use super::super::error::Failure;
use super::super::installation::Installation;
use super::{public_key, read_json};

#[derive(Debug, clap::Args)]
pub struct ProofArgs {
    /// The id of the message.
    message: Uuid,
    /// Where to write the proof; to stdout by default.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    /// The exported proof.
    file: PathBuf,
    /// The key that must have signed, as digits or as a file; without it the key that did is shown.
    #[arg(long, value_name = "KEY|FILE", value_parser = public_key)]
    public_key: Option<PublicKey>,
}

pub(super) async fn export(args: &ProofArgs, context: &Context) -> anyhow::Result<()> {
    let id = args.message.to_string();
    let proof = context
        .on_installation(async |installation: &Installation| Ok(prove(&installation.pool, "Message", &id).await?))
        .await?;
    let proof = proof.ok_or_else(|| Failure::new(format!("the log knows no message {id}")))?;
    if proof.events.is_empty() {
        return Err(Failure::new("none of its events is sealed yet").next("try again in a few seconds").into());
    }
    let Some(path) = &args.output else { return context.out.document(&proof) };
    let shown = path.display();
    std::fs::write(path, serde_json::to_string_pretty(&proof)? + "\n")
        .map_err(|error| Failure::new(format!("{shown} cannot be written")).because(error))?;
    context.out.note(&format!("The proof of {} events is in {shown}; ektola audit check {shown}", proof.events.len()));
    Ok(())
}

pub(super) fn check_file(args: &CheckArgs, context: &Context) -> anyhow::Result<()> {
    let proof: Proof = read_json(&args.file, "a proof as ektola audit proof writes it")?;
    let shown = args.file.display();
    let checked = check(&proof, args.public_key.as_ref())
        .map_err(|error| Failure::new(format!("{shown} proves nothing")).because(error))?;
    context.out.answer(&checked, |_| text_of(&checked, args.public_key.is_some()))
}

fn text_of(checked: &Checked, trusted: bool) -> String {
    let mut lines = vec![format!(
        "The proof holds: {} events of {} {} are in the sealed log, signed by {}.",
        checked.events, checked.aggregate_type, checked.aggregate_id, checked.public_key
    )];
    if !trusted {
        lines.push("Compare the key with one that you trust, or give it with --public-key.".to_owned());
    }
    if checked.not_yet_sealed > 0 {
        lines.push(format!("{} later events were not sealed when the proof was exported.", checked.not_yet_sealed));
    }
    lines.join("\n")
}
