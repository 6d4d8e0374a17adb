//! What a reader has to know to compare figures: versions, settings, the machine, and what else it was doing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::site::Site;
use crate::statistics::median;

/// Without these a commit promises nothing, and is cheap.
const MUST_BE_ON: [&str; 3] = ["fsync", "full_page_writes", "synchronous_commit"];
const SHOWN: [&str; 9] = [
    "server_version",
    "shared_buffers",
    "max_wal_size",
    "checkpoint_timeout",
    "wal_sync_method",
    "wal_level",
    "data_checksums",
    "max_connections",
    "autovacuum",
];
const FSYNCS: usize = 50;
const PAGE: [u8; 8192] = [0x5a; 8192];
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) struct Facts {
    commit: String,
    rustc: String,
    kernel: String,
    cpus: usize,
    cpu_model: String,
    memory_mb: u64,
    file_system: String,
    fsync_ms: f64,
    postgres: BTreeMap<String, String>,
    rabbitmq: Option<String>,
    /// Keys of the engine's configuration that the environment changes.
    overrides: BTreeMap<String, String>,
    divisor: u32,
}

impl Facts {
    pub(crate) async fn gather(site: &Site, root: &Path) -> Result<Self> {
        let mut postgres = site.postgres_settings(&MUST_BE_ON).await?;
        for (name, value) in &postgres {
            ensure!(value == "on", "{name} is {value}: figures without durable commits are worth nothing");
        }
        postgres.append(&mut site.postgres_settings(&SHOWN).await?);
        let (data, port) = (site.data().to_owned(), site.amqp_port());
        let beside = data.parent().context("the data lies in a folder")?.to_owned();
        let (fsync_ms, rabbitmq) = tokio::task::spawn_blocking(move || {
            let rabbitmq = port.map(broker_version).transpose()?;
            Ok::<_, anyhow::Error>((fsync_ms(&beside)?, rabbitmq))
        })
        .await??;
        Ok(Self {
            commit: commit(root),
            rustc: said_by("rustc", &["--version"], root),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            cpu_model: value_of("/proc/cpuinfo", "model name"),
            memory_mb: value_of("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1024,
            file_system: file_system_of(&data),
            fsync_ms,
            postgres,
            rabbitmq,
            overrides: overrides(),
            divisor: site.divisor(),
        })
    }

    /// For the report, with the time and what the machine was doing when the part began.
    pub(crate) fn about(&self, began: DateTime<Utc>, load: &str) -> Value {
        json!({
            "began_at": began.to_rfc3339_opts(SecondsFormat::Secs, true),
            "commit": self.commit,
            "rustc": self.rustc,
            "kernel": self.kernel,
            "cpus": self.cpus,
            "cpu_model": self.cpu_model,
            "memory_mb": self.memory_mb,
            "file_system": self.file_system,
            "fsync_ms": self.fsync_ms,
            "load_average_before": load,
            "postgres": self.postgres,
            "rabbitmq": self.rabbitmq,
            "configuration_overrides": self.overrides,
            "divisor": self.divisor,
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let postgres: Vec<String> = self.postgres.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let mut text = format!(
            "commit     {}\nmachine    {} x {}, {} MB, kernel {}\ndisk       {}, write and fsync of 8 kB: {:.2} ms\n\
             rustc      {}\nPostgres   {}\n",
            self.commit,
            self.cpus,
            self.cpu_model,
            self.memory_mb,
            self.kernel,
            self.file_system,
            self.fsync_ms,
            self.rustc,
            postgres.join(", "),
        );
        if let Some(version) = &self.rabbitmq {
            text += &format!("RabbitMQ   {version}, durable queues\n");
        }
        if !self.overrides.is_empty() {
            text += &format!("engine     with {:?}\n", self.overrides);
        }
        if self.divisor > 1 {
            text += &format!("A TRIAL    of one part in {}: its figures mean nothing\n", self.divisor);
        }
        text
    }
}

/// The load averages of the last 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

/// The engine's configuration as the environment changes it; the engine sees the same.
pub(crate) fn overrides() -> BTreeMap<String, String> {
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    variables.filter(|(name, _)| name.starts_with("EKTOLA_") && name.contains("__")).collect()
}

fn commit(root: &Path) -> String {
    let commit = said_by("git", &["rev-parse", "HEAD"], root);
    let changes = said_by("git", &["status", "--porcelain", "--untracked-files=no"], root);
    if changes.is_empty() { commit } else { format!("{commit} with changes") }
}

fn said_by(program: &str, arguments: &[&str], root: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(root).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// From a file of lines such as `name : value`.
fn value_of(path: &str, name: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let value = text.lines().find(|line| line.starts_with(name)).and_then(|line| line.split_once(':'));
    value.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// The type of the file system that a folder lies on: that of the longest mount point above it.
fn file_system_of(folder: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let of = |line: &str| {
        let mut fields = line.split_whitespace().skip(1);
        let (point, kind) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        folder.starts_with(&point).then_some((point.len(), kind))
    };
    mounts.lines().filter_map(of).max().map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

/// The median time to write one page of a file and have it on disk: what a commit costs at least.
fn fsync_ms(folder: &Path) -> Result<f64> {
    let mut file = tempfile::tempfile_in(folder).context("cannot try the disk")?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let began = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&PAGE)?;
        file.sync_data()?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&times))
}

/// What the broker says of itself when a connection begins.
fn broker_version(port: u16) -> Result<String> {
    const NAME: &[u8] = b"\x07versionS";
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    connection.set_read_timeout(Some(BROKER_TIMEOUT))?;
    connection.write_all(b"AMQP\x00\x00\x09\x01")?;
    let mut header = [0; 7];
    connection.read_exact(&mut header)?;
    let length = u32::from_be_bytes([header[3], header[4], header[5], header[6]]);
    let mut greeting = vec![0; usize::try_from(length.min(1 << 16))?];
    connection.read_exact(&mut greeting)?;
    let at = greeting.windows(NAME.len()).position(|window| window == NAME).context("the broker tells no version")?;
    let (length, text) = greeting[at + NAME.len()..].split_first_chunk::<4>().context("the greeting is cut off")?;
    let text = text.get(..usize::try_from(u32::from_be_bytes(*length))?).context("the greeting is cut off")?;
    Ok(String::from_utf8_lossy(text).into_owned())
}
