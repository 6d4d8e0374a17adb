//! Rules of the house that a compiler does not hold: the line of dependencies, one sqlx, one TLS provider, the size of
//! files, and what the domain may not touch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests lie in the workspace").to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust files below a folder, as paths from the root.
fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The normal dependencies of a crate on other crates of the workspace.
fn workspace_dependencies(krate: &str) -> BTreeSet<String> {
    let manifest = read(&format!("{krate}/Cargo.toml"));
    let normal = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).unwrap_or_default();
    normal
        .lines()
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| ["domain", "infrastructure", "projections", "api", "test_kit"].contains(name))
        .map(str::to_owned)
        .collect()
}

#[test]
fn dependencies_run_in_one_line() {
    let line = ["domain", "infrastructure", "projections", "api"];
    for (place, krate) in line.iter().enumerate() {
        let allowed: BTreeSet<String> = line[..place].iter().map(|name| (*name).to_owned()).collect();
        let found = workspace_dependencies(krate);
        assert!(found.is_subset(&allowed), "{krate} may depend on {allowed:?}, and depends on {found:?}");
    }
    assert!(
        workspace_dependencies("infrastructure").contains("domain"),
        "the manifests are not read as they are written"
    );
}

#[test]
fn the_domain_does_no_io() {
    let forbidden = ["tokio", "sqlx", "reqwest", "lapin", "axum", "rand", "tracing"];
    let manifest = read("domain/Cargo.toml");
    let normal = manifest.split("\n[").find(|section| section.starts_with("dependencies]")).expect("dependencies");
    for name in forbidden {
        assert!(!normal.lines().any(|line| line.starts_with(name)), "the domain depends on {name}");
    }
    for file in sources("domain/src") {
        let text = std::fs::read_to_string(&file).expect("a source file");
        for word in ["std::fs", "std::net", "std::env", "SystemTime", "Utc::now", "new_v4", "now_v7"] {
            assert!(!text.contains(word), "{} uses {word}", file.display());
        }
    }
}

#[test]
fn there_is_one_sqlx_and_one_tls_provider() {
    let lock = read("Cargo.lock");
    let packages = |name: &str| lock.matches(&format!("name = \"{name}\"\n")).count();
    assert_eq!(packages("sqlx"), 1);
    assert_eq!(packages("lapin"), 1);
    assert_eq!(packages("reqwest"), 1);
    // With two providers rustls cannot choose and fails at the first connection. The lock file names ring, as an option
    // that nobody takes; what counts is what is built.
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--prefix", "none", "--edges", "normal,build"])
        .current_dir(root())
        .output()
        .expect("cargo can be run");
    let tree = String::from_utf8_lossy(&tree.stdout).into_owned();
    assert!(tree.lines().any(|line| line.starts_with("aws-lc-rs ")), "the tree was not read: {tree}");
    assert!(!tree.lines().any(|line| line.starts_with("ring ")), "ring is a second TLS provider beside aws-lc");
}

/// 600 lines at the very most, tests apart.
#[test]
fn no_file_is_too_long() {
    const LINES_MAX: usize = 600;
    for krate in ["domain", "infrastructure", "projections", "api", "tests"] {
        for file in sources(&format!("{krate}/src")) {
            if file.file_name().is_some_and(|name| name.to_string_lossy().contains("tests")) {
                continue;
            }
            let text = std::fs::read_to_string(&file).expect("a source file");
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
            let lines = code.lines().count();
            assert!(lines <= LINES_MAX, "{} has {lines} lines; it wants two rooms", file.display());
        }
    }
}

/// A file of a name that says nothing is where structure goes to die.
#[test]
fn no_file_has_a_name_that_says_nothing() {
    for krate in ["domain", "infrastructure", "projections", "api", "tests"] {
        for file in sources(&format!("{krate}/src")) {
            let stem = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let says_nothing = ["utils", "util", "helpers", "common", "types", "misc", "manager"];
            assert!(!says_nothing.contains(&stem.as_str()), "{}", file.display());
        }
    }
}

/// Personal data lives in the named tables only; a read model or an event row must not grow such a column.
#[test]
fn personal_columns_lie_in_the_erasable_tables_only() {
    for migration in [
        "0001_event_log",
        "0002_reference_data",
        "0004_reactions",
        "0005_read_models",
        "0006_dead_letters",
        "0007_pacing",
        "0008_ready_list",
    ] {
        let text = read(&format!("migrations/{migration}.sql"));
        for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
            let column = line.split_whitespace().next().unwrap_or_default();
            assert!(
                !["phone", "wamid", "variables", "attributes", "recipient"].contains(&column)
                    || line.contains("text[]"),
                "{migration}: {line}"
            );
        }
    }
}
