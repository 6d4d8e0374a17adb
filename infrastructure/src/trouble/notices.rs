//! Notices for the people of a tenant: what stands still, why, and what they can do. A notice stays open until somebody
//! finishes it; the same trouble met again in the meantime only adds to it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::whatsapp::PauseScope;
use crate::whatsapp::reactions::{advice, meaning};

/// What stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeScope {
    Template,
    Sender,
    /// A WhatsApp Business Account.
    Account,
    /// Every number of the business.
    Portfolio,
    Campaign,
}

impl NoticeScope {
    const ALL: [Self; 5] = [Self::Template, Self::Sender, Self::Account, Self::Portfolio, Self::Campaign];

    pub fn name(self) -> &'static str {
        match self {
            Self::Template => "template",
            Self::Sender => "sender",
            Self::Account => "account",
            Self::Portfolio => "portfolio",
            Self::Campaign => "campaign",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

impl From<PauseScope> for NoticeScope {
    fn from(scope: PauseScope) -> Self {
        match scope {
            PauseScope::Template => Self::Template,
            PauseScope::Sender => Self::Sender,
            PauseScope::Account => Self::Account,
            PauseScope::Portfolio => Self::Portfolio,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Notice {
    pub id: i64,
    pub tenant_id: TenantId,
    pub scope: NoticeScope,
    /// The id of what stands still.
    pub key: String,
    /// Its name, where it has one.
    pub name: Option<String>,
    /// WhatsApp's error code.
    pub code: i32,
    pub first_at: DateTime<Utc>,
    pub last_at: DateTime<Utc>,
    /// How often it was met.
    pub refusals: i64,
    pub done_at: Option<DateTime<Utc>>,
}

impl Notice {
    /// What WhatsApp says.
    pub fn meaning(&self) -> &'static str {
        meaning(self.code).unwrap_or("a code that this release does not know")
    }

    /// What to do.
    pub fn advice(&self) -> &'static str {
        advice(self.code).unwrap_or("look the code up in WhatsApp's list of error codes, mend the cause, then resume")
    }
}

/// Counts what was met, by tenant, scope, key and code.
pub(super) async fn raise_in_tx(
    connection: &mut PgConnection,
    counted: &BTreeMap<(Uuid, NoticeScope, String, i32), i64>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for ((tenant_id, scope, key, code), refusals) in counted {
        let raised = sqlx::query!(
            r#"INSERT INTO notices (tenant_id, scope, key, code, first_at, last_at, refusals)
             VALUES ($1, $2, $3, $4, $5, $5, greatest($6::bigint, 1))
             ON CONFLICT (tenant_id, scope, key, code) WHERE done_at IS NULL
             DO UPDATE SET last_at = excluded.last_at, refusals = notices.refusals + $6::bigint
             RETURNING id, first_at = last_at AS "is_new!""#,
            tenant_id,
            scope.name(),
            key,
            code,
            now,
            refusals,
        )
        .fetch_one(&mut *connection)
        .await?;
        if raised.is_new {
            tracing::warn!(
                notice.id = raised.id,
                scope = scope.name(),
                code,
                meaning = meaning(*code).unwrap_or("unknown"),
                "sending stands still until somebody acts; `ektola notices list` says what to do"
            );
        }
    }
    Ok(())
}

/// The notices of a tenant, or of all; the newest first.
pub async fn list(
    pool: &PgPool,
    tenant: Option<TenantId>,
    with_done: bool,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Notice>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT n.id, n.tenant_id, n.scope, n.key, n.code, n.first_at, n.last_at, n.refusals, n.done_at,
                  coalesce(t.name, s.phone_number_id, b.name) AS name
           FROM notices n
           LEFT JOIN templates t ON n.scope = 'template' AND t.id::text = n.key
           LEFT JOIN senders s ON n.scope = 'sender' AND s.id::text = n.key
           LEFT JOIN tenants b ON n.scope = 'portfolio' AND b.id::text = n.key
           WHERE ($1::uuid IS NULL OR n.tenant_id = $1) AND ($2 OR n.done_at IS NULL)
             AND ($3::bigint IS NULL OR n.id < $3)
           ORDER BY n.id DESC LIMIT $4"#,
        tenant.map(|tenant| tenant.0),
        with_done,
        before,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            Some(Notice {
                id: row.id,
                tenant_id: TenantId(row.tenant_id),
                // Never missing: the table's check knows the same scopes.
                scope: NoticeScope::parse(&row.scope)?,
                key: row.key,
                name: row.name,
                code: row.code,
                first_at: row.first_at,
                last_at: row.last_at,
                refusals: row.refusals,
                done_at: row.done_at,
            })
        })
        .collect())
}

/// Closes a notice; `false` if there is none with this id. One that is closed stays as it is.
pub async fn finish(pool: &PgPool, tenant: Option<TenantId>, id: i64, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE notices SET done_at = coalesce(done_at, $3) WHERE id = $1 AND ($2::uuid IS NULL OR tenant_id = $2)",
        id,
        tenant.map(|tenant| tenant.0),
        now,
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}
