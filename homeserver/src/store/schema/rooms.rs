//! Owns the tables of rooms: one row each with all that lists and sync need at once, and the aliases.
//!
//! | table | key -> value | written by |
//! |---|---|---|
//! | `room` | room -> version, present state, counters, name and the like | append |
//! | `alias` | alias of ours -> room | alias verbs |

use ruma::directory::RoomNetwork;

use crate::store::{Nid, ReadTx, Seq, StoreError, WriteTx};

/// See the module.
pub const SCHEMA: &str = "
CREATE TABLE room(room INTEGER PRIMARY KEY, version TEXT NOT NULL, sid INTEGER NOT NULL, head INTEGER NOT NULL,
  depth INTEGER NOT NULL, bump INTEGER NOT NULL, bump_ts INTEGER NOT NULL, msgs INTEGER NOT NULL,
  joined INTEGER NOT NULL, invited INTEGER NOT NULL, audience INTEGER, resident INTEGER NOT NULL,
  public INTEGER NOT NULL DEFAULT 0, create_nid INTEGER, creator INTEGER, room_type TEXT, federate INTEGER NOT NULL DEFAULT 1,
  name TEXT, topic TEXT, avatar TEXT, alias TEXT, join_rule TEXT, history TEXT, guest TEXT, encryption TEXT,
  tombstone TEXT);
CREATE INDEX room_public ON room(joined) WHERE public = 1;
CREATE TABLE alias(alias TEXT PRIMARY KEY, room INTEGER NOT NULL, creator INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX alias_room ON alias(room);
";

/// A later step: the position of the last event, whatever its type, by which lists of rooms are ordered.
pub const SCHEMA_LAST: &str = "
ALTER TABLE room ADD COLUMN last INTEGER NOT NULL DEFAULT 0;
UPDATE room SET last = bump;
";

/// A later step: rooms that application services list in the directories of their networks, `service|network`.
pub const SCHEMA_NETWORK: &str = "
CREATE TABLE room_network(room INTEGER NOT NULL, network TEXT NOT NULL, PRIMARY KEY(room, network)) WITHOUT ROWID;
CREATE INDEX room_network_name ON room_network(network);
";

/// Which lists of the room directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// Our own.
    #[default]
    Matrix,
    /// Ours and those of all networks.
    All,
    /// That of one network of one application service: `service|network`.
    One(String),
}

impl From<&RoomNetwork> for Network {
    fn from(asked: &RoomNetwork) -> Self {
        match asked {
            RoomNetwork::All => Self::All,
            RoomNetwork::ThirdParty(name) => Self::One(name.clone()),
            _ => Self::Matrix,
        }
    }
}

/// A row of `room`.
#[derive(Clone, Debug)]
pub struct RoomRow {
    /// The room's number.
    pub room: Nid,
    /// Its version.
    pub version: String,
    /// Snapshot that equals the resolved current state.
    pub sid: i64,
    /// Rises with every event that joins the graph: what a worker's speculation builds on.
    pub head: i64,
    /// Greatest depth of its timeline.
    pub depth: i64,
    /// Position and time of the last event that moves the room up in a list.
    pub bump: Seq,
    /// See [`RoomRow::bump`].
    pub bump_ts: i64,
    /// Position of the last event of any type: the order of room lists.
    pub last: Seq,
    /// Cumulative count of events that count as unread messages.
    pub msgs: i64,
    /// Joined members.
    pub joined: i64,
    /// Invited members.
    pub invited: i64,
    /// The servers in it, as an audience of the outbox.
    pub audience: Option<i64>,
    /// A local user is joined: we hold its state and take part.
    pub resident: bool,
    /// Listed in our room directory.
    pub public: bool,
    /// The `m.room.create` event.
    pub create: Option<Nid>,
    /// Its sender.
    pub creator: Option<Nid>,
    /// `type` of the create event.
    pub room_type: Option<String>,
    /// False if only the creator's server may take part.
    pub federate: bool,
    /// From the resolved state, as are the following.
    pub name: Option<String>,
    /// Topic.
    pub topic: Option<String>,
    /// Avatar's mxc URI.
    pub avatar: Option<String>,
    /// Canonical alias.
    pub alias: Option<String>,
    /// Join rule; `invite` if none.
    pub join_rule: Option<String>,
    /// History visibility; `shared` if none.
    pub history: Option<String>,
    /// Guest access; `forbidden` if none.
    pub guest: Option<String>,
    /// Algorithm, if encrypted.
    pub encryption: Option<String>,
    /// Room that replaces this one.
    pub tombstone: Option<String>,
}

