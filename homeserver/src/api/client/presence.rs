//! Presence: a user's own is kept; others' is told to those who share a room with them on this node.

use std::{sync::Arc, time::Duration};

use ruma::{
    api::client::presence::{get_presence, set_presence},
    presence::PresenceState,
};

use super::own;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Client, get);
    table.add(Group::Client, set);
}

async fn get(
    server: Arc<Server>,
    args: Args<get_presence::v3::Request>,
) -> Result<get_presence::v3::Response, Error> {
    let user = &args.user_id;
    if args.caller.user != *user && !server.rooms.share_room(&args.caller.user, user).await? {
        return Err(Error::forbidden("you share no room with that user"));
    }
    let Some(known) = server.users.presence(user) else {
        return Ok(get_presence::v3::Response::new(PresenceState::Offline));
    };
    let mut response = get_presence::v3::Response::new(known.state);
    response.status_msg = known.status;
    let ago = server.clock.now_ms().saturating_sub(known.active_ms);
    response.last_active_ago = Some(Duration::from_millis(ago));
    response.currently_active = Some(response.presence == PresenceState::Online);
    Ok(response)
}

async fn set(
    server: Arc<Server>,
    args: Args<set_presence::v3::Request>,
) -> Result<set_presence::v3::Response, Error> {
    own(&args.caller, &args.user_id)?;
    server.limits.take(Class::Write, args.user_id.as_str())?;
    let (state, status) = (args.presence.clone(), args.status_msg.clone());
    server.users.set_presence(&args.user_id, state, status, server.settings().presence).await?;
    Ok(set_presence::v3::Response::new())
}
