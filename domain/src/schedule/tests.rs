use chrono::{DateTime, TimeDelta, Utc};
use jiff::civil;
use proptest::prelude::*;

use super::*;

fn local(text: &str) -> civil::DateTime {
    text.parse().expect("a local time")
}

fn utc(text: &str) -> DateTime<Utc> {
    text.parse().expect("an instant")
}

fn schedule(recurrence: Recurrence, start: &str, end: Option<&str>, zone: &str) -> Schedule {
    Schedule::try_new(recurrence, local(start), end.map(local), zone).expect("a valid schedule")
}

/// The first occurrences after an instant, as instants.
fn next(schedule: &Schedule, after: &str, count: usize) -> Vec<DateTime<Utc>> {
    schedule.occurrences_after(utc(after)).take(count).map(|occurrence| occurrence.at).collect()
}

const LONG_AGO: &str = "1999-01-01T00:00:00Z";

#[test]
fn each_recurrence_gives_its_local_days() {
    use Recurrence::{Daily, Monthly, Once, Weekly};
    let cases: [(Recurrence, &str, &[&str]); 9] = [
        (Once, "2026-12-01T10:00", &["2026-12-01T10:00"]),
        (Daily, "2026-12-30T10:00", &["2026-12-30T10:00", "2026-12-31T10:00", "2027-01-01T10:00"]),
        (Daily, "2028-02-28T10:00", &["2028-02-28T10:00", "2028-02-29T10:00", "2028-03-01T10:00"]),
        (Weekly, "2026-12-24T10:00", &["2026-12-24T10:00", "2026-12-31T10:00", "2027-01-07T10:00"]),
        (Monthly, "2026-11-15T10:00", &["2026-11-15T10:00", "2026-12-15T10:00", "2027-01-15T10:00"]),
        (
            Monthly,
            "2027-01-31T10:00",
            &["2027-01-31T10:00", "2027-02-28T10:00", "2027-03-31T10:00", "2027-04-30T10:00"],
        ),
        (Monthly, "2028-01-31T10:00", &["2028-01-31T10:00", "2028-02-29T10:00", "2028-03-31T10:00"]),
        (
            Monthly,
            "2027-12-30T10:00",
            &["2027-12-30T10:00", "2028-01-30T10:00", "2028-02-29T10:00", "2028-03-30T10:00"],
        ),
        (Monthly, "2027-01-29T10:00", &["2027-01-29T10:00", "2027-02-28T10:00", "2027-03-29T10:00"]),
    ];
    for (recurrence, start, expected) in cases {
        let schedule = schedule(recurrence, start, None, "Asia/Kolkata");
        let found: Vec<_> = schedule.occurrences_after(utc(LONG_AGO)).take(expected.len()).map(|o| o.local).collect();
        let expected: Vec<_> = expected.iter().map(|text| local(text)).collect();
        assert_eq!(found, expected, "{recurrence:?} from {start}");
    }
}

#[test]
fn a_once_schedule_has_its_start_and_nothing_else() {
    let schedule = schedule(Recurrence::Once, "2026-12-01T10:00", None, "Asia/Kolkata");
    let only = Occurrence { local: local("2026-12-01T10:00"), at: utc("2026-12-01T04:30:00Z") };
    assert_eq!(schedule.first(), only);
    assert_eq!(schedule.occurrences_after(utc(LONG_AGO)).collect::<Vec<_>>(), [only]);
    assert_eq!(schedule.occurrences_after(only.at).collect::<Vec<_>>(), []);
}

#[test]
fn an_occurrence_at_the_very_instant_is_not_after_it() {
    let daily = schedule(Recurrence::Daily, "2026-12-01T10:00", None, "Asia/Kolkata");
    assert_eq!(next(&daily, "2026-12-01T04:29:59.999999Z", 1), [utc("2026-12-01T04:30:00Z")]);
    assert_eq!(next(&daily, "2026-12-01T04:30:00Z", 1), [utc("2026-12-02T04:30:00Z")]);
}

#[test]
fn a_time_that_new_york_skips_runs_later_that_day_alone() {
    let daily = schedule(Recurrence::Daily, "2027-03-13T02:30", None, "America/New_York");
    let found: Vec<_> = daily.occurrences_after(utc(LONG_AGO)).take(3).map(|o| (o.local, o.at)).collect();
    let expected = [
        (local("2027-03-13T02:30"), utc("2027-03-13T07:30:00Z")),
        (local("2027-03-14T02:30"), utc("2027-03-14T07:30:00Z")),
        (local("2027-03-15T02:30"), utc("2027-03-15T06:30:00Z")),
    ];
    assert_eq!(found, expected);
    assert_eq!(next(&daily, "2027-03-14T07:29:59Z", 1), [utc("2027-03-14T07:30:00Z")]);
}

