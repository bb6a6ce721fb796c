//! Profiles of those with whom the user shares a room (MSC4262): of people of this server, whose profiles are here.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    conn::bits,
    extensions::{Extend, Shown, covered},
};
use crate::{
    store::{
        Nid, Seq, StoreError,
        schema::{
            events,
            membership::{self, Membership},
            profiles as table, users,
        },
    },
    sync::{json::Writer, v3::devices},
};

/// The extension's name.
const NAME: &str = "org.matrix.msc4262.profiles";
/// Changes that are looked at in one response.
const CHANGES_MAX: u32 = 5_000;
/// People whose whole profile one response tells; clients ask for others by themselves.
const PEOPLE_MAX: usize = 1_000;

/// What is told of one person.
#[derive(Default)]
struct Told {
    updated: Vec<(String, String)>,
    removed: Vec<String>,
    /// The client need not keep it any more.
    dropped: bool,
}

impl Extend<'_> {
    /// Whole profiles of who comes into the client's view, then the fields that change, of everybody with whom a room is
    /// shared.
    pub(super) fn profiles(&self, writer: &mut Writer, shown: &mut [Shown<'_>]) -> Result<bool, StoreError> {
        let (tx, context) = (self.tx, self.context);
        let user = context.user;
        let asked = &context.ask.extensions.profiles;
        let wanted =
            |field: &str| asked.fields.as_ref().is_none_or(|fields| fields.iter().any(|one| one == field));
        let mut whole: BTreeSet<Nid> = BTreeSet::new();
        for (room, new) in covered(shown, &asked.scope, bits::PROFILES) {
            if !room.joined {
                continue;
            }
            if room.lazy {
                for event in &room.events {
                    whole.extend(events::event(tx, *event)?.map(|event| event.sender));
                }
            } else if new {
                whole.extend(membership::local_members(tx, room.room, Membership::Join)?);
            }
        }
        let mut people: BTreeMap<Nid, Told> = BTreeMap::new();
        if let Some(since) = context.token.map(|token| Seq(token.seq)) {
            let until = self.news.until;
            for (who, field) in table::changed(tx, since, until, CHANGES_MAX)? {
                if !wanted(&field) || !(who == user || membership::share(tx, who, user)?) {
                    continue;
                }
                let value = users::profile(tx, who)?.into_iter().find(|(name, _)| *name == field);
                let told = people.entry(who).or_default();
                match value {
                    Some(value) => told.updated.push(value),
                    None => told.removed.push(field),
                }
            }
            let rows = match &self.news.touched {
                Some(touched) => {
                    let mut rows = Vec::new();
                    for room in touched {
                        rows.extend(membership::user_room(tx, user, *room)?);
                    }
                    rows
                }
                None => membership::user_rooms(tx, user)?,
            };
            let lists = devices::changes(tx, user, since, until, &rows, &[], false)?;
            whole.extend(lists.met);
            for gone in lists.left {
                people.insert(gone, Told { dropped: true, ..Told::default() });
            }
        }
        for who in whole.into_iter().take(PEOPLE_MAX) {
            let mut fields = users::profile(tx, who)?;
            fields.retain(|(field, _)| wanted(field));
            if !fields.is_empty() {
                people.entry(who).or_default().updated = fields;
            }
        }
        if people.is_empty() {
            return Ok(false);
        }
        let mut named = Vec::new();
        for (who, told) in &people {
            named.push((tx.text(*who)?, told));
        }
        writer.key(NAME).object(|object| {
            object.key("users").object(|object| {
                for (id, told) in &named {
                    if told.dropped {
                        object.key(id).raw(b"null");
                        continue;
                    }
                    object.key(id).object(|object| {
                        if !told.updated.is_empty() {
                            object.key("updated").object(|object| {
                                for (field, value) in &told.updated {
                                    object.key(field).raw(value.as_bytes());
                                }
                            });
                        }
                        if !told.removed.is_empty() {
                            object
                                .key("removed")
                                .array(|array| told.removed.iter().for_each(|field| array.string(field)));
                        }
                    });
                }
            });
        });
        Ok(true)
    }
}
