//! Table of read receipts. Owner: `room::receipt`; read by `sync`.
//!
//! `receipt`: key (room, user, kind, thread), where thread is empty for a receipt of no thread, `main` or a thread
//! root's id. The event is kept as its id: another server's receipt may come before its event.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE receipt(
  room INTEGER NOT NULL, user INTEGER NOT NULL, kind INTEGER NOT NULL, thread TEXT NOT NULL, event TEXT NOT NULL,
  ts INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY(room, user, kind, thread)) WITHOUT ROWID;
CREATE INDEX receipt_seq ON receipt(room, seq);
";

/// Who sees a receipt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ReceiptKind {
    /// `m.read`: everybody.
    Read = 0,
    /// `m.read.private`: its user.
    Private = 1,
}

/// A receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// Whose.
    pub user: Nid,
    /// Who sees it.
    pub private: bool,
    /// Empty, `main`, or a thread root's id.
    pub thread: String,
    /// What was read.
    pub event: String,
    /// When, by its user's server.
    pub ts: i64,
    /// When, in our commit order.
    pub seq: Seq,
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<ReceiptRow> {
    Ok(ReceiptRow {
        user: row.get(0)?,
        private: row.get(1)?,
        thread: row.get(2)?,
        event: row.get(3)?,
        ts: row.get(4)?,
        seq: row.get(5)?,
    })
}

/// One receipt.
pub fn find(
    tx: &ReadTx<'_>,
    room: Nid,
    user: Nid,
    kind: ReceiptKind,
    thread: &str,
) -> Result<Option<ReceiptRow>, StoreError> {
    tx.row(
        "SELECT user, kind, thread, event, ts, seq FROM receipt
         WHERE room = ?1 AND user = ?2 AND kind = ?3 AND thread = ?4",
        (room, user, kind as u8, thread),
        read,
    )
}

/// Keeps a receipt in place of the one before.
pub fn put(tx: &mut WriteTx<'_>, room: Nid, row: &ReceiptRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO receipt(room, user, kind, thread, event, ts, seq) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        (room, row.user, row.private, &row.thread, &row.event, row.ts, row.seq),
    )
    .map(drop)
}

/// How many threads a user has receipts for in a room.
pub fn count(tx: &ReadTx<'_>, room: Nid, user: Nid) -> Result<i64, StoreError> {
    Ok(tx
        .row("SELECT count(*) FROM receipt WHERE room = ?1 AND user = ?2", (room, user), |row| row.get(0))?
        .unwrap_or(0))
}

/// How many receipts there are in a room.
pub fn count_room(tx: &ReadTx<'_>, room: Nid) -> Result<i64, StoreError> {
    Ok(tx.row("SELECT count(*) FROM receipt WHERE room = ?1", [room], |row| row.get(0))?.unwrap_or(0))
}

/// Receipts of a room in (since, until] that `viewer` may see, the first `limit` of them, in order.
pub fn changed(
    tx: &ReadTx<'_>,
    room: Nid,
    viewer: Nid,
    since: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<ReceiptRow>, StoreError> {
    tx.rows(
        "SELECT user, kind, thread, event, ts, seq FROM receipt
         WHERE room = ?1 AND seq > ?3 AND seq <= ?4 AND (kind = 0 OR user = ?2) ORDER BY seq LIMIT ?5",
        (room, viewer, since, until, limit),
        read,
    )
}

/// Receipts of a room up to `until` that `viewer` may see, the latest `limit` of them.
pub fn latest(
    tx: &ReadTx<'_>,
    room: Nid,
    viewer: Nid,
    until: Seq,
    limit: u32,
) -> Result<Vec<ReceiptRow>, StoreError> {
    tx.rows(
        "SELECT user, kind, thread, event, ts, seq FROM receipt
         WHERE room = ?1 AND seq <= ?3 AND (kind = 0 OR user = ?2) ORDER BY seq DESC LIMIT ?4",
        (room, viewer, until, limit),
        read,
    )
}

/// A user's own receipts in a room.
pub fn own(tx: &ReadTx<'_>, room: Nid, user: Nid) -> Result<Vec<ReceiptRow>, StoreError> {
    tx.rows(
        "SELECT user, kind, thread, event, ts, seq FROM receipt WHERE room = ?1 AND user = ?2",
        (room, user),
        read,
    )
}
