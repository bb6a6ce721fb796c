//! Owns the errors at the router's boundary, by whose fault they are.
use crate::wire::FrameError;

/// Why a link is given up. The driver closes the connection; whether it dials again is its own business.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LinkError {
    // The other side's doing.
    /// The first frames are not a handshake of this protocol.
    #[error("the other side does not speak this protocol")]
    NotOurProtocol,
    /// The other side speaks another major version.
    #[error("the other side speaks protocol version {theirs}, this one speaks {ours}")]
    Version {
        /// What it offered.
        theirs: u8,
        /// What we speak.
        ours: u8,
    },
    /// The proof of the peer's key does not hold.
    #[error("the other side did not prove its key")]
    BadProof,
    /// The peer proved a key, but not the pinned one.
    #[error("the other side has another key than the pinned one")]
    WrongKey,
    /// One side has a password, the other none or another one.
    #[error("the link's passwords differ")]
    WrongPassword,
    /// The peer's key is not among those allowed.
    #[error("the other side's key is not among the allowed ones")]
    NotAllowed,
    /// One side takes only frames that are shorter than the protocol needs.
    #[error("the link takes only frames of {mtu} bytes, it needs {least}: give it a greater MTU")]
    TooSmall {
        /// Largest frame that both sides take, in bytes.
        mtu: u32,
        /// What a link of that kind must take.
        least: u32,
    },
    /// A frame after the handshake could not be opened or read.
    #[error("a frame that cannot be read: {0}")]
    Frame(#[from] FrameError),
    // The world's.
    /// No answer within the handshake's time, or none under traffic.
    #[error("the other side does not answer")]
    Timeout,
    /// The driver said that the connection is gone.
    #[error("the connection is lost")]
    Lost,
    // Our own.
    /// The connection leads to this very node.
    #[error("the connection leads back to this node")]
    SelfConnection,
    /// There are already as many links, to this peer or in all, as the bounds allow.
    #[error("there are too many links")]
    TooMany,
    /// The multicast link gave way to one that the network needs more.
    #[error("the link gave way to a more useful one")]
    Redundant,
    /// [`crate::Command::CloseLink`].
    #[error("closed on request")]
    Requested,
}

/// Why a destination could not be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// Nobody who could be asked knows where the key is.
    #[error("nobody knows where that key is")]
    NotFound,
    /// The key's place is known, but it does not answer.
    #[error("it does not answer")]
    NoAnswer,
    /// The router's own bounds: too many destinations are being looked for.
    #[error("too many destinations are being looked for")]
    Busy,
}
