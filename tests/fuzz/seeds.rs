//! What the inputs are made from.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// One input that is right, in the two parts that are changed in different ways.
#[derive(Clone)]
pub(crate) struct Seed {
    /// Before the JSON: the head of an HTTP answer. All of it, where there is no JSON.
    pub(crate) head: Vec<u8>,
    pub(crate) json: Option<Value>,
    json_bytes: Vec<u8>,
}

impl Seed {
    /// JSON after an empty line is the body of an HTTP answer.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let start = bytes.windows(2).position(|pair| pair == b"\n\n").map_or(0, |place| place + 2);
        for start in [0, start] {
            if let Ok(json) = serde_json::from_slice(&bytes[start..]) {
                return Self { head: bytes[..start].to_vec(), json: Some(json), json_bytes: bytes[start..].to_vec() };
            }
        }
        Self { head: bytes, json: None, json_bytes: Vec::new() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        [self.head.as_slice(), &self.json_bytes].concat()
    }
}

pub(crate) fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The files of a folder of `tests/data`, without their expectations.
pub(crate) fn files(folder: &str, expectation: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data").join(folder);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.retain(|path| !path.to_string_lossy().ends_with(expectation));
    // A folder has no order of its own, and the same seed must give the same run.
    paths.sort();
    let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    paths.into_iter().map(read).collect()
}
