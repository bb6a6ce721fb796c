//! What a request over the overlay can fail with.

use std::{sync::Arc, time::Duration};

use router::NodeId;

/// Why a request got no answer, sorted by whose fault it is.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The node did not answer, or did not lately and is given a moment.
    #[error("node {node} cannot be reached{}", retry(.retry_in))]
    Unreachable {
        /// Who was asked.
        node: NodeId,
        /// How long further dials are held back; zero if they are not.
        retry_in: Duration,
    },
    /// The connection ended before the answer was complete. The other side may have acted on the request.
    #[error("the connection was lost: {0}")]
    Lost(Arc<str>),
    /// The other side broke HTTP/2 or refused the request.
    #[error("the other node broke the protocol: {0}")]
    Protocol(Arc<str>),
    /// A body grew past the limit.
    #[error("body larger than {limit} bytes")]
    BodyTooLarge {
        /// The limit that applied.
        limit: u64,
    },
    /// The request cannot be sent as it is.
    #[error("bad request: {0}")]
    BadRequest(Arc<str>),
    /// This node has as many connections as it may have, all of them busy.
    #[error("too many connections")]
    Busy,
    /// The overlay was closed.
    #[error("the overlay is closed")]
    Closed,
}

impl Error {
    /// Whether the node itself could not be reached, so that other requests to it may as well wait.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    pub(crate) fn lost(error: impl ToString) -> Self {
        Self::Lost(error.to_string().into())
    }

    /// Sorts an error of hyper: what ended with the connection is [`Error::Lost`].
    pub(crate) fn from_hyper(error: &hyper::Error) -> Self {
        let detail = detail(error);
        if error.is_user() {
            Self::BadRequest(detail.into())
        } else if error.is_canceled()
            || error.is_closed()
            || error.is_timeout()
            || detail.contains("connection")
        {
            Self::Lost(detail.into())
        } else {
            Self::Protocol(detail.into())
        }
    }
}

/// hyper keeps the reason in the source.
fn detail(error: &hyper::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

fn retry(wait: &Duration) -> String {
    if wait.is_zero() { String::new() } else { format!(", next attempt in {wait:.1?}") }
}
