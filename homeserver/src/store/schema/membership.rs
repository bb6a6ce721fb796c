//! Owns the tables of who is where, which follow the resolved state.
//!
//! | table | key -> value |
//! |---|---|
//! | `member` | (room, user) -> membership and its event: everyone, ours and theirs |
//! | `room_server` | (room, server) -> number of joined users |
//! | `user_room` | (user, room) -> what a LOCAL user's sync needs to know of a room, also one we are not in |

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE member(room INTEGER, user INTEGER, membership INTEGER NOT NULL, nid INTEGER NOT NULL,
  PRIMARY KEY(room, user)) WITHOUT ROWID;
CREATE INDEX member_user ON member(user, membership, room);
CREATE INDEX member_room ON member(room, membership, user);
CREATE TABLE room_server(room INTEGER, server INTEGER, joined INTEGER NOT NULL, PRIMARY KEY(room, server)) WITHOUT ROWID;
CREATE TABLE user_room(user INTEGER, room INTEGER, membership INTEGER NOT NULL, nid INTEGER NOT NULL,
  seq INTEGER NOT NULL, left_state INTEGER, left_seq INTEGER, stripped BLOB, forgotten INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY(user, room)) WITHOUT ROWID;
CREATE INDEX user_room_room ON user_room(room, membership);
";

/// `membership` as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum Membership {
    /// In the room.
    Join = 1,
    /// Invited.
    Invite = 2,
    /// Asked to be let in.
    Knock = 3,
    /// Left, was kicked, or declined.
    Leave = 4,
    /// Banned.
    Ban = 5,
}

impl Membership {
    /// The spec's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Invite => "invite",
            Self::Knock => "knock",
            Self::Leave => "leave",
            Self::Ban => "ban",
        }
    }

    /// From the spec's word.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "join" => Self::Join,
            "invite" => Self::Invite,
            "knock" => Self::Knock,
            "leave" => Self::Leave,
            "ban" => Self::Ban,
            _ => return None,
        })
    }
}

impl rusqlite::ToSql for Membership {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok((*self as i64).into())
    }
}

impl rusqlite::types::FromSql for Membership {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        Ok(match i64::column_result(value)? {
            1 => Self::Join,
            2 => Self::Invite,
            3 => Self::Knock,
            4 => Self::Leave,
            5 => Self::Ban,
            other => return Err(rusqlite::types::FromSqlError::OutOfRange(other)),
        })
    }
}

/// A row of `user_room`.
#[derive(Clone, Debug)]
pub struct UserRoom {
    /// The room.
    pub room: Nid,
    /// The user's membership.
    pub membership: Membership,
    /// The membership event.
    pub nid: Nid,
    /// Where in the stream the present membership began (profile changes of a joined member do not move it).
    pub seq: Seq,
    /// The room's state when they left, for those who did after having been in: what they may still see.
    pub left_state: Option<i64>,
    /// Position up to which a former member sees the timeline.
    pub left_seq: Option<Seq>,
    /// JSON array of stripped state events of an invite or knock.
    pub stripped: Option<Vec<u8>>,
    /// The user forgot the room.
    pub forgotten: bool,
}

fn read_user_room(row: &rusqlite::Row<'_>) -> rusqlite::Result<UserRoom> {
    Ok(UserRoom {
        room: row.get(0)?,
        membership: row.get(1)?,
        nid: row.get(2)?,
        seq: row.get(3)?,
        left_state: row.get(4)?,
        left_seq: row.get(5)?,
        stripped: row.get(6)?,
        forgotten: row.get(7)?,
    })
}

/// What a local user has to do with a room, if anything.
pub fn user_room(tx: &ReadTx<'_>, user: Nid, room: Nid) -> Result<Option<UserRoom>, StoreError> {
    tx.row(
        "SELECT room, membership, nid, seq, left_state, left_seq, stripped, forgotten FROM user_room \
         WHERE user = ?1 AND room = ?2",
        (user, room),
        read_user_room,
    )
}

/// All rooms a local user has to do with (also left and forgotten ones).
pub fn user_rooms(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<UserRoom>, StoreError> {
    tx.rows(
        "SELECT room, membership, nid, seq, left_state, left_seq, stripped, forgotten FROM user_room WHERE user = ?1",
        [user],
        read_user_room,
    )
}

/// Writes a local user's row.
pub fn put_user_room(tx: &mut WriteTx<'_>, user: Nid, row: &UserRoom) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO user_room(user, room, membership, nid, seq, left_state, left_seq, stripped, forgotten) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        rusqlite::params![
            user,
            row.room,
            row.membership,
            row.nid,
            row.seq,
            row.left_state,
            row.left_seq,
            row.stripped,
            row.forgotten
        ],
    )?;
    Ok(())
}

/// Local users with this membership of a room.
pub fn local_members(tx: &ReadTx<'_>, room: Nid, membership: Membership) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT user FROM user_room WHERE room = ?1 AND membership = ?2", (room, membership), |row| {
        row.get(0)
    })
}

/// Whether any local user has this membership of a room.
pub fn has_local_member(tx: &ReadTx<'_>, room: Nid, membership: Membership) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM user_room WHERE room = ?1 AND membership = ?2 LIMIT 1",
        (room, membership),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// Local users with this membership of a room after `after`, in the order of their numbers, at most `limit`.
pub fn local_members_after(
    tx: &ReadTx<'_>,
    room: Nid,
    membership: Membership,
    after: Nid,
    limit: u32,
) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT user FROM user_room WHERE room = ?1 AND membership = ?2 AND user > ?3 ORDER BY user LIMIT ?4",
        (room, membership, after, limit),
        |row| row.get(0),
    )
}

