//! `ektola sandbox`: the stand-in for WhatsApp as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use clap::builder::PossibleValuesParser;
use infrastructure::clock::Clock;
use infrastructure::senders::Secret;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::context::{Context, secret_argument, variable};
use super::error::UsageError;
use super::output::{Align, Table};
use crate::sandbox::{self, Outcomes, SCENARIOS, SandboxConfig, Scenario, Settings};
use crate::{config, shutdown};

const SECRET_VARIABLE: &str = "EKTOLA_SANDBOX_APP_SECRET";

/// What can be changed while it runs.
const HELP: &str = "\
While it runs:
  GET   /_control   shows how it behaves, every key with its value
  PATCH /_control   changes the keys of its JSON body and answers them all; null brings a default back, and an
                    unknown key is refused by name. What --settings holds has the same form:
                      {\"latency\": {\"median_ms\": 300, \"p99_ms\": 2000}, \"limits\": {\"rate_per_s\": 80},
                       \"access\": {\"token_revoked\": true}, \"tier\": {\"recipients_max\": 250},
                       \"opted_out\": [\"+919812345678\"], \"template_status\": {\"offer\": \"PAUSED\"},
                       \"faults\": [{\"effect\": \"lose_answer\", \"share\": 0.05}]}
  GET   /_ledger    counts accepted and doubled calls, statuses owed, refusals, and the calls that each fault met
  POST  /_inbound   has a user write ({\"phone_number_id\", \"from\", \"text\"}), tap ({\"button\": {\"payload\", \"text\"},
                    \"context\": WAMID}) or choose ({\"preference\": \"stop\" or \"resume\"}), or posts any webhook
                    ({\"field\", \"value\"} or {\"entry\"}), signed
  POST  /_verify    asks the receiver to verify itself ({\"verify_token\"})

Faults are objects with an effect and the calls that it meets: share (0 to 1, drawn by the seed), next (so many),
after_calls, for_ms (after the first), recipients, templates. Without any of these: every call.
  refuse                code; http_status, retry_after_s, regain_minutes: the call is refused
  pause_template        webhook (before, during, after, never), gap_ms, disable, unpause_after_ms
  lose_call             hang_ms: never accepted, the connection is cut
  lose_answer           hang_ms: accepted, the connection is cut
  server_error          http_status, code (without one a page of HTML), accepted
  status_before_answer  statuses, wait_ms_max
  answer_without_id
  fail                  code; after (statuses), echo, known_wamid: accepted, then failed
  deliver_after_fail    code
  no_webhook            accepted, and nothing is heard of it
  hold                  delay_ms; code, paused: held_for_quality_assessment, then released, or failed with the code
  drop                  statuses
  delay                 delay_ms; statuses
  duplicate             copies
  shuffle, reverse      the order of a message's statuses
  add                   status (sent, delivered, read, failed, played, deleted, warning, unheard_of)
  no_echo               statuses lack the callback data
  other_wa_id           WhatsApp calls the recipient by another number
  reply                 text, delay_ms; button (its payload): the recipient answers
  stop_marketing        delay_ms: the recipient stops marketing";

#[derive(Debug, clap::Args)]
#[command(after_long_help = HELP)]
pub struct SandboxArgs {
    /// Where it serves the API of WhatsApp; port 0 picks a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where it posts statuses, such as http://127.0.0.1:8000/webhooks/whatsapp.
    #[arg(long, value_name = "URL", required_unless_present = "list")]
    webhook_url: Option<String>,
    /// Signs the webhooks; arguments show in process lists, so rather use [env: EKTOLA_SANDBOX_APP_SECRET].
    #[arg(long, value_name = "SECRET", value_parser = secret_argument)]
    app_secret: Option<Secret>,
    /// The file with one JSON line per accepted call; on the same file it goes on where it was.
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    ledger: Option<PathBuf>,
    /// Behaves as a scenario says; see --list. Other arguments go before it.
    #[arg(long, value_name = "NAME", value_parser = scenario_name())]
    scenario: Option<String>,
    /// Explains the scenarios and ends.
    #[arg(long)]
    list: bool,
    /// A JSON file of settings as GET /_control shows them, as far as they are not the usual ones. They go before the
    /// scenario's, and other arguments before both.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
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
    /// Feeds the ids that it makes up and all that is left to chance, so that it can be repeated [default: 0].
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
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

/// The names that `--scenario` takes.
pub(super) fn scenario_name() -> PossibleValuesParser {
    PossibleValuesParser::new(SCENARIOS.iter().map(|scenario| scenario.name))
}

pub async fn run(args: SandboxArgs, context: &Context) -> anyhow::Result<()> {
    if args.list {
        return list(context);
    }
    let clock = args.clock.map_or_else(Clock::system, Clock::starting_at);
    let secret = args.app_secret.clone().or_else(|| variable(SECRET_VARIABLE).map(Secret::new));
    let secret = secret.ok_or_else(|| {
        UsageError::new("the sandbox needs a secret to sign webhooks").next(format!("set {SECRET_VARIABLE}"))
    })?;
    let config = config_of(args, &secret, &context.load_config()?.sandbox)?;
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

fn list(context: &Context) -> anyhow::Result<()> {
    let scenarios: Vec<_> = SCENARIOS
        .iter()
        .map(|scenario| json!({"name": scenario.name, "summary": scenario.summary, "settings": scenario.settings()}))
        .collect();
    context.out.answer(&scenarios, |out| {
        let mut table = Table::new([("scenario", Align::Left), ("what happens", Align::Left)]);
        for scenario in SCENARIOS {
            table.row([scenario.name, scenario.summary]);
        }
        format!("{}\n\nnext: ektola sandbox --list --json shows their settings", out.table(&table))
    })
}

fn config_of(args: SandboxArgs, secret: &Secret, defaults: &config::SandboxConfig) -> anyhow::Result<SandboxConfig> {
    let settings = settings_of(&args, defaults)?;
    let (Some(webhook_url), Some(ledger)) = (args.webhook_url, args.ledger) else {
        return Err(UsageError::new("the sandbox needs --webhook-url and --ledger").into());
    };
    let mut config = SandboxConfig::new(args.listen, webhook_url, secret.expose().to_owned(), ledger);
    config.settings = settings;
    config.webhook_posts_max = args.webhook_posts_max.map_or(defaults.webhook_posts_max, usize::from);
    if args.all_read {
        config.outcomes = Outcomes::AllRead;
    }
    if let Some(waba_id) = args.waba_id {
        config.waba_id = waba_id;
    }
    Ok(config)
}

/// The configuration's, with the scenario's over them, those of the file over these, and the arguments over all.
fn settings_of(args: &SandboxArgs, defaults: &config::SandboxConfig) -> anyhow::Result<Settings> {
    let mut settings = Settings::default();
    settings.latency.median_ms = defaults.latency_ms;
    settings.statuses.gap_ms = defaults.status_gap_ms;
    settings.statuses.batch_max = defaults.webhook_batch_max;
    settings.limits.rate_per_s = usize::try_from(defaults.rate_limit_per_s).unwrap_or(usize::MAX);
    settings.limits.pair_burst = defaults.pair_burst;
    if let Some(scenario) = args.scenario.as_deref().and_then(Scenario::find) {
        settings = scenario.apply(&settings)?;
    }
    if let Some(file) = &args.settings {
        let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let patch = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", file.display()))?;
        settings = settings.patched(&patch).with_context(|| format!("{} cannot be used", file.display()))?;
    }
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.latency.median_ms = args.latency_ms.unwrap_or(settings.latency.median_ms);
    settings.statuses.gap_ms = args.status_gap_ms.unwrap_or(settings.statuses.gap_ms);
    settings.statuses.batch_max = args.webhook_batch_max.map_or(settings.statuses.batch_max, usize::from);
    let rate_limit = args.rate_limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    settings.limits.rate_per_s = rate_limit.unwrap_or(settings.limits.rate_per_s);
    settings.limits.pair_burst = args.pair_limit.unwrap_or(settings.limits.pair_burst);
    Ok(settings)
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
        let plain = config_of(parsed(&[]), &Secret::new("s"), &defaults).unwrap();
        assert_eq!(plain.settings.latency.median_ms, defaults.latency_ms);
        assert_eq!(plain.settings.statuses.gap_ms, defaults.status_gap_ms);
        assert_eq!(plain.settings.statuses.batch_max, defaults.webhook_batch_max);
        assert_eq!(plain.webhook_posts_max, defaults.webhook_posts_max);
        assert_eq!((plain.settings.limits.rate_per_s, plain.settings.limits.pair_burst), (0, 0));
        assert_eq!(plain.outcomes, Outcomes::ByNumber);

        let arguments =
            ["--latency-ms=0", "--status-gap-ms=7", "--webhook-batch-max=1", "--seed=3", "--all-read", "--waba-id=9"];
        let chosen = config_of(parsed(&arguments), &Secret::new("s"), &defaults).unwrap();
        let (latency, statuses) = (&chosen.settings.latency, &chosen.settings.statuses);
        assert_eq!((latency.median_ms, statuses.gap_ms, statuses.batch_max), (0, 7, 1));
        assert_eq!((chosen.settings.seed, chosen.outcomes, chosen.waba_id.as_str()), (3, Outcomes::AllRead, "9"));

        let limits = ["--webhook-posts-max=9", "--rate-limit=80", "--pair-limit"];
        let limited = config_of(parsed(&limits), &Secret::new("s"), &defaults).unwrap();
        let limits = &limited.settings.limits;
        assert_eq!((limited.webhook_posts_max, limits.rate_per_s, limits.pair_burst), (9, 80, 45));
        let defaults = config::SandboxConfig { rate_limit_per_s: 80, pair_burst: 45, ..defaults };
        let limited = config_of(parsed(&["--rate-limit=0", "--pair-limit=7"]), &Secret::new("s"), &defaults).unwrap();
        let limits = &limited.settings.limits;
        assert_eq!((limits.rate_per_s, limits.pair_burst), (0, 7));
    }
    #[test]
    fn arguments_go_before_the_file_and_the_file_before_the_scenario() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("settings.json");
        std::fs::write(&file, r#"{"tier": {"recipients_max": 10}, "latency": {"p99_ms": 500}}"#).unwrap();
        let file = format!("--settings={}", file.display());
        let arguments = ["--scenario=tier-limit", &file, "--latency-ms=7", "--seed=9"];
        let settings = config_of(parsed(&arguments), &Secret::new("s"), &Config::default().sandbox).unwrap().settings;
        assert_eq!((settings.tier.recipients_max, settings.seed), (10, 9));
        assert_eq!((settings.latency.median_ms, settings.latency.p99_ms), (7, 500));
        assert_eq!(settings.number.messaging_limit, "TIER_250");
    }

    #[test]
    fn an_unknown_scenario_is_refused_with_the_known_ones() {
        let refusal = Running::try_parse_from([&NEEDED[..], &["--scenario=helt"]].concat()).unwrap_err().to_string();
        assert!(refusal.contains("held") && refusal.contains("busy-evening"), "{refusal}");
        assert!(Running::try_parse_from(["sandbox", "--list"]).is_ok());
        assert!(Running::try_parse_from(["sandbox"]).is_err());
    }
}
