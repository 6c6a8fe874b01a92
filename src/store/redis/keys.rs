//! The names of the keys.
//!
//! All keys of a session lie in one of 256 partitions, and with them in one slot of a cluster. The
//! last byte of the session's id is the partition, and so is the first byte of the hash of each of
//! its tokens.

use crate::session::{SessionId, TokenHash};

/// Number of partitions.
pub(super) const PARTITIONS: usize = 256;

/// The name of a key, and its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) partition: u8,
    pub(super) name: Vec<u8>,
}

/// The names of the keys of a deployment.
#[derive(Debug)]
pub(super) struct Keys {
    /// The beginning of the keys of each partition: `PREFIX{TAG}:`.
    bases: Vec<String>,
    slots: Vec<u16>,
}

impl Keys {
    /// `prefix` tells several deployments on one server apart.
    pub(super) fn new(prefix: &str) -> Self {
        let bases = tags().map(|tag| format!("{prefix}{{{tag}}}:")).collect();
        Self { bases, slots: tags().map(|tag| slot(tag.to_string().as_bytes())).collect() }
    }

    /// Returns the slot of a partition in a cluster.
    pub(super) fn slot(&self, partition: u8) -> u16 {
        self.slots[usize::from(partition)]
    }

    fn key(&self, partition: u8, kind: &str, rest: &[u8]) -> Key {
        let base = &self.bases[usize::from(partition)];
        let mut name = Vec::with_capacity(base.len() + kind.len() + rest.len());
        name.extend_from_slice(base.as_bytes());
        name.extend_from_slice(kind.as_bytes());
        name.extend_from_slice(rest);
        Key { partition, name }
    }

    /// Returns the key of a session. The scripts derive the other ones from it.
    pub(super) fn session(&self, id: SessionId) -> Key {
        self.key(id.partition(), "s:", id.as_bytes())
    }

    /// Returns all keys that a script of a session may use, except those of its tokens and of other
    /// nodes. A server of a cluster refuses a script if one of them is being moved.
    pub(super) fn all_of_session(&self, id: SessionId, node: &[u8]) -> Vec<Key> {
        let partition = id.partition();
        let mut keys = vec![self.session(id)];
        keys.extend(["x:", "l:", "i:", "c:"].map(|kind| self.key(partition, kind, id.as_bytes())));
        keys.extend([self.due(partition), self.term(partition), self.owned(partition, node)]);
        keys
    }

    /// Returns the key of the `client_message_id`s of a session.
    pub(super) fn client_ids(&self, id: SessionId) -> Key {
        self.key(id.partition(), "i:", id.as_bytes())
    }

    /// Returns the key of the log of a session.
    pub(super) fn log(&self, id: SessionId) -> Key {
        self.key(id.partition(), "l:", id.as_bytes())
    }

    /// Returns the key of a token in the partition of its session.
    pub(super) fn token_of(&self, id: SessionId, hash: &TokenHash) -> Key {
        self.key(id.partition(), "t:", hash.as_bytes())
    }

    /// Returns the key of the process of the server that a partition was last used with.
    pub(super) fn term(&self, partition: u8) -> Key {
        self.key(partition, "term", b"")
    }

    /// Returns the key of a token.
    pub(super) fn token(&self, hash: &TokenHash) -> Key {
        self.key(hash.partition(), "t:", hash.as_bytes())
    }

    /// Returns the key of the sessions that a node answers, in a partition.
    pub(super) fn owned(&self, partition: u8, node: &[u8]) -> Key {
        self.key(partition, "o:", node)
    }

    /// Returns the channel of a node's inbox, in a partition.
    pub(super) fn inbox(&self, partition: u8, node: &[u8]) -> Key {
        self.key(partition, "n:", node)
    }

    /// Returns the key of the deadlines of a partition.
    pub(super) fn due(&self, partition: u8) -> Key {
        self.key(partition, "due", b"")
    }

    /// Returns a key that belongs to no session.
    pub(super) fn global(&self, name: &str) -> Key {
        self.key(0, name, b"")
    }

    /// Returns a key about an owner, an address or a day, in a partition of its own.
    pub(super) fn about(&self, kind: &str, of: &[u8]) -> Key {
        let partition = of.iter().fold(0_u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(*byte));
        self.key(partition, kind, of)
    }
}

/// Returns the tag of each partition: the smallest number whose slot is in the partition's range of 64
/// slots. The numbers 0 to 255 themselves would not be spread evenly over the slots.
fn tags() -> impl Iterator<Item = u32> {
    let mut tags = vec![None; PARTITIONS];
    let mut left = PARTITIONS;
    for number in 0.. {
        let place = &mut tags[usize::from(slot(number.to_string().as_bytes()) / 64)];
        if place.is_none() {
            *place = Some(number);
            left -= 1;
            if left == 0 {
                break;
            }
        }
    }
    tags.into_iter().flatten()
}

/// Returns the slot of a tag (Redis Cluster specification, "Key distribution model": CRC16/XMODEM).
fn slot(tag: &[u8]) -> u16 {
    let mut crc = 0_u16;
    for byte in tag {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            let carry = crc & 0x8000 != 0;
            crc <<= 1;
            if carry {
                crc ^= 0x1021;
            }
        }
    }
    crc % 16384
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        // The check value of CRC16/XMODEM.
        assert_eq!(slot(b"123456789"), 0x31c3);
        // As `CLUSTER KEYSLOT` of a server has it.
        assert_eq!(slot(b"foo"), 12182);
    }

    #[test]
    fn partitions_are_spread_evenly_over_the_slots() {
        let tags: Vec<_> = tags().collect();
        assert_eq!(tags.len(), PARTITIONS);
        for (partition, tag) in tags.iter().enumerate() {
            assert_eq!(usize::from(slot(tag.to_string().as_bytes()) / 64), partition);
        }
    }
}
