//! Devices that sleep on the server until a new log-in wakes them (MSC3814).

use std::sync::Arc;

use ruma::{
    OwnedDeviceId, UserId,
    api::client::dehydrated_device::{
        delete_dehydrated_device, get_dehydrated_device, get_events, put_dehydrated_device,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use crate::{
    api::routes::{Group, Table},
    e2ee::Upload,
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
    store::Seq,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, put);
    table.add(Group::Client, get);
    table.add(Group::Client, delete);
    table.add(Group::Client, events);
}

async fn put(
    server: Arc<Server>,
    args: Args<put_dehydrated_device::unstable::Request>,
) -> Result<put_dehydrated_device::unstable::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let request = args.request;
    let device = request.device_id;
    // What is none is refused before anything is kept.
    request.device_data.deserialize().map_err(|error| Error::invalid_param(error.to_string()))?;
    let asleep = known(&server, user).await?.map(|(device, _)| device);
    if asleep.as_ref() != Some(&device) && server.users.device(user, &device).await.is_ok() {
        return Err(Error::invalid_param("a device that is awake has this id; take a new one"));
    }
    server.users.make_device(user, &device, request.initial_device_display_name).await?;
    let upload = Upload {
        device_keys: Some(request.device_keys),
        one_time_keys: request.one_time_keys,
        fallback_keys: request.fallback_keys,
    };
    if let Err(error) = server.e2ee.upload(user, &device, upload).await {
        server.users.logout(user, &device).await?;
        return Err(error.into());
    }
    let data = request.device_data.json().get().to_owned();
    if let Some(before) = server.e2ee.put_to_sleep(user, &device, data).await? {
        server.users.logout(user, &before).await?;
    }
    Ok(put_dehydrated_device::unstable::Response::new(device))
}

/// The device that sleeps, unless it was logged out in another way.
async fn known(server: &Arc<Server>, user: &UserId) -> Result<Option<(OwnedDeviceId, String)>, Error> {
    let Some((device, data)) = server.e2ee.dehydrated(user).await? else { return Ok(None) };
    Ok(server.users.device(user, &device).await.is_ok().then_some((device, data)))
}

async fn asleep(server: &Arc<Server>, user: &UserId) -> Result<(OwnedDeviceId, String), Error> {
    known(server, user).await?.ok_or_else(|| Error::not_found("no dehydrated device available"))
}

async fn get(
    server: Arc<Server>,
    args: Args<get_dehydrated_device::unstable::Request>,
) -> Result<get_dehydrated_device::unstable::Response, Error> {
    let (device, data) = asleep(&server, &args.caller.user).await?;
    let data = RawValue::from_string(data).map_err(|error| Error::internal(error.to_string()))?;
    Ok(get_dehydrated_device::unstable::Response::new(device, Raw::from_json(data)))
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_dehydrated_device::unstable::Request>,
) -> Result<delete_dehydrated_device::unstable::Response, Error> {
    let (device, _) = asleep(&server, &args.caller.user).await?;
    server.users.logout(&args.caller.user, &device).await?;
    Ok(delete_dehydrated_device::unstable::Response::new(device))
}

async fn events(
    server: Arc<Server>,
    args: Args<get_events::unstable::Request>,
) -> Result<get_events::unstable::Response, Error> {
    let (device, _) = asleep(&server, &args.caller.user).await?;
    if device != args.device_id {
        return Err(Error::forbidden("messages are told of the dehydrated device alone"));
    }
    let after = match &args.next_batch {
        None => Seq(0),
        Some(text) => {
            Seq(text.parse().map_err(|_| Error::invalid_param("that is not a next_batch of ours"))?)
        }
    };
    let (messages, last) = server.e2ee.messages_asleep(&args.caller.user, &device, after).await?;
    let events = messages
        .into_iter()
        .map(|json| RawValue::from_string(json).map(Raw::from_json))
        .collect::<Result<_, _>>()
        .map_err(|error| Error::internal(error.to_string()))?;
    let mut response = get_events::unstable::Response::new(events);
    // An empty page ends it; clients ask until then.
    response.next_batch = Some(last.unwrap_or(after).0.to_string());
    Ok(response)
}
