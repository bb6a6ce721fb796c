//! Owns the small identifiers: keys of nodes, their short forms, links, ports. Newtypes that cannot be mixed up.
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A node: its ed25519 public key. Shown and parsed as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// Wraps the bytes of a public key. Whether they are a point on the curve shows at the first verification.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// BLAKE3 of the key: the node's place in the lookup's key space; [`Sid`] and the IPv6 address are its prefixes.
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.0).as_bytes()
    }

    /// The first 8 bytes of the key's hash.
    pub fn sid(&self) -> Sid {
        let hash = self.hash();
        let mut sid = [0; 8];
        sid.copy_from_slice(&hash[..8]);
        Sid(sid)
    }

    /// The node's IPv6 address: `fd` and the first 15 bytes of the key's hash.
    pub fn address(&self) -> Ipv6Addr {
        let hash = self.hash();
        let mut octets = [0; 16];
        octets[0] = 0xfd;
        octets[1..].copy_from_slice(&hash[..15]);
        Ipv6Addr::from(octets)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0[..4])?;
        f.write_str("..")
    }
}

impl FromStr for NodeId {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return Err(ParseIdError);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])? << 4 | hex_digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

/// The text is not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's key is 64 hex digits")]
pub struct ParseIdError;

/// A node's short name inside packets: the first 8 bytes of BLAKE3 of its key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid([u8; 8]);

impl Sid {
    /// Wraps eight bytes.
    pub const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    /// The eight bytes.
    pub const fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// The sid of the node that has this overlay address; `None` for an address outside fd00::/8.
    pub fn of_address(address: Ipv6Addr) -> Option<Self> {
        let octets = address.octets();
        let mut sid = [0; 8];
        sid.copy_from_slice(&octets[1..9]);
        (octets[0] == 0xfd).then_some(Self(sid))
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// One connection to a neighbour. Chosen by whoever drives the router, never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// A node's local number for one of its peers. It belongs to the peer's key and goes to nobody else for 24 h.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Port(pub u16);

impl Port {
    /// The node itself: what it sends comes from here.
    pub const SELF: Self = Self(0);
}

/// What a lookup is after.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Target {
    /// A node whose key is known.
    Key(NodeId),
    /// A node of which only the overlay address is known.
    Address(Ipv6Addr),
}

impl From<NodeId> for Target {
    fn from(key: NodeId) -> Self {
        Self::Key(key)
    }
}

impl From<Ipv6Addr> for Target {
    fn from(address: Ipv6Addr) -> Self {
        Self::Address(address)
    }
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

fn hex_digit(digit: u8) -> Result<u8, ParseIdError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(ParseIdError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trip() {
        let id = NodeId::from_bytes([0xab; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("ab".parse::<NodeId>(), Err(ParseIdError));
        assert_eq!("zz".repeat(32).parse::<NodeId>(), Err(ParseIdError));
    }

    #[test]
    fn sid_and_address_are_prefixes_of_one_hash() {
        let id = NodeId::from_bytes([7; 32]);
        assert_eq!(Sid::of_address(id.address()), Some(id.sid()));
        assert_eq!(Sid::of_address(Ipv6Addr::LOCALHOST), None);
    }
}
