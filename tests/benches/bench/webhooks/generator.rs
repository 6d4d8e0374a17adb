//! An open loop of HTTP requests: each is due at its time, whatever became of the ones before, and its answer time counts
//! from then on. A server that stalls is charged for everything that was due meanwhile.
//!
//! The requests are whole before the clock starts; what is left to do is to write and to read, so that the generator
//! takes little from a machine that it shares with the engine.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::statistics::{as_float, sorted};

/// So many requests may be on their way; one that is due while all are is late on our account, which counts all the same.
const CONNECTIONS: usize = 128;
/// Without waiting for due times, as many as answers come.
const BURST_CONNECTIONS: usize = 16;
const ANSWER_MAX: Duration = Duration::from_secs(60);
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Time to connect before the first request is due.
const LEAD: Duration = Duration::from_millis(500);

/// A complete HTTP/1.1 request.
pub(super) type Request = Box<[u8]>;

pub(super) struct Answers {
    pub(super) first_due: Instant,
    pub(super) last_answer: Instant,
    /// From due to answered, sorted.
    pub(super) times_ms: Vec<f64>,
}

/// So many requests per second.
pub(super) async fn at_rate(address: SocketAddr, requests: Arc<Vec<Request>>, per_s: f64) -> Result<Answers> {
    send(address, requests, Duration::from_secs_f64(1.0 / per_s), CONNECTIONS).await
}

/// As fast as they are answered.
pub(super) async fn at_once(address: SocketAddr, requests: Arc<Vec<Request>>) -> Result<Answers> {
    send(address, requests, Duration::ZERO, BURST_CONNECTIONS).await
}

async fn send(
    address: SocketAddr,
    requests: Arc<Vec<Request>>,
    interval: Duration,
    connections: usize,
) -> Result<Answers> {
    let first_due = Instant::now() + LEAD;
    let next = Arc::new(AtomicUsize::new(0));
    let mut senders = JoinSet::new();
    for _ in 0..connections.min(requests.len()) {
        let (requests, next) = (Arc::clone(&requests), Arc::clone(&next));
        let mut connection = Connection::open(address).await?;
        senders.spawn(async move {
            let mut times_ms = Vec::new();
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed);
                let Some(request) = requests.get(place) else { return Ok::<_, anyhow::Error>(times_ms) };
                let due = first_due + interval.mul_f64(as_float(place));
                tokio::time::sleep_until(due).await;
                let answered = tokio::time::timeout(ANSWER_MAX, connection.ask(request)).await;
                answered.with_context(|| format!("no answer within {} s", ANSWER_MAX.as_secs()))??;
                times_ms.push(due.elapsed().as_secs_f64() * 1e3);
            }
        });
    }
    ensure!(Instant::now() < first_due, "connecting took longer than {LEAD:?}");
    let mut times_ms = Vec::with_capacity(requests.len());
    while let Some(ended) = senders.join_next().await {
        times_ms.append(&mut ended??);
    }
    Ok(Answers { first_due, last_answer: Instant::now(), times_ms: sorted(&times_ms) })
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("the engine takes no connection")?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: Vec::with_capacity(HEAD_BYTES_MAX) })
    }

    /// Fails unless the answer is 200.
    async fn ask(&mut self, request: &[u8]) -> Result<()> {
        self.stream.write_all(request).await?;
        self.received.clear();
        let head_end = loop {
            if let Some(end) = self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break end + 4;
            }
            self.receive().await?;
        };
        let head = String::from_utf8_lossy(&self.received[..head_end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.map_or(Ok(0), |length| length.trim().parse())?;
        while self.received.len() < head_end + length {
            self.receive().await?;
        }
        if !head.starts_with("http/1.1 200") {
            let body = String::from_utf8_lossy(&self.received[head_end..]).into_owned();
            bail!("a webhook was answered {} {body}", head.lines().next().unwrap_or_default());
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<()> {
        ensure!(self.received.len() < HEAD_BYTES_MAX, "an answer is longer than {HEAD_BYTES_MAX} bytes");
        let read = self.stream.read_buf(&mut self.received).await?;
        ensure!(read > 0, "the engine closed a connection that was in use");
        Ok(())
    }
}
