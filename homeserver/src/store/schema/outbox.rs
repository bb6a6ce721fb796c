//! Owns what goes out to other servers: one row per item, its audience fixed when it was made.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `outbox` | seq -> (kind, event or body, audience) | append, EDU makers | `remote/sender` |
//! | `audience` | id -> servers, each set once | append, EDU makers | `remote/sender` |

use crate::store::{
    Nid, ReadTx, Seq, StoreError, Touched, WriteTx,
    codec::{put_list, take_list},
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE outbox(seq INTEGER PRIMARY KEY, kind INTEGER NOT NULL, ref INTEGER, audience INTEGER NOT NULL, body BLOB);
CREATE TABLE audience(id INTEGER PRIMARY KEY AUTOINCREMENT, hash BLOB NOT NULL UNIQUE, servers BLOB NOT NULL);
";

/// `ref` is an event, sent as a PDU.
pub const KIND_PDU: i64 = 1;
/// `body` is an EDU: `{"edu_type": .., "content": ..}`.
pub const KIND_EDU: i64 = 2;

/// A row of `outbox`.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    /// Its place.
    pub seq: Seq,
    /// [`KIND_PDU`] or [`KIND_EDU`].
    pub kind: i64,
    /// The event of a PDU.
    pub event: Option<Nid>,
    /// Whom it goes to.
    pub audience: i64,
    /// The EDU.
    pub body: Option<Vec<u8>>,
}

/// Number of the audience of these servers (numbers of [`crate::store::Kind::Server`]), made now if it is new. `None`
/// if there is nobody.
pub fn audience(tx: &mut WriteTx<'_>, servers: &[Nid]) -> Result<Option<i64>, StoreError> {
    if servers.is_empty() {
        return Ok(None);
    }
    let mut list: Vec<i64> = servers.iter().map(|server| server.0).collect();
    list.sort_unstable();
    list.dedup();
    let blob = put_list(list);
    let hash = blake3::hash(&blob);
    let hash = &hash.as_bytes()[..];
    let found = tx.row("SELECT id FROM audience WHERE hash = ?1", [hash], |row| row.get(0))?;
    if found.is_some() {
        return Ok(found);
    }
    tx.execute("INSERT INTO audience(hash, servers) VALUES(?1, ?2)", (hash, blob))?;
    Ok(Some(tx.conn().last_insert_rowid()))
}

/// The servers of an audience.
pub fn audience_servers(tx: &ReadTx<'_>, id: i64) -> Result<Vec<Nid>, StoreError> {
    let blob: Option<Vec<u8>> =
        tx.row("SELECT servers FROM audience WHERE id = ?1", [id], |row| row.get(0))?;
    let list = take_list(&blob.ok_or(StoreError::Corrupt("audience missing"))?)?;
    Ok(list.into_iter().map(Nid).collect())
}

/// Queues an event for an audience and wakes the sender after the commit.
pub fn push_event(tx: &mut WriteTx<'_>, event: Nid, audience: i64) -> Result<Seq, StoreError> {
    push(tx, KIND_PDU, Some(event), None, audience)
}

/// Queues an EDU (`{"edu_type": .., "content": ..}`) for `servers` and wakes the sender after the commit. Nothing is
/// queued if there is nobody.
pub fn push_edu(tx: &mut WriteTx<'_>, servers: &[Nid], body: &[u8]) -> Result<Option<Seq>, StoreError> {
    match audience(tx, servers)? {
        Some(audience) => push(tx, KIND_EDU, None, Some(body), audience).map(Some),
        None => Ok(None),
    }
}

fn push(
    tx: &mut WriteTx<'_>,
    kind: i64,
    event: Option<Nid>,
    body: Option<&[u8]>,
    audience: i64,
) -> Result<Seq, StoreError> {
    let seq = tx.next_seq()?;
    tx.execute(
        "INSERT INTO outbox(seq, kind, ref, audience, body) VALUES(?1, ?2, ?3, ?4, ?5)",
        (seq, kind, event, audience, body),
    )?;
    tx.touch(Touched::Outbox);
    Ok(seq)
}

/// Rows after `after`, in order, up to `limit`.
pub fn after(tx: &ReadTx<'_>, after: Seq, limit: u32) -> Result<Vec<OutboxRow>, StoreError> {
    tx.rows(
        "SELECT seq, kind, ref, audience, body FROM outbox WHERE seq > ?1 ORDER BY seq LIMIT ?2",
        (after, limit),
        |row| {
            Ok(OutboxRow {
                seq: row.get(0)?,
                kind: row.get(1)?,
                event: row.get(2)?,
                audience: row.get(3)?,
                body: row.get(4)?,
            })
        },
    )
}

/// Drops rows up to and with `upto`: every destination has them.
pub fn remove_upto(tx: &mut WriteTx<'_>, upto: Seq) -> Result<(), StoreError> {
    tx.execute("DELETE FROM outbox WHERE seq <= ?1", [upto])?;
    Ok(())
}
