//! What a part found: rows of the table, and everything as JSON nested by the dots of the keys.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Map, Value, json};

/// A bound that the engine is meant to keep.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) key: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Something real of the same run.
    pub(crate) compared_with: String,
    pub(crate) target: Option<Target>,
}

impl Row {
    pub(crate) fn met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.value))
    }
}

/// What one part found.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rows: Vec<Row>,
    facts: Vec<(String, Value)>,
}

impl Figures {
    /// A figure for the table and the report.
    pub(crate) fn row(
        &mut self,
        key: impl Into<String>,
        value: f64,
        unit: &'static str,
        compared_with: impl Into<String>,
        target: Option<Target>,
    ) {
        self.rows.push(Row { key: key.into(), value, unit, compared_with: compared_with.into(), target });
    }

    /// Something for the report alone.
    pub(crate) fn fact(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        self.facts.push((key.into(), value.into()));
    }

    /// All figures and facts below the first word of their keys.
    fn to_part(&self, part: &str) -> Result<Map<String, Value>> {
        let mut all = json!({part: {}});
        let found = all.as_object_mut().context("an object was made")?;
        for row in &self.rows {
            insert(found, &row.key, json!(row.value))?;
        }
        for (key, value) in &self.facts {
            insert(found, key, value.clone())?;
        }
        ensure!(found.len() == 1, "{part} has keys of another part: {:?}", found.keys());
        tidy(&mut all);
        match all[part].take() {
            Value::Object(below) => Ok(below),
            other => bail!("{part} is {other} and holds no figures"),
        }
    }
}

fn insert(into: &mut Map<String, Value>, key: &str, value: Value) -> Result<()> {
    match key.split_once('.') {
        None => ensure!(into.insert(key.to_owned(), value).is_none(), "{key} is there twice"),
        Some((first, rest)) => {
            let below = into.entry(first).or_insert_with(|| json!({}));
            let below = below.as_object_mut().with_context(|| format!("{first} is a figure and holds others"))?;
            insert(below, rest, value)?;
        }
    }
    Ok(())
}

/// Digits that mean nothing are not shown.
fn tidy(value: &mut Value) {
    match value {
        Value::Number(number) if number.is_f64() => {
            *value = json!(rounded(number.as_f64().unwrap_or_default()));
        }
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(fields) => fields.values_mut().for_each(tidy),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// The file that holds the parts.
pub(crate) struct Report {
    path: PathBuf,
}

impl Report {
    /// In the checkout, wherever cargo builds. Figures of a trial are kept apart from real ones.
    pub(crate) fn of(root: &Path, is_trial: bool) -> Self {
        let name = if is_trial { "trial.json" } else { "report.json" };
        Self { path: root.join("target/bench").join(name) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Replaces one part; the others stay as they are. Figures of an earlier run must not look like those of a run that
    /// failed.
    pub(crate) fn store(
        &self,
        part: &str,
        figures: &Figures,
        about: Value,
        failed: Option<&anyhow::Error>,
    ) -> Result<()> {
        let mut found = figures.to_part(part)?;
        found.insert("about".to_owned(), about);
        if let Some(error) = failed {
            found.insert("failed".to_owned(), format!("{error:#}").into());
        }
        self.replace(part, found.into())
    }

    fn replace(&self, part: &str, value: Value) -> Result<()> {
        let mut all: Map<String, Value> = match fs::read(&self.path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{} is broken", self.path.display()))?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Map::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", self.path.display())),
        };
        all.insert(part.to_owned(), value);
        let folder = self.path.parent().context("the report lies in a folder")?;
        fs::create_dir_all(folder)?;
        // Beside it first, so that an end in the middle leaves the old one whole.
        let beside = self.path.with_extension("json.new");
        fs::write(&beside, serde_json::to_string_pretty(&all)? + "\n")?;
        fs::rename(&beside, &self.path).with_context(|| format!("cannot write {}", self.path.display()))
    }
}
