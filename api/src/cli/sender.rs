//! `ektola sender`: the WhatsApp numbers from which tenants send.

mod set;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use clap::builder::NonEmptyStringValueParser;
use domain::ids::TenantId;
use infrastructure::senders::{self, NewSender, Secret, Sender, SenderError};
use infrastructure::tenants::{self, Tenant};
use serde::Serialize;
use sqlx::PgPool;

pub use self::set::SetArgs;
use super::context::{Context, DATABASE_VARIABLE, secret_argument, variable};
use super::error::{Failure, UsageError};
use super::installation::Installation;
use super::output::{Align, Table, count, instant};
use super::tenant;

#[derive(Debug, clap::Subcommand)]
pub enum SenderCommand {
    /// Add a WhatsApp number, or give a known one new secrets; from the next run on it is its tenant's default.
    ///
    /// Arguments show in process lists and shell histories: give secrets by file or by environment.
    Add(Box<AddArgs>),
    /// Change how a number sends: its rate, its app secret, its version of the Graph API, the endpoint of its offers; takes
    /// effect within 1 s.
    ///
    /// Webhooks signed with the app secret before are still believed for a while (`webhooks.secret_overlap_hours`).
    Set(SetArgs),
    /// List all numbers, without their secrets.
    List,
}

#[derive(Debug, clap::Args)]
pub struct AddArgs {
    /// The id that WhatsApp gives the number, which is not the number [env: WHATSAPP_PHONE_NUMBER_ID].
    #[arg(long, value_name = "ID")]
    phone_number_id: Option<String>,
    /// The WhatsApp Business Account that owns the number [env: WHATSAPP_WABA_ID].
    #[arg(long, value_name = "ID")]
    waba_id: Option<String>,
    /// The token that sending needs [env: WHATSAPP_ACCESS_TOKEN].
    #[arg(long, value_name = "SECRET", value_parser = secret_argument, conflicts_with = "access_token_file")]
    access_token: Option<Secret>,
    /// A file with nothing but that token.
    #[arg(long, value_name = "FILE")]
    access_token_file: Option<PathBuf>,
    /// The app's secret, which signs webhooks [env: WHATSAPP_APP_SECRET].
    #[arg(long, value_name = "SECRET", value_parser = secret_argument, conflicts_with = "app_secret_file")]
    app_secret: Option<Secret>,
    /// A file with nothing but that secret.
    #[arg(long, value_name = "FILE")]
    app_secret_file: Option<PathBuf>,
    /// The word that WhatsApp shows when the webhook is set up [env: WHATSAPP_VERIFY_TOKEN].
    #[arg(long, value_name = "SECRET", value_parser = secret_argument, conflicts_with = "verify_token_file")]
    verify_token: Option<Secret>,
    /// A file with nothing but that word.
    #[arg(long, value_name = "FILE")]
    verify_token_file: Option<PathBuf>,
    /// The address of a stand-in for WhatsApp, such as a sandbox; WhatsApp's own by default.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Permits --base-url where DATABASE_URL names the installation.
    #[arg(long, requires = "base_url")]
    allow_provider_base_url: bool,
    /// Messages per second that WhatsApp permits the number, 1 to 1000; a new number starts with 80.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: Option<u32>,
    /// The tenant that sends from it; the only one, or `demo`, by default.
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    tenant: Option<String>,
}

#[derive(Serialize)]
struct SenderAnswer<'a> {
    id: String,
    tenant: &'a str,
    phone_number_id: &'a str,
    waba_id: &'a str,
    /// `null`: WhatsApp's own address.
    base_url: Option<&'a str>,
    rate_per_s: u32,
    sandbox: bool,
    /// `null`: the key dispatch.api_version.
    api_version: Option<&'a str>,
    /// Do offers go through the endpoint for marketing messages?
    marketing_api: bool,
    /// `null` without that endpoint.
    product_policy: Option<&'static str>,
    /// `null`: as the account is set up at Meta.
    activity_sharing: Option<bool>,
    /// Do runs that name no sender use it?
    default: bool,
    created_at: DateTime<Utc>,
}

