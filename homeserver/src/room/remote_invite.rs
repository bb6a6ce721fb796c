//! Inviting a user of another server: that server signs the invite before it becomes part of the room.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#inviting-to-a-room>

use ruma::{RoomId, RoomVersionId, UserId, api::federation::membership::create_invite};

use super::{
    Draft, RoomError, Rooms,
    handshake::{event_id, expect_membership, parse, raw, remote_error, rules_of},
};

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
        let request =
            create_invite::v2::Request::new(room.to_owned(), id.clone(), wire_version, raw(&event), state);
        let answer = self.inner.remote.request(server, request).await.map_err(remote_error)?;
        let signed = parse(&answer.event)?;
        if event_id(&signed, &rules)? != id {
            return Err(RoomError::Rejected(format!("{server} answered with another invite")));
        }
        expect_membership(&signed, room, target, "invite")?;
        // Our own signature is still there, or the checks on the way in say so.
        let ours = self.server_name().to_owned();
        self.receive_handshake(&ours, room, signed).await?;
        Ok(())
    }
}
