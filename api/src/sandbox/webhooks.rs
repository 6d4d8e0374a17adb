//! Posts the owed statuses. One loop owns it all: it takes what is due, lets at most `POSTS_MAX` bodies travel at
//! once, and on each acknowledgement writes it down before it schedules what follows. A body that is not answered
//! with 200 is posted again, the same bytes, until it is; only the end of the sandbox stops that, and then the next
//! sandbox on the ledger owes it still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use infrastructure::clock::Clock;
use reqwest::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::SandboxConfig;
use super::ledger::Ledger;
use super::schedule::{OwedMessage, Schedule};
use super::status_body::{compose, signature};

const POSTS_MAX: usize = 8;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const POST_TIMEOUT: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// The most updates that one real webhook carries.
const BATCH_MAX: usize = 1_000;

pub(super) struct Webhooks {
    ledger: Arc<Ledger>,
    schedule: Arc<Schedule>,
    clock: Clock,
    waba_id: String,
    batch_max: usize,
    poster: Arc<Poster>,
}

struct Poster {
    client: Client,
    url: Url,
    app_secret: String,
    /// Whether the receiver failed last time, so that an outage is logged twice and not once per attempt.
    failing: AtomicBool,
}

impl Webhooks {
    pub(super) fn new(
        config: &SandboxConfig,
        ledger: Arc<Ledger>,
        schedule: Arc<Schedule>,
        clock: Clock,
    ) -> anyhow::Result<Self> {
        let url = config.webhook_url.parse().context("the webhook URL is not a URL")?;
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(POST_TIMEOUT)
            .pool_max_idle_per_host(POSTS_MAX)
            .redirect(redirect::Policy::none())
            // The receiver is on this machine or named outright: a proxy from the environment must not come between.
            .no_proxy()
            .build()
            .context("cannot set up the HTTP client for webhooks")?;
        let poster = Poster { client, url, app_secret: config.app_secret.clone(), failing: AtomicBool::new(false) };
        Ok(Self {
            ledger,
            schedule,
            clock,
            waba_id: config.waba_id.clone(),
            batch_max: config.webhook_batch_max.clamp(1, BATCH_MAX),
            poster: Arc::new(poster),
        })
    }

    pub(super) async fn run(self, shutdown: CancellationToken) {
        let mut posts = JoinSet::new();
        loop {
            while posts.len() < POSTS_MAX {
                let due = self.schedule.take_due(Instant::now(), self.batch_max);
                if due.is_empty() {
                    break;
                }
                self.post(&mut posts, due);
            }
            let next_due = self.schedule.next_due().filter(|_| posts.len() < POSTS_MAX);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(posted) = posts.join_next() => self.settle(posted),
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
                () = self.schedule.earlier() => {}
            }
        }
    }

    fn post(&self, posts: &mut JoinSet<Vec<OwedMessage>>, due: Vec<OwedMessage>) {
        let body = compose(&self.waba_id, self.clock.now().timestamp(), &due);
        let poster = Arc::clone(&self.poster);
        posts.spawn(async move {
            poster.post_until_acknowledged(Bytes::from(body)).await;
            due
        });
    }

    fn settle(&self, posted: Result<Vec<OwedMessage>, JoinError>) {
        let messages = match posted {
            Ok(messages) => messages,
            Err(error) => {
                tracing::error!(%error, "the post of a webhook broke off; its statuses come after the next start");
                return;
            }
        };
        if let Err(error) = self.ledger.acknowledge(&messages) {
            tracing::error!(%error, "cannot write down acknowledged statuses; they come again after the next start");
        }
        self.schedule.acknowledged(messages, Instant::now());
    }
}

impl Poster {
    async fn post_until_acknowledged(&self, body: Bytes) {
        let signature = signature(self.app_secret.as_bytes(), &body);
        let mut retry = RETRY_FIRST;
        loop {
            let answer = self.post(&signature, body.clone()).await;
            let answer = answer.map_err(reqwest::Error::without_url);
            if matches!(answer, Ok(StatusCode::OK)) {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("the webhook receiver acknowledges again");
                }
                return;
            }
            if !self.failing.swap(true, Ordering::Relaxed) {
                match answer {
                    Ok(status) => tracing::warn!(
                        http.status = status.as_u16(),
                        "the webhook receiver does not acknowledge; posting again"
                    ),
                    Err(error) => {
                        tracing::warn!(error = %chain(&error), "cannot reach the webhook receiver; posting again");
                    }
                }
            }
            sleep(retry).await;
            retry = (retry * 2).min(RETRY_MAX);
        }
    }

    async fn post(&self, signature: &str, body: Bytes) -> reqwest::Result<StatusCode> {
        let answer = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static("facebookexternalua"))
            .header("X-Hub-Signature-256", signature)
            .body(body)
            .send()
            .await?;
        let status = answer.status();
        // A connection can be used again only when its answer has been read.
        answer.bytes().await?;
        Ok(status)
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| text + ": " + &cause.to_string())
}
