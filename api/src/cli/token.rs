//! `ektola token`: what programs show to speak for a tenant.

use infrastructure::tenants;
use serde_json::json;

use super::context::Context;
use super::error::Failure;
use super::installation::Installation;
use super::tenant;

#[derive(Debug, clap::Subcommand)]
pub enum TokenCommand {
    /// Make a token for a tenant and print it; it cannot be shown again.
    Create(CreateArgs),
    /// Make a token worthless at once.
    Revoke(RevokeArgs),
}

#[derive(Debug, clap::Args)]
pub struct CreateArgs {
    /// The tenant for which the token speaks.
    #[arg(long, value_name = "NAME")]
    tenant: String,
}

#[derive(Debug, clap::Args)]
pub struct RevokeArgs {
    /// The token's id: the 16 hexadecimal digits that follow `ektola_` in the token.
    id: String,
}

pub async fn run(command: TokenCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        TokenCommand::Create(args) => create(&args, context).await,
        TokenCommand::Revoke(args) => revoke(&args, context).await,
    }
}

async fn create(args: &CreateArgs, context: &Context) -> anyhow::Result<()> {
    let (tenant, token) = context
        .on_installation(async |installation: &Installation| {
            let tenant = tenant::choose(&installation.pool, Some(&args.tenant)).await?;
            let token = tenants::create_token(&installation.pool, tenant.id, context.clock.now()).await?;
            Ok((tenant, token))
        })
        .await?;
    let id = id_of(&token);
    context.out.answer(&json!({"token": token, "id": id, "tenant": tenant.name}), |_| token.clone())?;
    context.out.note(&format!("This token speaks for {} and is not shown again. Its id is {id}.", tenant.name));
    Ok(())
}

async fn revoke(args: &RevokeArgs, context: &Context) -> anyhow::Result<()> {
    let id = id_of(&args.id);
    let revoked = context
        .on_installation(async |installation: &Installation| {
            Ok(tenants::revoke_token(&installation.pool, id, context.clock.now()).await?)
        })
        .await?;
    if !revoked {
        return Err(Failure::new(format!("there is no valid token with the id {id}"))
            .next("the id is the 16 hexadecimal digits that follow ektola_ in the token")
            .into());
    }
    context.out.answer(&json!({"id": id, "revoked": true}), |_| format!("The token {id} is revoked."))
}

/// Of a whole token the readable part, so that the secret one is never repeated.
fn id_of(text: &str) -> &str {
    let rest = text.strip_prefix("ektola_").unwrap_or(text);
    rest.split_once('_').map_or(rest, |(id, _)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_taken_out_of_a_whole_token() {
        assert_eq!(id_of("00000000000000ff"), "00000000000000ff");
        assert_eq!(id_of("ektola_00000000000000ff_abc_def"), "00000000000000ff");
        assert_eq!(id_of(&tenants::generate_token()).len(), 16);
    }
}
