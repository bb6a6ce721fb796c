//! Counters of the overlay.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What happened since the start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.0.load(Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Dials begun.
    dials,
    /// Dials that ended without a connection.
    dials_failed,
    /// Connections that others made.
    accepted,
    /// Connections that were refused or evicted for a limit.
    refused,
    /// Requests sent.
    requests_out,
    /// Requests sent a second time after the first connection was lost.
    retried,
    /// Requests served.
    requests_in,
    /// Requests answered with 503 for a limit.
    busy,
    /// Bodies cut off at their limit.
    oversized,
    /// Streams refused for an unknown first byte, or for a limit.
    streams_refused,
    /// Datagrams given up since the node's queue was full.
    datagrams_dropped,
    /// Datagrams larger than the path takes.
    datagrams_oversized,
}

#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}
