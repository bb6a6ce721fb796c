//! Table of what application services were told. Owner: `appservice::queue`.
//!
//! `appservice`: service id -> position up to which it was told; the end of the transaction that is on its way, if one is.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx, schema::events::stream_kind};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE appservice(id TEXT PRIMARY KEY, seq INTEGER NOT NULL, until INTEGER) WITHOUT ROWID;
CREATE INDEX to_device_seq ON to_device(seq);
";

/// What a service was told, and the end of the transaction on its way.
pub fn cursor(tx: &ReadTx<'_>, id: &str) -> Result<Option<(Seq, Option<Seq>)>, StoreError> {
    tx.row("SELECT seq, until FROM appservice WHERE id = ?1", [id], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Notes what a service was told, or what is on its way.
pub fn put_cursor(tx: &mut WriteTx<'_>, id: &str, seq: Seq, until: Option<Seq>) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO appservice(id, seq, until) VALUES(?1, ?2, ?3)
         ON CONFLICT(id) DO UPDATE SET seq = excluded.seq, until = excluded.until",
        (id, seq, until),
    )
    .map(drop)
}

/// A row of the stream as services see it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its position.
    pub seq: Seq,
    /// See [`stream_kind`].
    pub kind: i64,
    /// The room.
    pub room: Option<Nid>,
    /// The local user.
    pub user: Option<Nid>,
    /// What it refers to.
    pub reference: Option<Nid>,
}

/// Events, memberships and receipts in (since, until], the first `limit`.
pub fn rows(tx: &ReadTx<'_>, since: Seq, until: Seq, limit: u32) -> Result<Vec<Row>, StoreError> {
    tx.rows(
        "SELECT seq, kind, room, user, ref FROM stream WHERE seq > ?1 AND seq <= ?2 AND kind IN (?4, ?5, ?6)
         ORDER BY seq LIMIT ?3",
        (since, until, limit, stream_kind::EVENT, stream_kind::MEMBERSHIP, stream_kind::RECEIPT),
        |row| {
            Ok(Row {
                seq: row.get(0)?,
                kind: row.get(1)?,
                room: row.get(2)?,
                user: row.get(3)?,
                reference: row.get(4)?,
            })
        },
    )
}

/// Messages to devices in (since, until]: (position, user, device, JSON).
pub fn to_device(
    tx: &ReadTx<'_>,
    since: Seq,
    until: Seq,
    limit: u32,
) -> Result<Vec<(Seq, Nid, String, String)>, StoreError> {
    tx.rows(
        "SELECT seq, user, device, json FROM to_device WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
        (since, until, limit),
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )
}

/// Devices whose key counts changed in (since, until].
pub fn counts_changed(tx: &ReadTx<'_>, since: Seq, until: Seq) -> Result<Vec<(Nid, String)>, StoreError> {
    tx.rows("SELECT user, device FROM key_counts WHERE seq > ?1 AND seq <= ?2", (since, until), |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Whether a device has an access token of its own.
pub fn has_token(tx: &ReadTx<'_>, user: Nid, device: Nid) -> Result<bool, StoreError> {
    let found =
        tx.row("SELECT 1 FROM access_token WHERE user = ?1 AND device = ?2 LIMIT 1", (user, device), |_| {
            Ok(())
        })?;
    Ok(found.is_some())
}
