//! Tenants and the tokens that speak for them. The tenant of a request comes from its token, never from the request.
//!
//! A token is `ektola_<id>_<secret>`: a readable id, by which it is found and revoked, and a secret of 256 random bits.
//! Only the secret's SHA-256 is stored. A slow hash protects secrets that can be guessed; nobody guesses 256 random
//! bits, and a fast one costs nothing on each request.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use rand::RngCore;
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use subtle::ConstantTimeEq;
use uuid::Uuid;

const NAME_CHARS_MAX: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    /// IANA name. Dates without an offset are local time of this zone.
    pub zone: String,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    /// The name is empty, too long, has spaces at its ends or control characters in it.
    #[error("must have 1 to {NAME_CHARS_MAX} characters, without spaces at either end and without control characters")]
    BadName,
    /// Another tenant has the name.
    #[error("a tenant named {name} exists already")]
    NameTaken { name: String },
    /// The zone is not in the time zone database.
    #[error("{zone} is not a time zone; use an IANA name such as Asia/Kolkata")]
    UnknownZone { zone: String },
    #[error("the tenants cannot be read or written")]
    Database(#[from] sqlx::Error),
}

impl TenantError {
    /// The input that is at fault; empty if none is.
    pub fn field(&self) -> &'static str {
        match self {
            Self::BadName | Self::NameTaken { .. } => "name",
            Self::UnknownZone { .. } => "zone",
            Self::Database(_) => "",
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The text does not have the form of a token.
    #[error("is not a token of the form ektola_<16 hexadecimal digits>_<43 characters>")]
    Malformed,
    /// A token with the same id belongs to another tenant, has another secret or was revoked.
    #[error("a different token with the same id exists")]
    Taken,
    #[error("the tokens cannot be read or written")]
    Database(#[from] sqlx::Error),
}

impl TokenError {
    /// The input that is at fault; empty if none is.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Malformed | Self::Taken => "token",
            Self::Database(_) => "",
        }
    }
}

struct TenantRow {
    id: Uuid,
    name: String,
    zone: String,
    created_at: DateTime<Utc>,
}

impl From<TenantRow> for Tenant {
    fn from(row: TenantRow) -> Self {
        Self { id: TenantId(row.id), name: row.name, zone: row.zone, created_at: row.created_at }
    }
}

pub async fn create_tenant(pool: &PgPool, name: &str, zone: &str, now: DateTime<Utc>) -> Result<Tenant, TenantError> {
    if !is_tenant_name(name) {
        return Err(TenantError::BadName);
    }
    let zone = canonical_zone(zone).ok_or_else(|| TenantError::UnknownZone { zone: zone.to_owned() })?;
    sqlx::query_as!(
        TenantRow,
        "INSERT INTO tenants (id, name, zone, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (name) DO NOTHING
         RETURNING id, name, zone, created_at",
        Uuid::new_v4(),
        name,
        zone,
        now,
    )
    .fetch_optional(pool)
    .await?
    .map(Tenant::from)
    .ok_or_else(|| TenantError::NameTaken { name: name.to_owned() })
}

/// The tenant of this name, created if there is none. An existing one keeps its zone.
pub async fn ensure_tenant(pool: &PgPool, name: &str, zone: &str, now: DateTime<Utc>) -> Result<Tenant, TenantError> {
    if let Some(tenant) = find_tenant(pool, name).await? {
        return Ok(tenant);
    }
    match create_tenant(pool, name, zone, now).await {
        // Somebody else created it in between.
        Err(TenantError::NameTaken { name }) => find_tenant(pool, &name).await?.ok_or(TenantError::NameTaken { name }),
        created => created,
    }
}

pub async fn find_tenant(pool: &PgPool, name: &str) -> Result<Option<Tenant>, sqlx::Error> {
    // What cannot be a name is not asked for: Postgres refuses some characters even in a question.
    if !is_tenant_name(name) {
        return Ok(None);
    }
    let row = sqlx::query_as!(TenantRow, "SELECT id, name, zone, created_at FROM tenants WHERE name = $1", name);
    Ok(row.fetch_optional(pool).await?.map(Tenant::from))
}

pub async fn tenant(pool: &PgPool, id: TenantId) -> Result<Option<Tenant>, sqlx::Error> {
    let row = sqlx::query_as!(TenantRow, "SELECT id, name, zone, created_at FROM tenants WHERE id = $1", id.0);
    Ok(row.fetch_optional(pool).await?.map(Tenant::from))
}

pub async fn list_tenants(pool: &PgPool) -> Result<Vec<Tenant>, sqlx::Error> {
    let rows = sqlx::query_as!(TenantRow, "SELECT id, name, zone, created_at FROM tenants ORDER BY name");
    Ok(rows.fetch_all(pool).await?.into_iter().map(Tenant::from).collect())
}

/// A new token, known to nobody yet.
pub fn generate_token() -> String {
    let (mut id, mut secret) = ([0; 8], [0; 32]);
    // The thread's generator is cryptographic and seeded by the operating system.
    let mut random = rand::rng();
    random.fill_bytes(&mut id);
    random.fill_bytes(&mut secret);
    format!("ektola_{:016x}_{}", u64::from_be_bytes(id), URL_SAFE_NO_PAD.encode(secret))
}

