//! Media: what an `mxc://` id points to. Owner: `media`.
//!
//! | table | key | holds |
//! |---|---|---|
//! | `media` | server (0: ours), id | hash of the content, type, file name, owner, when made and last asked for |
//! | `blob` | BLAKE3 hash | size; the file lies in the content store |
//! | `thumbnail` | hash of the original, width, height, method | hash and type of the small picture |
//! | `quarantine` | hash of the content | who took it out of sight, when |
//!
//! An id is random and says nothing about the content; many ids may share a blob. A blob without a row that points to
//! it is garbage, and its file goes after the row.

use rusqlite::params;

use crate::store::{Nid, ReadTx, StoreError, WriteTx};

pub(in crate::store) const SCHEMA: &str = "
CREATE TABLE media(server INTEGER NOT NULL, id TEXT NOT NULL, hash BLOB, type TEXT, name TEXT, owner INTEGER, made_ms INTEGER NOT NULL,
  used_ms INTEGER NOT NULL, PRIMARY KEY(server, id)) WITHOUT ROWID;
CREATE INDEX media_hash ON media(hash);
CREATE INDEX media_owner ON media(owner, made_ms);
CREATE TABLE blob(hash BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE thumbnail(original BLOB NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL, method INTEGER NOT NULL, hash BLOB NOT NULL,
  type TEXT NOT NULL, PRIMARY KEY(original, width, height, method)) WITHOUT ROWID;
CREATE INDEX thumbnail_hash ON thumbnail(hash);
";

/// What administrators do: content out of sight, media that stay in it; and animated small pictures beside still ones.
pub(in crate::store) const MODERATED: &str = "
CREATE TABLE quarantine(hash BLOB PRIMARY KEY, user TEXT NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID;
ALTER TABLE media ADD COLUMN protected INTEGER NOT NULL DEFAULT 0;
";

/// A BLAKE3 hash.
pub type Hash = [u8; 32];

/// The server of our own media.
pub const OURS: Nid = Nid(0);

/// What an id points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaRow {
    /// The content; `None` while an announced upload has not come.
    pub hash: Option<Hash>,
    /// Its type, as the uploader said.
    pub content_type: Option<String>,
    /// Its file name, as the uploader said.
    pub name: Option<String>,
    /// Who uploaded it, if that was one of our users.
    pub owner: Option<Nid>,
    /// When the id was made.
    pub made_ms: u64,
    /// When it was last asked for.
    pub used_ms: u64,
    /// Whether an administrator has taken its content out of sight.
    pub quarantined: bool,
}

/// Looks an id up.
pub fn find(tx: &ReadTx<'_>, server: Nid, id: &str) -> Result<Option<MediaRow>, StoreError> {
    tx.row(
        "SELECT hash, type, name, owner, made_ms, used_ms, EXISTS (SELECT 1 FROM quarantine q WHERE q.hash = media.hash)
         FROM media WHERE server = ?1 AND id = ?2",
        params![server, id],
        |row| {
            Ok(MediaRow {
                hash: row.get(0)?,
                content_type: row.get(1)?,
                name: row.get(2)?,
                owner: row.get(3)?,
                made_ms: row.get::<_, i64>(4)? as u64,
                used_ms: row.get::<_, i64>(5)? as u64,
                quarantined: row.get(6)?,
            })
        },
    )
}

/// Stores an id, or fills in one that was announced.
pub fn put(tx: &mut WriteTx<'_>, server: Nid, id: &str, row: &MediaRow) -> Result<(), StoreError> {
    tx.execute(
        "INSERT INTO media(server, id, hash, type, name, owner, made_ms, used_ms) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
         ON CONFLICT(server, id) DO UPDATE SET hash = excluded.hash, type = excluded.type, name = excluded.name, used_ms = excluded.used_ms",
        params![
            server,
            id,
            row.hash,
            row.content_type,
            row.name,
            row.owner,
            row.made_ms as i64,
            row.used_ms as i64
        ],
    )?;
    Ok(())
}

/// How many announced uploads of a user have not come, of those made after `since_ms`; older ones are forgotten.
pub fn announced(tx: &mut WriteTx<'_>, owner: Nid, since_ms: u64) -> Result<u64, StoreError> {
    tx.execute(
        "DELETE FROM media WHERE owner = ?1 AND made_ms < ?2 AND hash IS NULL",
        params![owner, since_ms as i64],
    )?;
    let count = tx.row("SELECT count(*) FROM media WHERE owner = ?1 AND hash IS NULL", [owner], |row| {
        row.get::<_, i64>(0)
    })?;
    Ok(count.unwrap_or_default() as u64)
}

/// Notes that an id was asked for.
pub fn used(tx: &mut WriteTx<'_>, server: Nid, id: &str, now_ms: u64) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE media SET used_ms = ?3 WHERE server = ?1 AND id = ?2",
        params![server, id, now_ms as i64],
    )?;
    Ok(())
}

