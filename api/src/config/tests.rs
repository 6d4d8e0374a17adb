use std::collections::BTreeSet;
use std::time::Duration;

use domain::consent::Word;
use infrastructure::consent::{ConsentPolicy, OptInRequired};
use infrastructure::pacing::{PacingConfig, PairConfig};
use infrastructure::whatsapp::RetryLadder;
use tempfile::TempDir;

use super::keys::Kind;
use super::*;

fn environment(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(None, owned(variables))
}

fn owned(variables: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    let pairs: Vec<_> = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    pairs.into_iter()
}

fn folder(text: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
    dir
}

fn file(text: &str) -> Result<Config, ConfigError> {
    load(Some(folder(text).path()), std::iter::empty())
}

/// The place of an unknown key without its folder, and what is proposed instead.
fn unknown(result: Result<Config, ConfigError>) -> (String, String) {
    match result {
        Err(ConfigError::UnknownKey { place, nearest }) => {
            (place.rsplit('/').next().unwrap_or_default().to_owned(), nearest)
        }
        other => panic!("expected an unknown key, got {other:?}"),
    }
}

fn bad_value(result: Result<Config, ConfigError>) -> (String, String, Source, String) {
    match result {
        Err(ConfigError::BadValue { key, value, from, expected }) => (key, value.to_string(), from, expected),
        other => panic!("expected a bad value, got {other:?}"),
    }
}

fn setting<'a>(config: &'a Config, key: &str) -> &'a Setting {
    config.effective().iter().find(|setting| setting.key == key).unwrap()
}

#[test]
fn defaults_load_and_every_default_is_allowed() {
    let config = Config::default();
    assert_eq!(config.effective().len(), KEYS.len());
    for (key, setting) in KEYS.iter().zip(config.effective()) {
        assert!(key.accepts(&setting.value), "{} does not accept its default {}", setting.key, setting.value);
        assert_eq!(setting.source, Source::Default);
    }
}

#[test]
fn defaults_key_table_and_structs_have_the_same_keys() {
    let defaults: Table = DEFAULTS.parse().unwrap();
    let in_defaults: BTreeSet<String> = defaults
        .iter()
        .flat_map(|(section, keys)| keys.as_table().unwrap().keys().map(move |key| format!("{section}.{key}")))
        .collect();
    let in_table: BTreeSet<String> = KEYS.iter().map(Key::dotted).collect();
    assert_eq!(in_defaults, in_table);
    assert_eq!(in_table.len(), KEYS.len(), "a key stands twice in the table");
    // The structs refuse unknown fields and have no optional ones, so this fails for a key too many and for one too few.
    Config::deserialize(Value::Table(defaults.clone())).unwrap();
    for key in KEYS {
        let mut without = defaults.clone();
        without.get_mut(key.section).unwrap().as_table_mut().unwrap().remove(key.name);
        assert!(Config::deserialize(Value::Table(without)).is_err(), "no struct needs {}", key.dotted());
    }
}

#[test]
fn every_key_is_documented_with_its_range() {
    let (mut section, mut comment, mut documented) = (String::new(), String::new(), 0);
    for line in DEFAULTS.lines() {
        if let Some(text) = line.strip_prefix("# ") {
            comment.push_str(text);
            comment.push(' ');
        } else if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
            comment.clear();
        } else if let Some((name, _)) = line.split_once(" = ") {
            let key = KEYS.iter().find(|key| key.section == section && key.name == name).unwrap();
            assert!(!comment.is_empty(), "{} is not documented", key.dotted());
            if let Kind::Integer { min, max } = key.kind {
                let range = format!("Range {min} to {max}.");
                assert!(comment.contains(&range), "the comment of {} does not say {range:?}", key.dotted());
            }
            documented += 1;
            comment.clear();
        }
    }
    assert_eq!(documented, KEYS.len());
}

#[test]
fn every_range_includes_its_ends_and_nothing_beyond() {
    for key in KEYS {
        let Kind::Integer { min, max } = key.kind else { continue };
        // One key at a time at an end of its range may break a relation, which is an error of another kind.
        let out_of_range = |number: i64| {
            let result = environment(&[(&key.variable(), &number.to_string())]);
            matches!(result, Err(ConfigError::BadValue { expected, .. }) if expected == key.expected())
        };
        assert!(!out_of_range(min) && !out_of_range(max), "{} refuses an end of its range", key.dotted());
        assert!(out_of_range(min - 1) && out_of_range(max + 1), "{} accepts what is out of range", key.dotted());
    }
}

