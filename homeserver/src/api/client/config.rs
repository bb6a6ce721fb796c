//! Account data, global and by room.

use std::sync::Arc;

use http::Method;
use ruma::{
    RoomId, UserId,
    api::{
        auth_scheme::AccessToken,
        client::config::{
            get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data,
        },
        error::ErrorKind,
    },
    serde::Raw,
};
use serde_json::{Value, json, value::RawValue};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    http::{
        args::{Args, Incoming},
        auth::{CallerKind as _, LocalUser},
        limits::Class,
        reply::Json,
    },
    server::Server,
    store::schema::account_data::REMOVED,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get_global);
    table.add(Group::Client, set_global);
    table.add(Group::Client, get_of_room);
    table.add(Group::Client, set_of_room);
    // spec: MSC3391
    let global = "/_matrix/client/v3/user/{user_id}/account_data/{event_type}";
    let of_room = "/_matrix/client/v3/user/{user_id}/rooms/{room_id}/account_data/{event_type}";
    table
        .plain(Group::Client, Method::DELETE, global, remove)
        .also("/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/account_data/{event_type}");
    table.plain(Group::Client, Method::DELETE, of_room, remove).also(
        "/_matrix/client/unstable/org.matrix.msc3391/user/{user_id}/rooms/{room_id}/account_data/{event_type}",
    );
}

/// Takes an entry away: its path has the user, perhaps a room, and the type.
async fn remove(server: Arc<Server>, incoming: Incoming) -> Result<Json<Value>, Error> {
    let caller = AccessToken::caller(&server, &incoming).await?;
    let (user, room, kind) = match &incoming.path[..] {
        [user, kind] => (user, None, kind),
        [user, room, kind] => (user, Some(room), kind),
        _ => return Err(RequestError::UnknownPath.into()),
    };
    let malformed = |_| Error::invalid_param("that is no user or room id");
    let user = UserId::parse(user).map_err(malformed)?;
    let room = room.map(RoomId::parse).transpose().map_err(malformed)?;
    set(&server, &caller, &user, room.as_deref(), kind, REMOVED).await?;
    Ok(Json(json!({})))
}

async fn get_global(
    server: Arc<Server>,
    args: Args<get_global_account_data::v3::Request>,
) -> Result<get_global_account_data::v3::Response, Error> {
    let content = get(&server, &args.caller, &args.user_id, None, args.segment(1)).await?;
    Ok(get_global_account_data::v3::Response::new(Raw::from_json(content)))
}

async fn set_global(
    server: Arc<Server>,
    args: Args<set_global_account_data::v3::Request>,
) -> Result<set_global_account_data::v3::Response, Error> {
    let content = args.data.json().get();
    set(&server, &args.caller, &args.user_id, None, args.segment(1), content).await?;
    Ok(set_global_account_data::v3::Response::new())
}

async fn get_of_room(
    server: Arc<Server>,
    args: Args<get_room_account_data::v3::Request>,
) -> Result<get_room_account_data::v3::Response, Error> {
    let room = Some(&*args.room_id);
    let content = get(&server, &args.caller, &args.user_id, room, args.segment(2)).await?;
    Ok(get_room_account_data::v3::Response::new(Raw::from_json(content)))
}

async fn set_of_room(
    server: Arc<Server>,
    args: Args<set_room_account_data::v3::Request>,
) -> Result<set_room_account_data::v3::Response, Error> {
    let room = Some(&*args.room_id);
    let content = args.data.json().get();
    set(&server, &args.caller, &args.user_id, room, args.segment(2), content).await?;
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
