//! What is new: `/sync`.

use std::sync::Arc;

use ruma::api::client::sync::sync_events::v3::{Filter, Request};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, reply::Raw},
    server::Server,
    sync::{SyncRequest, filter::SyncFilter},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, sync);
}

async fn sync(server: Arc<Server>, args: Args<Request>) -> Result<Raw, Error> {
    let (user, device) = (args.caller.user.clone(), args.caller.device.clone());
    let filter = match &args.filter {
        Some(Filter::FilterDefinition(definition)) => SyncFilter::from(definition),
        Some(Filter::FilterId(id)) => SyncFilter::from(&server.filters.find(&user, id).await?),
        _ => SyncFilter::default(),
    };
    let request = SyncRequest {
        user,
        device,
        since: args.request.since.clone(),
        filter,
        full_state: args.full_state,
        timeout: args.timeout.unwrap_or_default(),
        stop: server.shutdown.clone(),
    };
    Ok(Raw(server.sync.sync(request).await?))
}
