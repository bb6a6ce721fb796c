//! Verbs that remove a room from this server for good.

use std::time::Duration;

use ruma::{OwnedUserId, RoomId, UserId};
use serde_json::json;

use super::{
    RoomError, Rooms,
    read::json::{Viewer, client_event},
};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{
        events,
        membership::{self, Membership, UserRoom},
        purge,
    },
};

/// How long the leaves of local users have to reach other servers before they go with the room.
const LEAVES_TIME_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether they have gone out.
const LEAVES_LOOK: Duration = Duration::from_millis(100);

/// The event that tells a user that they are out, as a list: the leave that they were made to say, or, where they could not
/// (its servers are away, say), one that this server makes up.
fn farewell(tx: &ReadTx<'_>, user: Nid, row: &UserRoom) -> Result<Vec<u8>, StoreError> {
    let gone = matches!(row.membership, Membership::Leave | Membership::Ban);
    let viewer = Viewer { user: Nid(0), device: None, room_id: false, now_ms: 0, joined: None };
    let text = match events::event(tx, row.nid)?.filter(|_| gone) {
        Some(event) => client_event(tx, &event, &viewer)?.get().to_owned(),
        None => {
            let user = tx.text(user)?;
            json!({
                "type": "m.room.member", "state_key": &*user, "sender": &*user, "content": {"membership": "leave"},
                "event_id": format!("$purged-{}", row.nid.0), "origin_server_ts": 0, "unsigned": {},
            })
            .to_string()
        }
    };
    Ok(format!("[{text}]").into_bytes())
}

impl Rooms {
    /// Removes a room with everything of it, in steps of at most [`purge::ROWS_MAX`] rows. Local users leave it first and
    /// are told so; from the mark on nobody reads it. Returns at its end; a purge that was cut short is taken up by
    /// [`Rooms::finish_purges`]. (What was uploaded to it stays: media are not a room's.)
    pub async fn purge(&self, room: &RoomId) -> Result<(), RoomError> {
        let nid = self.begin_purge(room).await?;
        self.finish_purge(nid).await
    }

    /// The first half of [`Rooms::purge`]: users leave, the room is marked. The rest is [`Rooms::finish_purges`]'s.
    pub async fn begin_purge(&self, room: &RoomId) -> Result<Nid, RoomError> {
        let id = room.to_owned();
        let (nid, users) = self
            .inner
            .store
            .read(move |tx| -> Result<_, RoomError> {
                let unknown = || RoomError::NotFound("this room is not known here".into());
                let nid = tx.lookup(Kind::Room, id.as_str())?.ok_or_else(unknown)?;
                if crate::store::schema::rooms::room(tx, nid)?.is_none() {
                    return match purge::is_going(tx, nid)? {
                        true => Ok((nid, Vec::new())),
                        false => Err(unknown()),
                    };
                }
                let mut users: Vec<OwnedUserId> = Vec::new();
                for membership in [Membership::Join, Membership::Invite, Membership::Knock] {
                    for user in membership::local_members(tx, nid, membership)? {
                        users.extend(UserId::parse(&*tx.text(user)?).ok());
                    }
                }
                Ok((nid, users))
            })
            .await?;
        for user in users {
            if let Err(error) = self.leave(&user, room, None).await {
                // The purge takes it out all the same; other servers may go on showing it as a member.
                tracing::debug!(%room, %user, %error, "a user could not leave a room that is being purged");
            }
        }
        let deadline = tokio::time::Instant::now() + LEAVES_TIME_MAX;
        while tokio::time::Instant::now() < deadline
            && self.inner.store.read(move |tx| -> Result<_, StoreError> { purge::is_owed(tx, nid) }).await?
        {
            tokio::time::sleep(LEAVES_LOOK).await;
        }
        self.inner
            .store
            .write(move |tx| -> Result<(), StoreError> { purge::begin(tx, nid, farewell) })
            .await?;
        Ok(nid)
    }

    /// Takes up the purges that were cut short. Called at the start of a server.
    pub async fn finish_purges(&self) -> Result<(), RoomError> {
        for room in self.inner.store.read(|tx| -> Result<_, StoreError> { purge::going(tx) }).await? {
            self.finish_purge(room).await?;
        }
        Ok(())
    }

    async fn finish_purge(&self, room: Nid) -> Result<(), RoomError> {
        // Each step is an operation of its own: others get their turn between.
        while self.inner.store.write(move |tx| -> Result<_, StoreError> { purge::step(tx, room) }).await? {}
        Ok(())
    }
}
