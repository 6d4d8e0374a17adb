//! Named settings for what a business meets in the end: each a handful of keys of `PATCH /_control`.

use serde_json::Value;

use super::settings::{Settings, SettingsError};

/// Settings with a name.
#[derive(Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// What happens, in a sentence.
    pub summary: &'static str,
    settings: &'static str,
}

/// All of them, in the order in which they are shown.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "calm",
        summary: "WhatsApp as it is meant to be: answers in about 300 ms, 80 calls a second, and nothing goes wrong",
        settings: r#"{
            "latency": {"median_ms": 300, "p99_ms": 2000},
            "limits": {"rate_per_s": 80, "pair_burst": 45}
        }"#,
    },
    Scenario {
        name: "busy-evening",
        summary: "slow answers with stalls of 10 s, rate limits with and without advice, withheld marketing, late statuses",
        settings: r#"{
            "latency": {"median_ms": 400, "p99_ms": 3000, "stall_share": 0.001, "stall_ms": 10000},
            "limits": {"rate_per_s": 80, "pair_burst": 45, "retry_after_s": 1},
            "faults": [
                {"effect": "refuse", "code": 130429, "http_status": 400, "share": 0.01},
                {"effect": "fail", "code": 131049, "share": 0.05},
                {"effect": "fail", "code": 130472, "share": 0.01},
                {"effect": "delay", "delay_ms": 20000, "statuses": ["delivered"], "share": 0.1},
                {"effect": "drop", "statuses": ["read"], "share": 0.2}
            ]
        }"#,
    },
    Scenario {
        name: "lost-answers",
        summary: "calls and answers get lost in every way: cut, stalled and broken by servers, before and after acceptance",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "faults": [
                {"effect": "lose_call", "share": 0.01},
                {"effect": "lose_call", "hang_ms": 60000, "share": 0.002},
                {"effect": "server_error", "code": 2, "http_status": 503, "share": 0.01},
                {"effect": "server_error", "http_status": 502, "share": 0.005},
                {"effect": "lose_answer", "share": 0.02},
                {"effect": "lose_answer", "hang_ms": 60000, "share": 0.002},
                {"effect": "server_error", "code": 131000, "accepted": true, "share": 0.01},
                {"effect": "answer_without_id", "share": 0.005},
                {"effect": "status_before_answer", "share": 0.02},
                {"effect": "fail", "code": 131026, "echo": false, "known_wamid": false, "share": 0.005},
                {"effect": "no_webhook", "share": 0.01}
            ]
        }"#,
    },
    Scenario {
        name: "template-paused",
        summary: "after 100 calls the template is paused for its quality; the webhook comes 2 s after the first refusal",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "faults": [
                {"effect": "pause_template", "after_calls": 100, "webhook": "after", "gap_ms": 2000}
            ]
        }"#,
    },
    Scenario {
        name: "token-revoked",
        summary: "after 100 calls the token is refused for 60 s, then it holds again",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "faults": [{"effect": "refuse", "code": 190, "after_calls": 100, "for_ms": 60000}]
        }"#,
    },
    Scenario {
        name: "stop-words",
        summary: "one user in fifty answers STOP or its like, one in a hundred stops marketing in WhatsApp itself",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "faults": [
                {"effect": "reply", "text": "STOP", "delay_ms": 3000, "share": 0.01},
                {"effect": "reply", "text": "बंद करो", "delay_ms": 3000, "share": 0.005},
                {"effect": "reply", "text": "Thank you \ud83d\udc90", "delay_ms": 3000, "share": 0.02},
                {"effect": "reply", "text": "Stop promotions", "button": "stop", "delay_ms": 3000, "share": 0.005},
                {"effect": "stop_marketing", "delay_ms": 3000, "share": 0.01}
            ]
        }"#,
    },
    Scenario {
        name: "shuffled-webhooks",
        summary: "statuses come early, late, twice, in any order, unsigned, unheard of, or not at all",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "statuses": {
                "shuffle": true, "foreign_share": 0.05, "contacts": "not_on_failed", "conversation": true,
                "unknown_fields": true
            },
            "posts": {"duplicate_share": 0.1, "wrong_signature_share": 0.02, "unsigned_share": 0.02},
            "faults": [
                {"effect": "status_before_answer", "share": 0.05},
                {"effect": "deliver_after_fail", "code": 131026, "share": 0.02},
                {"effect": "fail", "code": 131000, "after": ["sent", "delivered"], "share": 0.02},
                {"effect": "drop", "statuses": ["delivered"], "share": 0.1},
                {"effect": "drop", "statuses": ["sent"], "share": 0.05},
                {"effect": "delay", "delay_ms": 10000, "share": 0.05},
                {"effect": "duplicate", "share": 0.1},
                {"effect": "shuffle", "share": 0.3},
                {"effect": "add", "status": "unheard_of", "share": 0.05},
                {"effect": "no_echo", "share": 0.05},
                {"effect": "other_wa_id", "share": 0.05}
            ]
        }"#,
    },
    Scenario {
        name: "held",
        summary: "after 200 messages the next 100 are held and released, all others held and failed with 132015",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "faults": [
                {"effect": "hold", "delay_ms": 20000, "after_calls": 200, "next": 100},
                {"effect": "hold", "delay_ms": 30000, "code": 132015, "after_calls": 200}
            ]
        }"#,
    },
    Scenario {
        name: "tier-limit",
        summary: "the portfolio may write to 250 users a day; further calls are refused with 131048",
        settings: r#"{
            "latency": {"median_ms": 100, "p99_ms": 1000},
            "tier": {"recipients_max": 250},
            "number": {"messaging_limit": "TIER_250"}
        }"#,
    },
];

impl Scenario {
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// The keys that it changes, with their values.
    pub fn settings(&self) -> Value {
        serde_json::from_str(self.settings).expect("a test reads every scenario")
    }

    pub fn apply(&self, settings: &Settings) -> Result<Settings, SettingsError> {
        settings.patched(&self.settings())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_holds_and_changes_something() {
        for scenario in SCENARIOS {
            let settings =
                scenario.apply(&Settings::default()).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
            assert_ne!(settings, Settings::default(), "{}", scenario.name);
            assert_eq!(Scenario::find(scenario.name).map(|found| found.name), Some(scenario.name));
        }
        assert!(Scenario::find("none").is_none());
    }
}
