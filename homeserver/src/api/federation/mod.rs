//! The server-server API, a file per area, named as in ruma-federation-api.

use crate::api::routes::Table;

/// Adds every endpoint of the server-server API.
pub(crate) fn routes(_table: &mut Table) {}
