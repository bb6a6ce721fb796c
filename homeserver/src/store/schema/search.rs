//! Owns the full-text index of messages, names and topics in rooms that are not encrypted.
//!
//! | table | key -> value | written by |
//! |---|---|---|
//! | `search` (FTS5, contentless) | event number -> its words | `room/search.rs`, when somebody searches; redaction |
//! | `meta` `search_position` | position of the stream up to which it is indexed | the same |
//!
//! Nothing is indexed when an event is sent: the first search catches up, later ones with what came since.

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx, schema::events::stream_kind};

/// See the module. A word that begins with `room` and a number stands for the room, so that a search in one room reads
/// only what is of that room.
pub const SCHEMA: &str = "
CREATE VIRTUAL TABLE search USING fts5(room, words, content='', contentless_delete=1, detail='column',
  tokenize='unicode61 remove_diacritics 2');
";

/// Up to where the stream is indexed.
pub fn position(tx: &ReadTx<'_>) -> Result<Seq, StoreError> {
    let stored: Option<i64> =
        tx.row("SELECT value FROM meta WHERE key = 'search_position'", [], |row| row.get(0))?;
    Ok(Seq(stored.unwrap_or(0)))
}

/// Notes up to where the stream is indexed.
pub fn put_position(tx: &mut WriteTx<'_>, seq: Seq) -> Result<(), StoreError> {
    tx.execute("INSERT OR REPLACE INTO meta(key, value) VALUES('search_position', ?1)", [seq]).map(drop)
}

/// The next events of the stream: (position, event).
pub fn next(tx: &ReadTx<'_>, after: Seq, limit: u32) -> Result<Vec<(Seq, Option<Nid>)>, StoreError> {
    tx.rows(
        "SELECT seq, CASE WHEN kind = ?3 THEN ref END FROM stream WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        (after, limit, stream_kind::EVENT),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Indexes an event (anew).
pub fn put(tx: &mut WriteTx<'_>, event: Nid, room: Nid, words: &str) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO search(rowid, room, words) VALUES(?1, ?2, ?3)",
        (event, format!("room{}", room.0), words),
    )
    .map(drop)
}

/// Forgets an event's words.
pub fn remove(tx: &mut WriteTx<'_>, event: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM search WHERE rowid = ?1", [event]).map(drop)
}

/// Events with all of `words` in one of `rooms`, the newest or the best first. Words are letters and digits of any
/// script, nothing else; the caller sees to that.
pub fn find(
    tx: &ReadTx<'_>,
    words: &[String],
    rooms: &[Nid],
    newest_first: bool,
    limit: u32,
) -> Result<Vec<(Nid, f64)>, StoreError> {
    if words.is_empty() || rooms.is_empty() {
        return Ok(Vec::new());
    }
    let rooms: Vec<String> = rooms.iter().map(|room| format!("room{}", room.0)).collect();
    let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    let question = format!("room : ({}) AND words : ({})", rooms.join(" OR "), words.join(" AND "));
    let sql = if newest_first {
        "SELECT search.rowid, -bm25(search, 0.0, 1.0) FROM search JOIN event ON event.nid = search.rowid
         WHERE search MATCH ?1 ORDER BY event.seq DESC LIMIT ?2"
    } else {
        "SELECT search.rowid, -bm25(search, 0.0, 1.0) FROM search JOIN event ON event.nid = search.rowid
         WHERE search MATCH ?1 ORDER BY bm25(search, 0.0, 1.0), event.seq DESC LIMIT ?2"
    };
    tx.rows(sql, (question, limit), |row| Ok((row.get(0)?, row.get(1)?)))
}
