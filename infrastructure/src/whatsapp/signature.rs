//! The signature of webhooks: `sha256=` and the HMAC-SHA256, in hexadecimal, of the body exactly as it was received,
//! keyed with the app secret. It must be checked on the raw bytes: WhatsApp signs the escaped form of the JSON, and a
//! body that was decoded and encoded again has another signature.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

const PREFIX: &str = "sha256=";
const DIGEST_BYTES: usize = 32;

/// An app secret, ready to verify signatures.
#[derive(Clone)]
pub struct Verifier {
    /// `None`: an empty secret verifies nothing, for anybody could sign with it.
    mac: Option<Hmac<Sha256>>,
}

impl Verifier {
    pub fn new(app_secret: &str) -> Self {
        Self { mac: (!app_secret.is_empty()).then(|| keyed(app_secret)) }
    }

    /// Does `header` (the value of `X-Hub-Signature-256`) sign this body? Compares in constant time.
    pub fn verify(&self, header: &str, body: &[u8]) -> bool {
        let Some(claimed) = header.strip_prefix(PREFIX).and_then(decode) else {
            return false;
        };
        let Some(mac) = &self.mac else { return false };
        mac.clone().chain_update(body).verify_slice(&claimed).is_ok()
    }
}

/// The header value that signs this body.
pub fn sign(app_secret: &str, body: &[u8]) -> String {
    let digest = keyed(app_secret).chain_update(body).finalize().into_bytes();
    let mut header = String::with_capacity(PREFIX.len() + 2 * DIGEST_BYTES);
    header.push_str(PREFIX);
    for byte in digest {
        header.push(char::from(HEX_DIGITS[usize::from(byte >> 4)]));
        header.push(char::from(HEX_DIGITS[usize::from(byte & 0x0f)]));
    }
    header
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

fn keyed(app_secret: &str) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).expect("HMAC takes a key of any length")
}

fn decode(hex: &str) -> Option<[u8; DIGEST_BYTES]> {
    let hex = hex.as_bytes();
    if hex.len() != 2 * DIGEST_BYTES {
        return None;
    }
    let mut digest = [0; DIGEST_BYTES];
    for (byte, pair) in digest.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test case 2 of RFC 4231.
    const RFC_KEY: &str = "Jefe";
    const RFC_BODY: &[u8] = b"what do ya want for nothing?";
    const RFC_DIGEST: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";

    fn verify(app_secret: &str, header: &str, body: &[u8]) -> bool {
        Verifier::new(app_secret).verify(header, body)
    }

    #[test]
    fn the_published_vector_signs_and_verifies() {
        let header = format!("sha256={RFC_DIGEST}");
        assert_eq!(sign(RFC_KEY, RFC_BODY), header);
        assert!(verify(RFC_KEY, &header, RFC_BODY));
        assert!(verify(RFC_KEY, &format!("sha256={}", RFC_DIGEST.to_uppercase()), RFC_BODY));
    }

    #[test]
    fn another_body_key_or_digest_does_not_verify() {
        let header = format!("sha256={RFC_DIGEST}");
        assert!(!verify(RFC_KEY, &header, b"what do ya want for nothing!"));
        assert!(!verify("jefe", &header, RFC_BODY));
        let mut changed = header;
        changed.replace_range(7..8, "6");
        assert!(!verify(RFC_KEY, &changed, RFC_BODY));
    }

    #[test]
    fn a_malformed_header_does_not_verify() {
        for header in [
            String::new(),
            "sha256=".to_owned(),
            RFC_DIGEST.to_owned(),
            format!("sha1={RFC_DIGEST}"),
            format!("SHA256={RFC_DIGEST}"),
            format!("sha256={}", &RFC_DIGEST[..62]),
            format!("sha256={RFC_DIGEST}00"),
            format!("sha256={}zz", &RFC_DIGEST[..62]),
            format!("sha256={}é", &RFC_DIGEST[..62]),
            format!("sha256= {}", &RFC_DIGEST[..63]),
        ] {
            assert!(!verify(RFC_KEY, &header, RFC_BODY), "{header}");
        }
    }

    #[test]
    fn an_empty_secret_verifies_nothing() {
        assert!(!verify("", &sign("", RFC_BODY), RFC_BODY));
    }
}
