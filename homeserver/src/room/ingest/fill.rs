//! Owns the way back from an event to what is here: what lies between is asked for until there is no gap any more, or the
//! gap is too long to be filled.
//!
//! Only what the event really builds on is taken. A server that is asked names our ends of the graph as far as it knows
//! them, and goes on behind them to what was before we joined; that is history, and comes by backfill.

use std::collections::{HashMap, HashSet};

use ruma::{OwnedEventId, ServerName};
use tokio::sync::oneshot;

use super::{
    gaps::{Known, ends, unreachable},
    place,
    worker::Taken,
};
use crate::{
    room::{RoomError, Rooms, core::pdu::FullEvent},
    store::StoreError,
};

/// Events asked for at once. Others answer with as many as they like (Synapse: 20).
const ASK_EVENTS: u32 = 100;
/// Events that fill one gap. A longer one is bridged by the state at its end; what is before that comes by backfill.
pub(super) const GAP_EVENTS_MAX: usize = 500;
/// An answer with fewer events was not cut short: ten is what a server gives to who names no limit, and no known one gives
/// fewer of more. What lies before is not to be had by asking on.
const WHOLE_BELOW: usize = 10;
/// Questions about one gap.
const QUESTIONS_MAX: usize = 25;
/// Events whose past is asked for in one question.
const LATEST_MAX: usize = 20;

/// What was found of a gap.
#[derive(Default)]
struct Way {
    /// Oldest first: what an event builds on comes before it.
    order: Vec<OwnedEventId>,
    /// Those that build on what is neither here nor found.
    edges: HashSet<OwnedEventId>,
}

impl Rooms {
    /// Fetches what lies between what is here and an event, and takes it, oldest first.
    pub(super) async fn fill_gap(
        &self,
        origin: &ServerName,
        known: &Known,
        event: &FullEvent,
    ) -> Result<(), RoomError> {
        let pdu = &event.pdu;
        let mut found: HashMap<OwnedEventId, FullEvent> = HashMap::new();
        let mut latest = vec![pdu.event_id.clone()];
        let mut way = Way::default();
        for question in 0..QUESTIONS_MAX {
            let room = pdu.room.clone();
            let earliest = self.inner.store.read(move |tx| ends(tx, &room)).await?;
            let answer =
                self.inner.fetch.missing_events(origin, &pdu.room, earliest, latest, ASK_EVENTS, 0).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) if question == 0 => return Err(unreachable(error)),
                Err(_) => break,
            };
            let was_cut = answer.len() >= WHOLE_BELOW;
            for event in self.verify_all(&pdu.room, answer, &known.rules).await {
                found.insert(event.pdu.event_id.clone(), event);
            }
            found.remove(&pdu.event_id);
            let before = way.order.len();
            way = self.way(event, &found).await?;
            // What lies on no way to the event is not kept.
            found.retain(|id, _| way.order.contains(id));
            let is_new = way.order.len() > before;
            if way.edges.is_empty() || !is_new || !was_cut || way.order.len() >= GAP_EVENTS_MAX {
                break;
            }
            latest = way.edges.iter().take(LATEST_MAX).cloned().collect();
        }
        let list = way.order.iter().filter_map(|id| found.remove(id)).collect();
        self.take_way(origin, known, list, &way.edges).await
    }

    /// Takes the events of a way. Those that lack nothing share commits.
    async fn take_way(
        &self,
        origin: &ServerName,
        known: &Known,
        list: Vec<FullEvent>,
        edges: &HashSet<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let mut under_way: Vec<(FullEvent, oneshot::Receiver<Result<Taken, RoomError>>)> = Vec::new();
        for event in list {
            let result = match edges.contains(&event.pdu.event_id) {
                true => {
                    self.take_told(origin, known, &event).await;
                    continue;
                }
                false => self.submit_pdu(event.clone(), None, None).await?,
            };
            under_way.push((event, result));
        }
        for (event, result) in under_way {
            // What builds on one that lacked something lacks that one, and is taken again after it.
            if matches!(result.await.map_err(|_| RoomError::Busy)?, Ok(Taken::Missing { .. })) {
                self.take_told(origin, known, &event).await;
            }
        }
        Ok(())
    }

    async fn take_told(&self, origin: &ServerName, known: &Known, event: &FullEvent) {
        // One that does not hold takes down what builds on it, not the others.
        if let Err(error) = self.take_found(origin, known, event, None).await {
            tracing::debug!(%origin, event = %event.pdu.event_id, %error, "an event of a gap was not taken");
        }
    }

    /// The way from what is here to an event, as far as it was found.
    async fn way(
        &self,
        event: &FullEvent,
        found: &HashMap<OwnedEventId, FullEvent>,
    ) -> Result<Way, RoomError> {
        let mut asked: Vec<OwnedEventId> = found.values().flat_map(|event| event.pdu.prev.clone()).collect();
        asked.extend(event.pdu.prev.iter().cloned());
        asked.extend(found.keys().cloned());
        asked.sort_unstable();
        asked.dedup();
        let missing =
            self.inner.store.read(move |tx| -> Result<_, StoreError> { place::missing(tx, &asked) }).await?;
        Ok(walk(event, found, &missing.into_iter().collect()))
    }
}

/// `missing`: which of all that is named are not here.
fn walk(event: &FullEvent, found: &HashMap<OwnedEventId, FullEvent>, missing: &HashSet<OwnedEventId>) -> Way {
    let mut way = Way::default();
    let mut seen: HashSet<&OwnedEventId> = HashSet::new();
    let mut open: Vec<(&FullEvent, bool)> = vec![(event, false)];
    while let Some((at, ready)) = open.pop() {
        let id = &at.pdu.event_id;
        if ready {
            if *id != event.pdu.event_id {
                way.order.push(id.clone());
            }
            continue;
        }
        if !seen.insert(id) {
            continue;
        }
        open.push((at, true));
        for prev in at.pdu.prev.iter().filter(|prev| missing.contains(*prev)) {
            match found.get(prev) {
                Some(prev) if !seen.contains(&prev.pdu.event_id) => open.push((prev, false)),
                None if *id != event.pdu.event_id => {
                    way.edges.insert(id.clone());
                }
                _ => {}
            }
        }
    }
    way
}
