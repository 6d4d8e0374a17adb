//! `servers prepare`: describes every checked query against a migrated database, as the committed `.sqlx`.
//!
//! The macros write their descriptions while the compiler expands them, so everything that holds a query is compiled
//! afresh, in a target folder of its own: the usual one keeps what it has built.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use test_kit::postgres::TestDatabase;
use tokio::process::Command;

use super::{Servers, say};

const MEMBERS: [&str; 5] = ["domain", "infrastructure", "projections", "api", "tests"];
const TARGET_FOLDER: &str = "target/sqlx";

/// The descriptions by file name.
type Descriptions = BTreeMap<String, String>;

pub(super) async fn prepare() -> Result<ExitCode> {
    let described = describe().await?;
    let folder = committed_folder()?;
    fs::create_dir_all(&folder)?;
    let before = read(&folder)?;
    for stale in before.keys().filter(|name| !described.contains_key(*name)) {
        fs::remove_file(folder.join(stale))?;
    }
    for (name, text) in &described {
        if before.get(name) != Some(text) {
            fs::write(folder.join(name), text)?;
        }
    }
    say(&format!("{} queries described in .sqlx", described.len()));
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn check() -> Result<ExitCode> {
    let described = describe().await?;
    let folder = committed_folder()?;
    let committed = if folder.is_dir() { read(&folder)? } else { Descriptions::new() };
    let mut differences = Vec::new();
    for (name, text) in &described {
        match committed.get(name) {
            None => differences.push(format!("missing {name}: {}", query_of(text))),
            Some(other) if other != text => differences.push(format!("changed {name}: {}", query_of(text))),
            Some(_) => {}
        }
    }
    let stale = committed.iter().filter(|(name, _)| !described.contains_key(*name));
    differences.extend(stale.map(|(name, text)| format!("stale {name}: {}", query_of(text))));
    if differences.is_empty() {
        say(&format!("{} queries agree with .sqlx", described.len()));
        return Ok(ExitCode::SUCCESS);
    }
    differences.iter().for_each(|difference| say(difference));
    say("run `make prepare` and commit .sqlx");
    Ok(ExitCode::FAILURE)
}

async fn describe() -> Result<Descriptions> {
    let mut servers = Servers::new()?;
    let described = describe_with(&mut servers).await;
    servers.destroy().await?;
    described
}

async fn describe_with(servers: &mut Servers) -> Result<Descriptions> {
    let maintenance = servers.postgres().await?;
    let database = TestDatabase::create_on(&maintenance).await;
    // What writes a read model names its tables without their schema.
    database.set_search_path("public, read_model").await;
    let descriptions = tempfile::tempdir()?;
    let mut clean = cargo("clean")?;
    for member in MEMBERS {
        clean.args(["--package", member]);
    }
    succeed(clean.arg("--quiet")).await?;
    let mut check = cargo("check")?;
    check.args(["--workspace", "--all-targets", "--quiet"]);
    check.env("SQLX_OFFLINE", "false").env("DATABASE_URL", &database.url).env("SQLX_OFFLINE_DIR", descriptions.path());
    let checked = succeed(&mut check).await;
    database.close().await;
    checked?;
    read(descriptions.path())
}

fn cargo(verb: &str) -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(verb).args(["--target-dir", TARGET_FOLDER]).current_dir(workspace()?);
    Ok(command)
}

async fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().await.context("cannot run cargo")?;
    ensure!(status.success(), "cargo failed ({status})");
    Ok(())
}

/// Where `make` runs.
fn workspace() -> Result<PathBuf> {
    let folder = std::env::current_dir()?;
    ensure!(folder.join("migrations").is_dir(), "run it in the root of the checkout");
    Ok(folder)
}

fn committed_folder() -> Result<PathBuf> {
    Ok(workspace()?.join(".sqlx"))
}

fn read(folder: &Path) -> Result<Descriptions> {
    let mut found = Descriptions::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("query-") {
            found.insert(name, fs::read_to_string(entry.path())?);
        }
    }
    Ok(found)
}

/// The beginning of the statement, on one line.
fn query_of(description: &str) -> String {
    const SHOWN_CHARACTERS_MAX: usize = 100;
    let parsed: serde_json::Value = serde_json::from_str(description).unwrap_or_default();
    let query = parsed["query"].as_str().unwrap_or_default();
    query.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(SHOWN_CHARACTERS_MAX).collect()
}
