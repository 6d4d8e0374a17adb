//! A receiver of webhooks that does nothing: what a sandbox and a load generator are tried against.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Answers every webhook with 200. Ends when it is dropped.
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(async move {
                    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(take));
                    // It ends when the sandbox hangs up.
                    drop(connection.await);
                });
            }
        });
        Ok(Self { address, _serving: serving })
    }
}

async fn take(request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::new(Empty::new()))
}
