//! How clients find the homeserver.

use crate::api::routes::Table;

/// Adds the discovery endpoints.
pub(crate) fn routes(_table: &mut Table) {}
