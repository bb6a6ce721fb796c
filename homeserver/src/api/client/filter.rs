//! Filters that clients keep here.

use std::sync::Arc;

use ruma::api::client::filter::{create_filter, get_filter};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, create);
    table.add(Group::Client, get);
}

async fn create(
    server: Arc<Server>,
    args: Args<create_filter::v3::Request>,
) -> Result<create_filter::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    let id = server.filters.create(&args.caller.user, &args.filter).await?;
    Ok(create_filter::v3::Response::new(id))
}

async fn get(
    server: Arc<Server>,
    args: Args<get_filter::v3::Request>,
) -> Result<get_filter::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    let definition = server.filters.find(&args.caller.user, &args.filter_id).await?;
    Ok(get_filter::v3::Response::new(definition))
}
