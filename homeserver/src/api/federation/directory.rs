//! Our public rooms.

use std::sync::Arc;

use ruma::api::federation::directory::{get_public_rooms, get_public_rooms_filtered};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class, reply::Json},
    server::Server,
    store::schema::rooms::Network,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, rooms).limit(Class::Federation);
    table.add(Group::Federation, filtered).limit(Class::Federation);
}

#[derive(Serialize)]
struct Page {
    chunk: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prev_batch: Option<String>,
    total_room_count_estimate: u64,
}

async fn rooms(server: Arc<Server>, args: Args<get_public_rooms::v1::Request>) -> Result<Json<Page>, Error> {
    page(&server, Network::Matrix, None, args.limit, args.since.clone()).await
}

async fn filtered(
    server: Arc<Server>,
    args: Args<get_public_rooms_filtered::v1::Request>,
) -> Result<Json<Page>, Error> {
    let (network, search) = (Network::from(&args.room_network), args.filter.generic_search_term.clone());
    page(&server, network, search, args.limit, args.since.clone()).await
}

async fn page(
    server: &Server,
    network: Network,
    search: Option<String>,
    limit: Option<ruma::UInt>,
    since: Option<String>,
) -> Result<Json<Page>, Error> {
    let search = search.filter(|term| !term.trim().is_empty());
    let limit = limit.map_or(LIMIT_MAX, u64::from).clamp(1, LIMIT_MAX);
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    let page = server.rooms.directory(network, search, limit, since).await?;
    Ok(Json(Page {
        chunk: page.chunk,
        next_batch: page.next_batch,
        prev_batch: page.prev_batch,
        total_room_count_estimate: page.total,
    }))
}

/// Rooms in one answer.
const LIMIT_MAX: u64 = 100;
