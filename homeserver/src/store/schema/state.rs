//! Owns the tables of room state: snapshots as differences, the current state, how it changed.
//!
//! A snapshot maps (type, state key) numbers to event numbers. It is stored as a full sorted list, or as the difference
//! to a base (event 0 = the pair is gone). A chain of differences is at most [`CHAIN_MAX`] long and at most a quarter
//! of the full size heavy; then a full list is written. Snapshots are found again by [`Hash16`], a sum over the pairs
//! keyed by a secret of this database, kept incrementally.
//!
//! | table | key -> value |
//! |---|---|
//! | `state` | sid -> (room, base, chain depth, weight of the chain, size, hash, pairs) |
//! | `state_delta` | (room, seq, skey) -> (event before, event after) of the RESOLVED current state |
//! | `cur_state` | (room, skey) -> event, the resolved current state; whether it is a member |

use std::collections::BTreeMap;

use crate::store::{
    Nid, ReadTx, Seq, StoreError, WriteTx,
    codec::{put_pairs, take_pairs},
    ids::skey_split,
    tx::Counter,
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE state(sid INTEGER PRIMARY KEY, room INTEGER NOT NULL, base INTEGER, chain INTEGER NOT NULL,
  weight INTEGER NOT NULL, size INTEGER NOT NULL, hash BLOB NOT NULL, pairs BLOB NOT NULL, UNIQUE(room, hash));
CREATE TABLE state_delta(room INTEGER, seq INTEGER, skey INTEGER, old INTEGER, new INTEGER,
  PRIMARY KEY(room, seq, skey)) WITHOUT ROWID;
CREATE TABLE cur_state(room INTEGER, skey INTEGER, nid INTEGER NOT NULL, member INTEGER NOT NULL,
  PRIMARY KEY(room, skey)) WITHOUT ROWID;
CREATE INDEX cur_state_rest ON cur_state(room, skey, nid) WHERE member = 0;
";

/// Differences between two full lists, at most.
pub const CHAIN_MAX: i64 = 64;

/// A whole snapshot.
pub type StateMap = BTreeMap<Nid, Nid>;

/// One pair's change: `None` is "not there".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The (type, state key) pair.
    pub skey: Nid,
    /// Event before.
    pub old: Option<Nid>,
    /// Event after.
    pub new: Option<Nid>,
}

/// Sum over the pairs of a snapshot of BLAKE3 keyed by the database's secret, 128 bits, wrapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash16(pub u128);

impl Hash16 {
    /// The hash after `changes`.
    pub fn changed(self, tx: &ReadTx<'_>, changes: &[Change]) -> Self {
        let mut sum = self.0;
        for change in changes {
            if let Some(old) = change.old {
                sum = sum.wrapping_sub(pair_hash(tx, change.skey, old));
            }
            if let Some(new) = change.new {
                sum = sum.wrapping_add(pair_hash(tx, change.skey, new));
            }
        }
        Self(sum)
    }
}

fn pair_hash(tx: &ReadTx<'_>, skey: Nid, event: Nid) -> u128 {
    let mut pair = [0; 16];
    pair[..8].copy_from_slice(&skey.0.to_le_bytes());
    pair[8..].copy_from_slice(&event.0.to_le_bytes());
    let hash = blake3::keyed_hash(tx.secret(), &pair);
    let mut sum = [0; 16];
    sum.copy_from_slice(&hash.as_bytes()[..16]);
    u128::from_le_bytes(sum)
}

struct Snapshot {
    base: Option<i64>,
    chain: i64,
    weight: i64,
    size: i64,
    hash: Hash16,
    pairs: Vec<u8>,
}

fn snapshot(tx: &ReadTx<'_>, sid: i64) -> Result<Snapshot, StoreError> {
    let found =
        tx.row("SELECT base, chain, weight, size, hash, pairs FROM state WHERE sid = ?1", [sid], |row| {
            let hash: [u8; 16] = row.get(4)?;
            Ok(Snapshot {
                base: row.get(0)?,
                chain: row.get(1)?,
                weight: row.get(2)?,
                size: row.get(3)?,
                hash: Hash16(u128::from_le_bytes(hash)),
                pairs: row.get(5)?,
            })
        })?;
    found.ok_or(StoreError::Corrupt("state snapshot missing"))
}

/// Number of entries of a snapshot.
pub fn size(tx: &ReadTx<'_>, sid: i64) -> Result<i64, StoreError> {
    let size = tx.row("SELECT size FROM state WHERE sid = ?1", [sid], |row| row.get(0))?;
    size.ok_or(StoreError::Corrupt("state snapshot missing"))
}

/// The event of one pair in a snapshot. Reads at most [`CHAIN_MAX`] rows, and none if the transaction asked before, of
/// this snapshot or of one that was made from it without changing the pair. The whole list at the chain's end is decoded
/// once for all transactions, if it is long.
pub fn one(tx: &ReadTx<'_>, sid: i64, skey: Nid) -> Result<Option<Nid>, StoreError> {
    if let Some(known) = tx.entries.borrow().get(&(sid, skey)) {
        return Ok(*known);
    }
    let mut passed = Vec::new();
    let found = look_up(tx, sid, skey, &mut passed)?;
    let mut entries = tx.entries.borrow_mut();
    for sid in passed {
        entries.insert((sid, skey), found);
    }
    Ok(found)
}

