//! A private RabbitMQ node: one data folder, loopback only.
//!
//! The packaged wrapper insists on the system's node; the script behind it takes a node name, folders, ports and a
//! cookie of our own. Everything that Erlang would open to the world is bound to loopback: AMQP by the configuration,
//! the distribution by the kernel's flag (of the node and of every control program), epmd by its environment. The epmd
//! has a port of its own and ends with the node.

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::account::Account;
use super::command::{poll, run};
use super::place::Place;
use super::server_log::ServerLog;
use super::{PrivateServerError, Result, blocking, process};

/// Names are local to an epmd, and every node has its own.
const NODE: &str = "ektola@localhost";
const START_LIMIT: Duration = Duration::from_secs(180);
const EPMD_LIMIT: Duration = Duration::from_secs(5);
const STOP_LIMIT: Duration = Duration::from_secs(90);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(2);
const LOOPBACK_ONLY: &str = "-kernel inet_dist_use_interface {127,0,0,1}";

/// A running node that this process uses. Dropped without `stop`, it goes on and is adopted by the next start.
#[derive(Debug)]
pub struct PrivateRabbitmq {
    node: Node,
    place: Place,
    /// The shared lock that says that we use the node.
    users: fs::File,
    adopted: bool,
}

#[derive(Debug)]
struct Node {
    account: Account,
    scripts: PathBuf,
    root: PathBuf,
    ports: Ports,
    pid: i32,
    /// Only when this process has started it.
    child: Option<Child>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    amqp: u16,
    distribution: u16,
    epmd: u16,
}

impl PrivateRabbitmq {
    /// The folder of the packaged scripts.
    pub fn find_scripts() -> Result<PathBuf> {
        let mut folders: Vec<PathBuf> =
            ["/usr/lib/rabbitmq/bin", "/opt/homebrew/opt/rabbitmq/sbin", "/usr/local/opt/rabbitmq/sbin"]
                .map(PathBuf::from)
                .to_vec();
        let versions = fs::read_dir("/usr/lib/rabbitmq/lib").into_iter().flatten().flatten();
        folders.extend(versions.map(|version| version.path().join("sbin")));
        folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        // Beside the system's wrapper, which refuses every user but its own, there is no rabbitmq-env.
        let complete = |folder: &PathBuf| {
            ["rabbitmq-server", "rabbitmqctl", "rabbitmq-env"].iter().all(|script| folder.join(script).is_file())
        };
        folders.into_iter().find(complete).ok_or_else(|| PrivateServerError::NotInstalled {
            what: "RabbitMQ",
            remedy: "install the package rabbitmq-server, or set AMQP_URL to a running broker".to_owned(),
        })
    }

    /// Has a node been made for this data folder?
    pub fn exists(dir: &Path) -> bool {
        matches!(Place::find(dir, "rabbitmq"), Ok(Some(place)) if place.root.join("mnesia").exists())
    }

    /// Starts the node of `dir`, or adopts it when it runs; makes it on first use.
    pub async fn start(dir: &Path) -> Result<Self> {
        let dir = dir.to_owned();
        blocking(move || Self::launch(&dir)).await
    }

    fn launch(dir: &Path) -> Result<Self> {
        let account = Account::for_server("rabbitmq", "install the package rabbitmq-server, which makes it")?;
        let scripts = Self::find_scripts()?;
        let place = Place::open(dir, "rabbitmq", &account)?;
        let starting = place.lock_start()?;
        let ports = Ports::read(&place.root)?.unwrap_or(Ports { amqp: 0, distribution: 0, epmd: 0 });
        let pid = read_pid(&place)?;
        let mut node = Node { account, scripts, root: place.root.clone(), ports, pid, child: None };
        let adopted = node.adopt()?;
        if !adopted {
            node.spawn(&place)?;
        }
        let users = place.join_users()?;
        drop(starting);
        Ok(Self { node, place, users, adopted })
    }

