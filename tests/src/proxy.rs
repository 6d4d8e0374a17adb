//! A proxy between the engine and Postgres that can lose an answer, such as that to a commit: the one fault that a
//! client cannot tell from a commit that did not happen.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// Stands in front of the server of `url`, on a loopback port of its own.
pub struct PostgresProxy {
    /// The same database through the proxy.
    pub url: String,
    faults: Arc<Faults>,
}

#[derive(Default)]
struct Faults {
    /// The answer to the next request with these bytes is lost.
    lose_answer_to: Mutex<Option<Vec<u8>>>,
    lost: AtomicBool,
}

impl PostgresProxy {
    /// # Panics
    ///
    /// When no port can be had or the address cannot be read.
    pub async fn start(url: &str) -> Self {
        let target = PgConnectOptions::from_str(url).expect("the address of the test database is valid");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let faults = Arc::new(Faults::default());
        let through_proxy = format!(
            "postgres://{}@127.0.0.1:{port}/{}?sslmode=disable",
            target.get_username(),
            target.get_database().expect("a test database has a name"),
        );
        let shared = faults.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (target, faults) = (target.clone(), shared.clone());
                tokio::spawn(async move {
                    match target.get_socket() {
                        Some(folder) => {
                            let socket = folder.join(format!(".s.PGSQL.{}", target.get_port()));
                            if let Ok(server) = UnixStream::connect(socket).await {
                                relay(client, server.into_split(), &faults).await;
                            }
                        }
                        None => {
                            if let Ok(server) = TcpStream::connect((target.get_host(), target.get_port())).await {
                                relay(client, server.into_split(), &faults).await;
                            }
                        }
                    }
                });
            }
        });
        Self { url: through_proxy, faults }
    }

    /// The next COMMIT reaches the server; its answer does not come back, and the connection ends.
    pub fn lose_next_commit_answer(&self) {
        self.lose_next_answer_to(b"COMMIT");
    }

    /// The same for a statement that commits by itself, known by something that it holds.
    pub fn lose_next_answer_to(&self, bytes: &[u8]) {
        *self.faults.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(bytes.to_owned());
    }

    pub fn has_lost_an_answer(&self) -> bool {
        self.faults.lost.load(Ordering::SeqCst)
    }
}

impl Faults {
    /// Is the answer to this request to be lost? Each fault happens once.
    fn strike(&self, request: &[u8]) -> bool {
        let mut fault = self.lose_answer_to.lock().unwrap_or_else(PoisonError::into_inner);
        let strikes = fault.as_ref().is_some_and(|bytes| request.windows(bytes.len()).any(|window| window == bytes));
        if strikes {
            *fault = None;
        }
        strikes
    }
}

async fn relay<R, W>(client: TcpStream, (mut from_server, mut to_server): (R, W), faults: &Faults)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = client.into_split();
    let (mut request, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
    loop {
        tokio::select! {
            read = from_client.read(&mut request) => {
                let Ok(length @ 1..) = read else { return };
                let strikes = faults.strike(&request[..length]);
                if to_server.write_all(&request[..length]).await.is_err() {
                    return;
                }
                if strikes {
                    // Wait for the answer, so that the commit has happened, and swallow it.
                    if matches!(from_server.read(&mut answer).await, Ok(1..)) {
                        faults.lost.store(true, Ordering::SeqCst);
                    }
                    return;
                }
            }
            read = from_server.read(&mut answer) => {
                let Ok(length @ 1..) = read else { return };
                if to_client.write_all(&answer[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