impl RoomRow {
    /// A room of which only the version is known.
    pub fn new(room: Nid, version: String, sid: i64) -> Self {
        Self {
            room,
            version,
            sid,
            head: 0,
            depth: 0,
            bump: Seq(0),
            bump_ts: 0,
            last: Seq(0),
            msgs: 0,
            joined: 0,
            invited: 0,
            audience: None,
            resident: false,
            public: false,
            create: None,
            creator: None,
            room_type: None,
            federate: true,
            name: None,
            topic: None,
            avatar: None,
            alias: None,
            join_rule: None,
            history: None,
            guest: None,
            encryption: None,
            tombstone: None,
        }
    }
}

macro_rules! columns {
    () => {
        "room, version, sid, head, depth, bump, bump_ts, msgs, joined, invited, audience, resident, public, create_nid, \
         creator, room_type, federate, name, topic, avatar, alias, join_rule, history, guest, encryption, tombstone, last"
    };
}

fn read(row: &rusqlite::Row<'_>) -> rusqlite::Result<RoomRow> {
    Ok(RoomRow {
        room: row.get(0)?,
        version: row.get(1)?,
        sid: row.get(2)?,
        head: row.get(3)?,
        depth: row.get(4)?,
        bump: row.get(5)?,
        bump_ts: row.get(6)?,
        msgs: row.get(7)?,
        joined: row.get(8)?,
        invited: row.get(9)?,
        audience: row.get(10)?,
        resident: row.get(11)?,
        public: row.get(12)?,
        create: row.get(13)?,
        creator: row.get(14)?,
        room_type: row.get(15)?,
        federate: row.get(16)?,
        name: row.get(17)?,
        topic: row.get(18)?,
        avatar: row.get(19)?,
        alias: row.get(20)?,
        join_rule: row.get(21)?,
        history: row.get(22)?,
        guest: row.get(23)?,
        encryption: row.get(24)?,
        tombstone: row.get(25)?,
        last: row.get(26)?,
    })
}

/// The room's row, if we hold (or held) its state.
pub fn room(tx: &ReadTx<'_>, room: Nid) -> Result<Option<RoomRow>, StoreError> {
    tx.row(concat!("SELECT ", columns!(), " FROM room WHERE room = ?1"), [room], read)
}

/// Writes the whole row.
pub fn put_room(tx: &mut WriteTx<'_>, row: &RoomRow) -> Result<(), StoreError> {
    tx.execute(
        concat!(
            "INSERT OR REPLACE INTO room(",
            columns!(),
            ") VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
             ?22, ?23, ?24, ?25, ?26, ?27)"
        ),
        rusqlite::params![
            row.room,
            row.version,
            row.sid,
            row.head,
            row.depth,
            row.bump,
            row.bump_ts,
            row.msgs,
            row.joined,
            row.invited,
            row.audience,
            row.resident,
            row.public,
            row.create,
            row.creator,
            row.room_type,
            row.federate,
            row.name,
            row.topic,
            row.avatar,
            row.alias,
            row.join_rule,
            row.history,
            row.guest,
            row.encryption,
            row.tombstone,
            row.last
        ],
    )?;
    Ok(())
}

/// Writes what an event without state changes.
pub fn put_head(tx: &mut WriteTx<'_>, row: &RoomRow) -> Result<(), StoreError> {
    tx.execute(
        "UPDATE room SET head = ?2, depth = ?3, bump = ?4, bump_ts = ?5, msgs = ?6, last = ?7 WHERE room = ?1",
        (row.room, row.head, row.depth, row.bump, row.bump_ts, row.msgs, row.last),
    )?;
    Ok(())
}

/// Remembers the audience that equals the servers in the room.
pub fn put_audience(tx: &mut WriteTx<'_>, room: Nid, audience: Option<i64>) -> Result<(), StoreError> {
    tx.execute("UPDATE room SET audience = ?2 WHERE room = ?1", (room, audience))?;
    Ok(())
}

/// Lists the room in our directory, or no longer.
pub fn set_public(tx: &mut WriteTx<'_>, room: Nid, public: bool) -> Result<(), StoreError> {
    tx.execute("UPDATE room SET public = ?2 WHERE room = ?1", (room, public))?;
    Ok(())
}

