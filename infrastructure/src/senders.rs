//! Senders: the WhatsApp numbers from which a tenant sends, with the secrets that each needs.

mod settings;

use std::fmt;

use chrono::{DateTime, Utc};
use domain::ids::{SenderId, TenantId};
use sqlx::PgPool;
use uuid::Uuid;

pub use self::settings::{SenderChange, change_sender, set_rate};
use crate::whatsapp::client::{MarketingSettings, ProductPolicy};

const ID_CHARS_MAX: usize = 64;
const SECRET_CHARS_MAX: usize = 4096;
const RATE_PER_S_MAX: u32 = 1000;

/// Text that must not be printed or logged.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

#[derive(Debug, Clone)]
pub struct Sender {
    pub id: SenderId,
    pub tenant_id: TenantId,
    /// The id that WhatsApp gives the number; not the number.
    pub phone_number_id: String,
    /// The WhatsApp Business Account that owns the number.
    pub waba_id: String,
    /// Without a slash at its end. `None`: the provider's own address.
    pub base_url: Option<String>,
    pub access_token: Secret,
    pub app_secret: Secret,
    pub verify_token: Secret,
    pub rate_per_s: u32,
    /// Does it send to the sandbox instead of WhatsApp?
    pub sandbox: bool,
    /// The version of the Graph API; `None`: the one that is configured for all.
    pub api_version: Option<String>,
    /// How offers leave; `None`: as other messages do.
    pub marketing: Option<MarketingSettings>,
    pub created_at: DateTime<Utc>,
}

/// A sender to be added. It starts at 80 messages per second, which is what WhatsApp permits a new number.
#[derive(Debug, Clone)]
pub struct NewSender {
    pub tenant_id: TenantId,
    pub phone_number_id: String,
    pub waba_id: String,
    pub base_url: Option<String>,
    pub access_token: Secret,
    pub app_secret: Secret,
    pub verify_token: Secret,
    pub sandbox: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    /// An id of WhatsApp is empty, too long or has characters that would change the address it is put into.
    #[error("must have 1 to {ID_CHARS_MAX} letters, digits, hyphens or underscores")]
    BadProviderId { field: &'static str },
    /// A secret is empty, too long, or has characters that it cannot have.
    #[error(
        "must have 1 to {SECRET_CHARS_MAX} visible characters, without spaces at either end and without line breaks"
    )]
    BadSecret { field: &'static str },
    /// The address is not a plain HTTP address.
    #[error("must be an http or https address without user, query and fragment")]
    BadBaseUrl,
    /// The rate is outside of what WhatsApp permits.
    #[error("must be 1 to {RATE_PER_S_MAX} messages per second")]
    RateOutOfRange,
    /// The version is not of the form of the Graph API's.
    #[error("must be a version of the Graph API such as v25.0, or default")]
    BadApiVersion,
    /// The number belongs to another tenant.
    #[error("{phone_number_id} belongs to another tenant")]
    OtherTenant { phone_number_id: String },
    /// No sender has this id.
    #[error("there is no sender {phone_number_id}")]
    UnknownSender { phone_number_id: String },
    #[error("the senders cannot be read or written")]
    Database(#[from] sqlx::Error),
}

impl SenderError {
    /// The input that is at fault; empty if none is.
    pub fn field(&self) -> &'static str {
        match self {
            Self::BadProviderId { field } | Self::BadSecret { field } => field,
            Self::BadBaseUrl => "base_url",
            Self::RateOutOfRange => "rate_per_s",
            Self::BadApiVersion => "api_version",
            Self::OtherTenant { .. } | Self::UnknownSender { .. } => "phone_number_id",
            Self::Database(_) => "",
        }
    }
}

struct SenderRow {
    id: Uuid,
    tenant_id: Uuid,
    phone_number_id: String,
    waba_id: String,
    base_url: Option<String>,
    access_token: String,
    app_secret: String,
    verify_token: String,
    rate_per_s: i32,
    sandbox: bool,
    api_version: Option<String>,
    marketing_api: bool,
    product_policy: String,
    activity_sharing: Option<bool>,
    created_at: DateTime<Utc>,
}

