//! `ektola sandbox`: the stand-in for WhatsApp as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;

use chrono::{DateTime, Utc};
use infrastructure::clock::Clock;
use infrastructure::senders::Secret;
use tokio_util::sync::CancellationToken;

use super::context::{Context, secret_argument, variable};
use super::error::UsageError;
use crate::sandbox::{self, Outcomes, SandboxConfig};
use crate::{config, shutdown};

const SECRET_VARIABLE: &str = "EKTOLA_SANDBOX_APP_SECRET";

#[derive(Debug, clap::Args)]
pub struct SandboxArgs {
    /// Where it serves the API of WhatsApp; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it posts statuses, such as http://127.0.0.1:8000/webhooks/whatsapp.
    #[arg(long, value_name = "URL")]
    webhook_url: String,
    /// Signs the webhooks; arguments show in process lists, so rather use [env: EKTOLA_SANDBOX_APP_SECRET].
    #[arg(long, value_name = "SECRET", value_parser = secret_argument)]
    app_secret: Option<Secret>,
    /// The file with one JSON line per accepted call; on the same file it goes on where it was.
    #[arg(long, value_name = "FILE")]
    ledger: PathBuf,
    /// Time to answer a call, in milliseconds [default: the configuration's sandbox.latency_ms].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=60_000))]
    latency_ms: Option<u64>,
    /// Time between two statuses of a message, in milliseconds [default: sandbox.status_gap_ms].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(..=600_000))]
    status_gap_ms: Option<u64>,
    /// Most statuses in one webhook, 1 to 1000 [default: sandbox.webhook_batch_max].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    webhook_batch_max: Option<u16>,
    /// Most webhooks that it posts at once [default: sandbox.webhook_posts_max].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=4096))]
    webhook_posts_max: Option<u16>,
    /// Refuses calls beyond N a second and number, as WhatsApp does with code 130429; 0 refuses none [default:
    /// sandbox.rate_limit_per_s].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=100_000))]
    rate_limit: Option<u32>,
    /// Refuses calls beyond N to one recipient in 6 s, and until 6 s have passed for each, as WhatsApp does with code
    /// 131056; 0 refuses none [without a number: 45, which is WhatsApp's; default: sandbox.pair_burst].
    #[arg(long, value_name = "N", num_args = 0..=1, require_equals = true, default_missing_value = "45")]
    pair_limit: Option<u32>,
    /// Feeds the ids that it makes up, so that they can be repeated.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Every message is delivered and read; otherwise the last two digits of the number decide.
    #[arg(long)]
    all_read: bool,
    /// The WhatsApp Business Account that webhooks name.
    #[arg(long, value_name = "ID")]
    waba_id: Option<String>,
    /// Starts its clock at this time (RFC 3339).
    #[arg(long, value_name = "TIME")]
    clock: Option<DateTime<Utc>>,
}

pub async fn run(args: SandboxArgs, context: &Context) -> anyhow::Result<()> {
    let clock = args.clock.map_or_else(Clock::system, Clock::starting_at);
    let secret = args.app_secret.clone().or_else(|| variable(SECRET_VARIABLE).map(Secret::new));
    let secret = secret.ok_or_else(|| {
        UsageError::new("the sandbox needs a secret to sign webhooks").next(format!("set {SECRET_VARIABLE}"))
    })?;
    let config = config_of(args, &secret, &context.load_config()?.sandbox);
    let shutdown = CancellationToken::new();
    // It counts from here on: whoever reads that the sandbox is ready may ask it to end at once.
    let mut requested = pin!(shutdown::requested());
    let sandbox = tokio::select! {
        biased;
        () = &mut requested => return Ok(()),
        started = sandbox::start(config, clock, shutdown.clone()) => started?,
    };
    context.out.line(&format!("sandbox ready http://{}", sandbox.address));
    requested.await;
    shutdown.cancel();
    sandbox.stopped().await;
    Ok(())
}

