//! Posts the owed statuses, and inbound messages. One loop owns it all: it takes what is due, lets a bounded number of
//! bodies travel at once, and writes acknowledgements down, those that have come meanwhile together, before it
//! schedules what follows. A body that is not answered with 200 is posted again, the same bytes, until it is; only the
//! end of the sandbox stops that, and then the next sandbox on the ledger owes it still.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use infrastructure::clock::Clock;
use reqwest::header::{CONTENT_TYPE, HeaderValue, USER_AGENT};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::SandboxConfig;
use super::ledger::Ledger;
use super::schedule::{OwedMessage, Schedule};
use super::status_body::{compose, signature};

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
    posts_max: usize,
    /// Bodies of inbound messages.
    inbound: mpsc::Receiver<Bytes>,
    poster: Arc<Poster>,
}

/// What was posted: the messages whose next status was in it, none for inbound messages.
type Posts = JoinSet<Vec<OwedMessage>>;

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
        inbound: mpsc::Receiver<Bytes>,
    ) -> anyhow::Result<Self> {
        let posts_max = config.webhook_posts_max.max(1);
        let url = config.webhook_url.parse().context("the webhook URL is not a URL")?;
        let client = Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(POST_TIMEOUT)
            .pool_max_idle_per_host(posts_max)
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
            posts_max,
            inbound,
            poster: Arc::new(poster),
        })
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut posts = Posts::new();
        loop {
            while posts.len() < self.posts_max {
                let due = self.schedule.take_due(Instant::now(), self.batch_max);
                if due.is_empty() {
                    break;
                }
                let body = compose(&self.waba_id, self.clock.now().timestamp(), &due);
                self.post(&mut posts, Bytes::from(body), due);
            }
            let may_post = posts.len() < self.posts_max;
            let next_due = self.schedule.next_due().filter(|_| may_post);
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some(posted) = posts.join_next() => {
                    let more = std::iter::from_fn(|| posts.try_join_next());
                    self.settle(std::iter::once(posted).chain(more));
                }
                () = sleep_until(next_due.unwrap_or_else(Instant::now)), if next_due.is_some() => {}
                () = self.schedule.earlier() => {}
                Some(body) = self.inbound.recv(), if may_post => self.post(&mut posts, body, Vec::new()),
            }
        }
    }

    fn post(&self, posts: &mut Posts, body: Bytes, messages: Vec<OwedMessage>) {
        let poster = Arc::clone(&self.poster);
        posts.spawn(async move {
            poster.post_until_acknowledged(body).await;
            messages
        });
    }

    fn settle(&self, posted: impl Iterator<Item = Result<Vec<OwedMessage>, JoinError>>) {
        let mut messages = Vec::new();
        for posted in posted {
            match posted {
                Ok(posted) => messages.extend(posted),
                Err(error) => {
                    tracing::error!(%error, "the post of a webhook broke off; its statuses come after the next start");
                }
            }
        }
        if messages.is_empty() {
            return;
        }
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
