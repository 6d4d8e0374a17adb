//! Every key with the values that it takes. A test holds this table, `defaults.toml` and the structs together.

use infrastructure::seals::PublicKey;
use toml::Value;
use tracing_subscriber::EnvFilter;

pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Integer { min: i64, max: i64 },
    Text { accepts: fn(&str) -> bool, expected: &'static str },
}

impl Key {
    pub(super) fn dotted(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    pub(super) fn variable(&self) -> String {
        format!("EKTOLA_{}__{}", self.section.to_ascii_uppercase(), self.name.to_ascii_uppercase())
    }

    pub(super) fn accepts(&self, value: &Value) -> bool {
        match (&self.kind, value) {
            (Kind::Integer { min, max }, Value::Integer(number)) => (min..=max).contains(&number),
            (Kind::Text { accepts, .. }, Value::String(text)) => accepts(text),
            _ => false,
        }
    }

    /// A variable's text as a value of this key. Text that is no number stays text, which the key then refuses.
    pub(super) fn read(&self, text: String) -> Value {
        match self.kind {
            Kind::Integer { .. } => text.parse().map_or(Value::String(text), Value::Integer),
            Kind::Text { .. } => Value::String(text),
        }
    }

    pub(super) fn expected(&self) -> String {
        match self.kind {
            Kind::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Kind::Text { expected, .. } => expected.to_owned(),
        }
    }
}

const fn integer(section: &'static str, name: &'static str, min: i64, max: i64) -> Key {
    Key { section, name, kind: Kind::Integer { min, max } }
}

const fn text(section: &'static str, name: &'static str, accepts: fn(&str) -> bool, expected: &'static str) -> Key {
    Key { section, name, kind: Kind::Text { accepts, expected } }
}

fn is_path(text: &str) -> bool {
    !text.contains('\0')
}

fn is_key_list(text: &str) -> bool {
    text.split(',').all(|key| key.trim().is_empty() || PublicKey::parse(key).is_some())
}

const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;
const GIB: i64 = 1024 * MIB;

pub(super) static KEYS: &[Key] = &[
    integer("http", "body_max_bytes", KIB, 64 * MIB),
    integer("http", "upload_max_bytes", KIB, 16 * GIB),
    integer("http", "webhook_body_max_bytes", KIB, 64 * MIB),
    integer("http", "list_limit_default", 1, 1_000),
    integer("http", "list_limit_max", 1, 1_000),
    integer("http", "request_timeout_s", 1, 3_600),
    integer("http", "min_position_wait_ms", 1, 25_000),
    integer("database", "connections_max", 2, 1_000),
    integer("events", "mark_poll_busy_ms", 1, 10_000),
    integer("events", "mark_poll_idle_ms", 1, 10_000),
    integer("events", "mark_stall_warning_ms", 100, 600_000),
    integer("events", "gather_ms", 0, 10_000),
    integer("events", "feed_batch_max", 1, 10_000),
    integer("events", "feed_ring_max", 1, 1_000_000),
    integer("events", "rebuild_share_percent", 1, 100),
    integer("messages", "batch_max", 1, 10_000),
    integer("messages", "batch_wait_ms", 0, 100),
    integer("messages", "conflict_retries_max", 0, 100),
    integer("messages", "writers", 1, 16),
    integer("messages", "states_max", 0, 1_000_000),
    integer("scheduler", "poll_ms", 10, 60_000),
    integer("fan_out", "page_size", 1, 10_000),
    integer("fan_out", "lease_s", 2, 600),
    integer("fan_out", "lag_max_events", 1_000, 100_000_000),
    integer("feeder", "poll_ms", 10, 10_000),
    integer("feeder", "outstanding_s", 1, 60),
    integer("feeder", "republish_after_s", 2, 3_600),
    integer("dispatch", "call_timeout_s", 1, 300),
    integer("dispatch", "connect_timeout_s", 1, 60),
    integer("dispatch", "claim_batch_max", 1, 1_000),
    integer("dispatch", "claim_ttl_s", 1, 600),
    integer("dispatch", "sweep_margin_s", 1, 600),
    integer("dispatch", "prefetch", 1, 2_000),
    integer("dispatch", "strikes_max", 4, 100),
    integer("dispatch", "concurrency_min", 1, 10_000),
    integer("dispatch", "concurrency_max", 1, 10_000),
    integer("dispatch", "pacing_margin_ms", 0, 200),
    integer("dispatch", "rate_recovery_interval_s", 1, 3_600),
    integer("dispatch", "rate_recovery_step_percent", 1, 100),
    integer("dispatch", "pair_interval_ms", 0, 600_000),
    integer("dispatch", "pair_burst", 1, 45),
    integer("dispatch", "lease_ttl_s", 1, 300),
    integer("dispatch", "attempts_max", 1, 100),
    integer("dispatch", "outage_after", 1, 10_000),
    integer("dispatch", "misfits_in_row", 1, 1_000),
    integer("dispatch", "misfits_percent", 1, 100),
    text("dispatch", "api_version", is_api_version, "a version such as \"v25.0\""),
    integer("retries", "account_rate_wait_s", 1, 86_400),
    integer("retries", "sender_rate_wait_s", 1, 86_400),
    integer("retries", "pair_rate_wait_s", 1, 86_400),
    integer("retries", "maintenance_wait_s", 1, 86_400),
    integer("retries", "template_sync_wait_s", 1, 86_400),
    integer("retries", "trouble_wait_s", 1, 86_400),
    integer("retries", "after_acceptance_max", 0, 100),
    integer("retries", "outage_wait_s", 1, 86_400),
    integer("retries", "outage_wait_max_s", 1, 86_400),
    integer("retries", "stalled_wait_s", 1, 86_400),
    integer("retries", "contact_growth", 1, 10),
    integer("retries", "shared_growth", 1, 10),
    integer("retries", "wait_max_s", 1, 604_800),
    integer("unknown", "unconfirmed_after_s", 1, 2_592_000),
    integer("unknown", "resend_after_s", 1, 2_592_000),
    integer("unknown", "poll_ms", 10, 600_000),
    integer("templates", "sync_interval_s", 60, 604_800),
    integer("templates", "sync_gap_s", 1, 3_600),
    integer("templates", "sync_retry_s", 10, 86_400),
    integer("templates", "sync_poll_ms", 100, 60_000),
    integer("templates", "sync_page_size", 1, 1_000),
    integer("templates", "sync_pages_max", 1, 10_000),
    integer("templates", "sync_page_max_bytes", 64 * KIB, 64 * MIB),
    integer("templates", "watch_poll_ms", 50, 60_000),
    integer("webhooks", "store_batch_max", 1, 10_000),
    integer("webhooks", "store_batch_max_bytes", KIB, 64 * MIB),
    integer("webhooks", "store_queue_max", 1, 1_000_000),
    integer("webhooks", "store_queue_max_bytes", MIB, 4 * GIB),
    integer("webhooks", "interpret_batch_max", 1, 10_000),
    integer("webhooks", "interpret_batch_max_bytes", KIB, 64 * MIB),
    integer("webhooks", "interpret_poll_ms", 1, 10_000),
    integer("webhooks", "interpret_attempts_max", 1, 100),
    integer("webhooks", "status_waits_s", 60, 604_800),
    integer("webhooks", "bodies_kept_days", 1, 3_650),
    integer("webhooks", "secret_overlap_hours", 0, 8_760),
    text("consent", "require_opt_in", is_opt_in_requirement, "\"marketing\", \"all\" or \"none\""),
    text("consent", "opt_out_words", is_word_list, WORD_LIST),
    text("consent", "stop_words", is_word_list, WORD_LIST),
    text("consent", "start_words", is_word_list, WORD_LIST),
    integer("consent", "undeliverable_for_days", 0, 3_650),
    integer("consent", "cooling_for_hours", 24, 8_760),
    integer("sandbox", "latency_ms", 0, 60_000),
    integer("sandbox", "status_gap_ms", 0, 600_000),
    integer("sandbox", "webhook_batch_max", 1, 1_000),
    integer("sandbox", "webhook_posts_max", 1, 4_096),
    integer("sandbox", "rate_limit_per_s", 0, 100_000),
    integer("sandbox", "pair_burst", 0, 1_000),
    text("erasure", "suppression_key_file", is_path, "the path of a file, or nothing"),
    text("audit", "signing_key_file", is_path, "the path of a file, or nothing"),
    text("audit", "trusted_keys", is_key_list, "keys of 64 hexadecimal digits, separated by commas"),
    integer("audit", "seal_every_ms", 100, 8_000),
    integer("audit", "segment_events_max", 1, 100_000),
    text("log", "filter", is_log_filter, "a log filter such as \"info\" or \"info,infrastructure=debug\""),
    text("log", "format", is_log_format, "\"text\" or \"json\""),
];

/// How two keys of one section must relate.
pub(super) struct Relation {
    pub(super) key: &'static str,
    pub(super) other: &'static str,
    pub(super) words: &'static str,
    pub(super) holds: fn(i64, i64) -> bool,
}

const fn at_most(key: &'static str, other: &'static str) -> Relation {
    Relation { key, other, words: "at most", holds: |value, bound| value <= bound }
}

pub(super) static RELATIONS: &[Relation] = &[
    at_most("http.list_limit_default", "http.list_limit_max"),
    at_most("events.mark_poll_busy_ms", "events.mark_poll_idle_ms"),
    at_most("events.feed_batch_max", "events.feed_ring_max"),
    at_most("dispatch.connect_timeout_s", "dispatch.call_timeout_s"),
    at_most("dispatch.concurrency_min", "dispatch.concurrency_max"),
    // A message waits in the queue for up to `outstanding_s` in good order; publishing it again before that would
    // double the whole queue.
    Relation {
        key: "feeder.republish_after_s",
        other: "feeder.outstanding_s",
        words: "more than",
        holds: |value, bound| value > bound,
    },
];

/// The known key nearest to an unknown one. The key's own name counts for more than its section, so that a key under
/// the wrong section leads to the right one.
pub(super) fn nearest(section: &str, name: &str) -> Option<&'static Key> {
    let dotted = format!("{section}.{name}");
    KEYS.iter().min_by_key(|key| {
        let whole = strsim::damerau_levenshtein(&dotted, &key.dotted());
        let own = strsim::damerau_levenshtein(name, key.name) + 1;
        (whole.min(own), whole)
    })
}

pub(super) fn nearest_section(section: &str) -> Option<&'static str> {
    KEYS.iter().map(|key| key.section).min_by_key(|known| strsim::damerau_levenshtein(section, known))
}

fn is_api_version(text: &str) -> bool {
    let is_number = |part: &str| (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    text.strip_prefix('v')
        .and_then(|rest| rest.split_once('.'))
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor))
}

const WORD_LIST: &str = "words with commas between them, each with a letter or digit and at most 100 characters";

fn is_word_list(text: &str) -> bool {
    domain::consent::Keywords::parse("", text, "").is_ok()
}

fn is_opt_in_requirement(text: &str) -> bool {
    matches!(text, "marketing" | "all" | "none")
}

fn is_log_filter(text: &str) -> bool {
    !text.trim().is_empty() && EnvFilter::try_new(text).is_ok()
}

fn is_log_format(text: &str) -> bool {
    matches!(text, "text" | "json")
}
