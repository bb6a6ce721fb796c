//! Accounts: who am I, and making, changing and ending them.

use std::sync::Arc;

use ruma::api::client::account::whoami;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, whoami);
}

async fn whoami(_: Arc<Server>, args: Args<whoami::v3::Request>) -> Result<whoami::v3::Response, Error> {
    let mut response = whoami::v3::Response::new(args.caller.user.clone(), false);
    response.device_id = Some(args.caller.device.clone());
    Ok(response)
}
