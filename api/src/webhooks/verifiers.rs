//! The secrets by which WhatsApp is known, read anew at most once a second while webhooks come.

use std::sync::Arc;
use std::time::Duration;

use domain::ids::SenderId;
use infrastructure::senders::{Sender, list_senders};
use infrastructure::whatsapp::signature;
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
pub(super) struct Verifiers {
    pool: PgPool,
    kept: Arc<Mutex<Option<Kept>>>,
}

struct Kept {
    senders: Arc<[Sender]>,
    read_at: Instant,
}

impl Verifiers {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, kept: Arc::default() }
    }

    /// The senders whose app secret signed this body; empty if nobody's did.
    pub(super) async fn senders_of(&self, header: &str, body: &[u8]) -> Result<Vec<SenderId>, sqlx::Error> {
        let known = signers(&self.senders(KEPT_FOR).await?, header, body);
        if !known.is_empty() {
            return Ok(known);
        }
        Ok(signers(&self.senders(KEPT_FOR_UNKNOWN).await?, header, body))
    }

    /// Is it the verify token of any sender?
    pub(super) async fn know_token(&self, token: &str) -> Result<bool, sqlx::Error> {
        Ok(is_token_of(&self.senders(KEPT_FOR).await?, token)
            || is_token_of(&self.senders(KEPT_FOR_UNKNOWN).await?, token))
    }

    /// The senders as they were at most `age_max` ago. Whoever comes while they are read waits for the same answer.
    async fn senders(&self, age_max: Duration) -> Result<Arc<[Sender]>, sqlx::Error> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| kept.read_at.elapsed() < age_max) {
            return Ok(Arc::clone(&kept.senders));
        }
        let senders: Arc<[Sender]> = list_senders(&self.pool, None).await?.into();
        *kept = Some(Kept { senders: Arc::clone(&senders), read_at: Instant::now() });
        Ok(senders)
    }
}

/// Each secret is tried once, however many senders share it: an app has one for all its numbers.
fn signers(senders: &[Sender], header: &str, body: &[u8]) -> Vec<SenderId> {
    let mut tried: Vec<(&str, bool)> = Vec::new();
    let mut signers = Vec::new();
    for sender in senders {
        let secret = sender.app_secret.expose();
        let verified = match tried.iter().find(|(tried, _)| *tried == secret) {
            Some((_, verified)) => *verified,
            None => {
                let verified = signature::verify(secret, header, body);
                tried.push((secret, verified));
                verified
            }
        };
        if verified {
            signers.push(sender.id);
        }
    }
    signers
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
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    #[test]
    fn all_numbers_of_the_app_that_signed_are_verified_and_no_others() {
        let senders = [sender(1, "one", "a"), sender(2, "two", "b"), sender(3, "one", "c")];
        let header = signature::sign("one", b"{}");
        assert_eq!(signers(&senders, &header, b"{}"), [senders[0].id, senders[2].id]);
        assert!(signers(&senders, &header, b"{ }").is_empty());
        assert!(signers(&senders, &signature::sign("three", b"{}"), b"{}").is_empty());
        assert!(signers(&[], &header, b"{}").is_empty());
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
