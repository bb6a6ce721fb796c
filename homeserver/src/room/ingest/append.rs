//! THE write transaction of an event: the event, its place in graph and timeline, the state, and every projection of it.
//!
//! Nothing of this is done anywhere else, and nothing of it outside the one operation, so that a crash between any two
//! writes leaves all of it or none. What was decided before ([`Append`]) was decided on a head of the room; if the room
//! has another by now, nothing happens and the worker decides anew ([`AppendError::Stale`]).

use std::{collections::HashMap, sync::Arc};

use ruma::{
    EventId, OwnedDeviceId, OwnedEventId, OwnedServerName, OwnedUserId, RoomId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};

use serde_json::value::RawValue;

use super::load;
use crate::{
    e2ee::device_lists,
    push::project::{Appended, on_event},
    room::{
        RoomError,
        core::pdu::{CREATE, FullEvent, MEMBER, known_id},
        project::{
            self,
            membership::{At, Moved},
            redaction::Effect,
        },
    },
    store::{
        Kind, Nid, ReadTx, Seq, StoreError, Touched, WriteTx,
        schema::{
            events::{
                self, EventRow, NO_LISTS, NO_ROOM_ID, OUTLIER, PARTIAL, REJECTED, SOFT_FAILED, TxnOf,
                stream_kind,
            },
            membership::{self, Membership},
            purge,
            rooms::{self, RoomRow},
            state::{self, Change, StateMap},
        },
    },
};

/// The state before an event.
#[derive(Clone, Debug)]
pub(in crate::room) enum Before {
    /// The room's resolved current state.
    Current,
    /// A stored snapshot.
    Snapshot(i64),
    /// A state worked out from several, or told by another server.
    Map(StateMap),
}

impl Before {
    /// The state's event of a (type, state key).
    pub(in crate::room) fn entry(
        &self,
        tx: &ReadTx<'_>,
        room: Nid,
        skey: Nid,
    ) -> Result<Option<Nid>, StoreError> {
        match self {
            Self::Current => state::current(tx, room, skey),
            Self::Snapshot(sid) => state::one(tx, *sid, skey),
            Self::Map(map) => Ok(map.get(&skey).copied()),
        }
    }
}

/// What the room's resolved state is after an event.
#[derive(Clone, Debug)]
pub(in crate::room) enum After {
    /// The state before it (which was the current one) and itself.
    Linear,
    /// Worked out over the graph's ends: how the present state changes. The event itself is [`SELF`].
    Resolved(Vec<Change>),
}

/// Stands for the number of the event being appended, which has none before.
pub(in crate::room) const SELF: Nid = Nid(-1);
/// Stands for the number of its (type, state key), if that has none before.
pub(in crate::room) const SELF_SKEY: Nid = Nid(-2);

/// How the event stands to the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::room) enum Verdict {
    /// Allowed at its place and now.
    Accepted,
    /// Allowed at its place, not by the state now: kept, not shown, nothing is built on it.
    SoftFailed,
    /// Not allowed at its place: kept so that it is known as such.
    Rejected,
}

/// To whom it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::room) enum Forward {
    /// It came by federation; its server sends it to everyone.
    No,
    /// Ours, to all.
    All,
    /// Ours or sent through us, to all but a server that has it.
    Except(OwnedServerName),
}

/// A client's transaction.
#[derive(Clone, Debug)]
pub(in crate::room) struct TxnKey {
    pub(in crate::room) user: OwnedUserId,
    pub(in crate::room) device: OwnedDeviceId,
    pub(in crate::room) txn: String,
    pub(in crate::room) ts: i64,
}

/// An event with everything decided: the last stage, `Authorized`.
#[derive(Clone, Debug)]
pub(in crate::room) struct Append {
    /// The event.
    pub(in crate::room) event: FullEvent,
    /// Our server's name.
    pub(in crate::room) own: OwnedServerName,
    /// The room's version.
    pub(in crate::room) version: Arc<str>,
    /// Its rules.
    pub(in crate::room) rules: Arc<RoomVersionRules>,
    /// The room's head that this was decided on; `None` for a room that is just made.
    pub(in crate::room) head: Option<i64>,
    pub(in crate::room) before: Before,
    pub(in crate::room) after: After,
    pub(in crate::room) verdict: Verdict,
    /// Its sender may redact others' events (matters for redactions).
    pub(in crate::room) power: bool,
    pub(in crate::room) forward: Forward,
    pub(in crate::room) txn: Option<TxnKey>,
    /// When it came to be here, in milliseconds since the Unix epoch.
    pub(in crate::room) now_ms: u64,
}

