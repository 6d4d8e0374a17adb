//! The Merkle tree of RFC 6962: leaves and nodes are hashed with different prefixes, and a tree of n leaves is split at
//! the largest power of two below n.

use sha2::{Digest, Sha256};

pub(super) type Hash = [u8; 32];

/// The side on which the other hash stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

pub fn leaf(bytes: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(bytes).finalize().into()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Of at least one leaf; that of none is the hash of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => Sha256::digest([]).into(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(split(many.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The hashes beside the way from a leaf to the root, from the leaf upwards.
pub(super) fn path(leaves: &[Hash], index: usize) -> Vec<(Side, Hash)> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(split(leaves.len()));
    if index < left.len() {
        let mut way = path(left, index);
        way.push((Side::Right, root(right)));
        way
    } else {
        let mut way = path(right, index - left.len());
        way.push((Side::Left, root(left)));
        way
    }
}

/// The root to which a leaf and its path lead.
pub(super) fn climb(leaf: Hash, path: &[(Side, Hash)]) -> Hash {
    path.iter().fold(leaf, |hash, (side, other)| match side {
        Side::Left => node(other, &hash),
        Side::Right => node(&hash, other),
    })
}

/// The largest power of two below a number above 1.
fn split(leaves: usize) -> usize {
    leaves.next_power_of_two() / 2
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = text.as_bytes();
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_every_tree_leads_to_the_root_and_no_other_leaf_does() {
        for size in 1_u8..=70 {
            let leaves: Vec<Hash> = (0..size).map(|number| leaf(&[number])).collect();
            let top = root(&leaves);
            for (index, hash) in leaves.iter().enumerate() {
                let way = path(&leaves, index);
                assert_eq!(climb(*hash, &way), top);
                assert_ne!(climb(leaf(&[200]), &way), top);
            }
        }
    }

    /// The test vectors of certificate transparency implementations: the empty tree, and one empty leaf.
    #[test]
    fn known_trees_have_their_known_roots() {
        assert_eq!(hex(&root(&[])), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(hex(&leaf(&[])), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d");
        let two = root(&[leaf(&[]), leaf(&[0])]);
        assert_eq!(hex(&two), "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125");
    }

    #[test]
    fn hexadecimal_goes_there_and_back() {
        assert_eq!(from_hex::<3>("00ff7a"), Some([0, 255, 122]));
        for wrong in ["00ff7", "00ff7g", "00ff7a00", "+0ff7a"] {
            assert!(from_hex::<3>(wrong).is_none(), "{wrong}");
        }
    }
}
