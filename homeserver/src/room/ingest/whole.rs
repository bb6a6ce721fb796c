//! Owns how a room that was joined with a part of its state becomes whole: the events that came since are judged again on
//! the whole state, then the present state follows.
//!
//! It runs on the room's worker, so that no event comes between. Everything is done in bounded operations; what is left
//! half done by a crash is done anew from the same beginning: events keep their mark ([`PARTIAL`]) until the last
//! operation, which also takes the room's row of `partial_room` away.
//!
//! ```text
//!   state before the join ─> each event since, in the order of the graph: state before it, verdict, state after it
//!                         ─> the ends' states, resolved ─> differences to the present state ─> projections ─> whole
//! ```

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{RoomId, ServerName, UserId, room_version_rules::RoomVersionRules};

use super::{
    append::{Verdict, tell_devices},
    authorize::{self, Lookup},
    load::{self, StoredGraph},
    worker::Tools,
};
use crate::{
    e2ee::device_lists,
    room::{
        RoomError,
        core::{
            pdu::{MEMBER, Pdu},
            resolve::{self, NumberMap},
            version,
        },
        project::{
            self,
            membership::{At, Moved},
        },
    },
    store::{
        Kind, Nid, ReadTx, Seq, StoreError, Touched, WriteTx,
        ids::skey_split,
        schema::{
            events::{self, EventRow, OUTLIER, PARTIAL, REJECTED, SOFT_FAILED, stream_kind},
            membership::{self, Membership},
            outbox,
            partial::{self, PartialRoom},
            rooms,
            state::{self, Change, StateMap},
        },
    },
};

/// Events judged again in one write.
const EVENTS_CHUNK: usize = 64;
/// State resolutions in one write; each may look at states as large as the room's.
const RESOLVES_CHUNK: usize = 2;
/// State entries that change in one write.
const CHANGES_CHUNK: usize = 500;
/// Events of ours that servers of which we did not know are sent afterwards: what lies before, they ask for.
const MISSED_MAX: usize = 100;

/// Makes the room whole. `join`: the join that this is about; if the room was left or joined anew since, nothing happens.
pub(super) async fn complete(
    tools: &Tools,
    room: &RoomId,
    join: Nid,
    told: StateMap,
) -> Result<(), RoomError> {
    let room_id = room.to_owned();
    let begun = tools.store.read(move |tx| begin(tx, &room_id, join)).await?;
    let Some(Begun { room, rules, list }) = begun else { return Ok(()) };
    let rules = Arc::new(rules);
    let own = tools.signer.name.clone();
    let list: Arc<[Nid]> = list.into();
    let told = Arc::new(told);

    let mut replay = Replay::default();
    while replay.at < list.len() {
        let (list, rules, told) = (list.clone(), rules.clone(), told.clone());
        let step = tools.store.write(move |tx| -> Result<Option<Replay>, RoomError> {
            if !is_about(tx, room, join)? {
                return Ok(None);
            }
            replay.step(tx, room, &rules, join, &told, &list)?;
            Ok(Some(replay))
        });
        let Some(next) = step.await? else { return Ok(()) };
        replay = next;
    }
    let Some(now) = replay.now else { return Ok(()) };

    let changes = tools
        .store
        .read(move |tx| -> Result<_, StoreError> {
            Ok(state::diff(&state::current_all(tx, room)?, &state::full(tx, now)?))
        })
        .await?;
    for chunk in changes.chunks(CHANGES_CHUNK) {
        let (chunk, own) = (chunk.to_vec(), own.clone());
        let step = tools.store.write(move |tx| -> Result<bool, RoomError> {
            if !is_about(tx, room, join)? {
                return Ok(false);
            }
            apply(tx, room, now, &own, &chunk)?;
            Ok(true)
        });
        if !step.await? {
            return Ok(());
        }
    }
    tools
        .store
        .write(move |tx| -> Result<(), RoomError> {
            match partial::partial(tx, room)?.filter(|row| row.join == join) {
                Some(row) => finish(tx, room, &row, now, &replay.ends, &list, &told, &own),
                None => Ok(()),
            }
        })
        .await
}

