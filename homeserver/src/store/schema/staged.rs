//! Owns events of other servers that wait for what comes before them: acknowledged to their sender, not in the room yet.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `staged` | number -> room, the server that brought it, the PDU as it came | `room/staging` | `room/staging` |

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE staged(id INTEGER PRIMARY KEY AUTOINCREMENT, room INTEGER NOT NULL, origin INTEGER NOT NULL, pdu BLOB NOT NULL);
CREATE INDEX staged_line ON staged(room, origin, id);
";

/// Puts an event at the end of its line, unless the line or the table is full. True if it is there now.
pub fn put(
    tx: &mut WriteTx<'_>,
    room: Nid,
    origin: Nid,
    pdu: &[u8],
    line_max: i64,
    all_max: i64,
) -> Result<bool, StoreError> {
    let line: Option<i64> =
        tx.row("SELECT count(*) FROM staged WHERE room = ?1 AND origin = ?2", (room, origin), |row| {
            row.get(0)
        })?;
    let all: Option<i64> = tx.row("SELECT count(*) FROM staged", [], |row| row.get(0))?;
    if line.unwrap_or(0) >= line_max || all.unwrap_or(0) >= all_max {
        return Ok(false);
    }
    tx.execute("INSERT INTO staged(room, origin, pdu) VALUES(?1, ?2, ?3)", (room, origin, pdu))?;
    Ok(true)
}

/// The first of a line: its number and the PDU.
pub fn first(tx: &ReadTx<'_>, room: Nid, origin: Nid) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
    tx.row(
        "SELECT id, pdu FROM staged WHERE room = ?1 AND origin = ?2 ORDER BY id LIMIT 1",
        (room, origin),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// It is done with.
pub fn remove(tx: &mut WriteTx<'_>, id: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM staged WHERE id = ?1", [id]).map(drop)
}

/// The lines that there are: (room, origin).
pub fn lines(tx: &ReadTx<'_>) -> Result<Vec<(Nid, Nid)>, StoreError> {
    tx.rows("SELECT DISTINCT room, origin FROM staged", [], |row| Ok((row.get(0)?, row.get(1)?)))
}
