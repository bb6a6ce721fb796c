//! Table of events that are sent later. Owner: `room::delayed`.
//!
//! `delayed`: the id that its client was given -> the event to be, since when its time runs and for how long; once it is
//! done with, when, and what became of it (an event, an error, or neither: cancelled).

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE delayed(
  id TEXT PRIMARY KEY, user INTEGER NOT NULL, device INTEGER NOT NULL, room INTEGER NOT NULL, txn TEXT,
  type TEXT NOT NULL, state_key TEXT, content TEXT NOT NULL, sticky INTEGER, delay INTEGER NOT NULL, since INTEGER NOT NULL,
  done INTEGER, event TEXT, error TEXT) WITHOUT ROWID;
CREATE INDEX delayed_due ON delayed(since + delay) WHERE done IS NULL;
CREATE INDEX delayed_user ON delayed(user, done);
CREATE INDEX delayed_txn ON delayed(user, device, room, txn) WHERE txn IS NOT NULL;
";

/// A later step: leaves that clients handed over. Owner: `calls::watch`.
pub const SCHEMA_DELEGATED: &str = "
CREATE TABLE delegated(
  id TEXT PRIMARY KEY, call TEXT NOT NULL, identity TEXT NOT NULL, seen INTEGER NOT NULL, until INTEGER NOT NULL) WITHOUT ROWID;
";

/// A delayed event that goes out when somebody is gone from a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delegated {
    /// The event's id.
    pub id: String,
    /// What the media server calls the call.
    pub call: String,
    /// What it calls the participant.
    pub identity: String,
    /// Whether they were there.
    pub seen: bool,
    /// Until when they have to come, in milliseconds since the Unix epoch.
    pub until: i64,
}

/// An event that is to be sent later, or was to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DelayedRow {
    /// Its id.
    pub id: String,
    /// Who sends it.
    pub user: Nid,
    /// With which device.
    pub device: Nid,
    /// Into which room.
    pub room: Nid,
    /// The transaction in which the client asked for it.
    pub txn: Option<String>,
    /// Its type.
    pub kind: String,
    /// Its state key, if it is state.
    pub state_key: Option<String>,
    /// Its content, a JSON object.
    pub content: String,
    /// For how long it sticks, in milliseconds.
    pub sticky: Option<u32>,
    /// How long it waits, in milliseconds.
    pub delay: i64,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: i64,
    /// When it was done with.
    pub done: Option<i64>,
    /// The id of the event that it became.
    pub event: Option<String>,
    /// Why it could not be sent, as JSON.
    pub error: Option<String>,
}

macro_rules! columns {
    () => {
        "id, user, device, room, txn, type, state_key, content, sticky, delay, since, done, event, error"
    };
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<DelayedRow> {
    Ok(DelayedRow {
        id: row.get(0)?,
        user: row.get(1)?,
        device: row.get(2)?,
        room: row.get(3)?,
        txn: row.get(4)?,
        kind: row.get(5)?,
        state_key: row.get(6)?,
        content: row.get(7)?,
        sticky: row.get(8)?,
        delay: row.get(9)?,
        since: row.get(10)?,
        done: row.get(11)?,
        event: row.get(12)?,
        error: row.get(13)?,
    })
}

/// Keeps one.
pub fn put(tx: &mut WriteTx<'_>, row: &DelayedRow) -> Result<(), StoreError> {
    tx.execute(
        concat!(
            "INSERT INTO delayed(",
            columns!(),
            ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)"
        ),
        params![
            row.id,
            row.user,
            row.device,
            row.room,
            row.txn,
            row.kind,
            row.state_key,
            row.content,
            row.sticky,
            row.delay,
            row.since,
            row.done,
            row.event,
            row.error
        ],
    )
    .map(drop)
}

/// One by its id.
pub fn get(tx: &ReadTx<'_>, id: &str) -> Result<Option<DelayedRow>, StoreError> {
    tx.row(concat!("SELECT ", columns!(), " FROM delayed WHERE id = ?1"), [id], read)
}

/// The id that a transaction was given.
pub fn by_txn(
    tx: &ReadTx<'_>,
    user: Nid,
    device: Nid,
    room: Nid,
    txn: &str,
) -> Result<Option<String>, StoreError> {
    tx.row(
        "SELECT id FROM delayed WHERE user = ?1 AND device = ?2 AND room = ?3 AND txn = ?4",
        (user, device, room, txn),
        |row| row.get(0),
    )
}

