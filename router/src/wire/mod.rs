//! Owns the bytes of frames: total, any input is a frame or a [`FrameError`], never a panic.
//!
//! A link carries frames; the first byte of each is its kind. Before the handshake is done only [`kind::HELLO`] and
//! [`kind::LINK_ACK`] count, after it only the rest. Control frames travel inside [`kind::SEALED`], their own kind is
//! the first byte of what is sealed. A kind that this version does not know is ignored, as are bytes behind the known
//! fields of HELLO and LINK_ACK: so a later version may add both.

pub mod announce;
pub mod body;
pub mod codec;
pub mod control;
pub mod data;
pub mod hello;
pub mod notice;
pub mod record;

pub use announce::TreeInfo;
pub use codec::{Reader, Writer};
pub use control::Control;
pub use data::{DataS, DataT};
pub use notice::{Notice, NoticeCode};
pub use record::{Record, Reply};

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// A field has a value it must not have.
    #[error("a field has a value that it must not have")]
    Value,
    /// More bytes than its kind may have.
    #[error("it is longer than its kind may be")]
    Long,
    /// A frame that this side may not get in the link's present state.
    #[error("it comes at the wrong time")]
    State,
    /// The seal does not hold.
    #[error("its seal does not hold")]
    Seal,
}

/// The protocol's version, in HELLO. Another one is refused.
pub const VERSION: u8 = 1;

/// The numbers of all frame kinds, those of later versions included, so that none is given twice.
pub mod kind {
    /// First frame of a link, in clear.
    pub const HELLO: u8 = 0x01;
    /// Second frame of a link: the proof of the key, sealed.
    pub const LINK_ACK: u8 = 0x02;
    /// A control frame under the link's keys.
    pub const SEALED: u8 = 0x03;
    /// A data frame on a datagram link: counter and short MAC before it.
    pub const GUARDED: u8 = 0x04;
    /// A piece of a data frame that is longer than the datagram link takes, with counter and MAC.
    pub const PIECE: u8 = 0x05;

    /// Inside SEALED: are you there?
    pub const PING: u8 = 0x10;
    /// Inside SEALED: I am.
    pub const PONG: u8 = 0x11;
    /// Inside SEALED: please countersign my place below you.
    pub const PARENT_REQ: u8 = 0x12;
    /// Inside SEALED: the countersignature, or no.
    pub const PARENT_SIG: u8 = 0x13;
    /// Inside SEALED: my other peers, through which I may be audited.
    pub const PEERS: u8 = 0x14;
    /// Inside SEALED: what has changed on my way to the roots.
    pub const ANNOUNCE: u8 = 0x15;
    /// Inside SEALED: tell me your whole way again.
    pub const RESYNC: u8 = 0x16;
    /// Inside SEALED: what has changed among the nodes nearest to me.
    pub const VICINITY: u8 = 0x17;
    /// Inside SEALED, datagram links: a control frame that must arrive.
    pub const RELIABLE: u8 = 0x18;
    /// Inside SEALED, datagram links: which of those have arrived.
    pub const ACK: u8 = 0x19;

    /// A packet routed by the trees.
    pub const DATA_T: u8 = 0x20;
    /// A packet routed by a list of ports.
    pub const DATA_S: u8 = 0x21;
    /// A packet could not be passed on.
    pub const NOTICE: u8 = 0x22;
}
