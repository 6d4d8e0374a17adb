//! The configuration as the engine uses it. What each value means to an operator stands in `defaults.toml`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::TimeDelta;
use domain::consent::{KeywordFault, Keywords};
use infrastructure::consent::{ConsentPolicy, OptInRequired};
use infrastructure::pacing::{PacingConfig, PairConfig};
use infrastructure::seals::PublicKey;
use infrastructure::templates::SyncConfig;
use infrastructure::whatsapp::catalog::CatalogConfig;
use infrastructure::whatsapp::{ClientConfig, RetryLadder};
use serde::Deserialize;

/// Limits of the HTTP interface.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Largest JSON body of a request, in bytes.
    pub body_max_bytes: usize,
    /// Largest file of a contact upload, in bytes.
    pub upload_max_bytes: usize,
    /// Largest body of a webhook, in bytes.
    pub webhook_body_max_bytes: usize,
    /// Items on one page of a list if the request does not say.
    pub list_limit_default: u32,
    /// Most items that a request may ask for on one page.
    pub list_limit_max: u32,
    /// Time after which a request is given up, in seconds.
    pub request_timeout_s: u64,
    /// Time for which a query waits for the position it asks for, in milliseconds.
    pub min_position_wait_ms: u64,
}

impl HttpConfig {
    pub fn min_position_wait(&self) -> Duration {
        Duration::from_millis(self.min_position_wait_ms)
    }

    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_s)
    }
}

/// The connection to Postgres.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// Most connections of one process.
    pub connections_max: u32,
}

/// Reading the log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventsConfig {
    /// Time between two looks at the high-water mark while events arrive, in milliseconds.
    pub mark_poll_busy_ms: u64,
    /// Time between two looks at the high-water mark while nothing happens, in milliseconds.
    pub mark_poll_idle_ms: u64,
    /// Time for which the mark may stand still before a warning, in milliseconds.
    pub mark_stall_warning_ms: u64,
    /// Most events that one read fetches.
    pub feed_batch_max: u32,
    /// Time for which projections gather events while they come fast, in milliseconds.
    pub gather_ms: u64,
    /// Most events kept decoded for the subscriptions of a process.
    pub feed_ring_max: usize,
    /// How much of its time a rebuild works while events arrive, in percent.
    pub rebuild_share_percent: u32,
}

impl EventsConfig {
    pub fn mark_poll_busy(&self) -> Duration {
        Duration::from_millis(self.mark_poll_busy_ms)
    }

    pub fn mark_poll_idle(&self) -> Duration {
        Duration::from_millis(self.mark_poll_idle_ms)
    }

    pub fn gather(&self) -> Duration {
        Duration::from_millis(self.gather_ms)
    }

    pub fn mark_stall_warning(&self) -> Duration {
        Duration::from_millis(self.mark_stall_warning_ms)
    }
}

/// Group commit of the message and consent stores.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessagesConfig {
    /// Most commands that one commit gathers.
    pub batch_max: usize,
    /// Time to wait for more commands after the first, in milliseconds.
    pub batch_wait_ms: u64,
    /// How often a command is tried again after a conflict.
    pub conflict_retries_max: u32,
    /// Batches that may be under way at once.
    pub writers: usize,
    /// Messages whose state is remembered.
    pub states_max: usize,
}

impl MessagesConfig {
    pub fn batch_wait(&self) -> Duration {
        Duration::from_millis(self.batch_wait_ms)
    }
}

/// Timers and recurrence.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SchedulerConfig {
    /// Time between two looks for due timers, in milliseconds.
    pub poll_ms: u64,
}

impl SchedulerConfig {
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }
}

/// Turning the contacts of a run into messages.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FanOutConfig {
    /// Contacts of one step.
    pub page_size: u32,
    /// Time for which a process owns the fan-out of a run without renewing, in seconds.
    pub lease_s: u64,
    /// Events by which the slowest follower of the log may lag before the fan-out slows down.
    pub lag_max_events: i64,
}

impl FanOutConfig {
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_s)
    }
}

/// Moving messages from the ready list to the dispatch queue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeederConfig {
    /// Time between two looks at the ready list, in milliseconds.
    pub poll_ms: u64,
    /// Seconds of a sender's permitted rate that lie in the queue at once.
    pub outstanding_s: u64,
    /// Time after which a message that nobody claimed is published again, in seconds.
    pub republish_after_s: u64,
}

