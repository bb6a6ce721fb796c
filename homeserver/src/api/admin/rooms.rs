//! Administrators' paths about rooms.
// https://element-hq.github.io/synapse/latest/admin_api/rooms.html

use std::sync::Arc;

use http::Method;
use ruma::{OwnedRoomId, RoomId, RoomOrAliasId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, page, path, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms", list);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms/{room_id}", detail);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v1/rooms/{room_id}", delete);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v2/rooms/{room_id}", delete_later);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/rooms/{room_id}/delete_status", delete_status);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms/{room_id}/members", members);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms/{room_id}/state", state);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms/{room_id}/block", is_blocked);
    table.plain(Group::Admin, Method::PUT, "/_synapse/admin/v1/rooms/{room_id}/block", block);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/rooms/{room_id}/make_room_admin", make_admin);
    table.plain(Group::Admin, Method::POST, "/_synapse/admin/v1/join/{room_id}", join);
}

fn room(incoming: &Incoming) -> Result<OwnedRoomId, Error> {
    RoomId::parse(path(incoming, 0)).map_err(|_| Error::invalid_param("not a room id"))
}

async fn list(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let wanted = page(&query(&incoming), "name")?;
    let (from, next) = (wanted.from, wanted.from + wanted.limit);
    let (rooms, total) = server.rooms.admin_list(wanted).await?;
    let mut answer = json!({ "rooms": rooms, "offset": from, "total_rooms": total });
    if next < total {
        answer["next_batch"] = next.into();
    }
    if from > 0 {
        answer["prev_batch"] = from.saturating_sub(next - from).into();
    }
    Ok(Json(answer))
}

async fn detail(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(server.rooms.admin_detail(&room(&incoming)?).await?))
}

async fn members(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let members = server.rooms.admin_members(&room(&incoming)?).await?;
    Ok(Json(json!({ "total": members.len(), "members": members })))
}

async fn state(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(json!({ "state": server.rooms.admin_state(&room(&incoming)?).await? })))
}

#[derive(Deserialize)]
struct Delete {
    #[serde(default)]
    block: bool,
}

async fn evict(server: &Arc<Server>, incoming: &Incoming) -> Result<Value, Error> {
    let caller = require_admin(server, incoming).await?;
    let (room, wanted) = (room(incoming)?, body::<Delete>(incoming)?);
    if wanted.block {
        server.rooms.set_blocked(&room, &caller.user, true).await?;
    }
    let (left, stayed) = server.rooms.evict_ours(&room).await?;
    Ok(
        json!({ "kicked_users": left, "failed_to_kick_users": stayed, "local_aliases": [], "new_room_id": null }),
    )
}

async fn delete(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    Ok(Json(evict(&server, &incoming).await?))
}

/// Done at once here; the tools ask for its state all the same.
async fn delete_later(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    evict(&server, &incoming).await?;
    Ok(Json(json!({ "delete_id": path(&incoming, 0) })))
}

async fn delete_status(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let room = room(&incoming)?;
    let done = json!({ "delete_id": room, "room_id": room, "status": "complete",
        "shutdown_room": { "kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": null } });
    Ok(Json(json!({ "results": [done] })))
}

async fn is_blocked(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    Ok(Json(match server.rooms.blocked(&room(&incoming)?).await? {
        Some(by) => json!({ "block": true, "user_id": by }),
        None => json!({ "block": false }),
    }))
}

async fn block(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        block: bool,
    }
    let caller = require_admin(&server, &incoming).await?;
    let block = body::<Body>(&incoming)?.block;
    server.rooms.set_blocked(&room(&incoming)?, &caller.user, block).await?;
    Ok(Json(json!({ "block": block })))
}

async fn make_admin(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        user_id: Option<String>,
    }
    let caller = require_admin(&server, &incoming).await?;
    let user = match body::<Body>(&incoming)?.user_id {
        Some(user) => UserId::parse(user).map_err(|_| Error::invalid_param("not a user id"))?,
        None => caller.user,
    };
    server.rooms.make_room_admin(&room(&incoming)?, &user).await?;
    Ok(Json(json!({})))
}

async fn join(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        user_id: String,
    }
    require_admin(&server, &incoming).await?;
    let user =
        UserId::parse(body::<Body>(&incoming)?.user_id).map_err(|_| Error::invalid_param("not a user id"))?;
    if user.server_name() != server.name {
        return Err(Error::invalid_param("only users of this server can be made to join"));
    }
    let target = RoomOrAliasId::parse(path(&incoming, 0))
        .map_err(|_| Error::invalid_param("not a room id or alias"))?;
    let via = query(&incoming).get("server_name").and_then(|name| name.parse().ok()).into_iter().collect();
    let room = server.rooms.join(&user, &target, via, None).await?;
    Ok(Json(json!({ "room_id": room })))
}
