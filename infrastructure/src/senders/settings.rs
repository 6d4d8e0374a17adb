//! How a number sends: what an operator changes without touching its secrets.

use sqlx::PgPool;

use super::{RATE_PER_S_MAX, Secret, Sender, SenderError, SenderRow, check_provider_id, check_secret};
use crate::whatsapp::client::{ProductPolicy, is_version};

/// What is to be changed; `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct SenderChange {
    /// Messages per second that WhatsApp permits the number.
    pub rate_per_s: Option<u32>,
    /// The app's new secret. Webhooks signed with the one before are still believed for a while.
    pub app_secret: Option<Secret>,
    /// The version of the Graph API; `Some(None)`: the one that is configured for all.
    pub api_version: Option<Option<String>>,
    /// Do offers go through the endpoint for marketing messages?
    pub marketing_api: Option<bool>,
    pub product_policy: Option<ProductPolicy>,
    /// `Some(None)`: as the account is set up at Meta.
    pub activity_sharing: Option<Option<bool>>,
}

/// Sets the messages per second that WhatsApp permits this number.
pub async fn set_rate(pool: &PgPool, phone_number_id: &str, rate: u32) -> Result<Sender, SenderError> {
    change_sender(pool, phone_number_id, SenderChange { rate_per_s: Some(rate), ..SenderChange::default() }).await
}

/// Changes how this number sends, from the next call on.
pub async fn change_sender(pool: &PgPool, phone_number_id: &str, change: SenderChange) -> Result<Sender, SenderError> {
    if change.rate_per_s.is_some_and(|rate| !(1..=RATE_PER_S_MAX).contains(&rate)) {
        return Err(SenderError::RateOutOfRange);
    }
    let rate = change.rate_per_s.map(i32::try_from).transpose().map_err(|_| SenderError::RateOutOfRange)?;
    if change.api_version.iter().flatten().any(|version| !is_version(version)) {
        return Err(SenderError::BadApiVersion);
    }
    if let Some(secret) = &change.app_secret {
        check_secret("app_secret", secret)?;
    }
    check_provider_id("phone_number_id", phone_number_id)?;
    // The right sides see the row as it was.
    sqlx::query_as!(
        SenderRow,
        "UPDATE senders
         SET rate_per_s = coalesce($2, rate_per_s),
             api_version = CASE WHEN $3 THEN $4 ELSE api_version END,
             marketing_api = coalesce($5, marketing_api),
             product_policy = coalesce($6, product_policy),
             activity_sharing = CASE WHEN $7 THEN $8 ELSE activity_sharing END,
             app_secret = coalesce($9, app_secret),
             previous_app_secret = CASE WHEN $9 <> app_secret THEN app_secret ELSE previous_app_secret END,
             app_secret_replaced_at = CASE WHEN $9 <> app_secret THEN clock_timestamp()
                                           ELSE app_secret_replaced_at END
         WHERE phone_number_id = $1
         RETURNING id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret, verify_token,
                   rate_per_s, sandbox, api_version, marketing_api, product_policy, activity_sharing, created_at",
        phone_number_id,
        rate,
        change.api_version.is_some(),
        change.api_version.flatten(),
        change.marketing_api,
        change.product_policy.map(ProductPolicy::name),
        change.activity_sharing.is_some(),
        change.activity_sharing.flatten(),
        change.app_secret.as_ref().map(Secret::expose),
    )
    .fetch_optional(pool)
    .await?
    .map(Sender::from)
    .ok_or_else(|| SenderError::UnknownSender { phone_number_id: phone_number_id.to_owned() })
}
