//! Sending messages and redactions, and paging through a room's timeline.

use std::sync::Arc;

use ruma::api::{
    Direction,
    client::{
        filter::{LazyLoadOptions, RoomEventFilter},
        message::{get_message_events, send_message_event},
        redact::redact_event,
    },
};
use serde::Serialize;

use super::delayed_events;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Args,
        limits::Class,
        reply::{IntoReply as _, Json, Made},
    },
    room::{
        ClientEvent, Draft, Txn,
        read::{MessagesQuery, RelationFilter},
    },
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, send);
    table.add(Group::Client, redact);
    // A client that says no direction reads the room from its beginning, as in other servers.
    table.add(Group::Client, messages).query_default("dir", "f");
}

async fn send(server: Arc<Server>, args: Args<send_message_event::v3::Request>) -> Result<Made, Error> {
    if let Some(delay) = delayed_events::delay(&args.head)? {
        return Ok(Made(delayed_events::message(&server, args, delay).await?.into_reply()));
    }
    let kind = args.segment(1).to_owned();
    let Args { request, caller, head, .. } = args;
    server.limits.take(Class::Message, caller.user.as_str())?;
    let ts_ms = head.massaged_ts(&server, request.timestamp)?;
    let txn = Txn { device: caller.device, id: request.txn_id };
    // The content's bytes go on as they came: they were checked to be a JSON object, nothing more.
    let draft = Draft {
        ts_ms,
        sticky_ms: request.sticky_duration_ms.map(u32::from),
        ..Draft::message(kind, request.body.into_json())
    };
    let event_id = server.rooms.send(&caller.user, &request.room_id, draft, Some(txn)).await?;
    Ok(Made(send_message_event::v3::Response::new(event_id).into_reply()))
}

async fn redact(
    server: Arc<Server>,
    args: Args<redact_event::v3::Request>,
) -> Result<redact_event::v3::Response, Error> {
    let caller = &args.caller;
    server.limits.take(Class::Message, caller.user.as_str())?;
    let txn = Txn { device: caller.device.clone(), id: args.txn_id.clone() };
    let event_id = server
        .rooms
        .redact(&caller.user, &args.room_id, &args.event_id, args.reason.clone(), Some(txn))
        .await?;
    Ok(redact_event::v3::Response::new(event_id))
}

#[derive(Serialize)]
struct Page {
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<String>,
    chunk: Vec<ClientEvent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    state: Vec<ClientEvent>,
}

async fn messages(
    server: Arc<Server>,
    args: Args<get_message_events::v3::Request>,
) -> Result<Json<Page>, Error> {
    let from = match &args.from {
        Some(token) => Some(super::room_token(&server, token)?),
        None => None,
    };
    let to = match &args.to {
        Some(token) => Some(super::room_token(&server, token)?),
        None => None,
    };
    let query = MessagesQuery {
        from,
        to,
        backwards: args.dir == Direction::Backward,
        limit: u64::from(args.limit).min(PAGE_MAX) as u32,
        lazy_members: lazy(&args.filter),
        filter: (!args.filter.is_empty()).then(|| args.filter.clone()),
        relations: args
            .head
            .query_values("filter")
            .next()
            .map(|text| RelationFilter::of(&text))
            .unwrap_or_default(),
        device: Some(args.caller.device.clone()),
    };
    let page = server.rooms.messages(&args.caller.user, &args.room_id, query).await?;
    Ok(Json(Page {
        start: page.start.to_string(),
        end: page.end.map(|token| token.to_string()),
        chunk: page.chunk,
        state: page.state,
    }))
}

/// Whether a filter asks for the members of the senders alone.
pub(super) fn lazy(filter: &RoomEventFilter) -> bool {
    matches!(filter.lazy_load_options, LazyLoadOptions::Enabled { .. })
}

/// Events on one page.
const PAGE_MAX: u64 = 1_000;