#[test]
fn a_time_that_comes_twice_in_new_york_runs_the_first_time_only() {
    let daily = schedule(Recurrence::Daily, "2027-11-06T01:30", None, "America/New_York");
    let expected = [utc("2027-11-06T05:30:00Z"), utc("2027-11-07T05:30:00Z"), utc("2027-11-08T06:30:00Z")];
    assert_eq!(next(&daily, LONG_AGO, 3), expected);
    assert_eq!(next(&daily, "2027-11-07T05:30:00Z", 1), [utc("2027-11-08T06:30:00Z")]);
}

#[test]
fn the_end_is_inclusive() {
    let cases: [(&str, usize); 4] = [
        ("2026-12-03T10:00", 3),
        ("2026-12-03T09:59:59.999999999", 2),
        ("2026-12-03T23:59:59.999999999", 3),
        ("2026-12-01T10:00", 1),
    ];
    for (end, expected) in cases {
        let daily = schedule(Recurrence::Daily, "2026-12-01T10:00", Some(end), "Asia/Kolkata");
        assert_eq!(daily.occurrences_after(utc(LONG_AGO)).count(), expected, "{end}");
    }
    let daily = schedule(Recurrence::Daily, "2026-12-01T10:00", Some("2026-12-03T10:00"), "Asia/Kolkata");
    assert!(next(&daily, "2040-01-01T00:00:00Z", 1).is_empty());
    assert_eq!(daily.end_at(), Some(utc("2026-12-03T04:30:00Z")));
}

#[test]
fn a_far_instant_is_reached_from_an_old_start() {
    let cases = [
        (Recurrence::Daily, "2999-06-15T04:30:00Z", "2999-06-16T04:30:00Z"),
        (Recurrence::Weekly, "2999-06-15T04:30:00Z", "2999-06-22T04:30:00Z"),
        (Recurrence::Monthly, "2999-06-15T04:30:00Z", "2999-06-30T04:30:00Z"),
    ];
    for (recurrence, after, expected) in cases {
        let schedule = schedule(recurrence, "1970-01-31T10:00", None, "Asia/Kolkata");
        assert_eq!(next(&schedule, after, 1), [utc(expected)], "{recurrence:?}");
    }
}

#[test]
fn an_endless_schedule_is_bounded_and_no_instant_is_too_far() {
    let daily = schedule(Recurrence::Daily, "2026-12-01T10:00", None, "Asia/Kolkata");
    assert_eq!(daily.occurrences_after(utc(LONG_AGO)).count(), OCCURRENCES_MAX);
    assert_eq!(daily.occurrences_after(DateTime::<Utc>::MAX_UTC).next(), None);
    assert_eq!(daily.occurrences_after(DateTime::<Utc>::MIN_UTC).next(), Some(daily.first()));
    let near_the_last_year = daily.occurrences_after(utc("9999-12-20T00:00:00Z")).count();
    assert!((9..=12).contains(&near_the_last_year), "{near_the_last_year}");
}

#[test]
fn an_unknown_zone_is_refused_with_near_names() {
    let cases = [
        ("Asia/Kolkatta", Some("Asia/Kolkata")),
        ("Kolkata", Some("Asia/Kolkata")),
        ("asia/bombay", None),
        ("America/New York", Some("America/New_York")),
        ("Etc/Unknown", None),
        ("", None),
    ];
    for (zone, suggestion) in cases {
        let error = Schedule::try_new(Recurrence::Daily, local("2026-12-01T10:00"), None, zone).unwrap_err();
        let ScheduleError::UnknownZone(unknown) = &error else { panic!("{zone:?}: {error}") };
        assert!(unknown.near.len() <= 3);
        if let Some(suggestion) = suggestion {
            assert_eq!(unknown.near.first().map(String::as_str), Some(suggestion), "{zone:?}");
            assert!(error.to_string().contains(suggestion), "{error}");
        }
    }
}

#[test]
fn a_zone_is_kept_as_the_database_spells_it() {
    assert_eq!(schedule(Recurrence::Daily, "2026-12-01T10:00", None, "asia/kolkata").zone, "Asia/Kolkata");
}

#[test]
fn impossible_bounds_are_refused() {
    let refused = |start: &str, end: Option<&str>| {
        Schedule::try_new(Recurrence::Daily, local(start), end.map(local), "Asia/Kolkata").unwrap_err()
    };
    assert_eq!(refused("2026-12-01T10:00", Some("2026-12-01T09:59")), ScheduleError::EndBeforeStart);
    assert_eq!(refused("1969-12-31T10:00", None), ScheduleError::StartOutOfRange);
}

#[test]
fn a_stored_schedule_comes_back_the_same_and_is_checked() {
    for end in [None, Some("2027-01-01T10:00")] {
        let schedule = schedule(Recurrence::Monthly, "2026-12-01T10:00", end, "Asia/Kolkata");
        let stored = serde_json::to_value(&schedule).expect("it can be stored");
        assert_eq!(stored["recurrence"], "monthly");
        assert_eq!(serde_json::from_value::<Schedule>(stored.clone()).expect("it can be read"), schedule);
        let mut foreign = stored;
        foreign["zone"] = "Mars/Olympus".into();
        assert!(serde_json::from_value::<Schedule>(foreign).is_err());
    }
}

