//! Finding people: our own users, those who share a room with the searcher, and the neighbours'.

use std::collections::{BTreeMap, HashSet};

use ruma::{OwnedMxcUri, OwnedUserId, UserId};
use serde::Deserialize;

use super::{Neighbours, Person, UserError, Users, active};
use crate::store::{Nid, ReadTx, StoreError, schema, schema::membership::Membership};

impl Users {
    /// People whose name or id contains `term`, at most `limit`; true if there are more. The searcher is left
    /// out, unless strangers find them.
    /// Without `everyone`, users of ours are found by those who share a room with them, or if they are in a public one.
    pub async fn search(
        &self,
        searcher: &UserId,
        term: &str,
        limit: usize,
        neighbours: &dyn Neighbours,
        everyone: bool,
    ) -> Result<(Vec<Person>, bool), UserError> {
        let needle = term.trim().trim_start_matches('@').to_lowercase();
        if needle.is_empty() {
            return Ok((Vec::new(), false));
        }
        let mut found: BTreeMap<OwnedUserId, Person> = BTreeMap::new();
        neighbours.refresh().await;
        let mates = self.room_mates(searcher).await?;
        let mut ours = self.people(PEOPLE_SCANNED_MAX).await?;
        // Whoever is in a public room finds what others find.
        let mut seen = false;
        if !everyone {
            let shown: HashSet<OwnedUserId> = mates.iter().map(|mate| mate.user_id.clone()).collect();
            let public = self.in_public_rooms().await?;
            ours.retain(|person| shown.contains(&person.user_id) || public.contains(&person.user_id));
            seen = public.contains(searcher);
        }
        // Later ones win: a user's own profile says more than a membership in some room.
        for person in neighbours.people().into_iter().chain(mates).chain(ours) {
            if person.matches(&needle) && (person.user_id != searcher || seen) {
                found.insert(person.user_id.clone(), person);
            }
        }
        let mut people: Vec<Person> = found.into_values().collect();
        // Whole words first, then by id.
        people.sort_by_key(|person| {
            let name = person.display_name.as_deref().unwrap_or_default().to_lowercase();
            let exact = name == needle || person.user_id.localpart() == needle;
            let begins = name.starts_with(&needle) || person.user_id.localpart().starts_with(&needle);
            (!exact, !begins)
        });
        let more = people.len() > limit;
        people.truncate(limit);
        Ok((people, more))
    }

    /// Users of ours who are in a room that anybody may join or read.
    async fn in_public_rooms(&self) -> Result<HashSet<OwnedUserId>, UserError> {
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let mut found = HashSet::new();
                for row in schema::users::all(tx)?.into_iter().take(PEOPLE_SCANNED_MAX) {
                    for room in schema::membership::rooms_of(tx, row.user, Membership::Join)? {
                        let open = schema::rooms::room(tx, room)?.is_some_and(|room| {
                            room.join_rule.as_deref() == Some("public")
                                || room.history.as_deref() == Some("world_readable")
                        });
                        if open {
                            found.extend(UserId::parse(&*tx.text(row.user)?));
                            break;
                        }
                    }
                }
                Ok(found)
            })
            .await
    }

    /// Those who share a room with a user, as they show themselves there.
    async fn room_mates(&self, user: &UserId) -> Result<Vec<Person>, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let user = active(tx, &user)?;
                let mut mates = Vec::new();
                for mate in schema::membership::sharing_users(tx, user)?.into_iter().take(PEOPLE_SCANNED_MAX)
                {
                    mates.extend(as_member(tx, mate)?);
                }
                Ok(mates)
            })
            .await
    }
}

/// A user as one of its membership events shows it.
fn as_member(tx: &ReadTx<'_>, user: Nid) -> Result<Option<Person>, StoreError> {
    #[derive(Default, Deserialize)]
    struct Content {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    #[derive(Deserialize)]
    struct Event {
        #[serde(default)]
        content: Content,
    }
    let Ok(user_id) = UserId::parse(&*tx.text(user)?) else {
        return Ok(None);
    };
    let mut person = Person { user_id, display_name: None, avatar_url: None };
    let rooms = schema::membership::rooms_of(tx, user, Membership::Join)?;
    if let Some(room) = rooms.first()
        && let Some((_, event)) = schema::membership::member(tx, *room, user)?
        && let Some(event) = schema::events::event(tx, event)?
        // A member's content may be anything; then it has no name.
        && let Ok(event) = serde_json::from_slice::<Event>(event.client.as_ref())
    {
        person.display_name = event.content.displayname;
        person.avatar_url = event.content.avatar_url.map(OwnedMxcUri::from);
    }
    Ok(Some(person))
}

/// People looked at for one search: each costs a few microseconds.
const PEOPLE_SCANNED_MAX: usize = 5_000;
