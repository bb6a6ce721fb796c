//! Events and the state before them, for servers in the room.

use std::sync::Arc;

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::{
        Direction,
        federation::{
            authorization::get_event_authorization,
            event::{
                get_event, get_event_by_timestamp, get_missing_events, get_room_state, get_room_state_ids,
            },
        },
    },
};

use super::{check_acl, stamp};
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, event).limit(Class::Federation);
    table.add(Group::Federation, state).limit(Class::Federation);
    table.add(Group::Federation, state_ids).limit(Class::Federation);
    table.add(Group::Federation, event_auth).limit(Class::Federation);
    table.add(Group::Federation, missing).limit(Class::Federation);
    table.add(Group::Federation, at).limit(Class::Federation);
}

async fn event(
    server: Arc<Server>,
    args: Args<get_event::v1::Request>,
) -> Result<get_event::v1::Response, Error> {
    let (pdu, _) = server.rooms.event_answer(&args.caller.name, &args.event_id).await?;
    let (origin, now) = stamp(&server);
    Ok(get_event::v1::Response::new(origin, now, pdu))
}

async fn state(
    server: Arc<Server>,
    args: Args<get_room_state::v1::Request>,
) -> Result<get_room_state::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    let answer = server.rooms.state_answer(&args.caller.name, &args.room_id, &args.event_id).await?;
    Ok(get_room_state::v1::Response::new(answer.auth_chain, answer.state))
}

async fn state_ids(
    server: Arc<Server>,
    args: Args<get_room_state_ids::v1::Request>,
) -> Result<get_room_state_ids::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    let (state, auth) =
        server.rooms.state_ids_answer(&args.caller.name, &args.room_id, &args.event_id).await?;
    Ok(get_room_state_ids::v1::Response::new(auth, state))
}

async fn event_auth(
    server: Arc<Server>,
    args: Args<get_event_authorization::v1::Request>,
) -> Result<get_event_authorization::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    let chain = server.rooms.event_auth_answer(&args.caller.name, &args.room_id, &args.event_id).await?;
    Ok(get_event_authorization::v1::Response::new(chain))
}

async fn missing(
    server: Arc<Server>,
    args: Args<get_missing_events::v1::Request>,
) -> Result<get_missing_events::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    if args.earliest_events.len() > ENDS_MAX || args.latest_events.len() > ENDS_MAX {
        return Err(Error::invalid_param("at most 100 earliest and 100 latest events"));
    }
    let limit = u32::try_from(u64::from(args.limit.min(UInt::from(LIMIT_MAX)))).unwrap_or(LIMIT_MAX);
    let events = server
        .rooms
        .missing_events_answer(
            &args.caller.name,
            &args.room_id,
            args.earliest_events.clone(),
            args.latest_events.clone(),
            limit,
            args.min_depth.into(),
        )
        .await?;
    Ok(get_missing_events::v1::Response::new(events))
}

async fn at(
    server: Arc<Server>,
    args: Args<get_event_by_timestamp::v1::Request>,
) -> Result<get_event_by_timestamp::v1::Response, Error> {
    check_acl(&server, &args.caller.name, &args.room_id).await?;
    let (id, ts) = server
        .rooms
        .event_at_for_server(
            &args.caller.name,
            &args.room_id,
            args.ts.get().into(),
            args.dir == Direction::Backward,
        )
        .await?;
    let ts = MilliSecondsSinceUnixEpoch(UInt::new_saturating(ts));
    Ok(get_event_by_timestamp::v1::Response::new(id, ts))
}

/// Events named at either end of a gap.
const ENDS_MAX: usize = 100;
/// Events in one answer.
const LIMIT_MAX: u32 = 100;
