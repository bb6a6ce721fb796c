//! Owns `txn_id`: which event a device's transaction made.

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// A client's transaction.
#[derive(Clone, Copy, Debug)]
pub struct TxnOf<'a> {
    /// Who sent.
    pub user: Nid,
    /// With which device.
    pub device: Nid,
    /// Into which room.
    pub room: Nid,
    /// The client's id for it.
    pub txn: &'a str,
}

/// The event that a transaction made.
pub fn txn(tx: &ReadTx<'_>, of: &TxnOf<'_>) -> Result<Option<Nid>, StoreError> {
    tx.row(
        "SELECT event FROM txn_id WHERE user = ?1 AND device = ?2 AND room = ?3 AND txn = ?4",
        (of.user, of.device, of.room, of.txn),
        |row| row.get(0),
    )
}

/// Notes which event a transaction made.
pub fn put_txn(tx: &mut WriteTx<'_>, of: &TxnOf<'_>, event: Nid, ts: i64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO txn_id(user, device, room, txn, event, ts) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        (of.user, of.device, of.room, of.txn, event, ts),
    )?;
    if event.0 % TXN_SWEEP_EVERY == 0 {
        tx.execute(
            "DELETE FROM txn_id WHERE user = ?1 AND device = ?2 AND ts < ?3",
            (of.user, of.device, ts - TXN_KEPT_MS),
        )?;
    }
    Ok(())
}

/// How long a transaction is known: far longer than a client repeats one.
const TXN_KEPT_MS: i64 = 24 * 60 * 60 * 1000;
/// One event in so many sweeps its device's old transactions out.
const TXN_SWEEP_EVERY: i64 = 256;