impl FeederConfig {
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }

    pub fn outstanding(&self) -> Duration {
        Duration::from_secs(self.outstanding_s)
    }

    pub fn republish_after(&self) -> Duration {
        Duration::from_secs(self.republish_after_s)
    }
}

/// Claiming messages and calling WhatsApp.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DispatchConfig {
    /// Time after which a call is given up and its outcome is unknown, in seconds.
    pub call_timeout_s: u64,
    /// Time after which connecting is given up, in seconds.
    pub connect_timeout_s: u64,
    /// Most messages that one commit claims.
    pub claim_batch_max: u32,
    /// Deadline of a claim, in seconds: the call must start before it.
    pub claim_ttl_s: u64,
    /// Time beyond deadline and call time-out after which an open claim becomes unknown, in seconds.
    pub sweep_margin_s: u64,
    /// Parcels that a sender's loop may hold of a lane without having acknowledged them.
    pub prefetch: u16,
    /// Deliveries that may be lost with their process before a message is parked.
    pub strikes_max: u32,
    /// Fewest calls of one number that may be under way at once.
    pub concurrency_min: usize,
    /// Most calls of one number that may be under way at once.
    pub concurrency_max: usize,
    /// How much later than another a call may arrive that left at the same time, in milliseconds.
    pub pacing_margin_ms: u64,
    /// Time without a refusal after which a lowered rate rises, in seconds.
    pub rate_recovery_interval_s: u64,
    /// The step by which it rises, in percent of the setting.
    pub rate_recovery_step_percent: u32,
    /// Time in which one message to a recipient is permitted, in milliseconds; 0 is no limit.
    pub pair_interval_ms: u64,
    /// Messages to one recipient within the first such time.
    pub pair_burst: u32,
    /// Time for which a process owns a sender without renewing, in seconds.
    pub lease_ttl_s: u64,
    /// Most attempts to send one message.
    pub attempts_max: u32,
    /// Calls in a row whose outcome is not known that are taken for an outage of WhatsApp.
    pub outage_after: u32,
    /// Refusals for how a message is made, one after the other, that stall a run.
    pub misfits_in_row: u32,
    /// Such refusals in percent of a run's calls that stall it.
    pub misfits_percent: u32,
    /// Version of the Graph API, such as `v25.0`.
    pub api_version: String,
}

impl DispatchConfig {
    pub fn call_timeout(&self) -> Duration {
        Duration::from_secs(self.call_timeout_s)
    }

    pub fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s)
    }

    pub fn claim_ttl(&self) -> Duration {
        Duration::from_secs(self.claim_ttl_s)
    }

    pub fn sweep_margin(&self) -> Duration {
        Duration::from_secs(self.sweep_margin_s)
    }

    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs(self.lease_ttl_s)
    }

    pub fn concurrency(&self) -> RangeInclusive<usize> {
        self.concurrency_min..=self.concurrency_max
    }

    pub fn pacing(&self) -> PacingConfig {
        PacingConfig {
            margin: Duration::from_millis(self.pacing_margin_ms),
            recovery_interval: Duration::from_secs(self.rate_recovery_interval_s),
            recovery_step_percent: self.rate_recovery_step_percent,
        }
    }

    pub fn pair(&self) -> PairConfig {
        PairConfig { interval: Duration::from_millis(self.pair_interval_ms), burst: self.pair_burst }
    }
}

/// How long a message waits after a refusal; what each number means stands at [`RetryLadder`].
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetriesConfig {
    /// First wait of an account, in seconds.
    pub account_rate_wait_s: u64,
    /// First wait of a sender, in seconds.
    pub sender_rate_wait_s: u64,
    /// First wait of one contact, in seconds.
    pub pair_rate_wait_s: u64,
    /// First wait of a sender in maintenance, in seconds.
    pub maintenance_wait_s: u64,
    /// First wait of the messages with a template, in seconds.
    pub template_sync_wait_s: u64,
    /// First wait of a message that failed after it was accepted, in seconds.
    pub trouble_wait_s: u64,
    /// Retries of one message after a status has reported it as failed.
    pub after_acceptance_max: u32,
    /// First wait of a number when WhatsApp is out of order, in seconds.
    pub outage_wait_s: u64,
    /// Longest of these waits, in seconds.
    pub outage_wait_max_s: u64,
    /// Wait of a message that met a stalled sender, in seconds.
    pub stalled_wait_s: u64,
    /// Growth of the waits of one contact.
    pub contact_growth: u32,
    /// Growth of all other waits.
    pub shared_growth: u32,
    /// Longest wait, in seconds.
    pub wait_max_s: u64,
}

