//! What other servers are asked about keys: a seam, so that tests need no network.

use futures_util::future::BoxFuture;
use ruma::{
    ServerName, UserId,
    api::federation::{
        device::get_devices::v1 as get_devices, keys::claim_keys::v1 as claim_keys,
        keys::get_keys::v1 as get_keys,
    },
};

use crate::remote::{Remote, RemoteError};

/// Other servers, as far as keys go.
pub trait Ask: Send + Sync + 'static {
    /// The whole list of a user's devices, from the user's server.
    fn devices<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<get_devices::Response, AskError>>;

    /// The keys of several users of one server.
    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_keys::Request,
    ) -> BoxFuture<'a, Result<get_keys::Response, AskError>>;

    /// One-time keys of devices of one server's users.
    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        request: claim_keys::Request,
    ) -> BoxFuture<'a, Result<claim_keys::Response, AskError>>;
}

impl Ask for Remote {
    fn devices<'a>(&'a self, user: &'a UserId) -> BoxFuture<'a, Result<get_devices::Response, AskError>> {
        Box::pin(async move {
            let request = get_devices::Request::new(user.to_owned());
            Ok(self.request(user.server_name(), request).await?)
        })
    }

    fn query<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_keys::Request,
    ) -> BoxFuture<'a, Result<get_keys::Response, AskError>> {
        Box::pin(async move { Ok(self.request(server, request).await?) })
    }

    fn claim<'a>(
        &'a self,
        server: &'a ServerName,
        request: claim_keys::Request,
    ) -> BoxFuture<'a, Result<claim_keys::Response, AskError>> {
        Box::pin(async move { Ok(self.request(server, request).await?) })
    }
}

impl From<RemoteError> for AskError {
    fn from(error: RemoteError) -> Self {
        match (error.errcode(), error.status()) {
            (Some(errcode), Some(status)) => {
                Self { errcode: errcode.into(), status, text: error.to_string() }
            }
            _ => Self::unreachable(error.to_string()),
        }
    }
}

/// Why a server did not answer, as clients are told in `failures`.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct AskError {
    /// Errcode, the other server's or ours.
    pub errcode: String,
    /// HTTP status, the other server's or ours.
    pub status: u16,
    /// What happened.
    pub text: String,
}

impl AskError {
    /// Nobody answered.
    pub fn unreachable(text: impl Into<String>) -> Self {
        Self { errcode: "M_UNREACHABLE".into(), status: 503, text: text.into() }
    }
}
