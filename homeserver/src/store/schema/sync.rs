//! Queries of `sync` over the tables of others; it has none of its own.

use super::{events::stream_kind, membership::Membership};
use crate::store::{Nid, ReadTx, Seq, StoreError};

/// A room of a user's as lists see it.
#[derive(Clone, Debug)]
pub struct ListRow {
    /// The room.
    pub room: Nid,
    /// The user's membership.
    pub membership: Membership,
    /// Since when.
    pub since: Seq,
    /// Who sent the membership event, unless it is a join.
    pub sender: Option<Nid>,
    /// Up to where a former member sees the timeline.
    pub left: Option<Seq>,
    /// Stripped state of an invite or knock.
    pub stripped: Option<Vec<u8>>,
    /// The user forgot it.
    pub forgotten: bool,
    /// Position of the room's last event; none if its state is not here.
    pub last: Option<Seq>,
    /// Position of the last event that moves it up.
    pub bump: Option<Seq>,
    /// Its type.
    pub room_type: Option<String>,
    /// Whether it is encrypted.
    pub encrypted: bool,
    /// Its name.
    pub name: Option<String>,
}

macro_rules! list_columns {
    () => {
        "SELECT u.room, u.membership, u.seq, e.sender, u.left_seq, u.stripped, u.forgotten, r.last, r.bump, r.room_type, \
         r.encryption IS NOT NULL, r.name FROM user_room u LEFT JOIN room r ON r.room = u.room \
         LEFT JOIN event e ON u.membership <> 1 AND e.nid = u.nid WHERE u.user = ?1"
    };
}

fn list_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<ListRow> {
    Ok(ListRow {
        room: row.get(0)?,
        membership: row.get(1)?,
        since: row.get(2)?,
        sender: row.get(3)?,
        left: row.get(4)?,
        stripped: row.get(5)?,
        forgotten: row.get(6)?,
        last: row.get(7)?,
        bump: row.get(8)?,
        room_type: row.get(9)?,
        encrypted: row.get(10)?,
        name: row.get(11)?,
    })
}

/// All rooms of a user, for lists.
pub fn room_list(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<ListRow>, StoreError> {
    tx.rows(list_columns!(), [user], list_row)
}

/// One room of a user, for lists.
pub fn room_list_one(tx: &ReadTx<'_>, user: Nid, room: Nid) -> Result<Option<ListRow>, StoreError> {
    tx.row(concat!(list_columns!(), " AND u.room = ?2"), (user, room), list_row)
}

/// Rooms in which a user's own membership changed (or that they forgot) in (since, until].
pub fn own_moves(tx: &ReadTx<'_>, user: Nid, since: Seq, until: Seq) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT DISTINCT room FROM stream WHERE user = ?1 AND seq > ?2 AND seq <= ?3 AND kind = ?4 AND room IS NOT NULL",
        (user, since, until, stream_kind::MEMBERSHIP),
        |row| row.get(0),
    )
}

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
