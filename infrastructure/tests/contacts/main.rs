//! The import of contacts, what can be asked of them and the audience of a run, against the real schema.

#![expect(clippy::unwrap_used, reason = "a failure anywhere fails the test")]

mod audience;
mod imports;
mod listing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{ContactId, TenantId};
use domain::phone::{Phone, normalize};
use infrastructure::contacts::{
    AudienceMember, ContactFilter, FileFault, ImportError, ImportOptions, ImportProgress, ImportReport, ImportStage,
    SegmentCount, audience_member, audience_page, ensure_contact, find_by_phone, import, list_contacts, list_segments,
    segment_exists,
};
use infrastructure::tenants;
use sqlx::{Connection, Executor, PgPool};
use tempfile::NamedTempFile;
use test_kit::postgres::TestDatabase;
use test_kit::wait;
use uuid::Uuid;

pub(crate) const FIRST: ContactId = ContactId(Uuid::nil());
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

pub(crate) fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_790_000_000 + second, 0).unwrap()
}

pub(crate) async fn tenant(pool: &PgPool, name: &str) -> TenantId {
    tenants::create_tenant(pool, name, "Asia/Kolkata", at(0)).await.unwrap().id
}

pub(crate) fn file(bytes: impl AsRef<[u8]>) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes.as_ref()).unwrap();
    file
}

pub(crate) async fn try_upload(
    pool: &PgPool,
    tenant: TenantId,
    bytes: impl AsRef<[u8]>,
) -> Result<ImportReport, ImportError> {
    let file = file(bytes);
    let report = import(pool, tenant, file.path(), at(1), &ImportOptions::default(), |_| {}).await?;
    let sum = report.created + report.updated + report.unchanged + report.duplicate + report.rejected;
    assert_eq!(report.rows, sum, "{report:?}");
    Ok(report)
}

pub(crate) async fn upload(pool: &PgPool, tenant: TenantId, bytes: impl AsRef<[u8]>) -> ImportReport {
    try_upload(pool, tenant, bytes).await.unwrap()
}

/// Created, updated, unchanged, duplicate, rejected.
pub(crate) fn counts(report: &ImportReport) -> [u64; 5] {
    [report.created, report.updated, report.unchanged, report.duplicate, report.rejected]
}

/// Something happens elsewhere: the log grows by one event, whose position is returned.
pub(crate) async fn log_grows(pool: &PgPool, tenant: TenantId) -> i64 {
    let insert = format!(
        "INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
        VALUES ('Test', '{}', 1, 'Tested', '1', '{{}}', '{{\"tenant_id\": \"{tenant}\"}}')",
        Uuid::new_v4()
    );
    pool.execute(insert.as_str()).await.unwrap();
    last_position(pool).await
}

pub(crate) async fn last_position(pool: &PgPool) -> i64 {
    sqlx::query_scalar!(r#"SELECT coalesce(max(position), 0) AS "position!" FROM events"#)
        .fetch_one(pool)
        .await
        .unwrap()
}

pub(crate) fn phone(raw: &str) -> Phone {
    normalize(raw).unwrap()
}

pub(crate) fn map<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The attributes and segments of a contact that must exist.
pub(crate) async fn known(pool: &PgPool, tenant: TenantId, raw: &str) -> (BTreeMap<String, String>, Vec<String>) {
    let contact = find_by_phone(pool, tenant, &phone(raw)).await.unwrap().expect("the contact exists");
    (contact.attributes, contact.segments)
}

pub(crate) async fn contacts(pool: &PgPool, tenant: TenantId) -> i64 {
    sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM contacts WHERE tenant_id = $1"#, tenant.0)
        .fetch_one(pool)
        .await
        .unwrap()
}

pub(crate) async fn versions(pool: &PgPool, tenant: TenantId) -> i64 {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM contact_versions v JOIN contacts c ON c.id = v.contact_id
        WHERE c.tenant_id = $1"#,
        tenant.0
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

pub(crate) async fn members(pool: &PgPool, tenant: TenantId, segment: &str, as_of: i64) -> Vec<AudienceMember> {
    audience_page(pool, tenant, segment, as_of, FIRST, 1000).await.unwrap()
}
