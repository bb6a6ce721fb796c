//! Our own endpoints between nodes, under `/_x`.

use crate::api::routes::Table;

/// Adds every endpoint between nodes.
pub(crate) fn routes(_table: &mut Table) {}
