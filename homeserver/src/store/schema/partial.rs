//! Owns which rooms were joined with a part of their state, and since when such rooms are whole.
//!
//! | table | key -> value | written by | read by |
//! |---|---|---|---|
//! | `partial_room` | room -> its join event, the server that answered, the servers it named | import, completion, leaves | ingest, sync, `room/partial` |
//! | `partial_device` | user of another server, in a partial room or not, whose devices changed meanwhile | device lists | completion |
//! | `whole_room` | room that was partial -> position at which it became whole | completion | sync |

use ruma::UserId;

use crate::store::{
    Kind, Nid, ReadTx, Seq, StoreError, WriteTx,
    codec::{put_list, take_list},
    schema::{events::PARTIAL, membership},
};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE partial_room(room INTEGER PRIMARY KEY, event INTEGER NOT NULL, origin INTEGER NOT NULL, servers BLOB NOT NULL);
CREATE TABLE whole_room(room INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
CREATE TABLE partial_device(user INTEGER PRIMARY KEY);
";

/// A row of `partial_room`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialRoom {
    /// The join by which we came in.
    pub join: Nid,
    /// The server that answered it.
    pub origin: Nid,
    /// Servers in the room as that one named them. Each counts as one more joined user in `room_server` while the room is
    /// partial.
    pub servers: Vec<Nid>,
}

/// The room, if only a part of its state is here.
pub fn partial(tx: &ReadTx<'_>, room: Nid) -> Result<Option<PartialRoom>, StoreError> {
    let row = tx.row("SELECT event, origin, servers FROM partial_room WHERE room = ?1", [room], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get::<_, Vec<u8>>(2)?))
    })?;
    let Some((join, origin, servers)) = row else { return Ok(None) };
    Ok(Some(PartialRoom { join, origin, servers: take_list(&servers)?.into_iter().map(Nid).collect() }))
}

/// Whether only a part of the room's state is here.
pub fn is_partial(tx: &ReadTx<'_>, room: Nid) -> Result<bool, StoreError> {
    Ok(tx.row("SELECT 1 FROM partial_room WHERE room = ?1", [room], |_| Ok(()))?.is_some())
}

/// Whether a user who is not among the known members of a room may be one: the room is partial, and the user's server in
/// it.
pub fn maybe_member(tx: &ReadTx<'_>, room: Nid, user: &UserId) -> Result<bool, StoreError> {
    let Some(server) = tx.lookup(Kind::Server, user.server_name().as_str())? else { return Ok(false) };
    if !is_partial(tx, room)? || !membership::server_in(tx, room, server)? {
        return Ok(false);
    }
    match tx.lookup(Kind::User, user.as_str())? {
        Some(user) => Ok(membership::member(tx, room, user)?.is_none()),
        None => Ok(true),
    }
}

/// Notes that the devices of a user changed who may be in a partial room, unless [`DEVICES_MAX`] are noted.
pub fn note_devices(tx: &mut WriteTx<'_>, user: &UserId) -> Result<(), StoreError> {
    let Some(server) = tx.lookup(Kind::Server, user.server_name().as_str())? else { return Ok(()) };
    let shared = tx.row(
        "SELECT 1 FROM partial_room JOIN room_server ON room_server.room = partial_room.room \
         WHERE room_server.server = ?1 LIMIT 1",
        [server],
        |_| Ok(()),
    )?;
    let noted: Option<i64> = tx.row("SELECT count(*) FROM partial_device", [], |row| row.get(0))?;
    if shared.is_some() && noted.unwrap_or(0) < DEVICES_MAX {
        let user = tx.intern(Kind::User, user.as_str())?;
        tx.execute("INSERT OR IGNORE INTO partial_device(user) VALUES(?1)", [user])?;
    }
    Ok(())
}

/// Users noted by [`note_devices`]: servers of partial rooms could name anybody.
const DEVICES_MAX: i64 = 10_000;

/// Whether a user's devices changed meanwhile; forgotten by it.
pub fn take_devices(tx: &mut WriteTx<'_>, user: Nid) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM partial_device WHERE user = ?1", [user])? > 0)
}

/// All partial rooms.
pub fn rooms(tx: &ReadTx<'_>) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT room FROM partial_room", [], |row| row.get(0))
}

/// Notes that only a part of a room's state is here.
pub fn put(tx: &mut WriteTx<'_>, room: Nid, row: &PartialRoom) -> Result<(), StoreError> {
    let mut servers: Vec<i64> = row.servers.iter().map(|server| server.0).collect();
    servers.sort_unstable();
    servers.dedup();
    tx.execute(
        "INSERT OR REPLACE INTO partial_room(room, event, origin, servers) VALUES(?1, ?2, ?3, ?4)",
        (room, row.join, row.origin, put_list(servers)),
    )?;
    Ok(())
}

/// The room is whole, or nobody of ours is in it any more.
pub fn remove(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM partial_room WHERE room = ?1", [room])?;
    // Without partial rooms there is nobody of whom it is not known where they are.
    tx.execute("DELETE FROM partial_device WHERE NOT EXISTS (SELECT 1 FROM partial_room)", []).map(drop)
}

/// Nothing is known of the room any more.
pub fn forget(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    remove(tx, room)?;
    tx.execute("DELETE FROM whole_room WHERE room = ?1", [room]).map(drop)
}

/// Position at which a room became whole; none if it always was, or is not.
pub fn whole_since(tx: &ReadTx<'_>, room: Nid) -> Result<Option<Seq>, StoreError> {
    tx.row("SELECT seq FROM whole_room WHERE room = ?1", [room], |row| row.get(0))
}

/// Notes at which position a room became whole.
pub fn put_whole(tx: &mut WriteTx<'_>, room: Nid, seq: Seq) -> Result<(), StoreError> {
    tx.execute("INSERT OR REPLACE INTO whole_room(room, seq) VALUES(?1, ?2)", (room, seq)).map(drop)
}

/// Events with a place that came while the room was partial, and later ones: what builds on a part of the state, and what
/// stands beside it.
pub fn events_since(tx: &ReadTx<'_>, room: Nid, seq: Seq) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT nid FROM event WHERE room = ?1 AND (flags & ?2 <> 0 OR seq >= ?3) ORDER BY nid",
        (room, PARTIAL, seq),
        |row| row.get(0),
    )
}

/// An event's state is known in part.
pub fn set_flag(tx: &mut WriteTx<'_>, nid: Nid) -> Result<(), StoreError> {
    tx.execute("UPDATE event SET flags = flags | ?2 WHERE nid = ?1", (nid, PARTIAL))?;
    tx.event_changed(nid);
    Ok(())
}

/// An event's state is known whole.
pub fn clear_flag(tx: &mut WriteTx<'_>, nid: Nid) -> Result<(), StoreError> {
    tx.execute("UPDATE event SET flags = flags & ~?2 WHERE nid = ?1", (nid, PARTIAL))?;
    tx.event_changed(nid);
    Ok(())
}
