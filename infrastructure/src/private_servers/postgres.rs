//! A private Postgres cluster: one data folder, one socket, no TCP.
//!
//! Commits are durable as in production; the settings are given on the command line, so that no file of the cluster
//! can weaken them. Whoever may enter the socket's folder is the superuser: its mode is the only key.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sqlx::{Connection, Executor, PgConnection};

use super::account::Account;
use super::command::{poll, run};
use super::place::{self, Place};
use super::server_log::ServerLog;
use super::{PrivateServerError, Result, binaries, blocking, process};

pub use super::binaries::Binaries;

const SUPERUSER: &str = "ektola";
/// The number in the socket's name; nothing listens on a port.
const PORT: u16 = 5432;
const SOCKET_NAME: &str = ".s.PGSQL.5432";
/// Replaying the log after a crash can take minutes.
const START_LIMIT: Duration = Duration::from_secs(300);
const STOP_LIMIT: Duration = Duration::from_secs(120);
/// After the postmaster alone was killed, its backends need a moment to notice.
const ORPHANS_LIMIT: Duration = Duration::from_secs(30);
/// An id that no process can have, on any system that we run on.
const NO_PID: i32 = 99_999_999;

#[derive(Debug, Clone, Copy)]
pub struct PostgresOptions {
    pub connections_max: u32,
    pub shared_buffers_mb: u32,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self { connections_max: 100, shared_buffers_mb: 256 }
    }
}

impl PostgresOptions {
    /// Many small databases beside each other.
    pub fn for_tests() -> Self {
        Self { connections_max: 300, shared_buffers_mb: 64 }
    }
}

/// A running cluster that this process uses. Dropped without `stop`, it goes on and is adopted by the next start.
#[derive(Debug)]
pub struct PrivatePostgres {
    database: String,
    cluster: Cluster,
    place: Place,
    /// The shared lock that says that we use the cluster.
    users: fs::File,
    adopted: bool,
}

#[derive(Debug)]
struct Cluster {
    account: Account,
    data: PathBuf,
    socket: PathBuf,
    socket_moved: bool,
    postmaster: i32,
    /// Only when this process has started it.
    child: Option<Child>,
}

impl PrivatePostgres {
    /// The newest installed Postgres that is new enough.
    pub fn find_binaries() -> Result<Binaries> {
        binaries::newest()
    }

    /// Has a cluster been made for this data folder?
    pub fn exists(dir: &Path) -> bool {
        matches!(Place::find(dir, "postgres"), Ok(Some(place)) if place.root.join("data").exists())
    }

