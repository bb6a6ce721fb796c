//! Listeners: which route groups each has, and which `Host` names it answers to.

use std::sync::Arc;

use axum::Router;

use crate::{
    api::routes::{Group, Table},
    server::Server,
};

/// What clients reach: the client API and discovery.
pub fn client_service(server: Arc<Server>) -> Router {
    Table::whole().router(&server, &[Group::Client, Group::WellKnown])
}

/// What any stranger on the overlay reaches: federation, keys and `/_x`; never log-in or registration.
pub fn overlay_service(server: Arc<Server>) -> Router {
    Table::whole().router(&server, &[Group::Federation, Group::Keys, Group::X])
}
