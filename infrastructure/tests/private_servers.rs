//! The private servers: where they live, who may reach them, how they are found again, and what they leave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use infrastructure::private_servers::{PostgresOptions, PrivatePostgres, PrivateRabbitmq, PrivateServerError};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::{Connection, Executor, PgConnection};

/// A data folder whose parents everybody may enter.
fn open_folder() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let dir = parent.path().join("data");
    (parent, dir)
}

async fn start(dir: &Path) -> PrivatePostgres {
    PrivatePostgres::start(dir, "ektola", PostgresOptions::for_tests()).await.unwrap()
}

async fn execute(server: &PrivatePostgres, statement: &str) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(&server.url()).await?;
    connection.execute(statement).await?;
    connection.close().await
}

struct Listener {
    address: String,
    port: u16,
    inode: String,
}

/// Every TCP socket of this machine that listens.
fn listeners() -> Vec<Listener> {
    const LISTEN: &str = "0A";
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables
        .iter()
        .flat_map(|table| table.lines().skip(1))
        .filter_map(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            let (address, port) = columns[1].split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            (columns[3] == LISTEN).then(|| Listener { address: address.into(), port, inode: columns[9].into() })
        })
        .collect()
}

/// What one process listens on.
fn listeners_of(pid: i32) -> Vec<Listener> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let open: HashSet<PathBuf> = files.flatten().filter_map(|file| fs::read_link(file.path()).ok()).collect();
    assert!(!open.is_empty(), "the process' files can be seen");
    listeners().into_iter().filter(|found| open.contains(Path::new(&format!("socket:[{}]", found.inode)))).collect()
}

fn is_loopback(address: &str) -> bool {
    // As the kernel prints them on a little-endian machine: 127.0.0.1, ::1 and ::ffff:127.0.0.1.
    ["0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"].contains(&address)
}

/// Ended; one that this process has started and not waited for is a zombie then.
fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).map_or(true, |status| status.contains("State:\tZ"))
}

/// Makes a vhost and answers every socket of Erlang's control programs that listened meanwhile beyond loopback. They
/// open a distribution of their own, on the ports named here.
async fn create_vhost_and_watch(node: &PrivateRabbitmq) -> (String, Vec<String>) {
    const CONTROL_PORTS: std::ops::RangeInclusive<u16> = 35_672..=35_682;
    let creating = node.create_vhost("kept");
    tokio::pin!(creating);
    let mut exposed = Vec::new();
    loop {
        tokio::select! {
            created = &mut creating => return (created.unwrap(), exposed),
            () = tokio::time::sleep(Duration::from_millis(5)) => exposed.extend(
                listeners()
                    .into_iter()
                    .filter(|found| CONTROL_PORTS.contains(&found.port) && !is_loopback(&found.address))
                    .map(|found| format!("{}:{}", found.address, found.port)),
            ),
        }
    }
}

#[tokio::test]
async fn a_cluster_is_private_durable_and_found_again() {
    let (_parent, dir) = open_folder();
    assert!(!PrivatePostgres::exists(&dir));
    let first = start(&dir).await;
    assert!(PrivatePostgres::exists(&dir) && !first.adopted());
    assert_eq!(first.location_note(), None);
    assert!(first.data().starts_with(dir.canonicalize().unwrap()));
    assert_eq!(listeners_of(first.pid()).len(), 0, "the cluster has no TCP");
    execute(&first, "CREATE TABLE kept (fact text); INSERT INTO kept VALUES ('committed')").await.unwrap();

    let mut connection = PgConnection::connect(&first.url()).await.unwrap();
    for (setting, value) in
        [("fsync", "on"), ("full_page_writes", "on"), ("synchronous_commit", "on"), ("data_checksums", "on")]
    {
        let statement = format!("DO $$ BEGIN ASSERT current_setting('{setting}') = '{value}'; END $$");
        connection.execute(statement.as_str()).await.unwrap_or_else(|error| panic!("{setting}: {error}"));
    }
    connection.close().await.unwrap();

    // The engine was killed: its handle is gone, the cluster is not.
    let (pid, url) = (first.pid(), first.url());
    drop(first);
    let second = start(&dir).await;
    assert!(second.adopted());
    assert_eq!((second.pid(), second.url()), (pid, url));
    assert!(second.stop().await.unwrap());
    assert!(is_gone(pid));

    let third = start(&dir).await;
    assert!(!third.adopted());
    execute(&third, "DO $$ BEGIN ASSERT (SELECT fact FROM kept) = 'committed'; END $$").await.unwrap();
    third.destroy().await.unwrap();
    assert!(!PrivatePostgres::exists(&dir));
}