    /// The address of the node's default vhost.
    pub fn amqp_url(&self) -> String {
        self.vhost_url("%2f")
    }

    pub fn vhost_url(&self, vhost: &str) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/{vhost}", self.node.ports.amqp)
    }

    /// It ran already when this process came.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// The process id of the node.
    pub fn pid(&self) -> i32 {
        self.node.pid
    }

    /// The ports that the node and its epmd listen on: AMQP, distribution, epmd. All are on loopback.
    pub fn ports(&self) -> [u16; 3] {
        [self.node.ports.amqp, self.node.ports.distribution, self.node.ports.epmd]
    }

    /// Says where the node's data is when it is not inside the data folder.
    pub fn location_note(&self) -> Option<String> {
        self.place.moved.then(|| {
            format!(
                "RabbitMQ runs as the user {}, who may not enter the data folder; its data is in {}.",
                self.node.account.name(),
                self.place.root.display()
            )
        })
    }

    /// Makes a vhost in which the guest may do everything, and answers its address.
    pub async fn create_vhost(&self, name: &str) -> Result<String> {
        super::check_name(name)?;
        // One program in place of add_vhost and set_permissions: each would start an Erlang of its own.
        let expression = format!(
            "ok = rabbit_vhost:add(<<\"{name}\">>, <<\"ektola\">>), \
             ok = rabbit_auth_backend_internal:set_permissions(<<\"guest\">>, <<\"{name}\">>, <<\".*\">>, <<\".*\">>, \
             <<\".*\">>, <<\"ektola\">>)."
        );
        let mut control = self.node.control();
        control.args(["eval", &expression]);
        blocking(move || run(&mut control)).await?;
        Ok(self.vhost_url(name))
    }

    /// The queues of a vhost, and whether each of them survives the end of the node.
    pub async fn queues(&self, vhost: &str) -> Result<Vec<(String, bool)>> {
        super::check_name(vhost)?;
        let mut control = self.node.control();
        control.args(["list_queues", "--vhost", vhost, "--no-table-headers", "name", "durable"]);
        let listed = blocking(move || run(&mut control)).await?;
        let rows = listed.lines().filter_map(|line| line.rsplit_once('\t'));
        Ok(rows.map(|(name, durable)| (name.to_owned(), durable.trim() == "true")).collect())
    }

    /// Stops the node, unless another process uses it still; answers whether it was stopped.
    pub async fn stop(self) -> Result<bool> {
        blocking(move || self.stop_blocking()).await
    }

    pub fn stop_blocking(mut self) -> Result<bool> {
        let _starting = self.place.lock_start()?;
        if !self.place.leave_users(&self.users)? {
            return Ok(false);
        }
        self.node.stop()?;
        Ok(true)
    }

    /// Stops the node and removes it with all its data, wherever that is.
    pub async fn destroy(self) -> Result<()> {
        blocking(move || self.destroy_blocking()).await
    }

    pub fn destroy_blocking(mut self) -> Result<()> {
        self.node.stop()?;
        self.place.remove()
    }
}

impl Node {
    /// Takes over a node that runs in the folder already. One that is starting or stopping is waited for.
    fn adopt(&mut self) -> Result<bool> {
        poll("waiting for the running RabbitMQ to be ready", START_LIMIT, || {
            if !process::works_in(self.pid, &self.root) {
                return Ok(Some(false));
            }
            Ok(speaks_amqp(self.ports.amqp).then_some(true))
        })
    }

