//! The client-server API, a file per area, named as in ruma-client-api.

use crate::api::routes::Table;

mod account;

/// Adds every endpoint of the client-server API.
pub(crate) fn routes(table: &mut Table) {
    account::routes(table);
}
