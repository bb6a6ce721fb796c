//! Owns events that are here because something refers to them: auth chains, told states, history before its place is known.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{OwnedEventId, room_version_rules::RoomVersionRules};

use super::{
    append::outlier,
    authorize::{self, Lookup},
    load,
};
use crate::{
    room::{
        RoomError, Rooms,
        core::pdu::{CREATE, FullEvent, Pdu},
    },
    store::{
        Nid, ReadTx, StoreError,
        schema::{
            events::{self, REJECTED},
            state::StateMap,
        },
    },
};

/// Rows in one write: others get their turn between.
const WRITE_CHUNK: usize = 128;

impl Rooms {
    /// Stores verified events without a place, each judged by its own auth events (those of the list or here already).
    pub(in crate::room) async fn store_outliers(
        &self,
        rules: &Arc<RoomVersionRules>,
        list: Vec<FullEvent>,
    ) -> Result<(), RoomError> {
        let rules = rules.clone();
        let judged =
            self.inner.store.read(move |tx| -> Result<_, RoomError> { judge(tx, &rules, list) }).await?;
        let mut judged = judged.into_iter().peekable();
        while judged.peek().is_some() {
            let chunk: Vec<_> = judged.by_ref().take(WRITE_CHUNK).collect();
            self.inner
                .store
                .write(move |tx| -> Result<(), StoreError> {
                    for (event, rejected) in &chunk {
                        outlier(tx, event, *rejected)?;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(())
    }
}

/// The events in the order of their auth graph, with whether they are rejected.
fn judge(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    list: Vec<FullEvent>,
) -> Result<Vec<(FullEvent, bool)>, RoomError> {
    let order = order(&list);
    let mut slots: Vec<Option<FullEvent>> = list.into_iter().map(Some).collect();
    let mut known: HashMap<OwnedEventId, Arc<Pdu>> = HashMap::new();
    let mut create = None;
    let mut judged = Vec::with_capacity(slots.len());
    for index in order {
        let Some(event) = slots[index].take() else { continue };
        let pdu = event.pdu.clone();
        let mut auth = Vec::with_capacity(pdu.auth.len());
        for id in &pdu.auth {
            let found = match known.get(id) {
                Some(found) => Some(found.clone()),
                None => load::pdu_by_id(tx, id)?,
            };
            if let Some(found) = found {
                known.insert(id.clone(), found.clone());
                auth.push(found);
            }
        }
        if create.is_none() {
            create = create_of(tx, rules, &pdu, &known)?;
        }
        let verdict = authorize::at_own(rules, &pdu, &Lookup::new(auth, create.clone()));
        let rejected = verdict.is_err();
        if let Err(reason) = verdict {
            tracing::debug!(event = %pdu.event_id, reason, "an event without a place is rejected");
        }
        let mut seen = Pdu::clone(&pdu);
        seen.rejected = rejected;
        let seen = Arc::new(seen);
        if pdu.is_state(CREATE, "") && !rejected {
            create = Some(seen.clone());
        }
        known.insert(pdu.event_id.clone(), seen);
        judged.push((event, rejected));
    }
    Ok(judged)
}

/// The create event, where versions do not name it among the auth events.
fn create_of(
    tx: &ReadTx<'_>,
    rules: &RoomVersionRules,
    pdu: &Pdu,
    known: &HashMap<OwnedEventId, Arc<Pdu>>,
) -> Result<Option<Arc<Pdu>>, StoreError> {
    if !rules.authorization.room_create_event_id_as_room_id {
        return Ok(None);
    }
    let Some(id) =
        pdu.room.as_str().strip_prefix('!').and_then(|hash| ruma::EventId::parse(format!("${hash}")).ok())
    else {
        return Ok(None);
    };
    match known.get(&id) {
        Some(create) => Ok(Some(create.clone())),
        None => load::pdu_by_id(tx, &id),
    }
}

/// Indices so that auth events come first. Loops cannot be: an id is the hash of what it refers to.
fn order(list: &[FullEvent]) -> Vec<usize> {
    let index: HashMap<&OwnedEventId, usize> =
        list.iter().enumerate().map(|(index, event)| (&event.pdu.event_id, index)).collect();
    // The create event authorizes all, named or not.
    let mut roots: Vec<usize> = (0..list.len()).collect();
    roots.sort_by_key(|index| !list[*index].pdu.is_state(CREATE, ""));
    let mut done = HashSet::new();
    let mut order = Vec::with_capacity(list.len());
    for root in roots {
        let mut stack = vec![(root, false)];
        while let Some((at, ready)) = stack.pop() {
            if ready {
                order.push(at);
            } else if done.insert(at) {
                stack.push((at, true));
                for id in &list[at].pdu.auth {
                    if let Some(next) = index.get(id)
                        && !done.contains(next)
                    {
                        stack.push((*next, false));
                    }
                }
            }
        }
    }
    order
}

/// The state that a list of stored events makes. Rejected ones have no say.
pub(in crate::room) fn state_map(tx: &ReadTx<'_>, list: &[OwnedEventId]) -> Result<StateMap, StoreError> {
    let mut map = StateMap::new();
    for id in list {
        if let Some(event) = events::event_by_id(tx, id)?
            && event.flags & REJECTED == 0
            && let Some(skey) = event.skey
        {
            map.insert(skey, event.nid);
        }
    }
    Ok(map)
}

/// Which of some events are not here in any form.
pub(in crate::room) fn unknown(
    tx: &ReadTx<'_>,
    list: &[OwnedEventId],
) -> Result<Vec<OwnedEventId>, StoreError> {
    let mut missing = Vec::new();
    for id in list {
        let here: Option<Nid> = match events::nid(tx, id)? {
            Some(nid) => events::event(tx, nid)?.map(|event| event.nid),
            None => None,
        };
        if here.is_none() {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}
