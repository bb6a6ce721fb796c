//! Who we are: version and keys.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use ruma::{
    CanonicalJsonObject, ServerName,
    api::federation::discovery::{
        get_remote_server_keys, get_remote_server_keys_batch, get_server_keys, get_server_version,
    },
    serde::Raw,
};
use serde_json::value::to_raw_value;
use tokio::sync::Semaphore;

use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
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

/// Notary requests: what a server publishes of its keys, as it signed it, with our signature.
async fn others(
    server: Arc<Server>,
    args: Args<get_remote_server_keys::v2::Request>,
) -> Result<get_remote_server_keys::v2::Response, Error> {
    let wanted = args.minimum_valid_until_ts.get().into();
    let keys = vouched(&server, &args.server_name, wanted).await?;
    Ok(get_remote_server_keys::v2::Response::new(keys.into_iter().collect()))
}

async fn batch(
    server: Arc<Server>,
    args: Args<get_remote_server_keys_batch::v2::Request>,
) -> Result<get_remote_server_keys_batch::v2::Response, Error> {
    if args.server_keys.len() > SERVERS_MAX {
        return Err(Error::invalid_param("at most 100 servers in one question"));
    }
    let now = server.clock.now_ms();
    let questions = args.server_keys.iter().map(|(name, keys)| {
        let times = keys.values().filter_map(|key| key.minimum_valid_until_ts);
        (name.clone(), times.map(|ts| u64::from(ts.get())).max().unwrap_or(now))
    });
    let questions: Vec<_> = questions.collect();
    let found: Vec<_> = stream::iter(questions)
        .map(|(name, wanted)| {
            let server = Arc::clone(&server);
            async move { vouched(&server, &name, wanted).await }
        })
        .buffered(SERVERS_AT_ONCE)
        .try_collect()
        .await?;
    Ok(get_remote_server_keys_batch::v2::Response::new(found.into_iter().flatten().collect()))
}

async fn vouched<T>(server: &Server, name: &ServerName, wanted_ms: u64) -> Result<Option<Raw<T>>, Error> {
    if *name == server.name {
        return document(server).map(Some);
    }
    // Whoever may ask needs no signature: so many strangers' questions make us ask others at once, and no more.
    let Ok(_place) = NOTARY.try_acquire() else {
        return Err(RequestError::RateLimited { retry_after_ms: 2_000 }.into());
    };
    let found = server.remote.keyring().vouched(name, wanted_ms).await;
    found.map(|document| raw(&document)).transpose()
}

/// Servers in one question to the notary.
const SERVERS_MAX: usize = 100;
/// Of which so many are asked at once.
const SERVERS_AT_ONCE: usize = 4;
/// Servers whose keys are looked up for others at the same time.
static NOTARY: Semaphore = Semaphore::const_new(32);

fn document<T>(server: &Server) -> Result<Raw<T>, Error> {
    raw(&server.remote.identity().key_document(server.clock.now_ms()))
}

fn raw<T>(document: &CanonicalJsonObject) -> Result<Raw<T>, Error> {
    let json = to_raw_value(document).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Raw::from_json(json))
}
