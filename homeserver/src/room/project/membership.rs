//! Owns `member`, `room_server` and `user_room`: who is where, by the resolved state.

use ruma::{ServerName, UserId};
use serde_json::value::RawValue;

use super::{StateChange, text};
use crate::{
    room::{core::pdu::MEMBER, read::json},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError, Touched, WriteTx,
        schema::{
            events::{self, EventRow, stream_kind},
            membership::{self, Membership, UserRoom},
            rooms::RoomRow,
            state,
        },
    },
};

/// What became of a room's members.
#[derive(Debug, Default)]
pub(in crate::room) struct Moved {
    /// A server came or went.
    pub(in crate::room) servers: bool,
    /// Users whose membership differs: (user, before, after).
    pub(in crate::room) users: Vec<(Nid, Option<Membership>, Option<Membership>)>,
    /// A local user joined or went.
    pub(in crate::room) local: bool,
}

/// Where the changes happened.
pub(in crate::room) struct At<'a> {
    /// Our name.
    pub(in crate::room) own: &'a ServerName,
    /// Position of the commit.
    pub(in crate::room) seq: Seq,
    /// The room's state after it.
    pub(in crate::room) state: i64,
}

/// Follows the member entries among `changes`.
pub(in crate::room) fn apply(
    tx: &mut WriteTx<'_>,
    room: &mut RoomRow,
    at: &At<'_>,
    changes: &[StateChange],
) -> Result<Moved, StoreError> {
    let mut moved = Moved::default();
    for change in changes.iter().filter(|change| change.kind == MEMBER) {
        // A state key that is no user id cannot have passed the rules; a hole in them must not stop the room.
        let Ok(user_id) = <&UserId>::try_from(change.key.as_str()) else { continue };
        let user = tx.intern(Kind::User, user_id.as_str())?;
        let before = membership::member(tx, room.room, user)?.map(|(membership, _)| membership);
        let after = change
            .content
            .as_ref()
            .and_then(|content| text(content, "membership"))
            .and_then(|membership| Membership::parse(&membership));
        let entry = after.zip(change.change.new);
        membership::put_member(tx, room.room, user, entry)?;
        let step = |membership: Membership| {
            i64::from(after == Some(membership)) - i64::from(before == Some(membership))
        };
        room.joined += step(Membership::Join);
        room.invited += step(Membership::Invite);
        if step(Membership::Join) != 0 {
            let server = tx.intern(Kind::Server, user_id.server_name().as_str())?;
            moved.servers |= membership::count_server(tx, room.room, server, step(Membership::Join))?;
        }
        if before != after {
            moved.users.push((user, before, after));
        }
        if user_id.server_name() == at.own {
            moved.local |= step(Membership::Join) != 0;
            own_user(tx, room, at, user, before, entry, change.sender)?;
        }
    }
    Ok(moved)
}

/// The row and the wake-up of a local user.
fn own_user(
    tx: &mut WriteTx<'_>,
    room: &RoomRow,
    at: &At<'_>,
    user: Nid,
    before: Option<Membership>,
    entry: Option<(Membership, Nid)>,
    sender: Option<Nid>,
) -> Result<(), StoreError> {
    let old = membership::user_room(tx, user, room.room)?;
    // Resolution can take a membership away; who had one is out then, by the event that they had.
    let fallback = old.as_ref().map(|old| (Membership::Leave, old.nid));
    let Some((membership, nid)) = entry.or(fallback) else { return Ok(()) };
    // A profile change, or (when a room is imported) what we knew: no step of its own.
    let same = old.as_ref().is_some_and(|old| {
        old.membership == membership && (old.nid == nid || (before == Some(membership) && !old.forgotten))
    });
    let gone = matches!(membership, Membership::Leave | Membership::Ban);
    let was_in = before == Some(Membership::Join);
    let row = UserRoom {
        room: room.room,
        membership,
        nid,
        seq: match &old {
            Some(old) if same => old.seq,
            _ => at.seq,
        },
        left_state: match &old {
            _ if gone && was_in => Some(at.state),
            Some(old) if gone => old.left_state,
            _ => None,
        },
        left_seq: match &old {
            _ if gone && was_in => Some(at.seq),
            Some(old) if gone => old.left_seq,
            _ => None,
        },
        stripped: match membership {
            Membership::Invite | Membership::Knock => {
                Some(join_json(&stripped(tx, room.room, [Some(nid), sender_event(tx, room.room, sender)?])?))
            }
            _ => None,
        },
        // A new leave of a forgotten room (a ban, say) does not bring it back.
        forgotten: gone && old.as_ref().is_some_and(|old| old.forgotten),
    };
    put_own(tx, user, &row, !same)
}

/// Writes a local user's row, tells the stream if it is a step, and wakes the user.
fn put_own(tx: &mut WriteTx<'_>, user: Nid, row: &UserRoom, step: bool) -> Result<(), StoreError> {
    membership::put_user_room(tx, user, row)?;
    if step {
        events::push_stream(tx, stream_kind::MEMBERSHIP, Some(row.room), Some(user), Some(row.nid))?;
    }
    tx.touch(Touched::User(user));
    Ok(())
}

