//! Synapse's administrators' paths, as synapse-admin, Draupnir, mjolnir and scripts call them.
//!
//! Loopback listeners have them; others where `admin_everywhere` says so. All but registration by shared secret ask for
//! the access token of an administrator.

mod clean;
mod media;
mod register;
mod rooms;
mod server;
mod tokens;
mod users;

use std::collections::HashMap;

use serde::de::DeserializeOwned;

use crate::{
    api::routes::Table,
    error::{Error, RequestError},
    http::args::Incoming,
    user::Page,
};

/// Adds every administrators' endpoint.
pub(crate) fn routes(table: &mut Table) {
    clean::routes(table);
    media::routes(table);
    register::routes(table);
    rooms::routes(table);
    server::routes(table);
    tokens::routes(table);
    users::routes(table);
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

/// The n-th variable of the path, decoded.
fn path(incoming: &Incoming, at: usize) -> &str {
    incoming.path.get(at).map(String::as_str).unwrap_or_default()
}

/// The fields of the query.
fn query(incoming: &Incoming) -> HashMap<String, String> {
    crate::api::pages::fields(incoming.head.uri.query().unwrap_or_default())
}

/// A number of the query.
fn number(query: &HashMap<String, String>, name: &str, default: u64) -> Result<u64, Error> {
    match query.get(name) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| RequestError::InvalidParam(format!("{name} is not a number")).into())
        }
    }
}

/// Which page of a list is asked for.
fn page(query: &HashMap<String, String>, order: &str) -> Result<Page, Error> {
    Ok(Page {
        term: query.get("search_term").cloned().unwrap_or_default(),
        from: number(query, "from", 0)?,
        limit: number(query, "limit", 100)?.min(LIMIT_MAX),
        order: query.get("order_by").map_or(order, String::as_str).to_owned(),
        backwards: query.get("dir").is_some_and(|dir| dir == "b"),
        deactivated: true,
        guests: true,
    })
}

/// Rows of one answer.
const LIMIT_MAX: u64 = 1_000;
