//! The handshakes by which users of other servers join, knock, leave and are invited.

use std::sync::Arc;

use ruma::{
    RoomVersionId,
    api::federation::membership::{
        create_invite, create_join_event, create_knock_event, create_leave_event, prepare_join_event,
        prepare_knock_event, prepare_leave_event,
    },
};
use serde_json::value::{RawValue, to_raw_value};

use super::EVENT_BODY_MAX;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Args, limits::Class},
    room::federation::Template,
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table.add(Group::Federation, make_join).limit(Class::Federation);
    table.add(Group::Federation, send_join).limit(Class::Federation).body_max(EVENT_BODY_MAX);
    table.add(Group::Federation, make_knock).limit(Class::Federation);
    table.add(Group::Federation, send_knock).limit(Class::Federation).body_max(EVENT_BODY_MAX);
    table.add(Group::Federation, make_leave).limit(Class::Federation);
    table.add(Group::Federation, send_leave).limit(Class::Federation).body_max(EVENT_BODY_MAX);
    table.add(Group::Federation, invite).limit(Class::Federation).body_max(EVENT_BODY_MAX);
}

async fn make_join(
    server: Arc<Server>,
    args: Args<prepare_join_event::v1::Request>,
) -> Result<prepare_join_event::v1::Response, Error> {
    let template =
        server.rooms.answer_make_join(&args.caller.name, &args.room_id, &args.user_id, &args.ver).await?;
    let (version, event) = written(&template)?;
    let mut response = prepare_join_event::v1::Response::new(event);
    response.room_version = Some(version);
    Ok(response)
}

async fn send_join(
    server: Arc<Server>,
    args: Args<create_join_event::v2::Request>,
) -> Result<create_join_event::v2::Response, Error> {
    let reply = server
        .rooms
        .answer_send_join(&args.caller.name, &args.room_id, &args.event_id, &args.pdu, args.omit_members)
        .await?;
    let mut state = create_join_event::v2::RoomState::new();
    state.state = reply.state;
    state.auth_chain = reply.auth_chain;
    state.event = Some(reply.event);
    state.servers_in_room = Some(reply.servers);
    state.members_omitted = reply.omitted;
    Ok(create_join_event::v2::Response::new(state))
}

async fn make_knock(
    server: Arc<Server>,
    args: Args<prepare_knock_event::v1::Request>,
) -> Result<prepare_knock_event::v1::Response, Error> {
    let template =
        server.rooms.answer_make_knock(&args.caller.name, &args.room_id, &args.user_id, &args.ver).await?;
    let (version, event) = written(&template)?;
    Ok(prepare_knock_event::v1::Response::new(version, event))
}

async fn send_knock(
    server: Arc<Server>,
    args: Args<create_knock_event::v1::Request>,
) -> Result<create_knock_event::v1::Response, Error> {
    let state =
        server.rooms.answer_send_knock(&args.caller.name, &args.room_id, &args.event_id, &args.pdu).await?;
    Ok(create_knock_event::v1::Response::new(state))
}

async fn make_leave(
    server: Arc<Server>,
    args: Args<prepare_leave_event::v1::Request>,
) -> Result<prepare_leave_event::v1::Response, Error> {
    let template = server.rooms.answer_make_leave(&args.caller.name, &args.room_id, &args.user_id).await?;
    let (version, event) = written(&template)?;
    Ok(prepare_leave_event::v1::Response::new(Some(version), event))
}

async fn send_leave(
    server: Arc<Server>,
    args: Args<create_leave_event::v2::Request>,
) -> Result<create_leave_event::v2::Response, Error> {
    server.rooms.answer_send_leave(&args.caller.name, &args.room_id, &args.event_id, &args.pdu).await?;
    Ok(create_leave_event::v2::Response::new())
}

async fn invite(
    server: Arc<Server>,
    args: Args<create_invite::v2::Request>,
) -> Result<create_invite::v2::Response, Error> {
    let signed = server
        .rooms
        .answer_invite(
            &args.caller.name,
            &args.room_id,
            &args.event_id,
            args.room_version.as_str(),
            &args.event,
            args.invite_room_state.clone(),
        )
        .await?;
    Ok(create_invite::v2::Response::new(signed))
}

fn written(template: &Template) -> Result<(RoomVersionId, Box<RawValue>), Error> {
    let version = RoomVersionId::try_from(template.version.as_str())
        .map_err(|error| Error::internal(format!("a room's version: {error}")))?;
    let event = to_raw_value(&template.event).map_err(|error| Error::internal(error.to_string()))?;
    Ok((version, event))
}
