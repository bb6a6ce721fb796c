//! Room aliases.

use std::sync::Arc;

use ruma::api::{
    client::alias::{create_alias, delete_alias, get_alias},
    error::ErrorKind,
};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::Args,
        auth::{require_user, service_of},
        limits::Class,
    },
    room::RoomError,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get);
    table.add(Group::Client, create);
    table.add(Group::Client, delete);
}

async fn get(
    server: Arc<Server>,
    args: Args<get_alias::v3::Request>,
) -> Result<get_alias::v3::Response, Error> {
    if !server.settings().open_directory {
        require_user(&server, &args.head.headers, args.head.uri.query()).await?;
    }
    let (room, servers) = match server.rooms.resolve_alias(&args.room_alias).await {
        // A bridge makes the room when it is asked for.
        Err(RoomError::NotFound(_)) if server.appservices.query_alias(&args.room_alias).await => {
            server.rooms.resolve_alias(&args.room_alias).await?
        }
        found => found?,
    };
    Ok(get_alias::v3::Response::new(room, servers))
}

async fn create(
    server: Arc<Server>,
    args: Args<create_alias::v3::Request>,
) -> Result<create_alias::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    let service = service_of(&server, &args.head.headers, args.head.uri.query())?;
    if server.appservices.alias_is_taken(&args.room_alias, service.as_deref()) {
        return Err(Error::new(ErrorKind::Exclusive, "this alias is reserved for an application service"));
    }
    server.rooms.create_alias(user, &args.room_alias, &args.room_id).await?;
    Ok(create_alias::v3::Response::new())
}

async fn delete(
    server: Arc<Server>,
    args: Args<delete_alias::v3::Request>,
) -> Result<delete_alias::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Write, user.as_str())?;
    server.rooms.delete_alias(user, &args.room_alias).await?;
    Ok(delete_alias::v3::Response::new())
}
