//! The rooms of a user as lists sort and filter them, kept in RAM and brought up to date by the stream.
//!
//! The first look reads one prepared row for each room; later ones read only the rooms in which something happened.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
};

use serde::Deserialize;

use crate::store::{
    Kind, Nid, ReadTx, Seq, StoreError,
    schema::{
        account_data,
        membership::Membership,
        sync::{self as query, ListRow},
    },
};

/// Entries kept over all users, about 15 MiB; beyond, the listing that was used least recently goes.
const ENTRIES_MAX: usize = 100_000;
/// The longest part of the stream that is looked through; a listing that is further behind is read anew.
const BEHIND_MAX: i64 = 20_000;

/// A room in the lists of a user.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) membership: Membership,
    /// Since when.
    pub(super) since: Seq,
    /// Greater is further up.
    pub(super) order: Seq,
    pub(super) bump: Seq,
    /// Out of it, by somebody else's doing.
    pub(super) kicked: bool,
    /// Out of it, and the user does not want to see it any more: shown only to whoever does not know that yet.
    pub(super) forgotten: bool,
    pub(super) sender: Option<Nid>,
    pub(super) room_type: Option<String>,
    pub(super) encrypted: bool,
    pub(super) name: Option<String>,
}

impl Entry {
    /// Whether a connection that was told of the room up to `told` (or never) sees it in lists. One that the user left
    /// stays for those who were, one that they forgot until they know.
    pub(super) fn is_shown(&self, ignored: &HashSet<Nid>, told: Option<Seq>) -> bool {
        match self.membership {
            Membership::Join | Membership::Knock => true,
            Membership::Invite => !self.sender.is_some_and(|sender| ignored.contains(&sender)),
            Membership::Leave | Membership::Ban if self.forgotten => self.is_news(told),
            Membership::Leave | Membership::Ban => self.kicked || told.is_some(),
        }
    }

    /// Whether the user is in the room, or waits to be.
    pub(super) fn is_here(&self) -> bool {
        !matches!(self.membership, Membership::Leave | Membership::Ban)
    }

    /// Whether a connection that knows the room does not know yet what became of the user's membership.
    pub(super) fn is_news(&self, told: Option<Seq>) -> bool {
        told.is_some_and(|told| told < self.since)
    }
}

/// All rooms of a user that a list may show.
#[derive(Clone, Debug, Default)]
pub(super) struct Listing {
    /// True as of here.
    pub(super) at: Seq,
    pub(super) rooms: HashMap<Nid, Arc<Entry>>,
    pub(super) dms: HashSet<Nid>,
    pub(super) tags: HashMap<Nid, Vec<String>>,
}

impl Listing {
    /// As of `until`, which is the end of the snapshot.
    fn load(tx: &ReadTx<'_>, user: Nid, until: Seq) -> Result<Self, StoreError> {
        let mut listing = Self { at: until, ..Self::default() };
        for row in query::room_list(tx, user)? {
            listing.put(user, row);
        }
        for data in account_data::changed(tx, user, Seq(0), until)? {
            listing.follow(tx, &data)?;
        }
        Ok(listing)
    }

    /// Brings it to `until`.
    fn update(&mut self, tx: &ReadTx<'_>, user: Nid, until: Seq) -> Result<(), StoreError> {
        let since = self.at;
        let mut changed: Vec<Nid> = query::rooms_touched(tx, since, until)?;
        changed.retain(|room| self.rooms.contains_key(room));
        changed.extend(query::own_moves(tx, user, since, until)?);
        changed.sort_unstable();
        changed.dedup();
        for room in changed {
            match query::room_list_one(tx, user, room)? {
                Some(row) => self.put(user, row),
                None => drop(self.rooms.remove(&room)),
            }
        }
        for data in account_data::changed(tx, user, since, until)? {
            self.follow(tx, &data)?;
        }
        self.at = until;
        Ok(())
    }

    fn put(&mut self, user: Nid, row: ListRow) {
        let gone = matches!(row.membership, Membership::Leave | Membership::Ban);
        // Who was banned without ever having been in has nothing to do with the room.
        if row.membership == Membership::Ban && row.left.is_none() {
            self.rooms.remove(&row.room);
            return;
        }
        let joined = row.membership == Membership::Join;
        let told = row.stripped.as_deref().filter(|_| !joined && !gone).map(Told::read).unwrap_or_default();
        let entry = Entry {
            membership: row.membership,
            since: row.since,
            order: row.last.filter(|_| joined).unwrap_or(row.since),
            bump: row.bump.filter(|_| joined).unwrap_or(row.since),
            kicked: gone && row.left.is_some() && row.sender != Some(user),
            forgotten: gone && row.forgotten,
            sender: row.sender,
            room_type: told.room_type.or_else(|| row.room_type.filter(|_| joined || gone)),
            encrypted: told.encrypted || (row.encrypted && (joined || gone)),
            name: told.name.or_else(|| row.name.filter(|_| joined || gone)),
        };
        self.rooms.insert(row.room, Arc::new(entry));
    }

