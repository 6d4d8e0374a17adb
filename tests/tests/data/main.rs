//! Payloads in WhatsApp's documented shapes, with invented data, and what is made of each: `tests/data`.
//!
//! One file for each shape, and its expectation beside it, written from the documentation. The lists of shapes are closed: a
//! shape without a file, a file without an expectation and a file that no list names all fail. The same files are what
//! `make fuzz` starts from.

mod answers;
mod catalog;
mod contacts;
mod requests;
mod shapes;
mod webhooks;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

struct Case {
    name: String,
    path: PathBuf,
    payload: Vec<u8>,
    expected: Value,
}

/// The files of a folder with their expectations, which end in `.EXPECTATION.json`.
fn cases(folder: &str, expectation: &str, shapes: &[&str]) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder);
    let ending = format!(".{expectation}.json");
    let mut payloads = BTreeMap::new();
    let mut expectations = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a readable folder").path();
        let file = path.file_name().and_then(|name| name.to_str()).expect("a name of letters").to_owned();
        match file.strip_suffix(&ending) {
            Some(name) => drop(expectations.insert(name.to_owned(), path)),
            None => {
                let name = file.split('.').next().expect("a name").to_owned();
                let twice = payloads.insert(name, path);
                assert!(twice.is_none(), "two payloads have the name of {file}");
            }
        }
    }
    let mut named: Vec<&str> = shapes.to_vec();
    named.sort_unstable();
    assert_eq!(payloads.keys().map(String::as_str).collect::<Vec<_>>(), named, "the files are not those of the list");
    assert_eq!(
        payloads.keys().collect::<Vec<_>>(),
        expectations.keys().collect::<Vec<_>>(),
        "a file lacks its expectation, or the other way round"
    );
    let read = |path: &Path| std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    payloads
        .into_iter()
        .zip(expectations.into_values())
        .map(|((name, path), expectation)| {
            let expected = serde_json::from_slice(&read(&expectation));
            let expected = expected.unwrap_or_else(|error| panic!("{}: {error}", expectation.display()));
            Case { name, payload: read(&path), path, expected }
        })
        .collect()
}

/// All differences at once.
fn compare(found: impl IntoIterator<Item = (Case, Value)>) {
    let mut differences = String::new();
    for (case, found) in found {
        if found != case.expected {
            differences.push_str(&format!("{}:\n  found    {found}\n  expected {}\n", case.name, case.expected));
        }
    }
    assert!(differences.is_empty(), "{differences}");
}

/// A JSON object without what is null or empty.
fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let says_something = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    };
    let fields = fields.into_iter().filter(|(_, value)| says_something(value));
    Value::Object(fields.map(|(name, value)| (name.to_owned(), value)).collect())
}
