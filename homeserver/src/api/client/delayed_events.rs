//! Events that are sent later (MSC4140): scheduling, changing and looking at them.

use std::sync::Arc;

use http::Method;
use ruma::api::{
    client::{
        delayed_events::{get_all_delayed_events, get_delayed_event, send_delayed_event},
        message::send_message_event,
        state::send_state_event,
    },
    error::ErrorKind,
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::{Args, Head, Incoming},
        auth::LocalUser,
        limits::Class,
        reply::Json,
    },
    room::{
        Draft,
        delayed::{Change, DelayedEvent, NewDelayed},
    },
    server::Server,
};

/// The query parameter by which the usual ways of sending take a delay.
const DELAY: &str = "org.matrix.msc4140.delay";

pub(super) fn routes(table: &mut Table) {
    table
        .add(Group::Client, schedule)
        .also("/_matrix/client/v3/rooms/{room_id}/delayed_event/{event_type}/{txn_id}");
    table.add(Group::Client, list).also("/_matrix/client/v1/delayed_events");
    table.add(Group::Client, one).also("/_matrix/client/v1/delayed_events/{delay_id}");
    let path = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}";
    table
        .plain(Group::Client, Method::POST, path, change)
        .also("/_matrix/client/v1/delayed_events/{delay_id}/{action}");
    let path = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}";
    table.plain(Group::Client, Method::POST, path, change_by_body);
}

async fn schedule(
    server: Arc<Server>,
    args: Args<send_delayed_event::unstable::Request>,
) -> Result<Json<Value>, Error> {
    let kind = args.segment(1).to_owned();
    let Args { request, caller, .. } = args;
    let draft = Draft {
        state_key: request.state_key,
        sticky_ms: request.sticky_duration_ms.map(u32::from),
        ..Draft::message(kind, request.content.into_json())
    };
    let new = NewDelayed {
        room: request.room_id,
        draft,
        delay_ms: u64::try_from(request.delay.as_millis()).unwrap_or(u64::MAX),
        txn: Some(request.txn_id.to_string()),
    };
    keep(&server, &caller, new).await
}

/// The delay that a usual request to send asks for.
pub(super) fn delay(head: &Head) -> Result<Option<u64>, Error> {
    match head.query_values(DELAY).next() {
        Some(text) => match text.parse() {
            Ok(delay) => Ok(Some(delay)),
            Err(_) => Err(Error::invalid_param("a delay is a number of milliseconds greater than 0")),
        },
        None => Ok(None),
    }
}

/// A usual request to send a message, to be carried out later.
pub(super) async fn message(
    server: &Arc<Server>,
    args: Args<send_message_event::v3::Request>,
    delay_ms: u64,
) -> Result<Json<Value>, Error> {
    let kind = args.segment(1).to_owned();
    let Args { request, caller, .. } = args;
    let draft = Draft {
        sticky_ms: request.sticky_duration_ms.map(u32::from),
        ..Draft::message(kind, request.body.into_json())
    };
    let txn = Some(request.txn_id.to_string());
    keep(server, &caller, NewDelayed { room: request.room_id, draft, delay_ms, txn }).await
}

/// A usual request to set state, to be carried out later.
pub(super) async fn state(
    server: &Arc<Server>,
    args: Args<send_state_event::v3::Request>,
    delay_ms: u64,
) -> Result<Json<Value>, Error> {
    let kind = args.segment(1).to_owned();
    let Args { request, caller, .. } = args;
    let draft = Draft::state(kind, request.state_key, request.body.into_json());
    keep(server, &caller, NewDelayed { room: request.room_id, draft, delay_ms, txn: None }).await
}

async fn keep(server: &Arc<Server>, caller: &LocalUser, new: NewDelayed) -> Result<Json<Value>, Error> {
    server.limits.take(Class::Message, caller.user.as_str())?;
    let id = server.delayed.schedule(&caller.user, &caller.device, new).await?;
    Ok(Json(json!({ "delay_id": id })))
}