impl<'a> SenderAnswer<'a> {
    fn of(sender: &'a Sender, tenant: &'a str, default: bool) -> Self {
        Self {
            id: sender.id.to_string(),
            tenant,
            phone_number_id: &sender.phone_number_id,
            waba_id: &sender.waba_id,
            base_url: sender.base_url.as_deref(),
            rate_per_s: sender.rate_per_s,
            sandbox: sender.sandbox,
            api_version: sender.api_version.as_deref(),
            marketing_api: sender.marketing.is_some(),
            product_policy: sender.marketing.map(|marketing| marketing.product_policy.name()),
            activity_sharing: sender.marketing.and_then(|marketing| marketing.activity_sharing),
            default,
            created_at: sender.created_at,
        }
    }
}

pub async fn run(command: SenderCommand, context: &Context) -> anyhow::Result<()> {
    match command {
        SenderCommand::Add(args) => add(*args, context).await,
        SenderCommand::Set(args) => set::run(args, context).await,
        SenderCommand::List => list(context).await,
    }
}

async fn add(args: AddArgs, context: &Context) -> anyhow::Result<()> {
    let credentials = Credentials::find(&args, &variable)?;
    let (sender, tenant, default) = context
        .on_installation(async |installation: &Installation| {
            if args.base_url.is_some() && !installation.is_private && !args.allow_provider_base_url {
                return Err(base_url_refused());
            }
            let pool = &installation.pool;
            let tenant = tenant::choose(pool, args.tenant.as_deref()).await?;
            let sender = store(pool, &tenant, credentials, &args, context.clock.now()).await.map_err(refused)?;
            let default = default_of(pool, tenant.id).await? == Some(sender.id.to_string());
            Ok((sender, tenant, default))
        })
        .await?;
    context.out.answer(&SenderAnswer::of(&sender, &tenant.name, default), |_| {
        let role = if default { "the default sender" } else { "a sender" };
        format!(
            "{} is {role} of {}, at most {} messages/s.",
            sender.phone_number_id,
            tenant.name,
            count(sender.rate_per_s)
        )
    })
}

async fn store(
    pool: &PgPool,
    tenant: &Tenant,
    credentials: Credentials,
    args: &AddArgs,
    now: DateTime<Utc>,
) -> Result<Sender, SenderError> {
    let new = NewSender {
        tenant_id: tenant.id,
        phone_number_id: credentials.phone_number_id,
        waba_id: credentials.waba_id,
        base_url: args.base_url.clone(),
        access_token: credentials.access_token,
        app_secret: credentials.app_secret,
        verify_token: credentials.verify_token,
        sandbox: false,
    };
    let sender = senders::add_sender(pool, new, now).await?;
    match args.rate {
        Some(rate) => senders::set_rate(pool, &sender.phone_number_id, rate).await,
        None => Ok(sender),
    }
}

fn offers(sender: &SenderAnswer<'_>) -> String {
    match sender.product_policy {
        Some(policy) => format!("marketing_messages ({policy})"),
        None => "messages".to_owned(),
    }
}

async fn list(context: &Context) -> anyhow::Result<()> {
    let (senders, tenants, defaults) = context
        .on_installation(async |installation: &Installation| {
            let pool = &installation.pool;
            let tenants = tenants::list_tenants(pool).await?;
            let mut defaults = Vec::new();
            for tenant in &tenants {
                defaults.extend(default_of(pool, tenant.id).await?);
            }
            Ok((senders::list_senders(pool, None).await?, tenants, defaults))
        })
        .await?;
    let tenants: BTreeMap<String, Tenant> = tenants.into_iter().map(|tenant| (tenant.id.to_string(), tenant)).collect();
    let tenant_of = |sender: &Sender| tenants.get(&sender.tenant_id.to_string());
    let answers: Vec<_> = senders
        .iter()
        .map(|sender| {
            let tenant = tenant_of(sender).map_or("", |tenant| &tenant.name);
            SenderAnswer::of(sender, tenant, defaults.contains(&sender.id.to_string()))
        })
        .collect();
    context.out.answer(&answers, |out| {
        if answers.is_empty() {
            return "There is no WhatsApp number yet.\nnext: ektola sender add --help".to_owned();
        }
        let mut table = Table::new([
            ("phone number id", Align::Left),
            ("tenant", Align::Left),
            ("account", Align::Left),
            ("messages/s", Align::Right),
            ("sends to", Align::Left),
            ("API version", Align::Left),
            ("offers through", Align::Left),
            ("default", Align::Left),
            ("added", Align::Left),
        ]);
        for (sender, answer) in senders.iter().zip(&answers) {
            let zone = tenant_of(sender).map_or("UTC", |tenant| &tenant.zone);
            table.row([
                answer.phone_number_id.to_owned(),
                answer.tenant.to_owned(),
                answer.waba_id.to_owned(),
                count(answer.rate_per_s),
                destination(answer),
                answer.api_version.unwrap_or("default").to_owned(),
                offers(answer),
                if answer.default { "yes" } else { "no" }.to_owned(),
                instant(answer.created_at, zone),
            ]);
        }
        out.table(&table)
    })
}

