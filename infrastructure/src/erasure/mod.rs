//! Erasing a contact: every personal value goes from every table, the log stays as it is, and a keyed hash of the number
//! keeps it from being taken up again.
//!
//! First the request is stored, with the number, and the hash; then `ContactErased` is appended, from which on nothing
//! is sent any more; then the rows go, the stored webhooks are rewritten, and the sandbox forgets. Each step may be
//! repeated, so whoever dies in between is continued by the worker. WhatsApp goes on reporting about messages that were
//! sent before: the reports are applied, and then taken out of the stored webhooks as well.

mod bodies;
mod key;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::aggregate::{CommandEnvelope, Position};
use domain::consent::{ConsentCommand, ConsentError};
use domain::ids::{ContactId, TenantId};
use domain::phone::Phone;
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::key::{SuppressionHash, SuppressionKey, SuppressionKeyError};
use crate::clock::Clock;
use crate::event_store::{Actor, Addressed, CommandError, ConsentStore};
use crate::lease;

const POLL: Duration = Duration::from_secs(5);
const LEASE: &str = "erasure";
const LEASE_TTL: Duration = Duration::from_secs(60);
const OPEN_PAGE: i64 = 20;
/// The sandbox runs on the same machine.
const SANDBOX_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum ErasureError {
    #[error("there is no such contact")]
    NotFound,
    #[error("the erasure could not be stored or carried out")]
    Database(#[from] sqlx::Error),
    #[error("the erasure could not be recorded in the log")]
    Command(#[source] CommandError<ConsentError>),
    #[error("the sandbox does not answer, and keeps numbers in its files")]
    Sandbox(#[source] reqwest::Error),
    #[error(
        "the suppression key is not the one with which erased numbers were hashed; give every process the same \
         consent.suppression_key_file"
    )]
    OtherKey,
}

/// The numbers of a tenant that are not taken up again.
#[derive(Debug, Clone, Default)]
pub struct Suppressed {
    key: Option<SuppressionKey>,
    hashes: Arc<HashSet<SuppressionHash>>,
}

impl PartialEq for Suppressed {
    fn eq(&self, other: &Self) -> bool {
        self.hashes == other.hashes
    }
}

impl Eq for Suppressed {}

impl Suppressed {
    pub fn contains(&self, phone: &Phone) -> bool {
        match &self.key {
            Some(key) if !self.hashes.is_empty() => self.hashes.contains(&key.hash(phone.as_str())),
            _ => false,
        }
    }
}

/// A cheap handle.
#[derive(Clone)]
pub struct Eraser {
    pub pool: PgPool,
    pub clock: Clock,
    pub consents: ConsentStore,
    pub key: SuppressionKey,
    pub http: reqwest::Client,
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// Of the event that says so.
    pub position: Position,
}

struct OpenErasure {
    contact_id: Uuid,
    tenant_id: Uuid,
}

impl Eraser {
    /// A client that waits for nobody for long.
    pub fn client() -> Result<reqwest::Client, reqwest::Error> {
        reqwest::Client::builder().timeout(SANDBOX_TIMEOUT).no_proxy().build()
    }

    /// Refuses a key by which the stored hashes were not made.
    pub async fn check_key(&self) -> Result<(), ErasureError> {
        let stored = sqlx::query_scalar!("SELECT key_check FROM suppression_state").fetch_optional(&self.pool).await?;
        match stored {
            Some(check) if check != self.key.check_value() => Err(ErasureError::OtherKey),
            _ => Ok(()),
        }
    }

    /// Erases a contact of the tenant; one that is erased already is so still.
    pub async fn erase(&self, tenant: TenantId, contact: ContactId, actor: Actor) -> Result<Erased, ErasureError> {
        self.check_key().await?;
        self.request(tenant, contact).await?;
        let envelope = CommandEnvelope::new(tenant, self.clock.now(), ConsentCommand::Erase);
        self.consents.execute(Addressed::new(contact, envelope, actor)).await.map_err(ErasureError::Command)?;
        self.carry_out(tenant, contact).await?;
        let position = sqlx::query_scalar!(
            r#"SELECT max(position) AS "position!" FROM events
               WHERE aggregate_type = 'Consent' AND aggregate_id = $1"#,
            contact.to_string(),
        )
        .fetch_one(&self.pool)
        .await?;
        Ok(Erased { position })
    }

    /// Is this contact of the tenant erased?
    pub async fn erased_at(&self, tenant: TenantId, contact: ContactId) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        sqlx::query_scalar!(
            "SELECT requested_at FROM erasures WHERE tenant_id = $1 AND contact_id = $2",
            tenant.0,
            contact.0,
        )
        .fetch_optional(&self.pool)
        .await
    }

    /// The numbers that the tenant must not take up again.
    pub async fn suppressed(&self, tenant: TenantId) -> Result<Suppressed, sqlx::Error> {
        let rows =
            sqlx::query_scalar!("SELECT hash FROM suppressions WHERE tenant_id = $1 AND kind = 'phone'", tenant.0)
                .fetch_all(&self.pool)
                .await?;
        let hashes = rows.into_iter().filter_map(|hash| hash.try_into().ok()).collect();
        Ok(Suppressed { key: Some(self.key.clone()), hashes: Arc::new(hashes) })
    }

    /// Lets a number be taken up again, since the person has agreed anew; `false` if it was not suppressed.
    pub async fn readmit(&self, tenant: TenantId, phone: &Phone) -> Result<bool, ErasureError> {
        self.check_key().await?;
        let hash = self.key.hash(phone.as_str());
        let readmitted =
            sqlx::query!("DELETE FROM suppressions WHERE tenant_id = $1 AND hash = $2", tenant.0, &hash[..])
                .execute(&self.pool)
                .await?;
        Ok(readmitted.rows_affected() > 0)
    }

    /// Continues what was interrupted, and takes what still comes about erased people out of stored webhooks.
    pub async fn run(self, shutdown: CancellationToken) {
        let holder = Uuid::new_v4();
        loop {
            if let Err(error) = self.turn(holder).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "an erasure is not complete yet; trying again");
            }
            tokio::select! {
                () = tokio::time::sleep(POLL) => {}
                () = shutdown.cancelled() => break,
            }
        }
        // It ends by itself otherwise.
        drop(lease::release(&self.pool, LEASE, holder).await);
    }

    async fn turn(&self, holder: Uuid) -> Result<(), ErasureError> {
        let is_used = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM suppression_state) AS "is_used!""#)
            .fetch_one(&self.pool)
            .await?;
        if !is_used || !lease::hold(&self.pool, LEASE, holder, LEASE_TTL).await? {
            return Ok(());
        }
        let open = sqlx::query_as!(
            OpenErasure,
            "SELECT contact_id, tenant_id FROM erasures WHERE done_at IS NULL ORDER BY requested_at LIMIT $1",
            OPEN_PAGE,
        )
        .fetch_all(&self.pool)
        .await?;
        for erasure in open {
            let (tenant, contact) = (TenantId(erasure.tenant_id), ContactId(erasure.contact_id));
            self.erase(tenant, contact, Actor::Engine("erasure")).await?;
        }
        self.forget_wamids().await?;
        self.scrub_what_came().await
    }

    /// From here on it happens, whoever carries it out.
    async fn request(&self, tenant: TenantId, contact: ContactId) -> Result<(), ErasureError> {
        let mut tx = self.pool.begin().await?;
        let phone = sqlx::query_scalar!(
            "SELECT phone FROM contacts WHERE tenant_id = $1 AND id = $2 FOR UPDATE",
            tenant.0,
            contact.0
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(phone) = phone else {
            drop(tx);
            return match self.erased_at(tenant, contact).await? {
                Some(_) => Ok(()),
                None => Err(ErasureError::NotFound),
            };
        };
        let now = self.clock.now();
        sqlx::query!(
            "INSERT INTO suppression_state (key_check, last_body_id)
             VALUES ($1, coalesce((SELECT min(body_id) - 1 FROM webhook_pending), (SELECT max(id) FROM webhook_bodies), 0))
             ON CONFLICT (id) DO NOTHING",
            &self.key.check_value()[..],
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "INSERT INTO erasures (contact_id, tenant_id, phone, requested_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (contact_id) DO NOTHING",
            contact.0,
            tenant.0,
            phone,
            now,
        )
        .execute(&mut *tx)
        .await?;
        let names = sqlx::query_scalar!("SELECT value FROM contact_identities WHERE contact_id = $1", contact.0)
            .fetch_all(&mut *tx)
            .await?;
        let numbers = std::iter::once(("phone", self.key.hash(&phone)));
        for (kind, hash) in numbers.chain(names.iter().map(|name| ("name", self.key.hash(name)))) {
            sqlx::query!(
                "INSERT INTO suppressions (tenant_id, hash, kind, erased_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (tenant_id, hash) DO NOTHING",
                tenant.0,
                &hash[..],
                kind,
                now,
            )
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn carry_out(&self, tenant: TenantId, contact: ContactId) -> Result<(), ErasureError> {
        let phone = sqlx::query_scalar!("SELECT phone FROM erasures WHERE contact_id = $1", contact.0)
            .fetch_optional(&self.pool)
            .await?
            .flatten();
        let Some(phone) = phone else { return Ok(()) };
        let digits = phone.trim_start_matches('+').to_owned();
        let mut needles = vec![digits.clone()];
        needles.extend(
            sqlx::query_scalar!("SELECT value FROM contact_identities WHERE contact_id = $1", contact.0)
                .fetch_all(&self.pool)
                .await?,
        );
        for needle in &needles {
            self.scrub_stored(needle).await?;
        }
        self.tell_sandboxes(tenant, &digits).await?;
        self.delete_rows(tenant, contact, &digits).await?;
        sqlx::query!(
            "UPDATE erasures SET phone = NULL, done_at = $2 WHERE contact_id = $1",
            contact.0,
            self.clock.now(),
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn delete_rows(&self, tenant: TenantId, contact: ContactId, digits: &str) -> Result<(), sqlx::Error> {
        let mut tx = self.pool.begin().await?;
        sqlx::query!(
            "DELETE FROM inbound_messages
             WHERE tenant_id = $1
               AND (contact_id = $2 OR wa_id = $3
                    OR user_id IN (SELECT value FROM contact_identities WHERE contact_id = $2))",
            tenant.0,
            contact.0,
            digits,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!(
            "DELETE FROM consent_waiting
             WHERE tenant_id = $1 AND user_id IN (SELECT value FROM contact_identities WHERE contact_id = $2)",
            tenant.0,
            contact.0,
        )
        .execute(&mut *tx)
        .await?;
        sqlx::query!("DELETE FROM contact_flags WHERE contact_id = $1", contact.0).execute(&mut *tx).await?;
        // The ids stay: they say which contact a message was for. An empty number is nobody's.
        sqlx::query!("UPDATE message_recipients SET phone = '', variables = '{}' WHERE contact_id = $1", contact.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "UPDATE dead_letters SET reason = replace(reason, $1, 'erased') WHERE position($1 IN reason) > 0",
            digits
        )
        .execute(&mut *tx)
        .await?;
        // Its versions, segments and identities go with it.
        sqlx::query!("DELETE FROM contacts WHERE tenant_id = $1 AND id = $2", tenant.0, contact.0)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.forget_wamids().await
    }

    /// WhatsApp's ids embed the number. A status that comes later finds its message by our own id.
    async fn forget_wamids(&self) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "UPDATE provider_messages p SET wamid = 'erased:' || gen_random_uuid()
             FROM message_recipients r
             WHERE r.phone = '' AND p.message_id = r.message_id AND p.wamid NOT LIKE 'erased:%'"
        )
        .execute(&self.pool)
        .await?;
        sqlx::query!(
            "UPDATE inbound_messages i SET context_wamid = NULL, raw = '{}'
             FROM message_recipients r
             WHERE r.phone = '' AND i.message_id = r.message_id AND i.context_wamid IS NOT NULL"
        )
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    async fn scrub_stored(&self, needle: &str) -> Result<(), ErasureError> {
        let mut after = 0;
        loop {
            let page = bodies::holding(&self.pool, after, needle).await?;
            let Some(last) = page.last().map(|body| body.id) else { return Ok(()) };
            for body in page {
                self.scrub_body(body, Some(needle)).await?;
            }
            after = last;
        }
    }

    /// What was interpreted since the last look.
    async fn scrub_what_came(&self) -> Result<(), ErasureError> {
        let mut after = sqlx::query_scalar!("SELECT last_body_id FROM suppression_state").fetch_one(&self.pool).await?;
        loop {
            let page = bodies::interpreted(&self.pool, after).await?;
            let Some(last) = page.last().map(|body| body.id) else { return Ok(()) };
            for body in page {
                self.scrub_body(body, None).await?;
            }
            sqlx::query!("UPDATE suppression_state SET last_body_id = $1", last).execute(&self.pool).await?;
            after = last;
        }
    }

    /// `needle`: what a body that cannot be read must not hold.
    async fn scrub_body(&self, stored: bodies::StoredBody, needle: Option<&str>) -> Result<(), ErasureError> {
        let Ok(mut body) = serde_json::from_slice::<Value>(&stored.body) else {
            if needle.is_some() {
                bodies::drop_unreadable(&self.pool, stored.id).await?;
            }
            return Ok(());
        };
        let hashes: HashSet<Vec<u8>> =
            sqlx::query_scalar!("SELECT hash FROM suppressions WHERE tenant_id = ANY($1)", &stored.tenants)
                .fetch_all(&self.pool)
                .await?
                .into_iter()
                .collect();
        let is_erased = |name: &str| hashes.contains(self.key.hash(name).as_slice());
        if !hashes.is_empty() && bodies::scrub(&mut body, &is_erased) {
            bodies::replace(&self.pool, stored.id, &body).await?;
        }
        Ok(())
    }

    async fn tell_sandboxes(&self, tenant: TenantId, digits: &str) -> Result<(), ErasureError> {
        let addresses = sqlx::query_scalar!(
            r#"SELECT DISTINCT base_url AS "base_url!" FROM senders
               WHERE tenant_id = $1 AND sandbox AND base_url IS NOT NULL"#,
            tenant.0,
        )
        .fetch_all(&self.pool)
        .await?;
        for address in addresses {
            let request = self.http.post(format!("{address}/_forget")).json(&json!({"to": digits}));
            match request.send().await.and_then(reqwest::Response::error_for_status) {
                Ok(_) => {}
                // One that does not run keeps its files; the worker asks again.
                Err(error) => return Err(ErasureError::Sandbox(error.without_url())),
            }
        }
        Ok(())
    }
}
