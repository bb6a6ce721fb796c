//! Who is in a room: joining, leaving, inviting, removing, and who is there.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    OwnedRoomId, OwnedServerName, OwnedUserId, RoomOrAliasId, UInt, UserId,
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room, get_member_events, get_mutual_rooms, invite_user,
            invite_user::v3::InvitationRecipient, join_room_by_id, join_room_by_id_or_alias, joined_members,
            joined_rooms, kick_user, leave_room, unban_user,
        },
    },
    events::room::member::MembershipState,
};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{
        args::{Args, Head},
        auth::LocalUser,
        limits::Class,
        reply::Json,
    },
    room::ClientEvent,
    server::Server,
    store::schema::membership::Membership,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, join);
    table.add(Group::Client, join_by_id);
    table.add(Group::Client, knock);
    table.add(Group::Client, leave);
    table.add(Group::Client, forget);
    table.add(Group::Client, invite);
    table.add(Group::Client, kick);
    table.add(Group::Client, ban);
    table.add(Group::Client, unban);
    table.add(Group::Client, joined_rooms);
    table.add(Group::Client, joined_members);
    table.add(Group::Client, members);
    table.add(Group::Client, mutual_rooms);
    table.add(Group::Client, old_mutual_rooms);
}

async fn join(
    server: Arc<Server>,
    args: Args<join_room_by_id_or_alias::v3::Request>,
) -> Result<join_room_by_id_or_alias::v3::Response, Error> {
    let extra = more_content(&args.body);
    let target = &args.room_id_or_alias;
    let room = do_join(&server, &args.caller, target, args.via.clone(), args.reason.clone(), extra).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room))
}

async fn join_by_id(
    server: Arc<Server>,
    args: Args<join_room_by_id::v3::Request>,
) -> Result<join_room_by_id::v3::Response, Error> {
    let target: &RoomOrAliasId = (&*args.room_id).into();
    let via = via(&args.head);
    let extra = more_content(&args.body);
    let room = do_join(&server, &args.caller, target, via, args.reason.clone(), extra).await?;
    Ok(join_room_by_id::v3::Response::new(room))
}

async fn do_join(
    server: &Arc<Server>,
    caller: &LocalUser,
    target: &RoomOrAliasId,
    mut via: Vec<OwnedServerName>,
    reason: Option<String>,
    extra: Map<String, Value>,
) -> Result<OwnedRoomId, Error> {
    server.limits.take(Class::Membership, caller.user.as_str())?;
    via.truncate(VIA_MAX);
    Ok(server.rooms.join_with(&caller.user, target, via, reason, extra).await?)
}

/// What a join request has besides what the specification knows goes into the membership event, as in other servers.
fn more_content(body: &[u8]) -> Map<String, Value> {
    let mut content: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
    content.retain(|key, _| !matches!(key.as_str(), "reason" | "third_party_signed"));
    content
}

async fn knock(
    server: Arc<Server>,
    args: Args<knock_room::v3::Request>,
) -> Result<knock_room::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Membership, user.as_str())?;
    let mut via = args.via.clone();
    via.truncate(VIA_MAX);
    let room = server.rooms.knock(user, &args.room_id_or_alias, via, args.reason.clone()).await?;
    Ok(knock_room::v3::Response::new(room))
}

async fn leave(
    server: Arc<Server>,
    args: Args<leave_room::v3::Request>,
) -> Result<leave_room::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.check_leave(&args.caller.user, &args.room_id).await?;
    server.rooms.leave(&args.caller.user, &args.room_id, args.reason.clone()).await?;
    Ok(leave_room::v3::Response::new())
}

async fn forget(
    server: Arc<Server>,
    args: Args<forget_room::v3::Request>,
) -> Result<forget_room::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.rooms.forget(&args.caller.user, &args.room_id).await?;
    Ok(forget_room::v3::Response::new())
}

async fn invite(
    server: Arc<Server>,
    args: Args<invite_user::v3::Request>,
) -> Result<invite_user::v3::Response, Error> {
    let user = &args.caller.user;
    server.limits.take(Class::Membership, user.as_str())?;
    let InvitationRecipient::UserId(invite) = &args.recipient else {
        return Err(Error::invalid_param("this node invites by user id only"));
    };
    server.rooms.invite(user, &args.room_id, &invite.user_id, invite.reason.clone()).await?;
    Ok(invite_user::v3::Response::new())
}

