//! State events: reading all, reading one, setting one.

use std::sync::Arc;

use ruma::api::client::state::{
    get_state_event_for_key::{self, v3::StateEventFormat},
    get_state_events, send_state_event,
};
use serde_json::value::RawValue;

use super::delayed_events;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Args,
        limits::Class,
        reply::{IntoReply as _, Json, Made},
    },
    room::{ClientEvent, Draft},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, all);
    // An empty state key may be left out, with or without the slash before it.
    table
        .add(Group::Client, one)
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/");
    table
        .add(Group::Client, set)
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}")
        .also("/_matrix/client/r0/rooms/{room_id}/state/{event_type}/")
        .also("/_matrix/client/v3/rooms/{room_id}/state/{event_type}/");
}

async fn all(
    server: Arc<Server>,
    args: Args<get_state_events::v3::Request>,
) -> Result<Json<Vec<ClientEvent>>, Error> {
    let state = server.rooms.state_all(&args.caller.user, &args.room_id).await?;
    Ok(Json(state))
}

async fn one(
    server: Arc<Server>,
    args: Args<get_state_event_for_key::v3::Request>,
) -> Result<Json<Box<RawValue>>, Error> {
    let user = &args.caller.user;
    let kind = args.segment(1);
    let json = if args.format == StateEventFormat::Event {
        server.rooms.state_one(user, &args.room_id, kind, &args.state_key).await?
    } else {
        server.rooms.state_content(user, &args.room_id, kind, &args.state_key).await?
    };
    Ok(Json(json))
}

async fn set(server: Arc<Server>, args: Args<send_state_event::v3::Request>) -> Result<Made, Error> {
    if let Some(delay) = delayed_events::delay(&args.head)? {
        return Ok(Made(delayed_events::state(&server, args, delay).await?.into_reply()));
    }
    let kind = args.segment(1).to_owned();
    let Args { request, caller, head, .. } = args;
    server.limits.take(Class::Message, caller.user.as_str())?;
    let ts_ms = head.massaged_ts(&server, request.timestamp)?;
    let draft = Draft { ts_ms, ..Draft::state(kind, request.state_key, request.body.into_json()) };
    let event_id = server.rooms.send(&caller.user, &request.room_id, draft, None).await?;
    Ok(Made(send_state_event::v3::Response::new(event_id).into_reply()))
}
