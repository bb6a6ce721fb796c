//! Inviting a user of another server: that server signs the invite before it becomes part of the room.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{
    CanonicalJsonObject, EventId, RoomId, RoomVersionId, ServerName, UserId,
    api::federation::membership::{RawStrippedState, create_invite},
};
use serde_json::{json, value::RawValue};

use super::{
    Draft, RoomError, Rooms,
    handshake::{event_id, expect_membership, parse, raw, remote_error, rules_of},
};
use crate::remote::RemoteError;

impl Rooms {
    /// Builds the invite, lets the target's server sign it, and puts it into the room.
    pub(in crate::room) async fn remote_invite(
        &self,
        sender: &UserId,
        room: &RoomId,
        target: &UserId,
        draft: Draft,
    ) -> Result<(), RoomError> {
        let server = target.server_name();
        self.check_newcomer(room, server).await?;
        let version = self
            .version(room)
            .await?
            .ok_or_else(|| RoomError::NotFound(format!("the room {room} is not known here")))?;
        let rules = rules_of(&version)?;
        let event = self.build(room, sender, draft).await?;
        let id = event_id(&event, &rules)?;
        let state = self.state_for_outsider(room, sender).await?;
        let wire_version =
            RoomVersionId::try_from(version.as_str()).map_err(|_| RoomError::UnsupportedVersion(version))?;
        let old = matches!(wire_version, RoomVersionId::V1 | RoomVersionId::V2);
        let (told, pdu) = (state.clone(), raw(&event));
        let request = create_invite::v2::Request::new(room.to_owned(), id.clone(), wire_version, pdu, state);
        let signed = match self.inner.remote.request(server, request).await {
            Ok(answer) => parse(&answer.event)?,
            Err(error) if old && is_unknown_endpoint(&error) => {
                self.remote_invite_v1(server, room, &id, event, told).await?
            }
            Err(error) => return Err(remote_error(error)),
        };
        if event_id(&signed, &rules)? != id {
            return Err(RoomError::Rejected(format!("{server} answered with another invite")));
        }
        expect_membership(&signed, room, target, "invite")?;
        // Our own signature is still there, or the checks on the way in say so.
        let ours = self.server_name().to_owned();
        self.receive_handshake(&ours, room, signed).await?;
        Ok(())
    }

    /// For servers that know the first form alone: the body is the event, with the state in its `unsigned`.
    async fn remote_invite_v1(
        &self,
        server: &ServerName,
        room: &RoomId,
        id: &EventId,
        mut event: CanonicalJsonObject,
        state: Vec<RawStrippedState>,
    ) -> Result<CanonicalJsonObject, RoomError> {
        let bad = |error: serde_json::Error| RoomError::BadJson(error.to_string());
        let state = serde_json::to_value(state).map_err(bad)?;
        let unsigned = serde_json::from_value(json!({ "invite_room_state": state })).map_err(bad)?;
        event.insert("unsigned".to_owned(), unsigned);
        let quoted = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let path = format!("/_matrix/federation/v1/invite/{}/{}", quoted(room.as_str()), quoted(id.as_str()));
        let answer = self.inner.remote.put_signed(server, &path, &raw(&event)).await.map_err(remote_error)?;
        #[derive(serde::Deserialize)]
        struct Answer {
            event: Box<RawValue>,
        }
        let answer: (u16, Answer) = serde_json::from_slice(answer.body())
            .map_err(|error| RoomError::Rejected(format!("{server} answered with no invite: {error}")))?;
        parse(&answer.1.event)
    }
}

/// A server of before 2019.
fn is_unknown_endpoint(error: &RemoteError) -> bool {
    matches!(error.status(), Some(400 | 404 | 405))
        && matches!(error.errcode(), None | Some("M_UNRECOGNIZED"))
}
