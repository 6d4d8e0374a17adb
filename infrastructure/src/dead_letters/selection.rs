//! Which letters a person means, page by page.

use std::collections::BTreeSet;

use sqlx::PgPool;

use super::{Handled, Source};

/// Letters that one transaction handles.
const PAGE: usize = 500;

/// Which letters are meant.
#[derive(Debug, Clone)]
pub enum Selection {
    Ids(Vec<i64>),
    /// All that there are now, of one source or of both.
    All(Option<Source>),
}

/// The ids of a selection in order. What is parked again while it is worked through is not among them.
pub(super) struct Pages {
    /// Those that were named.
    named: BTreeSet<i64>,
    /// `None` if they were named.
    all: Option<Option<Source>>,
    /// The last one of the last page.
    after: i64,
    /// The newest letter when the first page was asked for.
    last: Option<i64>,
}

impl Pages {
    pub(super) fn of(selection: &Selection) -> Self {
        let (named, all) = match selection {
            Selection::Ids(ids) => (ids.iter().copied().collect(), None),
            Selection::All(source) => (BTreeSet::new(), Some(*source)),
        };
        Self { named, all, after: i64::MIN, last: None }
    }

    pub(super) async fn next(&mut self, pool: &PgPool) -> Result<Option<Vec<i64>>, sqlx::Error> {
        let page: Vec<i64> = match self.all {
            None => self.named.iter().copied().filter(|id| *id > self.after).take(PAGE).collect(),
            Some(source) => self.next_of_all(pool, source).await?,
        };
        let Some(last) = page.last() else { return Ok(None) };
        self.after = *last;
        Ok(Some(page))
    }

    async fn next_of_all(&mut self, pool: &PgPool, source: Option<Source>) -> Result<Vec<i64>, sqlx::Error> {
        let last = match self.last {
            Some(last) => last,
            None => {
                let newest = sqlx::query_scalar!("SELECT max(id) FROM dead_letters").fetch_one(pool).await?;
                *self.last.insert(newest.unwrap_or(i64::MIN))
            }
        };
        sqlx::query_scalar!(
            "SELECT id FROM dead_letters
             WHERE id > $1 AND id <= $2 AND ($3::text IS NULL OR source = $3) ORDER BY id LIMIT $4",
            self.after,
            last,
            source.map(Source::name),
            i64::try_from(PAGE).unwrap_or(i64::MAX),
        )
        .fetch_all(pool)
        .await
    }

    /// Those that were named and that no letter has.
    pub(super) fn unknown(&self, handled: &[Handled]) -> Vec<i64> {
        let handled: BTreeSet<i64> = handled.iter().map(|handled| handled.id).collect();
        self.named.difference(&handled).copied().collect()
    }
}