#[test]
fn every_end_of_a_range_fits_its_field() {
    for end in [|min: i64, _: i64| min, |_: i64, max: i64| max] {
        let mut settings = Settings::from_defaults(&DEFAULTS.parse().unwrap());
        for (index, key) in KEYS.iter().enumerate() {
            if let Kind::Integer { min, max } = key.kind {
                settings.set(index, Value::Integer(end(min, max)), Source::Default).unwrap();
            }
        }
        settings.into_config();
    }
}

#[test]
fn the_environment_goes_before_the_file_and_the_file_before_the_defaults() {
    let dir = folder("[http]\nlist_limit_default = 10\nlist_limit_max = 20\n");
    let config = load(Some(dir.path()), owned(&[("EKTOLA_HTTP__LIST_LIMIT_MAX", "30")])).unwrap();
    assert_eq!((config.http.list_limit_default, config.http.list_limit_max), (10, 30));
    assert_eq!(config.http.body_max_bytes, Config::default().http.body_max_bytes);
    assert_eq!(setting(&config, "http.list_limit_default").source, Source::File(dir.path().join(FILE_NAME)));
    let environment = Source::Environment("EKTOLA_HTTP__LIST_LIMIT_MAX".to_owned());
    assert_eq!(setting(&config, "http.list_limit_max").source, environment);
    assert_eq!(setting(&config, "http.list_limit_max").value, Value::Integer(30));
    assert_eq!(setting(&config, "http.body_max_bytes").source, Source::Default);
}

#[test]
fn a_section_of_two_words_is_reached_from_the_environment() {
    assert_eq!(environment(&[("EKTOLA_FAN_OUT__PAGE_SIZE", "7")]).unwrap().fan_out.page_size, 7);
}

#[test]
fn a_missing_file_is_an_empty_one() {
    let dir = TempDir::new().unwrap();
    let config = load(Some(dir.path()), std::iter::empty()).unwrap();
    assert_eq!(config.effective(), Config::default().effective());
}

#[test]
fn a_file_that_is_not_toml_is_refused() {
    assert!(matches!(file("[http\n"), Err(ConfigError::Syntax { .. })));
}

#[test]
fn a_file_that_cannot_be_read_is_refused() {
    let dir = TempDir::new().unwrap();
    std::fs::create_dir(dir.path().join(FILE_NAME)).unwrap();
    assert!(matches!(load(Some(dir.path()), std::iter::empty()), Err(ConfigError::Unreadable { .. })));
}

#[test]
fn an_unknown_key_of_the_file_is_refused_with_the_nearest() {
    let cases = [
        ("[http]\nbody_max_byte = 5000", "ektola.toml:http.body_max_byte", "http.body_max_bytes"),
        ("[dispatch]\ncal_timeout_s = 5", "ektola.toml:dispatch.cal_timeout_s", "dispatch.call_timeout_s"),
        // The right key in the wrong section.
        ("[messages]\noutstanding_s = 5", "ektola.toml:messages.outstanding_s", "feeder.outstanding_s"),
        // A key without its section.
        ("request_timeout_s = 5", "ektola.toml:request_timeout_s", "http.request_timeout_s"),
        ("[fanout]\npage_size = 5", "ektola.toml:[fanout]", "[fan_out]"),
    ];
    for (text, place, nearest) in cases {
        assert_eq!(unknown(file(text)), (place.to_owned(), nearest.to_owned()));
    }
}

#[test]
fn an_unknown_variable_is_refused_with_the_nearest() {
    let cases = [
        ("EKTOLA_HTTP__BODY_MAX_BYTE", "EKTOLA_HTTP__BODY_MAX_BYTES"),
        ("EKTOLA_HTP__BODY_MAX_BYTES", "EKTOLA_HTTP__BODY_MAX_BYTES"),
        ("EKTOLA_MESAGES__BATCH_MAX", "EKTOLA_MESSAGES__BATCH_MAX"),
        ("EKTOLA_http__body_max_bytes", "EKTOLA_HTTP__BODY_MAX_BYTES"),
        // Only the second underscore is missing.
        ("EKTOLA_FAN_OUT_PAGE_SIZE", "EKTOLA_FAN_OUT__PAGE_SIZE"),
    ];
    for (variable, nearest) in cases {
        assert_eq!(unknown(environment(&[(variable, "5000")])), (variable.to_owned(), nearest.to_owned()));
    }
    assert_eq!(unknown(environment(&[("EKTOLA_FOO__BAR", "1")])).0, "EKTOLA_FOO__BAR");
}