/// Local users who have, or had, anything to do with a room.
pub fn room_users(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT user FROM user_room WHERE room = ?1", [room], |row| row.get(0))
}

/// A user's membership of a room in its resolved state, with its event.
pub fn member(tx: &ReadTx<'_>, room: Nid, user: Nid) -> Result<Option<(Membership, Nid)>, StoreError> {
    tx.row("SELECT membership, nid FROM member WHERE room = ?1 AND user = ?2", (room, user), |row| {
        Ok((row.get(0)?, row.get(1)?))
    })
}

/// Members of a room: (user, membership, event).
pub fn members(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<(Nid, Membership, Nid)>, StoreError> {
    tx.rows("SELECT user, membership, nid FROM member WHERE room = ?1", [room], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

/// Users with this membership of a room, with the event, up to `limit`.
pub fn members_with(
    tx: &ReadTx<'_>,
    room: Nid,
    membership: Membership,
    limit: u32,
) -> Result<Vec<(Nid, Nid)>, StoreError> {
    tx.rows(
        "SELECT user, nid FROM member WHERE room = ?1 AND membership = ?2 LIMIT ?3",
        (room, membership, limit),
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
}

/// Rooms where a user (ours or theirs) has this membership.
pub fn rooms_of(tx: &ReadTx<'_>, user: Nid, membership: Membership) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT room FROM member WHERE user = ?1 AND membership = ?2", (user, membership), |row| {
        row.get(0)
    })
}

/// All users who are joined to a room that `user` is joined to.
pub fn sharing_users(tx: &ReadTx<'_>, user: Nid) -> Result<Vec<Nid>, StoreError> {
    tx.rows(
        "SELECT DISTINCT other.user FROM member AS mine JOIN member AS other \
         ON other.room = mine.room AND other.membership = 1 WHERE mine.user = ?1 AND mine.membership = 1",
        [user],
        |row| row.get(0),
    )
}

/// Whether two users are joined to one room.
pub fn share(tx: &ReadTx<'_>, one: Nid, other: Nid) -> Result<bool, StoreError> {
    let found = tx.row(
        "SELECT 1 FROM member AS a JOIN member AS b ON b.room = a.room AND b.user = ?2 AND b.membership = 1 \
         WHERE a.user = ?1 AND a.membership = 1 LIMIT 1",
        (one, other),
        |_| Ok(()),
    )?;
    Ok(found.is_some())
}

/// Writes or removes a member.
pub fn put_member(
    tx: &mut WriteTx<'_>,
    room: Nid,
    user: Nid,
    entry: Option<(Membership, Nid)>,
) -> Result<(), StoreError> {
    match entry {
        Some((membership, nid)) => tx.execute(
            "INSERT OR REPLACE INTO member(room, user, membership, nid) VALUES(?1, ?2, ?3, ?4)",
            (room, user, membership, nid),
        )?,
        None => tx.execute("DELETE FROM member WHERE room = ?1 AND user = ?2", (room, user))?,
    };
    Ok(())
}

/// Servers with a joined user.
pub fn servers(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT server FROM room_server WHERE room = ?1 ORDER BY server", [room], |row| row.get(0))
}

/// Servers with a joined user in any room of ours.
pub fn all_servers(tx: &ReadTx<'_>, limit: u32) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT DISTINCT server FROM room_server WHERE joined > 0 LIMIT ?1", [limit], |row| row.get(0))
}

/// Whether a server has a joined user.
pub fn server_in(tx: &ReadTx<'_>, room: Nid, server: Nid) -> Result<bool, StoreError> {
    Ok(tx
        .row("SELECT 1 FROM room_server WHERE room = ?1 AND server = ?2", (room, server), |_| Ok(()))?
        .is_some())
}

/// How many of a server's users are joined.
pub fn server_count(tx: &ReadTx<'_>, room: Nid, server: Nid) -> Result<i64, StoreError> {
    let count =
        tx.row("SELECT joined FROM room_server WHERE room = ?1 AND server = ?2", (room, server), |row| {
            row.get(0)
        })?;
    Ok(count.unwrap_or(0))
}

/// Counts a user of `server` in or out; true if the server came or went by it.
pub fn count_server(tx: &mut WriteTx<'_>, room: Nid, server: Nid, by: i64) -> Result<bool, StoreError> {
    let before: i64 = tx
        .row("SELECT joined FROM room_server WHERE room = ?1 AND server = ?2", (room, server), |row| {
            row.get(0)
        })?
        .unwrap_or(0);
    let after = before + by;
    if after <= 0 {
        tx.execute("DELETE FROM room_server WHERE room = ?1 AND server = ?2", (room, server))?;
    } else {
        tx.execute(
            "INSERT OR REPLACE INTO room_server(room, server, joined) VALUES(?1, ?2, ?3)",
            (room, server, after),
        )?;
    }
    Ok((before > 0) != (after > 0))
}

/// Forgets who is in a room, before another state is imported. What local users know of it stays.
pub fn clear_room(tx: &mut WriteTx<'_>, room: Nid) -> Result<(), StoreError> {
    tx.execute("DELETE FROM member WHERE room = ?1", [room])?;
    tx.execute("DELETE FROM room_server WHERE room = ?1", [room])?;
    Ok(())
}