fn config_of(args: SandboxArgs, secret: &Secret, defaults: &config::SandboxConfig) -> SandboxConfig {
    let mut config = SandboxConfig::new(args.listen, args.webhook_url, secret.expose().to_owned(), args.ledger);
    config.webhook_posts_max = args.webhook_posts_max.map_or(defaults.webhook_posts_max, usize::from);
    let settings = &mut config.settings;
    settings.seed = args.seed;
    settings.latency.median_ms = args.latency_ms.unwrap_or(defaults.latency_ms);
    settings.statuses.gap_ms = args.status_gap_ms.unwrap_or(defaults.status_gap_ms);
    settings.statuses.batch_max = args.webhook_batch_max.map_or(defaults.webhook_batch_max, usize::from);
    let rate_limit = args.rate_limit.unwrap_or(defaults.rate_limit_per_s);
    settings.limits.rate_per_s = usize::try_from(rate_limit).unwrap_or(usize::MAX);
    settings.limits.pair_burst = args.pair_limit.unwrap_or(defaults.pair_burst);
    if args.all_read {
        config.outcomes = Outcomes::AllRead;
    }
    if let Some(waba_id) = args.waba_id {
        config.waba_id = waba_id;
    }
    config
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::config::Config;

    #[derive(Debug, Parser)]
    struct Running {
        #[command(flatten)]
        args: SandboxArgs,
    }

    const NEEDED: [&str; 3] = ["sandbox", "--webhook-url=http://127.0.0.1:1/w", "--ledger=l.jsonl"];

    fn parsed(arguments: &[&str]) -> SandboxArgs {
        Running::try_parse_from([&NEEDED, arguments].concat()).unwrap().args
    }

    #[test]
    fn the_secret_is_not_in_the_debug_text() {
        let args = parsed(&["--app-secret=hush-hush"]);
        assert_eq!(args.app_secret.as_ref().unwrap().expose(), "hush-hush");
        assert!(!format!("{args:?}").contains("hush-hush"));
    }

    #[test]
    fn the_configuration_holds_where_no_argument_does() {
        let defaults = Config::default().sandbox;
        let plain = config_of(parsed(&[]), &Secret::new("s"), &defaults);
        assert_eq!(plain.settings.latency.median_ms, defaults.latency_ms);
        assert_eq!(plain.settings.statuses.gap_ms, defaults.status_gap_ms);
        assert_eq!(plain.settings.statuses.batch_max, defaults.webhook_batch_max);
        assert_eq!(plain.webhook_posts_max, defaults.webhook_posts_max);
        assert_eq!((plain.settings.limits.rate_per_s, plain.settings.limits.pair_burst), (0, 0));
        assert_eq!(plain.outcomes, Outcomes::ByNumber);

        let arguments =
            ["--latency-ms=0", "--status-gap-ms=7", "--webhook-batch-max=1", "--seed=3", "--all-read", "--waba-id=9"];
        let chosen = config_of(parsed(&arguments), &Secret::new("s"), &defaults);
        let (latency, statuses) = (&chosen.settings.latency, &chosen.settings.statuses);
        assert_eq!((latency.median_ms, statuses.gap_ms, statuses.batch_max), (0, 7, 1));
        assert_eq!((chosen.settings.seed, chosen.outcomes, chosen.waba_id.as_str()), (3, Outcomes::AllRead, "9"));

        let limits = ["--webhook-posts-max=9", "--rate-limit=80", "--pair-limit"];
        let limited = config_of(parsed(&limits), &Secret::new("s"), &defaults);
        let limits = &limited.settings.limits;
        assert_eq!((limited.webhook_posts_max, limits.rate_per_s, limits.pair_burst), (9, 80, 45));
        let defaults = config::SandboxConfig { rate_limit_per_s: 80, pair_burst: 45, ..defaults };
        let limited = config_of(parsed(&["--rate-limit=0", "--pair-limit=7"]), &Secret::new("s"), &defaults);
        let limits = &limited.settings.limits;
        assert_eq!((limits.rate_per_s, limits.pair_burst), (0, 7));
    }
}
