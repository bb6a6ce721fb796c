//! Addresses of links as an operator writes them: `tcp://host:port?key=<hex>&password=..&cost=..`.
//!
//! ```text
//! tcp://198.51.100.7:9001                     IPv4
//! tcp://[2001:db8::7]:9001                    IPv6
//! tcp://[fe80::7%eth0]:9001                   IPv6 with its interface (`%25eth0` is understood too)
//! tcp://node.example.org:9001                 a name, looked up at each attempt
//!   ?key=<64 hex>       only this node may answer (peers); repeatable on a listener: only these may come
//!   &password=<text>    both ends must have the same one (percent-encoded where needed)
//!   &cost=<1..255>      what the operator says the link costs, in place of what is measured
//! ```

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::config::Secret;
use crate::id::NodeId;

/// Keys that one listener can be told to let in: more belong in a file, not in a line.
const ALLOWED_KEYS_MAX: usize = 1024;
/// Bytes of a password: more is no password but a mistake, and it would be hashed at each handshake.
const PASSWORD_BYTES_MAX: usize = 256;

/// The host of a link's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An IPv4 address.
    V4(Ipv4Addr),
    /// An IPv6 address, with the interface that a link-local one belongs to.
    V6(Ipv6Addr, Option<String>),
    /// A name for the system's resolver.
    Name(String),
}

/// A neighbour to keep a link to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUri {
    /// Where it listens.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// The only key that may answer there.
    pub key: Option<NodeId>,
    /// Shared with the listener.
    pub password: Option<Secret>,
    /// The link's cost as the operator wants it.
    pub cost: Option<u8>,
}

/// Where this node takes links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenUri {
    /// A local address; `[::]` is both families, `0.0.0.0` is IPv4 alone.
    pub host: Host,
    /// The port; 0 lets the system choose.
    pub port: u16,
    /// Shared with whoever may come.
    pub password: Option<Secret>,
    /// The only keys that may come; all may where it is absent.
    pub allowed: Option<Arc<[NodeId]>>,
    /// The cost of links that come in here.
    pub cost: Option<u8>,
}

/// Why a text is no address of a link. The text is the operator's, so each says what to write instead.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum UriError {
    /// No `scheme://`, or one that is not there.
    #[error("`{0}` has no scheme that this node speaks: write tcp://host:port")]
    Scheme(String),
    /// The host is missing or not well formed.
    #[error(
        "`{0}` is no host: write a name, an IPv4 address, or an IPv6 address in brackets as in [2001:db8::7]"
    )]
    Host(String),
    /// The port is missing or not a number up to 65535.
    #[error("`{0}` has no port: write tcp://host:port with a port from 1 to 65535")]
    Port(String),
    /// Something after the port that is no query.
    #[error("`{0}` after the port is not understood: options follow a `?`, as in tcp://host:port?cost=10")]
    Path(String),
    /// An option that does not exist here.
    #[error("`{0}` is no option of this address: there are {1}")]
    Option(String, &'static str),
    /// An option twice.
    #[error("the option `{0}` is there twice")]
    Twice(&'static str),
    /// Not a key.
    #[error("`{0}` is no key: it has 64 hexadecimal digits")]
    Key(String),
    /// Not a cost.
    #[error("`{0}` is no cost: it is a number from 1 to 255")]
    Cost(String),
    /// A bad percent-encoding, or an empty or far too long password.
    #[error(
        "the password is empty, longer than 256 bytes, or has a `%` that is not followed by two hexadecimal digits (write %25 for `%`)"
    )]
    Password,
    /// Too many keys.
    #[error("more than 1024 keys in one address")]
    Keys,
}

impl Host {
    /// The socket addresses of this host that need no resolver; a name gives none.
    pub(crate) fn literal(&self, port: u16, scope: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
        match self {
            Self::V4(ip) => Some(SocketAddr::new(IpAddr::V4(*ip), port)),
            Self::V6(ip, zone) => {
                let scope_id = match zone {
                    Some(zone) => zone.parse().ok().or_else(|| scope(zone))?,
                    None => 0,
                };
                Some(SocketAddrV6::new(*ip, port, 0, scope_id).into())
            }
            Self::Name(_) => None,
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(ip) => ip.fmt(f),
            Self::V6(ip, None) => write!(f, "[{ip}]"),
            Self::V6(ip, Some(zone)) => write!(f, "[{ip}%{zone}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl PeerUri {
    /// Whether both name the same place, whatever options they carry.
    pub fn same_place(&self, other: &Self) -> bool {
        self.host == other.host && self.port == other.port
    }
}

/// Without the password, so that it can be logged.
impl fmt::Display for PeerUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}:{}", self.host, self.port)?;
        let mut sep = '?';
        if let Some(key) = &self.key {
            write!(f, "{sep}key={key}")?;
            sep = '&';
        }
        if let Some(cost) = self.cost {
            write!(f, "{sep}cost={cost}")?;
        }
        Ok(())
    }
}

