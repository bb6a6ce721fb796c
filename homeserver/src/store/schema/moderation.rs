//! What administrators look at and decide: lists of users and rooms, blocked rooms, reports, counts. Owner: `user`;
//! `blocked_room` is read by `room`.
//!
//! | table | key | holds | readers |
//! |---|---|---|---|
//! | `blocked_room` | room id | who blocked it, when | room (joins) |

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE blocked_room(room TEXT PRIMARY KEY, by TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX report_at ON report(at_ms);
";

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Part of the name; empty: all.
    pub term: String,
    /// How many to pass over.
    pub from: u64,
    /// How many to give.
    pub limit: u64,
    /// What the tool orders by.
    pub order: String,
    /// The other way round.
    pub backwards: bool,
    /// Also those that were deactivated.
    pub deactivated: bool,
    /// Also guests.
    pub guests: bool,
}

/// Users of a page, and how many there are in all.
pub fn users(tx: &ReadTx<'_>, page: &Page) -> Result<(Vec<Nid>, u64), StoreError> {
    let order = match page.order.as_str() {
        "creation_ts" => "u.made_ms",
        "admin" => "u.admin",
        "deactivated" => "u.deactivated",
        "user_type" => "u.kind",
        _ => "i.text",
    };
    let direction = if page.backwards { "DESC" } else { "ASC" };
    let from =
        "FROM user u JOIN intern i ON i.nid = u.user WHERE (?1 = '' OR instr(lower(i.text), lower(?1)) > 0)
        AND (?2 OR u.deactivated = 0) AND (?3 OR u.guest = 0)";
    let list = tx.rows(
        &format!("SELECT u.user {from} ORDER BY {order} {direction}, u.user LIMIT ?4 OFFSET ?5"),
        params![page.term, page.deactivated, page.guests, page.limit as i64, page.from as i64],
        |row| row.get(0),
    )?;
    let total = tx.row(
        &format!("SELECT count(*) {from}"),
        params![page.term, page.deactivated, page.guests],
        |row| row.get::<_, i64>(0),
    )?;
    Ok((list, total.unwrap_or_default() as u64))
}

/// Rooms of a page, and how many there are in all.
pub fn rooms(tx: &ReadTx<'_>, page: &Page) -> Result<(Vec<Nid>, u64), StoreError> {
    let order = match page.order.as_str() {
        "joined_members" => "r.joined DESC",
        "version" => "r.version",
        "canonical_alias" => "r.alias",
        "public" => "r.public",
        "room_id" => "i.text",
        _ => "r.name IS NULL, r.name COLLATE NOCASE",
    };
    let direction = match (page.backwards, order.ends_with("DESC")) {
        (true, false) => "DESC",
        _ => "",
    };
    let order = if page.backwards { order.trim_end_matches(" DESC") } else { order };
    let from = "FROM room r JOIN intern i ON i.nid = r.room WHERE ?1 = '' OR instr(lower(i.text), lower(?1)) > 0
        OR instr(lower(coalesce(r.name, '')), lower(?1)) > 0 OR instr(lower(coalesce(r.alias, '')), lower(?1)) > 0";
    let list = tx.rows(
        &format!("SELECT r.room {from} ORDER BY {order} {direction}, r.room LIMIT ?2 OFFSET ?3"),
        params![page.term, page.limit as i64, page.from as i64],
        |row| row.get(0),
    )?;
    let total = tx.row(&format!("SELECT count(*) {from}"), params![page.term], |row| row.get::<_, i64>(0))?;
    Ok((list, total.unwrap_or_default() as u64))
}

/// When an account was made, in milliseconds, and its picture and name are elsewhere.
pub fn made_ms(tx: &ReadTx<'_>, user: Nid) -> Result<u64, StoreError> {
    let made = tx.row("SELECT made_ms FROM user WHERE user = ?1", [user], |row| row.get::<_, i64>(0))?;
    Ok(made.unwrap_or_default() as u64)
}

/// Who blocked a room, if somebody did.
pub fn blocked(tx: &ReadTx<'_>, room: &str) -> Result<Option<String>, StoreError> {
    tx.row("SELECT by FROM blocked_room WHERE room = ?1", [room], |row| row.get(0))
}

/// Blocks a room, or lifts the block.
pub fn set_blocked(
    tx: &mut WriteTx<'_>,
    room: &str,
    by: Option<&str>,
    now_ms: u64,
) -> Result<(), StoreError> {
    match by {
        Some(by) => tx.execute(
            "INSERT OR IGNORE INTO blocked_room(room, by, at_ms) VALUES(?1, ?2, ?3)",
            params![room, by, now_ms as i64],
        )?,
        None => tx.execute("DELETE FROM blocked_room WHERE room = ?1", [room])?,
    };
    Ok(())
}

