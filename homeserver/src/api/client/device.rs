//! Devices: listing, naming, removing.

use std::sync::Arc;

use http::StatusCode;
use ruma::api::client::device::{
    self, delete_device, delete_devices, get_device, get_devices, update_device,
};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Args,
        auth::service_of,
        reply::{self, Made},
        uia,
    },
    server::Server,
    user::{Device, UserError},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, list);
    table.add(Group::Client, get);
    table.add(Group::Client, update);
    table.add(Group::Client, delete);
    table.add(Group::Client, delete_many);
}

async fn list(
    server: Arc<Server>,
    args: Args<get_devices::v3::Request>,
) -> Result<get_devices::v3::Response, Error> {
    let devices = server.users.devices(&args.caller.user).await?;
    Ok(get_devices::v3::Response::new(devices.into_iter().map(shown).collect()))
}

async fn get(
    server: Arc<Server>,
    args: Args<get_device::v3::Request>,
) -> Result<get_device::v3::Response, Error> {
    let device = server.users.device(&args.caller.user, &args.device_id).await?;
    Ok(get_device::v3::Response::new(shown(device)))
}

async fn update(server: Arc<Server>, args: Args<update_device::v3::Request>) -> Result<Made, Error> {
    // spec: MSC4190: a service makes devices so.
    if service_of(&server, &args.head.headers, args.head.uri.query())?.is_some()
        && server.users.make_device(&args.caller.user, &args.device_id, args.display_name.clone()).await?
    {
        return Ok(Made(reply::json(StatusCode::CREATED, "{}")));
    }
    if args.display_name.is_some() {
        server.users.rename_device(&args.caller.user, &args.device_id, args.display_name.clone()).await?;
    } else {
        server.users.device(&args.caller.user, &args.device_id).await?;
    }
    Ok(Made(reply::json(StatusCode::OK, "{}")))
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_device::v3::Request>,
) -> Result<delete_device::v3::Response, Error> {
    if service_of(&server, &args.head.headers, args.head.uri.query())?.is_none() {
        uia::password(&server, &args.caller, &args.origin, args.auth.as_ref()).await?;
    }
    gone(server.users.delete_devices(&args.caller.user, std::slice::from_ref(&args.device_id)).await)?;
    Ok(delete_device::v3::Response::new())
}

async fn delete_many(
    server: Arc<Server>,
    args: Args<delete_devices::v3::Request>,
) -> Result<delete_devices::v3::Response, Error> {
    if service_of(&server, &args.head.headers, args.head.uri.query())?.is_none() {
        uia::password(&server, &args.caller, &args.origin, args.auth.as_ref()).await?;
    }
    gone(server.users.delete_devices(&args.caller.user, &args.devices).await)?;
    Ok(delete_devices::v3::Response::new())
}

/// Removing what is not there is done already.
fn gone(result: Result<(), UserError>) -> Result<(), UserError> {
    match result {
        Err(UserError::NoDevice) => Ok(()),
        other => other,
    }
}

fn shown(known: Device) -> device::Device {
    let mut device = device::Device::new(known.id);
    device.display_name = known.name;
    device.last_seen_ip = known.seen_ip;
    device.last_seen_ts = known.seen;
    device
}