/// Without password and keys, so that it can be logged.
impl fmt::Display for ListenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}:{}", self.host, self.port)
    }
}

impl FromStr for PeerUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        const KNOWN: &str = "key, password and cost";
        let (host, port, query) = split(text)?;
        if port == 0 {
            return Err(UriError::Port(text.to_owned()));
        }
        let mut uri = Self { host, port, key: None, password: None, cost: None };
        for (name, value) in options(query) {
            match name {
                "key" => once("key", &mut uri.key, key(value)?)?,
                "password" => once("password", &mut uri.password, password(value)?)?,
                "cost" => once("cost", &mut uri.cost, cost(value)?)?,
                _ => return Err(UriError::Option(name.to_owned(), KNOWN)),
            }
        }
        Ok(uri)
    }
}

impl FromStr for ListenUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        const KNOWN: &str = "key (repeatable), password and cost";
        let (host, port, query) = split(text)?;
        let mut uri = Self { host, port, password: None, allowed: None, cost: None };
        let mut keys = Vec::new();
        for (name, value) in options(query) {
            match name {
                "key" if keys.len() == ALLOWED_KEYS_MAX => return Err(UriError::Keys),
                "key" => keys.push(key(value)?),
                "password" => once("password", &mut uri.password, password(value)?)?,
                "cost" => once("cost", &mut uri.cost, cost(value)?)?,
                _ => return Err(UriError::Option(name.to_owned(), KNOWN)),
            }
        }
        uri.allowed = (!keys.is_empty()).then(|| keys.into());
        Ok(uri)
    }
}

/// Host, port and query of an address.
fn split(text: &str) -> Result<(Host, u16, &str), UriError> {
    let rest = text.strip_prefix("tcp://").ok_or_else(|| UriError::Scheme(text.to_owned()))?;
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.strip_suffix('/').unwrap_or(authority);
    if let Some(at) = authority.find('/') {
        return Err(UriError::Path(authority[at..].to_owned()));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (inner, port) =
                bracketed.split_once(']').ok_or_else(|| UriError::Host(authority.to_owned()))?;
            (v6(inner)?, port.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (name_or_v4(host)?, Some(port)),
            None => (name_or_v4(authority)?, None),
        },
    };
    let port = port.ok_or_else(|| UriError::Port(text.to_owned()))?;
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or_else(|| UriError::Port(text.to_owned()))?;
    Ok((host, port, query))
}

fn v6(inner: &str) -> Result<Host, UriError> {
    let bad = || UriError::Host(format!("[{inner}]"));
    let (ip, zone) = match inner.split_once('%') {
        Some((ip, zone)) => (ip, Some(zone.strip_prefix("25").filter(|z| !z.is_empty()).unwrap_or(zone))),
        None => (inner, None),
    };
    let zone_ok = |z: &str| !z.is_empty() && z.len() < 16 && !z.contains(['/', '%', ' ']);
    if !zone.is_none_or(zone_ok) {
        return Err(bad());
    }
    Ok(Host::V6(ip.parse().map_err(|_| bad())?, zone.map(str::to_owned)))
}

fn name_or_v4(host: &str) -> Result<Host, UriError> {
    if let Ok(ip) = host.parse() {
        return Ok(Host::V4(ip));
    }
    // Underscores are no host name by the book, and in use in many a home network.
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_') || !b.is_ascii();
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if host.is_empty() || host.len() > 253 || numeric || !host.bytes().all(ok) {
        return Err(UriError::Host(host.to_owned()));
    }
    Ok(Host::Name(host.to_ascii_lowercase()))
}

fn options(query: &str) -> impl Iterator<Item = (&str, &str)> {
    query.split('&').filter(|o| !o.is_empty()).map(|o| o.split_once('=').unwrap_or((o, "")))
}

