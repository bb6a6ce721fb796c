//! What the specification itself gives administrators: who somebody is, suspending and locking.

use std::sync::Arc;

use ruma::{
    UserId,
    api::client::admin::{
        get_user_info::{
            self,
            v3::{ConnectionInfo, DeviceInfo, SessionInfo},
        },
        is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, auth::LocalUser},
    server::Server,
    user::{Flag, Standing},
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, whois).also("/_synapse/admin/v1/whois/{user_id}");
    table.add(Group::Client, is_locked);
    table.add(Group::Client, lock);
    table.add(Group::Client, is_suspended);
    table.add(Group::Client, suspend);
}

async fn whois(
    server: Arc<Server>,
    args: Args<get_user_info::v3::Request>,
) -> Result<get_user_info::v3::Response, Error> {
    if args.caller.user != args.user_id {
        admin(&server, &args.caller).await?;
    }
    let mut response = get_user_info::v3::Response::new();
    for device in server.users.devices(&args.user_id).await? {
        let mut connection = ConnectionInfo::new();
        connection.ip = device.seen_ip;
        connection.last_seen = device.seen;
        let mut session = SessionInfo::new();
        session.connections = vec![connection];
        let mut info = DeviceInfo::new();
        info.sessions = vec![session];
        response.devices.insert(device.id.to_string(), info);
    }
    response.user_id = Some(args.request.user_id);
    Ok(response)
}

async fn is_locked(
    server: Arc<Server>,
    args: Args<is_user_locked::v1::Request>,
) -> Result<is_user_locked::v1::Response, Error> {
    let standing = standing(&server, &args.caller, &args.user_id).await?;
    Ok(is_user_locked::v1::Response::new(standing.locked))
}

async fn lock(
    server: Arc<Server>,
    args: Args<lock_user::v1::Request>,
) -> Result<lock_user::v1::Response, Error> {
    moderate(&server, &args.caller, &args.user_id, Flag::Locked, args.locked).await?;
    Ok(lock_user::v1::Response::new(args.locked))
}

async fn is_suspended(
    server: Arc<Server>,
    args: Args<is_user_suspended::v1::Request>,
) -> Result<is_user_suspended::v1::Response, Error> {
    let standing = standing(&server, &args.caller, &args.user_id).await?;
    Ok(is_user_suspended::v1::Response::new(standing.suspended))
}

async fn suspend(
    server: Arc<Server>,
    args: Args<suspend_user::v1::Request>,
) -> Result<suspend_user::v1::Response, Error> {
    moderate(&server, &args.caller, &args.user_id, Flag::Suspended, args.suspended).await?;
    Ok(suspend_user::v1::Response::new(args.suspended))
}

async fn admin(server: &Arc<Server>, caller: &LocalUser) -> Result<(), Error> {
    match server.users.standing(&caller.user).await?.admin {
        true => Ok(()),
        false => Err(Error::forbidden("you are not a server admin")),
    }
}

async fn standing(server: &Arc<Server>, caller: &LocalUser, user: &UserId) -> Result<Standing, Error> {
    admin(server, caller).await?;
    if user.server_name() != server.name {
        return Err(Error::invalid_param("that user is another server's"));
    }
    Ok(server.users.standing(user).await?)
}

// spec: an administrator cannot do it to itself or to another administrator.
async fn moderate(
    server: &Arc<Server>,
    caller: &LocalUser,
    user: &UserId,
    flag: Flag,
    on: bool,
) -> Result<(), Error> {
    if standing(server, caller, user).await?.admin || caller.user == user {
        return Err(Error::forbidden(
            "an administrator is not locked or suspended; make it an ordinary user first",
        ));
    }
    Ok(server.users.set_flag(user, flag, on).await?)
}