/// `passed`: the snapshots on the way, all of which have what is found.
fn look_up(tx: &ReadTx<'_>, sid: i64, skey: Nid, passed: &mut Vec<i64>) -> Result<Option<Nid>, StoreError> {
    let search = |pairs: &[(i64, i64)]| {
        let index = pairs.binary_search_by_key(&skey.0, |pair| pair.0).ok()?;
        Some(Some(pairs[index].1).filter(|event| *event != 0).map(Nid))
    };
    let mut sid = Some(sid);
    while let Some(at) = sid {
        if let Some(known) = tx.entries.borrow().get(&(at, skey)) {
            return Ok(*known);
        }
        passed.push(at);
        if let Some(list) = tx.lists().get(at) {
            return Ok(search(&list).flatten());
        }
        let snapshot = snapshot(tx, at)?;
        let pairs = take_pairs(&snapshot.pairs)?;
        let found = search(&pairs);
        if snapshot.base.is_none() {
            tx.lists().keep(at, pairs);
        }
        if let Some(found) = found {
            return Ok(found);
        }
        sid = snapshot.base;
    }
    Ok(None)
}

/// A whole snapshot.
pub fn full(tx: &ReadTx<'_>, sid: i64) -> Result<StateMap, StoreError> {
    let mut chain = Vec::new();
    let mut at = Some(sid);
    while let Some(sid) = at {
        let snapshot = snapshot(tx, sid)?;
        at = snapshot.base;
        chain.push(snapshot.pairs);
    }
    let mut map = StateMap::new();
    for pairs in chain.iter().rev() {
        for (skey, event) in take_pairs(pairs)? {
            if event == 0 {
                map.remove(&Nid(skey));
            } else {
                map.insert(Nid(skey), Nid(event));
            }
        }
    }
    Ok(map)
}

/// How `to` differs from `from`.
pub fn diff(from: &StateMap, to: &StateMap) -> Vec<Change> {
    let mut changes = Vec::new();
    for (skey, old) in from {
        match to.get(skey) {
            Some(new) if new == old => {}
            new => changes.push(Change { skey: *skey, old: Some(*old), new: new.copied() }),
        }
    }
    for (skey, new) in to {
        if !from.contains_key(skey) {
            changes.push(Change { skey: *skey, old: None, new: Some(*new) });
        }
    }
    changes.sort_unstable_by_key(|change| change.skey);
    changes
}

/// Stores the snapshot that is `base` with `changes` (sorted by pair or not) and gives its sid; the one that is there
/// already if the same state was stored before.
pub fn derive(tx: &mut WriteTx<'_>, room: Nid, base: i64, changes: &[Change]) -> Result<i64, StoreError> {
    if changes.is_empty() {
        return Ok(base);
    }
    let from = snapshot(tx, base)?;
    let hash = from.hash.changed(tx, changes);
    if let Some(sid) = by_hash(tx, room, hash)? {
        return Ok(sid);
    }
    let added: i64 =
        changes.iter().map(|change| i64::from(change.new.is_some()) - i64::from(change.old.is_some())).sum();
    let size = from.size + added;
    let weight = from.weight + changes.len() as i64;
    if from.chain + 1 >= CHAIN_MAX || weight * 4 > size.max(32) {
        let mut map = full(tx, base)?;
        for change in changes {
            match change.new {
                Some(new) => map.insert(change.skey, new),
                None => map.remove(&change.skey),
            };
        }
        return insert(
            tx,
            room,
            &Snapshot { base: None, chain: 0, weight: 0, size, hash, pairs: pairs_of(&map) },
        );
    }
    let mut pairs: Vec<(i64, i64)> =
        changes.iter().map(|change| (change.skey.0, change.new.map_or(0, |event| event.0))).collect();
    pairs.sort_unstable();
    let pairs = put_pairs(&pairs);
    insert(tx, room, &Snapshot { base: Some(base), chain: from.chain + 1, weight, size, hash, pairs })
}

/// Stores a whole snapshot and gives its sid; the one that is there already if the same state was stored before.
pub fn put(tx: &mut WriteTx<'_>, room: Nid, map: &StateMap) -> Result<i64, StoreError> {
    let changes: Vec<Change> =
        map.iter().map(|(skey, new)| Change { skey: *skey, old: None, new: Some(*new) }).collect();
    let hash = Hash16::default().changed(tx, &changes);
    if let Some(sid) = by_hash(tx, room, hash)? {
        return Ok(sid);
    }
    let size = map.len() as i64;
    insert(tx, room, &Snapshot { base: None, chain: 0, weight: 0, size, hash, pairs: pairs_of(map) })
}

fn pairs_of(map: &StateMap) -> Vec<u8> {
    let pairs: Vec<(i64, i64)> = map.iter().map(|(skey, event)| (skey.0, event.0)).collect();
    put_pairs(&pairs)
}

