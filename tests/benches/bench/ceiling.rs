//! The sandbox without an engine: how fast calls can be made to it, and how fast their statuses come back, when nobody
//! does anything with them. No engine can be faster on this machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::receiver::Receiver;
use crate::sandbox::{Behaviour, Sandbox};
use crate::site::Site;
use crate::usage::cpu_seconds;

/// As many as the engine has messages to send.
const CALLS: u32 = 50_000;
const CALLERS: usize = 64;
const CALL_MAX: Duration = Duration::from_secs(30);
const STATUSES_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

pub(crate) struct Ceiling {
    pub(crate) calls_per_s: f64,
    /// Messages per second from the first call to the last acknowledged READ.
    pub(crate) read_per_s: f64,
    pub(crate) sandbox_cpu_s_per_1000: f64,
}

pub(crate) async fn measure(site: &Site) -> Result<Ceiling> {
    let folder = site.new_folder()?;
    let receiver = Receiver::start().await?;
    let webhook_url = format!("http://{}/webhooks", receiver.address);
    let sandbox = Sandbox::start(&folder, &webhook_url, Behaviour::PLAIN).await?;
    let calls = site.scaled(CALLS);
    let before = cpu_seconds(sandbox.process.pid())?;
    let began = Instant::now();
    call(&sandbox.address, calls).await?;
    let called = began.elapsed();
    loop {
        let counts = sandbox.counts().await?;
        if counts.statuses_owed == 0 {
            ensure!(counts.accepted == u64::from(calls), "{} of {calls} calls were accepted", counts.accepted);
            break;
        }
        ensure!(began.elapsed() < STATUSES_MAX, "{} statuses did not come", counts.statuses_owed);
        tokio::time::sleep(POLL).await;
    }
    let read = began.elapsed();
    let cpu = cpu_seconds(sandbox.process.pid())? - before;
    sandbox.process.stop().await?;
    drop(receiver);
    let calls = f64::from(calls);
    Ok(Ceiling {
        calls_per_s: calls / called.as_secs_f64(),
        read_per_s: calls / read.as_secs_f64(),
        sandbox_cpu_s_per_1000: 1000.0 * cpu / calls,
    })
}

async fn call(address: &str, calls: u32) -> Result<()> {
    let http = reqwest::Client::builder().timeout(CALL_MAX).pool_max_idle_per_host(CALLERS).no_proxy().build()?;
    let url = format!("{address}/v25.0/100000000000101/messages");
    let next = Arc::new(AtomicU32::new(0));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (http, url, next) = (http.clone(), url.clone(), Arc::clone(&next));
        callers.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= calls {
                    return Ok::<_, anyhow::Error>(());
                }
                let parameters = json!([{"type": "text", "text": format!("Customer {number}")}]);
                let body = json!({
                    "messaging_product": "whatsapp",
                    "recipient_type": "individual",
                    "to": format!("+919{number:09}"),
                    "type": "template",
                    "template": {
                        "name": "reminder",
                        "language": {"code": "en"},
                        "components": [{"type": "body", "parameters": parameters}],
                    },
                    "biz_opaque_callback_data": format!("{number:032}"),
                });
                let answer = http.post(&url).bearer_auth("bench").json(&body).send().await?;
                answer.error_for_status()?.bytes().await?;
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended?.context("a call to the sandbox failed")?;
    }
    Ok(())
}