/// What is worked on.
struct Begun {
    room: Nid,
    rules: RoomVersionRules,
    /// The join and what came since, in the order of the graph.
    list: Vec<Nid>,
}

fn begin(tx: &ReadTx<'_>, room: &RoomId, join: Nid) -> Result<Option<Begun>, RoomError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(None) };
    let Some(row) = rooms::room(tx, room)?.filter(|row| row.resident) else { return Ok(None) };
    if !is_about(tx, room, join)? {
        return Ok(None);
    }
    let rules =
        version::rules(&row.version).ok_or_else(|| RoomError::UnsupportedVersion(row.version.clone()))?;
    let since = events::event(tx, join)?.and_then(|join| join.seq).unwrap_or(Seq(i64::MAX));
    let list = order(tx, join, partial::events_since(tx, room, since)?)?;
    Ok(Some(Begun { room, rules, list }))
}

/// Whether the room is still the one that was joined then.
fn is_about(tx: &ReadTx<'_>, room: Nid, join: Nid) -> Result<bool, StoreError> {
    Ok(partial::partial(tx, room)?.is_some_and(|row| row.join == join))
}

/// The events so that previous ones come first.
fn order(tx: &ReadTx<'_>, join: Nid, list: Vec<Nid>) -> Result<Vec<Nid>, StoreError> {
    let mut prevs: HashMap<Nid, (i64, Vec<Nid>)> = HashMap::with_capacity(list.len());
    for nid in list {
        if let Some(event) = events::shared_event(tx, nid)? {
            prevs.insert(nid, (event.seq.map_or(i64::MAX, |seq| seq.0), event.prev.clone()));
        }
    }
    // The join builds on nothing that is here; else what came first is looked at first.
    let mut roots: Vec<(i64, Nid)> = prevs.iter().map(|(nid, (seq, _))| (*seq, *nid)).collect();
    roots.sort_unstable();
    let mut done = HashSet::with_capacity(roots.len());
    let mut order = Vec::with_capacity(roots.len());
    for root in std::iter::once(join).chain(roots.into_iter().map(|(_, nid)| nid)) {
        let mut stack = vec![(root, false)];
        while let Some((at, ready)) = stack.pop() {
            if ready {
                order.push(at);
            } else if prevs.contains_key(&at) && done.insert(at) {
                stack.push((at, true));
                let before = prevs.get(&at).map(|(_, before)| before.as_slice()).unwrap_or_default();
                stack.extend(before.iter().filter(|prev| !done.contains(*prev)).map(|prev| (*prev, false)));
            }
        }
    }
    Ok(order)
}

/// How far the events have been judged again.
#[derive(Default)]
struct Replay {
    /// The next one.
    at: usize,
    /// Ends of the graph of what was accepted, with the states after them.
    ends: Vec<(Nid, i64)>,
    /// What the ends' states resolve to.
    now: Option<i64>,
    /// Resolutions that were done: the same states meet again and again.
    resolved: HashMap<Vec<i64>, i64>,
}

impl Replay {
    /// Judges some events.
    fn step(
        &mut self,
        tx: &mut WriteTx<'_>,
        room: Nid,
        rules: &RoomVersionRules,
        join: Nid,
        told: &StateMap,
        list: &[Nid],
    ) -> Result<(), RoomError> {
        let resolves = self.resolved.len();
        let upto = list.len().min(self.at + EVENTS_CHUNK);
        while self.at < upto && self.resolved.len() < resolves + RESOLVES_CHUNK {
            let nid = list[self.at];
            self.at += 1;
            let Some(event) = events::event(tx, nid)? else { continue };
            if nid == join {
                let before = state::put(tx, room, told)?;
                self.place(tx, rules, event, before, true)?;
            } else if event.flags & PARTIAL == 0 {
                // It stands on a state that was told whole.
                self.stand(tx, rules, &event)?;
            } else {
                let before = self.before(tx, rules, &event)?;
                self.place(tx, rules, event, before, false)?;
            }
        }
        Ok(())
    }

