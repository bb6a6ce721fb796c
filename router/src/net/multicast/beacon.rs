//! Owns what nodes on one cable tell each other to be found.
//!
//! ```text
//!  0   4  "MGRV"
//!  4   1  version of the beacon: 1
//!  5   1  flags: bit 0 = answer me at once, the others 0
//!  6  16  tag: random, new at each start of the node, another one on each of its interfaces
//! 22   2  TCP port of the sender's listener on this interface, big-endian, never 0
//! 24   1  links that the sender has (255 = that or more)
//! 25   8  root mark: BLAKE3(key, "root" | tag | sid of the root of its first tree)
//! 33  16  proof: BLAKE3(key, all of the above)
//! ```
//!
//! `key` is derived from the password (or from none): a beacon of others with another password is no beacon. The tag
//! tells a node its own beacons, and who of two dials (the lesser tag), and says nothing of the node's key, which
//! shows only inside the link handshake. The root mark says whether two nodes have the same root, to one who knows it.

use blake3::Hasher;

use crate::config::Secret;
use crate::id::Sid;

/// Bytes of a beacon.
pub(crate) const BEACON_BYTES: usize = 49;
const PROVEN_BYTES: usize = 33;
const MAGIC: [u8; 4] = *b"MGRV";
const VERSION: u8 = 1;
const FLAG_SOLICIT: u8 = 1;

/// A node's name on a cable, for as long as it runs.
pub(crate) type Tag = [u8; 16];

/// What a beacon says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Beacon {
    pub(crate) solicit: bool,
    pub(crate) tag: Tag,
    pub(crate) port: u16,
    pub(crate) links: u8,
    pub(crate) root_mark: [u8; 8],
}

/// Made from the password: those who have it can read each other's beacons.
#[derive(Clone)]
pub(crate) struct BeaconKey([u8; 32]);

impl BeaconKey {
    pub(crate) fn new(password: Option<&Secret>) -> Self {
        Self(blake3::derive_key("mangrove/1/beacon", password.map_or(&[], Secret::expose)))
    }

    /// The mark that a node with this tag puts into its beacons while this is its root.
    pub(crate) fn root_mark(&self, tag: &Tag, root: Sid) -> [u8; 8] {
        self.digest(&[b"root", tag, root.as_bytes()])
    }

    fn digest<const N: usize>(&self, parts: &[&[u8]]) -> [u8; N] {
        let mut hasher = Hasher::new_keyed(&self.0);
        for part in parts {
            hasher.update(part);
        }
        let mut out = [0; N];
        hasher.finalize_xof().fill(&mut out);
        out
    }

    pub(crate) fn encode(&self, beacon: &Beacon) -> [u8; BEACON_BYTES] {
        let mut out = [0; BEACON_BYTES];
        out[..4].copy_from_slice(&MAGIC);
        out[4] = VERSION;
        out[5] = if beacon.solicit { FLAG_SOLICIT } else { 0 };
        out[6..22].copy_from_slice(&beacon.tag);
        out[22..24].copy_from_slice(&beacon.port.to_be_bytes());
        out[24] = beacon.links;
        out[25..33].copy_from_slice(&beacon.root_mark);
        let proof: [u8; 16] = self.digest(&[&out[..PROVEN_BYTES]]);
        out[PROVEN_BYTES..].copy_from_slice(&proof);
        out
    }

    /// What a datagram says, if it is a beacon under this key.
    pub(crate) fn decode(&self, datagram: &[u8]) -> Option<Beacon> {
        let whole: &[u8; BEACON_BYTES] = datagram.try_into().ok()?;
        let (magic, version, flags) =
            (whole[..4] == MAGIC, whole[4] == VERSION, whole[5] & !FLAG_SOLICIT == 0);
        let port = u16::from_be_bytes([whole[22], whole[23]]);
        if !(magic && version && flags && port != 0) {
            return None;
        }
        // Whoever is on the cable can repeat a beacon anyway: nothing is gained from timing this comparison.
        let proof: [u8; 16] = self.digest(&[&whole[..PROVEN_BYTES]]);
        (proof == whole[PROVEN_BYTES..]).then(|| Beacon {
            solicit: whole[5] & FLAG_SOLICIT != 0,
            tag: whole[6..22].try_into().expect("16 bytes"),
            port,
            links: whole[24],
            root_mark: whole[25..33].try_into().expect("8 bytes"),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn beacon() -> Beacon {
        Beacon { solicit: true, tag: [7; 16], port: 4711, links: 3, root_mark: [9; 8] }
    }

    #[test]
    fn a_beacon_comes_back() {
        let key = BeaconKey::new(None);
        assert_eq!(key.decode(&key.encode(&beacon())), Some(beacon()));
        let quiet = Beacon { solicit: false, ..beacon() };
        assert_eq!(key.decode(&key.encode(&quiet)), Some(quiet));
    }

    #[test]
    fn another_password_is_another_network() {
        let (open, closed) = (BeaconKey::new(None), BeaconKey::new(Some(&Secret::new(*b"swordfish"))));
        assert_eq!(open.decode(&closed.encode(&beacon())), None);
        assert_eq!(closed.decode(&open.encode(&beacon())), None);
        let root = Sid::from_bytes([1; 8]);
        assert_ne!(open.root_mark(&[7; 16], root), closed.root_mark(&[7; 16], root));
        assert_ne!(open.root_mark(&[7; 16], root), open.root_mark(&[8; 16], root));
    }

    proptest! {
        #[test]
        fn any_other_bytes_are_no_beacon(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(BeaconKey::new(None).decode(&bytes), None);
        }

        #[test]
        fn a_changed_bit_is_no_beacon(bit in 0..BEACON_BYTES * 8) {
            let key = BeaconKey::new(None);
            let mut bytes = key.encode(&beacon());
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(key.decode(&bytes), None);
        }
    }
}
