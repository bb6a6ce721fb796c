//! Leaving a room whose state is not here: declining an invite, withdrawing a knock.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#leaving-rooms-rejecting-invites>

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, RoomId, UserId,
    api::federation::membership::{create_leave_event, prepare_leave_event},
    room_version_rules::EventsReferenceFormatVersion,
};

use super::{
    Draft, RoomError, Rooms,
    handshake::{parse, raw, remote_error, rules_of},
    ingest::load,
    remote_join::complete,
};
use crate::store::{
    Kind, StoreError,
    schema::{events, membership, rooms},
};

impl Rooms {
    /// Tells one of `via` (the inviter's server first) that `user` does not want to be in the room. If nobody answers,
    /// the user is out all the same, for us: an invite must not haunt somebody because its sender is gone.
    pub(in crate::room) async fn remote_leave(
        &self,
        user: &UserId,
        room: &RoomId,
        via: &[OwnedServerName],
        draft: Draft,
    ) -> Result<(), RoomError> {
        for server in self.join_candidates(via, room) {
            match self.leave_through(user, room, &server, &draft).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%room, %server, %error, "a leave was not taken");
                }
            }
        }
        self.leave_alone(user, room, &draft).await
    }

    async fn leave_through(
        &self,
        user: &UserId,
        room: &RoomId,
        server: &OwnedServerName,
        draft: &Draft,
    ) -> Result<(), RoomError> {
        let remote = &self.inner.remote;
        let request = prepare_leave_event::v1::Request::new(room.to_owned(), user.to_owned());
        let template = remote.request(server, request).await.map_err(remote_error)?;
        let version = template.room_version.map_or_else(|| "1".to_owned(), |version| version.to_string());
        let rules = rules_of(&version)?;
        let mut event = complete(parse(&template.event)?, room, user, "leave", draft, self.now_ms())?;
        let id = self.sign_event(&mut event, &rules)?;
        let request = create_leave_event::v2::Request::new(room.to_owned(), id, raw(&event));
        remote.request(server, request).await.map_err(remote_error)?;
        self.receive_outlier_membership(room, &version, event, Vec::new()).await?;
        Ok(())
    }

    /// A leave event that hangs on the invite alone; nobody else ever sees it.
    async fn leave_alone(&self, user: &UserId, room: &RoomId, draft: &Draft) -> Result<(), RoomError> {
        let (who, wher) = (user.to_owned(), room.to_owned());
        let found = self
            .inner
            .store
            .read(move |tx| -> Result<_, StoreError> {
                let (Some(who), Some(room)) =
                    (tx.lookup(Kind::User, who.as_str())?, tx.lookup(Kind::Room, wher.as_str())?)
                else {
                    return Ok(None);
                };
                let Some(row) = membership::user_room(tx, who, room)? else { return Ok(None) };
                let Some(event) = events::event(tx, row.nid)? else { return Ok(None) };
                let before = load::pdu_of(tx, &event)?;
                let version = rooms::room(tx, room)?.map(|row| row.version);
                Ok(Some((before, event.depth, version)))
            })
            .await?;
        let Some((before, depth, Some(version))) = found else {
            return Err(RoomError::NotFound(format!("{user} has nothing to do with {room}")));
        };
        let rules = rules_of(&version)?;
        let named = match rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => {
                let hash = before.hash.iter().map(|hash| ("sha256".to_owned(), (&**hash).into()));
                let hashes = CanonicalJsonObject::from_iter(hash);
                CanonicalJsonValue::Array(vec![before.event_id.as_str().into(), hashes.into()])
            }
            _ => before.event_id.as_str().into(),
        };
        let before = CanonicalJsonValue::Array(vec![named]);
        let template = CanonicalJsonObject::from([
            ("auth_events".to_owned(), before.clone()),
            ("prev_events".to_owned(), before),
            (
                "depth".to_owned(),
                CanonicalJsonValue::Integer(ruma::Int::new_saturating(depth.saturating_add(1))),
            ),
            ("room_id".to_owned(), room.as_str().into()),
            ("state_key".to_owned(), user.as_str().into()),
            ("type".to_owned(), "m.room.member".into()),
            (
                "content".to_owned(),
                CanonicalJsonObject::from([("membership".to_owned(), "leave".into())]).into(),
            ),
        ]);
        let mut event = complete(template, room, user, "leave", draft, self.now_ms())?;
        self.sign_event(&mut event, &rules)?;
        self.receive_outlier_membership(room, &version, event, Vec::new()).await?;
        Ok(())
    }
}
