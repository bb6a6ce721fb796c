//! Owns who may read what: rooms and events, for a local user and for another server.

use std::collections::HashMap;

use ruma::{RoomId, ServerName, UserId};

use crate::{
    room::{
        RoomError,
        core::visibility::{At, Visibility, may_see, server_may_see},
        project::{content, text},
    },
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        ids::skey_split,
        schema::{
            events::{self, EXPIRED, EventRow, OUTLIER, REJECTED, SOFT_FAILED},
            membership::{self, Membership},
            rooms::{self, RoomRow},
            state,
        },
    },
};

/// What a user has to do with a room.
pub(in crate::room) struct Access {
    /// The room.
    pub(in crate::room) row: RoomRow,
    /// The user.
    pub(in crate::room) user: Nid,
    /// Joined now.
    pub(in crate::room) joined: bool,
    /// Was in, until here: state and position.
    pub(in crate::room) left: Option<(i64, Seq)>,
    /// What was found out about snapshots already.
    known: HashMap<i64, (Visibility, At)>,
    member_key: Option<Nid>,
    visibility_key: Option<Nid>,
}

/// The user's access; an error if the room's state is none of theirs.
pub(in crate::room) fn access(tx: &ReadTx<'_>, user: &UserId, room: &RoomId) -> Result<Access, RoomError> {
    let unknown = || RoomError::Forbidden("you are not in this room".into());
    let room = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, room)?.ok_or_else(unknown)?;
    let nid = tx.lookup(Kind::User, user.as_str())?;
    let entry = match nid {
        Some(nid) => membership::user_room(tx, nid, room)?,
        None => None,
    };
    let joined = row.resident && entry.as_ref().is_some_and(|entry| entry.membership == Membership::Join);
    let left = entry
        .as_ref()
        .filter(|entry| !entry.forgotten)
        .and_then(|entry| entry.left_state.zip(entry.left_seq));
    let open = row.resident && Visibility::parse(row.history.as_deref()) == Visibility::WorldReadable;
    if !joined && left.is_none() && !open {
        return Err(unknown());
    }
    Ok(Access {
        row,
        user: nid.unwrap_or(Nid(0)),
        joined,
        left,
        known: HashMap::new(),
        member_key: tx.lookup_skey("m.room.member", user.as_str())?,
        visibility_key: tx.lookup_skey("m.room.history_visibility", "")?,
    })
}

impl Access {
    /// The snapshot that the user sees as the room's state.
    pub(in crate::room) fn state(&self) -> i64 {
        match self.left {
            Some((sid, _)) if !self.joined => sid,
            _ => self.row.sid,
        }
    }

    /// Whether the user sees an event.
    pub(in crate::room) fn may_see(&mut self, tx: &ReadTx<'_>, event: &EventRow) -> Result<bool, StoreError> {
        if event.room != self.row.room || event.flags & (REJECTED | SOFT_FAILED | EXPIRED) != 0 {
            return Ok(false);
        }
        let since = match (self.joined, self.left, event.seq) {
            (true, ..) => true,
            (false, Some((_, left)), Some(seq)) => seq <= left,
            _ => false,
        };
        let (Some(before), Some(after)) = (event.state_before, event.state_after) else {
            // Nothing is known of its place. State that came with the room is shown with the room's state.
            let own = Visibility::parse(self.row.history.as_deref());
            let stated = event.flags & OUTLIER != 0 && event.skey.is_some() && self.joined;
            return Ok(stated || may_see(own, At::Out, since && event.flags & OUTLIER == 0));
        };
        let mut sees = self.sees_at(tx, before, since)?;
        if !sees && before != after && self.counts_after(tx, event)? {
            sees = self.sees_at(tx, after, since)?;
        }
        Ok(sees)
    }

    /// Whether the state after an event may open it, too: one's own membership, and the visibility.
    fn counts_after(&self, tx: &ReadTx<'_>, event: &EventRow) -> Result<bool, StoreError> {
        let Some(skey) = event.skey else { return Ok(false) };
        if Some(skey) == self.member_key {
            return Ok(true);
        }
        let text = tx.text(skey)?;
        Ok(skey_split(&text).0 == "m.room.history_visibility")
    }

