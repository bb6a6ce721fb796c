//! What a request can end in when it does not succeed, sorted by whose fault it is.
//!
//! Areas have their own errors; here they come together. `http/reply.rs` is the one place that turns
//! an [`Error`] into a status and an errcode.

use std::borrow::Cow;

use ruma::api::{client::uiaa::UiaaInfo, error::ErrorKind};

use crate::{
    e2ee::E2eeError,
    media::MediaError,
    push::PushError,
    remote::RemoteError,
    room::{RoomError, delayed::DelayedError, thread::ThreadError},
    store::StoreError,
    sync::{FilterError, SyncError},
    user::UserError,
};

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request could not be understood, or its caller could not be told.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A verb on users failed.
    #[error(transparent)]
    User(#[from] UserError),
    /// A verb on media failed.
    #[error(transparent)]
    Media(#[from] MediaError),
    /// A verb on rooms failed.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// A verb on delayed events failed.
    #[error(transparent)]
    Delayed(#[from] DelayedError),
    /// A verb on thread subscriptions failed.
    #[error(transparent)]
    Thread(#[from] ThreadError),
    /// Another server was asked in vain.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Keys, lists of devices or messages to devices.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// Push rules.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Filters of syncs.
    #[error(transparent)]
    Filter(#[from] FilterError),
    /// A refusal that the specification names, with a text that helps.
    #[error("{1}")]
    Matrix(ErrorKind, Cow<'static, str>),
    /// The user has to prove who it is first.
    #[error("user-interactive authentication is needed")]
    Uiaa(Box<UiaaInfo>),
    /// The user has to agree to the terms first, on the page at this address.
    #[error("to go on, agree to the terms of this server: {0}")]
    Terms(String),
    /// The caller is shadow-banned: it is told that all went well, and nothing happened.
    #[error("nothing was done for a shadow-banned user")]
    Pretend(serde_json::Value),
    /// Something of ours is broken; the text goes to the log, not to the caller.
    #[error("{0}")]
    Internal(Cow<'static, str>),
}

impl From<SyncError> for Error {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::E2ee(error) => error.into(),
            SyncError::UnknownPos => Self::new(ErrorKind::UnknownPos, error.to_string()),
            SyncError::Invalid(text) => RequestError::BadJson(text).into(),
            SyncError::Store(error) => error.into(),
        }
    }
}

impl Error {
    /// A refusal with the errcode of `kind` and the status that goes with it.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self::Matrix(kind, message.into())
    }

    /// `M_NOT_FOUND`.
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// `M_FORBIDDEN`.
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Forbidden, message)
    }

    /// `M_INVALID_PARAM`.
    pub fn invalid_param(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidParam, message)
    }

    /// A broken promise between our own parts. Logged; the caller sees `M_UNKNOWN`.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::Internal(message.into())
    }
}

/// Faults of the request itself, found before any area is asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is no JSON at all.
    #[error("the body is not valid JSON: {0}")]
    NotJson(String),
    /// JSON, but not of the shape this endpoint wants.
    #[error("the body does not fit this endpoint: {0}")]
    BadJson(String),
    /// A path or query parameter that is not what it should be.
    #[error("a parameter is invalid: {0}")]
    InvalidParam(String),
    /// A needed parameter is absent.
    #[error("a parameter is missing: {0}")]
    MissingParam(String),
    /// The body is longer than this endpoint takes.
    #[error("the body is larger than the {limit} bytes this endpoint takes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection broke while the body was read.
    #[error("the body could not be read")]
    BodyBroken,
    /// No access token where one is needed.
    #[error("an access token is needed; log in first")]
    MissingToken,
    /// A token nobody has, or no longer.
    #[error("this access token is not (or no longer) valid; log in again")]
    UnknownToken,
    /// An `Authorization` header that is none of ours.
    #[error("the Authorization header is not understood")]
    BadAuthorization,
    /// A forged, stale or foreign X-Matrix signature.
    #[error("the request's X-Matrix signature does not hold: {0}")]
    BadSignature(String),
    /// No endpoint of ours has this path.
    #[error("no such endpoint here")]
    UnknownPath,
    /// The path exists, for other methods.
    #[error("this endpoint does not take this method")]
    UnknownMethod,
    /// A loopback listener was called by a name that is not local.
    #[error("this listener does not answer to that host name; use localhost, or add the name to `hosts`")]
    ForeignHost,
    /// Too many requests of one kind.
    #[error("too many requests; wait {} s", retry_after_ms.div_ceil(1000))]
    RateLimited {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The node is ending.
    #[error("the server is shutting down")]
    ShuttingDown,
}
