//! Owns interned ids: every user, server, room, event type and state key is stored once and is an integer elsewhere.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
};

/// An interned id, or an event's number. Identity only: no order is meant by it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Nid(pub i64);

impl rusqlite::ToSql for Nid {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl rusqlite::types::FromSql for Nid {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

impl rusqlite::ToSql for super::Seq {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        self.0.to_sql()
    }
}

impl rusqlite::types::FromSql for super::Seq {
    fn column_result(value: rusqlite::types::ValueRef<'_>) -> rusqlite::types::FromSqlResult<Self> {
        i64::column_result(value).map(Self)
    }
}

/// What an interned text is. A nid belongs to one kind for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A user id, ours or theirs.
    User = 1,
    /// A server name.
    Server = 2,
    /// A room id.
    Room = 3,
    /// An event type.
    Type = 4,
    /// A state key with its type: see [`skey_text`].
    Skey = 5,
    /// A device id.
    Device = 6,
    /// Anything else that repeats (relation types, receipt types, thread ids).
    Name = 7,
}

/// The text under which the pair of an event type and a state key is interned.
pub fn skey_text(event_type: &str, state_key: &str) -> String {
    let mut text = String::with_capacity(event_type.len() + state_key.len() + 1);
    text.push_str(event_type);
    // Written as an escape that no type holds unescaped: a NUL inside a type would make two pairs one.
    if event_type.contains('\0') {
        text = text.replace('\0', "\u{fffd}\u{fffd}");
    }
    text.push('\0');
    text.push_str(state_key);
    text
}

/// The pair that [`skey_text`] made.
pub fn skey_split(text: &str) -> (&str, &str) {
    text.split_once('\0').unwrap_or((text, ""))
}

/// Entries of the cache; past this it starts anew (about 10 MiB at 80 bytes each, twice).
const CACHE_MAX: usize = 65_536;

/// RAM copy of committed interned ids. Filled by committed reads and after commits, never before.
#[derive(Default)]
pub(crate) struct IdCache {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    by_text: HashMap<(Kind, Arc<str>), Nid>,
    by_nid: HashMap<Nid, Arc<str>>,
}

impl IdCache {
    pub(crate) fn nid(&self, kind: Kind, text: &str) -> Option<Nid> {
        let maps = self.maps.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The key type wants an Arc; looking up by (Kind, &str) needs this small detour.
        maps.by_text.get(&(kind, text) as &dyn Key).copied()
    }

    pub(crate) fn text(&self, nid: Nid) -> Option<Arc<str>> {
        let maps = self.maps.read().unwrap_or_else(|poisoned| poisoned.into_inner());
        maps.by_nid.get(&nid).cloned()
    }

    pub(crate) fn insert(&self, kind: Kind, text: Arc<str>, nid: Nid) {
        let mut maps = self.maps.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        if maps.by_nid.len() >= CACHE_MAX {
            *maps = Maps::default();
        }
        maps.by_nid.insert(nid, text.clone());
        maps.by_text.insert((kind, text), nid);
    }
}

/// Borrowed form of the map's key.
trait Key {
    fn parts(&self) -> (Kind, &str);
}

impl Key for (Kind, Arc<str>) {
    fn parts(&self) -> (Kind, &str) {
        (self.0, &self.1)
    }
}

impl Key for (Kind, &str) {
    fn parts(&self) -> (Kind, &str) {
        (self.0, self.1)
    }
}

impl std::hash::Hash for dyn Key + '_ {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (kind, text) = self.parts();
        kind.hash(state);
        text.hash(state);
    }
}

impl PartialEq for dyn Key + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Key + '_ {}

impl<'a> std::borrow::Borrow<dyn Key + 'a> for (Kind, Arc<str>) {
    fn borrow(&self) -> &(dyn Key + 'a) {
        self
    }
}
