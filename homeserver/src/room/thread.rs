//! Verbs by which a user follows threads (MSC4306): replies in a thread that is followed notify, those in others do not.
//! Users whose clients know nothing of it are notified as ever; see `push/project.rs`.
//!
//! spec: MSC4306 <https://github.com/matrix-org/matrix-spec-proposals/pull/4306>

use ruma::{EventId, OwnedEventId, RoomId, UserId};

use super::{
    RoomError, Rooms,
    project::{content, relations},
    read::messages::visible,
};
use crate::store::{
    Nid, ReadTx, Seq, StoreError,
    schema::{
        events::{self, EventRow},
        thread_subs::{self as table, Sub},
    },
};

/// Threads that one user has to do with: about the number of rooms a busy account is in, several times.
const SUBS_MAX: u64 = 20_000;
/// Threads in one answer.
const PAGE_MAX: u32 = 1_000;

/// A place in a list of threads by their positions, as clients hold it: those at `seq` and before.
pub fn token(seq: Seq) -> String {
    format!("h{}", seq.0)
}

/// Reads what [`token`] wrote.
pub fn from_token(text: &str) -> Option<Seq> {
    text.strip_prefix('h')?.parse().ok().map(Seq)
}

/// Why a verb on subscriptions failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    /// The event that is said to be the cause is no reply in the thread.
    #[error("that event is no reply in this thread")]
    NotInThread,
    /// The user left the thread after the event that is said to be the cause.
    #[error("you have left this thread since that event")]
    Conflict,
    /// The user follows 20,000 threads.
    #[error("you follow too many threads already; leave some first")]
    TooMany,
    /// The room or the thread is none of the user's.
    #[error(transparent)]
    Room(#[from] RoomError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A thread that a user follows, or does no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The room's id.
    pub room: String,
    /// The root's id.
    pub root: OwnedEventId,
    /// What is so.
    pub sub: Sub,
}

impl Rooms {
    /// Whether a user follows a thread, and if so whether a client decided it by itself.
    pub async fn thread_subscription(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
    ) -> Result<bool, ThreadError> {
        let (user, room, root) = (user.to_owned(), room.to_owned(), root.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let (user, root) = thread(tx, &user, &room, &root)?;
                let sub = table::get(tx, user, root.room, root.nid)?.filter(|sub| sub.follows);
                Ok(sub.ok_or_else(|| RoomError::NotFound("you do not follow this thread".into()))?.automatic)
            })
            .await
    }

    /// A user follows a thread. `cause`: the reply because of which a client decides so by itself; that does not undo
    /// what the user said since.
    pub async fn subscribe_thread(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
        cause: Option<&EventId>,
    ) -> Result<(), ThreadError> {
        let (user, room, root) = (user.to_owned(), room.to_owned(), root.to_owned());
        let cause = cause.map(ToOwned::to_owned);
        self.inner
            .store
            .write(move |tx| {
                let (nid, root) = thread(tx, &user, &room, &root)?;
                let known = table::get(tx, nid, root.room, root.nid)?;
                if let Some(cause) = &cause {
                    let (_, reply) = match visible(tx, &user, &room, cause) {
                        Err(RoomError::NotFound(_)) => return Err(ThreadError::NotInThread),
                        found => found?,
                    };
                    if thread_of(&reply) != Some(events::id(tx, root.nid)?) {
                        return Err(ThreadError::NotInThread);
                    }
                    match known {
                        // Nothing is new.
                        Some(Sub { follows: true, .. }) => return Ok(()),
                        Some(Sub { left: Some(left), .. }) if reply.seq.is_none_or(|seq| seq <= left) => {
                            return Err(ThreadError::Conflict);
                        }
                        _ => {}
                    }
                }
                let same = |sub: &Sub| sub.follows && sub.automatic == cause.is_some();
                if known.as_ref().is_some_and(same) {
                    return Ok(());
                }
                if known.is_none() && table::count(tx, nid)? >= SUBS_MAX {
                    table::drop_left(tx, nid)?;
                    if table::count(tx, nid)? >= SUBS_MAX {
                        return Err(ThreadError::TooMany);
                    }
                }
                let sub = Sub {
                    room: root.room,
                    root: root.nid,
                    follows: true,
                    automatic: cause.is_some(),
                    seq: tx.next_seq()?,
                    left: known.and_then(|sub| sub.left),
                };
                Ok(table::put(tx, nid, &sub)?)
            })
            .await
    }

    /// A user follows a thread no longer. Who did not anyway does not now.
    pub async fn unsubscribe_thread(
        &self,
        user: &UserId,
        room: &RoomId,
        root: &EventId,
    ) -> Result<(), ThreadError> {
        let (user, room, root) = (user.to_owned(), room.to_owned(), root.to_owned());
        self.inner
            .store
            .write(move |tx| {
                let (user, root) = thread(tx, &user, &room, &root)?;
                if let Some(sub) = table::get(tx, user, root.room, root.nid)?.filter(|sub| sub.follows) {
                    let seq = tx.next_seq()?;
                    table::put(tx, user, &Sub { follows: false, seq, left: Some(seq), ..sub })?;
                }
                Ok(())
            })
            .await
    }

    /// What changed in a user's subscriptions in (after, until], the newest first; and from where older ones go on.
    pub async fn thread_subscriptions(
        &self,
        user: &UserId,
        after: Seq,
        until: Seq,
        limit: u32,
    ) -> Result<(Vec<Followed>, Option<Seq>), ThreadError> {
        let user = user.to_owned();
        self.inner
            .store
            .read(move |tx| {
                let Some(user) = tx.lookup(crate::store::Kind::User, user.as_str())? else {
                    return Ok((Vec::new(), None));
                };
                Ok(changes(tx, user, after, until, limit)?)
            })
            .await
    }
}

