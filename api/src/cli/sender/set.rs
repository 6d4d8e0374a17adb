use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;
use infrastructure::senders::{self, Secret, SenderChange};
use infrastructure::tenants;
use infrastructure::whatsapp::client::ProductPolicy;

use super::{SenderAnswer, default_of, offers, read_secret, refused, secret_argument};
use crate::cli::context::Context;
use crate::cli::installation::Installation;
use crate::cli::output::count;

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("change").required(true).multiple(true).args([
    "rate", "app_secret", "app_secret_file", "api_version", "marketing_api", "product_policy", "activity_sharing",
]))]
pub struct SetArgs {
    /// The id that WhatsApp gives the number.
    phone_number_id: String,
    /// Messages per second that WhatsApp permits the number, 1 to 1000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: Option<u32>,
    /// The app's new secret, which signs webhooks.
    #[arg(long, value_name = "SECRET", value_parser = secret_argument, conflicts_with = "app_secret_file")]
    app_secret: Option<Secret>,
    /// A file with nothing but that secret.
    #[arg(long, value_name = "FILE")]
    app_secret_file: Option<PathBuf>,
    /// The version of the Graph API, such as v25.0, or `default`: the key dispatch.api_version.
    #[arg(long, value_name = "VERSION", value_parser = NonEmptyStringValueParser::new())]
    api_version: Option<String>,
    /// Send offers through the endpoint for marketing messages? The account must have been set up for it at Meta.
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    marketing_api: Option<bool>,
    /// What that endpoint does with a message that it cannot take: `fallback` sends it as any other, `strict` refuses it.
    #[arg(long, value_name = "fallback|strict", value_parser = product_policy)]
    product_policy: Option<ProductPolicy>,
    /// May Meta use what happens to such messages? `default`: as the account is set up.
    #[arg(long, value_name = "on|off|default", value_parser = sharing)]
    activity_sharing: Option<Sharing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sharing(Option<bool>);

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("must be on or off".to_owned()),
    }
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "default" => Ok(Sharing(None)),
        _ => on_or_off(text).map(|on| Sharing(Some(on))).map_err(|_| "must be on, off or default".to_owned()),
    }
}

fn product_policy(text: &str) -> Result<ProductPolicy, String> {
    match text.to_ascii_lowercase().as_str() {
        "fallback" => Ok(ProductPolicy::CloudApiFallback),
        "strict" => Ok(ProductPolicy::Strict),
        _ => ProductPolicy::parse(text).ok_or_else(|| "must be fallback or strict".to_owned()),
    }
}

pub(super) async fn run(args: SetArgs, context: &Context) -> anyhow::Result<()> {
    let app_secret = match &args.app_secret_file {
        Some(path) => Some(read_secret(path)?),
        None => args.app_secret.clone(),
    };
    let has_new_secret = app_secret.is_some();
    let api_version = args.api_version.clone().map(|version| Some(version).filter(|version| version != "default"));
    let change = SenderChange {
        rate_per_s: args.rate,
        app_secret,
        api_version,
        marketing_api: args.marketing_api,
        product_policy: args.product_policy,
        activity_sharing: args.activity_sharing.map(|sharing| sharing.0),
    };
    let (sender, tenant, default) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let sender = senders::change_sender(pool, &args.phone_number_id, change.clone()).await.map_err(refused)?;
            let tenants = tenants::list_tenants(pool).await?;
            let tenant = tenants.into_iter().find(|tenant| tenant.id == sender.tenant_id);
            let default = default_of(pool, sender.tenant_id).await? == Some(sender.id.to_string());
            Ok((sender, tenant, default))
        })
        .await?;
    let tenant = tenant.map_or_else(String::new, |tenant| tenant.name);
    let answer = SenderAnswer::of(&sender, &tenant, default);
    context.out.answer(&answer, |_| {
        format!(
            "{} may send {} messages/s, with {}; its offers leave through {}.{}",
            sender.phone_number_id,
            count(sender.rate_per_s),
            version(&answer),
            offers(&answer),
            if has_new_secret { " It has a new app secret." } else { "" },
        )
    })
}

fn version(sender: &SenderAnswer<'_>) -> String {
    sender.api_version.map_or_else(|| "the default API version".to_owned(), |version| format!("API version {version}"))
}
