//! The only I/O of the router: links over TCP, discovery by multicast, the TUN, and the loop that drives it all.
//!
//! - `driver`: one thread with one loop, one clock and one [`crate::Router`]; whatever has something for it says so in
//!   `ready`, and every turn of the loop takes all there is before it writes.
//! - `tcp`: frames over a stream; `dial` and `listen` make such streams; `uri` is how operators write them.
//! - `multicast`: neighbours on the same cable, by beacons of `beacon`; `interfaces` and `netlink` follow the host.
//! - `tun` and `segments`: IPv6 packets of any program; `os`: clock and randomness; `kept`: what survives a restart.
//! - `handle`: [`Node`] and [`KeySocket`], what applications hold.

mod asked;
mod dial;
mod driver;
mod handle;
mod interfaces;
mod kept;
mod links;
mod listen;
mod multicast;
mod netlink;
mod os;
mod pace;
mod paths;
mod queue;
mod ready;
mod segments;
mod start;
mod stats;
mod sys;
mod tcp;
mod tun;
mod uri;

pub use handle::{KeySocket, LookupError, Node, NodeEvent, PeerError, SendError};
pub use os::OsEntropy;
pub use stats::{NetStats, NodeStats};
pub use uri::{Host, ListenUri, PeerUri, UriError};

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::config::{Config, Secret};
use crate::crypto::SecretKey;

/// All that a node is started with.
pub struct NodeConfig {
    /// Its key.
    pub secret: SecretKey,
    /// Where what survives a restart is kept: the counter that only grows (without it the clock of the host has to do),
    /// how long which roots were followed.
    pub state_dir: Option<PathBuf>,
    /// Where neighbours may come in.
    pub listen: Vec<ListenUri>,
    /// Neighbours to keep a link to.
    pub peers: Vec<PeerUri>,
    /// Whether and where to look for neighbours on the same cable.
    pub multicast: Multicast,
    /// Name of a TUN interface to make, for any program to reach any key.
    pub tun: Option<String>,
    /// Settings of the router itself.
    pub router: Config,
}

impl NodeConfig {
    /// A node that neither listens nor dials nor looks for neighbours.
    pub fn new(secret: SecretKey) -> Self {
        Self {
            secret,
            state_dir: None,
            listen: Vec::new(),
            peers: Vec::new(),
            multicast: Multicast::off(),
            tun: None,
            router: Config::default(),
        }
    }
}

/// Discovery of neighbours on the same cable or Wi-Fi.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Multicast {
    /// Where.
    pub interfaces: MulticastInterfaces,
    /// Only nodes with the same password find and link to each other.
    pub password: Option<Secret>,
}

impl Multicast {
    /// No discovery.
    pub fn off() -> Self {
        Self { interfaces: MulticastInterfaces::Off, password: None }
    }

    /// Discovery on every interface that can, without a password.
    pub fn all() -> Self {
        Self { interfaces: MulticastInterfaces::All, password: None }
    }

    /// Discovery on these interfaces only, whether they are there yet or not.
    pub fn on(interfaces: Vec<String>) -> Self {
        Self { interfaces: MulticastInterfaces::Named(interfaces), password: None }
    }
}

/// Interfaces on which to look for neighbours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum MulticastInterfaces {
    /// None.
    Off,
    /// Every one that can do multicast and is neither loopback nor tunnel.
    #[default]
    All,
    /// Those with these names, also tunnels.
    Named(Vec<String>),
}

/// Why a node did not start. Nothing of it stays behind.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// A listener.
    #[error("cannot listen on {uri}: {source}{}", listen_hint(.source))]
    Listen {
        /// As configured.
        uri: String,
        /// What the system says.
        source: io::Error,
    },
    /// The TUN.
    #[error("cannot make the TUN interface {name}: {source}{}", tun_hint(.source))]
    Tun {
        /// As configured.
        name: String,
        /// What the system says.
        source: io::Error,
    },
    /// The counter's file.
    #[error("cannot keep state in {}: {source}", path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The multicast sockets.
    #[error("cannot look for neighbours by multicast: {0} (`--no-multicast` goes without)")]
    Multicast(io::Error),
    /// The thread or its runtime.
    #[error("cannot start the router's thread: {0}")]
    Thread(io::Error),
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (another program has that port: choose another one, or 0 for any)",
        io::ErrorKind::AddrNotAvailable => " (this host does not have that address)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need more rights)",
        _ => "",
    }
}

fn tun_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => " (this needs root or CAP_NET_ADMIN)",
        Some(libc::EBUSY) => " (another program has that interface: choose another name)",
        Some(libc::ENOENT | libc::ENODEV) => " (no /dev/net/tun: `modprobe tun`)",
        _ => "",
    }
}