#[tokio::test]
async fn the_last_user_stops_the_cluster() {
    let (_parent, dir) = open_folder();
    let engine = start(&dir).await;
    let beside = start(&dir).await;
    assert!(beside.adopted());
    assert!(!engine.stop().await.unwrap(), "somebody uses it still");
    execute(&beside, "SELECT 1").await.unwrap();
    let pid = beside.pid();
    assert!(beside.stop().await.unwrap());
    assert!(is_gone(pid));
}

#[tokio::test]
async fn a_killed_postmaster_is_replaced_and_nothing_committed_is_lost() {
    let (_parent, dir) = open_folder();
    let first = start(&dir).await;
    execute(&first, "CREATE TABLE kept (fact text); INSERT INTO kept VALUES ('committed')").await.unwrap();
    kill(Pid::from_raw(first.pid()), Signal::SIGKILL).unwrap();
    drop(first);
    let second = start(&dir).await;
    assert!(!second.adopted());
    execute(&second, "DO $$ BEGIN ASSERT (SELECT fact FROM kept) = 'committed'; END $$").await.unwrap();
    second.destroy().await.unwrap();
}

#[tokio::test]
async fn it_works_where_only_the_owner_may_enter_and_in_a_long_path() {
    let parent = tempfile::tempdir().unwrap();
    fs::set_permissions(parent.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let dir = parent.path().join("a long name ".repeat(10)).join("data");
    let first = start(&dir).await;
    let note = first.location_note().expect("at least the socket had to move");
    let (pid, url, data) = (first.pid(), first.url(), first.data().to_owned());
    let socket = url.split("host=").nth(1).unwrap().split('&').next().unwrap().replace("%2F", "/");
    let inside = data.starts_with(dir.canonicalize().unwrap());
    assert_eq!(inside, !nix::unistd::geteuid().is_root(), "root gives the cluster to a user who may not enter here");
    let moved_to = if inside { Path::new(&socket) } else { data.parent().unwrap() };
    assert!(note.contains(moved_to.to_str().unwrap()), "{note}");
    let mode = fs::metadata(&socket).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "the mode of the socket's folder is the only key");
    execute(&first, "CREATE TABLE kept ()").await.unwrap();
    drop(first);

    let second = start(&dir).await;
    assert_eq!((second.adopted(), second.pid(), second.url()), (true, pid, url));
    second.stop().await.unwrap();
    assert!(!socket.starts_with("/tmp/ektola-") || !Path::new(&socket).exists(), "nothing is left in /tmp");
    let third = start(&dir).await;
    execute(&third, "SELECT FROM kept").await.unwrap();
    third.destroy().await.unwrap();
    assert!(!data.exists() && !Path::new(&socket).exists());
}

#[tokio::test]
async fn names_that_would_have_to_be_quoted_are_refused() {
    let (_parent, dir) = open_folder();
    let refused = PrivatePostgres::start(&dir, "x\"; DROP", PostgresOptions::for_tests()).await;
    assert!(matches!(refused, Err(PrivateServerError::BadName(_))), "{refused:?}");
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_rabbitmq_node_keeps_to_loopback_and_leaves_nothing() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data");
    let first = PrivateRabbitmq::start(&dir).await.unwrap();
    let (pid, ports, url) = (first.pid(), first.ports(), first.amqp_url());

    let (vhost, exposed) = create_vhost_and_watch(&first).await;
    assert_eq!(exposed, Vec::<String>::new());
    assert!(vhost.ends_with("/kept"));

    let node: Vec<Listener> = listeners_of(pid);
    assert!(node.iter().any(|found| found.port == ports[0]) && node.iter().any(|found| found.port == ports[1]));
    let of_ports = listeners().into_iter().filter(|found| ports.contains(&found.port));
    let foreign: Vec<String> = node
        .into_iter()
        .chain(of_ports)
        .filter(|found| !is_loopback(&found.address))
        .map(|found| format!("{}:{}", found.address, found.port))
        .collect();
    assert_eq!(foreign, Vec::<String>::new());

    drop(first);
    let second = PrivateRabbitmq::start(&dir).await.unwrap();
    assert_eq!((second.adopted(), second.pid(), second.amqp_url()), (true, pid, url));
    second.destroy().await.unwrap();
    assert!(is_gone(pid));
    let left = listeners().into_iter().filter(|found| ports.contains(&found.port)).count();
    assert_eq!(left, 0, "neither the node nor its epmd listens any more");
    assert!(!PrivateRabbitmq::exists(&dir));
}
