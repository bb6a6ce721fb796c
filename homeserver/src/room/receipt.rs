//! Read receipts and the marker of how far a user has read, ours and theirs.

use std::collections::BTreeMap;

use ruma::{
    EventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    api::federation::transactions::edu::{Edu, ReceiptContent, ReceiptData, ReceiptMap},
    events::receipt::{Receipt, ReceiptThread},
};
use serde::Deserialize;

use super::RoomError;
use crate::{
    clock::Clock,
    store::{
        Kind, Nid, ReadTx, Seq, Store, StoreError, Touched, WriteTx,
        schema::{
            events::{self, stream_kind},
            membership::{self, Membership},
            outbox, partial, push,
            receipts::{self as table, ReceiptKind, ReceiptRow},
        },
    },
};

/// Threads for which one user has receipts in one room; more are not kept.
pub const THREADS_MAX: i64 = 1_000;
/// Receipts of one EDU that are looked at.
const EDU_RECEIPTS_MAX: usize = 500;

/// Receipts of all rooms. Clones share them.
#[derive(Clone)]
pub struct Receipts {
    store: Store,
    clock: Clock,
    name: OwnedServerName,
}

/// A receipt to be kept.
#[derive(Clone, Debug)]
struct New {
    user: OwnedUserId,
    kind: ReceiptKind,
    /// Empty: of no thread.
    thread: String,
    event: String,
    ts: i64,
}

/// Receipts as another server tells them, by room. Event ids are not looked at: what they say is for clients.
#[derive(Debug, Deserialize)]
pub struct TheirReceipts(
    /// By room.
    pub BTreeMap<OwnedRoomId, TheirKinds>,
);

/// Receipts of one room, by type.
#[derive(Debug, Deserialize)]
pub struct TheirKinds {
    #[serde(rename = "m.read", default)]
    read: BTreeMap<OwnedUserId, TheirReceipt>,
}

#[derive(Debug, Deserialize)]
struct TheirReceipt {
    #[serde(default)]
    data: TheirData,
    event_ids: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
struct TheirData {
    ts: Option<i64>,
    thread_id: Option<String>,
}

/// An id is no longer.
const EVENT_ID_BYTES_MAX: usize = 255;

impl Receipts {
    /// The receipts in a store.
    pub fn new(store: Store, clock: Clock, name: OwnedServerName) -> Self {
        Self { store, clock, name }
    }

    /// A user of ours has read up to an event.
    pub async fn set(
        &self,
        user: &UserId,
        room: &RoomId,
        kind: ReceiptKind,
        thread: &ReceiptThread,
        event: &EventId,
    ) -> Result<(), RoomError> {
        let now = self.clock.now();
        let new = New {
            user: user.to_owned(),
            kind,
            thread: thread.as_str().unwrap_or_default().to_owned(),
            event: event.to_string(),
            ts: i64::from(now.0),
        };
        let mut receipt = Receipt::new(now);
        receipt.thread = thread.clone();
        let data = ReceiptData::new(receipt, vec![event.to_owned()]);
        let map = ReceiptMap::new(BTreeMap::from([(user.to_owned(), data)]));
        let edu = Edu::Receipt(ReceiptContent::new(BTreeMap::from([(room.to_owned(), map)])));
        let (room, event, name) = (room.to_owned(), event.to_owned(), self.name.clone());
        self.store
            .write(move |tx| {
                let (room, user) = joined(tx, &room, &new.user)?;
                let read = events::event_by_id(tx, &event)?.filter(|read| read.room == room);
                let Some(read) = read else {
                    return Err(RoomError::NotFound(format!("there is no event {event} in that room")));
                };
                if !put(tx, room, user, &new)? {
                    return Ok(());
                }
                if let Some(seq) = read.seq {
                    advance(tx, user, room, &new.thread, seq)?;
                }
                if new.kind == ReceiptKind::Read {
                    let ours = tx.lookup(Kind::Server, name.as_str())?;
                    let mut servers = membership::servers(tx, room)?;
                    servers.retain(|server| Some(*server) != ours);
                    let body = serde_json::to_vec(&edu).map_err(|_| StoreError::Corrupt("an EDU"))?;
                    outbox::push_edu(tx, &servers, &body)?;
                }
                Ok(())
            })
            .await
    }