#[test]
fn variables_that_are_no_configuration_are_left_alone() {
    let others = [("EKTOLA_TEST_DATABASE", "x"), ("EKTOLA_TEST__KEEP", "x"), ("EKTOLA_DATA", "x"), ("PATH", "/bin")];
    assert!(environment(&others).is_ok());
}

#[test]
fn a_wrong_type_in_the_file_names_key_value_and_what_is_expected() {
    let (key, value, from, expected) = bad_value(file("[scheduler]\npoll_ms = \"fast\""));
    assert_eq!((key.as_str(), value.as_str()), ("scheduler.poll_ms", "\"fast\""));
    assert!(matches!(from, Source::File(_)));
    assert_eq!(expected, "a whole number from 10 to 60000");

    assert_eq!(bad_value(file("[scheduler]\npoll_ms = 250.5")).1, "250.5");
    assert_eq!(bad_value(file("[log]\nfilter = 3")).0, "log.filter");
    assert_eq!(bad_value(file("http = 3")).0, "http");
    assert_eq!(bad_value(file("[[http]]\nbody_max_bytes = 5000")).0, "http");
}

#[test]
fn a_wrong_variable_names_itself_its_key_and_what_is_expected() {
    for text in ["", "5s", "99999999999999999999"] {
        let (key, value, from, expected) = bad_value(environment(&[("EKTOLA_FEEDER__POLL_MS", text)]));
        assert_eq!((key.as_str(), value), ("feeder.poll_ms", format!("{text:?}")));
        assert_eq!(from, Source::Environment("EKTOLA_FEEDER__POLL_MS".to_owned()));
        assert_eq!(expected, "a whole number from 10 to 10000");
    }
    let message = environment(&[("EKTOLA_FEEDER__POLL_MS", "5")]).unwrap_err().to_string();
    let expected = "feeder.poll_ms is 5 (from EKTOLA_FEEDER__POLL_MS), expected a whole number from 10 to 10000";
    assert_eq!(message, expected);
}

#[test]
fn texts_are_checked() {
    let refused = [
        ("EKTOLA_DISPATCH__API_VERSION", "25.0"),
        ("EKTOLA_DISPATCH__API_VERSION", "v25"),
        ("EKTOLA_DISPATCH__API_VERSION", "v25.0/../me"),
        ("EKTOLA_LOG__FORMAT", "yaml"),
        ("EKTOLA_LOG__FILTER", " "),
        ("EKTOLA_LOG__FILTER", "info,a=b=c"),
        ("EKTOLA_CONSENT__REQUIRE_OPT_IN", "yes"),
        ("EKTOLA_CONSENT__STOP_WORDS", "stop, !"),
    ];
    for (variable, text) in refused {
        assert_eq!(bad_value(environment(&[(variable, text)])).2, Source::Environment(variable.to_owned()));
    }
    let config = environment(&[("EKTOLA_LOG__FORMAT", "json"), ("EKTOLA_LOG__FILTER", "warn,api=trace")]).unwrap();
    assert_eq!((config.log.format, config.log.filter.as_str()), (LogFormat::Json, "warn,api=trace"));
    assert_eq!(environment(&[("EKTOLA_DISPATCH__API_VERSION", "v26.1")]).unwrap().dispatch.api_version, "v26.1");
}

#[test]
fn keys_that_depend_on_each_other_are_checked_together() {
    let (key, value, from, expected) = bad_value(environment(&[("EKTOLA_HTTP__LIST_LIMIT_MAX", "50")]));
    assert_eq!((key.as_str(), value.as_str()), ("http.list_limit_default", "100"));
    assert_eq!(from, Source::Environment("EKTOLA_HTTP__LIST_LIMIT_MAX".to_owned()));
    assert_eq!(expected, "at most http.list_limit_max, which is 50");

    let (key, ..) = bad_value(environment(&[("EKTOLA_FEEDER__OUTSTANDING_S", "10")]));
    assert_eq!(key, "feeder.republish_after_s");
    let both = [("EKTOLA_HTTP__LIST_LIMIT_MAX", "50"), ("EKTOLA_HTTP__LIST_LIMIT_DEFAULT", "50")];
    assert!(environment(&both).is_ok());
}

