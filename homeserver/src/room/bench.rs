//! Owns what `benches/` needs of the insides: rooms of a given size in a store of their own, and the calls that are timed.

use std::{path::Path, sync::Arc};

use ruma::UserId;
use serde_json::{Value, json};

use crate::{
    notify::Notify,
    room::{
        core::{
            auth,
            pdu::Pdu,
            resolve::{self, Graph, NumberMap},
            version,
        },
        ingest::load::{self, StoredGraph},
    },
    store::{
        Kind, Nid, Options, ReadTx, Store, StoreError, Synchronous, WriteTx,
        schema::{
            events::{self, EventRow},
            state::{self, Change, StateMap},
        },
    },
};

const ROOM: &str = "!bench:here.test";
const ALICE: &str = "@alice:here.test";

/// A room of version 10 whose graph has many ends.
pub struct Fork {
    store: Store,
    /// States after the ends.
    sids: Vec<i64>,
    base: i64,
}

impl Fork {
    /// A room with so many members and so many ends, each of which changes a name, a topic and a few memberships.
    pub fn build(dir: &Path, members: usize, ends: usize) -> Result<Self, StoreError> {
        let options = Options { synchronous: Synchronous::Normal, ..Options::default() };
        let store = Store::open(dir, options, Notify::default())?;
        let (sids, base) = store.write_blocking(move |tx| Self::write(tx, members, ends))?;
        Ok(Self { store, sids, base })
    }

    fn write(tx: &mut WriteTx<'_>, members: usize, ends: usize) -> Result<(Vec<i64>, i64), StoreError> {
        let mut room = Writer { nid: tx.intern(Kind::Room, ROOM)?, count: 0 };
        let mut state = StateMap::new();
        let content = json!({ "creator": ALICE, "room_version": "10" });
        room.put(tx, &mut state, ALICE, "m.room.create", "", &content)?;
        room.put(tx, &mut state, ALICE, "m.room.member", ALICE, &json!({ "membership": "join" }))?;
        let levels = json!({ "users": { ALICE: 100 }, "state_default": 0, "ban": 0, "kick": 0 });
        room.put(tx, &mut state, ALICE, "m.room.power_levels", "", &levels)?;
        room.put(tx, &mut state, ALICE, "m.room.join_rules", "", &json!({ "join_rule": "public" }))?;
        let name = |index: usize| format!("@member{index}:s{}.test", index % 97);
        for index in 0..members {
            let user = name(index);
            room.put(tx, &mut state, &user, "m.room.member", &user, &json!({ "membership": "join" }))?;
        }
        let base = state::put(tx, room.nid, &state)?;
        let mut sids = Vec::with_capacity(ends);
        for end in 0..ends {
            let mut own = state.clone();
            let sender = name(end % members.max(1));
            room.put(tx, &mut own, &sender, "m.room.topic", "", &json!({ "topic": end }))?;
            room.put(tx, &mut own, &sender, "m.room.name", "", &json!({ "name": end }))?;
            for step in 0..4 {
                let whom = name((end * 4 + step + ends) % members.max(1));
                let content = json!({ "membership": if step == 0 { "ban" } else { "join" }, "end": end });
                let by = if step == 0 { ALICE } else { whom.as_str() };
                room.put(tx, &mut own, by, "m.room.member", &whom, &content)?;
            }
            let changes: Vec<Change> = state::diff(&state, &own);
            sids.push(state::derive(tx, room.nid, base, &changes)?);
        }
        Ok((sids, base))
    }