fn by_hash(tx: &ReadTx<'_>, room: Nid, hash: Hash16) -> Result<Option<i64>, StoreError> {
    tx.row(
        "SELECT sid FROM state WHERE room = ?1 AND hash = ?2",
        (room, hash.0.to_le_bytes().as_slice()),
        |row| row.get(0),
    )
}

fn insert(tx: &mut WriteTx<'_>, room: Nid, snapshot: &Snapshot) -> Result<i64, StoreError> {
    let sid = tx.next(Counter::State)?;
    tx.execute(
        "INSERT INTO state(sid, room, base, chain, weight, size, hash, pairs) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        rusqlite::params![
            sid,
            room,
            snapshot.base,
            snapshot.chain,
            snapshot.weight,
            snapshot.size,
            snapshot.hash.0.to_le_bytes().as_slice(),
            snapshot.pairs
        ],
    )?;
    Ok(sid)
}

/// The event of one pair in the room's resolved current state.
pub fn current(tx: &ReadTx<'_>, room: Nid, skey: Nid) -> Result<Option<Nid>, StoreError> {
    tx.row("SELECT nid FROM cur_state WHERE room = ?1 AND skey = ?2", (room, skey), |row| row.get(0))
}

/// The event of one (type, state key) in the room's resolved current state.
pub fn current_of(
    tx: &ReadTx<'_>,
    room: Nid,
    event_type: &str,
    state_key: &str,
) -> Result<Option<Nid>, StoreError> {
    match tx.lookup_skey(event_type, state_key)? {
        Some(skey) => current(tx, room, skey),
        None => Ok(None),
    }
}

/// The room's whole resolved current state.
pub fn current_all(tx: &ReadTx<'_>, room: Nid) -> Result<StateMap, StoreError> {
    let rows = tx.rows("SELECT skey, nid FROM cur_state WHERE room = ?1", [room], |row| {
        Ok((row.get::<_, Nid>(0)?, row.get::<_, Nid>(1)?))
    })?;
    Ok(rows.into_iter().collect())
}

/// The room's resolved current state but its members: what a client needs that loads members lazily.
pub fn current_rest(tx: &ReadTx<'_>, room: Nid) -> Result<StateMap, StoreError> {
    let rows = tx.rows("SELECT skey, nid FROM cur_state WHERE room = ?1 AND member = 0", [room], |row| {
        Ok((row.get::<_, Nid>(0)?, row.get::<_, Nid>(1)?))
    })?;
    Ok(rows.into_iter().collect())
}

/// State keys of a room's `m.space.child` events that name a way there, by its current state.
pub fn space_children(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<String>, StoreError> {
    #[derive(serde::Deserialize)]
    struct Event {
        content: Content,
    }
    #[derive(serde::Deserialize)]
    struct Content {
        via: Option<Vec<serde::de::IgnoredAny>>,
    }
    let mut children = Vec::new();
    for (skey, nid) in current_rest(tx, room)? {
        let text = tx.text(skey)?;
        let ("m.space.child", child) = skey_split(&text) else { continue };
        let client: Option<Vec<u8>> =
            tx.row("SELECT client FROM event WHERE nid = ?1", [nid], |row| row.get(0))?;
        let event = client.and_then(|client| serde_json::from_slice::<Event>(&client).ok());
        // A child without `via` was taken out.
        if event.is_some_and(|event| event.content.via.is_some()) {
            children.push(child.to_owned());
        }
    }
    Ok(children)
}

/// Changes the current state and notes how, at `seq` (none: a first state that nobody has to be told in steps).
pub fn apply(
    tx: &mut WriteTx<'_>,
    room: Nid,
    seq: Option<Seq>,
    changes: &[Change],
) -> Result<(), StoreError> {
    for change in changes {
        match change.new {
            Some(new) => {
                let member = skey_split(&tx.text(change.skey)?).0 == "m.room.member";
                tx.execute(
                    "INSERT OR REPLACE INTO cur_state(room, skey, nid, member) VALUES(?1, ?2, ?3, ?4)",
                    (room, change.skey, new, member),
                )?
            }
            None => tx.execute("DELETE FROM cur_state WHERE room = ?1 AND skey = ?2", (room, change.skey))?,
        };
        if let Some(seq) = seq {
            tx.execute(
                "INSERT OR REPLACE INTO state_delta(room, seq, skey, old, new) VALUES(?1, ?2, ?3, ?4, ?5)",
                (room, seq, change.skey, change.old, change.new),
            )?;
        }
    }
    Ok(())
}

/// Forgets the current state, before another is imported.
pub fn clear_current(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM cur_state WHERE room = ?1", [room])?;
    Ok(())
}

/// How the resolved state changed in positions `after < seq <= upto`, in order.
pub fn deltas(tx: &ReadTx<'_>, room: Nid, after: Seq, upto: Seq) -> Result<Vec<(Seq, Change)>, StoreError> {
    tx.rows(
        "SELECT seq, skey, old, new FROM state_delta WHERE room = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq, skey",
        (room, after, upto),
        |row| Ok((row.get(0)?, Change { skey: row.get(1)?, old: row.get(2)?, new: row.get(3)? })),
    )
}