    fn spawn(&mut self, place: &Place) -> Result<()> {
        self.end_epmd_of_a_dead_node();
        if !self.ports.are_free() {
            self.ports = Ports::choose()?;
        }
        self.write_files()?;
        let log = ServerLog::open(&place.log_path())?;
        let mut command = self.command("rabbitmq-server");
        // Makes the script become the node, so that the id below is the node's.
        command.env("RUNNING_UNDER_SYSTEMD", "true");
        command.stdout(log.handle()?).stderr(log.handle()?);
        let mut child = command.spawn().map_err(PrivateServerError::io("start RabbitMQ"))?;
        self.pid = i32::try_from(child.id()).unwrap_or_default();
        write_pid(place, self.pid)?;
        let port = self.ports.amqp;
        let ready = poll("starting RabbitMQ", START_LIMIT, || {
            if child.try_wait().map_err(PrivateServerError::io("look after RabbitMQ"))?.is_some() {
                return Ok(Some(false));
            }
            Ok(speaks_amqp(port).then_some(true))
        })?;
        if !ready {
            self.end_epmd();
            let (log, tail) = (log.path().to_owned(), log.said());
            return Err(PrivateServerError::EndedEarly { server: "RabbitMQ", log, tail });
        }
        self.child = Some(child);
        Ok(())
    }