    /// Resolves the ends' states; gives the number of entries and the processor time.
    pub fn resolve(&self) -> Result<(usize, std::time::Duration), StoreError> {
        let sids = self.sids.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        runtime.block_on(self.store.read_slowly(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let begun = crate::store::cpu_time();
            let mut maps: Vec<NumberMap> = Vec::with_capacity(sids.len());
            for sid in &sids {
                maps.push(state::full(tx, *sid)?.into_iter().map(|(skey, nid)| (skey.0, nid.0)).collect());
            }
            let rules = version::rules("10").ok_or(StoreError::Corrupt("room version"))?;
            let graph = StoredGraph::new(tx);
            let resolved = resolve::resolve(&rules, &graph, &maps)
                .map_err(|_| StoreError::Corrupt("state resolution"))?;
            graph.finish()?;
            Ok((resolved.len(), crate::store::cpu_time().saturating_sub(begun)))
        }))
    }

    /// Looks up one member in an end's state and in the present one, `times` times.
    pub fn look_up(&self, times: usize) -> Result<usize, StoreError> {
        let (sids, base) = (self.sids.clone(), self.base);
        self.store.read_blocking(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let mut found = 0;
            for index in 0..times {
                let user = format!("@member{index}:s{}.test", index % 97);
                let Some(skey) = tx.lookup_skey("m.room.member", &user)? else { continue };
                let sid = sids.get(index % sids.len().max(1)).copied().unwrap_or(base);
                found += usize::from(state::one(tx, sid, skey)?.is_some());
            }
            Ok(found)
        })
    }

    /// An event with what the rules need to judge it.
    pub fn judged(&self) -> Result<Judged, StoreError> {
        let base = self.base;
        self.store.read_blocking(move |tx: &ReadTx<'_>| -> Result<_, StoreError> {
            let graph = StoredGraph::new(tx);
            let mut entries = std::collections::HashMap::new();
            let user = "@member7:s7.test";
            for (kind, key) in [
                ("m.room.create", ""),
                ("m.room.power_levels", ""),
                ("m.room.join_rules", ""),
                ("m.room.member", user),
            ] {
                if let Some(skey) = graph.skey(kind, key)
                    && let Some(nid) = state::one(tx, base, Nid(skey))?
                    && let Some(pdu) = load::pdu(tx, nid)?
                {
                    entries.insert((kind.to_owned(), key.to_owned()), pdu);
                }
            }
            let mut event = entries
                .get(&("m.room.member".to_owned(), user.to_owned()))
                .map(|pdu| Pdu::clone(pdu))
                .ok_or(StoreError::Corrupt("member"))?;
            event.kind = "m.room.message".into();
            event.state_key = None;
            event.auth = entries
                .iter()
                .filter(|((kind, _), _)| kind != "m.room.join_rules")
                .map(|(_, pdu)| pdu.event_id.clone())
                .collect();
            Ok(Judged { event, entries })
        })
    }
}

/// See [`Fork::judged`].
pub struct Judged {
    event: Pdu,
    entries: std::collections::HashMap<(String, String), Arc<Pdu>>,
}

impl Judged {
    /// Asks the rules.
    pub fn ask(&self) -> bool {
        let Some(rules) = version::shared("10") else { return false };
        let own = auth::check_own(&rules, &self.event, |id| {
            self.entries.values().find(|pdu| pdu.event_id == id).cloned()
        });
        own.is_ok()
            && auth::check_state(&rules, &self.event, |kind, key| {
                self.entries.get(&(kind.to_owned(), key.to_owned())).cloned()
            })
            .is_ok()
    }
}

/// Puts state events into the tables as if they had been taken.
struct Writer {
    nid: Nid,
    count: u64,
}

impl Writer {
    fn put(
        &mut self,
        tx: &mut WriteTx<'_>,
        state: &mut StateMap,
        sender: &str,
        kind: &str,
        key: &str,
        content: &Value,
    ) -> Result<(), StoreError> {
        self.count += 1;
        let id = events::Key::Hash(blake3::hash(&self.count.to_le_bytes()).into()).id()?;
        let (nid, hash) = events::intern_stored(tx, &id)?;
        let rules = version::shared("10").ok_or(StoreError::Corrupt("room version"))?;
        let raw = serde_json::value::to_raw_value(content).map_err(|_| StoreError::Corrupt("content"))?;
        let user = UserId::parse(sender).map_err(|_| StoreError::Corrupt("user"))?;
        let needed = auth::needed(&rules, &kind.into(), &user, Some(key), &raw)
            .map_err(|_| StoreError::Corrupt("needed"))?;
        let mut auth = Vec::new();
        for (kind, key) in needed {
            if let Some(skey) = tx.lookup_skey(&kind, &key)? {
                auth.extend(state.get(&skey).copied());
            }
        }
        let client = json!({ "content": content, "origin_server_ts": self.count, "sender": sender, "state_key": key,
            "type": kind });
        let rest = json!({ "depth": self.count });
        let skey = tx.intern_skey(kind, key)?;
        let row = EventRow {
            nid,
            room: self.nid,
            kind: tx.intern(Kind::Type, kind)?,
            skey: Some(skey),
            sender: tx.intern(Kind::User, sender)?,
            ts: self.count as i64,
            depth: self.count as i64,
            seq: None,
            flags: events::NO_LISTS,
            state_before: None,
            state_after: None,
            redacted_by: None,
            sent: None,
            key: hash,
            prev: Vec::new(),
            auth,
            client: client.to_string().into_bytes(),
            rest: rest.to_string().into_bytes(),
        };
        events::put(tx, &row)?;
        state.insert(skey, nid);
        Ok(())
    }
}
