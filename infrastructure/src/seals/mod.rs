//! Seals: evidence that nobody has changed, removed, inserted or moved a row of the log.
//!
//! The log is cut into segments. Each has the root of a Merkle tree over the canonical bytes of its rows, the hash of the
//! header before it and a signature, so that whoever holds the public key and one header can check everything before it.
//! The format is in `docs/seals.md`: a proof can be checked without this program and without the database.

mod canonical;
mod header;
mod key;
mod plain;
mod proof;
mod sealer;
mod tree;
mod verify;

pub use self::canonical::{SealedRow, read_rows};
pub use self::header::{HeaderDocument, Malformed, Seal, SealHeader, last_seal, read_seals};
pub use self::key::{KeyError, PublicKey, SealKey};
pub use self::proof::{Checked, Proof, ProofError, check, prove};
pub use self::sealer::{SealError, Sealer, SealerConfig};
pub use self::tree::{hex, leaf, root};
pub use self::verify::{
    Difference, DifferenceKind, Head, HeadError, Unsealed, VerifyError, VerifyProgress, VerifyReport, verify,
};
