//! Devices of our users, for servers that share a room with them.

use std::sync::Arc;

use ruma::api::federation::device::get_devices;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, devices).limit(Class::Federation);
}

async fn devices(
    server: Arc<Server>,
    args: Args<get_devices::v1::Request>,
) -> Result<get_devices::v1::Response, Error> {
    Ok(server.e2ee.user_devices(&args.user_id).await?)
}
