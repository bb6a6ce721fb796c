//! Owns `relation` and `redaction`: which event refers to which, also to one that is not here yet.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// Notes that `child` relates to `parent` in the way `rel`.
pub fn put_relation(
    tx: &mut WriteTx<'_>,
    parent: Nid,
    rel: Nid,
    child: Nid,
    sender: Nid,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR IGNORE INTO relation(parent, rel, child, sender) VALUES(?1, ?2, ?3, ?4)",
        (parent, rel, child, sender),
    )?;
    Ok(())
}

/// A redacted event relates to nothing.
pub fn remove_relation(tx: &mut WriteTx<'_>, parent: Nid, rel: Nid, child: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM relation WHERE parent = ?1 AND rel = ?2 AND child = ?3", (parent, rel, child))?;
    Ok(())
}

/// Children of `parent`, newest number first: (child, rel).
pub fn relations(
    tx: &ReadTx<'_>,
    parent: Nid,
    rel: Option<Nid>,
    limit: u32,
) -> Result<Vec<(Nid, Nid)>, StoreError> {
    tx.rows(
        "SELECT child, rel FROM relation WHERE parent = ?1 AND (?2 IS NULL OR rel = ?2) ORDER BY child DESC LIMIT ?3",
        (parent, rel, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Children of `parent` with a place in the timeline, from a place on in the order of the direction (see [`places`](super::places)):
/// (depth, seq, child).
pub fn children(
    tx: &ReadTx<'_>,
    parent: Nid,
    rel: Option<Nid>,
    from: (i64, Seq),
    seqs: (Seq, Seq),
    backwards: bool,
    limit: u32,
) -> Result<Vec<(i64, Seq, Nid)>, StoreError> {
    let sql = if backwards {
        "SELECT event.depth, event.seq, event.nid FROM relation JOIN event ON event.nid = relation.child \
         WHERE relation.parent = ?1 AND (?2 IS NULL OR relation.rel = ?2) AND event.seq IS NOT NULL \
         AND (event.depth, event.seq) < (?3, ?4) AND event.seq BETWEEN ?5 AND ?6 \
         ORDER BY event.depth DESC, event.seq DESC LIMIT ?7"
    } else {
        "SELECT event.depth, event.seq, event.nid FROM relation JOIN event ON event.nid = relation.child \
         WHERE relation.parent = ?1 AND (?2 IS NULL OR relation.rel = ?2) AND event.seq IS NOT NULL \
         AND (event.depth, event.seq) >= (?3, ?4) AND event.seq BETWEEN ?5 AND ?6 \
         ORDER BY event.depth, event.seq LIMIT ?7"
    };
    tx.rows(sql, (parent, rel, from.0, from.1, seqs.0, seqs.1, limit), |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

/// Events of a timeline at or before a time, latest first, or at or after it, earliest first.
pub fn around(
    tx: &ReadTx<'_>,
    room: Nid,
    ts: i64,
    backwards: bool,
    limit: u32,
) -> Result<Vec<Nid>, StoreError> {
    let sql = if backwards {
        "SELECT nid FROM event WHERE room = ?1 AND ts <= ?2 AND seq IS NOT NULL ORDER BY ts DESC, depth DESC, seq DESC LIMIT ?3"
    } else {
        "SELECT nid FROM event WHERE room = ?1 AND ts >= ?2 AND seq IS NOT NULL ORDER BY ts, depth, seq LIMIT ?3"
    };
    tx.rows(sql, (room, ts, limit), |row| row.get(0))
}

/// Notes a redaction of `target`, whether that is here or not. `power`: its sender may redact others' events.
pub fn put_redaction(tx: &mut WriteTx<'_>, target: Nid, nid: Nid, power: bool) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR IGNORE INTO redaction(target, nid, power) VALUES(?1, ?2, ?3)",
        (target, nid, power),
    )?;
    Ok(())
}

/// Redactions that name `target`: (event, its sender may redact others' events).
pub fn redactions(tx: &ReadTx<'_>, target: Nid) -> Result<Vec<(Nid, bool)>, StoreError> {
    tx.rows("SELECT nid, power FROM redaction WHERE target = ?1 ORDER BY nid", [target], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}