    /// An `m.receipt` of another server. What does not hold (a user of a third server, one who is not in the room) is
    /// passed over.
    pub async fn receive(&self, origin: &ServerName, content: TheirReceipts) -> Result<(), RoomError> {
        let mut news = Vec::new();
        for (room, kinds) in content.0 {
            for (user, receipt) in kinds.read {
                let Some(event) = receipt.event_ids.into_iter().next_back() else { continue };
                if user.server_name() != origin
                    || event.len() > EVENT_ID_BYTES_MAX
                    || news.len() >= EDU_RECEIPTS_MAX
                {
                    continue;
                }
                let thread = receipt.data.thread_id.unwrap_or_default();
                let ts = receipt.data.ts.unwrap_or(0);
                news.push((room.clone(), New { user, kind: ReceiptKind::Read, thread, event, ts }));
            }
        }
        self.store
            .write(move |tx| {
                for (room, new) in &news {
                    match joined(tx, room, &new.user) {
                        Ok((room, user)) => drop(put(tx, room, user, new)?),
                        Err(RoomError::Store(error)) => return Err(error),
                        Err(_) => put_unknown(tx, room, new)?,
                    }
                }
                Ok(())
            })
            .await
            .map_err(|error: StoreError| error.into())
    }
}

/// Numbers of a room and of a user who is in it.
fn joined(tx: &ReadTx<'_>, room: &RoomId, user: &UserId) -> Result<(Nid, Nid), RoomError> {
    let no = || RoomError::Forbidden(format!("{user} is not in the room {room}"));
    let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(no)?;
    let user_nid = tx.lookup(Kind::User, user.as_str())?.ok_or_else(no)?;
    let member = membership::member(tx, nid, user_nid)?;
    if member.is_none_or(|(membership, _)| membership != Membership::Join) {
        return Err(no());
    }
    Ok((nid, user_nid))
}

/// Keeps the receipt of somebody who may be in a room of which only a part of the state is here.
fn put_unknown(tx: &mut WriteTx<'_>, room: &RoomId, new: &New) -> Result<(), StoreError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(()) };
    if !partial::maybe_member(tx, room, &new.user)? || table::count_room(tx, room)? >= UNKNOWN_MAX {
        return Ok(());
    }
    let user = tx.intern(Kind::User, new.user.as_str())?;
    put(tx, room, user, new).map(drop)
}

/// Receipts in a room up to which those of unknown users are kept.
const UNKNOWN_MAX: i64 = 10_000;

/// Keeps a receipt unless it would go back. True if it is new.
fn put(tx: &mut WriteTx<'_>, room: Nid, user: Nid, new: &New) -> Result<bool, StoreError> {
    if let Some(old) = table::find(tx, room, user, new.kind, &new.thread)? {
        if old.event == new.event {
            return Ok(false);
        }
        if let (Some(old), Some(new)) = (place(tx, &old.event)?, place(tx, &new.event)?)
            && new < old
        {
            return Ok(false);
        }
    } else if table::count(tx, room, user)? >= THREADS_MAX {
        return Ok(false);
    }
    let private = new.kind == ReceiptKind::Private;
    // What only its user sees wakes only them.
    let seq = if private {
        tx.touch(Touched::User(user));
        events::push_stream(tx, stream_kind::RECEIPT, None, Some(user), Some(room))?
    } else {
        tx.touch(Touched::Room(room));
        events::push_stream(tx, stream_kind::RECEIPT, Some(room), None, None)?
    };
    let row =
        ReceiptRow { user, private, thread: new.thread.clone(), event: new.event.clone(), ts: new.ts, seq };
    table::put(tx, room, &row)?;
    Ok(true)
}

/// Where an event stands in its room's timeline; `None` if it is not here.
fn place(tx: &ReadTx<'_>, event: &str) -> Result<Option<(i64, Seq)>, StoreError> {
    let Ok(id) = EventId::parse(event) else { return Ok(None) };
    Ok(events::event_by_id(tx, &id)?.and_then(|row| Some((row.depth, row.seq?))))
}

/// Moves on what a user of ours has read.
fn advance(tx: &mut WriteTx<'_>, user: Nid, room: Nid, thread: &str, seq: Seq) -> Result<(), StoreError> {
    let thread = match thread {
        "" => push::ALL,
        "main" => push::MAIN,
        root => match EventId::parse(root) {
            Ok(root) => match events::nid(tx, &root)? {
                Some(root) => root,
                None => return Ok(()),
            },
            Err(_) => return Ok(()),
        },
    };
    push::put_read_position(tx, user, room, thread, seq)?;
    if thread == push::ALL {
        push::drop_own(tx, user, room, seq)?;
    }
    Ok(())
}
