use infrastructure::whatsapp::signature::{Verifier, sign};

use super::promise;

const SECRET: &str = "an invented app secret";

/// The header, a line end, the body.
pub(super) fn seeds() -> Vec<Vec<u8>> {
    let signed = |body: &str| format!("{}\n{body}", sign(SECRET, body.as_bytes())).into_bytes();
    let mut seeds: Vec<Vec<u8>> = ["", "{}", r#"{"object":"whatsapp_business_account","entry":[]}"#].map(signed).into();
    seeds.push(signed("{}").to_ascii_uppercase());
    seeds.push(b"sha256=\n{}".to_vec());
    seeds.push(format!("sha1={}\n{{}}", "0".repeat(64)).into_bytes());
    seeds
}

pub(super) fn check(input: &[u8]) -> Result<String, String> {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(input.len());
    let header = String::from_utf8_lossy(&input[..end]);
    let body = input.get(end + 1..).unwrap_or_default();
    let verifier = Verifier::new(SECRET);
    let right = sign(SECRET, body);
    promise(verifier.verify(&right, body), "a signature does not verify its own body")?;
    promise(!Verifier::new("another secret").verify(&right, body), "another secret verifies a body")?;
    // The digits may be capitals, the prefix may not.
    let digits = |header: &str| header.strip_prefix("sha256=").map(str::to_ascii_lowercase);
    let is_right = digits(&header).is_some() && digits(&header) == digits(&right);
    let verified = verifier.verify(&header, body);
    promise(verified == is_right, "a header counts that is not the signature, or the other way round")?;
    Ok(verified.to_string())
}