    fn sees_at(&mut self, tx: &ReadTx<'_>, sid: i64, since: bool) -> Result<bool, StoreError> {
        let (visibility, at) = match self.known.get(&sid) {
            Some(known) => *known,
            None => {
                let visibility = field(tx, sid, self.visibility_key, "history_visibility")?;
                let membership = field(tx, sid, self.member_key, "membership")?;
                let found = (Visibility::parse(visibility.as_deref()), At::parse(membership.as_deref()));
                self.known.insert(sid, found);
                found
            }
        };
        Ok(may_see(visibility, at, since))
    }
}

/// A string in the content of a snapshot's event.
fn field(tx: &ReadTx<'_>, sid: i64, skey: Option<Nid>, key: &str) -> Result<Option<String>, StoreError> {
    let Some(skey) = skey else { return Ok(None) };
    let Some(nid) = state::one(tx, sid, skey)? else { return Ok(None) };
    Ok(events::event(tx, nid)?.and_then(|event| text(&content(&event.client), key)))
}

/// What a server may see, remembered by snapshot.
pub(in crate::room) struct ServerAccess {
    server: String,
    known: HashMap<i64, bool>,
    visibility_key: Option<Nid>,
}

impl ServerAccess {
    pub(in crate::room) fn new(tx: &ReadTx<'_>, server: &ServerName) -> Result<Self, StoreError> {
        Ok(Self {
            server: server.as_str().to_owned(),
            known: HashMap::new(),
            visibility_key: tx.lookup_skey("m.room.history_visibility", "")?,
        })
    }

    /// Whether some user of the server sees the event. Of an event whose place is unknown: no.
    pub(in crate::room) fn may_see(&mut self, tx: &ReadTx<'_>, event: &EventRow) -> Result<bool, StoreError> {
        // What the server sent itself it may have back.
        if let Ok(sender) = UserId::parse(&*tx.text(event.sender)?)
            && sender.server_name().as_str() == self.server
        {
            return Ok(true);
        }
        for sid in [event.state_before, event.state_after].into_iter().flatten() {
            let sees = match self.known.get(&sid) {
                Some(sees) => *sees,
                None => {
                    let sees = self.sees_at(tx, sid)?;
                    self.known.insert(sid, sees);
                    sees
                }
            };
            if sees {
                return Ok(true);
            }
        }
        // State events are part of what makes the room.
        Ok(event.skey.is_some())
    }

    fn sees_at(&self, tx: &ReadTx<'_>, sid: i64) -> Result<bool, StoreError> {
        let visibility =
            Visibility::parse(field(tx, sid, self.visibility_key, "history_visibility")?.as_deref());
        if server_may_see(visibility, false, false) {
            return Ok(true);
        }
        let (joined, invited) = self.members_at(tx, sid)?;
        Ok(server_may_see(visibility, joined, invited))
    }

    /// Whether a user of the server was joined when an event was said.
    pub(in crate::room) fn was_there(&self, tx: &ReadTx<'_>, event: &EventRow) -> Result<bool, StoreError> {
        let Some(sid) = event.state_after else { return Ok(false) };
        Ok(self.members_at(tx, sid)?.0)
    }

    /// Whether the server has users joined, and invited, in a snapshot.
    fn members_at(&self, tx: &ReadTx<'_>, sid: i64) -> Result<(bool, bool), StoreError> {
        let (mut joined, mut invited) = (false, false);
        for (skey, nid) in state::full(tx, sid)? {
            let key = tx.text(skey)?;
            let (kind, user) = skey_split(&key);
            let ours = kind == "m.room.member"
                && user.split_once(':').is_some_and(|(_, server)| server == self.server);
            if ours && let Some(event) = events::event(tx, nid)? {
                match text(&content(&event.client), "membership").as_deref() {
                    Some("join") => joined = true,
                    Some("invite") => invited = true,
                    _ => {}
                }
            }
        }
        Ok((joined, invited))
    }
}
