//! What is due, when, and in which order: by time, then by who caused it, so that the order depends on nothing else.

use std::cmp::Ordering;

use bytes::Bytes;
use router::{Command, Instant, LinkId};

/// Something that will happen to a node.
pub(super) struct Due {
    pub(super) at: Instant,
    /// Who caused it, and how much that one had caused before: of two things at one instant the lesser goes first.
    pub(super) order: u64,
    pub(super) node: u32,
    pub(super) what: What,
}

pub(super) enum What {
    /// A frame arrives; `slot` is the link's place among those of the node.
    Frame { slot: u32, epoch: u32, frame: Bytes },
    /// The socket has room again.
    Room { slot: u32, epoch: u32 },
    /// The router's deadline.
    Wake,
    /// The other end has closed the connection.
    Lost { slot: u32, link: LinkId },
    /// The application wants something.
    Command(Box<Command>),
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest: that is what a heap gives first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}