fn once<T>(name: &'static str, slot: &mut Option<T>, value: T) -> Result<(), UriError> {
    match slot.replace(value) {
        Some(_) => Err(UriError::Twice(name)),
        None => Ok(()),
    }
}

fn key(value: &str) -> Result<NodeId, UriError> {
    value.parse().map_err(|_| UriError::Key(value.to_owned()))
}

fn cost(value: &str) -> Result<u8, UriError> {
    value.parse().ok().filter(|c| *c > 0).ok_or_else(|| UriError::Cost(value.to_owned()))
}

fn password(value: &str) -> Result<Secret, UriError> {
    let mut out = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16)).ok_or(UriError::Password);
        let (high, low) = (digit()?, digit()?);
        out.push((high * 16 + low) as u8);
    }
    if out.is_empty() || out.len() > PASSWORD_BYTES_MAX {
        return Err(UriError::Password);
    }
    Ok(Secret::new(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(text: &str) -> Result<PeerUri, UriError> {
        text.parse()
    }

    #[test]
    fn hosts_of_every_kind() {
        let uri = peer("tcp://198.51.100.7:9001").unwrap();
        assert_eq!((uri.host, uri.port), (Host::V4(Ipv4Addr::new(198, 51, 100, 7)), 9001));
        assert_eq!(
            peer("tcp://[2001:db8::7]:1/").unwrap().host,
            Host::V6("2001:db8::7".parse().unwrap(), None)
        );
        for text in ["tcp://[fe80::7%eth0]:1", "tcp://[fe80::7%25eth0]:1"] {
            let uri = peer(text).unwrap();
            assert_eq!(uri.host, Host::V6("fe80::7".parse().unwrap(), Some("eth0".into())));
            assert_eq!(uri.to_string(), "tcp://[fe80::7%eth0]:1");
            let addr = uri.host.literal(1, |name| (name == "eth0").then_some(7));
            assert_eq!(addr.unwrap().to_string(), "[fe80::7%7]:1");
        }
        assert_eq!(peer("tcp://Node.Example.org:65535").unwrap().host, Host::Name("node.example.org".into()));
    }

    #[test]
    fn options_are_read() {
        let hex = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
        let uri = peer(&format!("tcp://a:1?key={hex}&password=a%26b%3d&cost=255")).unwrap();
        assert_eq!(uri.key.unwrap().to_string(), hex);
        assert_eq!(uri.password, Some(Secret::new(b"a&b=".to_vec())));
        assert_eq!(uri.cost, Some(255));
        assert!(!uri.to_string().contains("password"), "a password must not get into a log");
        let listen: ListenUri = format!("tcp://[::]:0?key={hex}&key={hex}").parse().unwrap();
        assert_eq!(listen.allowed.unwrap().len(), 2);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| peer(text).unwrap_err();
        assert!(matches!(error("a:1"), UriError::Scheme(_)));
        assert!(matches!(error("udp://a:1"), UriError::Scheme(_)));
        for text in
            ["tcp://a", "tcp://a:", "tcp://a:65536", "tcp://a:0", "tcp://a:+1", "tcp://[::1]", "tcp://a:x"]
        {
            assert!(matches!(error(text), UriError::Port(_)), "{text}");
        }
        for text in [
            "tcp://:1",
            "tcp://[::1:1",
            "tcp://[fe80::1%]:1",
            "tcp://2001:db8::1:1",
            "tcp://1.2.3:4",
            "tcp://a b:1",
        ] {
            assert!(matches!(error(text), UriError::Host(_)), "{text}");
        }
        assert!(matches!(error("tcp://a:1/x"), UriError::Path(_)));
        assert!(matches!(error("tcp://a:1?colour=red"), UriError::Option(..)));
        assert!(matches!(error("tcp://a:1?cost=1&cost=2"), UriError::Twice("cost")));
        assert!(matches!(error("tcp://a:1?cost=0"), UriError::Cost(_)));
        assert!(matches!(error("tcp://a:1?cost=256"), UriError::Cost(_)));
        assert!(matches!(error("tcp://a:1?key=00ff"), UriError::Key(_)));
        for bad in ["%", "%4", "%zz", ""] {
            assert_eq!(error(&format!("tcp://a:1?password={bad}")), UriError::Password);
        }
    }
}
