//! Spaces and other rooms, told to servers that look at them from outside.

use std::sync::Arc;

use ruma::{OwnedRoomId, api::federation::space::get_hierarchy};
use serde::Serialize;
use serde_json::Value;

use super::check_acl;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, hierarchy).limit(Class::Federation);
}

/// As the specification has it: a room's summary as it is stored, which may say more than the type of the crate knows.
#[derive(Serialize)]
struct Told {
    room: Value,
    children: Vec<Value>,
    inaccessible_children: Vec<OwnedRoomId>,
}

async fn hierarchy(server: Arc<Server>, args: Args<get_hierarchy::v1::Request>) -> Result<Json<Told>, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    let (room, children, inaccessible_children) =
        server.rooms.hierarchy_for_server(&args.caller.name, &args.room_id, args.suggested_only).await?;
    Ok(Json(Told { room, children, inaccessible_children }))
}
