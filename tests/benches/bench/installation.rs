//! A tenant with numbers and contacts, made by the public command line as an operator would.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use domain::ids::TenantId;
use serde_json::Value;
use tokio::process::Command;
use uuid::Uuid;

use crate::facts;
use crate::site::{Database, ektola};

pub(crate) const TENANT: &str = "bench";
pub(crate) const APP_SECRET: &str = "secret-of-the-bench";
const ACCESS_TOKEN: &str = "access-token-of-the-bench";
const VERIFY_TOKEN: &str = "verify-token-of-the-bench";
const WABA_ID: &str = "100000000000001";
/// Importing a million contacts is the longest of them.
const COMMAND_MAX: Duration = Duration::from_secs(300);

/// One tenant in one database.
pub(crate) struct Installation {
    database_url: String,
    pub(crate) data: PathBuf,
    pub(crate) token: String,
    pub(crate) tenant_id: TenantId,
}

impl Installation {
    pub(crate) async fn create(database: &Database, data: &Path) -> Result<Self> {
        let mut made = Self {
            database_url: database.url.clone(),
            data: data.to_owned(),
            token: String::new(),
            tenant_id: TenantId(Uuid::nil()),
        };
        let tenant = made.run(&["tenant", "create", TENANT, "--zone", "Asia/Kolkata"]).await?;
        made.tenant_id = text(&tenant, "id")?.parse()?;
        made.token = text(&made.run(&["token", "create", "--tenant", TENANT]).await?, "token")?;
        Ok(made)
    }

    /// The same tenant in another database, a copy of the first or the first itself, with a data folder of its own.
    pub(crate) fn in_database(&self, database: &Database, data: &Path) -> Self {
        let (token, tenant_id) = (self.token.clone(), self.tenant_id);
        Self { database_url: database.url.clone(), data: data.to_owned(), token, tenant_id }
    }

    /// Adds a number that calls this address, or moves it there; answers its id.
    pub(crate) async fn sender(&self, phone_number_id: &str, base_url: &str, rate_per_s: u32) -> Result<String> {
        let rate = rate_per_s.to_string();
        let mut arguments = vec!["sender", "add", "--tenant", TENANT, "--rate", &rate];
        arguments.extend(["--phone-number-id", phone_number_id, "--waba-id", WABA_ID]);
        arguments.extend(["--base-url", base_url, "--allow-provider-base-url"]);
        text(&self.run(&arguments).await?, "id")
    }

    pub(crate) async fn set_rate(&self, phone_number_id: &str, rate_per_s: u32) -> Result<()> {
        self.run(&["sender", "set", phone_number_id, "--rate", &rate_per_s.to_string()]).await.map(drop)
    }

    /// Imports contacts with numbers of their own, so many into each of the segments; answers the seconds it took.
    pub(crate) async fn contacts(&self, segments: &[&str], count: u32) -> Result<f64> {
        let file = self.data.join("contacts.csv");
        let rows = segments
            .iter()
            .zip(0_u32..)
            .flat_map(|(segment, place)| (0..count).map(move |number| (place * count + number, *segment)));
        let mut csv = String::from("phone,name,segment\n");
        for (number, segment) in rows {
            // Indian mobile numbers have ten digits and begin with 6 to 9.
            writeln!(csv, "9{number:09},Customer {number},{segment}").context("a line of text")?;
        }
        tokio::fs::write(&file, csv).await?;
        let began = tokio::time::Instant::now();
        let path = file.to_str().context("the temporary folder has a plain name")?;
        let report = self.run(&["contacts", "import", path, "--tenant", TENANT]).await?;
        let took = began.elapsed().as_secs_f64();
        let expected = u64::try_from(segments.len())? * u64::from(count);
        ensure!(report["created"] == expected, "{expected} contacts were to be created: {report}");
        tokio::fs::remove_file(&file).await?;
        Ok(took)
    }

    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<Value> {
        let (answer, status, said) = self.call(arguments).await?;
        ensure!(status.success(), "ektola {} failed ({status}): {said}", arguments.join(" "));
        Ok(answer)
    }

    /// For a command that answers and then fails because of what it found.
    pub(crate) async fn run_whatever_it_finds(&self, arguments: &[&str]) -> Result<Value> {
        Ok(self.call(arguments).await?.0)
    }

    async fn call(&self, arguments: &[&str]) -> Result<(Value, ExitStatus, String)> {
        let mut command = command(&self.data)?;
        command.arg("--json").args(arguments).env("DATABASE_URL", &self.database_url);
        command.env("WHATSAPP_ACCESS_TOKEN", ACCESS_TOKEN);
        command.env("WHATSAPP_APP_SECRET", APP_SECRET);
        command.env("WHATSAPP_VERIFY_TOKEN", VERIFY_TOKEN);
        let words = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let output = tokio::time::timeout(COMMAND_MAX, command.kill_on_drop(true).output())
            .await
            .with_context(|| format!("ektola {words} did not end within {} s", COMMAND_MAX.as_secs()))??;
        let said = String::from_utf8_lossy(&output.stderr);
        let answer = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("ektola {words} did not answer with JSON ({}): {said}", output.status))?;
        Ok((answer, output.status, said.into_owned()))
    }
}

/// The shipped binary on a data folder. Of the environment it sees only what the report shows.
pub(crate) fn command(data: &Path) -> Result<Command> {
    let mut command = Command::new(ektola()?);
    command.env_clear().envs(facts::overrides());
    for name in ["PATH", "HOME", "TMPDIR"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.arg("--data").arg(data);
    Ok(command)
}

/// A text of an answer.
pub(crate) fn text(answer: &Value, field: &str) -> Result<String> {
    answer[field].as_str().map(str::to_owned).with_context(|| format!("the answer has no {field}: {answer}"))
}