#[test]
fn the_defaults_are_those_of_the_engine() {
    let config = Config::default();
    assert_eq!(config.retries.ladder(), RetryLadder::default());
    assert_eq!(config.dispatch.pacing(), PacingConfig::default());
    assert_eq!(config.dispatch.pair(), PairConfig::default());
    assert_eq!(config.dispatch.concurrency(), 8..=1000);
    assert_eq!(config.consent.policy(), ConsentPolicy::default());
}

#[test]
fn durations_keep_their_units() {
    let config = environment(&[("EKTOLA_DISPATCH__CALL_TIMEOUT_S", "7"), ("EKTOLA_SCHEDULER__POLL_MS", "40")]).unwrap();
    assert_eq!(config.dispatch.call_timeout(), Duration::from_secs(7));
    assert_eq!(config.scheduler.poll(), Duration::from_millis(40));
    let config = environment(&[
        ("EKTOLA_DISPATCH__PACING_MARGIN_MS", "9"),
        ("EKTOLA_DISPATCH__RATE_RECOVERY_INTERVAL_S", "8"),
        ("EKTOLA_DISPATCH__PAIR_INTERVAL_MS", "7"),
        ("EKTOLA_RETRIES__WAIT_MAX_S", "6"),
    ]);
    let config = config.unwrap();
    let (pacing, pair) = (config.dispatch.pacing(), config.dispatch.pair());
    assert_eq!((pacing.margin, pacing.recovery_interval), (Duration::from_millis(9), Duration::from_secs(8)));
    assert_eq!((pair.interval, config.retries.ladder().wait_max), (Duration::from_millis(7), Duration::from_secs(6)));
}

#[test]
fn contacts_stop_and_resume_in_their_own_language() {
    let words = Config::default().consent.keywords().unwrap();
    for (language, opt_out, stop, start) in [
        ("English", "Stop all", "STOP", "Start"),
        ("Hindi", "सब बंद करें", "बंद करें", "शुरू करें"),
        ("Gujarati", "બધું બંધ કરો", "બંધ કરો", "શરૂ કરો"),
        ("Marathi", "सर्व बंद करा", "थांबवा", "सुरू करा"),
        ("Tamil", "அனைத்தையும் நிறுத்து", "நிறுத்து", "தொடங்கு"),
        ("Telugu", "అన్నీ ఆపండి", "ఆపండి", "ప్రారంభించండి"),
        ("Bengali", "সব বন্ধ করুন", "বন্ধ করুন", "শুরু করুন"),
        ("Kannada", "ಎಲ್ಲಾ ನಿಲ್ಲಿಸಿ", "ನಿಲ್ಲಿಸಿ", "ಪ್ರಾರಂಭಿಸಿ"),
    ] {
        for (text, word) in [(opt_out, Word::OptOut), (stop, Word::StopMarketing), (start, Word::ResumeMarketing)] {
            assert_eq!(words.find(&format!(" {text}! 🙏")), Some(word), "{language}: {text}");
        }
    }
    assert_eq!(words.find("Stop promotions"), Some(Word::StopMarketing), "WhatsApp's own quick reply");
    assert_eq!(words.find("please stop the loan"), None);
}

#[test]
fn words_are_configured_and_may_not_contradict_each_other() {
    let config =
        environment(&[("EKTOLA_CONSENT__STOP_WORDS", "basta, ya no"), ("EKTOLA_CONSENT__REQUIRE_OPT_IN", "all")]);
    let config = config.unwrap();
    let words = config.consent.keywords().unwrap();
    assert_eq!((words.find("Ya no."), words.find("stop")), (Some(Word::StopMarketing), None));
    assert_eq!(config.consent.policy().opt_in_required, OptInRequired::Always);
    let contradiction = environment(&[("EKTOLA_CONSENT__STOP_WORDS", "start")]);
    assert!(matches!(contradiction, Err(ConfigError::Words(_))), "{contradiction:?}");
}
