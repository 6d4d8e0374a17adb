//! The secrets by which WhatsApp is known, read anew at most once a second while webhooks come.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::ids::SenderId;
use infrastructure::senders::{Secret, Sender, list_senders, previous_app_secrets};
use infrastructure::whatsapp::signature::Verifier;
use sqlx::PgPool;
use subtle::ConstantTimeEq as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

const KEPT_FOR: Duration = Duration::from_secs(1);
/// A signature that nobody's secret verifies may be that of a sender added a moment ago. Forged ones must not cause a
/// query each.
const KEPT_FOR_UNKNOWN: Duration = Duration::from_millis(100);

/// A cheap handle.
#[derive(Clone)]
pub(super) struct Verifiers(Arc<Shared>);

struct Shared {
    pool: PgPool,
    /// How long an app secret counts after it was replaced.
    overlap: Duration,
    /// Locked for an instant only, so that no webhook waits for another.
    kept: RwLock<Option<Arc<Kept>>>,
    /// Held by the one who reads anew.
    reading: Mutex<()>,
}

struct Kept {
    read_at: Instant,
    senders: Vec<Sender>,
    apps: Vec<App>,
}

/// An app has one secret for all its numbers, and for a while after it was replaced a second one.
struct App {
    verifier: Verifier,
    senders: Arc<[SenderId]>,
}

impl Verifiers {
    pub(super) fn new(pool: PgPool, overlap: Duration) -> Self {
        Self(Arc::new(Shared { pool, overlap, kept: RwLock::default(), reading: Mutex::default() }))
    }

    /// The senders whose app secret signed this body; `None` if nobody's did.
    pub(super) async fn senders_of(&self, header: &str, body: &[u8]) -> Result<Option<Arc<[SenderId]>>, sqlx::Error> {
        let signers = self.kept(KEPT_FOR).await?.signers(header, body);
        if signers.is_some() {
            return Ok(signers);
        }
        Ok(self.kept(KEPT_FOR_UNKNOWN).await?.signers(header, body))
    }

    /// Is it the verify token of any sender?
    pub(super) async fn know_token(&self, token: &str) -> Result<bool, sqlx::Error> {
        Ok(is_token_of(&self.kept(KEPT_FOR).await?.senders, token)
            || is_token_of(&self.kept(KEPT_FOR_UNKNOWN).await?.senders, token))
    }

    /// What was known at most `age_max` ago. Whoever comes while it is read waits for the same answer.
    async fn kept(&self, age_max: Duration) -> Result<Arc<Kept>, sqlx::Error> {
        if let Some(kept) = self.0.younger_than(age_max) {
            return Ok(kept);
        }
        let _reading = self.0.reading.lock().await;
        if let Some(kept) = self.0.younger_than(age_max) {
            return Ok(kept);
        }
        let read_at = Instant::now();
        let senders = list_senders(&self.0.pool, None).await?;
        let previous = previous_app_secrets(&self.0.pool, self.0.overlap).await?;
        let kept = Arc::new(Kept::new(senders, &previous, read_at));
        *self.0.kept.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&kept));
        Ok(kept)
    }
}

impl Shared {
    fn younger_than(&self, age_max: Duration) -> Option<Arc<Kept>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.as_ref().filter(|kept| kept.read_at.elapsed() < age_max).cloned()
    }
}

impl Kept {
    fn new(senders: Vec<Sender>, previous: &[(SenderId, Secret)], read_at: Instant) -> Self {
        let mut by_secret: Vec<(&str, Vec<SenderId>)> = Vec::new();
        let present = senders.iter().map(|sender| (sender.id, sender.app_secret.expose()));
        let previous = previous.iter().map(|(id, secret)| (*id, secret.expose()));
        for (id, secret) in present.chain(previous) {
            match by_secret.iter_mut().find(|(known, _)| *known == secret) {
                Some((_, ids)) => ids.push(id),
                None => by_secret.push((secret, vec![id])),
            }
        }
        let apps = by_secret
            .into_iter()
            .map(|(secret, senders)| App { verifier: Verifier::new(secret), senders: senders.into() })
            .collect();
        Self { read_at, senders, apps }
    }

    /// All numbers of the app that signed, and no others.
    fn signers(&self, header: &str, body: &[u8]) -> Option<Arc<[SenderId]>> {
        self.apps.iter().find(|app| app.verifier.verify(header, body)).map(|app| Arc::clone(&app.senders))
    }
}

/// All tokens are compared, so that the time it takes says nothing about them.
fn is_token_of(senders: &[Sender], token: &str) -> bool {
    senders.iter().fold(false, |known, sender| {
        let expected = sender.verify_token.expose();
        known | (!expected.is_empty() & bool::from(expected.as_bytes().ct_eq(token.as_bytes())))
    })
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use domain::ids::TenantId;
    use infrastructure::senders::Secret;
    use infrastructure::whatsapp::signature::sign;
    use uuid::Uuid;

    use super::*;

    fn sender(number: u128, app_secret: &str, verify_token: &str) -> Sender {
        Sender {
            id: SenderId(Uuid::from_u128(number)),
            tenant_id: TenantId(Uuid::nil()),
            phone_number_id: number.to_string(),
            waba_id: "1".to_owned(),
            base_url: None,
            access_token: Secret::new("access"),
            app_secret: Secret::new(app_secret),
            verify_token: Secret::new(verify_token),
            rate_per_s: 80,
            sandbox: false,
            api_version: None,
            marketing: None,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn all_numbers_of_the_app_that_signed_are_verified_and_no_others() {
        let senders = [sender(1, "one", "a"), sender(2, "two", "b"), sender(3, "one", "c")];
        let expected = [senders[0].id, senders[2].id];
        let kept = Kept::new(senders.to_vec(), &[], Instant::now());
        let header = sign("one", b"{}");
        assert_eq!(kept.signers(&header, b"{}").as_deref(), Some(&expected[..]));
        assert_eq!(kept.signers(&header, b"{ }"), None);
        assert_eq!(kept.signers(&sign("three", b"{}"), b"{}"), None);
        assert_eq!(Kept::new(Vec::new(), &[], Instant::now()).signers(&header, b"{}"), None);
    }

    #[test]
    fn a_replaced_secret_speaks_for_its_own_number_only() {
        let senders = [sender(1, "new", "a"), sender(2, "old", "b"), sender(3, "other", "c")];
        let [first, second, _] = senders.clone().map(|sender| sender.id);
        let kept = Kept::new(senders.to_vec(), &[(first, Secret::new("old"))], Instant::now());
        assert_eq!(kept.signers(&sign("new", b"{}"), b"{}").as_deref(), Some(&[first][..]));
        assert_eq!(kept.signers(&sign("old", b"{}"), b"{}").as_deref(), Some(&[second, first][..]));
    }

    #[test]
    fn any_senders_verify_token_is_known() {
        let senders = [sender(1, "one", "alpha"), sender(2, "two", "beta"), sender(3, "three", "")];
        assert!(is_token_of(&senders, "alpha") && is_token_of(&senders, "beta"));
        for token in ["", "alph", "alphab", "ALPHA"] {
            assert!(!is_token_of(&senders, token), "{token}");
        }
    }
}