/// What became of an [`Append`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::room) enum Done {
    /// It is stored. The room's head moved on by one.
    Appended(OwnedEventId),
    /// This transaction made this event before, or the event was here already: nothing was changed.
    Existing(OwnedEventId),
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub(in crate::room) enum AppendError {
    /// The room's head is another than the one decided on.
    #[error("the room has moved on")]
    Stale,
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<AppendError> for RoomError {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Stale => Self::Busy,
            AppendError::Store(error) => Self::Store(error),
        }
    }
}

/// Stores an event and everything that follows from it.
pub(in crate::room) fn append(tx: &mut WriteTx<'_>, append: &Append) -> Result<Done, AppendError> {
    let pdu = &append.event.pdu;
    let room = tx.intern(Kind::Room, pdu.room.as_str())?;
    if let Some(txn) = &append.txn
        && let Some(existing) = find_txn(tx, room, txn)?
    {
        return Ok(Done::Existing(existing));
    }
    let mut row = match (rooms::room(tx, room)?, append.head) {
        (Some(row), Some(head)) if row.head == head => row,
        (None, None) if !purge::is_going(tx, room)? => {
            let empty = state::put(tx, room, &StateMap::new())?;
            RoomRow::new(room, append.version.to_string(), empty)
        }
        _ => return Err(AppendError::Stale),
    };
    let mut event = row_of(tx, room, &append.event)?;
    let known = events::event(tx, event.nid)?;
    if let Some(known) = &known
        && known.flags & OUTLIER == 0
    {
        return Ok(Done::Existing(pdu.event_id.clone()));
    }
    if let Some(txn) = &append.txn {
        let user = tx.intern(Kind::User, txn.user.as_str())?;
        let device = tx.intern(Kind::Device, txn.device.as_str())?;
        events::put_txn(tx, &TxnOf { user, device, room, txn: &txn.txn }, event.nid, txn.ts)?;
        event.sent = Some((device, txn.txn.clone()));
    }
    place(tx, &row, &mut event, append)?;
    row.head += 1;
    match append.verdict {
        Verdict::Accepted => accept(tx, &mut row, &mut event, append)?,
        verdict => {
            event.flags |= if verdict == Verdict::Rejected { REJECTED } else { SOFT_FAILED };
            events::put(tx, &event)?;
            rooms::put_head(tx, &row)?;
        }
    }
    Ok(Done::Appended(pdu.event_id.clone()))
}

/// The event that a transaction has made, if any.
fn find_txn(tx: &ReadTx<'_>, room: Nid, txn: &TxnKey) -> Result<Option<OwnedEventId>, StoreError> {
    let (Some(user), Some(device)) =
        (tx.lookup(Kind::User, txn.user.as_str())?, tx.lookup(Kind::Device, txn.device.as_str())?)
    else {
        return Ok(None);
    };
    match events::txn(tx, &TxnOf { user, device, room, txn: &txn.txn })? {
        Some(nid) => events::id(tx, nid).map(Some),
        None => Ok(None),
    }
}

/// The row of an event, without a place.
pub(in crate::room) fn row_of(
    tx: &mut WriteTx<'_>,
    room: Nid,
    event: &FullEvent,
) -> Result<EventRow, StoreError> {
    let pdu = &event.pdu;
    let kind = pdu.type_name.as_str();
    let mut numbers = |ids: &[OwnedEventId]| -> Result<Vec<Nid>, StoreError> {
        ids.iter().map(|id| events::intern(tx, id)).collect()
    };
    let (prev, auth) = (numbers(&pdu.prev)?, numbers(&pdu.auth)?);
    let (nid, key) = events::intern_stored(tx, &pdu.event_id)?;
    Ok(EventRow {
        nid,
        room,
        kind: tx.intern(Kind::Type, kind)?,
        skey: match &pdu.state_key {
            Some(key) => Some(tx.intern_skey(kind, key)?),
            None => None,
        },
        sender: tx.intern(Kind::User, pdu.sender.as_str())?,
        ts: i64::try_from(pdu.ts).unwrap_or(i64::MAX),
        depth: pdu.depth,
        seq: None,
        flags: if event.has_lists { 0 } else { NO_LISTS } | if pdu.says_room { 0 } else { NO_ROOM_ID },
        state_before: None,
        state_after: None,
        redacted_by: None,
        sent: None,
        key,
        prev,
        auth,
        client: event.client.clone(),
        rest: event.rest.clone(),
    })
}