/// A membership of a local user in a room whose state is not here: an invite, a knock, and how they end.
pub(in crate::room) fn without_room(
    tx: &mut WriteTx<'_>,
    user: Nid,
    room: Nid,
    membership: Membership,
    nid: Nid,
    stripped: &[Box<RawValue>],
) -> Result<(), StoreError> {
    let old = membership::user_room(tx, user, room)?;
    if old.as_ref().is_some_and(|old| old.nid == nid) {
        return Ok(());
    }
    let waits = matches!(membership, Membership::Invite | Membership::Knock);
    // Clients learn their own membership from the last event of the list, as in rooms whose state is here.
    let own = events::event(tx, nid)?.and_then(|event| strip(&event.client));
    let shown: Vec<Box<RawValue>> = stripped.iter().cloned().chain(own).collect();
    let row = UserRoom {
        room,
        membership,
        nid,
        seq: tx.next_seq()?,
        left_state: old.as_ref().and_then(|old| old.left_state).filter(|_| !waits),
        left_seq: old.as_ref().and_then(|old| old.left_seq).filter(|_| !waits),
        stripped: waits.then(|| join_json(&shown)),
        forgotten: !waits && old.is_some_and(|old| old.forgotten),
    };
    put_own(tx, user, &row, true)
}

/// The membership event of whoever sent an invite.
fn sender_event(tx: &ReadTx<'_>, room: Nid, sender: Option<Nid>) -> Result<Option<Nid>, StoreError> {
    match sender {
        Some(sender) => Ok(membership::member(tx, room, sender)?.map(|(_, nid)| nid)),
        None => Ok(None),
    }
}

/// State that someone sees of a room before being in it.
const STRIPPED: [&str; 8] = [
    "m.room.create",
    "m.room.join_rules",
    "m.room.name",
    "m.room.canonical_alias",
    "m.room.avatar",
    "m.room.topic",
    "m.room.encryption",
    "m.room.guest_access",
];

/// Stripped state of a room by its current state, with some member events.
pub(in crate::room) fn stripped(
    tx: &ReadTx<'_>,
    room: Nid,
    members: impl IntoIterator<Item = Option<Nid>>,
) -> Result<Vec<Box<RawValue>>, StoreError> {
    let events = outside(tx, room, members)?;
    Ok(events.iter().filter_map(|event| strip(&event.client)).collect())
}

/// The same events as servers exchange them.
pub(in crate::room) fn stripped_pdus(
    tx: &ReadTx<'_>,
    room: Nid,
    members: impl IntoIterator<Item = Option<Nid>>,
) -> Result<Vec<Box<RawValue>>, StoreError> {
    outside(tx, room, members)?.iter().map(|event| json::pdu(tx, event)).collect()
}

fn outside(
    tx: &ReadTx<'_>,
    room: Nid,
    members: impl IntoIterator<Item = Option<Nid>>,
) -> Result<Vec<EventRow>, StoreError> {
    let mut nids = Vec::new();
    for kind in STRIPPED {
        nids.extend(state::current_of(tx, room, kind, "")?);
    }
    for nid in members.into_iter().flatten() {
        if !nids.contains(&nid) {
            nids.push(nid);
        }
    }
    let mut list = Vec::new();
    for nid in nids {
        list.extend(events::event(tx, nid)?);
    }
    Ok(list)
}

/// An event without what a stripped one has not. A create event keeps more, so that who is invited can tell which room,
/// made when, it is.
///
/// spec: <https://spec.matrix.org/v1.19/client-server-api/#stripped-state>
fn strip(client: &[u8]) -> Option<Box<RawValue>> {
    #[derive(serde::Deserialize, serde::Serialize)]
    struct Stripped<'a> {
        #[serde(borrow)]
        content: &'a RawValue,
        #[serde(borrow)]
        sender: &'a RawValue,
        #[serde(borrow)]
        state_key: &'a RawValue,
        #[serde(borrow, rename = "type")]
        kind: &'a RawValue,
        #[serde(borrow, skip_serializing_if = "Option::is_none")]
        origin_server_ts: Option<&'a RawValue>,
        #[serde(borrow, skip_serializing_if = "Option::is_none")]
        event_id: Option<&'a RawValue>,
    }
    let mut stripped: Stripped<'_> = serde_json::from_slice(client).ok()?;
    if stripped.kind.get() != "\"m.room.create\"" {
        (stripped.origin_server_ts, stripped.event_id) = (None, None);
    }
    serde_json::value::to_raw_value(&stripped).ok()
}

/// A JSON array of values.
pub(in crate::room) fn join_json(list: &[Box<RawValue>]) -> Vec<u8> {
    let mut out = vec![b'['];
    for (index, value) in list.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(value.get().as_bytes());
    }
    out.push(b']');
    out
}
