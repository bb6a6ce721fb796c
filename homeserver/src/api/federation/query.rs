//! Profiles of our users, and rooms behind our aliases.

use std::sync::Arc;

use ruma::api::federation::query::{get_profile_information, get_room_information};
use serde_json::{Map, Value};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, profile).limit(Class::Federation);
    table.add(Group::Federation, alias).limit(Class::Federation);
}

async fn profile(
    server: Arc<Server>,
    args: Args<get_profile_information::v1::Request>,
) -> Result<Json<Map<String, Value>>, Error> {
    if args.user_id.server_name() != server.name {
        return Err(Error::not_found("that is no user of this server"));
    }
    let mut profile = server.users.profile(&args.user_id).await?;
    if let Some(field) = &args.field {
        profile.retain(|name, _| name == field.as_str());
    }
    Ok(Json(profile))
}

async fn alias(
    server: Arc<Server>,
    args: Args<get_room_information::v1::Request>,
) -> Result<get_room_information::v1::Response, Error> {
    let (room, mut servers) = server.rooms.resolve_local_alias(&args.room_alias).await?;
    if !servers.contains(&server.name) {
        servers.insert(0, server.name.clone());
    }
    servers.truncate(SERVERS_MAX);
    Ok(get_room_information::v1::Response::new(room, servers))
}

/// Servers named as ways into a room.
const SERVERS_MAX: usize = 50;
