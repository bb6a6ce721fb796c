//! Calls: no TURN server is here, which is an answer that clients expect.

use std::sync::Arc;

use ruma::api::client::voip::get_turn_server_info;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, turn_server);
}

async fn turn_server(
    _: Arc<Server>,
    _: Args<get_turn_server_info::v3::Request>,
) -> Result<Json<serde_json::Value>, Error> {
    // No server: clients take the empty object as that, and call directly.
    Ok(Json(serde_json::json!({})))
}
