//! Events are kept for ever, so every payload that any release has stored must still be read, and be written again as
//! it was. Each file holds one payload: `<event type>.v<version>[.<case>].json`. A file is never edited: when the shape
//! of an event changes, its version does, and a file is added.

use std::collections::BTreeSet;
use std::path::Path;

use cqrs_es::{Aggregate, DomainEvent};
use domain::campaign::{Campaign, CampaignEvent};
use domain::campaign_run::{CampaignRun, CampaignRunEvent};
use domain::consent::{Consent, ConsentEvent};
use domain::event::{DecodeError, Event, UPCASTERS};
use domain::message::{Message, MessageEvent};
use serde_json::Value;

const AGGREGATES: [(&str, &[&str]); 4] = [
    (Campaign::TYPE, CampaignEvent::STORED_NAMES),
    (CampaignRun::TYPE, CampaignRunEvent::STORED_NAMES),
    (Message::TYPE, MessageEvent::STORED_NAMES),
    (Consent::TYPE, ConsentEvent::STORED_NAMES),
];

struct Golden {
    file: String,
    event_type: String,
    version: String,
    payload: Value,
}

fn golden_files() -> Vec<Golden> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let entries = std::fs::read_dir(folder).expect("the folder of golden files");
    entries
        .map(|entry| {
            let path = entry.expect("a readable folder").path();
            let file = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
            let mut parts = file.split('.');
            let event_type = parts.next().expect("an event type").to_owned();
            let version = parts.next().and_then(|part| part.strip_prefix('v')).expect("a version").to_owned();
            let text = std::fs::read_to_string(&path).expect("a readable file");
            let payload = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
            Golden { file, event_type, version, payload }
        })
        .collect()
}

fn aggregate_of(event_type: &str) -> Option<&'static str> {
    let (aggregate, _) = AGGREGATES.into_iter().find(|(_, names)| names.contains(&event_type))?;
    Some(aggregate)
}

/// The stored name, version and payload of an event.
fn stored(event: &Event) -> (String, String, Value) {
    fn of<E: DomainEvent>(event: &E) -> (String, String, Value) {
        (event.event_type(), event.event_version(), serde_json::to_value(event).expect("an event is JSON"))
    }
    match event {
        Event::Campaign(event) => of(event),
        Event::CampaignRun(event) => of(event),
        Event::Message(event) => of(event),
        Event::Consent(event) => of(event),
    }
}

#[test]
fn every_payload_is_read_and_written_again_as_it_was() {
    for Golden { file, event_type, version, payload } in golden_files() {
        let aggregate = aggregate_of(&event_type).unwrap_or_else(|| panic!("{file} is of no known event"));
        let event = Event::decode(aggregate, &event_type, &version, &payload.to_string())
            .unwrap_or_else(|error| panic!("{file}: {error:?}"));
        let (name, present, written) = stored(&event);
        assert_eq!(name, event_type, "{file}");
        // An older version is brought to the present one as it is read.
        if version == present {
            assert_eq!(written, payload, "{file}");
        }
    }
}

#[test]
fn every_event_has_a_golden_file() {
    let files: BTreeSet<(String, String)> =
        golden_files().into_iter().map(|golden| (golden.event_type, golden.version)).collect();
    let present = [
        CampaignEvent::STORED_VERSIONS,
        CampaignRunEvent::STORED_VERSIONS,
        MessageEvent::STORED_VERSIONS,
        ConsentEvent::STORED_VERSIONS,
    ];
    for (name, version) in present.into_iter().flatten() {
        let there = files.contains(&((*name).to_owned(), (*version).to_owned()));
        assert!(there, "version {version} of the event {name} has no golden file");
    }
    // What a step starts from was stored once, and so was every version between it and the present one.
    for step in UPCASTERS {
        let there = files.contains(&(step.event_type.to_owned(), step.from.to_owned()));
        assert!(there, "version {} of the event {} has no golden file", step.from, step.event_type);
    }
}

#[test]
fn a_stored_name_belongs_to_one_event() {
    let names: Vec<&str> = AGGREGATES.iter().flat_map(|(_, names)| names.iter().copied()).collect();
    for name in &names {
        assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
    }
}

#[test]
fn what_this_release_does_not_know_is_an_error() {
    let payload = r#"{"CampaignPaused": {"at": "2026-12-01T04:30:00Z"}}"#;
    assert!(Event::decode("Campaign", "CampaignPaused", "1", payload).is_ok());
    assert!(matches!(
        Event::decode("Campaign", "CampaignPaused", "2", payload),
        Err(DecodeError::UnknownVersion { version, .. }) if version == "2"
    ));
    assert!(matches!(
        Event::decode("Kampaign", "CampaignPaused", "1", payload),
        Err(DecodeError::UnknownAggregate(aggregate)) if aggregate == "Kampaign"
    ));
    assert!(matches!(
        Event::decode("Message", "CampaignPaused", "1", payload),
        Err(DecodeError::UnknownType { event_type, .. }) if event_type == "CampaignPaused"
    ));
}