/// Says that a blob's file is on the disk.
pub fn put_blob(tx: &mut WriteTx<'_>, hash: &Hash, size: u64) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR IGNORE INTO blob(hash, size) VALUES(?1, ?2)",
        params![hash.as_slice(), size as i64],
    )?;
    Ok(())
}

/// Whether a blob's file is on the disk.
pub fn has_blob(tx: &ReadTx<'_>, hash: &Hash) -> Result<bool, StoreError> {
    let found =
        tx.row("SELECT 1 FROM blob WHERE hash = ?1", [hash.as_slice()], |row| row.get::<_, i64>(0))?;
    Ok(found.is_some())
}

/// A blob's size; 0 if there is none.
pub fn blob_bytes(tx: &ReadTx<'_>, hash: &Hash) -> Result<u64, StoreError> {
    let size =
        tx.row("SELECT size FROM blob WHERE hash = ?1", [hash.as_slice()], |row| row.get::<_, i64>(0))?;
    Ok(size.unwrap_or_default() as u64)
}

/// A small picture of an original: (hash, type).
pub fn thumbnail(
    tx: &ReadTx<'_>,
    original: &Hash,
    width: u32,
    height: u32,
    method: u8,
) -> Result<Option<(Hash, String)>, StoreError> {
    tx.row(
        "SELECT hash, type FROM thumbnail WHERE original = ?1 AND width = ?2 AND height = ?3 AND method = ?4",
        params![original.as_slice(), width, height, method],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Stores a small picture.
pub fn put_thumbnail(
    tx: &mut WriteTx<'_>,
    original: &Hash,
    (width, height, method): (u32, u32, u8),
    hash: &Hash,
    content_type: &str,
) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO thumbnail(original, width, height, method, hash, type) VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
        params![original.as_slice(), width, height, method, hash.as_slice(), content_type],
    )?;
    Ok(())
}

/// Bytes of blobs that only remote media, pictures of previews (they have no owner) and thumbnails need.
pub fn evictable_bytes(tx: &ReadTx<'_>) -> Result<u64, StoreError> {
    let sum = tx.row(
        "SELECT coalesce(sum(size), 0) FROM blob WHERE hash NOT IN (SELECT hash FROM media
         WHERE server = 0 AND owner IS NOT NULL AND hash IS NOT NULL)",
        [],
        |row| row.get::<_, i64>(0),
    )?;
    Ok(sum.unwrap_or_default() as u64)
}

