//! Finding the installed Postgres.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::command::run;
use super::{PrivateServerError, Result};

/// The oldest major version that the migrations and queries need.
const MAJOR_MIN: u32 = 14;
/// Folders of folders that hold `bin`, one per installed version: Debian, Red Hat, Homebrew.
const VERSIONED: [(&str, &str); 4] = [
    ("/usr/lib/postgresql", ""),
    ("/usr", "pgsql-"),
    ("/opt/homebrew/opt", "postgresql"),
    ("/usr/local/opt", "postgresql"),
];

/// An installed Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// Holds `initdb` and `postgres`.
    pub folder: PathBuf,
    pub major: u32,
}

pub(super) fn newest() -> Result<Binaries> {
    installed().into_iter().max_by_key(|binaries| binaries.major).ok_or_else(|| PrivateServerError::NotInstalled {
        what: "Postgres 14 or newer",
        remedy: "install the package postgresql, or set DATABASE_URL to a running server".to_owned(),
    })
}

/// Those that can read the cluster in `data`; the newest when there is none yet.
pub(super) fn for_cluster(data: &Path) -> Result<Binaries> {
    let newest = newest()?;
    if !data.exists() {
        return Ok(newest);
    }
    let version = fs::read_to_string(data.join("PG_VERSION"));
    let version = version.map_err(PrivateServerError::io(format!("read PG_VERSION in {}", data.display())))?;
    let major = version.trim().parse().unwrap_or_default();
    installed().into_iter().find(|binaries| binaries.major == major).ok_or_else(|| {
        PrivateServerError::VersionMismatch {
            folder: data.to_owned(),
            data: major,
            installed: newest.major.to_string(),
        }
    })
}

fn installed() -> Vec<Binaries> {
    let mut folders: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect())
        .unwrap_or_default();
    for (parent, prefix) in VERSIONED {
        let entries = fs::read_dir(parent).into_iter().flatten().flatten();
        let matching = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
        folders.extend(matching.map(|entry| entry.path().join("bin")));
    }
    folders.into_iter().filter_map(|folder| probe(&folder)).collect()
}

fn probe(folder: &Path) -> Option<Binaries> {
    if !folder.join("initdb").is_file() {
        return None;
    }
    let said = run(Command::new(folder.join("postgres")).arg("--version")).ok()?;
    let major = major_version(&said).filter(|major| *major >= MAJOR_MIN)?;
    Some(Binaries { folder: folder.to_owned(), major })
}

/// From `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)` or `postgres (PostgreSQL) 18beta1`.
fn major_version(said: &str) -> Option<u32> {
    let version = said.split_whitespace().nth(2)?;
    let digits = version.find(|character: char| !character.is_ascii_digit()).map_or(version, |end| &version[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_every_form() {
        for (said, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 9.6.24", Some(9)),
            ("postgres", None),
        ] {
            assert_eq!(major_version(said), major, "{said}");
        }
    }

    #[test]
    fn a_cluster_of_a_version_that_is_not_installed_is_refused() {
        let data = tempfile::tempdir().unwrap();
        fs::write(data.path().join("PG_VERSION"), "9\n").unwrap();
        let refused = for_cluster(data.path());
        assert!(matches!(refused, Err(PrivateServerError::VersionMismatch { data: 9, .. })), "{refused:?}");
    }
}