#[test]
fn dates_are_read_in_every_promised_form() {
    use DateRole::{End, Start};
    let cases = [
        ("2026-12-01", Start, "2026-12-01T00:00:00"),
        ("2026-12-01", End, "2026-12-01T23:59:59.999999999"),
        (" 2026-12-01 ", Start, "2026-12-01T00:00:00"),
        ("2026-12-01T10:00", Start, "2026-12-01T10:00:00"),
        ("2026-12-01T10:00", End, "2026-12-01T10:00:00"),
        ("2026-12-01T10:00:30", Start, "2026-12-01T10:00:30"),
        ("2026-12-01 10:00", Start, "2026-12-01T10:00:00"),
        ("2026-12-01 10:00:30.25", Start, "2026-12-01T10:00:30.25"),
        ("2026-12-01T04:30:00Z", Start, "2026-12-01T10:00:00"),
        ("2026-12-01t04:30:00z", Start, "2026-12-01T10:00:00"),
        ("2026-12-01T04:30Z", Start, "2026-12-01T10:00:00"),
        ("2026-12-01T10:00:00+05:30", Start, "2026-12-01T10:00:00"),
        ("2026-12-01 23:00:00-05:00", End, "2026-12-02T09:30:00"),
        ("2026-12-01T04:30:00.123Z", Start, "2026-12-01T10:00:00.123"),
        ("2028-02-29", Start, "2028-02-29T00:00:00"),
    ];
    for (text, role, expected) in cases {
        assert_eq!(LocalTime::parse(text, "Asia/Kolkata", role), Ok(LocalTime(local(expected))), "{text:?}");
    }
}

#[test]
fn other_dates_are_refused_with_the_accepted_forms() {
    let unreadable = [
        "",
        "tomorrow",
        "01-12-2026",
        "1/12/2026",
        "2026/12/01",
        "20261201",
        "2026-12-1",
        "2026-12",
        "2026-12-01T",
        "2026-12-01T10",
        "2026-12-01T1000",
        "2026-12-01T10:00+0530",
        "2026-12-01T10:00:00+05",
        "2026-12-01T10:00:00 +05:30",
        "2026-12-01T10:00:00[Asia/Kolkata]",
        "2026-12-01  10:00",
        "2026-12-01T10:00.5",
        "2026-12-01T10:00:00.",
        "1764563400",
        "२०२६-१२-०१",
        "2026-12-01é10:00",
        "2026-12-01T10:00:00+é5:30",
        "+002026-12-01",
    ];
    for text in unreadable {
        let error = LocalTime::parse(text, "Asia/Kolkata", DateRole::Start).unwrap_err();
        assert_eq!(error, LocalTimeError::Unreadable, "{text:?}");
        assert!(error.to_string().contains("2026-12-01T10:00:00+05:30"));
    }
    let impossible =
        ["2027-02-29", "2026-13-01", "2026-00-10", "2026-12-01T24:00", "2026-12-01T10:60", "2026-12-01T10:00:00+99:00"];
    for text in impossible {
        let error = LocalTime::parse(text, "Asia/Kolkata", DateRole::Start).unwrap_err();
        assert_eq!(error, LocalTimeError::NoSuchTime, "{text:?}");
    }
    let error = LocalTime::parse("2026-12-01", "Asia/Kolkatta", DateRole::Start).unwrap_err();
    assert!(matches!(error, LocalTimeError::UnknownZone(_)));
}

#[test]
fn a_date_only_end_includes_that_day_and_the_day_of_the_start() {
    let end = LocalTime::parse("2026-12-03", "Asia/Kolkata", DateRole::End).expect("a date").0;
    let start = local("2026-12-03T23:59:59");
    let daily = Schedule::try_new(Recurrence::Daily, start, Some(end), "Asia/Kolkata").expect("a valid schedule");
    assert_eq!(daily.occurrences_after(utc(LONG_AGO)).count(), 1);
}

proptest! {
    #[test]
    fn jumping_ahead_finds_what_counting_from_the_start_finds(
        recurrence in prop::sample::select(vec![Recurrence::Once, Recurrence::Daily, Recurrence::Weekly, Recurrence::Monthly]),
        zone in prop::sample::select(vec!["Asia/Kolkata", "America/New_York", "Pacific/Apia", "Australia/Lord_Howe"]),
        start_minutes in 0_i64..20 * 365 * 24 * 60,
        after_minutes in -1000_i64..3 * 365 * 24 * 60,
    ) {
        let start = local("2008-01-01T00:00").checked_add(Span::new().minutes(start_minutes)).expect("within range");
        let schedule = Schedule::try_new(recurrence, start, None, zone).expect("a valid schedule");
        let first = schedule.first();
        let after = first.at + TimeDelta::minutes(after_minutes);
        let counted = std::iter::once(first).chain(schedule.occurrences_after(first.at)).find(|o| o.at > after);
        prop_assert_eq!(schedule.occurrences_after(after).next(), counted);
    }
}
