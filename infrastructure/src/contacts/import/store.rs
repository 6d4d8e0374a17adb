//! From the staging table into the contacts, in a few statements over all rows at once.
//!
//! First everything that will change is written down in temporary tables, then it is counted, then it is done. A
//! change never touches what was known before: the open version is closed at a position and a new one opened there.
//! Only what nobody can have read yet is changed in place, because a version that is closed where it began would have
//! been in force nowhere.

use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use sqlx::{Executor, PgConnection};

use crate::contacts::position::{lock_for_change_in_tx, next_position_in_tx};
use crate::postgres::PLAN_BY_SIZE;

/// The memory is enough to join a million rows; setting and tables go with the transaction.
const CREATE_STAGING: &str = "
SET LOCAL work_mem = '64MB';
CREATE TEMPORARY TABLE import_rows (
    row_number bigint NOT NULL,
    phone      text NOT NULL,
    attributes jsonb NOT NULL,
    segments   text[],
    -- NULL: the row says nothing.
    opt_in     boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE import_targets (
    contact_id    uuid NOT NULL,
    attributes    jsonb NOT NULL,
    changed       boolean NOT NULL,
    -- Where the open version begins; none for a new contact.
    open_position bigint,
    segments      text[],
    -- What is known from now on; NULL: as before.
    opt_in        boolean
) ON COMMIT DROP;
CREATE TEMPORARY TABLE import_segments (
    contact_id    uuid NOT NULL,
    segment       text NOT NULL,
    -- Where the row that has to end begins; none for a segment that is added.
    open_position bigint
) ON COMMIT DROP;";

pub(super) const COPY: &str = "COPY import_rows (row_number, phone, attributes, segments, opt_in) FROM STDIN";

const REMOVE_DUPLICATES: &str = "
WITH last AS (
    SELECT phone, max(row_number) AS row_number FROM import_rows GROUP BY phone HAVING count(*) > 1
)
DELETE FROM import_rows r USING last l WHERE r.phone = l.phone AND r.row_number < l.row_number";

// Sorted, so that the unique index grows in its own order whatever the order of the file. That a contact is uploaded
// counts as its agreement, unless the upload denies it.
const CREATE_CONTACTS: &str = "
INSERT INTO contacts (id, tenant_id, phone, created_at, opt_in, opt_in_at)
SELECT gen_random_uuid(), $1, r.phone, $3, coalesce(r.opt_in, true), $3 FROM import_rows r ORDER BY r.phone
ON CONFLICT (tenant_id, phone) DO NOTHING";

// A row that says nothing of the agreement leaves a `no` of an earlier upload as it is.
const FIND_TARGETS: &str = "
INSERT INTO import_targets (contact_id, attributes, changed, open_position, segments, opt_in)
SELECT c.id,
       coalesce(v.attributes, '{}') || r.attributes,
       v.attributes IS NULL OR v.attributes || r.attributes <> v.attributes,
       v.from_position,
       r.segments,
       nullif(coalesce(r.opt_in, c.opt_in, true), c.opt_in)
FROM import_rows r
JOIN contacts c ON c.tenant_id = $1 AND c.phone = r.phone
LEFT JOIN contact_versions v ON v.contact_id = c.id AND v.to_position IS NULL";

const FIND_SEGMENTS: &str = "
INSERT INTO import_segments (contact_id, segment, open_position)
SELECT s.contact_id, s.segment, s.from_position
FROM import_targets t
JOIN contact_segments s ON s.contact_id = t.contact_id AND s.tenant_id = $1 AND s.to_position IS NULL
WHERE s.segment <> ALL (t.segments)
UNION ALL
SELECT t.contact_id, named.segment, NULL
FROM import_targets t
CROSS JOIN unnest(t.segments) AS named (segment)
LEFT JOIN contact_segments s
    ON s.contact_id = t.contact_id AND s.tenant_id = $1 AND s.segment = named.segment AND s.to_position IS NULL
WHERE s.contact_id IS NULL";

const COUNT_CHANGED: &str = "
SELECT t.contact_id FROM import_targets t
WHERE t.changed OR t.opt_in IS NOT NULL OR EXISTS (SELECT FROM import_segments s WHERE s.contact_id = t.contact_id)";

const APPLY: [&str; 7] = [
    "UPDATE contacts c SET opt_in = t.opt_in, opt_in_at = $3
     FROM import_targets t
     WHERE t.opt_in IS NOT NULL AND c.id = t.contact_id",
    "UPDATE contact_versions v SET to_position = $2
     FROM import_targets t
     WHERE t.changed AND v.contact_id = t.contact_id AND v.from_position = t.open_position AND t.open_position < $2",
    "UPDATE contact_versions v SET attributes = t.attributes
     FROM import_targets t
     WHERE t.changed AND v.contact_id = t.contact_id AND v.from_position = t.open_position AND t.open_position >= $2",
    "INSERT INTO contact_versions (contact_id, from_position, attributes)
     SELECT t.contact_id, $2, t.attributes
     FROM import_targets t
     WHERE t.changed AND (t.open_position IS NULL OR t.open_position < $2)
     ORDER BY t.contact_id",
    "UPDATE contact_segments s SET to_position = $2, removed_at = $3
     FROM import_segments i
     WHERE s.tenant_id = $1 AND s.segment = i.segment AND s.contact_id = i.contact_id
       AND s.from_position = i.open_position AND i.open_position < $2",
    "DELETE FROM contact_segments s
     USING import_segments i
     WHERE s.tenant_id = $1 AND s.segment = i.segment AND s.contact_id = i.contact_id
       AND s.from_position = i.open_position AND i.open_position >= $2",
    "INSERT INTO contact_segments (tenant_id, segment, contact_id, from_position, added_at)
     SELECT $1, i.segment, i.contact_id, $2, $3
     FROM import_segments i
     WHERE i.open_position IS NULL
     ORDER BY i.segment, i.contact_id",
];

/// What became of the rows that were not rejected.
pub(super) struct Merged {
    pub(super) created: u64,
    pub(super) updated: u64,
    pub(super) unchanged: u64,
    pub(super) duplicate: u64,
    pub(super) position: i64,
}

pub(super) async fn create_staging_in_tx(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    connection.execute(PLAN_BY_SIZE).await?;
    connection.execute(CREATE_STAGING).await?;
    Ok(())
}

pub(super) async fn merge_in_tx(
    connection: &mut PgConnection,
    tenant: TenantId,
    now: DateTime<Utc>,
) -> Result<Merged, sqlx::Error> {
    let duplicate = connection.execute(REMOVE_DUPLICATES).await?.rows_affected();
    connection.execute("ANALYZE import_rows").await?;
    lock_for_change_in_tx(connection, tenant).await?;
    let from_position = next_position_in_tx(connection).await?;
    let mut merge = Merge { connection, tenant, from_position, now };
    let created = merge.run(CREATE_CONTACTS).await?;
    let targets = merge.run(FIND_TARGETS).await?;
    merge.connection.execute("ANALYZE import_targets").await?;
    merge.run(FIND_SEGMENTS).await?;
    merge.connection.execute("ANALYZE import_segments").await?;
    let changed = merge.run(COUNT_CHANGED).await?;
    for statement in APPLY {
        merge.run(statement).await?;
    }
    // A new contact always gets its first version, so it is among the changed ones.
    Ok(Merged {
        created,
        updated: changed - created,
        unchanged: targets - changed,
        duplicate,
        position: from_position - 1,
    })
}

struct Merge<'a> {
    connection: &'a mut PgConnection,
    tenant: TenantId,
    from_position: i64,
    now: DateTime<Utc>,
}

impl Merge<'_> {
    /// Every statement may use the tenant as `$1`, the position as `$2` and the time as `$3`.
    #[expect(clippy::disallowed_methods, reason = "a temporary table is not in the schema that query! checks against")]
    async fn run(&mut self, statement: &'static str) -> Result<u64, sqlx::Error> {
        let result = sqlx::query(statement)
            .persistent(false)
            .bind(self.tenant.0)
            .bind(self.from_position)
            .bind(self.now)
            .execute(&mut *self.connection)
            .await?;
        Ok(result.rows_affected())
    }
}
