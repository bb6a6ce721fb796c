//! Owns the list of tables and how an older file is brought up to date.
//!
//! Every step runs once, in one transaction with the number that says so. A step that has been released is never
//! edited: what changes later is a new step at the end.

use std::cell::RefCell;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use super::{
    Shared, StoreError, WriteTx, schema,
    tx::{Counters, Group},
};

/// One step of the file's history.
struct Step {
    name: &'static str,
    sql: &'static str,
}

/// Works through what is stored, in chunks; true while there is more. The number is its own place-keeper, 0 at first.
type Fill = fn(&mut WriteTx<'_>, &mut i64) -> Result<bool, StoreError>;

/// Steps that SQL alone cannot do. They run after all of [`STEPS`], each until it is done; one that was cut short begins
/// anew, so that it has to bear being done twice.
const FILLS: &[(&str, Fill)] = &[("chain_fill", schema::chain::fill)];

/// The tables by area, each area's file its own step, in the order they were first made.
const STEPS: &[Step] = &[
    Step { name: "core", sql: CORE },
    Step { name: "events", sql: schema::events::SCHEMA },
    Step { name: "events_compact", sql: schema::events::COMPACT },
    Step { name: "chain", sql: schema::chain::SCHEMA },
    Step { name: "threads", sql: schema::threads::SCHEMA },
    Step { name: "thread_newest", sql: schema::threads::SCHEMA_NEWEST },
    Step { name: "thread_subs", sql: schema::thread_subs::SCHEMA },
    Step { name: "sticky", sql: schema::sticky::SCHEMA },
    Step { name: "search", sql: schema::search::SCHEMA },
    Step { name: "state", sql: schema::state::SCHEMA },
    Step { name: "membership", sql: schema::membership::SCHEMA },
    Step { name: "purge", sql: schema::purge::SCHEMA },
    Step { name: "partial", sql: schema::partial::SCHEMA },
    Step { name: "rooms", sql: schema::rooms::SCHEMA },
    Step { name: "rooms_last", sql: schema::rooms::SCHEMA_LAST },
    Step { name: "rooms_network", sql: schema::rooms::SCHEMA_NETWORK },
    Step { name: "outbox", sql: schema::outbox::SCHEMA },
    Step { name: "dest", sql: schema::dest::SCHEMA },
    Step { name: "staged", sql: schema::staged::SCHEMA },
    Step { name: "server_keys", sql: schema::server_keys::SCHEMA },
    Step { name: "server_keys_document", sql: schema::server_keys::SCHEMA_DOCUMENT },
    Step { name: "e2ee", sql: schema::e2ee::SCHEMA },
    Step { name: "dehydrated", sql: schema::dehydrated::SCHEMA },
    Step { name: "delayed", sql: schema::delayed::SCHEMA },
    Step { name: "delegated", sql: schema::delayed::SCHEMA_DELEGATED },
    Step { name: "push", sql: schema::push::SCHEMA },
    Step { name: "push_gone", sql: schema::push::SCHEMA_GONE },
    Step { name: "pushers", sql: schema::pushers::SCHEMA },
    Step { name: "appservices", sql: schema::appservices::SCHEMA },
    Step { name: "receipts", sql: schema::receipts::SCHEMA },
    Step { name: "filters", sql: schema::filters::SCHEMA },
    Step { name: "backup", sql: schema::backup::SCHEMA },
    Step { name: "users", sql: schema::users::SCHEMA },
    Step { name: "profiles", sql: schema::profiles::SCHEMA },
    Step { name: "account_data", sql: schema::account_data::SCHEMA },
    Step { name: "media", sql: schema::media::SCHEMA },
    Step { name: "media_moderated", sql: schema::media::MODERATED },
    Step { name: "accounts", sql: schema::accounts::SCHEMA },
    Step { name: "moderation", sql: schema::moderation::SCHEMA },
];

/// What every store has: counters whose numbers are never used twice, interned texts, a few single values.
const CORE: &str = "
CREATE TABLE counter(name TEXT PRIMARY KEY, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE intern(nid INTEGER PRIMARY KEY, kind INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE(kind, text));
CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
";

/// Values that live as long as the file.
pub(super) struct Meta {
    pub(super) incarnation: u64,
    pub(super) secret: [u8; 32],
}

/// Applies the steps that the file has not seen, and reads (or makes) its fixed values.
pub(super) fn run(conn: &mut Connection) -> Result<Meta, StoreError> {
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute_batch(
        "CREATE TABLE IF NOT EXISTS migration(name TEXT PRIMARY KEY, at INTEGER NOT NULL) WITHOUT ROWID",
    )?;
    let mut known = 0;
    for step in STEPS {
        let done: Option<i64> = tx
            .query_row("SELECT 1 FROM migration WHERE name = ?1", [step.name], |row| row.get(0))
            .optional()?;
        if done.is_none() {
            tx.execute_batch(step.sql)?;
            tx.execute("INSERT INTO migration(name, at) VALUES(?1, unixepoch())", [step.name])?;
        }
        known += 1;
    }
    known += FILLS.len() as i64;
    let found: i64 = tx.query_row("SELECT count(*) FROM migration", [], |row| row.get(0))?;
    if found > known {
        return Err(StoreError::TooNew { found, known });
    }
    let incarnation = fixed::<8>(&tx, "incarnation")?;
    let secret = fixed::<32>(&tx, "state_hash_secret")?;
    tx.commit()?;
    // 53 bits: the number also travels through JSON.
    Ok(Meta { incarnation: u64::from_le_bytes(incarnation) >> 11, secret })
}

/// Runs the fills that the file has not seen.
pub(super) fn fill(conn: &Connection, shared: &Shared, counters: &mut Counters) -> Result<(), StoreError> {
    for (name, fill) in FILLS {
        let done: Option<i64> =
            conn.query_row("SELECT 1 FROM migration WHERE name = ?1", [name], |row| row.get(0)).optional()?;
        if done.is_some() {
            continue;
        }
        let (mut at, mut more) = (0, true);
        while more {
            conn.execute_batch("BEGIN IMMEDIATE")?;
            let pending = RefCell::new(Vec::new());
            let mut group =
                Group { counters: *counters, touched: Vec::new(), events: Vec::new(), cut: false };
            more = fill(&mut WriteTx::new(conn, shared, &mut group, &pending), &mut at)?;
            if !more {
                conn.execute("INSERT INTO migration(name, at) VALUES(?1, unixepoch())", [name])?;
            }
            conn.execute_batch("COMMIT")?;
            *counters = group.counters;
        }
    }
    Ok(())
}

/// A random value made when the file was.
fn fixed<const N: usize>(conn: &Connection, key: &str) -> Result<[u8; N], StoreError> {
    let stored: Option<Vec<u8>> =
        conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?;
    if let Some(stored) = stored {
        return stored.try_into().map_err(|_| StoreError::Corrupt("meta value of wrong size"));
    }
    let mut value = [0; N];
    getrandom::fill(&mut value).map_err(|error| std::io::Error::other(error.to_string()))?;
    conn.execute("INSERT INTO meta(key, value) VALUES(?1, ?2)", params![key, value.as_slice()])?;
    Ok(value)
}