/// Listed rooms in which we take part, the largest first.
pub fn public_rooms(
    tx: &ReadTx<'_>,
    network: &Network,
    limit: u32,
    offset: u32,
) -> Result<Vec<RoomRow>, StoreError> {
    macro_rules! listed {
        ($which:literal) => {
            concat!(
                "SELECT ",
                columns!(),
                " FROM room WHERE ",
                $which,
                " AND resident = 1 ORDER BY joined DESC, room LIMIT ?1 OFFSET ?2"
            )
        };
    }
    match network {
        Network::Matrix => tx.rows(listed!("public = 1"), (limit, offset), read),
        Network::All => {
            tx.rows(listed!("(public = 1 OR room IN (SELECT room FROM room_network))"), (limit, offset), read)
        }
        Network::One(name) => tx.rows(
            listed!("room IN (SELECT room FROM room_network WHERE network = ?3)"),
            (limit, offset, name),
            read,
        ),
    }
}

/// Number of listed rooms.
pub fn public_count(tx: &ReadTx<'_>, network: &Network) -> Result<i64, StoreError> {
    let found = match network {
        Network::Matrix => {
            tx.row("SELECT count(*) FROM room WHERE public = 1 AND resident = 1", [], |row| row.get(0))?
        }
        Network::All => tx.row(
            "SELECT count(*) FROM room WHERE (public = 1 OR room IN (SELECT room FROM room_network)) AND resident = 1",
            [],
            |row| row.get(0),
        )?,
        Network::One(name) => tx.row(
            "SELECT count(*) FROM room WHERE room IN (SELECT room FROM room_network WHERE network = ?1) AND resident = 1",
            [name],
            |row| row.get(0),
        )?,
    };
    Ok(found.unwrap_or(0))
}

/// Lists the room in the directory of a network, or no longer; false if the network lists `most` already.
pub fn set_network(
    tx: &mut WriteTx<'_>,
    room: Nid,
    network: &str,
    listed: bool,
    most: i64,
) -> Result<bool, StoreError> {
    if !listed {
        tx.execute("DELETE FROM room_network WHERE room = ?1 AND network = ?2", (room, network))?;
        return Ok(true);
    }
    let count: Option<i64> =
        tx.row("SELECT count(*) FROM room_network WHERE network = ?1", [network], |row| row.get(0))?;
    if count.unwrap_or(0) >= most {
        return Ok(false);
    }
    tx.execute("INSERT OR IGNORE INTO room_network(room, network) VALUES(?1, ?2)", (room, network))?;
    Ok(true)
}

/// Room and creator of an alias of ours.
pub fn alias(tx: &ReadTx<'_>, alias: &str) -> Result<Option<(Nid, Nid)>, StoreError> {
    tx.row("SELECT room, creator FROM alias WHERE alias = ?1", [alias], |row| Ok((row.get(0)?, row.get(1)?)))
}

/// Our aliases of a room.
pub fn aliases(tx: &ReadTx<'_>, room: Nid) -> Result<Vec<String>, StoreError> {
    tx.rows("SELECT alias FROM alias WHERE room = ?1 ORDER BY alias", [room], |row| row.get(0))
}

/// All aliases of a room become those of another.
pub fn move_aliases(tx: &mut WriteTx<'_>, from: Nid, to: Nid) -> Result<(), StoreError> {
    tx.execute("UPDATE alias SET room = ?2 WHERE room = ?1", (from, to)).map(drop)
}

/// Makes an alias; false if it is taken.
pub fn put_alias(tx: &mut WriteTx<'_>, alias: &str, room: Nid, creator: Nid) -> Result<bool, StoreError> {
    let made = tx.execute(
        "INSERT OR IGNORE INTO alias(alias, room, creator) VALUES(?1, ?2, ?3)",
        (alias, room, creator),
    )?;
    Ok(made > 0)
}

/// Removes an alias; false if there is none.
pub fn remove_alias(tx: &mut WriteTx<'_>, alias: &str) -> Result<bool, StoreError> {
    Ok(tx.execute("DELETE FROM alias WHERE alias = ?1", [alias])? > 0)
}

/// Numbers of the rooms after one, in their order.
pub fn page(tx: &ReadTx<'_>, after: Nid, limit: i64) -> Result<Vec<Nid>, StoreError> {
    tx.rows("SELECT room FROM room WHERE room > ?1 ORDER BY room LIMIT ?2", (after, limit), |row| row.get(0))
}

/// The pictures of all rooms.
pub fn pictures(tx: &ReadTx<'_>) -> Result<Vec<String>, StoreError> {
    tx.rows("SELECT avatar FROM room WHERE avatar IS NOT NULL", [], |row| row.get(0))
}
