//! The key of the hashes by which erased people are known. Whoever has the database but not the key cannot find out
//! whether a number is among them.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::RngCore as _;
use sha2::Sha256;

pub type SuppressionHash = [u8; 32];

#[derive(Debug, thiserror::Error)]
pub enum SuppressionKeyError {
    #[error("the suppression key {path} cannot be read or made")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} holds no suppression key: 64 hexadecimal digits")]
    Malformed { path: PathBuf },
}

#[derive(Clone)]
pub struct SuppressionKey([u8; 32]);

impl std::fmt::Debug for SuppressionKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SuppressionKey")
    }
}

impl SuppressionKey {
    pub fn of_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key of the file, which is made if it is not there, for its owner alone.
    pub fn load_or_create(path: &Path) -> Result<Self, SuppressionKeyError> {
        let failed = |source| SuppressionKeyError::File { path: path.to_owned(), source };
        if !path.exists() {
            let mut bytes = [0; 32];
            rand::rng().fill_bytes(&mut bytes);
            let mut text = String::new();
            for byte in bytes {
                let _ = write!(text, "{byte:02x}");
            }
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder).map_err(failed)?;
            }
            match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
                Ok(mut file) => writeln!(file, "{text}").and_then(|()| file.sync_all()).map_err(failed)?,
                // Another process was first.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(error)),
            }
        }
        let text = fs::read_to_string(path).map_err(failed)?;
        read_hex(text.trim()).map(Self).ok_or_else(|| SuppressionKeyError::Malformed { path: path.to_owned() })
    }

    /// Of a number in any of its forms, or of another name.
    pub fn hash(&self, name: &str) -> SuppressionHash {
        let digits: String = name.chars().filter(char::is_ascii_digit).collect();
        let is_number = name.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-'));
        self.mac(if is_number { digits.as_bytes() } else { name.as_bytes() })
    }

    pub(super) fn check_value(&self) -> SuppressionHash {
        self.mac(b"ektola: which key is this?")
    }

    fn mac(&self, message: &[u8]) -> SuppressionHash {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("an HMAC takes a key of any length");
        mac.update(message);
        mac.finalize().into_bytes().into()
    }
}

fn read_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_hash_however_it_is_written_and_another_under_another_key() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("suppression-key");
        let made = SuppressionKey::load_or_create(&path).unwrap();
        let found = SuppressionKey::load_or_create(&path).unwrap();
        assert_eq!(made.hash("+919876543210"), found.hash("91 98765-43210"));
        assert_ne!(made.hash("+919876543210"), made.hash("+919876543211"));
        assert_ne!(made.hash("IN.1"), made.hash("1"));
        assert_ne!(made.hash("+919876543210"), SuppressionKey::of_bytes([7; 32]).hash("+919876543210"));
        fs::write(&path, "short").unwrap();
        assert!(matches!(SuppressionKey::load_or_create(&path), Err(SuppressionKeyError::Malformed { .. })));
    }
}