    /// Starts the cluster of `dir`, or adopts it when it runs; makes it, and the database, on first use.
    pub async fn start(dir: &Path, database: &str, options: PostgresOptions) -> Result<Self> {
        super::check_name(database)?;
        let (dir, name) = (dir.to_owned(), database.to_owned());
        let server = blocking(move || Self::launch(&dir, name, options)).await?;
        match server.create_database().await {
            Ok(()) => Ok(server),
            Err(error) => {
                // Nothing is left running for a caller who has no handle to stop it. Why the start failed says more
                // than why stopping did.
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    fn launch(dir: &Path, database: String, options: PostgresOptions) -> Result<Self> {
        let account = Account::for_server("postgres", "install the package postgresql, which makes it")?;
        let place = Place::open(dir, "postgres", &account)?;
        let starting = place.lock_start()?;
        let data = place.root.join("data");
        let binaries = binaries::for_cluster(&data)?;
        if !data.exists() {
            initdb(&account, &binaries, &place.root)?;
        }
        let (socket, socket_moved) = place::socket_folder(&place.root, SOCKET_NAME, &account)?;
        let mut cluster = Cluster { account, data, socket, socket_moved, postmaster: NO_PID, child: None };
        let adopted = cluster.adopt()?;
        if !adopted {
            cluster.spawn(&binaries, &place.log_path(), options)?;
        }
        let users = place.join_users()?;
        drop(starting);
        Ok(Self { database, cluster, place, users, adopted })
    }

    /// The database's address, for sqlx and for libpq.
    pub fn url(&self) -> String {
        self.url_of(&self.database)
    }

    /// The address of another database of the cluster.
    pub fn url_of(&self, database: &str) -> String {
        // The socket's path holds nothing else that an address would have to escape.
        let socket = self.cluster.socket.to_string_lossy().replace('/', "%2F").replace('+', "%2B");
        format!("postgres:///{database}?host={socket}&port={PORT}&user={SUPERUSER}&sslmode=disable")
    }

    /// It ran already when this process came.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The process id of the server.
    pub fn pid(&self) -> i32 {
        self.cluster.postmaster
    }

    /// The folder of its data.
    pub fn data(&self) -> &Path {
        &self.cluster.data
    }

    /// Says where data and socket are when they are not inside the data folder.
    pub fn location_note(&self) -> Option<String> {
        let user = self.cluster.account.name();
        let (root, socket) = (self.place.root.display(), self.cluster.socket.display());
        let outside = format!("Postgres runs as the user {user}, who may not enter the data folder");
        match (self.place.moved, self.cluster.socket_moved) {
            (false, false) => None,
            (true, false) => Some(format!("{outside}; its data and its socket are in {root}.")),
            (true, true) => Some(format!("{outside}; its data is in {root}, its socket in {socket}.")),
            (false, true) => Some(format!(
                "The path of the data folder is too long or too unusual for a socket; that of Postgres is in {socket}."
            )),
        }
    }

    async fn create_database(&self) -> Result<()> {
        /// duplicate_database: made by an earlier start.
        const EXISTS: &str = "42P04";
        let connection = PgConnection::connect(&self.url_of("postgres")).await;
        let mut connection = connection.map_err(PrivateServerError::Database)?;
        let statement = format!("CREATE DATABASE {}", self.database);
        let created = connection.execute(statement.as_str()).await;
        connection.close().await.map_err(PrivateServerError::Database)?;
        match created {
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(EXISTS) => Ok(()),
            other => other.map(|_| ()).map_err(PrivateServerError::Database),
        }
    }

    /// Stops the cluster, unless another process uses it still; answers whether it was stopped.
    pub async fn stop(self) -> Result<bool> {
        blocking(move || self.stop_blocking()).await
    }

    pub fn stop_blocking(mut self) -> Result<bool> {
        let _starting = self.place.lock_start()?;
        if !self.place.leave_users(&self.users)? {
            return Ok(false);
        }
        self.cluster.stop()?;
        Ok(true)
    }

    /// Stops the cluster and removes it with all its data, wherever that is.
    pub async fn destroy(self) -> Result<()> {
        blocking(move || self.destroy_blocking()).await
    }

    pub fn destroy_blocking(mut self) -> Result<()> {
        self.cluster.stop()?;
        self.place.remove()
    }
}

impl Cluster {
    /// Takes over a server that runs on the data already. One that is starting or stopping is waited for.
    fn adopt(&mut self) -> Result<bool> {
        poll("waiting for the running Postgres to be ready", START_LIMIT, || {
            let Some(file) = PidFile::read(&self.data)? else { return Ok(Some(false)) };
            if !process::works_in(file.pid, &self.data) {
                self.clear_stale(file.pid)?;
                return Ok(Some(false));
            }
            if file.status != "ready" {
                return Ok(None);
            }
            if file.socket == self.socket && UnixStream::connect(self.socket.join(SOCKET_NAME)).is_ok() {
                self.postmaster = file.pid;
                return Ok(Some(true));
            }
            // It listens where nobody will look for it: the data folder was moved, or /tmp was swept.
            process::send(file.pid, Signal::SIGINT)?;
            Ok(None)
        })
    }

    /// Takes away what only looks as if a server were running. The id of a dead postmaster may belong to a stranger by
    /// now (a container that started again counts from 1) or to a zombie, for whose sake Postgres would not start.
    fn clear_stale(&self, pid: i32) -> Result<()> {
        if process::exists(pid) {
            disown(&self.data, pid)?;
        }
        // No server works on the data, and the folder of the socket serves no other.
        match fs::remove_file(self.socket.join(format!("{SOCKET_NAME}.lock"))) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(PrivateServerError::io("remove the stale lock of the socket")(error))
            }
            _ => Ok(()),
        }
    }

    fn spawn(&mut self, binaries: &Binaries, log: &Path, options: PostgresOptions) -> Result<()> {
        let started = Instant::now();
        loop {
            let log = ServerLog::open(log)?;
            let mut command = self.account.command(&binaries.folder.join("postgres"));
            command.arg("-D").arg(&self.data);
            for setting in self.settings(options) {
                command.arg("-c").arg(setting);
            }
            command.stdout(Stdio::null()).stderr(log.handle()?);
            let mut child = command.spawn().map_err(PrivateServerError::io("start Postgres"))?;
            let pid = i32::try_from(child.id()).unwrap_or(NO_PID);
            let ready = poll("starting Postgres", START_LIMIT, || {
                if child.try_wait().map_err(PrivateServerError::io("look after Postgres"))?.is_some() {
                    return Ok(Some(false));
                }
                let file = PidFile::read(&self.data)?;
                Ok(file.is_some_and(|file| file.pid == pid && file.status == "ready").then_some(true))
            })?;
            if ready {
                (self.postmaster, self.child) = (pid, Some(child));
                return Ok(());
            }
            let said = log.said();
            if !said.contains("is still in use") || started.elapsed() > ORPHANS_LIMIT {
                return Err(PrivateServerError::EndedEarly {
                    server: "Postgres",
                    log: log.path().to_owned(),
                    tail: said,
                });
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn settings(&self, options: PostgresOptions) -> [String; 15] {
        [
            "listen_addresses=".to_owned(),
            format!("port={PORT}"),
            format!("unix_socket_directories={}", self.socket.display()),
            "unix_socket_permissions=0700".to_owned(),
            "fsync=on".to_owned(),
            "full_page_writes=on".to_owned(),
            "synchronous_commit=on".to_owned(),
            format!("max_connections={}", options.connections_max),
            format!("shared_buffers={}MB", options.shared_buffers_mb),
            // After each checkpoint every page is written to the log whole once more: fewer checkpoints, less to write.
            "checkpoint_timeout=15min".to_owned(),
            "max_wal_size=4GB".to_owned(),
            "logging_collector=off".to_owned(),
            "log_destination=stderr".to_owned(),
            "timezone=UTC".to_owned(),
            "cluster_name=ektola".to_owned(),
        ]
    }

    /// A fast shutdown: open transactions are rolled back, everything committed is on disk.
    fn stop(&mut self) -> Result<()> {
        if process::works_in(self.postmaster, &self.data) {
            process::send(self.postmaster, Signal::SIGINT)?;
        }
        poll("stopping Postgres", STOP_LIMIT, || {
            if let Some(child) = &mut self.child {
                return child.try_wait().map_err(PrivateServerError::io("wait for Postgres"));
            }
            Ok((!process::works_in(self.postmaster, &self.data)).then(Default::default))
        })?;
        if self.socket_moved {
            // It lies outside of what anybody would remove with the data folder; the next start makes it again.
            let _ = fs::remove_dir_all(&self.socket);
        }
        Ok(())
    }
}

/// Makes the cluster beside its final place, so that one that was interrupted is never taken for whole.
fn initdb(account: &Account, binaries: &Binaries, root: &Path) -> Result<()> {
    let unfinished = root.join("data.unfinished");
    let attempt = |locale: &[&str]| {
        if unfinished.exists() {
            let removed = fs::remove_dir_all(&unfinished);
            removed.map_err(PrivateServerError::io("remove what an interrupted start has left"))?;
        }
        let mut command = account.command(&binaries.folder.join("initdb"));
        command.arg("--pgdata").arg(&unfinished).args(["--username", SUPERUSER, "--encoding", "UTF8"]).args(locale);
        command.args(["--data-checksums", "--auth-local=trust", "--auth-host=reject"]);
        run(&mut command)
    };
    // Not every system has C.UTF-8.
    attempt(&["--locale=C.UTF-8"]).or_else(|_| attempt(&["--no-locale"]))?;
    fs::rename(&unfinished, root.join("data")).map_err(PrivateServerError::io("put the new cluster in its place"))
}

/// What a postmaster says about itself in its data folder.
struct PidFile {
    pid: i32,
    socket: PathBuf,
    status: String,
}

impl PidFile {
    fn read(data: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(data.join("postmaster.pid")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateServerError::io("read postmaster.pid")(error)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let line = |number: usize| text.lines().nth(number).unwrap_or_default().trim().to_owned();
        Some(Self { pid: line(0).parse().ok()?, socket: PathBuf::from(line(4)), status: line(7) })
    }
}

/// Only the id is replaced: by the rest Postgres finds backends that outlived their postmaster.
fn disown(data: &Path, pid: i32) -> Result<()> {
    let file = data.join("postmaster.pid");
    let edit = || {
        let text = fs::read_to_string(&file)?;
        fs::write(&file, text.replacen(&pid.to_string(), &NO_PID.to_string(), 1))
    };
    edit().map_err(PrivateServerError::io("mark postmaster.pid as stale"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_is_read_also_while_it_is_being_written() {
        let whole = "4711\n/data\n1700000000\n5432\n/run/socket\n\n  123 4\nready   \n";
        let file = PidFile::parse(whole).unwrap();
        assert_eq!((file.pid, file.socket.as_path(), file.status.as_str()), (4711, Path::new("/run/socket"), "ready"));
        assert_eq!(PidFile::parse("4711\n/data\n").unwrap().status, "");
        assert!(PidFile::parse("").is_none());
    }

    #[test]
    fn a_reused_process_id_is_taken_out_of_the_pid_file() {
        let data = tempfile::tempdir().unwrap();
        let file = data.path().join("postmaster.pid");
        fs::write(&file, "17\n/data/17\n").unwrap();
        disown(data.path(), 17).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "99999999\n/data/17\n");
    }
}