/// Depth and the state before and after it.
fn place(
    tx: &mut WriteTx<'_>,
    row: &RoomRow,
    event: &mut EventRow,
    append: &Append,
) -> Result<(), StoreError> {
    let mut depth = Some(0);
    for prev in &event.prev {
        let known = events::standing(tx, *prev)?;
        // What builds on a part of the state is judged by a part of it, and again when that is whole.
        event.flags |= known.map_or(0, |(_, flags)| flags & PARTIAL);
        depth = match (depth, known) {
            (Some(depth), Some((prev, flags))) if flags & OUTLIER == 0 => Some(depth.max(prev)),
            _ => None,
        };
    }
    // A server that claims a great depth does not push its event to the end for ever.
    event.depth = depth.map_or_else(|| append.event.pdu.depth.min(row.depth + 1), |depth| depth + 1);
    let before = match &append.before {
        Before::Current => row.sid,
        Before::Snapshot(sid) => *sid,
        Before::Map(map) => state::put(tx, event.room, map)?,
    };
    event.state_before = Some(before);
    event.state_after = match event.skey {
        Some(skey) if append.verdict != Verdict::Rejected => {
            let old = append.before.entry(tx, event.room, skey)?;
            Some(state::derive(tx, event.room, before, &[Change { skey, old, new: Some(event.nid) }])?)
        }
        _ => Some(before),
    };
    Ok(())
}

/// An accepted event joins graph, timeline and stream, and changes what it changes.
fn accept(
    tx: &mut WriteTx<'_>,
    row: &mut RoomRow,
    event: &mut EventRow,
    append: &Append,
) -> Result<(), StoreError> {
    let pdu = &append.event.pdu;
    let seq = tx.next_seq()?;
    event.seq = Some(seq);
    let mut content = project::content(&append.event.client);
    let shown = project::redaction::arrive(tx, &append.rules, &pdu.room, event)?;
    if event.redacted_by.is_some() {
        content = project::content(&event.client);
    }
    project::sticky::apply(tx, event, seq, append.now_ms)?;
    events::put(tx, event)?;
    events::put_timeline(tx, event.room, event.depth, seq, event.nid)?;
    link(tx, row, event)?;

    let changes = changes(tx, row, event, append)?;
    let servers_before = match changes.iter().any(|change| change.kind == MEMBER) {
        true if append.forward != Forward::No => Some(membership::servers(tx, event.room)?),
        _ => None,
    };
    let plain: Vec<Change> = changes.iter().map(|change| change.change).collect();
    row.sid = match &append.after {
        After::Linear => event.state_after.unwrap_or(row.sid),
        After::Resolved(_) => state::derive(tx, event.room, row.sid, &plain)?,
    };
    state::apply(tx, event.room, Some(seq), &plain)?;
    project::rooms::apply(row, &changes);
    let at = At { own: &append.own, seq, state: row.sid };
    let moved = project::membership::apply(tx, row, &at, &changes)?;
    if moved.servers {
        row.audience = None;
    }
    project::sticky::welcome(tx, event.room, &append.own, &moved, append.now_ms)?;
    for (user, before, after) in &moved.users {
        let joined = *after == Some(Membership::Join) && *before != Some(Membership::Join);
        if joined && is_local(tx, *user, &append.own)? {
            project::successor::follow(tx, row, *user)?;
        }
    }
    if moved.local {
        // A room that is ours alone stays whole when the last one leaves: nobody else could let anyone back in.
        row.resident = membership::has_local_member(tx, event.room, Membership::Join)?
            || membership::servers(tx, event.room)?.is_empty();
    }

    project::relations::apply(tx, event, &content)?;
    let waits = match pdu.target(&append.rules) {
        Some(target) => {
            let effect =
                project::redaction::apply(tx, &append.rules, &pdu.room, event, &target, append.power)?;
            effect == Effect::Waits
        }
        None => false,
    };
    tell_devices(tx, event.room, seq, &append.own, &moved)?;
    row.depth = row.depth.max(event.depth);
    let counts = event.redacted_by.is_none() && counts(&pdu.type_name, &content);
    row.last = seq;
    if counts {
        row.msgs += 1;
    }
    if row.bump.0 == 0 || BUMP_TYPES.contains(&&*pdu.type_name) {
        (row.bump, row.bump_ts) = (seq, event.ts);
    }
    if !waits {
        events::put_stream(tx, seq, stream_kind::EVENT, Some(event.room), None, Some(event.nid), row.msgs)?;
    }
    for redaction in shown {
        let at = tx.next_seq()?;
        events::put_stream(tx, at, stream_kind::EVENT, Some(event.room), None, Some(redaction), row.msgs)?;
    }
    if changes.is_empty() {
        rooms::put_head(tx, row)?;
    } else {
        rooms::put_room(tx, row)?;
    }
    if !waits {
        count(tx, row, event, append, &content, seq)?;
    }
    forward(tx, row, event, append, servers_before.filter(|_| moved.servers))?;
    tx.touch(Touched::Room(event.room));
    Ok(())
}

