use std::fmt;

use jiff::tz::{TimeZone, TimeZoneDatabase};
use thiserror::Error;

const SUGGESTIONS_MAX: usize = 3;

/// How alike two names must be for one to be suggested in place of the other; 1 is the same.
const SIMILARITY_MIN: f64 = 0.8;

/// No zone has this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub struct UnknownZone {
    pub zone: String,
    /// Names like it, the likeliest first.
    pub near: Vec<String>,
}

impl fmt::Display for UnknownZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no time zone {:?}", self.zone)?;
        if self.near.is_empty() {
            write!(f, "; write an IANA name such as Asia/Kolkata")
        } else {
            write!(f, "; did you mean {}?", self.near.join(" or "))
        }
    }
}

pub(super) struct Zone {
    /// As the database spells it.
    pub(super) name: String,
    pub(super) rules: TimeZone,
}

pub(super) fn find(name: &str) -> Result<Zone, UnknownZone> {
    match TimeZoneDatabase::bundled().get(name) {
        Ok(rules) if !rules.is_unknown() => {
            let name = rules.iana_name().unwrap_or(name).to_owned();
            Ok(Zone { name, rules })
        }
        _ => Err(UnknownZone { zone: name.to_owned(), near: near(name) }),
    }
}

fn near(name: &str) -> Vec<String> {
    let wanted = name.trim().to_ascii_lowercase().replace(' ', "_");
    let city = city_of(&wanted);
    let mut candidates: Vec<(f64, String)> = TimeZoneDatabase::bundled()
        .available()
        .map(|zone| {
            let known = zone.as_str().to_ascii_lowercase();
            let whole = strsim::jaro_winkler(&wanted, &known);
            let likeness = if city.len() < 4 { whole } else { whole.max(strsim::jaro_winkler(city, city_of(&known))) };
            (likeness, zone.as_str().to_owned())
        })
        .filter(|(likeness, _)| *likeness >= SIMILARITY_MIN)
        .collect();
    candidates.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    candidates.into_iter().take(SUGGESTIONS_MAX).map(|(_, zone)| zone).collect()
}

fn city_of(name: &str) -> &str {
    name.rsplit_once('/').map_or(name, |(_, city)| city)
}
