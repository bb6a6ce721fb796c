//! Owns reading stored events back as the rules see them, and the graph that resolution asks.

use std::{cell::RefCell, collections::HashMap, sync::Arc};

use ruma::{EventId, OwnedRoomId, RoomId, room_version_rules::RoomVersionRules};

use crate::{
    room::{
        core::{canonical, pdu::Pdu, resolve::Graph},
        read::json,
    },
    store::{
        Nid, ReadTx, StoreError,
        ids::skey_split,
        schema::{
            chain::{self, Link, Place},
            events::{self, EventRow, NO_ROOM_ID, REJECTED},
        },
    },
};

/// A stored event as the rules see it.
pub(in crate::room) fn pdu_of(tx: &ReadTx<'_>, event: &EventRow) -> Result<Arc<Pdu>, StoreError> {
    let room = room_id(tx, event.room)?;
    let id = event.key.id()?;
    let ids = |list: &[Nid]| list.iter().map(|nid| events::id(tx, *nid)).collect::<Result<Vec<_>, _>>();
    let lists = (ids(&event.prev)?, ids(&event.auth)?);
    let says_room = event.flags & NO_ROOM_ID == 0;
    let rejected = event.flags & REJECTED != 0;
    let old = id.server_name().is_some();
    let mut pdu = Pdu::stored(id, room, says_room, rejected, &event.client, &event.rest, lists)
        .map_err(|_| StoreError::Corrupt("a stored event cannot be read"))?;
    if old {
        let json = json::pdu(tx, event)?;
        let hash = canonical::parse(json.get())
            .and_then(|object| canonical::reference_hash(&object, &RoomVersionRules::V1))
            .map_err(|_| StoreError::Corrupt("a stored event cannot be hashed"))?;
        pdu.hash = Some(hash.into());
    }
    Ok(Arc::new(pdu))
}

/// The event with this number, as the rules see it.
pub(in crate::room) fn pdu(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<Arc<Pdu>>, StoreError> {
    match events::event(tx, nid)? {
        Some(event) => pdu_of(tx, &event).map(Some),
        None => Ok(None),
    }
}

/// The event with this id, as the rules see it.
pub(in crate::room) fn pdu_by_id(tx: &ReadTx<'_>, id: &EventId) -> Result<Option<Arc<Pdu>>, StoreError> {
    match events::nid(tx, id)? {
        Some(nid) => pdu(tx, nid),
        None => Ok(None),
    }
}

/// A room's id.
pub(in crate::room) fn room_id(tx: &ReadTx<'_>, room: Nid) -> Result<OwnedRoomId, StoreError> {
    RoomId::parse(&*tx.text(room)?).map_err(|_| StoreError::Corrupt("a room's id"))
}

/// The stored events as a graph, read as they are asked for and kept for the time of one resolution.
pub(in crate::room) struct StoredGraph<'a, 'b> {
    tx: &'a ReadTx<'b>,
    auth: RefCell<HashMap<i64, Option<Arc<[i64]>>>>,
    pdus: RefCell<HashMap<i64, Option<Arc<Pdu>>>>,
    keys: RefCell<HashMap<i64, Option<(String, String)>>>,
    places: RefCell<HashMap<i64, Option<Place>>>,
    links: RefCell<HashMap<i64, Arc<[Link]>>>,
    failed: RefCell<Option<StoreError>>,
}

impl<'a, 'b> StoredGraph<'a, 'b> {
    pub(in crate::room) fn new(tx: &'a ReadTx<'b>) -> Self {
        Self {
            tx,
            auth: RefCell::default(),
            pdus: RefCell::default(),
            keys: RefCell::default(),
            places: RefCell::default(),
            links: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// What went wrong while reading, if anything did: the resolution is worth nothing then.
    pub(in crate::room) fn finish(self) -> Result<(), StoreError> {
        match self.failed.into_inner() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn breathe(&self) {
        self.keep(self.tx.breathe().map(Some));
    }

    /// What was read, if that went well; else remembers that it did not.
    pub(in crate::room) fn keep<T>(&self, result: Result<Option<T>, StoreError>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.failed.borrow_mut().get_or_insert(error);
            None
        })
    }
}

impl Graph for StoredGraph<'_, '_> {
    fn auth(&self, event: i64) -> Option<Arc<[i64]>> {
        if let Some(known) = self.auth.borrow().get(&event) {
            return known.clone();
        }
        self.breathe();
        let auth = self
            .keep(events::auth(self.tx, Nid(event)))
            .map(|list| list.into_iter().map(|nid| nid.0).collect::<Arc<[i64]>>());
        self.auth.borrow_mut().insert(event, auth.clone());
        auth
    }

    fn pdu(&self, event: i64) -> Option<Arc<Pdu>> {
        if let Some(known) = self.pdus.borrow().get(&event) {
            return known.clone();
        }
        self.breathe();
        let found = self.keep(pdu(self.tx, Nid(event)));
        self.pdus.borrow_mut().insert(event, found.clone());
        found
    }

    fn number(&self, id: &EventId) -> Option<i64> {
        self.keep(events::nid(self.tx, id)).map(|nid| nid.0)
    }

    fn key(&self, skey: i64) -> Option<(String, String)> {
        if let Some(known) = self.keys.borrow().get(&skey) {
            return known.clone();
        }
        let key = self.keep(self.tx.text(Nid(skey)).map(Some)).map(|text| {
            let (kind, key) = skey_split(&text);
            (kind.to_owned(), key.to_owned())
        });
        self.keys.borrow_mut().insert(skey, key.clone());
        key
    }

    fn skey(&self, kind: &str, key: &str) -> Option<i64> {
        self.keep(self.tx.lookup_skey(kind, key)).map(|nid| nid.0)
    }
    fn place(&self, event: i64) -> Option<Place> {
        if let Some(known) = self.places.borrow().get(&event) {
            return *known;
        }
        self.breathe();
        let place = self.keep(chain::place(self.tx, Nid(event)));
        self.places.borrow_mut().insert(event, place);
        place
    }

    fn links(&self, chain: i64) -> Arc<[Link]> {
        if let Some(known) = self.links.borrow().get(&chain) {
            return known.clone();
        }
        let links: Arc<[Link]> = self.keep(chain::links(self.tx, chain).map(Some)).unwrap_or_default().into();
        self.links.borrow_mut().insert(chain, links.clone());
        links
    }

    fn range(&self, chain: i64, after: i64, upto: i64) -> Vec<i64> {
        let found = self.keep(chain::range(self.tx, chain, after, upto).map(Some));
        found.unwrap_or_default().into_iter().map(|nid| nid.0).collect()
    }
}