/// The media of others that were not asked for the longest: (server, id, hash), at most `limit`.
pub fn oldest_remote(tx: &ReadTx<'_>, limit: u32) -> Result<Vec<(Nid, String, Hash)>, StoreError> {
    tx.rows(
        "SELECT server, id, hash FROM media
         WHERE (server <> 0 OR owner IS NULL) AND hash IS NOT NULL AND protected = 0 ORDER BY used_ms LIMIT ?1",
        [limit],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Forgets an id; if nothing else points to its blob, the blob and its thumbnails go too. The files to remove.
pub fn forget(tx: &mut WriteTx<'_>, server: Nid, id: &str, hash: &Hash) -> Result<Vec<Hash>, StoreError> {
    tx.execute("DELETE FROM media WHERE server = ?1 AND id = ?2", params![server, id])?;
    let mut gone = Vec::new();
    let small: Vec<Hash> =
        tx.rows("SELECT hash FROM thumbnail WHERE original = ?1", [hash.as_slice()], |row| row.get(0))?;
    if referenced(tx, hash)? {
        return Ok(gone);
    }
    tx.execute("DELETE FROM thumbnail WHERE original = ?1", [hash.as_slice()])?;
    for hash in small.iter().chain([hash]) {
        if !referenced(tx, hash)? {
            tx.execute("DELETE FROM blob WHERE hash = ?1", [hash.as_slice()])?;
            gone.push(*hash);
        }
    }
    Ok(gone)
}

/// Forgets some thumbnails, whosever they are. The files to remove.
pub fn forget_thumbnails(tx: &mut WriteTx<'_>, limit: u32) -> Result<Vec<Hash>, StoreError> {
    let small: Vec<Hash> =
        tx.rows("SELECT DISTINCT hash FROM thumbnail LIMIT ?1", [limit], |row| row.get(0))?;
    let mut gone = Vec::new();
    for hash in small {
        tx.execute("DELETE FROM thumbnail WHERE hash = ?1", [hash.as_slice()])?;
        if !referenced(tx, &hash)? {
            tx.execute("DELETE FROM blob WHERE hash = ?1", [hash.as_slice()])?;
            gone.push(hash);
        }
    }
    Ok(gone)
}

fn referenced(tx: &ReadTx<'_>, hash: &Hash) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 WHERE EXISTS (SELECT 1 FROM media WHERE hash = ?1) OR EXISTS (SELECT 1 FROM thumbnail WHERE hash = ?1)",
        [hash.as_slice()],
        |row| row.get::<_, i64>(0),
    )?;
    Ok(found.is_some())
}

/// A medium as an administrator sees it.
#[derive(Clone, Debug)]
pub struct MediaInfo {
    /// Its id.
    pub id: String,
    /// Its type, as the uploader said.
    pub content_type: Option<String>,
    /// Its file name, as the uploader said.
    pub name: Option<String>,
    /// When it was made.
    pub made_ms: u64,
    /// When it was last asked for.
    pub used_ms: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Who took it out of sight.
    pub quarantined_by: Option<String>,
    /// Whether it stays in sight whatever happens to its user's or room's media.
    pub protected: bool,
}

const INFO: &str =
    "SELECT m.id, m.type, m.name, m.made_ms, m.used_ms, coalesce(b.size, 0), q.user, m.protected
  FROM media m LEFT JOIN blob b ON b.hash = m.hash LEFT JOIN quarantine q ON q.hash = m.hash";

fn info(row: &rusqlite::Row<'_>) -> rusqlite::Result<MediaInfo> {
    Ok(MediaInfo {
        id: row.get(0)?,
        content_type: row.get(1)?,
        name: row.get(2)?,
        made_ms: row.get::<_, i64>(3)? as u64,
        used_ms: row.get::<_, i64>(4)? as u64,
        size: row.get::<_, i64>(5)? as u64,
        quarantined_by: row.get(6)?,
        protected: row.get(7)?,
    })
}

/// One medium, as an administrator sees it.
pub fn described(tx: &ReadTx<'_>, server: Nid, id: &str) -> Result<Option<MediaInfo>, StoreError> {
    tx.row(&format!("{INFO} WHERE m.server = ?1 AND m.id = ?2"), params![server, id], info)
}

/// A page of a user's uploads, newest first, and how many there are.
pub fn of_user(
    tx: &ReadTx<'_>,
    owner: Nid,
    from: u64,
    limit: u64,
) -> Result<(Vec<MediaInfo>, u64), StoreError> {
    let page = tx.rows(
        &format!("{INFO} WHERE m.owner = ?1 AND m.hash IS NOT NULL ORDER BY m.made_ms DESC, m.id LIMIT ?2 OFFSET ?3"),
        params![owner, limit as i64, from as i64],
        info,
    )?;
    let total =
        tx.row("SELECT count(*) FROM media WHERE owner = ?1 AND hash IS NOT NULL", [owner], |row| {
            row.get(0)
        })?;
    Ok((page, total.unwrap_or(0_i64) as u64))
}

/// Ids of ours that were not asked for since `before_ms` and have more than `larger` bytes, at most `limit`.
pub fn old_ours(tx: &ReadTx<'_>, before_ms: u64, larger: u64, limit: u32) -> Result<Vec<String>, StoreError> {
    tx.rows(
        "SELECT m.id FROM media m JOIN blob b ON b.hash = m.hash WHERE m.server = 0 AND m.used_ms < ?1 AND b.size > ?2
         AND m.protected = 0 ORDER BY m.used_ms LIMIT ?3",
        params![before_ms as i64, larger as i64, limit],
        |row| row.get(0),
    )
}

/// Media of other servers that were not asked for since `before_ms`: (server, id, hash), at most `limit`.
pub fn old_remote(
    tx: &ReadTx<'_>,
    before_ms: u64,
    limit: u32,
) -> Result<Vec<(Nid, String, Hash)>, StoreError> {
    tx.rows(
        "SELECT server, id, hash FROM media WHERE server <> 0 AND hash IS NOT NULL AND used_ms < ?1 LIMIT ?2",
        params![before_ms as i64, limit],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
    )
}

/// Takes the content of a medium out of sight, under whatever id it comes; false if the medium is protected or not here.
pub fn quarantine(
    tx: &mut WriteTx<'_>,
    server: Nid,
    id: &str,
    by: &str,
    now_ms: u64,
) -> Result<bool, StoreError> {
    let changed = tx.execute(
        "INSERT OR IGNORE INTO quarantine(hash, user, at_ms)
         SELECT hash, ?3, ?4 FROM media WHERE server = ?1 AND id = ?2 AND hash IS NOT NULL AND protected = 0",
        params![server, id, by, now_ms as i64],
    )?;
    Ok(changed > 0)
}

/// Lets a medium be seen again.
pub fn unquarantine(tx: &mut WriteTx<'_>, server: Nid, id: &str) -> Result<(), StoreError> {
    tx.execute(
        "DELETE FROM quarantine WHERE hash = (SELECT hash FROM media WHERE server = ?1 AND id = ?2)",
        params![server, id],
    )?;
    Ok(())
}

/// Keeps a medium of ours in sight whatever happens to its user's or room's, or no longer; false if there is none.
pub fn protect(tx: &mut WriteTx<'_>, id: &str, on: bool) -> Result<bool, StoreError> {
    Ok(tx.execute("UPDATE media SET protected = ?2 WHERE server = 0 AND id = ?1", params![id, on])? > 0)
}
