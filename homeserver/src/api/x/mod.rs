//! Our own endpoints between nodes, under `/_x`.

mod identity;
mod neighbours;

use ruma::api::{
    BytesBody, IncomingRequest, OutgoingResponse,
    auth_scheme::NoAuthentication,
    error::{DeserializationError, IntoHttpError},
    metadata,
};

use crate::api::routes::Table;

/// Adds every endpoint between nodes.
pub(crate) fn routes(table: &mut Table) {
    identity::routes(table);
    neighbours::routes(table);
}

/// `GET`: the account's identity log, `{"entries": [..]}`.
pub const IDENTITY_PATH: &str = "/_x/identity/v1/log";

/// `GET`: what a node shows of itself to its multicast neighbours, see [`crate::user::next_door::List`].
pub const NEIGHBOURS_PATH: &str = "/_x/neighbours/v1/list";

/// A request that is nothing but its path. (ruma's macros for request types work inside ruma only.)
macro_rules! bare_request {
    ($(#[$doc:meta])* $name:ident, $method:ident, $path:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub(crate) struct $name;

        metadata! {
            @for $name,
            method: $method,
            rate_limited: true,
            authentication: NoAuthentication,
            path: $path,
        }

        impl IncomingRequest for $name {
            type EndpointError = ruma::api::error::Error;
            type OutgoingResponse = Answer;

            fn try_from_http_request_inner(
                _: http::Request<&[u8]>,
                _: &[&str],
            ) -> Result<Self, DeserializationError> {
                Ok(Self)
            }
        }
    };
}

bare_request! {
    /// See [`IDENTITY_PATH`].
    IdentityLog, GET, "/_x/identity/v1/log"
}

bare_request! {
    /// See [`NEIGHBOURS_PATH`].
    NeighbourList, GET, "/_x/neighbours/v1/list"
}

/// JSON that is written by hand.
#[derive(Clone, Debug)]
pub(crate) struct Answer(pub(crate) serde_json::Value);

impl OutgoingResponse for Answer {
    type Body = BytesBody;

    fn try_into_http_response_inner(self) -> Result<http::Response<Self::Body>, IntoHttpError> {
        let body = serde_json::to_vec(&self.0).map_err(IntoHttpError::from)?;
        let response = http::Response::builder().header(http::header::CONTENT_TYPE, "application/json");
        Ok(response.body(BytesBody(body))?)
    }
}
