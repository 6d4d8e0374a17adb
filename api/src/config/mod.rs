//! Layered configuration: the compiled-in defaults, then `DIR/ektola.toml`, then the environment.
//!
//! `defaults.toml` is the documentation. Every layer is checked key by key against one table before anything is built
//! from it, so that an error names the place where the wrong value stands, and a misspelt key is never silently
//! without effect. No secret is a key: `effective` may be printed.

mod keys;
mod sections;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use infrastructure::clock::Clock;
use infrastructure::templates::TemplateSync;
use infrastructure::whatsapp::catalog::CatalogClient;
use infrastructure::whatsapp::{ClientConfig, ClientError};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use toml::{Table, Value};

use self::keys::{KEYS, Key, RELATIONS};
pub use self::sections::{
    AuditConfig, ConsentConfig, DatabaseConfig, DispatchConfig, ErasureConfig, EventsConfig, FanOutConfig,
    FeederConfig, HttpConfig, LogConfig, LogFormat, MessagesConfig, RetriesConfig, SandboxConfig, SchedulerConfig,
    TemplatesConfig, UnknownConfig, WebhooksConfig,
};

/// The documented defaults.
pub const DEFAULTS: &str = include_str!("defaults.toml");

/// The name of the file in the data folder.
pub const FILE_NAME: &str = "ektola.toml";

/// Variables of the tests, which are no configuration.
const TEST_VARIABLES: &str = "EKTOLA_TEST_";

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub events: EventsConfig,
    pub messages: MessagesConfig,
    pub scheduler: SchedulerConfig,
    pub fan_out: FanOutConfig,
    pub feeder: FeederConfig,
    pub dispatch: DispatchConfig,
    pub retries: RetriesConfig,
    pub unknown: UnknownConfig,
    pub templates: TemplatesConfig,
    pub webhooks: WebhooksConfig,
    pub consent: ConsentConfig,
    pub sandbox: SandboxConfig,
    pub erasure: ErasureConfig,
    pub audit: AuditConfig,
    pub log: LogConfig,
    #[serde(skip)]
    effective: Vec<Setting>,
}

impl Config {
    /// How Meta is called, for sending and for reading.
    pub fn client(&self) -> ClientConfig {
        ClientConfig {
            connect_timeout: self.dispatch.connect_timeout(),
            call_timeout: self.dispatch.call_timeout(),
            api_version: self.dispatch.api_version.clone(),
            retries: self.retries.ladder(),
            pool_idle_connections_max: self.dispatch.concurrency_max,
            ..ClientConfig::default()
        }
    }

    /// Reads templates from Meta.
    pub fn template_sync(
        &self,
        pool: PgPool,
        clock: Clock,
        base_url_allowed: bool,
    ) -> Result<TemplateSync, ClientError> {
        let client = CatalogClient::try_new(self.templates.catalog(self.client()))?;
        Ok(TemplateSync { pool, clock, client, config: self.templates.sync(base_url_allowed) })
    }
}

/// One key with the value that holds and the place it comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Setting {
    /// `section.key`.
    pub key: String,
    pub value: Value,
    pub source: Source,
}

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Default,
    File(PathBuf),
    /// The name of the variable.
    Environment(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => path.display().fmt(f),
            Self::Environment(variable) => f.write_str(variable),
        }
    }
}