/// Somebody's word about an event, a room or a user.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Its number.
    pub id: i64,
    /// When it came.
    pub at_ms: u64,
    /// Who sent it.
    pub reporter: String,
    /// The room meant, or the room of the event meant.
    pub room: Option<String>,
    /// The event meant.
    pub event: Option<String>,
    /// The user meant.
    pub target: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// How bad, from -100 to 0.
    pub score: Option<i64>,
}

/// Keeps a report; beyond `max` the oldest go.
pub fn put_report(tx: &mut WriteTx<'_>, report: &Report, reporter: Nid, max: u64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO report(at_ms, reporter, room, event, target, reason, score) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            report.at_ms as i64,
            reporter,
            report.room,
            report.event,
            report.target,
            report.reason,
            report.score
        ],
    )?;
    tx.execute("DELETE FROM report WHERE id <= (SELECT max(id) FROM report) - ?1", [max as i64])?;
    Ok(())
}

/// Reports about events (or else those about rooms and users), newest first, and how many there are in all.
pub fn reports(
    tx: &ReadTx<'_>,
    events: bool,
    from: u64,
    limit: u64,
) -> Result<(Vec<Report>, u64), StoreError> {
    let list = tx.rows(
        "SELECT r.id, r.at_ms, i.text, r.room, r.event, r.target, r.reason, r.score
         FROM report r JOIN intern i ON i.nid = r.reporter
         WHERE (r.event IS NOT NULL) = ?1 ORDER BY r.id DESC LIMIT ?2 OFFSET ?3",
        params![events, limit as i64, from as i64],
        report,
    )?;
    let total = tx.row("SELECT count(*) FROM report WHERE (event IS NOT NULL) = ?1", [events], |row| {
        row.get::<_, i64>(0)
    })?;
    Ok((list, total.unwrap_or_default() as u64))
}

/// One report.
pub fn report_by_id(tx: &ReadTx<'_>, id: i64) -> Result<Option<Report>, StoreError> {
    tx.row(
        "SELECT r.id, r.at_ms, i.text, r.room, r.event, r.target, r.reason, r.score
         FROM report r JOIN intern i ON i.nid = r.reporter WHERE r.id = ?1",
        [id],
        report,
    )
}

/// Throws a report away; false if there was none.
pub fn remove_report(tx: &mut WriteTx<'_>, id: i64) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM report WHERE id = ?1", [id])? > 0)
}

fn report(row: &rusqlite::Row<'_>) -> rusqlite::Result<Report> {
    Ok(Report {
        id: row.get(0)?,
        at_ms: row.get::<_, i64>(1)? as u64,
        reporter: row.get(2)?,
        room: row.get(3)?,
        event: row.get(4)?,
        target: row.get(5)?,
        reason: row.get(6)?,
        score: row.get(7)?,
    })
}

/// Media of ours by owner: (user, files, bytes), the largest first.
pub fn media_by_user(tx: &ReadTx<'_>, limit: u64) -> Result<Vec<(Nid, u64, u64)>, StoreError> {
    tx.rows(
        "SELECT m.owner, count(*), coalesce(sum(b.size), 0) FROM media m LEFT JOIN blob b ON b.hash = m.hash
         WHERE m.owner IS NOT NULL GROUP BY m.owner ORDER BY 3 DESC LIMIT ?1",
        [limit as i64],
        |row| Ok((row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64)),
    )
}

/// All registration tokens, used up or not: (token, uses left, uses done, made, expiry).
#[allow(clippy::type_complexity, reason = "a row as it stands")]
pub fn tokens(tx: &ReadTx<'_>) -> Result<Vec<(String, u32, u32, u64, Option<u64>)>, StoreError> {
    tx.rows(
        "SELECT token, uses_left, uses_done, made_ms, expires_ms FROM registration_token ORDER BY made_ms",
        [],
        |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                row.get(2)?,
                row.get::<_, i64>(3)? as u64,
                row.get::<_, Option<i64>>(4)?.map(|ms| ms as u64),
            ))
        },
    )
}

/// Changes what is left of a token; false if there is none.
pub fn set_token(
    tx: &mut WriteTx<'_>,
    token: &str,
    uses_left: u32,
    expires_ms: Option<u64>,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "UPDATE registration_token SET uses_left = ?2, expires_ms = ?3 WHERE token = ?1",
        params![token, uses_left, expires_ms.map(|ms| ms as i64)],
    )?;
    Ok(changed > 0)
}

/// Throws a token away; false if there was none.
pub fn remove_token(tx: &mut WriteTx<'_>, token: &str) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM registration_token WHERE token = ?1", [token])? > 0)
}

/// Servers that are behind in what we have for them, by name.
pub fn behind(tx: &ReadTx<'_>) -> Result<Vec<String>, StoreError> {
    tx.rows("SELECT i.text FROM dest d JOIN intern i ON i.nid = d.server ORDER BY i.text", [], |row| {
        row.get(0)
    })
}
