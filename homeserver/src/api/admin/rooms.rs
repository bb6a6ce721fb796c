//! Administrators' paths about rooms.
// https://element-hq.github.io/synapse/latest/admin_api/rooms.html

use std::sync::Arc;

use http::Method;
use ruma::{
    EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId, RoomOrAliasId, UserId,
    api::client::room::create_room::v3::{Request as CreateRoom, RoomPreset},
    serde::Raw,
};
use serde::Deserialize;
use serde_json::{Value, json, value::to_raw_value};

use super::{body, page, path, query};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::require_admin, reply::Json},
    jobs::Job,
    room::{Draft, RoomError, retention::Until},
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

#[derive(Deserialize)]
struct Delete {
    #[serde(default)]
    block: bool,
    /// Whether everything of it goes from the disk, too.
    #[serde(default = "yes")]
    purge: bool,
    /// Who speaks in a room that takes this one's place: its members are put there, and told why.
    new_room_user_id: Option<OwnedUserId>,
    /// What that room is called.
    room_name: Option<String>,
    /// What is said there.
    message: Option<String>,
}

fn yes() -> bool {
    true
}

/// What the room that takes the place of a deleted one is called and says, if the administrator does not say.
const PLACE_NAME: &str = "Content Violation Notification";
const PLACE_MESSAGE: &str =
    "Sharing illegal content on this server is not permitted and rooms in violation will be blocked.";

/// Checks what is asked, and blocks the room if it is to be; what is left is [`remove`]'s.
async fn wanted(server: &Arc<Server>, incoming: &Incoming) -> Result<(OwnedRoomId, Delete), Error> {
    let caller = require_admin(server, incoming).await?;
    let (room, wanted) = (room(incoming)?, body::<Delete>(incoming)?);
    if let Some(user) = &wanted.new_room_user_id
        && (user.server_name() != server.name || !server.users.exists(user).await?)
    {
        return Err(Error::invalid_param("new_room_user_id has to be a user of this server"));
    }
    if wanted.block {
        server.rooms.set_blocked(&room, &caller.user, true).await?;
    }
    Ok((room, wanted))
}

/// Our users leave, aliases go, and then the room; if it is wanted, another takes its place.
async fn remove(server: &Server, room: &RoomId, wanted: &Delete) -> Result<Value, Error> {
    let aliases = server.rooms.admin_aliases(room).await?;
    let place = match &wanted.new_room_user_id {
        Some(speaker) => Some((speaker, make_place(server, speaker, wanted).await?)),
        None => None,
    };
    let members = server.rooms.local_joined(room).await?;
    let (left, stayed) = server.rooms.evict_ours(room).await?;
    if let Some((speaker, place)) = &place {
        let target: &RoomOrAliasId = (&**place).into();
        for user in members.iter().filter(|user| left.contains(user) && user != speaker) {
            if let Err(error) = server.rooms.join(user, target, Vec::new(), None).await {
                tracing::debug!(%user, %error, "a user could not be put into the room that takes a deleted one's place");
            }
        }
        for alias in aliases.iter().filter_map(|alias| RoomAliasId::parse(alias).ok()) {
            if let Err(error) = server.rooms.create_alias(speaker, &alias, place).await {
                tracing::debug!(%alias, %error, "an alias could not be moved to the room that takes a deleted one's place");
            }
        }
    }
    if wanted.purge {
        server.rooms.purge(room).await?;
    }
    Ok(json!({ "kicked_users": left, "failed_to_kick_users": stayed, "local_aliases": aliases,
        "new_room_id": place.map(|(_, place)| place) }))
}

/// A room in which only `speaker` speaks, with their message.
async fn make_place(server: &Server, speaker: &UserId, wanted: &Delete) -> Result<OwnedRoomId, Error> {
    let mut request = CreateRoom::new();
    request.name = Some(wanted.room_name.clone().unwrap_or_else(|| PLACE_NAME.into()));
    request.preset = Some(RoomPreset::PublicChat);
    request.room_version = Some(server.settings().default_room_version.clone());
    let levels = json!({ "users_default": -10 });
    request.power_level_content_override =
        Some(Raw::from_json(to_raw_value(&levels).map_err(|error| Error::internal(error.to_string()))?));
    let place = server.rooms.create(speaker, request).await?;
    let said = wanted.message.as_deref().unwrap_or(PLACE_MESSAGE);
    let content = to_raw_value(&json!({ "msgtype": "m.text", "body": said }))
        .map_err(|error| Error::internal(error.to_string()))?;
    server.rooms.send(speaker, &place, Draft::message("m.room.message", content), None).await?;
    Ok(place)
}

async fn delete(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (room, wanted) = wanted(&server, &incoming).await?;
    match remove(&server, &room, &wanted).await {
        // A room may be blocked before anybody here knows it.
        Err(Error::Room(RoomError::NotFound(_))) if wanted.block => Ok(Json(json!({
            "kicked_users": [], "failed_to_kick_users": [], "local_aliases": [], "new_room_id": null }))),
        other => Ok(Json(other?)),
    }
}

/// In the background; `delete_status` says how far it is.
async fn delete_later(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let (room, wanted) = wanted(&server, &incoming).await?;
    if !wanted.block {
        server.rooms.admin_detail(&room).await?;
    }
    let id = server.jobs.begin(room.as_str());
    let (worker, job) = (Arc::clone(&server), id.clone());
    server.tasks.spawn(async move {
        let outcome = remove(&worker, &room, &wanted).await.map_err(|error| error.to_string());
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
