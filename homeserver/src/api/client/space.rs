//! Looking at rooms from outside: summaries, and the rooms of a space.

use std::sync::Arc;

use ruma::{
    RoomAliasId, RoomId,
    api::client::{
        room::get_summary,
        space::get_hierarchy::{self},
    },
};
use serde::Serialize;
use serde_json::Value;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    room::read::Walk,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, hierarchy);
    table
        .add(Group::Client, summary)
        .also("/_matrix/client/unstable/im.nheko.summary/summary/{room_id_or_alias}")
        .also("/_matrix/client/v1/rooms/{room_id_or_alias}/summary");
}

#[derive(Serialize)]
struct Rooms {
    rooms: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

async fn hierarchy(
    server: Arc<Server>,
    args: Args<get_hierarchy::v1::Request>,
) -> Result<Json<Rooms>, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let walk = Walk {
        suggested_only: args.suggested_only,
        max_depth: args.max_depth.map(u64::from),
        limit: args.limit.map_or(PAGE, |limit| u64::from(limit) as usize),
        from: args.from.clone(),
    };
    let found = server.rooms.hierarchy(user, &args.room_id, walk).await?;
    Ok(Json(Rooms { rooms: found.rooms, next_batch: found.next }))
}

async fn summary(server: Arc<Server>, args: Args<get_summary::v1::Request>) -> Result<Json<Value>, Error> {
    let user = args.caller.as_ref().map(|caller| &caller.user);
    if user.is_none() && !server.settings().open_directory {
        return Err(crate::error::RequestError::MissingToken.into());
    }
    if let Some(user) = user {
        server.limits.take(Class::Write, user.as_str())?;
    }
    let mut via = args.via.clone();
    via.truncate(VIA_MAX);
    let room = match <&RoomId>::try_from(&*args.room_id_or_alias) {
        Ok(room) => room.to_owned(),
        Err(_) => {
            let alias = <&RoomAliasId>::try_from(&*args.room_id_or_alias)
                .map_err(|_| Error::invalid_param("this is neither a room id nor an alias"))?;
            let (room, servers) = server.rooms.resolve_alias(alias).await?;
            via.extend(servers);
            room
        }
    };
    let (told, membership) = server.rooms.summary(user.map(|user| &**user), &room, &via).await?;
    let mut summary = told.summary;
    if let Some(membership) = membership {
        summary["membership"] = membership.as_str().into();
    }
    Ok(Json(summary))
}

/// Rooms on a page if the client does not say.
const PAGE: usize = 50;
/// Servers that a client may name.
const VIA_MAX: usize = 20;
