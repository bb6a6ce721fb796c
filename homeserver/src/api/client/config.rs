//! Account data, global and by room.

use std::sync::Arc;

use ruma::{
    RoomId, UserId,
    api::{
        client::config::{
            get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
        },
        error::ErrorKind,
    },
    serde::Raw,
};
use serde_json::value::RawValue;

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{args::Args, auth::LocalUser, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get_global);
    table.add(Group::Client, set_global);
    table.add(Group::Client, get_of_room);
    table.add(Group::Client, set_of_room);
}

async fn get_global(
    server: Arc<Server>,
    args: Args<get_global_account_data::v3::Request>,
) -> Result<get_global_account_data::v3::Response, Error> {
    let kind = args.event_type.to_string();
    let content = get(&server, &args.caller, &args.user_id, None, &kind).await?;
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(content)))
}

async fn set_global(
    server: Arc<Server>,
    args: Args<set_global_account_data::v3::Request>,
) -> Result<set_global_account_data::v3::Response, Error> {
    let kind = args.event_type.to_string();
    let content = args.data.json().get();
    set(&server, &args.caller, &args.user_id, None, &kind, content).await?;
    Ok(set_global_account_data::v3::Response::new())
}

async fn get_of_room(
    server: Arc<Server>,
    args: Args<get_room_account_data::v3::Request>,
) -> Result<get_room_account_data::v3::Response, Error> {
    let kind = args.event_type.to_string();
    let room = Some(&*args.room_id);
    let content = get(&server, &args.caller, &args.user_id, room, &kind).await?;
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(content)))
}

async fn set_of_room(
    server: Arc<Server>,
    args: Args<set_room_account_data::v3::Request>,
) -> Result<set_room_account_data::v3::Response, Error> {
    let kind = args.event_type.to_string();
    let room = Some(&*args.room_id);
    let content = args.data.json().get();
    set(&server, &args.caller, &args.user_id, room, &kind, content).await?;
    Ok(set_room_account_data::v3::Response::new())
}

async fn get(
    server: &Arc<Server>,
    caller: &LocalUser,
    user: &UserId,
    room: Option<&RoomId>,
    kind: &str,
) -> Result<Box<RawValue>, Error> {
    own(caller, user)?;
    let stored = server.users.account_data(user, room, kind).await?;
    stored
        .and_then(|content| RawValue::from_string(content).ok())
        .ok_or_else(|| Error::not_found("there is no account data of this type"))
}

async fn set(
    server: &Arc<Server>,
    caller: &LocalUser,
    user: &UserId,
    room: Option<&RoomId>,
    kind: &str,
    content: &str,
) -> Result<(), Error> {
    own(caller, user)?;
    // spec: https://spec.matrix.org/v1.19/client-server-api/#put_matrixclientv3useruseridaccount_datatype
    if matches!(kind, "m.fully_read" | "m.push_rules") {
        return Err(Error::new(ErrorKind::BadJson, "this type is changed by its own endpoint"));
    }
    if !content.trim_start().starts_with('{') {
        return Err(RequestError::BadJson("account data is a JSON object".into()).into());
    }
    server.limits.take(Class::Write, user.as_str())?;
    server.users.set_account_data(user, room, kind, content.to_owned()).await?;
    Ok(())
}
