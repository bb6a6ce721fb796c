//! Messages to devices.

use std::sync::Arc;

use ruma::api::client::to_device::send_event_to_device::v3::{Request, Response};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::args::Args,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, send);
}

async fn send(server: Arc<Server>, args: Args<Request>) -> Result<Response, Error> {
    let (user, device) = (args.caller.user.clone(), args.caller.device.clone());
    let event_type = args.segment(0).to_owned();
    let request = args.request;
    server.e2ee.send_to_device(&user, &device, &event_type, &request.txn_id, request.messages).await?;
    Ok(Response::new())
}