/// Events that move a room up in a client's list.
// spec: MSC4186, `bump_stamp`; with the names from before polls and beacons were in the specification.
const BUMP_TYPES: [&str; 9] = [
    CREATE,
    "m.room.message",
    "m.room.encrypted",
    "m.sticker",
    "m.call.invite",
    "m.poll.start",
    "org.matrix.msc3381.poll.start",
    "m.beacon_info",
    "org.matrix.msc3672.beacon_info",
];

/// Whether an event counts as an unread message.
fn counts(kind: &str, content: &serde_json::Value) -> bool {
    let edit = content
        .get("m.relates_to")
        .and_then(|relation| relation.get("rel_type"))
        .and_then(serde_json::Value::as_str)
        == Some("m.replace");
    matches!(kind, "m.room.message" | "m.room.encrypted" | "m.sticker") && !edit
}

/// Edges of the graph, and its ends.
fn link(tx: &mut WriteTx<'_>, row: &RoomRow, event: &EventRow) -> Result<(), StoreError> {
    for prev in &event.prev {
        events::put_edge(tx, *prev, event.nid)?;
        if events::remove_forward(tx, row.room, *prev)? == 0 && !events::is_placed(tx, *prev)? {
            events::put_missing(tx, row.room, *prev, event.nid)?;
        }
    }
    for covered in behind_failed(tx, &event.prev)? {
        events::remove_forward(tx, row.room, covered)?;
    }
    events::remove_missing(tx, row.room, event.nid)?;
    // Someone may have built on it already (it came late, through a gap): then it is no end.
    if events::child_depth(tx, event.nid)?.is_none() {
        events::put_forward(tx, row.room, event.nid)?;
    }
    Ok(())
}

/// What an event builds on by way of events that were kept but joined nothing: those ends are covered, too.
pub(in crate::room) fn behind_failed(tx: &ReadTx<'_>, prev: &[Nid]) -> Result<Vec<Nid>, StoreError> {
    let (mut open, mut seen) = (prev.to_vec(), Vec::new());
    while let Some(nid) = open.pop() {
        let failed =
            events::standing(tx, nid)?.is_some_and(|(_, flags)| flags & (REJECTED | SOFT_FAILED) != 0);
        if !failed || seen.len() >= FAILED_MAX {
            continue;
        }
        for prev in events::event(tx, nid)?.map(|event| event.prev).unwrap_or_default() {
            if !seen.contains(&prev) {
                seen.push(prev);
                open.push(prev);
            }
        }
    }
    Ok(seen)
}

/// Events behind failed ones that are looked at: a longer chain of them leaves an end too many, which the next event of
/// ours covers.
const FAILED_MAX: usize = 64;

