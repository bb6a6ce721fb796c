//! Verified to Placed: the state before an event, and what the room's state becomes by it.
//!
//! Works over one snapshot of the database, while nothing of the room is on its way to the writer.

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, RoomId, room_version_rules::RoomVersionRules};

use super::{
    append::{After, Before, SELF, SELF_SKEY, Verdict, behind_failed},
    authorize::{self, Lookup},
    head::Key,
    load::{self, StoredGraph},
};
use crate::{
    room::{
        RoomError,
        core::{
            auth::{self, Action},
            pdu::Pdu,
            resolve::{self, Graph, NumberMap},
        },
    },
    store::{
        Kind, Nid, ReadTx, StoreError,
        schema::{
            chain::{Link, Place},
            events::{self, EventRow, OUTLIER},
            partial,
            rooms::{self, RoomRow},
            state::{self, StateMap},
        },
    },
};

/// What is here of what an event refers to.
pub(in crate::room) struct Look {
    /// The event itself is here, with a place.
    pub(in crate::room) known: bool,
    /// Of the previous events asked for, those after which the state is `snapshot`.
    pub(in crate::room) present_state: Vec<OwnedEventId>,
    /// Of the auth events asked for, those that are here.
    pub(in crate::room) auth: Vec<Arc<Pdu>>,
}

/// Looks once for all that the first stages need.
pub(in crate::room) fn look(
    tx: &ReadTx<'_>,
    id: &EventId,
    prev: Vec<OwnedEventId>,
    auth: Vec<OwnedEventId>,
    snapshot: Option<i64>,
) -> Result<Look, StoreError> {
    let known = events::event_by_id(tx, id)?.is_some_and(|event| event.flags & OUTLIER == 0);
    let mut present_state = Vec::new();
    if let Some(snapshot) = snapshot {
        for prev in prev {
            if placed(tx, &prev)?.is_some_and(|event| event.state_after == Some(snapshot)) {
                present_state.push(prev);
            }
        }
    }
    let mut found = Vec::new();
    for id in auth {
        found.extend(load::pdu_by_id(tx, &id)?);
    }
    Ok(Look { known, present_state, auth: found })
}

/// Previous events that have no place here.
pub(in crate::room) fn missing(
    tx: &ReadTx<'_>,
    prev: &[OwnedEventId],
) -> Result<Vec<OwnedEventId>, StoreError> {
    let mut missing = Vec::new();
    for prev in prev {
        if placed(tx, prev)?.is_none() {
            missing.push(prev.clone());
        }
    }
    Ok(missing)
}

/// An event whose state is known.
fn placed(tx: &ReadTx<'_>, id: &EventId) -> Result<Option<EventRow>, StoreError> {
    Ok(events::event_by_id(tx, id)?.filter(|event| event.flags & OUTLIER == 0 && event.state_after.is_some()))
}

/// State entries that a resolution may look at in the time of an ordinary read; one that looks at more runs slowly.
pub(in crate::room) const WIDE_ENTRIES: usize = 4_000;

/// Whether the states that meet at an event, or at the ends of the graph, are many or large.
pub(in crate::room) fn is_wide(
    tx: &ReadTx<'_>,
    room: &RoomId,
    prev: &[OwnedEventId],
) -> Result<bool, StoreError> {
    let mut sids = Vec::new();
    for prev in prev {
        sids.extend(placed(tx, prev)?.and_then(|prev| prev.state_after));
    }
    if let Some(room) = tx.lookup(Kind::Room, room.as_str())? {
        for end in events::forward(tx, room)? {
            sids.extend(events::event(tx, end)?.and_then(|end| end.state_after));
        }
    }
    sids.sort_unstable();
    sids.dedup();
    let mut entries = 0;
    for sid in sids {
        entries += state::size(tx, sid)?;
    }
    Ok(entries > WIDE_ENTRIES as i64)
}

/// An event with its place and the rules' verdict.
pub(in crate::room) struct Placed {
    /// The room's head that this was worked out on.
    pub(in crate::room) head: i64,
    pub(in crate::room) before: Before,
    pub(in crate::room) after: After,
    pub(in crate::room) verdict: Verdict,
    pub(in crate::room) reason: String,
    /// The sender may redact others' events, by the state before.
    pub(in crate::room) power: bool,
}

