//! Endpoints from before `/sync`, which the specification still has: a first look at everything or at one room, and
//! waiting for events.

use std::{sync::Arc, time::Duration};

use http::Method;
use ruma::{EventId, RoomId, api::client::peeking::get_current_state};
use serde_json::{Value, json};

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::{Args, Head, Incoming},
        auth::{LocalUser, caller_of},
        limits::Class,
        reply::Json,
    },
    room::{ClientEvent, read::MessagesQuery},
    server::Server,
    store::schema::membership::Membership,
    sync::{SyncRequest, filter::SyncFilter},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, room);
    for version in ["r0", "v3"] {
        let [everything, events, event] = match version {
            "r0" => [
                "/_matrix/client/r0/initialSync",
                "/_matrix/client/r0/events",
                "/_matrix/client/r0/events/{event_id}",
            ],
            _ => [
                "/_matrix/client/v3/initialSync",
                "/_matrix/client/v3/events",
                "/_matrix/client/v3/events/{event_id}",
            ],
        };
        table.plain(Group::Client, Method::GET, everything, everything_at_once);
        table.plain(Group::Client, Method::GET, events, wait);
        table.plain(Group::Client, Method::GET, event, single);
    }
}

async fn room(server: Arc<Server>, args: Args<get_current_state::v3::Request>) -> Result<Json<Value>, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let limit = limit(&args.head)?;
    Ok(Json(look(&server, &args.caller, &args.room_id, limit).await?))
}

/// A room as of now: its state and its last events.
async fn look(server: &Arc<Server>, caller: &LocalUser, room: &RoomId, limit: u32) -> Result<Value, Error> {
    let user = &caller.user;
    let state = server.rooms.state_all(user, room).await?;
    let query = MessagesQuery {
        from: None,
        to: None,
        backwards: true,
        limit,
        lazy_members: false,
        filter: None,
        relations: Default::default(),
        device: Some(caller.device.clone()),
    };
    let page = server.rooms.messages(user, room, query).await?;
    let chunk: Vec<ClientEvent> = page.chunk.into_iter().rev().collect();
    let membership =
        if server.rooms.is_joined(user, room).await? { Membership::Join } else { Membership::Leave };
    let listed = server.rooms.is_listed(room).await.unwrap_or(false);
    let data = server.users.room_account_data(user, room).await?;
    let data: Vec<Value> = data
        .into_iter()
        .filter_map(|(kind, content)| {
            Some(json!({ "type": kind, "content": serde_json::from_str::<Value>(&content).ok()? }))
        })
        .collect();
    Ok(json!({
        "room_id": room,
        "membership": membership.as_str(),
        "visibility": if listed { "public" } else { "private" },
        "messages": {
            "chunk": chunk,
            // Oldest first: the page was read from its end.
            "start": page.end.unwrap_or(page.start).to_string(),
            "end": page.start.to_string(),
        },
        "state": state,
        "account_data": data,
        "presence": [],
        "receipts": [],
    }))
}

async fn everything_at_once(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = caller_of(&server, &incoming).await?;
    server.limits.take(Class::Membership, caller.user.as_str())?;
    let limit = limit(&incoming.head)?;
    let answer = sync(&server, &caller, None, Duration::ZERO).await?;
    let mut rooms = Vec::new();
    for room in server.rooms.joined_rooms(&caller.user).await?.iter().take(ROOMS_MAX) {
        rooms.push(look(&server, &caller, room, limit).await?);
    }
    if let Some(invites) = answer["rooms"]["invite"].as_object() {
        for (room, invite) in invites {
            rooms.push(json!({
                "room_id": room, "membership": "invite", "state": invite["invite_state"]["events"],
            }));
        }
    }
    Ok(Json(json!({
        "end": answer["next_batch"],
        "rooms": rooms,
        "presence": answer["presence"]["events"],
        "account_data": answer["account_data"]["events"],
    })))
}

/// Waits for something new in the user's rooms, or in one room.
async fn wait(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = caller_of(&server, &incoming).await?;
    let value = |name| incoming.head.query_values(name).next();
    let timeout = match value("timeout") {
        Some(text) => {
            text.parse().map_err(|_| Error::invalid_param("timeout is a number of milliseconds"))?
        }
        None => 0,
    };
    let only = value("room_id");
    if let Some(room) = &only {
        let room = RoomId::parse(room).map_err(|_| Error::invalid_param("room_id is no room id"))?;
        // Who may not see the room is told so; whoever may look into it without being in it sees it as of now.
        server.rooms.state_all(&caller.user, &room).await?;
    }
    let from = value("from");
    let answer = sync(&server, &caller, from.clone(), Duration::from_millis(timeout)).await?;
    let mut chunk = Vec::new();
    for (room, joined) in answer["rooms"]["join"].as_object().into_iter().flatten() {
        if only.as_ref().is_some_and(|only| only != room) || from.is_none() {
            continue;
        }
        for event in joined["timeline"]["events"].as_array().into_iter().flatten() {
            let mut event = event.clone();
            event["room_id"] = room.as_str().into();
            chunk.push(event);
        }
    }
    let end = answer["next_batch"].clone();
    let start = from.map_or_else(|| end.clone(), Value::from);
    Ok(Json(json!({ "chunk": chunk, "start": start, "end": end })))
}

async fn single(server: Arc<Server>, incoming: Incoming) -> Result<Json<ClientEvent>, Error> {
    let caller = caller_of(&server, &incoming).await?;
    let id = incoming.path.first().ok_or(RequestError::UnknownPath)?;
    let id = EventId::parse(id).map_err(|_| Error::not_found("there is no such event"))?;
    let room = server.rooms.room_of(&id).await?.ok_or_else(|| Error::not_found("there is no such event"))?;
    Ok(Json(server.rooms.event_on(&caller.user, Some(&caller.device), &room, &id).await?))
}

async fn sync(
    server: &Arc<Server>,
    caller: &LocalUser,
    since: Option<String>,
    timeout: Duration,
) -> Result<Value, Error> {
    let request = SyncRequest {
        user: caller.user.clone(),
        device: caller.device.clone(),
        since,
        filter: SyncFilter::default(),
        full_state: false,
        state_after: None,
        timeout,
        stop: server.shutdown.clone(),
    };
    let answer = server.sync.sync(request).await?;
    serde_json::from_slice(&answer).map_err(|error| Error::internal(error.to_string()))
}

fn limit(head: &Head) -> Result<u32, Error> {
    match head.query_values("limit").next() {
        Some(text) => {
            let limit: u32 = text.parse().map_err(|_| Error::invalid_param("limit is a number"))?;
            Ok(limit.clamp(1, LIMIT_MAX))
        }
        None => Ok(LIMIT),
    }
}

/// Events of each room if the client does not say, and at most.
const LIMIT: u32 = 10;
const LIMIT_MAX: u32 = 100;
/// Rooms in one answer: whoever is in more uses `/sync`.
const ROOMS_MAX: usize = 500;
