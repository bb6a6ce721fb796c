//! Events that relate to another: replies in threads, edits, reactions.

use std::sync::Arc;

use ruma::{
    EventId, RoomId, UInt,
    api::client::relations::{
        get_relating_events, get_relating_events_with_rel_type,
        get_relating_events_with_rel_type_and_event_type,
    },
};
use serde::Serialize;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, auth::LocalUser, reply::Json},
    room::ClientEvent,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, all);
    table.add(Group::Client, by_relation);
    table.add(Group::Client, by_relation_and_type);
}

#[derive(Serialize)]
struct Page {
    chunk: Vec<ClientEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

/// Which children are wanted.
struct Wanted<'a> {
    room: &'a RoomId,
    parent: &'a EventId,
    relation: Option<String>,
    kind: Option<String>,
    from: Option<String>,
    limit: Option<UInt>,
}

async fn all(server: Arc<Server>, args: Args<get_relating_events::v1::Request>) -> Result<Json<Page>, Error> {
    let wanted = Wanted {
        room: &args.room_id,
        parent: &args.event_id,
        relation: None,
        kind: None,
        from: args.from.clone(),
        limit: args.limit,
    };
    find(&server, &args.caller, wanted).await
}

async fn by_relation(
    server: Arc<Server>,
    args: Args<get_relating_events_with_rel_type::v1::Request>,
) -> Result<Json<Page>, Error> {
    let wanted = Wanted {
        room: &args.room_id,
        parent: &args.event_id,
        relation: Some(args.rel_type.to_string()),
        kind: None,
        from: args.from.clone(),
        limit: args.limit,
    };
    find(&server, &args.caller, wanted).await
}

async fn by_relation_and_type(
    server: Arc<Server>,
    args: Args<get_relating_events_with_rel_type_and_event_type::v1::Request>,
) -> Result<Json<Page>, Error> {
    let wanted = Wanted {
        room: &args.room_id,
        parent: &args.event_id,
        relation: Some(args.rel_type.to_string()),
        kind: Some(args.event_type.to_string()),
        from: args.from.clone(),
        limit: args.limit,
    };
    find(&server, &args.caller, wanted).await
}

async fn find(server: &Arc<Server>, caller: &LocalUser, wanted: Wanted<'_>) -> Result<Json<Page>, Error> {
    let limit = wanted.limit.map_or(PAGE, u64::from).min(PAGE_MAX) as u32;
    let (chunk, next_batch) = server
        .rooms
        .relations(&caller.user, wanted.room, wanted.parent, wanted.relation, wanted.kind, wanted.from, limit)
        .await?;
    Ok(Json(Page { chunk, next_batch }))
}

const PAGE: u64 = 50;
const PAGE_MAX: u64 = 500;
