//! Where a server of a data folder keeps its files, and who uses it at the moment.
//!
//! The home, `DIR/<server>`, belongs to us and holds two locks. The root holds the server's own files and belongs to
//! its user. It is `home/node`, unless that user may not go there (the checkout of a root that keeps others out); then
//! it is a folder of the system whose random name the home remembers, so that the same data folder finds it again and
//! a new data folder of the same name never meets the data of a removed one.
//!
//! Every process that uses the server holds `users.lock` shared; whoever starts or stops it holds `start.lock`. So the
//! last user stops the server, and none stops it under another's feet. The kernel drops both locks with the process.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::account::Account;
use super::command::poll;
use super::{PrivateServerError, Result};

/// Where root keeps the files of servers that may not enter the data folder.
const SYSTEM_BASE: &str = "/var/lib/ektola";
/// Longer than any start that recovers after a crash.
const LOCK_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Place {
    home: PathBuf,
    /// The server's own files; only its user and root may enter.
    pub(super) root: PathBuf,
    /// The root is not inside the data folder.
    pub(super) moved: bool,
}

impl Place {
    /// Finds the place of the server of `dir`, or makes it.
    pub(super) fn open(dir: &Path, server: &str, account: &Account) -> Result<Self> {
        create_all(dir)?;
        let dir = dir.canonicalize().map_err(PrivateServerError::io(format!("find {}", dir.display())))?;
        let home = dir.join(server);
        create_all(&home)?;
        let (root, moved) = match remembered(&home)? {
            Some(id) => (Path::new(SYSTEM_BASE).join(id), true),
            None => Self::choose(&home, account)?,
        };
        if moved {
            create_all(Path::new(SYSTEM_BASE))?;
            set_mode(Path::new(SYSTEM_BASE), 0o755)?;
        }
        create_private(&root, account)?;
        if !account.can_enter(&root)? {
            return Err(PrivateServerError::Unreachable { user: account.name().to_owned(), folder: root });
        }
        Ok(Self { home, root, moved })
    }

    /// The place of a server that this folder has had before; nothing is made.
    pub(super) fn find(dir: &Path, server: &str) -> Result<Option<Self>> {
        let Ok(dir) = dir.canonicalize() else { return Ok(None) };
        let home = dir.join(server);
        let (root, moved) = match remembered(&home)? {
            Some(id) => (Path::new(SYSTEM_BASE).join(id), true),
            None => (home.join("node"), false),
        };
        Ok(root.is_dir().then_some(Self { home, root, moved }))
    }

    fn choose(home: &Path, account: &Account) -> Result<(PathBuf, bool)> {
        let inside = home.join("node");
        if inside.exists() || account.can_enter(home)? {
            return Ok((inside, false));
        }
        let id = format!("{:032x}", rand::random::<u128>());
        let file = home.join("location");
        fs::write(&file, &id).map_err(PrivateServerError::io(format!("write {}", file.display())))?;
        Ok((Path::new(SYSTEM_BASE).join(id), true))
    }

    pub(super) fn log_path(&self) -> PathBuf {
        self.home.join("log")
    }

    pub(super) fn pid_path(&self) -> PathBuf {
        self.home.join("pid")
    }

    /// Makes this process a user of the server until the file is dropped.
    pub(super) fn join_users(&self) -> Result<File> {
        let file = self.lock_file("users.lock")?;
        poll("waiting for another process to stop the server", LOCK_LIMIT, || taken(file.try_lock_shared()))?;
        Ok(file)
    }

    /// Ends this process' use. Answers whether it was the last, in which case nobody else joins while the file lives.
    pub(super) fn leave_users(&self, users: &File) -> Result<bool> {
        users.unlock().map_err(PrivateServerError::io("leave the users of the server"))?;
        Ok(taken(users.try_lock())?.is_some())
    }

    /// The right to start or stop the server, until the file is dropped.
    pub(super) fn lock_start(&self) -> Result<File> {
        let file = self.lock_file("start.lock")?;
        poll("waiting for another process to start or stop the server", LOCK_LIMIT, || taken(file.try_lock()))?;
        Ok(file)
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.home.join(name);
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true);
        options.open(&path).map_err(PrivateServerError::io(format!("open {}", path.display())))
    }

    /// Removes the server's files, wherever they are.
    pub(super) fn remove(self) -> Result<()> {
        for folder in [&self.root, &self.home] {
            match fs::remove_dir_all(folder) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(PrivateServerError::io(format!("remove {}", folder.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn taken(attempt: Result<(), TryLockError>) -> Result<Option<()>> {
    match attempt {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(PrivateServerError::io("lock the server's folder")(error)),
    }
}

/// The name of the folder outside, if the server of this home has one.
fn remembered(home: &Path) -> Result<Option<String>> {
    let file = home.join("location");
    match fs::read_to_string(&file) {
        // Only a name that we could have written ourselves: it becomes a path that root follows.
        Ok(id) if id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) => Ok(Some(id)),
        Ok(_) => Err(PrivateServerError::Untrusted(file)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PrivateServerError::io(format!("read {}", file.display()))(error)),
    }
}

/// A short folder for sockets that is the same on every start: inside the root, or in `/tmp` when the path would be
/// too long for a socket or holds characters that the server's settings would have to quote.
pub(super) fn socket_folder(root: &Path, socket_name: &str, account: &Account) -> Result<(PathBuf, bool)> {
    /// The kernel's limit is 107 on Linux and 103 on macOS.
    const SOCKET_PATH_BYTES_MAX: usize = 100;
    let inside = root.join("socket");
    let path = inside.join(socket_name);
    let plain = path.to_str().is_some_and(|path| {
        path.len() <= SOCKET_PATH_BYTES_MAX
            && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+".contains(&byte))
    });
    let (folder, moved) = if plain { (inside, false) } else { (short_folder(root, account), true) };
    create_private(&folder, account)?;
    Ok((folder, moved))
}

fn short_folder(root: &Path, account: &Account) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let hash = Sha256::digest(root.as_os_str().as_bytes());
    let hash: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    PathBuf::from(format!("/tmp/ektola-{}-{hash}", account.uid()))
}

/// Makes the folder so that only the server's user may enter it, or checks that it is so already: in `/tmp` anybody
/// could have made it before us.
pub(super) fn create_private(folder: &Path, account: &Account) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => account.give(folder),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            let found = fs::symlink_metadata(folder);
            let found = found.map_err(PrivateServerError::io(format!("look at {}", folder.display())))?;
            let private = found.is_dir() && found.mode() & 0o077 == 0;
            if private && found.uid() == account.uid() {
                Ok(())
            } else if private && account.drops_root() && found.uid() == 0 {
                // Ours, from a start that was killed before it could give the folder away.
                account.give(folder)
            } else {
                Err(PrivateServerError::Untrusted(folder.to_owned()))
            }
        }
        Err(error) => Err(PrivateServerError::io(format!("create {}", folder.display()))(error)),
    }
}

fn create_all(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(PrivateServerError::io(format!("create {}", folder.display())))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(PrivateServerError::io(format!("set the mode of {}", path.display())))
}