impl Serialize for Source {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file exists and cannot be read.
    #[error("cannot read {path}", path = path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not valid TOML", path = path.display())]
    Syntax {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    /// A key that does not exist. `place` is `file:key` or the variable; `nearest` is written in the same form.
    #[error("unknown configuration key {place}; the nearest known one is {nearest}")]
    UnknownKey { place: String, nearest: String },
    /// Two lists of words contradict each other.
    #[error("the words of consent.opt_out_words, consent.stop_words and consent.start_words contradict each other")]
    Words(#[source] domain::consent::KeywordFault),
    /// A value of the wrong type or outside its range.
    #[error("{key} is {value} (from {from}), expected {expected}")]
    BadValue { key: String, value: Value, from: Source, expected: String },
}

impl Config {
    /// Every key with its value and source, in the order of `defaults.toml`.
    pub fn effective(&self) -> &[Setting] {
        &self.effective
    }
}

impl Default for Config {
    fn default() -> Self {
        load(None, std::iter::empty()).expect("the compiled-in defaults are valid; a test loads them")
    }
}

/// Reads all layers. Without a data folder there is no file; a file that does not exist is an empty one.
pub fn load(data_dir: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let defaults: Table = DEFAULTS.parse().expect("the compiled-in defaults are TOML; a test parses them");
    let mut settings = Settings::from_defaults(&defaults);
    if let Some(path) = data_dir.map(|dir| dir.join(FILE_NAME)) {
        settings.apply_file(&path)?;
    }
    settings.apply_environment(env)?;
    settings.check_relations()?;
    let config = settings.into_config();
    config.consent.keywords().map_err(ConfigError::Words)?;
    Ok(config)
}

/// The settings in the order of the key table, while the layers are laid over each other.
struct Settings(Vec<Setting>);

impl Settings {
    fn from_defaults(defaults: &Table) -> Self {
        let setting = |key: &Key| Setting {
            key: key.dotted(),
            value: defaults
                .get(key.section)
                .and_then(|section| section.get(key.name))
                .expect("every key has a default; a test compares them")
                .clone(),
            source: Source::Default,
        };
        Self(KEYS.iter().map(setting).collect())
    }

    fn apply_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConfigError::Unreadable { path: path.to_owned(), source }),
        };
        let file: Table = text.parse().map_err(|source| ConfigError::Syntax { path: path.to_owned(), source })?;
        for (section, content) in file {
            let known = KEYS.iter().any(|key| key.section == section);
            match content {
                Value::Table(entries) if known => {
                    for (name, value) in entries {
                        self.apply_file_entry(path, &section, &name, value)?;
                    }
                }
                Value::Table(_) => return Err(unknown_section(path, &section)),
                value if known => {
                    return Err(ConfigError::BadValue {
                        key: section,
                        value,
                        from: Source::File(path.to_owned()),
                        expected: "a section with keys of its own".to_owned(),
                    });
                }
                _ => return Err(unknown_in_file(path, &section, "", &section)),
            }
        }
        Ok(())
    }

    fn apply_file_entry(&mut self, path: &Path, section: &str, name: &str, value: Value) -> Result<(), ConfigError> {
        let found = KEYS.iter().position(|key| key.section == section && key.name == name);
        let index = found.ok_or_else(|| unknown_in_file(path, &format!("{section}.{name}"), section, name))?;
        self.set(index, value, Source::File(path.to_owned()))
    }

    fn apply_environment(&mut self, env: impl Iterator<Item = (String, String)>) -> Result<(), ConfigError> {
        let mut variables: Vec<_> = env
            .filter(|(variable, _)| variable.starts_with("EKTOLA_") && !variable.starts_with(TEST_VARIABLES))
            .collect();
        // The order of an environment is arbitrary; the first error should not be.
        variables.sort();
        for (variable, text) in variables {
            if let Some((index, key)) = KEYS.iter().enumerate().find(|(_, key)| key.variable() == variable) {
                self.set(index, key.read(text), Source::Environment(variable))?;
            } else if is_meant_as_key(&variable) {
                return Err(unknown_in_environment(variable));
            }
        }
        Ok(())
    }

    fn set(&mut self, index: usize, value: Value, source: Source) -> Result<(), ConfigError> {
        let key = &KEYS[index];
        if !key.accepts(&value) {
            return Err(ConfigError::BadValue { key: key.dotted(), value, from: source, expected: key.expected() });
        }
        let setting = &mut self.0[index];
        setting.value = value;
        setting.source = source;
        Ok(())
    }

    /// Blames the key that is not a default, for a default cannot be what somebody got wrong.
    fn check_relations(&self) -> Result<(), ConfigError> {
        for relation in RELATIONS {
            let (key, other) = (self.integer(relation.key), self.integer(relation.other));
            if !(relation.holds)(key.1, other.1) {
                let from = if key.0.source == Source::Default { &other.0.source } else { &key.0.source };
                return Err(ConfigError::BadValue {
                    key: relation.key.to_owned(),
                    value: key.0.value.clone(),
                    from: from.clone(),
                    expected: format!("{} {}, which is {}", relation.words, relation.other, other.1),
                });
            }
        }
        Ok(())
    }

    fn integer(&self, key: &str) -> (&Setting, i64) {
        let setting = self.0.iter().find(|setting| setting.key == key).expect("a relation names known keys");
        (setting, setting.value.as_integer().expect("a relation names keys of numbers"))
    }

    fn into_config(self) -> Config {
        let mut sections = Table::new();
        for (key, setting) in KEYS.iter().zip(&self.0) {
            let section = sections.entry(key.section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(key.name.to_owned(), setting.value.clone());
            }
        }
        let config: Config =
            sections.try_into().expect("checked values fit the structs; a test tries both ends of all");
        Config { effective: self.0, ..config }
    }
}

/// With two underscores it can only be meant as a key. With one it is something else, unless just the second
/// underscore is missing.
fn is_meant_as_key(variable: &str) -> bool {
    variable.contains("__") || KEYS.iter().any(|key| key.variable().replace("__", "_") == variable)
}

fn unknown_section(path: &Path, section: &str) -> ConfigError {
    ConfigError::UnknownKey {
        place: format!("{}:[{section}]", path.display()),
        nearest: keys::nearest_section(section).map_or_else(String::new, |nearest| format!("[{nearest}]")),
    }
}

fn unknown_in_file(path: &Path, shown: &str, section: &str, name: &str) -> ConfigError {
    ConfigError::UnknownKey {
        place: format!("{}:{shown}", path.display()),
        nearest: keys::nearest(section, name).map_or_else(String::new, Key::dotted),
    }
}

fn unknown_in_environment(variable: String) -> ConfigError {
    let nearest =
        KEYS.iter().map(Key::variable).find(|known| known.replace("__", "_") == variable).unwrap_or_else(|| {
            let rest = variable.trim_start_matches("EKTOLA_").to_ascii_lowercase();
            let (section, name) = rest.split_once("__").unwrap_or(("", &rest));
            keys::nearest(section, name).map_or_else(String::new, Key::variable)
        });
    ConfigError::UnknownKey { place: variable, nearest }
}