/// [`Rooms::thread_subscriptions`] in a snapshot.
pub fn changes(
    tx: &ReadTx<'_>,
    user: Nid,
    after: Seq,
    until: Seq,
    limit: u32,
) -> Result<(Vec<Followed>, Option<Seq>), StoreError> {
    let limit = limit.clamp(1, PAGE_MAX);
    let subs = table::changed(tx, user, after, until, limit + 1)?;
    page(
        limit as usize,
        subs,
        |sub| sub.seq,
        |sub| {
            Ok(Some(Followed { room: tx.text(sub.room)?.to_string(), root: events::id(tx, sub.root)?, sub }))
        },
    )
}

/// A page of a list of threads, which comes with the newest first: what `show` makes of as many as fit, and the position
/// of the next one to be shown, if there are more.
pub(in crate::room) fn page<R, T>(
    limit: usize,
    rows: impl IntoIterator<Item = R>,
    seq: impl Fn(&R) -> Seq,
    mut show: impl FnMut(R) -> Result<Option<T>, StoreError>,
) -> Result<(Vec<T>, Option<Seq>), StoreError> {
    let mut list = Vec::new();
    for row in rows {
        let at = seq(&row);
        let Some(shown) = show(row)? else { continue };
        if list.len() == limit {
            return Ok((list, Some(at)));
        }
        list.push(shown);
    }
    Ok((list, None))
}

/// The user's number and the root, if the user may see it.
fn thread(
    tx: &ReadTx<'_>,
    user: &UserId,
    room: &RoomId,
    root: &EventId,
) -> Result<(Nid, EventRow), RoomError> {
    match visible(tx, user, room, root) {
        Err(RoomError::Forbidden(_)) => {
            Err(RoomError::NotFound("there is no such thread, or it is not yours to see".into()))
        }
        found => found.map(|(access, row)| (access.user, row)),
    }
}

/// The root of the thread that an event is a reply in.
fn thread_of(event: &EventRow) -> Option<OwnedEventId> {
    relations::thread(&content(&event.client))
}
