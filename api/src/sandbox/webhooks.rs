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
use super::controls::Controls;
use super::draws::Draws;
use super::ledger::Ledger;
use super::schedule::{OwedMessage, Schedule};
use super::settings::PostSettings;
use super::status_body::{Style, compose, signature};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const SIGNATURE: &str = "X-Hub-Signature-256";
/// The name of draws for bodies.
const BODY: &str = "body";
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// Purposes of draws.
const DUPLICATE: u64 = 16;
const WRONG_SIGNATURE: u64 = 17;
const UNSIGNED: u64 = 18;

pub(super) struct Webhooks {
    ledger: Arc<Ledger>,
    schedule: Arc<Schedule>,
    clock: Clock,
    waba_id: String,
    controls: Arc<Controls>,
    posts_max: usize,
    /// The bodies posted so far.
    posted: u64,
    /// Bodies that are no statuses.
    bodies: mpsc::Receiver<Bytes>,
    poster: Arc<Poster>,
}

/// The ledger, what is due, and the bodies that others compose.
type Queues = (Arc<Ledger>, Arc<Schedule>, mpsc::Receiver<Bytes>);

/// What was posted: the messages whose next status was in it, none for inbound messages.
type Posts = JoinSet<Vec<OwedMessage>>;

pub(super) struct Poster {
    client: Client,
    url: Url,
    app_secret: String,
    controls: Arc<Controls>,
    /// Whether the receiver failed last time, so that an outage is logged twice and not once per attempt.
    failing: AtomicBool,
}

impl Webhooks {
    pub(super) fn new(
        config: &SandboxConfig,
        controls: Arc<Controls>,
        (ledger, schedule, bodies): Queues,
        clock: Clock,
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
        let poster = Poster {
            client,
            url,
            app_secret: config.app_secret.clone(),
            controls: Arc::clone(&controls),
            failing: AtomicBool::new(false),
        };
        Ok(Self {
            ledger,
            schedule,
            clock,
            waba_id: config.waba_id.clone(),
            controls,
            posts_max,
            posted: 0,
            bodies,
            poster: Arc::new(poster),
        })
    }

    pub(super) fn poster(&self) -> Arc<Poster> {
        Arc::clone(&self.poster)
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let mut posts = Posts::new();
        loop {
            while posts.len() < self.posts_max {
                let in_force = self.controls.present();
                let settings = &in_force.settings.statuses;
                let due = self.schedule.take_due(Instant::now(), settings.batch_max);
                if due.is_empty() {
                    break;
                }
                let draws = Draws::new(in_force.settings.seed, BODY, self.posted);
                let timestamp = self.clock.now().timestamp();
                let body = compose(&Style { waba_id: &self.waba_id, timestamp, settings, draws }, &due);
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
                Some(body) = self.bodies.recv(), if may_post => self.post(&mut posts, body, Vec::new()),
            }
        }
    }

    fn post(&mut self, posts: &mut Posts, body: Bytes, messages: Vec<OwedMessage>) {
        let poster = Arc::clone(&self.poster);
        let draws = Draws::new(self.controls.present().settings.seed, BODY, self.posted);
        self.posted += 1;
        posts.spawn(async move {
            poster.post_with_faults(body, draws).await;
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
    /// Posts the body until it is acknowledged, and around that what the settings add. Whatever the receiver answers to
    /// a copy without a good signature, the body itself comes.
    async fn post_with_faults(&self, body: Bytes, draws: Draws) {
        let settings = self.controls.present().settings.posts.clone();
        if draws.uniform(WRONG_SIGNATURE) < settings.wrong_signature_share {
            drop(self.post(Some(&signature(b"another secret", &body)), body.clone()).await);
        }
        if draws.uniform(UNSIGNED) < settings.unsigned_share {
            drop(self.post(None, body.clone()).await);
        }
        self.post_until_acknowledged(body.clone(), &settings).await;
        if draws.uniform(DUPLICATE) < settings.duplicate_share {
            self.post_until_acknowledged(body, &settings).await;
        }
    }

    async fn post_until_acknowledged(&self, body: Bytes, settings: &PostSettings) {
        let signature = signature(self.app_secret.as_bytes(), &body);
        let mut retry = Duration::from_millis(settings.retry_first_ms);
        loop {
            let answer = self.post(Some(&signature), body.clone()).await;
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
            retry = (retry * 2).min(Duration::from_millis(settings.retry_max_ms));
        }
    }

    /// Asks the receiver to verify itself, as happens when a webhook is set up: its HTTP status, and whether it gave
    /// the challenge back and nothing else.
    pub(super) async fn verify(&self, verify_token: &str, challenge: &str) -> reqwest::Result<(u16, bool)> {
        let query = [("hub.mode", "subscribe"), ("hub.challenge", challenge), ("hub.verify_token", verify_token)];
        let mut url = self.url.clone();
        url.query_pairs_mut().extend_pairs(query);
        let answer = self.client.get(url).send().await?;
        let status = answer.status();
        Ok((status.as_u16(), answer.text().await? == challenge && status == StatusCode::OK))
    }

    async fn post(&self, signature: Option<&str>, body: Bytes) -> reqwest::Result<StatusCode> {
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(USER_AGENT, HeaderValue::from_static("facebookexternalua"))
            .body(body);
        let request = signature.into_iter().fold(request, |request, value| request.header(SIGNATURE, value));
        let answer = request.send().await?;
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
