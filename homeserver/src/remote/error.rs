//! Why another server did not do what was asked of it.

use ruma::{OwnedServerName, api::error::ErrorKind};

use super::carrier::CarrierError;

/// The outcome of a request to another server that failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The other server answered with an error.
    #[error("{server} refused: {message}")]
    Refused {
        /// Who.
        server: OwnedServerName,
        /// The HTTP status.
        status: u16,
        /// Its errcode, if it sent one.
        errcode: Option<String>,
        /// Its words.
        message: String,
        /// When to come again, if it said so.
        retry_after_ms: Option<u64>,
    },
    /// The other server answered with something that is no answer to the question.
    #[error("{server} sent an answer that cannot be read: {reason}")]
    BadAnswer {
        /// Who.
        server: OwnedServerName,
        /// What is wrong.
        reason: String,
    },
    /// The answer is larger than we take.
    #[error("{server} sent more than {limit} bytes")]
    TooLarge {
        /// Who.
        server: OwnedServerName,
        /// The limit in bytes.
        limit: usize,
    },
    /// It could not be reached.
    #[error("{server}: {reason}")]
    Unreachable {
        /// Who.
        server: OwnedServerName,
        /// Why.
        reason: CarrierError,
    },
    /// The name belongs to nobody we could ask: no carrier of ours leads there.
    #[error("{server} {reason}")]
    NoWay {
        /// Who.
        server: OwnedServerName,
        /// Why, and what helps.
        reason: String,
    },
    /// The operator wants nothing to do with it.
    #[error("{0} is blocked by the operator of this server")]
    Blocked(OwnedServerName),
    /// A request of ours could not be written down.
    #[error("the request cannot be written: {0}")]
    Request(String),
    /// We asked ourselves.
    #[error("a server does not federate with itself")]
    Ourselves,
}

impl RemoteError {
    /// Whether to ask again later may help: nobody decided against us.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
            Self::BadAnswer { .. }
            | Self::TooLarge { .. }
            | Self::NoWay { .. }
            | Self::Blocked(_)
            | Self::Request(_)
            | Self::Ourselves => false,
        }
    }

    /// The other server's errcode.
    pub fn errcode(&self) -> Option<&str> {
        match self {
            Self::Refused { errcode, .. } => errcode.as_deref(),
            _ => None,
        }
    }

    /// The other server's status.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The kind under which our own client hears of it.
    pub fn kind(&self) -> ErrorKind {
        if matches!(self, Self::Blocked(_)) {
            return ErrorKind::Forbidden;
        }
        match self.errcode() {
            Some("M_FORBIDDEN") => ErrorKind::Forbidden,
            Some("M_NOT_FOUND") => ErrorKind::NotFound,
            Some("M_UNABLE_TO_AUTHORISE_JOIN") => ErrorKind::UnableToAuthorizeJoin,
            Some("M_UNABLE_TO_GRANT_JOIN") => ErrorKind::UnableToGrantJoin,
            _ => ErrorKind::Unknown,
        }
    }
}