impl From<SenderRow> for Sender {
    fn from(row: SenderRow) -> Self {
        Self {
            id: SenderId(row.id),
            tenant_id: TenantId(row.tenant_id),
            phone_number_id: row.phone_number_id,
            waba_id: row.waba_id,
            base_url: row.base_url,
            access_token: Secret(row.access_token),
            app_secret: Secret(row.app_secret),
            verify_token: Secret(row.verify_token),
            // A constraint of the table keeps it positive.
            rate_per_s: row.rate_per_s.unsigned_abs(),
            sandbox: row.sandbox,
            api_version: row.api_version,
            marketing: row.marketing_api.then_some(MarketingSettings {
                // A constraint of the table knows the same names.
                product_policy: ProductPolicy::parse(&row.product_policy).unwrap_or_default(),
                activity_sharing: row.activity_sharing,
            }),
            created_at: row.created_at,
        }
    }
}

/// Adds a sender. If the tenant has it already, its secrets, account and address are replaced, while its id, rate and
/// age (which decides the default) stay.
pub async fn add_sender(pool: &PgPool, new: NewSender, now: DateTime<Utc>) -> Result<Sender, SenderError> {
    check_provider_id("phone_number_id", &new.phone_number_id)?;
    check_provider_id("waba_id", &new.waba_id)?;
    check_secret("access_token", &new.access_token)?;
    check_secret("app_secret", &new.app_secret)?;
    check_secret("verify_token", &new.verify_token)?;
    let base_url = new.base_url.as_deref().map(canonical_base_url).transpose()?;
    sqlx::query_as!(
        SenderRow,
        "INSERT INTO senders (id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret,
                              verify_token, sandbox, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (phone_number_id) DO UPDATE
         SET waba_id = excluded.waba_id, base_url = excluded.base_url, access_token = excluded.access_token,
             previous_app_secret = CASE WHEN senders.app_secret = excluded.app_secret
                                        THEN senders.previous_app_secret ELSE senders.app_secret END,
             app_secret_replaced_at = CASE WHEN senders.app_secret = excluded.app_secret
                                           THEN senders.app_secret_replaced_at ELSE clock_timestamp() END,
             app_secret = excluded.app_secret, verify_token = excluded.verify_token, sandbox = excluded.sandbox
         WHERE senders.tenant_id = excluded.tenant_id
         RETURNING id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret, verify_token,
                   rate_per_s, sandbox, api_version, marketing_api, product_policy, activity_sharing, created_at",
        Uuid::new_v4(),
        new.tenant_id.0,
        new.phone_number_id,
        new.waba_id,
        base_url,
        new.access_token.0,
        new.app_secret.0,
        new.verify_token.0,
        new.sandbox,
        now,
    )
    .fetch_optional(pool)
    .await?
    .map(Sender::from)
    .ok_or(SenderError::OtherTenant { phone_number_id: new.phone_number_id })
}

/// The app secrets that were replaced at most `overlap` ago. By the database's clock, on which all processes agree.
pub async fn previous_app_secrets(
    pool: &PgPool,
    overlap: std::time::Duration,
) -> Result<Vec<(SenderId, Secret)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, previous_app_secret AS "secret!" FROM senders
           WHERE previous_app_secret IS NOT NULL
             AND app_secret_replaced_at > clock_timestamp() - make_interval(secs => $1)
           ORDER BY created_at, id"#,
        overlap.as_secs_f64(),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (SenderId(row.id), Secret(row.secret))).collect())
}

/// The senders of one tenant or of all, oldest first.
pub async fn list_senders(pool: &PgPool, tenant: Option<TenantId>) -> Result<Vec<Sender>, sqlx::Error> {
    let rows = sqlx::query_as!(
        SenderRow,
        "SELECT id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret, verify_token,
                rate_per_s, sandbox, api_version, marketing_api, product_policy, activity_sharing, created_at
         FROM senders WHERE $1::uuid IS NULL OR tenant_id = $1
         ORDER BY created_at, id",
        tenant.map(Uuid::from),
    );
    Ok(rows.fetch_all(pool).await?.into_iter().map(Sender::from).collect())
}

/// The sender of a run that names none: the newest real one. The sandbox's serves only while there is no other.
pub async fn default_sender(pool: &PgPool, tenant: TenantId) -> Result<Option<Sender>, sqlx::Error> {
    let row = sqlx::query_as!(
        SenderRow,
        "SELECT id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret, verify_token,
                rate_per_s, sandbox, api_version, marketing_api, product_policy, activity_sharing, created_at
         FROM senders WHERE tenant_id = $1
         ORDER BY sandbox, created_at DESC, id DESC LIMIT 1",
        tenant.0,
    );
    Ok(row.fetch_optional(pool).await?.map(Sender::from))
}

