//! Owns what relates to an event.

use ruma::{EventId, RoomId, UserId};

use super::{
    json::client_event,
    messages::{viewer, visible},
};
use crate::{
    room::{ClientEvent, RoomError, Rooms},
    store::{Kind, Nid, schema::events},
};

/// Children in one page, at most.
const LIMIT_MAX: u32 = 100;
/// Children that one event is read with at all.
const CHILDREN_MAX: u32 = 10_000;

impl Rooms {
    /// Children of an event by relation and type, newest first, with a token for the next page.
    #[allow(clippy::too_many_arguments, reason = "the endpoint has them")]
    pub async fn relations(
        &self,
        user: &UserId,
        room: &RoomId,
        parent: &EventId,
        rel_type: Option<String>,
        event_type: Option<String>,
        from: Option<String>,
        limit: u32,
    ) -> Result<(Vec<ClientEvent>, Option<String>), RoomError> {
        let (user, room, parent) = (user.to_owned(), room.to_owned(), parent.to_owned());
        let now_ms = self.inner.clock.now_ms();
        let from: Option<i64> = match from {
            Some(from) => Some(
                from.strip_prefix('r')
                    .and_then(|number| number.parse().ok())
                    .ok_or_else(|| RoomError::Invalid("`from` is no token of this list".into()))?,
            ),
            None => None,
        };
        let limit = limit.clamp(1, LIMIT_MAX) as usize;
        self.inner
            .store
            .read(move |tx| {
                let (mut access, row) = visible(tx, &user, &room, &parent)?;
                let rel = match &rel_type {
                    Some(rel) => match tx.lookup(Kind::Name, rel)? {
                        Some(rel) => Some(rel),
                        None => return Ok((Vec::new(), None)),
                    },
                    None => None,
                };
                let (mut list, mut next) = (Vec::new(), None);
                for (child, _) in events::relations(tx, row.nid, rel, CHILDREN_MAX)? {
                    if from.is_some_and(|from| child >= Nid(from)) {
                        continue;
                    }
                    let Some(event) = events::event(tx, child)? else { continue };
                    if event.seq.is_none()
                        || event_type
                            .as_ref()
                            .is_some_and(|kind| tx.text(event.kind).is_ok_and(|is| *is != **kind))
                        || !access.may_see(tx, &event)?
                    {
                        continue;
                    }
                    if list.len() == limit {
                        next = Some(format!("r{}", last(&list)));
                        break;
                    }
                    list.push((child, client_event(tx, &event, &viewer(&access, now_ms))?));
                }
                Ok((list.into_iter().map(|(_, event)| event).collect(), next))
            })
            .await
    }
}

fn last(list: &[(Nid, ClientEvent)]) -> i64 {
    list.last().map_or(0, |(nid, _)| nid.0)
}
