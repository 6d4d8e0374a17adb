//! `docs/events.md` describes every event as the code does: this writes it from the sources and the golden files, and
//! fails when the committed one differs. `make catalogue` writes it anew.

#![expect(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use quote::ToTokens as _;
use syn::{Attribute, Expr, Fields, Item, ItemEnum, Lit, Meta};

/// The aggregate as it is stored, the enum of its events, and their source.
const AGGREGATES: [(&str, &str, &str); 4] = [
    ("Campaign", "CampaignEvent", "domain/src/campaign/events.rs"),
    ("CampaignRun", "CampaignRunEvent", "domain/src/campaign_run/events.rs"),
    ("Message", "MessageEvent", "domain/src/message/events.rs"),
    ("Consent", "ConsentEvent", "domain/src/consent/events.rs"),
];
const WRITE: &str = "EKTOLA_TEST_WRITE_CATALOGUE";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The text of `///`, on one line.
fn doc_of(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect::<Vec<_>>().join(" ")
}

/// The name under which serde stores a variant.
fn stored_name(attributes: &[Attribute]) -> Option<String> {
    attributes.iter().find(|attribute| attribute.path().is_ident("serde")).and_then(|attribute| {
        let mut name = None;
        let _ = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("rename") {
                name = Some(meta.value()?.parse::<syn::LitStr>()?.value());
            }
            Ok(())
        });
        name
    })
}

fn events_of(source: &str, name: &str) -> ItemEnum {
    let file = syn::parse_file(&std::fs::read_to_string(root().join(source)).unwrap()).unwrap();
    file.items
        .into_iter()
        .find_map(|item| match item {
            Item::Enum(found) if found.ident == name => Some(found),
            _ => None,
        })
        .unwrap_or_else(|| panic!("{source} has no enum {name}"))
}

fn catalogue() -> String {
    let mut text = String::from(
        "# Events\n\nEvery event of the log, as the code describes it; written by `make catalogue` from the sources and from the \
         golden\nfiles in `domain/tests/golden`. A payload is an object with one field, the event's name, around the fields below.\n\
         Beside it lie `tenant_id`, `at` (the engine's time), `actor` and, for a reaction of the engine, `cause` (a position)\n\
         in the metadata.\n",
    );
    for (aggregate, name, source) in AGGREGATES {
        let events = events_of(source, name);
        write!(text, "\n## {aggregate}\n").unwrap();
        let about = doc_of(&events.attrs);
        if !about.is_empty() {
            write!(text, "\n{about}\n").unwrap();
        }
        for (stored, version) in domain::event::Event::stored_versions(aggregate).unwrap() {
            let variant = events.variants.iter().find(|variant| stored_name(&variant.attrs).as_deref() == Some(stored));
            let variant = variant.unwrap_or_else(|| panic!("{source} stores no {stored}"));
            write!(text, "\n### {stored}, version {version}\n").unwrap();
            let about = doc_of(&variant.attrs);
            if !about.is_empty() {
                write!(text, "\n{about}\n").unwrap();
            }
            if let Fields::Named(fields) = &variant.fields {
                text.push_str("\n| field | type | meaning |\n|---|---|---|\n");
                for field in &fields.named {
                    let kind = field.ty.to_token_stream().to_string().replace(' ', "");
                    let name = field.ident.as_ref().unwrap();
                    writeln!(text, "| `{name}` | `{kind}` | {} |", doc_of(&field.attrs)).unwrap();
                }
            }
            let golden = root().join(format!("domain/tests/golden/{stored}.v{version}.json"));
            let example =
                std::fs::read_to_string(&golden).unwrap_or_else(|error| panic!("{}: {error}", golden.display()));
            let example: serde_json::Value = serde_json::from_str(&example).unwrap();
            write!(text, "\n```json\n{}\n```\n", serde_json::to_string_pretty(&example).unwrap()).unwrap();
        }
    }
    text
}

#[test]
fn the_catalogue_of_events_is_that_of_the_code() {
    let path = root().join("docs/events.md");
    let text = catalogue();
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&path, text).unwrap();
        return;
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/events.md is not what the code says; run `make catalogue` and commit it");
}
