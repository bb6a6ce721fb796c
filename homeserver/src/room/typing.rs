//! Who is typing where: in RAM only, with a place in the commit order, so that a sync knows what is new.
//!
//! A change takes its position inside a write that stores nothing and is in the table before that write is published:
//! whoever reads at that position or later sees it. What a restart forgets, clients are told as nobody typing.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use ruma::{
    OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{Edu, TypingContent},
};
use serde_json::value::{RawValue, to_raw_value};

use super::RoomError;
use crate::{
    clock::Clock,
    store::{
        Kind, Nid, Seq, Store, StoreError, Touched,
        schema::{
            membership::{self, Membership},
            partial,
        },
    },
};

/// The longest a client may say that it types without saying so again.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(120);
/// How long a user of another server types without that server saying so again; it does not tell its own time-out.
const REMOTE_TIMEOUT: Duration = Duration::from_secs(30);
/// Users shown as typing in one room; more say nothing more.
const TYPERS_MAX: usize = 50;
/// Rooms in the table; beyond, those where nobody types any more are forgotten.
const ROOMS_MAX: usize = 10_000;

/// Sends an EDU to servers that are reachable now: (servers, key under which a newer one replaces it, EDU).
pub type SendEdu = Arc<dyn Fn(Vec<OwnedServerName>, String, Box<RawValue>) + Send + Sync>;

/// Who is typing. Clones share it.
#[derive(Clone)]
pub struct Typing {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    clock: Clock,
    name: OwnedServerName,
    send: SendEdu,
    /// What was shown up to here is forgotten: where the commit order stood when this run began, or the table was full.
    floor: AtomicI64,
    rooms: Mutex<HashMap<Nid, InRoom>>,
    sweeping: AtomicBool,
}

#[derive(Default)]
struct InRoom {
    seq: Seq,
    /// Until when, in milliseconds of the clock.
    users: BTreeMap<OwnedUserId, u64>,
}