/// A sender of this tenant; another tenant's is not found.
pub async fn find_sender(pool: &PgPool, tenant: TenantId, id: SenderId) -> Result<Option<Sender>, sqlx::Error> {
    Ok(sender(pool, id).await?.filter(|found| found.tenant_id == tenant))
}

/// A sender of whichever tenant, for work that has a message in hand already.
pub async fn sender(pool: &PgPool, id: SenderId) -> Result<Option<Sender>, sqlx::Error> {
    let row = sqlx::query_as!(
        SenderRow,
        "SELECT id, tenant_id, phone_number_id, waba_id, base_url, access_token, app_secret, verify_token,
                rate_per_s, sandbox, api_version, marketing_api, product_policy, activity_sharing, created_at
         FROM senders WHERE id = $1",
        id.0,
    );
    Ok(row.fetch_optional(pool).await?.map(Sender::from))
}

/// All senders that may have messages to send. The sandbox's are among them even when a real one has become the
/// default, for their open runs go on.
pub async fn all_active(pool: &PgPool) -> Result<Vec<Sender>, sqlx::Error> {
    list_senders(pool, None).await
}

/// What is needed to check the signature of a webhook: the sender, its `phone_number_id` and its app secret.
pub async fn verifiers(pool: &PgPool) -> Result<Vec<(SenderId, String, Secret)>, sqlx::Error> {
    let rows = sqlx::query!("SELECT id, phone_number_id, app_secret FROM senders ORDER BY created_at, id");
    let verifier = |(id, phone_number_id, secret)| (SenderId(id), phone_number_id, Secret(secret));
    Ok(rows
        .fetch_all(pool)
        .await?
        .into_iter()
        .map(|row| verifier((row.id, row.phone_number_id, row.app_secret)))
        .collect())
}

fn check_provider_id(field: &'static str, id: &str) -> Result<(), SenderError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if (1..=ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SenderError::BadProviderId { field })
    }
}

/// An empty app secret would let everybody sign webhooks. A secret read from a file often ends in a line break, which
/// would make it wrong without a word.
fn check_secret(field: &'static str, secret: &Secret) -> Result<(), SenderError> {
    let text = secret.expose();
    let allowed = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    if (1..=SECRET_CHARS_MAX).contains(&text.len()) && text.bytes().all(allowed) && text.trim() == text {
        Ok(())
    } else {
        Err(SenderError::BadSecret { field })
    }
}

fn canonical_base_url(text: &str) -> Result<String, SenderError> {
    let url = reqwest::Url::parse(text).map_err(|_| SenderError::BadBaseUrl)?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url.as_str().trim_end_matches('/').to_owned()) } else { Err(SenderError::BadBaseUrl) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_printed() {
        let printed = format!("{:?}", Secret::new("hunter2"));
        assert_eq!(printed, "Secret(…)");
    }

    #[test]
    fn base_urls_are_plain_http_addresses() {
        assert_eq!(canonical_base_url("http://127.0.0.1:8080/").unwrap(), "http://127.0.0.1:8080");
        assert_eq!(canonical_base_url("https://graph.example/x/").unwrap(), "https://graph.example/x");
        for text in
            ["", "graph.example", "ftp://a", "http://", "http://u:p@a", "http://a?b=c", "http://a#b", "file:///a"]
        {
            assert!(canonical_base_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn provider_ids_cannot_change_an_address() {
        assert!(check_provider_id("waba_id", "106540352242922").is_ok());
        assert!(check_provider_id("waba_id", "sandbox-demo_1").is_ok());
        for id in ["", "1/2", "..", "1?x", "1 2", "é", &"1".repeat(ID_CHARS_MAX + 1)] {
            assert_eq!(check_provider_id("waba_id", id).unwrap_err().field(), "waba_id", "{id}");
        }
    }

    #[test]
    fn secrets_that_cannot_be_right_are_refused() {
        assert!(check_secret("app_secret", &Secret::new("a b~c")).is_ok());
        for text in ["", " ", "a\n", " a", "a\u{0}b", "ä"] {
            assert_eq!(check_secret("app_secret", &Secret::new(text)).unwrap_err().field(), "app_secret", "{text:?}");
        }
    }
}
