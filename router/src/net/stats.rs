//! Counters of what drives the router: written by its tasks, read by whoever asks.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::stats::Stats;

/// All counters of a node since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeStats {
    /// Those of the router.
    pub router: Stats,
    /// Those of what drives it.
    pub net: NetStats,
}

macro_rules! counters {
    ($($(#[$doc:meta])+ $name:ident)+) => {
        /// Counters of links, discovery and TUN.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct NetStats {
            $($(#[$doc])+ pub $name: u64,)+
            /// Packets of streams dropped since the application did not take them in time.
            pub received_dropped: u64,
        }

        /// The same, while they are counted.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)+
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> NetStats {
                NetStats { $($name: self.$name.0.load(Ordering::Relaxed),)+ received_dropped: 0 }
            }
        }
    };
}

counters! {
    /// Connections that were made, ours and theirs.
    links_opened
    /// Connections turned away: too many at once, or a full neighbour table.
    links_refused
    /// Connections ended for what came over them: no length, no handshake, no proof.
    links_bad
    /// Attempts to dial that failed.
    dials_failed
    /// Beacons sent.
    beacons_sent
    /// Beacons of others, read.
    beacons_received
    /// Datagrams on the beacons' port that are no beacon, or one with another password.
    beacons_bad
    /// Packets read from the TUN.
    tun_packets_in
    /// Their bytes.
    tun_bytes_in
    /// Packets written to the TUN.
    tun_packets_out
    /// Their bytes.
    tun_bytes_out
    /// Packets from this host that no key could own (not IPv6, not from this node's address, not to fd00::/8): dropped.
    tun_foreign
    /// Packets from the overlay that are no IPv6 packets for this node's address: dropped.
    tun_malformed
    /// Packets from this host that were too large for their way, and answered with ICMPv6 Packet Too Big.
    tun_too_big
    /// Packets that the kernel did not take.
    tun_refused
}

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
}
