//! Lists: their query parameters and their pages.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use axum::extract::Query;
use axum::http::Uri;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::fields::Faults;
use super::problem::Answer;
use crate::config::HttpConfig;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Page<T> {
    pub(super) items: Vec<T>,
    /// The `cursor` of the next page; null if this is the last.
    pub(super) next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// `found` holds one item more than the limit if there is a next page. The cursor is the last item's.
    pub(super) fn of<R>(
        mut found: Vec<R>,
        limit: u32,
        cursor: impl Fn(&R) -> String,
        item: impl FnMut(R) -> T,
    ) -> Self {
        let size = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = found.len() > size;
        found.truncate(size);
        let next_cursor = found.last().filter(|_| more).map(cursor);
        Self { items: found.into_iter().map(item).collect(), next_cursor }
    }
}

/// The query parameters of a request, each at most once.
pub(super) struct Parameters(BTreeMap<String, String>);

impl Parameters {
    pub(super) fn of(uri: &Uri, known: &[&str], faults: &mut Faults) -> Self {
        let pairs = match Query::<Vec<(String, String)>>::try_from_uri(uri) {
            Ok(Query(pairs)) => pairs,
            Err(_) => {
                faults.push("", "the query cannot be read");
                Vec::new()
            }
        };
        let mut parameters = BTreeMap::new();
        for (name, value) in pairs {
            if !known.contains(&name.as_str()) {
                faults.unknown("", &name, known);
            } else if value.contains('\0') {
                faults.push(name, "must not contain the character U+0000");
            } else {
                match parameters.entry(name) {
                    Entry::Vacant(place) => drop(place.insert(value)),
                    Entry::Occupied(taken) => faults.push(taken.key(), "is given twice"),
                }
            }
        }
        Self(parameters)
    }

    /// A parameter without a value is the same as none.
    pub(super) fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name).filter(|value| !value.is_empty())
    }
}

/// Which page is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PageRequest<C> {
    pub(super) cursor: Option<C>,
    pub(super) limit: u32,
}

impl<C> PageRequest<C> {
    fn of(
        parameters: &mut Parameters,
        config: &HttpConfig,
        faults: &mut Faults,
        parse: impl Fn(String) -> Option<C>,
    ) -> Self {
        let limit = match parameters.take("limit").map(|text| text.parse::<u32>()) {
            None => config.list_limit_default,
            Some(Ok(limit)) if (1..=config.list_limit_max).contains(&limit) => limit,
            Some(_) => {
                faults.push("limit", format!("must be a number from 1 to {}", config.list_limit_max));
                config.list_limit_default
            }
        };
        let cursor = parameters.take("cursor").and_then(|text| {
            let cursor = parse(text);
            if cursor.is_none() {
                faults.push("cursor", "must be the next_cursor of the page before");
            }
            cursor
        });
        Self { cursor, limit }
    }

    /// How many items to ask for so as to know whether there is a next page.
    pub(super) fn wanted(&self) -> u32 {
        self.limit.saturating_add(1)
    }
}

impl PageRequest<Uuid> {
    pub(super) fn by_id(parameters: &mut Parameters, config: &HttpConfig, faults: &mut Faults) -> Self {
        Self::of(parameters, config, faults, |text| text.parse().ok())
    }

    /// For lists without filters.
    pub(super) fn only(uri: &Uri, config: &HttpConfig) -> Answer<Self> {
        let mut faults = Faults::default();
        let mut parameters = Parameters::of(uri, &["cursor", "limit"], &mut faults);
        let page = Self::by_id(&mut parameters, config, &mut faults);
        faults.check()?;
        Ok(page)
    }
}

impl PageRequest<i64> {
    pub(super) fn by_number(parameters: &mut Parameters, config: &HttpConfig, faults: &mut Faults) -> Self {
        Self::of(parameters, config, faults, |text| text.parse().ok())
    }
}

/// For lists in the order of a time: the time in microseconds and the id of the last item.
impl PageRequest<(DateTime<Utc>, Uuid)> {
    pub(super) fn by_time(parameters: &mut Parameters, config: &HttpConfig, faults: &mut Faults) -> Self {
        Self::of(parameters, config, faults, |text| {
            let (micros, id) = text.split_once('.')?;
            Some((DateTime::from_timestamp_micros(micros.parse().ok()?)?, id.parse().ok()?))
        })
    }
}

pub(super) fn time_cursor(at: DateTime<Utc>, id: Uuid) -> String {
    format!("{}.{id}", at.timestamp_micros())
}

impl PageRequest<String> {
    /// For lists in the order of a name.
    pub(super) fn only_by_name(uri: &Uri, config: &HttpConfig) -> Answer<Self> {
        let mut faults = Faults::default();
        let mut parameters = Parameters::of(uri, &["cursor", "limit"], &mut faults);
        let page = Self::of(&mut parameters, config, &mut faults, Some);
        faults.check()?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use super::super::problem::ProblemKind;
    use super::*;
    use crate::config::Config;

    fn request(query: &str) -> Answer<PageRequest<Uuid>> {
        PageRequest::only(&format!("/v1/campaigns{query}").parse().unwrap(), &Config::default().http)
    }

    #[test]
    fn a_page_has_a_size_and_a_beginning() {
        assert_eq!(request("").unwrap(), PageRequest { cursor: None, limit: 100 });
        let id = Uuid::from_u128(7);
        let asked = request(&format!("?limit=1000&cursor={id}")).unwrap();
        assert_eq!((asked.cursor, asked.limit, asked.wanted()), (Some(id), 1000, 1001));
        assert_eq!(request("?cursor=&limit=").unwrap(), PageRequest { cursor: None, limit: 100 });
    }

    #[test]
    fn every_wrong_parameter_is_named() {
        for limit in ["0", "1001", "-1", "ten", "1.5"] {
            let problem = request(&format!("?limit={limit}&cursor=x")).unwrap_err();
            let fields: Vec<&str> = problem.faults.iter().map(|fault| fault.field.as_str()).collect();
            assert_eq!((problem.kind, fields.as_slice()), (ProblemKind::InvalidFields, ["limit", "cursor"].as_slice()));
        }
        assert_eq!(request("?limt=5").unwrap_err().kind, ProblemKind::UnknownField);
        assert_eq!(request("?limit=5&limit=6").unwrap_err().faults[0].reason, "is given twice");
    }

    #[test]
    fn only_a_page_with_a_next_one_has_a_cursor() {
        let page = |found: Vec<u32>| Page::of(found, 2, u32::to_string, |n| n);
        assert_eq!(page(vec![1, 2]).next_cursor, None);
        let first = page(vec![1, 2, 3]);
        assert_eq!((first.items, first.next_cursor.as_deref()), (vec![1, 2], Some("2")));
        assert_eq!(page(Vec::new()).next_cursor, None);
    }
}
