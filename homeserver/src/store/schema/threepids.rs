//! E-mail addresses that users have proven, and proofs under way: tables `threepid` and `threepid_session` of
//! [`accounts`](super::accounts). Owner: `user`.

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

/// A proven address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreepidRow {
    /// `email`.
    pub medium: String,
    /// The address, in the form it is compared by.
    pub address: String,
    /// When it was proven.
    pub validated_ms: u64,
    /// When it was added to the account.
    pub added_ms: u64,
}

/// A proof under way.
#[derive(Clone, Debug)]
pub struct ProofRow {
    /// The client's secret: only who began may use it.
    pub secret: String,
    /// The address.
    pub address: String,
    /// What the proof is for.
    pub purpose: u8,
    /// How often the client has asked for a mail.
    pub attempt: u64,
    /// SHA-256 of what stands in the mail's link.
    pub token: Vec<u8>,
    /// Where the browser goes on afterwards.
    pub next_link: Option<String>,
    /// When it is over.
    pub expires_ms: u64,
    /// When the link was followed.
    pub validated_ms: Option<u64>,
}

/// Whose address this is.
pub fn owner(tx: &ReadTx<'_>, medium: &str, address: &str) -> Result<Option<Nid>, StoreError> {
    tx.row("SELECT user FROM threepid WHERE medium = ?1 AND address = ?2", (medium, address), |row| {
        row.get(0)
    })
}

/// A user's addresses.
pub fn of_user(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<ThreepidRow>, StoreError> {
    tx.rows(
        "SELECT medium, address, validated_ms, added_ms FROM threepid WHERE user = ?1 ORDER BY added_ms, address",
        [user],
        |row| {
            Ok(ThreepidRow {
                medium: row.get(0)?,
                address: row.get(1)?,
                validated_ms: row.get::<_, i64>(2)? as u64,
                added_ms: row.get::<_, i64>(3)? as u64,
            })
        },
    )
}

/// Gives an address to a user; whoever had it loses it.
pub fn put(tx: &mut WriteTx<'_>, user: Nid, row: &ThreepidRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO threepid(medium, address, user, validated_ms, added_ms) VALUES(?1, ?2, ?3, ?4, ?5)",
        params![row.medium, row.address, user, row.validated_ms as i64, row.added_ms as i64],
    )?;
    Ok(())
}

/// Takes an address from a user; false if it had none such.
pub fn remove(tx: &mut WriteTx<'_>, user: Nid, medium: &str, address: &str) -> Result<bool, StoreError> {
    let gone = tx.execute(
        "DELETE FROM threepid WHERE user = ?1 AND medium = ?2 AND address = ?3",
        params![user, medium, address],
    )?;
    Ok(gone > 0)
}

/// A proof under way, by its session.
pub fn proof(tx: &ReadTx<'_>, sid: &str, now_ms: u64) -> Result<Option<ProofRow>, StoreError> {
    tx.row(
        "SELECT secret, address, purpose, attempt, token, next_link, expires_ms, validated_ms
         FROM threepid_session WHERE sid = ?1 AND expires_ms >= ?2",
        params![sid, now_ms as i64],
        |row| {
            Ok(ProofRow {
                secret: row.get(0)?,
                address: row.get(1)?,
                purpose: row.get(2)?,
                attempt: row.get::<_, i64>(3)? as u64,
                token: row.get(4)?,
                next_link: row.get(5)?,
                expires_ms: row.get::<_, i64>(6)? as u64,
                validated_ms: row.get::<_, Option<i64>>(7)?.map(|ms| ms as u64),
            })
        },
    )
}

/// How many proofs are under way.
pub fn proofs(tx: &ReadTx<'_>) -> Result<u64, StoreError> {
    let count = tx.row("SELECT count(*) FROM threepid_session", [], |row| row.get::<_, i64>(0))?;
    Ok(count.unwrap_or_default() as u64)
}

/// Begins (or begins anew) a proof, and forgets those that are over.
pub fn put_proof(tx: &mut WriteTx<'_>, sid: &str, row: &ProofRow, now_ms: u64) -> Result<(), StoreError> {
    tx.execute("DELETE FROM threepid_session WHERE expires_ms < ?1", [now_ms as i64])?;
    tx.execute(
        "INSERT OR REPLACE INTO threepid_session(sid, secret, medium, address, purpose, attempt, token, next_link,
         expires_ms, validated_ms) VALUES(?1, ?2, 'email', ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            sid,
            row.secret,
            row.address,
            row.purpose,
            row.attempt as i64,
            row.token,
            row.next_link,
            row.expires_ms as i64,
            row.validated_ms.map(|ms| ms as i64)
        ],
    )?;
    Ok(())
}

/// A proof has served its purpose.
pub fn end_proof(tx: &mut WriteTx<'_>, sid: &str) -> Result<(), StoreError> {
    tx.execute("DELETE FROM threepid_session WHERE sid = ?1", [sid])?;
    Ok(())
}