    /// The state before an event: after its previous ones, as far as those are known.
    fn before(
        &mut self,
        tx: &mut WriteTx<'_>,
        rules: &RoomVersionRules,
        event: &EventRow,
    ) -> Result<i64, RoomError> {
        let mut sids = Vec::new();
        for prev in &event.prev {
            // One without a place may have the state that another server told for it.
            sids.extend(events::shared_event(tx, *prev)?.and_then(|prev| prev.state_after));
        }
        if sids.is_empty() {
            sids.extend(event.state_before);
        }
        self.resolve(tx, rules, event.room, sids)
    }

    fn resolve(
        &mut self,
        tx: &mut WriteTx<'_>,
        rules: &RoomVersionRules,
        room: Nid,
        mut sids: Vec<i64>,
    ) -> Result<i64, RoomError> {
        sids.sort_unstable();
        sids.dedup();
        if let [sid] = sids[..] {
            return Ok(sid);
        }
        if let Some(sid) = self.resolved.get(&sids) {
            return Ok(*sid);
        }
        let mut maps: Vec<NumberMap> = Vec::with_capacity(sids.len());
        for sid in &sids {
            maps.push(state::full(tx, *sid)?.into_iter().map(|(skey, nid)| (skey.0, nid.0)).collect());
        }
        let graph = StoredGraph::new(tx);
        let resolved = resolve::resolve(rules, &graph, &maps);
        graph.finish()?;
        let resolved = resolved.map_err(|error| RoomError::Rejected(error.to_string()))?;
        let map: StateMap = resolved.into_iter().map(|(skey, nid)| (Nid(skey), Nid(nid))).collect();
        let sid = state::put(tx, room, &map)?;
        self.resolved.insert(sids, sid);
        Ok(sid)
    }

    /// Judges an event by the state before it, and gives or takes its place.
    fn place(
        &mut self,
        tx: &mut WriteTx<'_>,
        rules: &RoomVersionRules,
        mut event: EventRow,
        before: i64,
        is_join: bool,
    ) -> Result<(), RoomError> {
        let verdict = match is_join {
            // It was let in by a server that knew the state.
            true => Verdict::Accepted,
            false => self.verdict(tx, rules, &event, before)?,
        };
        event.flags &= !(REJECTED | SOFT_FAILED);
        event.flags |= match verdict {
            Verdict::Accepted => 0,
            Verdict::SoftFailed => SOFT_FAILED,
            Verdict::Rejected => REJECTED,
        };
        event.state_before = Some(before);
        event.state_after = match event.skey {
            Some(skey) if verdict != Verdict::Rejected => {
                let old = state::one(tx, before, skey)?;
                Some(state::derive(tx, event.room, before, &[Change { skey, old, new: Some(event.nid) }])?)
            }
            _ => Some(before),
        };
        match (verdict, event.seq) {
            (Verdict::Accepted, None) => {
                // Kept back by mistake: shown now.
                let seq = tx.next_seq()?;
                event.seq = Some(seq);
                events::put(tx, &event)?;
                events::put_timeline(tx, event.room, event.depth, seq, event.nid)?;
                for prev in &event.prev {
                    events::put_edge(tx, *prev, event.nid)?;
                    if !events::is_placed(tx, *prev)? {
                        events::put_missing(tx, event.room, *prev, event.nid)?;
                    }
                }
                let msgs = rooms::room(tx, event.room)?.map_or(0, |row| row.msgs);
                events::put_stream(
                    tx,
                    seq,
                    stream_kind::EVENT,
                    Some(event.room),
                    None,
                    Some(event.nid),
                    msgs,
                )?;
            }
            (Verdict::Accepted, Some(_)) => events::put(tx, &event)?,
            (_, Some(_)) => {
                // Shown by mistake: nobody sees it any more.
                events::withdraw(tx, &event)?;
                event.seq = None;
                events::put(tx, &event)?;
            }
            (_, None) => events::put(tx, &event)?,
        }
        self.stand(tx, rules, &event)
    }

