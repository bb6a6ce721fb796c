//! Events that relate to another: replies in threads, edits, reactions; and a room's threads.

use std::sync::Arc;

use ruma::{
    EventId, RoomId, UInt,
    api::{
        Direction,
        client::{
            relations::{
                get_relating_events, get_relating_events_with_rel_type,
                get_relating_events_with_rel_type_and_event_type,
            },
            threads::get_threads::{self, v1::IncludeThreads},
        },
    },
};
use serde::Serialize;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, auth::LocalUser, reply::Json},
    room::{ClientEvent, read::RelationsQuery},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, all);
    table.add(Group::Client, by_relation);
    table.add(Group::Client, by_relation_and_type);
    table.add(Group::Client, threads);
}

#[derive(Serialize)]
struct Page {
    chunk: Vec<ClientEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recursion_depth: Option<u32>,
}

/// What the three endpoints have in common.
struct Wanted<'a> {
    room: &'a RoomId,
    parent: &'a EventId,
    relation: Option<String>,
    kind: Option<String>,
    from: Option<&'a str>,
    to: Option<&'a str>,
    direction: Direction,
    limit: Option<UInt>,
    recurse: bool,
}

async fn all(server: Arc<Server>, args: Args<get_relating_events::v1::Request>) -> Result<Json<Page>, Error> {
    let wanted = Wanted {
        room: &args.room_id,
        parent: &args.event_id,
        relation: None,
        kind: None,
        from: args.from.as_deref(),
        to: args.to.as_deref(),
        direction: args.dir,
        limit: args.limit,
        recurse: args.recurse,
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
        from: args.from.as_deref(),
        to: args.to.as_deref(),
        direction: args.dir,
        limit: args.limit,
        recurse: args.recurse,
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
        kind: Some(args.segment(3).to_owned()),
        from: args.from.as_deref(),
        to: args.to.as_deref(),
        direction: args.dir,
        limit: args.limit,
        recurse: args.recurse,
    };
    find(&server, &args.caller, wanted).await
}

async fn find(server: &Arc<Server>, caller: &LocalUser, wanted: Wanted<'_>) -> Result<Json<Page>, Error> {
    let token = |text: Option<&str>| text.map(|text| super::room_token(server, text)).transpose();
    let query = RelationsQuery {
        rel_type: wanted.relation,
        event_type: wanted.kind,
        from: token(wanted.from)?,
        to: token(wanted.to)?,
        forwards: wanted.direction == Direction::Forward,
        limit: wanted.limit.map_or(PAGE, u64::from).min(PAGE_MAX) as u32,
        recurse: wanted.recurse,
        device: Some(caller.device.clone()),
    };
    let found = server.rooms.relations(&caller.user, wanted.room, wanted.parent, query).await?;
    Ok(Json(Page {
        chunk: found.chunk,
        next_batch: found.next.map(|token| token.to_string()),
        prev_batch: wanted.from.map(ToOwned::to_owned),
        recursion_depth: wanted.recurse.then_some(found.depth),
    }))
}

async fn threads(server: Arc<Server>, args: Args<get_threads::v1::Request>) -> Result<Json<Page>, Error> {
    let participated = args.include == IncludeThreads::Participated;
    let limit = args.limit.map_or(PAGE, u64::from).min(PAGE_MAX) as u32;
    let (chunk, next_batch) = server
        .rooms
        .threads(&args.caller.user, &args.room_id, participated, args.from.as_deref(), limit)
        .await?;
    Ok(Json(Page { chunk, next_batch, prev_batch: None, recursion_depth: None }))
}

const PAGE: u64 = 50;
const PAGE_MAX: u64 = 500;
