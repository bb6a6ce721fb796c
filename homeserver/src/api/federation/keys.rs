//! Device keys and one-time keys of our users.

use std::sync::Arc;

use ruma::api::federation::keys::{claim_keys, get_keys};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, query).limit(Class::Federation);
    table.add(Group::Federation, claim).limit(Class::Federation);
}

async fn query(
    server: Arc<Server>,
    args: Args<get_keys::v1::Request>,
) -> Result<get_keys::v1::Response, Error> {
    Ok(server.e2ee.query_for_server(&args.caller.name, args.device_keys.clone()).await?)
}

async fn claim(
    server: Arc<Server>,
    args: Args<claim_keys::v1::Request>,
) -> Result<claim_keys::v1::Response, Error> {
    Ok(server.e2ee.claim_for_server(&args.caller.name, args.one_time_keys.clone()).await?)
}
