//! Administrators' paths about rooms.
// https://element-hq.github.io/synapse/latest/admin_api/rooms.html

use std::sync::Arc;

use http::Method;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomOrAliasId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body, page, path, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    jobs::Job,
    room::{RoomError, retention::Until},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms", list);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v1/rooms/{room_id}", detail);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v1/rooms/{room_id}", delete);
    table.plain(Group::Admin, Method::DELETE, "/_synapse/admin/v2/rooms/{room_id}", delete_later);
    table.plain(Group::Admin, Method::GET, "/_synapse/admin/v2/rooms/{room_id}/delete_status", delete_status);
    table.plain(
        Group::Admin,
        Method::GET,
        "/_synapse/admin/v2/rooms/delete_status/{delete_id}",
        delete_status_by_id,
    );
    table
        .plain(Group::Admin, Method::POST, "/_synapse/admin/v1/purge_history/{room_id}", purge_history)
        .also("/_synapse/admin/v1/purge_history/{room_id}/{event_id}");
    table.plain(
        Group::Admin,
        Method::GET,
        "/_synapse/admin/v1/purge_history_status/{purge_id}",
        purge_history_status,
    );
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

#[derive(Clone, Copy, Deserialize)]
struct Delete {
    #[serde(default)]
    block: bool,
    /// Whether everything of it goes from the disk, too.
    #[serde(default = "yes")]
    purge: bool,
}

fn yes() -> bool {
    true
}

/// Blocks the room if asked to; what is left is [`remove`]'s.
async fn wanted(server: &Arc<Server>, incoming: &Incoming) -> Result<(OwnedRoomId, Delete), Error> {
    let caller = require_admin(server, incoming).await?;
    let (room, wanted) = (room(incoming)?, body::<Delete>(incoming)?);
    if wanted.block {
        server.rooms.set_blocked(&room, &caller.user, true).await?;
    }
    Ok((room, wanted))
}

/// Our users leave, aliases go, and then the room.
async fn remove(server: &Server, room: &RoomId, purge: bool) -> Result<Value, Error> {
    let aliases = server.rooms.admin_aliases(room).await?;
    let (left, stayed) = server.rooms.evict_ours(room).await?;
    if purge {
        server.rooms.purge(room).await?;
    }
    Ok(
        json!({ "kicked_users": left, "failed_to_kick_users": stayed, "local_aliases": aliases, "new_room_id": null }),
    )
}

async fn delete(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (room, Delete { purge, block }) = wanted(&server, &incoming).await?;
    match remove(&server, &room, purge).await {
        // A room may be blocked before anybody here knows it.
        Err(Error::Room(RoomError::NotFound(_))) if block => Ok(Json(json!({
            "kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": null }))),
        other => Ok(Json(other?)),
    }
}

/// In the background; `delete_status` says how far it is.
async fn delete_later(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (room, Delete { purge, block }) = wanted(&server, &incoming).await?;
    if !block {
        server.rooms.admin_detail(&room).await?;
    }
    let id = server.jobs.begin(room.as_str());
    let (worker, job) = (Arc::clone(&server), id.clone());
    server.tasks.spawn(async move {
        let outcome = remove(&worker, &room, purge).await.map_err(|error| error.to_string());
        worker.jobs.end(&job, outcome);
    });
    Ok(Json(json!({ "delete_id": id })))
}

fn deletion(id: &str, job: &Job) -> Value {
    let (result, error) = match &job.outcome {
        Some(Ok(result)) => (result.clone(), None),
        Some(Err(error)) => (Value::Null, Some(error.as_str())),
        None => (Value::Null, None),
    };
    json!({ "delete_id": id, "room_id": job.room, "status": job.status(), "shutdown_room": result, "error": error })
}

async fn delete_status(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let jobs = server.jobs.of_room(room(&incoming)?.as_str());
    if jobs.is_empty() {
        return Err(Error::not_found("no deletion of this room is known"));
    }
    Ok(Json(json!({ "results": jobs.iter().map(|(id, job)| deletion(id, job)).collect::<Vec<_>>() })))
}

async fn delete_status_by_id(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let id = path(&incoming, 0);
    let job = server.jobs.get(id).ok_or_else(|| Error::not_found("no such deletion is known"))?;
    Ok(Json(deletion(id, &job)))
}

async fn purge_history(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        delete_local_events: bool,
        purge_up_to_event_id: Option<OwnedEventId>,
        purge_up_to_ts: Option<u64>,
    }
    require_admin(&server, &incoming).await?;
    let (room, body) = (room(&incoming)?, body::<Body>(&incoming)?);
    let event = match path(&incoming, 1) {
        "" => body.purge_up_to_event_id,
        id => Some(EventId::parse(id).map_err(|_| Error::invalid_param("not an event id"))?),
    };
    let until = match (event, body.purge_up_to_ts) {
        (Some(event), _) => Until::Event(event),
        (None, Some(ms)) => Until::Time(ms),
        (None, None) => {
            return Err(Error::invalid_param(
                "up to where? purge_up_to_event_id or purge_up_to_ts is missing",
            ));
        }
    };
    let id = server.jobs.begin(room.as_str());
    let (worker, job, ours) = (Arc::clone(&server), id.clone(), body.delete_local_events);
    server.tasks.spawn(async move {
        let outcome = worker.rooms.purge_history(&room, until, ours).await;
        worker.jobs.end(&job, outcome.map(Value::from).map_err(|error| error.to_string()));
    });
    Ok(Json(json!({ "purge_id": id })))
}

async fn purge_history_status(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    require_admin(&server, &incoming).await?;
    let job =
        server.jobs.get(path(&incoming, 0)).ok_or_else(|| Error::not_found("no such purge is known"))?;
    let error = job.outcome.as_ref().and_then(|outcome| outcome.as_ref().err());
    Ok(Json(
        json!({ "status": if error.is_some() { "failed" } else if job.outcome.is_some() { "complete" } else { "active" },
        "error": error }),
    ))
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
