//! OAuth clients, and users whom outside providers vouch for: tables `oauth_client` and `upstream_account` of
//! [`accounts`](super::accounts). Owner: `user`.

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// Registers (or remembers again) a client. Beyond `max`, those used least recently that have no device go.
pub fn put_client(
    tx: &mut WriteTx<'_>,
    id: &str,
    json: &str,
    now_ms: u64,
    max: u64,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO oauth_client(id, json, used_ms) VALUES(?1, ?2, ?3)
         ON CONFLICT(id) DO UPDATE SET used_ms = excluded.used_ms",
        params![id, json, now_ms as i64],
    )?;
    let count =
        tx.row("SELECT count(*) FROM oauth_client", [], |row| row.get::<_, i64>(0))?.unwrap_or_default();
    if count as u64 > max {
        tx.execute(
            "DELETE FROM oauth_client WHERE id IN (SELECT id FROM oauth_client
             WHERE id NOT IN (SELECT client FROM device WHERE client IS NOT NULL)
             ORDER BY used_ms LIMIT max(0, (SELECT count(*) FROM oauth_client) - ?1))",
            [max as i64],
        )?;
    }
    Ok(())
}

/// A client's metadata.
pub fn client(tx: &ReadTx<'_>, id: &str) -> Result<Option<String>, StoreError> {
    tx.row("SELECT json FROM oauth_client WHERE id = ?1", [id], |row| row.get(0))
}

/// The user whom a provider knows by this subject.
pub fn upstream(tx: &ReadTx<'_>, provider: &str, subject: &str) -> Result<Option<Nid>, StoreError> {
    tx.row(
        "SELECT user FROM upstream_account WHERE provider = ?1 AND subject = ?2",
        (provider, subject),
        |row| row.get(0),
    )
}

/// The provider and subject of a user's outside accounts.
pub fn upstreams(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<(String, String)>, StoreError> {
    tx.rows("SELECT provider, subject FROM upstream_account WHERE user = ?1", [user], |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Ties a provider's subject to a user.
pub fn put_upstream(
    tx: &mut WriteTx<'_>,
    provider: &str,
    subject: &str,
    user: Nid,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO upstream_account(provider, subject, user) VALUES(?1, ?2, ?3)",
        params![provider, subject, user],
    )?;
    Ok(())
}
