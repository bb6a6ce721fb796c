//! Devices that sleep on the server until a new log-in wakes them (MSC3814). Owner: `e2ee`.
//!
//! | table | key | holds |
//! |---|---|---|
//! | `dehydrated` | user | the device's id, and its sealed private keys (JSON) |

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE dehydrated(user INTEGER PRIMARY KEY, device TEXT NOT NULL, data TEXT NOT NULL);
";

/// A user's sleeping device: (id, sealed keys).
pub fn get(tx: &ReadTx<'_>, user: Nid) -> Result<Option<(String, String)>, StoreError> {
    tx.row("SELECT device, data FROM dehydrated WHERE user = ?1", [user], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Puts a device to sleep, in place of an earlier one.
pub fn put(tx: &mut WriteTx<'_>, user: Nid, device: &str, data: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO dehydrated(user, device, data) VALUES(?1, ?2, ?3)",
        params![user, device, data],
    )?;
    Ok(())
}

/// Forgets a device if it is the one that sleeps.
pub fn remove(tx: &mut WriteTx<'_>, user: Nid, device: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM dehydrated WHERE user = ?1 AND device = ?2", params![user, device])?;
    Ok(())
}
