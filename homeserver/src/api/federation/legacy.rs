//! `send_join`, `send_leave` and `invite` in their first form: the second's answer in an array behind the status.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#put_matrixfederationv1send_joinroomideventid>

use std::sync::Arc;

use http::Method;
use ruma::{
    OwnedEventId, OwnedRoomId,
    api::{
        error::ErrorKind,
        federation::{authentication::ServerSignatures, membership::RawStrippedState},
    },
};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::EVENT_BODY_MAX;
use crate::{
    api::routes::{Group, Table},
    error::Error,
    http::{args::Incoming, auth::CallerKind as _, limits::Class, reply::Json},
    server::Server,
};

pub(super) fn routes(table: &mut Table) {
    table
        .plain(Group::Federation, Method::PUT, "/_matrix/federation/v1/send_join/{room_id}/{event_id}", join)
        .limit(Class::Federation)
        .body_max(EVENT_BODY_MAX);
    table
        .plain(
            Group::Federation,
            Method::PUT,
            "/_matrix/federation/v1/send_leave/{room_id}/{event_id}",
            leave,
        )
        .limit(Class::Federation)
        .body_max(EVENT_BODY_MAX);
    table
        .plain(Group::Federation, Method::PUT, "/_matrix/federation/v1/invite/{room_id}/{event_id}", invite)
        .limit(Class::Federation)
        .body_max(EVENT_BODY_MAX);
}

async fn join(server: Arc<Server>, request: Incoming) -> Result<Json<serde_json::Value>, Error> {
    let caller = ServerSignatures::caller(&server, &request).await?;
    let (room, event, pdu) = parts(&request)?;
    let reply = server.rooms.answer_send_join(&caller.name, &room, &event, pdu, false).await?;
    let body = json!({ "state": reply.state, "auth_chain": reply.auth_chain, "event": reply.event });
    Ok(Json(json!([200, body])))
}

async fn leave(server: Arc<Server>, request: Incoming) -> Result<Json<serde_json::Value>, Error> {
    let caller = ServerSignatures::caller(&server, &request).await?;
    let (room, event, pdu) = parts(&request)?;
    server.rooms.answer_send_leave(&caller.name, &room, &event, pdu).await?;
    Ok(Json(json!([200, {}])))
}

/// The body is the event, whose form is that of versions 1 and 2; newer rooms' invites come by the second form alone.
async fn invite(server: Arc<Server>, request: Incoming) -> Result<Json<serde_json::Value>, Error> {
    #[derive(Deserialize, Default)]
    struct Unsigned {
        #[serde(default)]
        invite_room_state: Vec<RawStrippedState>,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        unsigned: Unsigned,
    }
    let caller = ServerSignatures::caller(&server, &request).await?;
    let (room, event, pdu) = parts(&request)?;
    let told: Event = serde_json::from_str(pdu.get())
        .map_err(|error| Error::new(ErrorKind::BadJson, format!("the body is no invite: {error}")))?;
    let state = told.unsigned.invite_room_state;
    let signed = server.rooms.answer_invite(&caller.name, &room, &event, "1", pdu, state).await?;
    Ok(Json(json!([200, { "event": signed }])))
}

fn parts(request: &Incoming) -> Result<(OwnedRoomId, OwnedEventId, &RawValue), Error> {
    let [room, event] = &request.path[..] else { return Err(Error::invalid_param("the path is incomplete")) };
    let room = OwnedRoomId::try_from(room.as_str()).map_err(|_| Error::invalid_param("no room id"))?;
    let event = OwnedEventId::try_from(event.as_str()).map_err(|_| Error::invalid_param("no event id"))?;
    let pdu = serde_json::from_slice(&request.body)
        .map_err(|_| Error::new(ErrorKind::NotJson, "the body is no JSON"))?;
    Ok((room, event, pdu))
}
