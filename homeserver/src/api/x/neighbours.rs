//! What this node shows of itself to those that multicast found: a few people and its public rooms.

use std::sync::Arc;

use super::{Answer, NeighbourList};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
    store::schema::rooms::Network,
    user::next_door::{List, PEOPLE_MAX, ROOMS_MAX},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::X, list).limit(Class::Federation);
}

/// Only for direct neighbours on a cable or a Wi-Fi: people are not shown one hop further.
async fn list(server: Arc<Server>, args: Args<NeighbourList>) -> Result<Answer, Error> {
    let near = match (&server.overlay, args.origin.node) {
        (Some(overlay), Some(caller)) => overlay.neighbours().contains(&caller),
        _ => false,
    };
    if !near || !server.settings().discoverable {
        return Err(Error::forbidden("this node shows its people and rooms to nobody, or not to you"));
    }
    let people = server.users.people(PEOPLE_MAX).await?;
    let rooms = server.rooms.directory(Network::Matrix, None, ROOMS_MAX as u32, None).await?.chunk;
    let list = List { server_name: server.name.clone(), people, rooms };
    Ok(Answer(serde_json::to_value(&list).map_err(|error| Error::internal(error.to_string()))?))
}
