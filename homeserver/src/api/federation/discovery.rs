//! Who we are: version and keys.

use std::sync::Arc;

use ruma::{
    api::federation::discovery::{
        get_remote_server_keys, get_remote_server_keys_batch, get_server_keys, get_server_version,
    },
    serde::Raw,
};
use serde_json::value::to_raw_value;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, version).limit(Class::Federation);
    table.add(Group::Keys, own).limit(Class::Federation);
    table.add(Group::Keys, others).limit(Class::Federation);
    table.add(Group::Keys, batch).limit(Class::Federation);
}

async fn version(
    _: Arc<Server>,
    _: Args<get_server_version::v1::Request>,
) -> Result<get_server_version::v1::Response, Error> {
    let mut server = get_server_version::v1::Server::new();
    server.name = Some("Mangrove".to_owned());
    server.version = Some(env!("CARGO_PKG_VERSION").to_owned());
    let mut response = get_server_version::v1::Response::new();
    response.server = Some(server);
    Ok(response)
}

async fn own(
    server: Arc<Server>,
    _: Args<get_server_keys::v2::Request>,
) -> Result<get_server_keys::v2::Response, Error> {
    Ok(get_server_keys::v2::Response::new(document(&server)?))
}

/// Notary requests: we vouch for nobody but ourselves.
async fn others(
    server: Arc<Server>,
    args: Args<get_remote_server_keys::v2::Request>,
) -> Result<get_remote_server_keys::v2::Response, Error> {
    let keys = if args.server_name == server.name { vec![document(&server)?] } else { Vec::new() };
    Ok(get_remote_server_keys::v2::Response::new(keys))
}

async fn batch(
    server: Arc<Server>,
    args: Args<get_remote_server_keys_batch::v2::Request>,
) -> Result<get_remote_server_keys_batch::v2::Response, Error> {
    let ours = args.server_keys.contains_key(&server.name);
    let keys = if ours { vec![document(&server)?] } else { Vec::new() };
    Ok(get_remote_server_keys_batch::v2::Response::new(keys))
}

fn document<T>(server: &Server) -> Result<Raw<T>, Error> {
    let document = server.remote.identity().key_document(server.clock.now_ms());
    let json = to_raw_value(&document).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Raw::from_json(json))
}