async fn kick(
    server: Arc<Server>,
    args: Args<kick_user::v3::Request>,
) -> Result<kick_user::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.rooms.kick(&args.caller.user, &args.room_id, &args.user_id, args.reason.clone()).await?;
    Ok(kick_user::v3::Response::new())
}

async fn ban(
    server: Arc<Server>,
    args: Args<ban_user::v3::Request>,
) -> Result<ban_user::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.rooms.ban(&args.caller.user, &args.room_id, &args.user_id, args.reason.clone()).await?;
    Ok(ban_user::v3::Response::new())
}

async fn unban(
    server: Arc<Server>,
    args: Args<unban_user::v3::Request>,
) -> Result<unban_user::v3::Response, Error> {
    server.limits.take(Class::Write, args.caller.user.as_str())?;
    server.rooms.unban(&args.caller.user, &args.room_id, &args.user_id, args.reason.clone()).await?;
    Ok(unban_user::v3::Response::new())
}

async fn joined_rooms(
    server: Arc<Server>,
    args: Args<joined_rooms::v3::Request>,
) -> Result<joined_rooms::v3::Response, Error> {
    let rooms = server.rooms.joined_rooms(&args.caller.user).await?;
    Ok(joined_rooms::v3::Response::new(rooms))
}

#[derive(Serialize)]
struct Joined {
    joined: BTreeMap<OwnedUserId, Profile>,
}

/// What a member has not, it has as null: clients ask for both.
#[derive(Serialize)]
struct Profile {
    display_name: Option<String>,
    avatar_url: Option<String>,
}

async fn joined_members(
    server: Arc<Server>,
    args: Args<joined_members::v3::Request>,
) -> Result<Json<Joined>, Error> {
    let members = server.rooms.joined_members(&args.caller.user, &args.room_id).await?;
    let joined: BTreeMap<_, _> = members
        .into_iter()
        .map(|known| {
            let member = Profile { display_name: known.displayname, avatar_url: known.avatar_url };
            (known.user_id, member)
        })
        .collect();
    Ok(Json(Joined { joined }))
}

#[derive(Serialize)]
struct Members {
    chunk: Vec<ClientEvent>,
}

async fn members(
    server: Arc<Server>,
    args: Args<get_member_events::v3::Request>,
) -> Result<Json<Members>, Error> {
    let at = match &args.at {
        Some(token) => Some(super::room_token(&server, token)?),
        None => None,
    };
    let chunk = server
        .rooms
        .members(
            &args.caller.user,
            &args.room_id,
            at,
            args.membership.as_ref().map(known).transpose()?,
            args.not_membership.as_ref().map(known).transpose()?,
        )
        .await?;
    Ok(Json(Members { chunk }))
}

async fn mutual_rooms(
    server: Arc<Server>,
    args: Args<get_mutual_rooms::v1::Request>,
) -> Result<get_mutual_rooms::v1::Response, Error> {
    let joined = in_common(&server, &args.caller, &args.user_id).await?;
    Ok(get_mutual_rooms::v1::Response::new(UInt::new_saturating(joined.len() as u64), joined))
}

async fn old_mutual_rooms(
    server: Arc<Server>,
    args: Args<get_mutual_rooms::unstable::Request>,
) -> Result<get_mutual_rooms::unstable::Response, Error> {
    let joined = in_common(&server, &args.caller, &args.user_id).await?;
    Ok(get_mutual_rooms::unstable::Response::new(joined))
}

async fn in_common(
    server: &Arc<Server>,
    caller: &LocalUser,
    other: &UserId,
) -> Result<Vec<OwnedRoomId>, Error> {
    if caller.user == other {
        return Err(Error::invalid_param("you share every room with yourself"));
    }
    let mut joined = Vec::new();
    for room in server.rooms.joined_rooms(&caller.user).await? {
        if server.rooms.is_joined(other, &room).await? {
            joined.push(room);
        }
    }
    Ok(joined)
}

fn known(membership: &MembershipState) -> Result<Membership, Error> {
    Membership::parse(membership.as_str()).ok_or_else(|| Error::invalid_param("there is no such membership"))
}

/// `via` and its older name `server_name` of a request whose type does not have them.
fn via(head: &Head) -> Vec<OwnedServerName> {
    head.query_values("via")
        .chain(head.query_values("server_name"))
        .filter_map(|name| name.try_into().ok())
        .take(VIA_MAX)
        .collect()
}

/// Servers asked on the way into one room.
const VIA_MAX: usize = 20;