/// Those of a user that wait, in the order of their time.
pub fn scheduled(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<DelayedRow>, StoreError> {
    tx.rows(
        concat!(
            "SELECT ",
            columns!(),
            " FROM delayed WHERE user = ?1 AND done IS NULL ORDER BY since + delay"
        ),
        [user],
        read,
    )
}

/// Those of a user that are done with, in the order in which they were.
pub fn finished(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<DelayedRow>, StoreError> {
    tx.rows(
        concat!("SELECT ", columns!(), " FROM delayed WHERE user = ?1 AND done IS NOT NULL ORDER BY done"),
        [user],
        read,
    )
}

/// Those whose time has come by `now`, in order.
pub fn due(tx: &ReadTx<'_>, now: i64, limit: u32) -> Result<Vec<DelayedRow>, StoreError> {
    tx.rows(
        concat!(
            "SELECT ",
            columns!(),
            " FROM delayed WHERE done IS NULL AND since + delay <= ?1 ORDER BY since + delay LIMIT ?2"
        ),
        (now, limit),
        read,
    )
}

/// When the next one's time comes.
pub fn next_due(tx: &ReadTx<'_>) -> Result<Option<i64>, StoreError> {
    let next: Option<Option<i64>> =
        tx.row("SELECT min(since + delay) FROM delayed WHERE done IS NULL", [], |row| row.get(0))?;
    Ok(next.flatten())
}

/// Its time runs anew from `now`; false if it does not wait any more.
pub fn restart(tx: &mut WriteTx<'_>, id: &str, now: i64) -> Result<bool, StoreError> {
    Ok(tx.execute("UPDATE delayed SET since = ?2 WHERE id = ?1 AND done IS NULL", (id, now))? > 0)
}

/// It is done with; false if it was before. Of the user's others that are, the newest `kept` stay.
pub fn finish(
    tx: &mut WriteTx<'_>,
    id: &str,
    user: Nid,
    now: i64,
    outcome: (Option<&str>, Option<&str>),
    kept: u32,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE delayed SET done = ?2, event = ?3, error = ?4 WHERE id = ?1 AND done IS NULL",
        (id, now, outcome.0, outcome.1),
    )?;
    if changed > 0 {
        tx.execute(
            "DELETE FROM delayed WHERE user = ?1 AND done < (SELECT done FROM delayed WHERE user = ?1 AND done IS NOT NULL
             ORDER BY done DESC LIMIT 1 OFFSET ?2)",
            (user, kept - 1),
        )?;
    }
    Ok(changed > 0)
}

/// Forgets those that were done with before `before`.
pub fn forget(tx: &mut WriteTx<'_>, before: i64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM delayed WHERE done < ?1", [before]).map(drop)
}

/// Hands one over; again, if it was.
pub fn delegate(tx: &mut WriteTx<'_>, row: &Delegated) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO delegated(id, call, identity, seen, until) VALUES(?1, ?2, ?3, ?4, ?5)",
        params![row.id, row.call, row.identity, row.seen, row.until],
    )?;
    // What was sent or cancelled in another way is nobody's any more.
    tx.execute("DELETE FROM delegated WHERE id NOT IN (SELECT id FROM delayed WHERE done IS NULL)", [])
        .map(drop)
}

/// All that were handed over and still wait, with their events.
pub fn delegated(tx: &ReadTx<'_>) -> Result<Vec<(Delegated, DelayedRow)>, StoreError> {
    let rows: Vec<Delegated> =
        tx.rows("SELECT id, call, identity, seen, until FROM delegated", [], |row| {
            Ok(Delegated {
                id: row.get(0)?,
                call: row.get(1)?,
                identity: row.get(2)?,
                seen: row.get(3)?,
                until: row.get(4)?,
            })
        })?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(event) = get(tx, &row.id)?.filter(|event| event.done.is_none()) {
            found.push((row, event));
        }
    }
    Ok(found)
}

/// The participant is there.
pub fn saw(tx: &mut WriteTx<'_>, id: &str) -> Result<(), StoreError> {
    tx.execute("UPDATE delegated SET seen = 1 WHERE id = ?1", [id]).map(drop)
}

/// The event is its sender's again.
pub fn undelegate(tx: &mut WriteTx<'_>, id: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM delegated WHERE id = ?1", [id]).map(drop)
}