/// How the resolved state changes by this event, as projections read it.
fn changes(
    tx: &ReadTx<'_>,
    row: &RoomRow,
    event: &EventRow,
    append: &Append,
) -> Result<Vec<project::StateChange>, StoreError> {
    let list = match (&append.after, event.skey) {
        (After::Linear, None) => return Ok(Vec::new()),
        (After::Linear, Some(skey)) => {
            vec![Change { skey, old: state::current(tx, row.room, skey)?, new: Some(event.nid) }]
        }
        (After::Resolved(changes), _) => changes
            .iter()
            .map(|change| Change {
                skey: if change.skey == SELF_SKEY { event.skey.unwrap_or(SELF_SKEY) } else { change.skey },
                new: change.new.map(|new| if new == SELF { event.nid } else { new }),
                ..*change
            })
            .collect(),
    };
    project::read_changes(tx, &list)
}

/// Device lists follow who is joined.
pub(in crate::room) fn tell_devices(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Seq,
    own: &ServerName,
    moved: &Moved,
) -> Result<(), StoreError> {
    for (user, before, after) in &moved.users {
        let (was, is) = (*before == Some(Membership::Join), *after == Some(Membership::Join));
        if was != is {
            let local = is_local(tx, *user, own)?;
            device_lists::on_membership(tx, room, seq, *user, local, is)?;
        }
    }
    Ok(())
}

/// Counts it for whom it notifies.
fn count(
    tx: &mut WriteTx<'_>,
    row: &RoomRow,
    event: &EventRow,
    append: &Append,
    content: &serde_json::Value,
    seq: Seq,
) -> Result<(), StoreError> {
    let pdu = &append.event.pdu;
    let relation = content.get("m.relates_to");
    let field =
        |key: &str| relation.and_then(|relation| relation.get(key)).and_then(serde_json::Value::as_str);
    let thread = match (field("rel_type"), field("event_id").and_then(known_id)) {
        (Some("m.thread"), Some(root)) => Some(events::intern(tx, &root)?),
        _ => None,
    };
    let json = std::str::from_utf8(&event.client).map_err(|_| StoreError::Corrupt("an event is no text"))?;
    let json: &RawValue =
        serde_json::from_str(json).map_err(|_| StoreError::Corrupt("an event is no JSON"))?;
    on_event(
        tx,
        &Appended {
            room: event.room,
            room_id: &pdu.room,
            seq,
            sender: event.sender,
            sender_id: &pdu.sender,
            local: pdu.sender.server_name() == append.own,
            thread,
            event: json,
            own: &append.own,
            member_count: row.joined.unsigned_abs(),
        },
    )
}

fn is_local(tx: &ReadTx<'_>, user: Nid, own: &ServerName) -> Result<bool, StoreError> {
    Ok(UserId::parse(&*tx.text(user)?).is_ok_and(|user| user.server_name() == own))
}

/// Puts it into the outbox, if it is ours to send.
fn forward(
    tx: &mut WriteTx<'_>,
    row: &mut RoomRow,
    event: &EventRow,
    append: &Append,
    servers_before: Option<Vec<Nid>>,
) -> Result<(), StoreError> {
    let except: Option<&ServerName> = match &append.forward {
        Forward::No => return Ok(()),
        Forward::All => None,
        Forward::Except(server) => Some(server),
    };
    let pdu = &append.event.pdu;
    // A kick reaches the kicked, a withdrawn invite the invited; an invite has gone by its own handshake.
    let target = match pdu.membership().as_deref() {
        Some("leave" | "ban") => pdu.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok()),
        _ => None,
    };
    project::outbox::push(tx, row, event.nid, &append.own, servers_before.as_deref(), target, except)
}

/// Keeps the state after an event that has no place here, as another server told it.
pub(in crate::room) fn keep_told(
    tx: &mut WriteTx<'_>,
    id: &EventId,
    told: &StateMap,
) -> Result<(), StoreError> {
    let Some(mut event) = events::event_by_id(tx, id)? else { return Ok(()) };
    if event.flags & OUTLIER != 0 && event.state_after.is_none() {
        event.state_after = Some(state::put(tx, event.room, told)?);
        events::put(tx, &event)?;
    }
    Ok(())
}