fn destination(sender: &SenderAnswer<'_>) -> String {
    match (sender.sandbox, sender.base_url) {
        (true, Some(url)) => format!("sandbox {url}"),
        (true, None) => "sandbox".to_owned(),
        (false, Some(url)) => url.to_owned(),
        (false, None) => "WhatsApp".to_owned(),
    }
}

async fn default_of(pool: &PgPool, tenant: TenantId) -> Result<Option<String>, sqlx::Error> {
    Ok(senders::default_sender(pool, tenant).await?.map(|sender| sender.id.to_string()))
}

fn base_url_refused() -> anyhow::Error {
    UsageError::new(format!("--base-url is refused: {DATABASE_VARIABLE} names an installation that may be a real one"))
        .next("add --allow-provider-base-url if messages are meant to go to that address instead of WhatsApp")
        .into()
}

fn refused(error: SenderError) -> anyhow::Error {
    match error {
        SenderError::BadProviderId { field } | SenderError::BadSecret { field } => {
            UsageError::new(format!("--{} {error}", field.replace('_', "-"))).into()
        }
        SenderError::BadBaseUrl => UsageError::new(format!("--base-url {error}")).into(),
        SenderError::BadApiVersion => UsageError::new(format!("--api-version {error}")).into(),
        SenderError::RateOutOfRange => UsageError::new(format!("--rate {error}")).into(),
        SenderError::UnknownSender { .. } => {
            Failure::new(error.to_string()).next("ektola sender list shows those that there are").into()
        }
        SenderError::OtherTenant { .. } | SenderError::Database(_) => error.into(),
    }
}

/// What a number needs, wherever it came from.
#[derive(Debug)]
struct Credentials {
    phone_number_id: String,
    waba_id: String,
    access_token: Secret,
    app_secret: Secret,
    verify_token: Secret,
}