    /// The verdict on an event by the whole state before it, and by what the room's was when it came.
    fn verdict(
        &self,
        tx: &ReadTx<'_>,
        rules: &RoomVersionRules,
        event: &EventRow,
        before: i64,
    ) -> Result<Verdict, RoomError> {
        let pdu = load::pdu_of(tx, event)?;
        let create = rooms::room(tx, event.room)?.and_then(|row| row.create);
        let create = create.map(|nid| load::pdu(tx, nid)).transpose()?.flatten();
        let mut auth = Vec::new();
        for nid in &event.auth {
            auth.extend(load::pdu(tx, *nid)?);
        }
        let graph = StoredGraph::new(tx);
        let entry = |sid: i64, kind: &str, key: &str| -> Option<Arc<Pdu>> {
            let skey = graph.keep(tx.lookup_skey(kind, key))?;
            let nid = graph.keep(state::one(tx, sid, skey))?;
            graph.keep(load::pdu(tx, nid))
        };
        let now = self.now.filter(|now| *now != before);
        // What it was rejected for by its own auth events stands; the mark of the first time says nothing.
        let mut own = Pdu::clone(&pdu);
        own.rejected = false;
        let (verdict, reason) = authorize::decide(
            rules,
            &own,
            &Lookup::new(auth, create),
            |kind, key| entry(before, kind, key),
            now.map(|now| move |kind: &str, key: &str| entry(now, kind, key)),
        );
        graph.finish()?;
        if verdict != Verdict::Accepted {
            tracing::debug!(event = %pdu.event_id, reason, "not allowed by the whole state");
        }
        Ok(verdict)
    }

    /// Notes an event among the ends of the graph, and what the room's state is with it.
    fn stand(
        &mut self,
        tx: &mut WriteTx<'_>,
        rules: &RoomVersionRules,
        event: &EventRow,
    ) -> Result<(), RoomError> {
        if event.flags & (REJECTED | SOFT_FAILED | OUTLIER) != 0 {
            return Ok(());
        }
        let Some(after) = event.state_after else { return Ok(()) };
        self.ends.retain(|(end, _)| !event.prev.contains(end));
        self.ends.push((event.nid, after));
        let sids = self.ends.iter().map(|(_, sid)| *sid).collect();
        self.now = Some(self.resolve(tx, rules, event.room, sids)?);
        Ok(())
    }
}

/// Some changes of the present state, with their projections.
fn apply(
    tx: &mut WriteTx<'_>,
    room: Nid,
    now: i64,
    own: &ServerName,
    chunk: &[Change],
) -> Result<(), RoomError> {
    let Some(mut row) = rooms::room(tx, room)? else { return Ok(()) };
    let seq = tx.next_seq()?;
    // Members who come into view are no news: who loads them lazily asks, and who does not gets the room whole.
    let mut news = Vec::new();
    let mut found = Vec::new();
    for change in chunk {
        let member = change.old.is_none() && skey_split(&tx.text(change.skey)?).0 == MEMBER;
        if member { &mut found } else { &mut news }.push(*change);
    }
    state::apply(tx, room, None, &found)?;
    state::apply(tx, room, Some(seq), &news)?;
    let read = project::read_changes(tx, chunk)?;
    project::rooms::apply(&mut row, &read);
    let at = At { own, seq, state: now };
    let moved = project::membership::apply(tx, &mut row, &at, &read)?;
    row.audience = None;
    // Those who came into view are told apart from those who moved.
    let joined = Some(Membership::Join);
    let (found, moved_users): (Vec<_>, Vec<_>) =
        moved.users.into_iter().partition(|(_, before, after)| before.is_none() && *after == joined);
    tell_devices(tx, room, seq, own, &Moved { users: moved_users, ..Moved::default() })?;
    for (user, _, _) in found {
        device_lists::on_found(tx, room, seq, user, row.encryption.is_some())?;
    }
    rooms::put_room(tx, &row)?;
    Ok(())
}

