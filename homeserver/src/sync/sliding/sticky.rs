//! Events that stick (MSC4354, MSC4480), as far as the timelines of the same response do not show them.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use super::extensions::{Extend, Shown};
use crate::{
    room::read::json::{Viewer, client_event},
    store::{
        Nid, Seq, StoreError,
        schema::{events, sticky as table},
    },
    sync::{json::Writer, token::Token},
};

/// The extension's name.
const NAME: &str = "org.matrix.msc4354.sticky_events";
/// Events of one response, whatever the client asks; the next response has more.
const LIMIT_MAX: u64 = 100;
/// Events of all rooms that are looked at in one response.
const SCAN_MAX: u32 = 10_000;

impl Extend<'_> {
    /// The oldest that the client was not told, of rooms that its lists or subscriptions are about; those of a room that
    /// the user has come into since, all.
    pub(super) fn sticky_events(&self, writer: &mut Writer, shown: &[Shown<'_>]) -> Result<bool, StoreError> {
        let (tx, context, until) = (self.tx, self.context, self.news.until);
        let asked = &context.ask.extensions.sticky_events;
        let limit = asked.limit.unwrap_or(LIMIT_MAX).clamp(1, LIMIT_MAX) as usize;
        let now = i64::try_from(context.now_ms).unwrap_or(i64::MAX);
        // A foreign or future token counts as none.
        let since = context.sticky_since.filter(|since| *since <= until).unwrap_or_default();
        let in_timelines: HashSet<Nid> = shown.iter().flat_map(|room| room.events.iter().copied()).collect();
        let mut found: Vec<(Nid, Nid)> = Vec::new();
        if since > Seq(0) {
            for (room, joined) in self.about {
                if *joined > since {
                    let all = table::in_room(tx, *room, Seq(0), since, now)?;
                    found.extend(all.into_iter().map(|(_, nid)| (*room, nid)));
                }
            }
        }
        let fresh = found.len();
        let mut end = until;
        for (room, seq, nid) in table::everywhere(tx, since, until, now, SCAN_MAX)? {
            if !self.about.contains_key(&room) {
                continue;
            }
            if found.len() - fresh == limit {
                break;
            }
            found.push((room, nid));
            end = seq;
        }
        if found.len() - fresh < limit {
            end = until;
        }
        let nothing = found.is_empty();
        let mut rooms: BTreeMap<Arc<str>, Vec<Box<serde_json::value::RawValue>>> = BTreeMap::new();
        for (room, nid) in found {
            let Some(event) = events::event(tx, nid)?.filter(|event| !self.ignored.contains(&event.sender))
            else {
                continue;
            };
            if in_timelines.contains(&nid) {
                continue;
            }
            let viewer = Viewer {
                user: context.user,
                device: Some(&context.device),
                room_id: false,
                now_ms: context.now_ms,
                joined: None,
            };
            rooms.entry(tx.text(room)?).or_default().push(client_event(tx, &event, &viewer)?);
        }
        // What a timeline shows is told, too: the token moves past it.
        if nothing && since > Seq(0) {
            return Ok(false);
        }
        let token = Token { seq: end.0, ..self.token };
        writer.key(NAME).object(|object| {
            object.key("next_batch").string(&token.to_string());
            object.key("rooms").object(|object| {
                for (id, events) in &rooms {
                    object.key(id).events(events.iter().map(|event| event.get().as_bytes()));
                }
            });
        });
        Ok(!rooms.is_empty())
    }
}