/// Works out everything from what is stored. `told`: for an event whose previous ones are not all here, the states after
/// those that are missing, as another server says.
/// `unsigned`: why it is softly failed even if the rules allow it.
pub(in crate::room) fn place(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    event: &Arc<Pdu>,
    told: Option<Vec<StateMap>>,
    unsigned: Option<String>,
) -> Result<Placed, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    let room = tx.lookup(Kind::Room, event.room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, room)?.ok_or_else(unknown)?;
    let graph = NewGraph::new(tx, event)?;
    let before = before(tx, rules, &row, &event.prev, told, &graph)?;
    let own = event.auth.iter().filter_map(|id| graph.pdu(graph.number(id)?)).collect();
    let create = row.create.and_then(|nid| graph.pdu(nid.0));
    let own = Lookup::new(own, create.clone());
    let partial = partial::is_partial(tx, room)?;
    let entry = |kind: &str, key: &str| -> Option<Arc<Pdu>> {
        let here = || {
            let skey = Nid(graph.skey(kind, key)?);
            graph.pdu(graph.stored.keep(before.entry(tx, room, skey))?.0)
        };
        own.in_part(partial, event, (kind, key), here)
    };
    let now = |kind: &str, key: &str| -> Option<Arc<Pdu>> {
        let here = || {
            let nid = graph.stored.keep(state::current(tx, room, Nid(graph.skey(kind, key)?)))?;
            graph.pdu(nid.0)
        };
        own.in_part(partial, event, (kind, key), here)
    };
    let (verdict, reason) =
        authorize::decide(rules, event, &own, entry, (!matches!(before, Before::Current)).then_some(now));
    let (verdict, reason) = match unsigned {
        Some(unsigned) if verdict == Verdict::Accepted => (Verdict::SoftFailed, unsigned),
        _ => (verdict, reason),
    };
    let power = create.is_some_and(|create| {
        auth::may(rules, &create, entry("m.room.power_levels", "").as_ref(), &event.sender, Action::Redact)
    });
    let after = match verdict {
        Verdict::Accepted => after(tx, rules, &row, event, &before, &graph)?,
        _ => After::Resolved(Vec::new()),
    };
    graph.stored.finish()?;
    Ok(Placed { head: row.head, before, after, verdict, reason, power })
}

/// Entries of the state before an event of ours that builds on these, whatever the room's present state is.
pub(in crate::room) fn entries_on(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    room: &RoomId,
    prev: &[OwnedEventId],
    keys: Vec<Key>,
) -> Result<HashMap<Key, Option<Arc<Pdu>>>, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    let room = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, room)?.ok_or_else(unknown)?;
    let graph = StoredGraph::new(tx);
    let before = before(tx, rules, &row, prev, None, &graph)?;
    let mut entries = HashMap::with_capacity(keys.len());
    for key in keys {
        let event = match graph.skey(&key.0, &key.1) {
            Some(skey) => before.entry(tx, room, Nid(skey))?,
            None => None,
        };
        entries.insert(key, event.and_then(|event| graph.pdu(event.0)));
    }
    graph.finish()?;
    Ok(entries)
}

/// The state before an event: of its previous ones that are here, and as told for the others.
fn before(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    row: &RoomRow,
    prev: &[OwnedEventId],
    told: Option<Vec<StateMap>>,
    graph: &impl Graph,
) -> Result<Before, RoomError> {
    let mut sids = Vec::new();
    for prev in prev {
        match placed(tx, prev)? {
            Some(prev) => sids.extend(prev.state_after),
            None if told.is_some() => {}
            None => return Err(RoomError::Rejected("a previous event is missing".into())),
        }
    }
    sids.sort_unstable();
    sids.dedup();
    let mut told = told.unwrap_or_default();
    if sids.is_empty() && told.len() == 1 {
        return Ok(Before::Map(told.remove(0)));
    }
    match sids[..] {
        [] if told.is_empty() => Err(RoomError::Rejected("the event has no previous events".into())),
        [sid] if told.is_empty() && sid == row.sid => Ok(Before::Current),
        [sid] if told.is_empty() => Ok(Before::Snapshot(sid)),
        _ => {
            let mut maps = sids.iter().map(|sid| numbers(tx, *sid)).collect::<Result<Vec<_>, _>>()?;
            maps.extend(told.iter().map(|map| map.iter().map(|(skey, nid)| (skey.0, nid.0)).collect()));
            let resolved = resolve::resolve(rules, graph, &maps)
                .map_err(|error| RoomError::Rejected(error.to_string()))?;
            Ok(Before::Map(resolved.into_iter().map(|(skey, nid)| (Nid(skey), Nid(nid))).collect()))
        }
    }
}

