use super::*;
use crate::whatsapp::retry_ladder::RetryLadder;

const ANSWER: Channel = Channel::Answer;
const STATUS: Channel = Channel::Status;

/// What the engine may do, written independently of the table: code, as an answer, as a status.
#[rustfmt::skip]
const EXPECTED: &[(i32, &str, &str)] = &[
    (0, "pause account", "pause account"),
    (1, "ambiguous", "permanent"),
    (2, "ambiguous", "retry contact 120"),
    (3, "pause account", "pause account"),
    (4, "retry account 60", "retry account 60"),
    (10, "pause account", "pause account"),
    (33, "pause sender", "pause sender"),
    (100, "configuration", "configuration"),
    (190, "pause account", "pause account"),
    (200, "pause account", "pause account"),
    (299, "pause account", "pause account"),
    (368, "pause account", "pause account"),
    (613, "retry account 60", "retry account 60"),
    (80007, "retry account 60", "retry account 60"),
    (80008, "retry account 60", "retry account 60"),
    (130403, "stopped", "stopped"),
    (130429, "retry sender 1", "retry sender 1"),
    (130472, "cooling", "cooling"),
    (130497, "permanent", "permanent"),
    (131000, "ambiguous", "retry contact 120"),
    (131005, "pause account", "pause account"),
    (131008, "configuration", "configuration"),
    (131009, "configuration", "configuration"),
    (131014, "permanent", "permanent"),
    (131016, "ambiguous", "retry contact 120"),
    (131021, "permanent", "permanent"),
    (131026, "undeliverable", "undeliverable"),
    (131030, "configuration", "configuration"),
    (131031, "pause account", "pause account"),
    (131037, "pause sender", "pause sender"),
    (131042, "pause account", "pause account"),
    (131043, "permanent", "permanent"),
    (131045, "pause sender", "pause sender"),
    (131047, "permanent", "permanent"),
    (131048, "pause sender", "pause sender"),
    (131049, "cooling", "cooling"),
    (131050, "stopped", "stopped"),
    (131051, "configuration", "configuration"),
    (131052, "permanent", "permanent"),
    (131053, "retry contact 120", "retry contact 120"),
    (131055, "configuration", "configuration"),
    (131056, "retry contact 1", "retry contact 1"),
    (131057, "retry sender 90", "retry sender 90"),
    (131062, "configuration", "configuration"),
    (131063, "configuration", "configuration"),
    (131064, "pause template", "pause template"),
    (132000, "pause template", "pause template"),
    (132001, "pause template", "pause template"),
    (132005, "permanent", "permanent"),
    (132007, "pause template", "pause template"),
    (132012, "pause template", "pause template"),
    (132015, "pause template", "pause template"),
    (132016, "pause template", "pause template"),
    (132018, "configuration", "configuration"),
    (132068, "pause template", "pause template"),
    (132069, "pause template", "pause template"),
    (133000, "pause sender", "pause sender"),
    (133004, "ambiguous", "retry contact 120"),
    (133005, "pause sender", "pause sender"),
    (133006, "pause sender", "pause sender"),
    (133008, "pause sender", "pause sender"),
    (133009, "pause sender", "pause sender"),
    (133010, "pause sender", "pause sender"),
    (133015, "pause sender", "pause sender"),
    (133016, "pause sender", "pause sender"),
    (134011, "pause account", "pause account"),
    (134100, "configuration", "configuration"),
    (134101, "retry template 600", "retry template 600"),
    (134102, "ambiguous", "permanent"),
    (135000, "permanent", "pause portfolio"),
    (137000, "undeliverable", "undeliverable"),
    (2_388_039, "configuration", "configuration"),
    (2_388_299, "configuration", "configuration"),
];

fn in_words(reaction: Reaction) -> String {
    match reaction {
        Reaction::Retry { rung, scope } => {
            let after = RetryLadder::default().first(rung, scope, None);
            let scope = match scope {
                RetryScope::Contact => "contact",
                RetryScope::Template => "template",
                RetryScope::Sender => "sender",
                RetryScope::Account => "account",
            };
            format!("retry {scope} {}", after.as_secs())
        }
        Reaction::Fail(class) => class.name().to_owned(),
        Reaction::Ambiguous => "ambiguous".to_owned(),
        Reaction::Pause(PauseScope::Template) => "pause template".to_owned(),
        Reaction::Pause(PauseScope::Sender) => "pause sender".to_owned(),
        Reaction::Pause(PauseScope::Account) => "pause account".to_owned(),
        Reaction::Pause(PauseScope::Portfolio) => "pause portfolio".to_owned(),
    }
}

#[test]
fn each_code_has_its_reaction() {
    for (code, answer, status) in EXPECTED {
        assert_eq!(in_words(reaction(*code, ANSWER)), *answer, "the answer {code}");
        assert_eq!(in_words(reaction(*code, STATUS)), *status, "the status {code}");
    }
}

#[test]
fn each_row_has_a_test_and_no_code_is_in_two_rows() {
    for row in TABLE {
        assert!(EXPECTED.iter().any(|(code, _, _)| row.codes.contains(code)), "{:?} has no test", row.codes);
        let overlapping = TABLE
            .iter()
            .filter(|other| other.codes.start() <= row.codes.end() && row.codes.start() <= other.codes.end());
        assert_eq!(overlapping.count(), 1, "{:?}", row.codes);
    }
}

#[test]
fn unknown_codes_fail_and_are_never_retried() {
    for code in [-1, 5, 199, 300, 999_999, i32::MIN, i32::MAX] {
        assert_eq!(meaning(code), None);
        assert_eq!(reaction(code, ANSWER), Reaction::Fail(FailureClass::Configuration));
        assert_eq!(reaction(code, STATUS), Reaction::Fail(FailureClass::Permanent));
    }
}

#[test]
fn a_status_is_never_ambiguous() {
    for row in TABLE {
        assert_ne!(row.status, Reaction::Ambiguous, "{:?}", row.codes);
    }
}

#[test]
fn what_is_known_to_be_unprocessed_is_retried() {
    let unprocessed: Vec<i32> = EXPECTED.iter().map(|row| row.0).filter(|code| refused_unprocessed(*code)).collect();
    assert_eq!(unprocessed, [4, 613, 80007, 130429, 131056]);
    for code in unprocessed {
        assert!(matches!(reaction(code, ANSWER), Reaction::Retry { .. }), "{code}");
    }
}

#[test]
fn whoever_has_to_act_is_told_what_to_do() {
    for row in TABLE {
        let acts = [row.answer, row.status]
            .iter()
            .any(|reaction| matches!(reaction, Reaction::Pause(_) | Reaction::Fail(FailureClass::Configuration)));
        assert_eq!(row.advice.is_some(), acts, "{:?}", row.codes);
    }
}