    /// Follows which rooms are direct and how they are tagged.
    fn follow(&mut self, tx: &ReadTx<'_>, data: &account_data::Entry) -> Result<(), StoreError> {
        match (data.room == account_data::GLOBAL, &*data.kind) {
            (true, "m.direct") => {
                let rooms: BTreeMap<String, Vec<String>> =
                    serde_json::from_str(&data.content).unwrap_or_default();
                self.dms.clear();
                for room in rooms.values().flatten() {
                    self.dms.extend(tx.lookup(Kind::Room, room)?);
                }
            }
            (false, "m.tag") => {
                #[derive(Deserialize, Default)]
                struct Tags {
                    #[serde(default)]
                    tags: BTreeMap<String, serde::de::IgnoredAny>,
                }
                let tags: Tags = serde_json::from_str(&data.content).unwrap_or_default();
                if tags.tags.is_empty() {
                    self.tags.remove(&data.room);
                } else {
                    self.tags.insert(data.room, tags.tags.into_keys().collect());
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The rooms that a connection's lists are made of, the most recent first. `told`: up to where the connection was
    /// told of a room, if it was at all.
    pub(super) fn sorted(
        &self,
        ignored: &HashSet<Nid>,
        told: impl Fn(Nid) -> Option<Seq>,
    ) -> Vec<(Nid, &Entry)> {
        let shown = |room: Nid, entry: &Entry| entry.is_shown(ignored, told(room));
        let mut rooms: Vec<(Nid, &Entry)> = self
            .rooms
            .iter()
            .filter(|(room, entry)| shown(**room, entry))
            .map(|(room, entry)| (*room, &**entry))
            .collect();
        rooms.sort_unstable_by_key(|(room, entry)| (std::cmp::Reverse(entry.order), *room));
        rooms
    }
}

/// What stripped state tells of a room that is not here.
#[derive(Default)]
struct Told {
    room_type: Option<String>,
    encrypted: bool,
    name: Option<String>,
}

impl Told {
    fn read(stripped: &[u8]) -> Self {
        #[derive(Deserialize)]
        struct Event {
            r#type: String,
            #[serde(default)]
            content: serde_json::Value,
        }
        let mut told = Self::default();
        for event in serde_json::from_slice::<Vec<Event>>(stripped).unwrap_or_default() {
            let text =
                |key: &str| event.content.get(key).and_then(|value| value.as_str()).map(ToOwned::to_owned);
            match &*event.r#type {
                "m.room.create" => told.room_type = text("type"),
                "m.room.encryption" => told.encrypted = true,
                "m.room.name" => told.name = text("name"),
                _ => {}
            }
        }
        told
    }
}

/// Listings of users who sync.
#[derive(Debug, Default)]
pub(super) struct Listings {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    listings: HashMap<Nid, (u64, Arc<Listing>)>,
    clock: u64,
}

impl Listings {
    /// A user's listing as of `until`, the end of the snapshot.
    pub(super) fn at(&self, tx: &ReadTx<'_>, user: Nid, until: Seq) -> Result<Arc<Listing>, StoreError> {
        let known = self.table().listings.get(&user).map(|(_, listing)| listing.clone());
        let listing = match known {
            Some(listing) if listing.at == until => listing,
            Some(listing) if listing.at < until && until.0 - listing.at.0 <= BEHIND_MAX => {
                let mut listing = listing;
                Arc::make_mut(&mut listing).update(tx, user, until)?;
                listing
            }
            // None, too far behind, or ahead of this snapshot (another reader was quicker).
            _ => Arc::new(Listing::load(tx, user, until)?),
        };
        let mut table = self.table();
        table.clock += 1;
        let now = table.clock;
        let newer = table.listings.get(&user).is_some_and(|(_, known)| known.at > listing.at);
        if !newer {
            table.listings.insert(user, (now, listing.clone()));
        }
        table.trim();
        Ok(listing)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn trim(&mut self) {
        let mut entries: usize = self.listings.values().map(|(_, listing)| listing.rooms.len()).sum();
        while entries > ENTRIES_MAX {
            let oldest = self.listings.iter().min_by_key(|(_, (used, _))| *used).map(|(user, _)| *user);
            let Some((_, listing)) = oldest.and_then(|user| self.listings.remove(&user)) else { return };
            entries -= listing.rooms.len();
        }
    }
}
