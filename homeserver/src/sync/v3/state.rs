//! The state part of one room: what the client must know before it reads the timeline.
//!
//! It follows the resolved state through its deltas. For a room that the client knows: the net change up to the
//! timeline's start. For one that is new to it: the present state, with the deltas from the timeline's start on undone.
//! In both cases also what changed later without its event being in the timeline (a filter left it out, or a merge of
//! forks brought it back).

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{Context, Plan};
use crate::{
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        ids::skey_split,
        schema::{
            events::{self, EventRow},
            partial,
            state::{self, Change},
        },
    },
    sync::{
        filter::Members,
        lazy::Member,
        timeline::{Timeline, has_url},
    },
};

const MEMBER: &str = "m.room.member";

/// From where the state part is made.
#[derive(Clone, Copy, Debug)]
pub(super) enum From {
    /// The client knows the state at this position.
    Position(Seq),
    /// The client knows nothing: from the present state.
    Nothing,
    /// The client knows nothing, and the user left: from the state as it was then.
    Snapshot(i64),
}

/// The state part.
#[derive(Debug, Default)]
pub(super) struct StatePart {
    pub(super) events: Vec<EventRow>,
    /// Members that lazy loading shows by it.
    pub(super) members: Vec<Member>,
    /// Whether a membership changed since the client's position.
    pub(super) moved: bool,
}

/// A room whose state part is made.
pub(super) struct StateOf<'a> {
    pub(super) tx: &'a ReadTx<'a>,
    pub(super) context: &'a Context,
    pub(super) plan: &'a Plan,
    pub(super) room: Nid,
    pub(super) room_id: &'a str,
    pub(super) timeline: &'a Timeline,
    /// Deltas up to here are the client's business.
    pub(super) upto: Seq,
    pub(super) from: From,
}