/// How the room's resolved state changes by an accepted event.
fn after(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    row: &RoomRow,
    event: &Arc<Pdu>,
    before: &Before,
    graph: &NewGraph<'_, '_>,
) -> Result<After, RoomError> {
    // The other ends of the graph, by the states after them.
    let mut others = Vec::new();
    let mut covered = Vec::new();
    let mut prev = Vec::with_capacity(event.prev.len());
    for id in &event.prev {
        prev.extend(events::nid(tx, id)?);
    }
    let behind = behind_failed(tx, &prev)?;
    for end in events::forward(tx, row.room)? {
        let sid = events::event(tx, end)?.and_then(|event| event.state_after);
        let list = if prev.contains(&end) || behind.contains(&end) { &mut covered } else { &mut others };
        list.extend(sid);
    }
    others.sort_unstable();
    others.dedup();
    let is_state = event.state_key.is_some();
    if !is_state {
        // A message changes nothing by itself, and the ends' states are the same as before if it only takes the place of
        // one with the same state.
        let own = match before {
            Before::Current => Some(row.sid),
            Before::Snapshot(sid) => Some(*sid),
            Before::Map(_) => None,
        };
        if let Some(own) = own
            && (others.contains(&own) || covered.contains(&own))
            && covered.iter().all(|sid| *sid == own || others.contains(sid))
        {
            return Ok(After::Resolved(Vec::new()));
        }
    }
    let mut own = match before {
        Before::Current => numbers(tx, row.sid)?,
        Before::Snapshot(sid) => numbers(tx, *sid)?,
        Before::Map(map) => map.iter().map(|(skey, nid)| (skey.0, nid.0)).collect(),
    };
    if let Some(key) = &event.state_key {
        let skey = graph.skey(&event.type_name, key).unwrap_or(SELF_SKEY.0);
        own.insert(skey, SELF.0);
    }
    let mut maps = vec![own];
    for sid in others {
        maps.push(numbers(tx, sid)?);
    }
    let resolved =
        resolve::resolve(rules, graph, &maps).map_err(|error| RoomError::Rejected(error.to_string()))?;
    let current = state::current_all(tx, row.room)?;
    let resolved: StateMap = resolved.into_iter().map(|(skey, nid)| (Nid(skey), Nid(nid))).collect();
    Ok(After::Resolved(state::diff(&current, &resolved)))
}

fn numbers(tx: &ReadTx<'_>, sid: i64) -> Result<NumberMap, StoreError> {
    tx.breathe()?;
    Ok(state::full(tx, sid)?.into_iter().map(|(skey, nid)| (skey.0, nid.0)).collect())
}

/// The stored graph and the one event that is not stored yet.
struct NewGraph<'a, 'b> {
    stored: StoredGraph<'a, 'b>,
    event: Arc<Pdu>,
    auth: Arc<[i64]>,
}

impl<'a, 'b> NewGraph<'a, 'b> {
    fn new(tx: &'a ReadTx<'b>, event: &Arc<Pdu>) -> Result<Self, StoreError> {
        let mut auth = Vec::new();
        for id in &event.auth {
            auth.extend(events::nid(tx, id)?.map(|nid| nid.0));
        }
        Ok(Self { stored: StoredGraph::new(tx), event: event.clone(), auth: auth.into() })
    }
}

impl Graph for NewGraph<'_, '_> {
    fn auth(&self, event: i64) -> Option<Arc<[i64]>> {
        if event == SELF.0 { Some(self.auth.clone()) } else { self.stored.auth(event) }
    }

    fn pdu(&self, event: i64) -> Option<Arc<Pdu>> {
        if event == SELF.0 { Some(self.event.clone()) } else { self.stored.pdu(event) }
    }

    fn number(&self, id: &EventId) -> Option<i64> {
        if *id == *self.event.event_id { Some(SELF.0) } else { self.stored.number(id) }
    }

    fn key(&self, skey: i64) -> Option<(String, String)> {
        if skey == SELF_SKEY.0 { self.event.key() } else { self.stored.key(skey) }
    }

    fn skey(&self, kind: &str, key: &str) -> Option<i64> {
        self.stored.skey(kind, key).or_else(|| self.event.is_state(kind, key).then_some(SELF_SKEY.0))
    }
    fn place(&self, event: i64) -> Option<Place> {
        // It is in no chain yet; what it builds on is walked one step.
        if event == SELF.0 { None } else { self.stored.place(event) }
    }

    fn links(&self, chain: i64) -> Arc<[Link]> {
        self.stored.links(chain)
    }

    fn range(&self, chain: i64, after: i64, upto: i64) -> Vec<i64> {
        self.stored.range(chain, after, upto)
    }
}
