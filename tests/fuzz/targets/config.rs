use std::cell::RefCell;

use api::config::{Config, ConfigError, DEFAULTS, FILE_NAME, load};
use tempfile::TempDir;

use super::promise;
use crate::seeds;

pub(super) fn file_seeds() -> Vec<Vec<u8>> {
    let mut seeds = seeds::texts(&[
        "",
        "[http]\nbody_max_bytes = 65536\n",
        "[dispatch]\nconcurrency_max = 12\n\n[consent]\nstop_words = \"Stop, रुको\"\n",
        "[log]\nformat = \"json\"\n[http]\nlist_limit_default = 7\nlist_limit_max = 8\n",
        "http = 1\n",
        "[dispach]\nrate = 1\n",
    ]);
    // A section of the defaults each, for the whole of them would only ever fail in one place.
    seeds.extend(DEFAULTS.split("\n[").skip(1).map(|section| format!("[{section}\n").into_bytes()));
    seeds
}

/// A variable on each line.
pub(super) fn environment_seeds() -> Vec<Vec<u8>> {
    let all = Config::default();
    let line = |setting: &api::config::Setting| {
        let value = setting.value.as_str().map_or_else(|| setting.value.to_string(), str::to_owned);
        format!("EKTOLA_{}={value}\n", setting.key.replace('.', "__").to_uppercase())
    };
    let lines: Vec<String> = all.effective().iter().map(line).collect();
    lines.chunks(4).map(|lines| lines.concat().into_bytes()).collect()
}

thread_local! {
    static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) };
}

pub(super) fn check_file(file: &[u8]) -> Result<String, String> {
    let loaded = FOLDER.with_borrow_mut(|folder| -> std::io::Result<_> {
        let folder = match folder {
            Some(folder) => folder,
            None => folder.insert(tempfile::tempdir()?),
        };
        std::fs::write(folder.path().join(FILE_NAME), file)?;
        Ok(load(Some(folder.path()), std::iter::empty()))
    });
    check(loaded.map_err(|error| format!("the fuzzer's own file cannot be written: {error}"))?)
}

pub(super) fn check_environment(variables: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(variables);
    let variable = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    check(load(None, text.lines().filter_map(variable)))
}

fn check(loaded: Result<Config, ConfigError>) -> Result<String, String> {
    match loaded {
        Ok(config) => {
            promise(!config.effective().is_empty(), "a configuration without keys")?;
            promise(config.consent.keywords().is_ok(), "words that contradict each other are taken")?;
            Ok("taken".to_owned())
        }
        Err(ConfigError::BadValue { key, .. }) => {
            promise(!key.is_empty(), "a bad value without its key")?;
            Ok(format!("bad value of {key}"))
        }
        Err(ConfigError::UnknownKey { place, .. }) => {
            promise(!place.is_empty(), "an unknown key without its place")?;
            Ok("unknown key".to_owned())
        }
        Err(ConfigError::Syntax { .. }) => Ok("no TOML".to_owned()),
        Err(ConfigError::Unreadable { .. }) => Ok("no text".to_owned()),
        Err(ConfigError::Words(fault)) => Ok(format!("words {:?}", std::mem::discriminant(&fault))),
    }
}