impl StateOf<'_> {
    /// Reads the state part. `more` are users whose member events are needed beside those of the timeline's senders.
    pub(super) fn load(
        &self,
        more: impl FnOnce(&mut StatePart) -> Result<Vec<Nid>, StoreError>,
    ) -> Result<StatePart, StoreError> {
        let mut part = StatePart::default();
        let start = self.start();
        let after = match self.from {
            From::Position(seq) => seq,
            From::Nothing | From::Snapshot(_) => Seq(start.0 - 1),
        };
        let deltas = match self.from {
            // The snapshot is of the end: nothing came later.
            From::Snapshot(_) => state::deltas(self.tx, self.room, after, self.upto)?,
            // Also what came after the plan: the present state has it already.
            From::Nothing | From::Position(_) => state::deltas(self.tx, self.room, after, Seq(i64::MAX))?,
        };
        let seen = |seq: Seq| seq <= self.upto;
        for (seq, change) in &deltas {
            part.moved |= seen(*seq) && self.is_member(change.skey)?;
        }
        let mut chosen: BTreeMap<Nid, Nid> = match self.from {
            From::Position(_) => net(deltas.iter().filter(|(seq, _)| *seq < start && seen(*seq))),
            From::Nothing => self.undone(self.present()?, &deltas)?,
            From::Snapshot(sid) => self.undone(state::full(self.tx, sid)?, &deltas)?,
        };
        // The last change of each pair from the timeline's start on, if its event is not there to tell of it.
        let mut later: BTreeMap<Nid, Option<Nid>> = BTreeMap::new();
        for (_, change) in deltas.iter().filter(|(seq, _)| *seq >= start && seen(*seq)) {
            later.insert(change.skey, change.new);
        }
        for (skey, new) in later {
            if let Some(new) = new.filter(|new| !self.has_its_turn(*new)) {
                chosen.insert(skey, new);
            }
        }
        let needed = self.needed(more(&mut part)?);
        self.choose_members(&mut part, &mut chosen, &needed, &deltas)?;
        let filter = &self.context.filter.state;
        if filter.is_closed_in(self.room_id) {
            return Ok(part);
        }
        for nid in chosen.into_values() {
            let Some(event) = events::event(self.tx, nid)? else { continue };
            let passes = filter.is_open() || {
                let (kind, sender) = (self.tx.text(event.kind)?, self.tx.text(event.sender)?);
                filter.passes(&kind, &sender, || has_url(&event.client))
            };
            // An event that the timeline shows has its turn there.
            if passes && !self.has_its_turn(nid) {
                part.events.push(event);
            }
        }
        Ok(part)
    }

    /// Deltas from here on are the timeline's to tell: its start, or, for who wants the state after it, its end.
    fn start(&self) -> Seq {
        if self.context.state_after.is_some() {
            Seq(self.upto.0.saturating_add(1))
        } else {
            self.timeline.start
        }
    }

    /// Whether the timeline tells of this event. Who wants the state after it looks for state in the state part alone.
    fn has_its_turn(&self, event: Nid) -> bool {
        self.context.state_after.is_none() && self.timeline.contains(event)
    }

    fn lazy(&self) -> bool {
        self.context.filter.members != Members::All
    }

    fn is_member(&self, skey: Nid) -> Result<bool, StoreError> {
        Ok(skey_split(&self.tx.text(skey)?).0 == MEMBER)
    }

    /// The room's present state; without members if those are loaded lazily.
    fn present(&self) -> Result<BTreeMap<Nid, Nid>, StoreError> {
        if self.lazy() {
            state::current_rest(self.tx, self.room)
        } else {
            state::current_all(self.tx, self.room)
        }
    }

    /// State before the deltas from the timeline's start on; without members if those are loaded lazily.
    fn undone(
        &self,
        mut map: BTreeMap<Nid, Nid>,
        deltas: &[(Seq, Change)],
    ) -> Result<BTreeMap<Nid, Nid>, StoreError> {
        for (_, change) in deltas.iter().rev() {
            match change.old {
                Some(old) => drop(map.insert(change.skey, old)),
                None => drop(map.remove(&change.skey)),
            }
        }
        if self.lazy() {
            let mut members = Vec::new();
            for skey in map.keys() {
                if self.is_member(*skey)? {
                    members.push(*skey);
                }
            }
            for skey in members {
                map.remove(&skey);
            }
        }
        Ok(map)
    }

    /// Users whose member events a lazily loading client needs.
    fn needed(&self, more: Vec<Nid>) -> BTreeSet<Nid> {
        if !self.lazy() {
            return BTreeSet::new();
        }
        let mut needed: BTreeSet<Nid> = self.timeline.events.iter().map(|event| event.sender).collect();
        needed.extend(more);
        if !matches!(self.from, From::Position(_)) {
            needed.insert(self.context.user);
        }
        needed
    }

    /// A member that is not here yet, as the user's own events in the timeline name it.
    fn named_by(&self, user: Nid, skey: Nid) -> Result<Option<Nid>, StoreError> {
        for event in self.timeline.events.iter().rev().filter(|event| event.sender == user) {
            for auth in &event.auth {
                if events::shared_event(self.tx, *auth)?.is_some_and(|auth| auth.skey == Some(skey)) {
                    return Ok(Some(*auth));
                }
            }
        }
        Ok(None)
    }

    /// Adds the needed members as they were at the timeline's start.
    fn choose_members(
        &self,
        part: &mut StatePart,
        chosen: &mut BTreeMap<Nid, Nid>,
        needed: &BTreeSet<Nid>,
        deltas: &[(Seq, Change)],
    ) -> Result<(), StoreError> {
        if !self.lazy() {
            return Ok(());
        }
        let new_room = !matches!(self.from, From::Position(_));
        let partial = partial::is_partial(self.tx, self.room)?;
        for user in needed {
            let Some(skey) = self.tx.lookup_skey(MEMBER, &self.tx.text(*user)?)? else { continue };
            if chosen.contains_key(&skey) {
                continue;
            }
            let undone = deltas.iter().find(|(seq, change)| *seq >= self.start() && change.skey == skey);
            let event = match (undone, self.from) {
                (Some((_, change)), _) => change.old,
                (None, From::Snapshot(sid)) => state::one(self.tx, sid, skey)?,
                (None, _) => state::current(self.tx, self.room, skey)?,
            };
            let event = match event {
                None if partial => self.named_by(*user, skey)?,
                event => event,
            };
            let Some(event) = event else { continue };
            let known = self.plan.known.get(&(self.room, *user)) == Some(&event);
            if known && !new_room && self.context.filter.members == Members::Lazy {
                continue;
            }
            chosen.insert(skey, event);
            part.members.push((self.room, *user, event));
        }
        // What the timeline and the deltas show need not be shown again either.
        let shown: HashSet<Nid> = chosen.values().copied().collect();
        for event in &self.timeline.events {
            if let Some(skey) = event.skey.filter(|_| !shown.contains(&event.nid))
                && let (MEMBER, user) = skey_split(&self.tx.text(skey)?)
                && let Some(user) = self.tx.lookup(Kind::User, user)?
            {
                part.members.push((self.room, user, event.nid));
            }
        }
        Ok(())
    }
}

/// What changed for good: pairs whose event at the end is another than at the beginning.
fn net<'a>(deltas: impl Iterator<Item = &'a (Seq, Change)>) -> BTreeMap<Nid, Nid> {
    let mut ends: BTreeMap<Nid, (Option<Nid>, Option<Nid>)> = BTreeMap::new();
    for (_, change) in deltas {
        ends.entry(change.skey).or_insert((change.old, None)).1 = change.new;
    }
    ends.into_iter()
        .filter(|(_, (old, new))| old != new)
        .filter_map(|(skey, (_, new))| Some((skey, new?)))
        .collect()
}