    /// One of the packaged scripts, pointed at our node and away from the system's.
    fn command(&self, script: &str) -> Command {
        let root = &self.root;
        let mut command = self.account.command(&self.scripts.join(script));
        command
            .current_dir(root)
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", root)
            .env("ERL_FLAGS", LOOPBACK_ONLY)
            .env("ERL_EPMD_ADDRESS", Ipv4Addr::LOCALHOST.to_string())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("RABBITMQ_NODENAME", NODE)
            .env("RABBITMQ_DIST_PORT", self.ports.distribution.to_string())
            .env("RABBITMQ_CONF_ENV_FILE", root.join("no-environment"))
            .env("RABBITMQ_CONFIG_FILE", root.join("rabbitmq.conf"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", root.join("no-advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", root.join("enabled_plugins"))
            .env("RABBITMQ_MNESIA_BASE", root.join("mnesia"))
            .env("RABBITMQ_MNESIA_DIR", root.join("mnesia/node"))
            .env("RABBITMQ_LOG_BASE", root.join("log"))
            .env("RABBITMQ_PID_FILE", root.join("node.pid"));
        command
    }

    fn control(&self) -> Command {
        let mut command = self.command("rabbitmqctl");
        command.stdout(Stdio::piped()).args(["--node", NODE, "--quiet"]);
        command
    }

    fn write_files(&self) -> Result<()> {
        self.ports.write(&self.root)?;
        let configuration = format!(
            "listeners.tcp.local = 127.0.0.1:{}\nlog.console = false\nlog.file.level = warning\n",
            self.ports.amqp
        );
        write(&self.root.join("rabbitmq.conf"), &configuration, 0o644)?;
        write(&self.root.join("enabled_plugins"), "[].\n", 0o644)?;
        let cookie = self.root.join(".erlang.cookie");
        if !cookie.exists() {
            // Erlang refuses a cookie that others may read.
            write(&cookie, &format!("{:032x}", rand::random::<u128>()), 0o400)?;
            self.account.give(&cookie)?;
        }
        Ok(())
    }

    /// RabbitMQ takes a SIGTERM as the request to shut down in order.
    fn stop(&mut self) -> Result<()> {
        if process::works_in(self.pid, &self.root) {
            process::send(self.pid, Signal::SIGTERM)?;
        }
        poll("stopping RabbitMQ", STOP_LIMIT, || {
            if let Some(child) = &mut self.child {
                return child.try_wait().map_err(PrivateServerError::io("wait for RabbitMQ"));
            }
            Ok((!process::works_in(self.pid, &self.root)).then(Default::default))
        })?;
        self.end_epmd();
        poll("stopping epmd", STOP_LIMIT, || Ok(TcpListener::bind(local(self.ports.epmd)).is_ok().then_some(())))
    }

    /// A node that was killed leaves its epmd behind, and with it one of its ports taken: the next node would get other
    /// ports, which nobody who is connected knows of.
    fn end_epmd_of_a_dead_node(&self) {
        if self.ports.epmd == 0 || TcpListener::bind(local(self.ports.epmd)).is_ok() {
            return;
        }
        self.end_epmd();
        let free = || Ok(TcpListener::bind(local(self.ports.epmd)).is_ok().then_some(()));
        // If it does not go, the port is somebody else's and another one is chosen.
        let _ = poll("waiting for the old epmd to end", EPMD_LIMIT, free);
    }

    fn end_epmd(&self) {
        let versions = fs::read_dir("/usr/lib/erlang").into_iter().flatten().flatten();
        let packaged = versions.map(|version| version.path().join("bin/epmd")).find(|epmd| epmd.is_file());
        let epmd = packaged.unwrap_or_else(|| PathBuf::from("epmd"));
        let mut command = self.account.command(&epmd);
        command.args(["-port", &self.ports.epmd.to_string(), "-kill"]);
        // It may have gone already; the caller sees by its port whether it has.
        let _ = run(&mut command);
    }
}

impl Ports {
    fn choose() -> Result<Self> {
        let reserve = || TcpListener::bind(local(0)).map_err(PrivateServerError::io("reserve a loopback port"));
        // All three are held at once, so that they differ.
        let held = [reserve()?, reserve()?, reserve()?];
        let port = |listener: &TcpListener| {
            listener.local_addr().map(|address| address.port()).map_err(PrivateServerError::io("ask for a port"))
        };
        Ok(Self { amqp: port(&held[0])?, distribution: port(&held[1])?, epmd: port(&held[2])? })
    }

    fn are_free(self) -> bool {
        [self.amqp, self.distribution, self.epmd]
            .into_iter()
            .all(|port| port != 0 && TcpListener::bind(local(port)).is_ok())
    }

    fn read(root: &Path) -> Result<Option<Self>> {
        match fs::read_to_string(root.join("ports")) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(PrivateServerError::io("read the node's ports")(error)),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
        Some(Self { amqp: ports.next()?, distribution: ports.next()?, epmd: ports.next()? })
    }

    fn write(self, root: &Path) -> Result<()> {
        write(&root.join("ports"), &format!("{} {} {}\n", self.amqp, self.distribution, self.epmd), 0o644)
    }
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The listener comes last in RabbitMQ's boot; one that answers the greeting with a method frame is ready.
fn speaks_amqp(port: u16) -> bool {
    let greet = || {
        let mut connection = TcpStream::connect_timeout(&local(port), HANDSHAKE_TIMEOUT)?;
        connection.set_read_timeout(Some(HANDSHAKE_TIMEOUT))?;
        connection.write_all(b"AMQP\x00\x00\x09\x01")?;
        let mut frame_type = [0];
        connection.read_exact(&mut frame_type)?;
        Ok::<_, std::io::Error>(frame_type == [1])
    };
    port != 0 && greet().unwrap_or(false)
}

fn read_pid(place: &Place) -> Result<i32> {
    match fs::read_to_string(place.pid_path()) {
        Ok(text) => Ok(text.trim().parse().unwrap_or_default()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(PrivateServerError::io("read the node's process id")(error)),
    }
}

fn write_pid(place: &Place, pid: i32) -> Result<()> {
    write(&place.pid_path(), &format!("{pid}\n"), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<()> {
    let options = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(path);
    options
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(PrivateServerError::io(format!("write {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chosen_ports_differ_and_are_found_again() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Ports::read(root.path()).unwrap(), None);
        let ports = Ports::choose().unwrap();
        assert!(ports.amqp != ports.distribution && ports.amqp != ports.epmd && ports.distribution != ports.epmd);
        ports.write(root.path()).unwrap();
        assert_eq!(Ports::read(root.path()).unwrap(), Some(ports));
        assert_eq!(Ports::parse("1 2"), None);
    }

    #[test]
    fn a_listener_that_does_not_greet_is_not_a_broker() {
        let listener = TcpListener::bind(local(0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let answering = std::thread::spawn(move || {
            let (mut connection, _) = listener.accept().unwrap();
            connection.write_all(b"HTTP/1.1 400 Bad Request\r\n").unwrap();
        });
        assert!(!speaks_amqp(port));
        answering.join().unwrap();
    }
}