impl RetriesConfig {
    pub fn ladder(&self) -> RetryLadder {
        RetryLadder {
            account_rate: Duration::from_secs(self.account_rate_wait_s),
            sender_rate: Duration::from_secs(self.sender_rate_wait_s),
            pair_rate: Duration::from_secs(self.pair_rate_wait_s),
            maintenance: Duration::from_secs(self.maintenance_wait_s),
            template_sync: Duration::from_secs(self.template_sync_wait_s),
            trouble: Duration::from_secs(self.trouble_wait_s),
            outage: Duration::from_secs(self.outage_wait_s),
            outage_max: Duration::from_secs(self.outage_wait_max_s),
            stalled: Duration::from_secs(self.stalled_wait_s),
            contact_growth: self.contact_growth,
            shared_growth: self.shared_growth,
            wait_max: Duration::from_secs(self.wait_max_s),
        }
    }
}

/// Calls whose outcome nobody knows.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnknownConfig {
    /// Time after which an unknown outcome is unconfirmed, in seconds.
    pub unconfirmed_after_s: u64,
    /// Time after which a message is sent again whose campaign asks for it, in seconds.
    pub resend_after_s: u64,
    /// Time between two looks, in milliseconds.
    pub poll_ms: u64,
}

impl UnknownConfig {
    pub fn unconfirmed_after(&self) -> Duration {
        Duration::from_secs(self.unconfirmed_after_s)
    }

    pub fn resend_after(&self) -> Duration {
        Duration::from_secs(self.resend_after_s)
    }

    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }
}

/// Reading templates from Meta, and letting runs follow them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplatesConfig {
    /// Time between two readings of an account, in seconds.
    pub sync_interval_s: u64,
    /// Least time between two readings of an account, in seconds.
    pub sync_gap_s: u64,
    /// Time after which an account is read again that could not be read, in seconds.
    pub sync_retry_s: u64,
    /// Time between two looks for accounts that are to be read, in milliseconds.
    pub sync_poll_ms: u64,
    /// Templates of one page.
    pub sync_page_size: u32,
    /// Most pages of an account.
    pub sync_pages_max: u32,
    /// Largest page, in bytes.
    pub sync_page_max_bytes: usize,
    /// Time between two looks at the templates of open runs, in milliseconds.
    pub watch_poll_ms: u64,
}

impl TemplatesConfig {
    pub fn sync(&self, base_url_allowed: bool) -> SyncConfig {
        SyncConfig {
            interval: Duration::from_secs(self.sync_interval_s),
            gap: Duration::from_secs(self.sync_gap_s),
            retry: Duration::from_secs(self.sync_retry_s),
            poll: Duration::from_millis(self.sync_poll_ms),
            base_url_allowed,
        }
    }

    pub fn catalog(&self, client: ClientConfig) -> CatalogConfig {
        CatalogConfig {
            client,
            page_size: self.sync_page_size,
            pages_max: self.sync_pages_max,
            page_bytes_max: self.sync_page_max_bytes,
        }
    }

    pub fn watch_poll(&self) -> Duration {
        Duration::from_millis(self.watch_poll_ms)
    }
}

/// Storing webhooks, and interpreting them afterwards.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Most webhooks that one commit stores.
    pub store_batch_max: usize,
    /// Most bytes of webhooks that one commit stores.
    pub store_batch_max_bytes: usize,
    /// Most webhooks that may wait to be stored.
    pub store_queue_max: usize,
    /// Most bytes of webhooks that may wait to be stored.
    pub store_queue_max_bytes: usize,
    /// Most stored webhooks of one step.
    pub interpret_batch_max: u32,
    /// Most bytes of stored webhooks of one step.
    pub interpret_batch_max_bytes: u32,
    /// Time between two looks for webhooks to interpret, in milliseconds.
    pub interpret_poll_ms: u64,
    /// Attempts before a webhook is parked.
    pub interpret_attempts_max: u32,
    /// Time for which a status waits for the message that it names, in seconds.
    pub status_waits_s: u64,
    /// Days for which the bodies of webhooks are kept.
    pub bodies_kept_days: u32,
    /// Time for which webhooks are believed that are signed with a replaced app secret, in hours.
    pub secret_overlap_hours: u64,
}