/// The last step: from here on the room is one like others.
#[allow(clippy::too_many_arguments, reason = "everything that was worked out before")]
fn finish(
    tx: &mut WriteTx<'_>,
    room: Nid,
    partial: &PartialRoom,
    now: i64,
    ends: &[(Nid, i64)],
    list: &[Nid],
    told: &StateMap,
    own: &ServerName,
) -> Result<(), RoomError> {
    let Some(mut row) = rooms::room(tx, room)? else { return Ok(()) };
    let since = events::event(tx, partial.join)?.and_then(|join| join.seq).unwrap_or(Seq(i64::MAX));
    events::clear_forward(tx, room)?;
    for (end, _) in ends {
        events::put_forward(tx, room, *end)?;
    }
    for nid in list {
        partial::clear_flag(tx, *nid)?;
    }
    for server in &partial.servers {
        membership::count_server(tx, room, *server, -1)?;
    }
    partial::remove(tx, room)?;
    row.sid = now;
    row.head += 1;
    row.audience = None;
    row.resident = !membership::local_members(tx, room, Membership::Join)?.is_empty();
    rooms::put_room(tx, &row)?;
    let missed = missed(tx, partial, list, told, own)?;
    if !missed.is_empty() {
        catch_up(tx, own, list, (partial.join, since), &missed)?;
        for user in membership::local_members(tx, room, Membership::Join)? {
            device_lists::announce_since(tx, user, since, &missed)?;
        }
    }
    // Whoever waits for the whole room is told, and finds it by its position.
    let seq = tx.next_seq()?;
    events::put_stream(tx, seq, stream_kind::WHOLE, Some(room), None, None, row.msgs)?;
    partial::put_whole(tx, room, seq)?;
    tx.touch(Touched::Room(room));
    Ok(())
}

/// Servers that were in the room, and that we may not have known of all the time.
fn missed(
    tx: &mut WriteTx<'_>,
    partial: &PartialRoom,
    list: &[Nid],
    told: &StateMap,
    own: &ServerName,
) -> Result<Vec<Nid>, StoreError> {
    let mut names = HashSet::new();
    let mut look = |tx: &ReadTx<'_>, nid: Nid| -> Result<(), StoreError> {
        let Some(event) = events::shared_event(tx, nid)? else { return Ok(()) };
        let Some(skey) = event.skey else { return Ok(()) };
        let text = tx.text(skey)?;
        let (MEMBER, user) = skey_split(&text) else { return Ok(()) };
        let joined = project::text(&project::content(&event.client), "membership").as_deref() == Some("join");
        if let Ok(user) = <&UserId>::try_from(user)
            && joined
            && user.server_name() != own
        {
            names.insert(user.server_name().to_owned());
        }
        Ok(())
    };
    for nid in told.values().chain(list) {
        look(tx, *nid)?;
    }
    let mut servers = Vec::with_capacity(names.len());
    for name in names {
        servers.push(tx.intern(Kind::Server, name.as_str())?);
    }
    servers.retain(|server| !partial.servers.contains(server));
    servers.sort_unstable();
    Ok(servers)
}

/// Sends what we sent to the room meanwhile to servers that did not get it.
fn catch_up(
    tx: &mut WriteTx<'_>,
    own: &ServerName,
    list: &[Nid],
    (join, since): (Nid, Seq),
    missed: &[Nid],
) -> Result<(), StoreError> {
    let Some(audience) = outbox::audience(tx, missed)? else { return Ok(()) };
    let mut ours = Vec::new();
    for nid in list {
        let Some(event) = events::shared_event(tx, *nid)? else { continue };
        let local = UserId::parse(&*tx.text(event.sender)?).is_ok_and(|user| user.server_name() == own);
        // The join itself was told by the server that let us in.
        if local && event.nid != join && event.seq.is_some_and(|seq| seq >= since) {
            ours.push(*nid);
        }
    }
    for nid in ours.iter().skip(ours.len().saturating_sub(MISSED_MAX)) {
        outbox::push_event(tx, *nid, audience)?;
    }
    Ok(())
}
