//! What is fuzzed, and what must hold for every input.
//!
//! A check returns a few words for what became of the input. An input with new words becomes a seed itself: a poor
//! man's coverage, that leads to places where a single change does not.

mod answers;
mod catalog;
mod config;
mod contacts;
mod keywords;
mod phones;
mod signatures;
mod templates;
mod webhooks;

pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    /// The words for what became of the input, or which promise was broken.
    pub(crate) check: fn(&[u8]) -> Result<String, String>,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "webhook", seeds: webhooks::seeds, check: webhooks::check },
    Target { name: "answer", seeds: answers::seeds, check: answers::check },
    Target { name: "template", seeds: templates::seeds, check: templates::check },
    Target { name: "catalog", seeds: catalog::seeds, check: catalog::check },
    Target { name: "contacts", seeds: contacts::seeds, check: contacts::check },
    Target { name: "phone", seeds: phones::seeds, check: phones::check },
    Target { name: "keyword", seeds: keywords::seeds, check: keywords::check },
    Target { name: "signature", seeds: signatures::seeds, check: signatures::check },
    Target { name: "config-file", seeds: config::file_seeds, check: config::check_file },
    Target { name: "config-environment", seeds: config::environment_seeds, check: config::check_environment },
];

pub(crate) fn find(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

/// Fails with the words unless the promise is kept.
fn promise(kept: bool, words: &str) -> Result<(), String> {
    if kept { Ok(()) } else { Err(words.to_owned()) }
}

/// Postgres cannot store it.
fn without_nul(text: &str, what: &str) -> Result<(), String> {
    if text.contains('\0') { Err(format!("{what} holds U+0000")) } else { Ok(()) }
}
