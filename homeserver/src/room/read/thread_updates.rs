//! Owns which threads have new replies, over all rooms of a user.

use ruma::{OwnedRoomId, OwnedUserId, UserId};

use super::{
    access::access,
    json::{Viewer, client_event},
    timeline::Token,
};
use crate::{
    room::{ClientEvent, RoomError, Rooms, thread::page},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{events, threads},
    },
};

/// Threads that one answer looks at, however few of them it shows.
const SCAN_MAX: u32 = 2_000;
/// New replies of one thread that are looked at.
const REPLIES_MAX: u32 = 100;
/// Threads in one answer.
const LIMIT_MAX: usize = 500;

/// A thread with new replies.
#[derive(Clone, Debug)]
pub struct ThreadUpdate {
    /// Its room.
    pub room: Nid,
    /// Its root.
    pub root: Nid,
    /// Position of the newest reply.
    pub seq: Seq,
    /// The new replies, newest first.
    pub replies: Vec<Nid>,
    /// Where to page back from for those before the newest, if there are any.
    pub prev: Option<Token>,
}

/// A thread with new replies as a client is told of it.
#[derive(Debug)]
pub struct ToldUpdate {
    /// The room's id.
    pub room: String,
    /// The root.
    pub root: ClientEvent,
    /// The root's id.
    pub id: String,
    /// See [`ThreadUpdate::prev`].
    pub prev: Option<Token>,
}

impl Rooms {
    /// Threads with replies in (after, until], the newest first; and from where older ones go on.
    pub async fn thread_updates(
        &self,
        user: &UserId,
        after: Seq,
        until: Seq,
        limit: usize,
    ) -> Result<(Vec<ToldUpdate>, Option<Seq>), RoomError> {
        let user = user.to_owned();
        let now_ms = self.inner.clock.now_ms();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(Kind::User, user.as_str())? else { return Ok((Vec::new(), None)) };
                let (found, more) = updates(tx, user, after, until, limit, |_| true)?;
                let viewer = Viewer { user, device: None, room_id: true, now_ms, joined: None };
                let mut told = Vec::with_capacity(found.len());
                for update in found {
                    let Some(root) = events::event(tx, update.root)? else { continue };
                    told.push(ToldUpdate {
                        room: tx.text(update.room)?.to_string(),
                        root: client_event(tx, &root, &viewer)?,
                        id: events::id(tx, update.root)?.to_string(),
                        prev: update.prev,
                    });
                }
                Ok((told, more))
            })
            .await
    }
}

/// Threads of the user's rooms with replies in (after, until] that `keep` wants, the newest first, at most `limit`; and
/// the position of the next one, if there are more.
pub fn updates(
    tx: &ReadTx<'_>,
    user: Nid,
    after: Seq,
    until: Seq,
    limit: usize,
    mut keep: impl FnMut(&ThreadUpdate) -> bool,
) -> Result<(Vec<ThreadUpdate>, Option<Seq>), StoreError> {
    let limit = limit.clamp(1, LIMIT_MAX);
    let Some(rel) = tx.lookup(Kind::Name, "m.thread")? else { return Ok((Vec::new(), None)) };
    let Ok(user_id) = OwnedUserId::try_from(&*tx.text(user)?) else { return Ok((Vec::new(), None)) };
    let newest = threads::newest(tx, user, after, until, SCAN_MAX)?;
    page(
        limit,
        newest,
        |(_, _, seq)| *seq,
        |(room, root, seq)| {
            let Ok(room_id) = OwnedRoomId::try_from(&*tx.text(room)?) else { return Ok(None) };
            let mut access = match access(tx, &user_id, &room_id) {
                Ok(access) => access,
                Err(RoomError::Store(error)) => return Err(error),
                Err(_) => return Ok(None),
            };
            let Some(event) = events::event(tx, root)? else { return Ok(None) };
            if !access.may_see(tx, &event)? {
                return Ok(None);
            }
            let mut update = ThreadUpdate { room, root, seq, replies: Vec::new(), prev: None };
            let mut newest = None;
            for (_, at, reply) in Token::END.children(tx, root, Some(rel), true, REPLIES_MAX)? {
                let Some(reply) =
                    (at > after && at <= until).then(|| events::event(tx, reply)).transpose()?.flatten()
                else {
                    continue;
                };
                if access.may_see(tx, &reply)? {
                    if update.replies.len() == 1 {
                        update.prev = newest;
                    }
                    newest = newest.or_else(|| Token::before(&reply));
                    update.replies.push(reply.nid);
                }
            }
            Ok((!update.replies.is_empty() && keep(&update)).then_some(update))
        },
    )
}
