//! Backups of message keys: none is kept here yet, and clients ask before they make one.

use std::sync::Arc;

use ruma::api::client::backup::get_latest_backup_info;

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, latest);
}

async fn latest(
    _: Arc<Server>,
    _: Args<get_latest_backup_info::v3::Request>,
) -> Result<get_latest_backup_info::v3::Response, Error> {
    Err(Error::not_found("there is no backup of message keys"))
}
