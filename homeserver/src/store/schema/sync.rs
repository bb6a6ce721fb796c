//! Queries of `sync` over the tables of others; it has none of its own.

use super::events::stream_kind;
use crate::store::{Nid, ReadTx, Seq, StoreError};

/// The last position of the stream in this snapshot: everything up to it is here.
pub fn end(tx: &ReadTx<'_>) -> Result<Seq, StoreError> {
    let end: Option<Option<Seq>> = tx.row("SELECT max(seq) FROM stream", [], |row| row.get(0))?;
    Ok(end.flatten().unwrap_or_default().max(tx.position()))
}

/// Rooms in which anything happened in (since, until].
pub fn rooms_touched(tx: &ReadTx<'_>, since: Seq, until: Seq) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT DISTINCT room FROM stream WHERE seq > ?1 AND seq <= ?2 AND room IS NOT NULL",
        (since, until),
        |row| row.get(0),
    )
}

/// Whether anything happened in a room in (since, until].
pub fn room_touched(tx: &ReadTx<'_>, room: Nid, since: Seq, until: Seq) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM stream WHERE room = ?1 AND seq > ?2 AND seq <= ?3 LIMIT 1",
        (room, since, until),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// What happened for one user alone in (since, until]: (kind, reference).
pub fn user_rows(
    tx: &ReadTx<'_>,
    user: Nid,
    since: Seq,
    until: Seq,
) -> Result<Vec<(i64, Option<Nid>)>, StoreError> {
    tx.rows(
        "SELECT kind, ref FROM stream WHERE user = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq",
        (user, since, until),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Events of a room's timeline in (after, upto], newest first, at most `limit`.
pub fn timeline(
    tx: &ReadTx<'_>,
    room: Nid,
    after: Seq,
    upto: Seq,
    limit: usize,
) -> Result<Vec<(Seq, Nid)>, StoreError> {
    tx.rows(
        "SELECT seq, ref FROM stream WHERE room = ?1 AND seq > ?2 AND seq <= ?3 AND kind IN (?4, ?5)
         ORDER BY seq DESC LIMIT ?6",
        (room, after, upto, stream_kind::EVENT, stream_kind::REDACTION, limit as i64),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Events of a room's timeline that build on what is not here: before each is a gap.
pub fn after_gaps(tx: &ReadTx<'_>, room: Nid, limit: u32) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT DISTINCT child FROM missing_prev WHERE room = ?1 LIMIT ?2", (room, limit), |row| {
        row.get(0)
    })
}
