//! `ektola serve` as a process, and what the bench asks of it over HTTP.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::installation::{Installation, command, text};
use crate::process::Process;
use crate::site::Database;

const REQUEST_MAX: Duration = Duration::from_secs(30);
/// An activated campaign whose start has passed is run at the scheduler's next look.
const RUN_MAX: Duration = Duration::from_secs(30);
const RUN_POLL: Duration = Duration::from_millis(100);

pub(crate) struct Engine {
    pub(crate) process: Process,
    /// Such as `http://127.0.0.1:4711`.
    pub(crate) address: String,
    token: String,
    http: reqwest::Client,
}

impl Engine {
    /// All roles unless some are named; the dispatch queue on RabbitMQ if an address is given.
    pub(crate) async fn start(
        database: &Database,
        installation: &Installation,
        amqp_url: Option<&str>,
        roles: Option<&str>,
    ) -> Result<Self> {
        let mut command = command(&installation.data)?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--allow-provider-base-url"]);
        command.args(roles.map(|roles| format!("--roles={roles}")));
        command.env("DATABASE_URL", &database.url).envs(amqp_url.map(|url| ("AMQP_URL", url)));
        let log = installation.data.join("engine.log");
        let (process, address) = Process::start("engine", command, "ready", &log).await?;
        let http = reqwest::Client::builder().timeout(REQUEST_MAX).no_proxy().build()?;
        Ok(Self { process, address, token: installation.token.clone(), http })
    }

    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        answer(self.http.get(format!("{}{path}", self.address)).bearer_auth(&self.token), path).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.http.post(format!("{}{path}", self.address)).bearer_auth(&self.token).json(body), path).await
    }

    pub(crate) async fn template(&self) -> Result<String> {
        let components = json!([{"type": "BODY", "text": "Dear {{1}}, your gold loan is due."}]);
        let template = json!({"name": "reminder", "language": "en", "category": "UTILITY", "components": components});
        text(&self.post("/v1/templates", &template).await?, "id")
    }

    /// A draft that would run at once.
    pub(crate) async fn campaign(&self, template: &str, segment: &str, sender: &str) -> Result<String> {
        let campaign = json!({
            "name": format!("Reminders of {segment}"),
            "template_id": template,
            "target_segment": segment,
            "campaign_type": "utility",
            "recurrence_type": "once",
            "start_date": "2026-01-01",
            "parameters": {"1": {"attribute": "name"}},
            "sender_id": sender,
        });
        text(&self.post("/v1/campaigns", &campaign).await?, "id")
    }

    pub(crate) async fn activate(&self, campaign: &str) -> Result<()> {
        self.post(&format!("/v1/campaigns/{campaign}/activate"), &json!({})).await.map(drop)
    }

    /// The id of the campaign's only run, once there is one.
    pub(crate) async fn run_of(&self, campaign: &str) -> Result<String> {
        let deadline = Instant::now() + RUN_MAX;
        while Instant::now() < deadline {
            let runs = self.get(&format!("/v1/campaigns/{campaign}/runs")).await?;
            if let Some(id) = runs["items"][0]["id"].as_str() {
                return Ok(id.to_owned());
            }
            tokio::time::sleep(RUN_POLL).await;
        }
        bail!("the campaign was not run within {} s", RUN_MAX.as_secs())
    }

    pub(crate) async fn run(&self, id: &str) -> Result<Value> {
        self.get(&format!("/v1/runs/{id}")).await
    }
}

async fn answer(request: RequestBuilder, path: &str) -> Result<Value> {
    let response = request.send().await.with_context(|| format!("no answer from {path}"))?;
    let status = response.status();
    let body: Value = response.json().await.with_context(|| format!("{path} did not answer with JSON"))?;
    ensure!(status.is_success(), "{path} answered {status}: {body}");
    Ok(body)
}
