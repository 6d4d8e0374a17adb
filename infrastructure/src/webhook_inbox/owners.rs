//! Whose the WhatsApp numbers are, read anew at most once a second, unless a number is not known.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::ids::{SenderId, TenantId};
use sqlx::PgPool;
use tokio::time::Instant;

const KEPT_FOR: Duration = Duration::from_secs(1);

/// The owner of a WhatsApp number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Owner {
    pub(super) sender_id: SenderId,
    pub(super) tenant_id: TenantId,
}

/// By the id that WhatsApp gives the number.
pub(super) type OwnersByNumber = HashMap<String, Owner>;

pub(super) struct Owners {
    pool: PgPool,
    kept: Mutex<Option<(Instant, Arc<OwnersByNumber>)>>,
}

impl Owners {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, kept: Mutex::new(None) }
    }

    /// The owners as they were a second ago or later.
    pub(super) async fn recent(&self) -> Result<Arc<OwnersByNumber>, sqlx::Error> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match kept {
            Some((read_at, owners)) if read_at.elapsed() < KEPT_FOR => Ok(owners),
            _ => self.read().await,
        }
    }

    /// The owners as they are now: a number that was added a moment ago is not foreign.
    pub(super) async fn read(&self) -> Result<Arc<OwnersByNumber>, sqlx::Error> {
        let read_at = Instant::now();
        let rows = sqlx::query!("SELECT id, tenant_id, phone_number_id FROM senders").fetch_all(&self.pool).await?;
        let owner = |id, tenant| Owner { sender_id: SenderId(id), tenant_id: TenantId(tenant) };
        let owners: OwnersByNumber =
            rows.into_iter().map(|row| (row.phone_number_id, owner(row.id, row.tenant_id))).collect();
        let owners = Arc::new(owners);
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some((read_at, owners.clone()));
        Ok(owners)
    }
}