/// Makes a token for a tenant. It is the only time that the token can be seen.
pub async fn create_token(pool: &PgPool, tenant: TenantId, now: DateTime<Utc>) -> Result<String, TokenError> {
    let token = generate_token();
    insert_token(pool, tenant, &token, now).await?;
    Ok(token)
}

/// Registers a token that exists outside. Doing it again changes nothing; a revoked token stays revoked.
pub async fn insert_token(pool: &PgPool, tenant: TenantId, token: &str, now: DateTime<Utc>) -> Result<(), TokenError> {
    let token = ParsedToken::parse(token).ok_or(TokenError::Malformed)?;
    // The update changes nothing; it locks the row that is there already and answers whether it is this very token.
    let same = sqlx::query_scalar!(
        r#"
        INSERT INTO api_tokens AS t (id, tenant_id, secret_hash, created_at) VALUES ($1, $2, $3, $4)
        ON CONFLICT (id) DO UPDATE SET id = t.id
        RETURNING t.tenant_id = $2 AND t.secret_hash = $3 AND t.revoked_at IS NULL AS "same!"
        "#,
        token.id,
        tenant.0,
        &token.secret_hash[..],
        now,
    )
    .fetch_one(pool)
    .await?;
    if same { Ok(()) } else { Err(TokenError::Taken) }
}

/// Revokes a token by its readable id. False if there is no such token or it was revoked already.
pub async fn revoke_token(pool: &PgPool, id: &str, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    if !is_token_id(id) {
        return Ok(false);
    }
    let revoked = sqlx::query!("UPDATE api_tokens SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL", id, now);
    Ok(revoked.execute(pool).await?.rows_affected() == 1)
}

/// The tenant for which a token speaks; `None` if the token is malformed, unknown, wrong or revoked.
pub async fn authenticate(pool: &PgPool, token: &str) -> Result<Option<Tenant>, sqlx::Error> {
    let Some(token) = ParsedToken::parse(token) else { return Ok(None) };
    let found = sqlx::query!(
        "SELECT t.id, t.name, t.zone, t.created_at, a.secret_hash
         FROM api_tokens a JOIN tenants t ON t.id = a.tenant_id
         WHERE a.id = $1 AND a.revoked_at IS NULL",
        token.id,
    )
    .fetch_optional(pool)
    .await?;
    // Compared here, not in the query, so that the time it takes says nothing about the stored hash.
    Ok(found.filter(|row| bool::from(row.secret_hash.ct_eq(&token.secret_hash))).map(|row| Tenant {
        id: TenantId(row.id),
        name: row.name,
        zone: row.zone,
        created_at: row.created_at,
    }))
}

struct ParsedToken<'a> {
    id: &'a str,
    secret_hash: [u8; 32],
}

impl<'a> ParsedToken<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let (id, secret) = token.strip_prefix("ektola_")?.split_once('_')?;
        if !is_token_id(id) || secret.len() != 43 {
            return None;
        }
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?;
        Some(Self { id, secret_hash: Sha256::digest(&secret).into() })
    }
}

fn is_token_id(id: &str) -> bool {
    id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tenant_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.chars().count()) && name.trim() == name && !name.contains(char::is_control)
}

/// The zone's name as the bundled database spells it: the engine must know the zone wherever it runs.
fn canonical_zone(zone: &str) -> Option<String> {
    let found = jiff::tz::TimeZoneDatabase::bundled().get(zone).ok()?;
    if found.is_unknown() {
        return None;
    }
    found.iana_name().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_token_parses_and_no_two_are_alike() {
        let (one, other) = (generate_token(), generate_token());
        let parsed = ParsedToken::parse(&one).unwrap();
        assert_eq!(one.len(), "ektola_".len() + 16 + 1 + 43);
        assert_eq!(&one[7..23], parsed.id);
        assert_ne!(parsed.secret_hash, ParsedToken::parse(&other).unwrap().secret_hash);
        assert_ne!(parsed.id, ParsedToken::parse(&other).unwrap().id);
    }

    #[test]
    fn a_secret_may_contain_the_separator() {
        let token = format!("ektola_00000000000000ff_{}A", "_".repeat(42));
        assert_eq!(ParsedToken::parse(&token).unwrap().id, "00000000000000ff");
    }

    #[test]
    fn what_is_not_a_token_does_not_parse() {
        let good = format!("ektola_00000000000000ff_{}", "A".repeat(43));
        assert!(ParsedToken::parse(&good).is_some());
        let bad = [
            String::new(),
            good.replace("ektola_", ""),
            good.replace("00ff", "00FF"),
            good.replace("00ff", "0ff"),
            format!("{good}A"),
            good.replace("_AAA", "_A+A"),
            format!("{good} "),
        ];
        for token in bad {
            assert!(ParsedToken::parse(&token).is_none(), "{token}");
        }
    }

    #[test]
    fn zones_are_stored_as_the_database_spells_them() {
        assert_eq!(canonical_zone("Asia/Kolkata").as_deref(), Some("Asia/Kolkata"));
        assert_eq!(canonical_zone("asia/kolkata").as_deref(), Some("Asia/Kolkata"));
        assert_eq!(canonical_zone("UTC").as_deref(), Some("UTC"));
        for zone in ["", "IST+5", "Asia/Nowhere", "Etc/Unknown", "+05:30"] {
            assert_eq!(canonical_zone(zone), None, "{zone}");
        }
    }
}
