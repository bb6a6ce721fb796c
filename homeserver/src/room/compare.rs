//! Owns state resolution over events that are given as JSON, so that other implementations can be asked the same
//! (`examples/resolve.rs`, `tests/system/test_resolution.py`).

use std::{collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedEventId, RoomId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::core::{
    check,
    pdu::Pdu,
    resolve::{self, Graph, NumberMap},
    version,
};
use crate::store::schema::chain::{Link, Place};

/// States of a room of a version, by the ids of their events, and all events that these build on.
#[derive(Deserialize)]
struct Question {
    version: String,
    room: String,
    events: Vec<Given>,
    sets: Vec<Vec<OwnedEventId>>,
}

#[derive(Deserialize)]
struct Given {
    id: OwnedEventId,
    rejected: bool,
    pdu: Box<RawValue>,
}

/// The ids of the resolved state's events, as a sorted JSON list, for a question `{version, room, events: [{id, rejected,
/// pdu}], sets: [[id]]}`. The error says what is wrong with the question.
pub fn resolved(question: &str) -> Result<String, String> {
    let question: Question = serde_json::from_str(question).map_err(|error| error.to_string())?;
    let rules = version::rules(&question.version).ok_or("this room version is not known")?;
    let room = RoomId::parse(&question.room).map_err(|error| error.to_string())?;
    let mut given = InMemory::default();
    for event in question.events {
        let object = check::parse(&event.pdu).map_err(|error| error.to_string())?;
        let mut pdu = Pdu::read(event.id, &room, &object).map_err(|error| error.to_string())?;
        pdu.rejected = event.rejected;
        given.add(pdu);
    }
    let mut maps = Vec::new();
    for set in question.sets {
        let mut map = NumberMap::new();
        for id in set {
            let number = given.number(&id).ok_or_else(|| format!("{id} is not among the events"))?;
            let key = given.events[number as usize].key().ok_or_else(|| format!("{id} is no state"))?;
            map.insert(given.skey(&key.0, &key.1).ok_or("no key")?, number);
        }
        maps.push(map);
    }
    let resolved = resolve::resolve(&rules, &given, &maps).map_err(|error| error.to_string())?;
    let mut ids: Vec<&OwnedEventId> =
        resolved.values().map(|number| &given.events[*number as usize].event_id).collect();
    ids.sort();
    serde_json::to_string(&ids).map_err(|error| error.to_string())
}

/// Events by their places in a list.
#[derive(Default)]
struct InMemory {
    events: Vec<Arc<Pdu>>,
    numbers: HashMap<OwnedEventId, i64>,
    keys: Vec<(String, String)>,
    skeys: HashMap<(String, String), i64>,
}

impl InMemory {
    fn add(&mut self, pdu: Pdu) {
        self.numbers.insert(pdu.event_id.clone(), self.events.len() as i64);
        if let Some(key) = pdu.key()
            && !self.skeys.contains_key(&key)
        {
            self.skeys.insert(key.clone(), self.keys.len() as i64);
            self.keys.push(key);
        }
        self.events.push(Arc::new(pdu));
    }
}

impl Graph for InMemory {
    fn auth(&self, event: i64) -> Option<Arc<[i64]>> {
        Some(self.pdu(event)?.auth.iter().filter_map(|id| self.numbers.get(id).copied()).collect())
    }

    fn pdu(&self, event: i64) -> Option<Arc<Pdu>> {
        self.events.get(usize::try_from(event).ok()?).cloned()
    }

    fn number(&self, id: &EventId) -> Option<i64> {
        self.numbers.get(id).copied()
    }

    fn key(&self, skey: i64) -> Option<(String, String)> {
        self.keys.get(usize::try_from(skey).ok()?).cloned()
    }

    fn skey(&self, kind: &str, key: &str) -> Option<i64> {
        self.skeys.get(&(kind.to_owned(), key.to_owned())).copied()
    }

    // Without a cover of chains everything is walked.
    fn place(&self, _: i64) -> Option<Place> {
        None
    }

    fn links(&self, _: i64) -> Arc<[Link]> {
        Arc::new([])
    }

    fn range(&self, _: i64, _: i64, _: i64) -> Vec<i64> {
        Vec::new()
    }
}
