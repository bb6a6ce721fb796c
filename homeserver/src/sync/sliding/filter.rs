//! Which rooms a list shows.

use std::collections::HashSet;

use serde::Deserialize;

use super::lists::{Entry, Listing};
use crate::store::{
    Kind, Nid, ReadTx, StoreError,
    schema::{membership::Membership, state},
};

/// Spaces, tags and types that one filter may name.
const NAMES_MAX: usize = 1_000;

/// A list's filter; everything that is there has to hold.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RoomFilter {
    #[serde(default)]
    is_dm: Option<bool>,
    #[serde(default)]
    spaces: Option<Vec<String>>,
    #[serde(default)]
    is_encrypted: Option<bool>,
    #[serde(default, alias = "is_invited")]
    is_invite: Option<bool>,
    #[serde(default)]
    room_types: Option<Vec<Option<String>>>,
    #[serde(default)]
    not_room_types: Option<Vec<Option<String>>>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    not_tags: Option<Vec<String>>,
    #[serde(default)]
    room_name_like: Option<String>,
}

/// A filter with what it needs to know of the store.
pub(super) struct Ready<'a> {
    filter: &'a RoomFilter,
    children: Option<HashSet<Nid>>,
    like: Option<String>,
}

impl RoomFilter {
    /// Looks up the rooms of the spaces that the filter names.
    pub(super) fn ready<'a>(&'a self, tx: &ReadTx<'_>, listing: &Listing) -> Result<Ready<'a>, StoreError> {
        let children = match &self.spaces {
            None => None,
            Some(spaces) => {
                let mut children = HashSet::new();
                for space in spaces.iter().take(NAMES_MAX) {
                    let Some(space) = tx.lookup(Kind::Room, space)? else { continue };
                    let joined =
                        listing.rooms.get(&space).is_some_and(|entry| entry.membership == Membership::Join);
                    if joined {
                        for child in state::space_children(tx, space)? {
                            children.extend(tx.lookup(Kind::Room, &child)?);
                        }
                    }
                }
                Some(children)
            }
        };
        Ok(Ready {
            filter: self,
            children,
            like: self.room_name_like.as_ref().map(|text| text.to_lowercase()),
        })
    }
}

impl Ready<'_> {
    /// Whether the list shows a room.
    pub(super) fn passes(&self, listing: &Listing, room: Nid, entry: &Entry) -> bool {
        let filter = self.filter;
        let is = |wanted: Option<bool>, value: bool| wanted.is_none_or(|wanted| wanted == value);
        let typed = |types: &[Option<String>]| {
            types.iter().take(NAMES_MAX).any(|kind| kind.as_deref() == entry.room_type.as_deref())
        };
        let tagged = |tags: &[String]| {
            let own = listing.tags.get(&room);
            own.is_some_and(|own| tags.iter().take(NAMES_MAX).any(|tag| own.contains(tag)))
        };
        is(filter.is_dm, listing.dms.contains(&room))
            && is(filter.is_encrypted, entry.encrypted)
            && is(filter.is_invite, entry.membership == Membership::Invite)
            && filter.room_types.as_deref().is_none_or(typed)
            && !filter.not_room_types.as_deref().is_some_and(typed)
            && filter.tags.as_deref().is_none_or(tagged)
            && !filter.not_tags.as_deref().is_some_and(tagged)
            && self.children.as_ref().is_none_or(|children| children.contains(&room))
            && self.like.as_ref().is_none_or(|like| {
                entry.name.as_ref().is_some_and(|name| name.to_lowercase().contains(like.as_str()))
            })
    }
}