impl Typing {
    /// Nobody types yet.
    pub fn new(store: Store, clock: Clock, name: OwnedServerName, send: SendEdu) -> Self {
        let inner = Inner {
            floor: AtomicI64::new(store.position().0),
            store,
            clock,
            name,
            send,
            rooms: Mutex::default(),
            sweeping: AtomicBool::new(false),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A user of ours types, for so long at most, or stops (`None`).
    pub async fn set(
        &self,
        user: &UserId,
        room: &RoomId,
        timeout: Option<Duration>,
    ) -> Result<(), RoomError> {
        let (nid, servers) = self.joined(user, room, Some(self.inner.name.clone())).await?;
        let timeout = timeout.map(|timeout| timeout.min(TIMEOUT_MAX));
        self.change(nid, user, timeout).await?;
        if !servers.is_empty() {
            let content = TypingContent::new(room.to_owned(), user.to_owned(), timeout.is_some());
            let edu = to_raw_value(&Edu::Typing(content)).map_err(|_| StoreError::Corrupt("an EDU"))?;
            (self.inner.send)(servers, format!("typing {room} {user}"), edu);
        }
        Ok(())
    }

    /// An `m.typing` of another server.
    pub async fn receive(&self, origin: &ServerName, content: &TypingContent) -> Result<(), RoomError> {
        if content.user_id.server_name() != origin {
            return Err(RoomError::Forbidden(format!("{} is not a user of {origin}", content.user_id)));
        }
        let (nid, _) = self.joined(&content.user_id, &content.room_id, None).await?;
        self.change(nid, &content.user_id, content.typing.then_some(REMOTE_TIMEOUT)).await
    }

    /// Who types in a room and since which position nothing changed; `None` if nobody did in this run.
    pub fn in_room(&self, room: Nid) -> Option<(Seq, Vec<OwnedUserId>)> {
        let rooms = self.rooms();
        let in_room = rooms.get(&room)?;
        Some((in_room.seq, in_room.users.keys().cloned().collect()))
    }

    /// Who types in rooms where that changed in (since, until].
    pub fn changed(&self, since: Seq, until: Seq) -> Vec<(Nid, Vec<OwnedUserId>)> {
        let rooms = self.rooms();
        let changed = rooms.iter().filter(|(_, in_room)| in_room.seq > since && in_room.seq <= until);
        changed.map(|(room, in_room)| (*room, in_room.users.keys().cloned().collect())).collect()
    }

    /// What clients were shown up to here is forgotten: they are to be told of all their rooms.
    pub fn floor(&self) -> Seq {
        Seq(self.inner.floor.load(Ordering::Acquire))
    }

    /// The room's number, if the user is joined; and the servers to tell, other than `but`.
    async fn joined(
        &self,
        user: &UserId,
        room: &RoomId,
        but: Option<OwnedServerName>,
    ) -> Result<(Nid, Vec<OwnedServerName>), RoomError> {
        let (user, room) = (user.to_owned(), room.to_owned());
        self.inner
            .store
            .read(move |tx| {
                let no = || RoomError::Forbidden(format!("{user} is not in the room {room}"));
                let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(no)?;
                let member = match tx.lookup(Kind::User, user.as_str())? {
                    Some(user) => membership::member(tx, nid, user)?,
                    None => None,
                };
                let joined = member.is_some_and(|(membership, _)| membership == Membership::Join);
                if !joined && !partial::maybe_member(tx, nid, &user)? {
                    return Err(no());
                }
                let mut servers = Vec::new();
                if let Some(but) = but {
                    for server in membership::servers(tx, nid)? {
                        let server = ServerName::parse(&*tx.text(server)?).ok();
                        servers.extend(server.filter(|server| *server != but));
                    }
                }
                Ok((nid, servers))
            })
            .await
    }

    async fn change(&self, room: Nid, user: &UserId, timeout: Option<Duration>) -> Result<(), RoomError> {
        let now = self.inner.clock.now_ms();
        let until = timeout.map(|timeout| now + timeout.as_millis() as u64);
        {
            let mut rooms = self.rooms();
            match (rooms.get_mut(&room).and_then(|in_room| in_room.users.get_mut(user)), until) {
                // Only longer: nobody has to be told.
                (Some(known), Some(until)) => {
                    *known = until;
                    return Ok(());
                }
                (None, None) => return Ok(()),
                _ => {}
            }
            let full = rooms.get(&room).is_some_and(|in_room| in_room.users.len() >= TYPERS_MAX);
            if until.is_some() && full {
                return Ok(());
            }
        }
        let (typing, user) = (self.clone(), user.to_owned());
        self.write(room, move |users| match until {
            Some(until) => drop(users.insert(user, until)),
            None => drop(users.remove(&user)),
        })
        .await?;
        typing.sweep();
        Ok(())
    }

    /// Changes a room's typers at a new position.
    async fn write<F>(&self, room: Nid, change: F) -> Result<(), StoreError>
    where
        F: FnOnce(&mut BTreeMap<OwnedUserId, u64>) + Send + 'static,
    {
        let typing = self.clone();
        self.inner
            .store
            .write(move |tx| {
                let seq = tx.next_seq()?;
                let mut rooms = typing.rooms();
                if rooms.len() >= ROOMS_MAX && !rooms.contains_key(&room) {
                    rooms.retain(|_, in_room| !in_room.users.is_empty());
                    typing.inner.floor.store(seq.0 - 1, Ordering::Release);
                }
                let in_room = rooms.entry(room).or_default();
                in_room.seq = seq;
                change(&mut in_room.users);
                tx.touch(Touched::Room(room));
                Ok(())
            })
            .await
    }

    /// Lets those whose time is over stop; one task while anybody types.
    fn sweep(&self) {
        if self.inner.sweeping.swap(true, Ordering::AcqRel) {
            return;
        }
        let typing = self.clone();
        tokio::spawn(async move {
            while let Some(next) = typing.next_end() {
                let now = typing.inner.clock.now_ms();
                if next > now {
                    tokio::time::sleep(Duration::from_millis((next - now).clamp(10, 1000))).await;
                    continue;
                }
                for room in typing.ended(now) {
                    let ended = typing.write(room, move |users| users.retain(|_, until| *until > now)).await;
                    if let Err(error) = ended {
                        // The database is closed: the node ends.
                        tracing::debug!(%error, "typing is no longer followed");
                        return;
                    }
                }
            }
        });
    }

    /// When the next one's time is over; `None` (and the sweeper ends) if nobody types.
    fn next_end(&self) -> Option<u64> {
        let rooms = self.rooms();
        let next = rooms.values().flat_map(|in_room| in_room.users.values()).min().copied();
        if next.is_none() {
            // Still under the lock: who begins to type now starts a new sweeper.
            self.inner.sweeping.store(false, Ordering::Release);
        }
        next
    }

    fn ended(&self, now: u64) -> Vec<Nid> {
        let rooms = self.rooms();
        let ended = rooms.iter().filter(|(_, in_room)| in_room.users.values().any(|until| *until <= now));
        ended.map(|(room, _)| *room).collect()
    }

    fn rooms(&self) -> MutexGuard<'_, HashMap<Nid, InRoom>> {
        self.inner.rooms.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