impl WebhooksConfig {
    pub fn status_waits(&self) -> Duration {
        Duration::from_secs(self.status_waits_s)
    }

    pub fn interpret_poll(&self) -> Duration {
        Duration::from_millis(self.interpret_poll_ms)
    }

    pub fn secret_overlap(&self) -> Duration {
        Duration::from_secs(self.secret_overlap_hours * 3600)
    }
}

/// Who gets messages, and the words by which contacts stop and resume them.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsentConfig {
    /// Which messages need that the contact agreed.
    pub require_opt_in: RequireOptIn,
    /// Words that stop everything.
    pub opt_out_words: String,
    /// Words that stop offers.
    pub stop_words: String,
    /// Words that lift either.
    pub start_words: String,
    /// Time for which a contact is left out that could not be reached, in days.
    pub undeliverable_for_days: i64,
    /// Time for which a contact gets no offers after WhatsApp withheld one, in hours.
    pub cooling_for_hours: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RequireOptIn {
    Marketing,
    All,
    None,
}

impl ConsentConfig {
    pub fn keywords(&self) -> Result<Keywords, KeywordFault> {
        Keywords::parse(&self.opt_out_words, &self.stop_words, &self.start_words)
    }

    pub fn policy(&self) -> ConsentPolicy {
        ConsentPolicy {
            opt_in_required: match self.require_opt_in {
                RequireOptIn::Marketing => OptInRequired::ForMarketing,
                RequireOptIn::All => OptInRequired::Always,
                RequireOptIn::None => OptInRequired::Never,
            },
            undeliverable_for: TimeDelta::days(self.undeliverable_for_days),
            cooling_for: TimeDelta::hours(self.cooling_for_hours),
        }
    }
}

/// The stand-in for WhatsApp.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxConfig {
    /// Time to answer a call, in milliseconds.
    pub latency_ms: u64,
    /// Time between two statuses of one message, in milliseconds.
    pub status_gap_ms: u64,
    /// Most statuses in one webhook.
    pub webhook_batch_max: usize,
    /// Most webhooks posted at once.
    pub webhook_posts_max: usize,
    /// Calls of one number in any second beyond which it refuses; 0 is no limit.
    pub rate_limit_per_s: u32,
    /// Messages to one recipient within 6 s beyond which it refuses; 0 is no limit.
    pub pair_burst: u32,
}

impl SandboxConfig {
    pub fn latency(&self) -> Duration {
        Duration::from_millis(self.latency_ms)
    }

    pub fn status_gap(&self) -> Duration {
        Duration::from_millis(self.status_gap_ms)
    }
}

/// Erasing contacts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasureConfig {
    /// The file with the key of the hashes by which erased numbers are known; empty for the one in the data folder.
    pub suppression_key_file: String,
}

impl ErasureConfig {
    pub fn key_file(&self, data: &Path) -> PathBuf {
        match self.suppression_key_file.as_str() {
            "" => data.join("suppression-key"),
            path => PathBuf::from(path),
        }
    }
}

/// Evidence that nobody has changed the log.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// The file with the ed25519 key that signs seals; empty for the one in the data folder.
    pub signing_key_file: String,
    /// Public keys that have signed older seals, in hexadecimal digits, separated by commas.
    pub trusted_keys: String,
    /// How often new events are sealed, in milliseconds.
    pub seal_every_ms: u64,
    /// Most events of one seal.
    pub segment_events_max: u32,
}

impl AuditConfig {
    pub fn seal_every(&self) -> Duration {
        Duration::from_millis(self.seal_every_ms)
    }

    pub fn key_file(&self, data: &Path) -> PathBuf {
        if self.signing_key_file.is_empty() { data.join("seal-key.pem") } else { PathBuf::from(&self.signing_key_file) }
    }

    pub fn trusted_keys(&self) -> Vec<PublicKey> {
        self.trusted_keys.split(',').filter_map(PublicKey::parse).collect()
    }
}

/// What is logged, and how.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or levels by module, in the syntax of `tracing`'s environment filter.
    pub filter: String,
    /// One line for people, or one JSON object for machines.
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}