/// Stores an event that something refers to, without a place in the timeline. Does nothing if it is here in any form.
pub(in crate::room) fn outlier(
    tx: &mut WriteTx<'_>,
    event: &FullEvent,
    rejected: bool,
) -> Result<Nid, StoreError> {
    let room = tx.intern(Kind::Room, event.pdu.room.as_str())?;
    if let Some(nid) = events::nid(tx, &event.pdu.event_id)?
        && events::event(tx, nid)?.is_some()
    {
        return Ok(nid);
    }
    let mut row = row_of(tx, room, event)?;
    row.flags |= OUTLIER | if rejected { REJECTED } else { 0 };
    events::put(tx, &row)?;
    Ok(row.nid)
}

/// Gives stored events of the past (`ids`, oldest first) their places in the timeline; the stream does not see them.
/// `told`: the state before the oldest. True if any is new.
pub(in crate::room) fn history(
    tx: &mut WriteTx<'_>,
    rules: &RoomVersionRules,
    room_id: &RoomId,
    ids: &[OwnedEventId],
    told: Option<&StateMap>,
) -> Result<bool, RoomError> {
    let room = tx.intern(Kind::Room, room_id.as_str())?;
    let mut list = Vec::new();
    let mut after: HashMap<Nid, i64> = HashMap::new();
    for (index, id) in ids.iter().enumerate() {
        let Some(mut event) = events::event_by_id(tx, id)? else { continue };
        if event.room != room || event.flags & OUTLIER == 0 {
            continue;
        }
        let before = match told {
            Some(told) if index == 0 => Some(state::put(tx, room, told)?),
            _ => state_after_prevs(tx, &event, &after)?,
        };
        event.state_before = before;
        event.state_after = match (before, event.skey) {
            (Some(before), Some(skey)) if event.flags & REJECTED == 0 => {
                let old = state::one(tx, before, skey)?;
                Some(state::derive(tx, room, before, &[Change { skey, old, new: Some(event.nid) }])?)
            }
            (before, _) => before,
        };
        if let Some(sid) = event.state_after {
            after.insert(event.nid, sid);
        }
        list.push(event);
    }
    let new = !list.is_empty();
    // Newest first, so that each finds the depth of what builds on it.
    for mut event in list.into_iter().rev() {
        event.flags &= !OUTLIER;
        events::remove_missing(tx, room, event.nid)?;
        if event.flags & REJECTED != 0 {
            events::put(tx, &event)?;
            continue;
        }
        if let Some(child) = events::child_depth(tx, event.nid)? {
            event.depth = event.depth.min(child - 1);
        }
        let seq = events::next_back_seq(tx)?;
        event.seq = Some(seq);
        project::redaction::arrive(tx, rules, room_id, &mut event)?;
        events::put(tx, &event)?;
        events::put_timeline(tx, room, event.depth, seq, event.nid)?;
        for prev in &event.prev {
            events::put_edge(tx, *prev, event.nid)?;
            if !events::is_placed(tx, *prev)? {
                events::put_missing(tx, room, *prev, event.nid)?;
            }
        }
        let content = project::content(&event.client);
        project::relations::apply(tx, &event, &content)?;
        if let Ok(pdu) = load::pdu_of(tx, &event)
            && let Some(target) = pdu.target(rules)
        {
            // Its power is not asked for here: what it redacted came to us pruned, or its sender may by being the same.
            project::redaction::apply(tx, rules, room_id, &event, &target, false)?;
        }
    }
    Ok(new)
}

/// The state before an event whose previous ones have places, or were just given one.
fn state_after_prevs(
    tx: &ReadTx<'_>,
    event: &EventRow,
    after: &HashMap<Nid, i64>,
) -> Result<Option<i64>, RoomError> {
    let mut sids = Vec::new();
    for prev in &event.prev {
        let sid = match after.get(prev) {
            Some(sid) => Some(*sid),
            None => events::event(tx, *prev)?.and_then(|prev| prev.state_after),
        };
        let Some(sid) = sid else { return Ok(None) };
        sids.push(sid);
    }
    sids.sort_unstable();
    sids.dedup();
    Ok(match sids[..] {
        [sid] => Some(sid),
        // Where history merges forks with different states, the newest one's says who saw it: close enough for old
        // messages, and nothing is authorized by it.
        [.., newest] => Some(newest),
        [] => None,
    })
}
