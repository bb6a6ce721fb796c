//! Synapse's administrators' paths, as synapse-admin, Draupnir, mjolnir and scripts call them.
//!
//! Loopback listeners have them; others where `admin_everywhere` says so. All but registration by shared secret ask for
//! the access token of an administrator.

mod register;

use serde::de::DeserializeOwned;

use crate::{
    api::routes::Table,
    error::{Error, RequestError},
    http::args::Incoming,
};

/// Adds every administrators' endpoint.
pub(crate) fn routes(table: &mut Table) {
    register::routes(table);
}

/// The body as an object of a known shape; an empty one counts as `{}`.
pub(crate) fn body<T: DeserializeOwned>(incoming: &Incoming) -> Result<T, Error> {
    let bytes = if incoming.body.is_empty() { b"{}" } else { &incoming.body[..] };
    // A struct may also be written as a list; nobody means that.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[') {
        return Err(RequestError::BadJson("an object is expected".into()).into());
    }
    serde_json::from_slice(bytes).map_err(|error| {
        match error.classify() {
            serde_json::error::Category::Data => RequestError::BadJson(error.to_string()),
            _ => RequestError::NotJson(error.to_string()),
        }
        .into()
    })
}
