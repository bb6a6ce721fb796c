//! Owns how far each destination of the outbox is.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `outbox_mark` | 0 -> place up to which every destination without a cursor has everything | `remote/sender` | `remote/sender` |
//! | `dest` | server that is behind -> its own place | `remote/sender` | `remote/sender` |
//! | `inflight` | server -> the range and id of the transaction that was last sent and not yet acknowledged | `remote/sender` | `remote/sender` |
//! | `in_txn` | (server, transaction id) -> our answer, so that a repeated one does nothing | `api/federation/transactions` | same |

use crate::{
    remote::sender::core::{Item, Range, Save, Stored},
    store::{
        Nid, ReadTx, Seq, StoreError, WriteTx,
        schema::outbox::{self, KIND_PDU},
    },
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE outbox_mark(id INTEGER PRIMARY KEY CHECK(id = 0), seq INTEGER NOT NULL);
CREATE TABLE dest(server INTEGER PRIMARY KEY, cursor INTEGER NOT NULL);
CREATE TABLE inflight(server INTEGER PRIMARY KEY, txn TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL);
CREATE TABLE in_txn(server INTEGER, txn TEXT, answer BLOB NOT NULL, ts INTEGER NOT NULL,
  PRIMARY KEY(server, txn)) WITHOUT ROWID;
CREATE INDEX in_txn_age ON in_txn(ts);
";

/// What the last run left.
pub fn load(tx: &ReadTx<'_>) -> Result<Stored, StoreError> {
    Ok(Stored {
        mark: tx.row("SELECT seq FROM outbox_mark", [], |row| row.get(0))?.unwrap_or_default(),
        cursors: tx.rows("SELECT server, cursor FROM dest", [], |row| Ok((row.get(0)?, row.get(1)?)))?,
        ranges: tx.rows("SELECT server, txn, first, last FROM inflight", [], |row| {
            Ok(Range { server: row.get(0)?, txn: row.get(1)?, first: row.get(2)?, last: row.get(3)? })
        })?,
    })
}

/// Writes what the sender decided, and drops the rows of the outbox that nobody needs any more.
pub fn save(tx: &mut WriteTx<'_>, save: &Save) -> Result<(), StoreError> {
    for server in &save.done {
        tx.execute("DELETE FROM inflight WHERE server = ?1", [server])?;
    }
    for range in &save.ranges {
        tx.execute(
            "INSERT OR REPLACE INTO inflight(server, txn, first, last) VALUES(?1, ?2, ?3, ?4)",
            (range.server, &range.txn, range.first, range.last),
        )?;
    }
    for (server, cursor) in &save.cursors {
        match cursor {
            Some(cursor) => {
                tx.execute("INSERT OR REPLACE INTO dest(server, cursor) VALUES(?1, ?2)", (*server, *cursor))?
            }
            None => tx.execute("DELETE FROM dest WHERE server = ?1", [server])?,
        };
    }
    tx.execute("INSERT OR REPLACE INTO outbox_mark(id, seq) VALUES(0, ?1)", [save.mark])?;
    outbox::remove_upto(tx, save.remove_upto)
}

/// A destination's rows in (`after`, `upto`], at most `limit` of them, and whether those are all.
/// Looks at `scan` rows at most, and tells how far it came.
pub fn rows_of(
    tx: &ReadTx<'_>,
    server: Nid,
    after: Seq,
    upto: Seq,
    limit: usize,
    scan: u32,
) -> Result<(Vec<Item>, bool), StoreError> {
    let mut items = Vec::new();
    let mut at = after;
    let mut known: std::collections::HashMap<i64, bool> = std::collections::HashMap::new();
    loop {
        let rows = outbox::after(tx, at, scan)?;
        let whole = rows.len() < scan as usize;
        for row in rows {
            if row.seq > upto {
                return Ok((items, true));
            }
            at = row.seq;
            let concerned = match known.get(&row.audience) {
                Some(known) => *known,
                None => {
                    let found = outbox::audience_servers(tx, row.audience)?.contains(&server);
                    known.insert(row.audience, found);
                    found
                }
            };
            if concerned {
                items.push(Item { seq: row.seq, pdu: row.kind == KIND_PDU });
                if items.len() >= limit {
                    return Ok((items, false));
                }
            }
        }
        if whole {
            return Ok((items, true));
        }
    }
}

/// Our answer to a transaction that was here before.
pub fn answer(tx: &ReadTx<'_>, server: Nid, txn: &str) -> Result<Option<Vec<u8>>, StoreError> {
    tx.row("SELECT answer FROM in_txn WHERE server = ?1 AND txn = ?2", (server, txn), |row| row.get(0))
}

/// Keeps our answer to a transaction, and forgets some of those older than `oldest_ms`.
pub fn put_answer(
    tx: &mut WriteTx<'_>,
    server: Nid,
    txn: &str,
    answer: &[u8],
    now_ms: i64,
    oldest_ms: i64,
) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM in_txn WHERE (server, txn) IN (SELECT server, txn FROM in_txn WHERE ts < ?1 LIMIT 8)",
        [oldest_ms],
    )?;
    tx.execute(
        "INSERT OR REPLACE INTO in_txn(server, txn, answer, ts) VALUES(?1, ?2, ?3, ?4)",
        (server, txn, answer, now_ms),
    )?;
    Ok(())
}
