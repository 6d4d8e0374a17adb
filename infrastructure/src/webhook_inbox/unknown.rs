//! What WhatsApp sends that this release does not interpret, counted by name. The bodies are kept with the others.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Further names are not counted: whoever invents so many says nothing by them.
const NAMES_MAX: i64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum UnknownKind {
    /// A field of a change, or what stands under one.
    Field,
    Status,
    /// The kind of a message from a user.
    Message,
}

impl UnknownKind {
    fn name(self) -> &'static str {
        match self {
            Self::Field => "field",
            Self::Status => "status",
            Self::Message => "message",
        }
    }
}

/// How often each was seen, and in which body last.
#[derive(Default)]
pub(super) struct Unknown(BTreeMap<(UnknownKind, String), (i64, i64)>);

impl Unknown {
    pub(super) fn count(&mut self, kind: UnknownKind, name: &str, body_id: i64) {
        let (count, last_body_id) = self.0.entry((kind, name.to_owned())).or_default();
        *count += 1;
        *last_body_id = body_id;
    }

    /// In the transaction that ends the step, so that nothing is counted twice. In the order of the names, so that no two
    /// steps can deadlock.
    pub(super) async fn record_in_tx(
        self,
        connection: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<(), sqlx::Error> {
        for ((kind, name), (count, body_id)) in self.0 {
            sqlx::query!(
                "INSERT INTO webhook_unknown AS known (kind, name, count, last_body_id, last_seen_at)
                 SELECT $1, $2, $3, $4, $5
                 WHERE EXISTS (SELECT FROM webhook_unknown WHERE kind = $1 AND name = $2)
                    OR (SELECT count(*) FROM webhook_unknown) < $6
                 ON CONFLICT (kind, name) DO UPDATE
                 SET count = known.count + excluded.count, last_body_id = excluded.last_body_id,
                     last_seen_at = excluded.last_seen_at",
                kind.name(),
                name,
                count,
                body_id,
                now,
                NAMES_MAX,
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}