impl Credentials {
    /// An argument goes before the environment.
    fn find(args: &AddArgs, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, UsageError> {
        let secret = |argument: &Option<Secret>, file: &Option<PathBuf>, name: &str| match (argument, file) {
            (Some(secret), _) => Ok(Some(secret.clone())),
            (None, Some(path)) => read_secret(path).map(Some),
            (None, None) => Ok(environment(name).map(Secret::new)),
        };
        let phone_number_id = args.phone_number_id.clone().or_else(|| environment("WHATSAPP_PHONE_NUMBER_ID"));
        let waba_id = args.waba_id.clone().or_else(|| environment("WHATSAPP_WABA_ID"));
        let access_token = secret(&args.access_token, &args.access_token_file, "WHATSAPP_ACCESS_TOKEN")?;
        let app_secret = secret(&args.app_secret, &args.app_secret_file, "WHATSAPP_APP_SECRET")?;
        let verify_token = secret(&args.verify_token, &args.verify_token_file, "WHATSAPP_VERIFY_TOKEN")?;
        let missing: Vec<&str> = [
            (phone_number_id.is_none(), "--phone-number-id (or WHATSAPP_PHONE_NUMBER_ID)"),
            (waba_id.is_none(), "--waba-id (or WHATSAPP_WABA_ID)"),
            (access_token.is_none(), "--access-token-file (or WHATSAPP_ACCESS_TOKEN)"),
            (app_secret.is_none(), "--app-secret-file (or WHATSAPP_APP_SECRET)"),
            (verify_token.is_none(), "--verify-token-file (or WHATSAPP_VERIFY_TOKEN)"),
        ]
        .into_iter()
        .filter_map(|(is_missing, name)| is_missing.then_some(name))
        .collect();
        match (phone_number_id, waba_id, access_token, app_secret, verify_token) {
            (Some(phone_number_id), Some(waba_id), Some(access_token), Some(app_secret), Some(verify_token)) => {
                Ok(Self { phone_number_id, waba_id, access_token, app_secret, verify_token })
            }
            _ => Err(UsageError::new(format!("a WhatsApp number needs {}", missing.join(", ")))),
        }
    }
}

fn read_secret(path: &Path) -> Result<Secret, UsageError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| UsageError::new(format!("the secret in {} cannot be read: {error}", path.display())))?;
    // Editors end a file with a line break, which is no part of the secret.
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Adding {
        #[command(flatten)]
        args: AddArgs,
    }

    fn parsed(arguments: &[&str]) -> AddArgs {
        Adding::try_parse_from([&["add"], arguments].concat()).unwrap().args
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    const ALL: [&str; 9] = [
        "--phone-number-id=1",
        "--waba-id=2",
        "--access-token=open-sesame",
        "--app-secret=very-secret",
        "--verify-token=hush-hush",
        "--base-url=http://127.0.0.1:1",
        "--allow-provider-base-url",
        "--rate=1000",
        "--tenant=demo",
    ];

    #[test]
    fn secrets_are_not_in_the_debug_text_of_the_arguments() {
        let args = parsed(&ALL);
        assert_eq!(args.access_token.as_ref().unwrap().expose(), "open-sesame");
        let credentials = Credentials::find(&args, &nothing).unwrap();
        for text in [format!("{args:?}"), format!("{args:#?}"), format!("{credentials:?}")] {
            for secret in ["open-sesame", "very-secret", "hush-hush"] {
                assert!(!text.contains(secret), "{text}");
            }
        }
    }

    #[test]
    fn everything_may_come_from_the_environment_and_arguments_go_before_it() {
        let environment = |name: &str| Some(format!("from {name}"));
        let found = Credentials::find(&parsed(&["--waba-id=2", "--app-secret=mine"]), &environment).unwrap();
        assert_eq!(found.phone_number_id, "from WHATSAPP_PHONE_NUMBER_ID");
        assert_eq!(found.waba_id, "2");
        assert_eq!(found.access_token.expose(), "from WHATSAPP_ACCESS_TOKEN");
        assert_eq!(found.app_secret.expose(), "mine");
        assert_eq!(found.verify_token.expose(), "from WHATSAPP_VERIFY_TOKEN");
    }

    #[test]
    fn a_file_goes_before_the_environment_and_loses_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        std::fs::write(&path, "from the file\r\n").unwrap();
        let file = format!("--access-token-file={}", path.display());
        let environment = |_: &str| Some("from the environment".to_owned());
        let found = Credentials::find(&parsed(&[&file]), &environment).unwrap();
        assert_eq!(found.access_token.expose(), "from the file");

        let missing = format!("--access-token-file={}/no", folder.path().display());
        assert!(Credentials::find(&parsed(&[&missing]), &environment).is_err());
    }

    #[test]
    fn all_that_is_missing_is_named_at_once() {
        let message = Credentials::find(&parsed(&["--waba-id=2"]), &nothing).unwrap_err().to_string();
        for name in ["--phone-number-id", "--access-token-file", "--app-secret-file", "--verify-token-file"] {
            assert!(message.contains(name), "{message}");
        }
        assert!(!message.contains("--waba-id"), "{message}");
    }

    #[test]
    fn contradictions_are_refused() {
        for arguments in [
            &["--access-token=a", "--access-token-file=b"][..],
            &["--rate=0"],
            &["--rate=1001"],
            &["--allow-provider-base-url"],
            &["--tenant="],
        ] {
            assert!(Adding::try_parse_from([&["add"], arguments].concat()).is_err(), "{arguments:?}");
        }
    }
}
