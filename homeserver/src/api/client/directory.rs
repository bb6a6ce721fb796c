//! The room directory: our public rooms, then those of the neighbours.

use std::sync::Arc;

use ruma::{
    ServerName, UInt,
    api::client::{
        appservice::set_room_visibility as list_in_network,
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility, set_room_visibility},
        room::Visibility,
    },
    api::federation::directory as federation,
    directory::RoomNetwork,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, auth::require_user, limits::Class, reply::Json},
    server::Server,
    store::schema::rooms::Network,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, rooms);
    table.add(Group::Client, rooms_filtered);
    table.add(Group::Client, visibility);
    table.add(Group::Client, set_visibility);
    table.add(Group::Client, set_visibility_in_network);
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

/// What a client wants to see of the directory.
struct Wanted<'a> {
    server: Option<&'a ServerName>,
    network: Network,
    search: Option<String>,
    limit: Option<UInt>,
    since: Option<String>,
}

async fn rooms(server: Arc<Server>, args: Args<get_public_rooms::v3::Request>) -> Result<Json<Page>, Error> {
    if !server.settings().open_directory {
        require_user(&server, &args.head.headers, args.head.uri.query()).await?;
    }
    let wanted = Wanted {
        server: args.server.as_deref(),
        network: Network::Matrix,
        search: None,
        limit: args.limit,
        since: args.since.clone(),
    };
    page(&server, wanted).await
}

async fn rooms_filtered(
    server: Arc<Server>,
    args: Args<get_public_rooms_filtered::v3::Request>,
) -> Result<Json<Page>, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    let wanted = Wanted {
        server: args.server.as_deref(),
        network: Network::from(&args.room_network),
        search: args.filter.generic_search_term.clone(),
        limit: args.limit,
        since: args.since.clone(),
    };
    page(&server, wanted).await
}

async fn page(server: &Arc<Server>, wanted: Wanted<'_>) -> Result<Json<Page>, Error> {
    let limit = wanted.limit.map_or(LIMIT_MAX, u64::from).clamp(1, LIMIT_MAX);
    if let Some(other) = wanted.server.filter(|other| **other != server.name) {
        return other_servers(server, other, wanted, limit).await;
    }
    let search = wanted.search.filter(|term| !term.trim().is_empty());
    // What bridges list is theirs alone.
    if let Network::One(_) = wanted.network {
        let page = server.rooms.directory(wanted.network, search, limit as u32, wanted.since).await?;
        return Ok(Json(Page {
            chunk: page.chunk,
            next_batch: page.next_batch,
            prev_batch: page.prev_batch,
            total_room_count_estimate: page.total,
        }));
    }
    server.neighbours.refresh().await;
    // A token that begins with `n` counts in the neighbours' rooms, which follow ours.
    if let Some(at) = wanted.since.as_deref().and_then(|since| since.strip_prefix('n')) {
        let at: usize = at.parse().map_err(|_| Error::invalid_param("`since` is not from this directory"))?;
        let next_door = next_door(server, search.as_deref());
        return Ok(Json(neighbours_page(Vec::new(), &next_door, at, limit, 0)));
    }
    let ours =
        server.rooms.directory(wanted.network.clone(), search.clone(), limit as u32, wanted.since).await?;
    let next_door = next_door(server, search.as_deref());
    if ours.next_batch.is_none() {
        return Ok(Json(neighbours_page(ours.chunk, &next_door, 0, limit, ours.total)));
    }
    Ok(Json(Page {
        chunk: ours.chunk,
        next_batch: ours.next_batch,
        prev_batch: ours.prev_batch,
        total_room_count_estimate: ours.total + next_door.len() as u64,
    }))
}

/// Fills a page up with the neighbours' rooms from `at` on.
fn neighbours_page(
    mut chunk: Vec<Box<RawValue>>,
    next_door: &[Box<RawValue>],
    at: usize,
    limit: u64,
    ours: u64,
) -> Page {
    let room = (limit as usize).saturating_sub(chunk.len());
    let end = at.saturating_add(room).min(next_door.len());
    chunk.extend(next_door.get(at..end).unwrap_or_default().iter().cloned());
    Page {
        chunk,
        next_batch: (end < next_door.len()).then(|| format!("n{end}")),
        prev_batch: None,
        total_room_count_estimate: ours + next_door.len() as u64,
    }
}

/// The parts of a `PublicRoomsChunk` that are searched.
#[derive(Deserialize)]
struct Listed {
    room_id: String,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    topic: Option<String>,
    #[serde(default)]
    canonical_alias: Option<String>,
}

impl Listed {
    fn matches(&self, needle: &str) -> bool {
        [&self.name, &self.topic, &self.canonical_alias]
            .into_iter()
            .flatten()
            .any(|text| text.to_lowercase().contains(needle))
            || self.room_id.to_lowercase() == needle
    }
}

/// The neighbours' public rooms that match.
fn next_door(server: &Arc<Server>, search: Option<&str>) -> Vec<Box<RawValue>> {
    let needle = search.map(|term| term.trim().to_lowercase());
    let mut rooms = server.neighbours.rooms();
    rooms.retain(|room| match serde_json::from_str::<Listed>(room.get()) {
        Ok(listed) => needle.as_ref().is_none_or(|needle| listed.matches(needle)),
        Err(_) => false,
    });
    rooms
}

async fn other_servers(
    server: &Arc<Server>,
    other: &ServerName,
    wanted: Wanted<'_>,
    limit: u64,
) -> Result<Json<Page>, Error> {
    let mut question = federation::get_public_rooms_filtered::v1::Request::new();
    question.limit = Some(UInt::new_saturating(limit));
    question.since = wanted.since;
    question.filter.generic_search_term = wanted.search;
    question.room_network = match wanted.network {
        Network::Matrix => RoomNetwork::Matrix,
        Network::All => RoomNetwork::All,
        Network::One(name) => RoomNetwork::ThirdParty(name),
    };
    let answer = server.remote.request(other, question).await?;
    let chunk = answer
        .chunk
        .iter()
        .map(serde_json::value::to_raw_value)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Error::internal(error.to_string()))?;
    Ok(Json(Page {
        chunk,
        next_batch: answer.next_batch,
        prev_batch: answer.prev_batch,
        total_room_count_estimate: answer.total_room_count_estimate.map_or(0, u64::from),
    }))
}

async fn visibility(
    server: Arc<Server>,
    args: Args<get_room_visibility::v3::Request>,
) -> Result<get_room_visibility::v3::Response, Error> {
    if !server.settings().open_directory {
        require_user(&server, &args.head.headers, args.head.uri.query()).await?;
    }
    let visibility =
        if server.rooms.is_listed(&args.room_id).await? { Visibility::Public } else { Visibility::Private };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

async fn set_visibility(
    server: Arc<Server>,
    args: Args<set_room_visibility::v3::Request>,
) -> Result<set_room_visibility::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let listed = args.visibility == Visibility::Public;
    server.rooms.set_listed(user, &args.room_id, listed).await?;
    Ok(set_room_visibility::v3::Response::new())
}

async fn set_visibility_in_network(
    server: Arc<Server>,
    args: Args<list_in_network::v3::Request>,
) -> Result<list_in_network::v3::Response, Error> {
    // Clients ask for the list by this name, which `/thirdparty/protocols` tells them.
    let network = format!("{}|{}", args.caller.id, args.network_id);
    let listed = args.visibility == Visibility::Public;
    server.rooms.set_listed_in_network(network, &args.room_id, listed).await?;
    Ok(list_in_network::v3::Response::new())
}

/// Rooms on one page.
const LIMIT_MAX: u64 = 500;
