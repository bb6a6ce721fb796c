//! Owns the chain cover of the auth graph: what an event's auth chain holds, without walking it.
//!
//! Each state event that is not rejected has a place in a chain, and what is earlier in a chain is in the auth chain of
//! what is later. The events of one (type, state key) that build on each other are one chain, named by its first event. A
//! link says that an event and all later ones of its chain have another chain up to some place in their auth chains. So
//! "all that these ten thousand events build on" is one number for each chain; `room/core/chains.rs` reckons with them.
//!
//! An event has a place from the day it is stored, or never: one of whose auth events has none is rejected by the rules.
//!
//! | table | key -> value |
//! |---|---|
//! | `chain` | event -> (chain, place in it, from 1) |
//! | `chain_link` | (chain, from this place on, other chain) -> up to this place |

use crate::store::{Nid, ReadTx, StoreError, WriteTx, codec::take_list};

use super::events::{EventRow, REJECTED};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE chain(nid INTEGER PRIMARY KEY, chain INTEGER NOT NULL, seq INTEGER NOT NULL);
CREATE UNIQUE INDEX chain_place ON chain(chain, seq);
CREATE TABLE chain_link(chain INTEGER, seq INTEGER, target INTEGER, upto INTEGER NOT NULL,
  PRIMARY KEY(chain, seq, target)) WITHOUT ROWID;
";

/// A place in a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The chain: the number of its first event.
    pub chain: i64,
    /// The place in it, from 1.
    pub seq: i64,
}

/// From `seq` of a chain on, `target` is in the auth chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// From this place on.
    pub seq: i64,
    /// This and all before it in its chain.
    pub target: Place,
}

/// An event's place, if it has one.
pub fn place(tx: &ReadTx<'_>, nid: Nid) -> Result<Option<Place>, StoreError> {
    tx.row("SELECT chain, seq FROM chain WHERE nid = ?1", [nid], |row| {
        Ok(Place { chain: row.get(0)?, seq: row.get(1)? })
    })
}

/// Links of a chain, by the place that they start from.
pub fn links(tx: &ReadTx<'_>, chain: i64) -> Result<Vec<Link>, StoreError> {
    tx.rows("SELECT seq, target, upto FROM chain_link WHERE chain = ?1 ORDER BY seq", [chain], |row| {
        Ok(Link { seq: row.get(0)?, target: Place { chain: row.get(1)?, seq: row.get(2)? } })
    })
}

/// Events of a chain in places `after < seq <= upto`.
pub fn range(tx: &ReadTx<'_>, chain: i64, after: i64, upto: i64) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT nid FROM chain WHERE chain = ?1 AND seq > ?2 AND seq <= ?3",
        (chain, after, upto),
        |row| row.get(0),
    )
}

/// Gives a state event its place, if it is to have one and has none yet. Called when the event is stored.
pub fn cover(tx: &mut WriteTx<'_>, event: &EventRow) -> Result<(), StoreError> {
    let Some(skey) = event.skey.filter(|_| event.flags & REJECTED == 0) else { return Ok(()) };
    cover_as(tx, event.nid, skey, &event.auth).map(|_| ())
}

/// Gives a state event its place. False if one of its auth events has none.
fn cover_as(tx: &mut WriteTx<'_>, nid: Nid, skey: Nid, auth: &[Nid]) -> Result<bool, StoreError> {
    if place(tx, nid)?.is_some() {
        return Ok(true);
    }
    let mut targets: Vec<(Place, Nid)> = Vec::with_capacity(auth.len());
    for auth in auth {
        let found = tx.row(
            "SELECT chain.chain, chain.seq, event.skey FROM chain JOIN event ON event.nid = chain.nid \
             WHERE chain.nid = ?1",
            [auth],
            |row| Ok((Place { chain: row.get(0)?, seq: row.get(1)? }, row.get(2)?)),
        )?;
        let Some(found) = found else { return Ok(false) };
        targets.push(found);
    }
    let mut own = Place { chain: nid.0, seq: 1 };
    for (target, _) in targets.iter().filter(|(_, of)| *of == skey) {
        let taken = tx.row(
            "SELECT 1 FROM chain WHERE chain = ?1 AND seq = ?2",
            (target.chain, target.seq + 1),
            |_| Ok(()),
        )?;
        if taken.is_none() {
            own = Place { chain: target.chain, seq: target.seq + 1 };
            break;
        }
    }
    tx.execute("INSERT INTO chain(nid, chain, seq) VALUES(?1, ?2, ?3)", (nid, own.chain, own.seq))?;
    let mut tops: Vec<Place> = targets.into_iter().map(|(target, _)| target).collect();
    tops.sort_unstable();
    // Of one chain the latest place says it all.
    tops.reverse();
    tops.dedup_by_key(|place| place.chain);
    let implied = implied(tx, &tops)?;
    for target in tops {
        // Its own chain is implied by its place; what a link of another target says needs no link of its own.
        if target.chain != own.chain && !implied.contains(&target) {
            tx.execute(
                "INSERT OR REPLACE INTO chain_link(chain, seq, target, upto) VALUES(?1, ?2, ?3, ?4)",
                (own.chain, own.seq, target.chain, target.seq),
            )?;
        }
    }
    Ok(true)
}

/// Which of an event's targets another one's own links lead to. Looking one link far finds nearly all of them.
fn implied(tx: &ReadTx<'_>, targets: &[Place]) -> Result<Vec<Place>, StoreError> {
    let mut implied = Vec::new();
    if targets.len() < 2 {
        return Ok(implied);
    }
    for from in targets {
        for target in targets.iter().filter(|target| target.chain != from.chain) {
            let found = tx.row(
                "SELECT 1 FROM chain_link WHERE chain = ?1 AND seq <= ?2 AND target = ?3 AND upto >= ?4 LIMIT 1",
                (from.chain, from.seq, target.chain, target.seq),
                |_| Ok(()),
            )?;
            if found.is_some() {
                implied.push(*target);
            }
        }
    }
    Ok(implied)
}

/// Events covered in one transaction of [`fill`].
const FILL_CHUNK: usize = 2_000;

/// Covers stored events that come from before there were chains, in their auth graph's order. True while there may be
/// more; `after` moves on.
pub(in crate::store) fn fill(tx: &mut WriteTx<'_>, after: &mut i64) -> Result<bool, StoreError> {
    let batch: Vec<i64> = tx.rows(
        "SELECT nid FROM event WHERE nid > ?1 AND skey IS NOT NULL ORDER BY nid LIMIT ?2",
        (*after, FILL_CHUNK as i64),
        |row| row.get(0),
    )?;
    for nid in &batch {
        // Auth events first; loops cannot be, an id is the hash of what it refers to.
        let mut stack = vec![(*nid, false)];
        while let Some((at, ready)) = stack.pop() {
            let found: Option<(Option<Nid>, i64, Vec<u8>)> =
                tx.row("SELECT skey, flags, auth FROM event WHERE nid = ?1", [at], |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?;
            let Some((Some(skey), flags, auth)) = found else { continue };
            if flags & REJECTED != 0 || place(tx, Nid(at))?.is_some() {
                continue;
            }
            let auth = take_list(&auth)?;
            if ready {
                let auth: Vec<Nid> = auth.into_iter().map(Nid).collect();
                cover_as(tx, Nid(at), skey, &auth)?;
                continue;
            }
            stack.push((at, true));
            stack.extend(auth.into_iter().map(|auth| (auth, false)));
        }
        *after = *nid;
    }
    Ok(batch.len() == FILL_CHUNK)
}