/// Whoever knows an event's id may say what becomes of it: a client hands it to the server that carries its call.
async fn change(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let [id, action] = &incoming.path[..] else { return Err(RequestError::UnknownPath.into()) };
    let change = action_of(action).ok_or(RequestError::UnknownPath)?;
    apply(&server, &incoming, id, change).await
}

/// The same as an earlier form of the proposal has it.
async fn change_by_body(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let [id] = &incoming.path[..] else { return Err(RequestError::UnknownPath.into()) };
    let body: Value =
        serde_json::from_slice(&incoming.body).map_err(|error| RequestError::NotJson(error.to_string()))?;
    let action = body["action"].as_str().and_then(action_of);
    let change = action
        .ok_or_else(|| Error::new(ErrorKind::InvalidParam, "`action` is one of restart, send and cancel"))?;
    apply(&server, &incoming, id, change).await
}

fn action_of(name: &str) -> Option<Change> {
    match name {
        "restart" => Some(Change::Restart),
        "send" => Some(Change::Send),
        "cancel" => Some(Change::Cancel),
        _ => None,
    }
}

async fn apply(
    server: &Arc<Server>,
    incoming: &Incoming,
    id: &str,
    change: Change,
) -> Result<Json<Value>, Error> {
    server.limits.take(Class::Write, &incoming.origin.key())?;
    server.delayed.change(id, change).await?;
    Ok(Json(json!({})))
}

/// The caller's events, at most some hundred: those that wait, or with `status=finalised` those that were done with. (Clients
/// of earlier forms of the proposal take it that what is listed waits.)
async fn list(
    server: Arc<Server>,
    args: Args<get_all_delayed_events::unstable::Request>,
) -> Result<Json<Value>, Error> {
    let only = |name: &'static str| args.head.query_values(name).next();
    let finished = match only("status").as_deref() {
        None | Some("scheduled") => false,
        Some("finalised") => true,
        Some(_) => return Err(Error::invalid_param("`status` is scheduled or finalised")),
    };
    let (room, kind) = (only("room_id"), only("type"));
    let mut found = server.delayed.list(&args.caller.user, finished).await?;
    found.retain(|event| {
        room.as_ref().is_none_or(|room| *room == event.room)
            && kind.as_ref().is_none_or(|kind| *kind == event.row.kind)
    });
    match only("dir").as_deref() {
        None | Some("f") => {}
        Some("b") => found.reverse(),
        Some(_) => return Err(Error::invalid_param("`dir` is f or b")),
    }
    let told = found.iter().map(shown).collect::<Result<Vec<Value>, Error>>()?;
    Ok(Json(json!({ "delayed_events": told })))
}

async fn one(
    server: Arc<Server>,
    args: Args<get_delayed_event::unstable::Request>,
) -> Result<Json<Value>, Error> {
    let event = server.delayed.one(&args.caller.user, &args.delay_id).await?;
    Ok(Json(shown(&event)?))
}

fn shown(event: &DelayedEvent) -> Result<Value, Error> {
    let row = &event.row;
    let broken = |_| Error::internal("a delayed event is no JSON");
    let content: &RawValue = serde_json::from_str(&row.content).map_err(broken)?;
    let mut told = json!({
        "delay_id": row.id, "room_id": event.room, "type": row.kind, "delay": row.delay, "running_since": row.since,
        "content": content,
    });
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            told[key] = value;
        }
    };
    put("state_key", row.state_key.clone().map(Value::from));
    put("event_id", row.event.clone().map(Value::from));
    // Both spellings of the proposal.
    put("finalised_ts", row.done.map(Value::from));
    put("origin_server_ts", row.done.map(Value::from));
    if let Some(error) = &row.error {
        put("error", Some(serde_json::from_str(error).map_err(broken)?));
    }
    Ok(told)
}
