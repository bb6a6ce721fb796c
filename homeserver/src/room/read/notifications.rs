//! What a user was or would have been notified of, newest first.

use ruma::{RoomId, UserId, push::Action};
use serde_json::value::RawValue;

use super::json::{Viewer, client_event};
use crate::{
    push::{
        project::{display_name, power_levels},
        rules::{Judge, effective},
    },
    room::{ClientEvent, RoomError, Rooms},
    store::{
        Kind, Nid, ReadTx, Seq, StoreError,
        schema::{events, membership, push as table, pushers, rooms},
    },
};

/// Rows of the stream that one request looks through; a page may be shorter than asked for.
const SCAN_MAX: i64 = 5_000;
/// Notifications of one page.
const LIMIT_MAX: usize = 100;

/// A notification.
#[derive(Debug)]
pub struct Notification {
    /// The room.
    pub room: String,
    /// The event, as the client sees it.
    pub event: ClientEvent,
    /// What the rule that decided does.
    pub actions: Vec<Action>,
    /// The user has read it.
    pub read: bool,
    /// When it was sent.
    pub ts_ms: i64,
}

impl Rooms {
    /// Notifications before a position (of an earlier page), and where the next page begins.
    pub async fn notifications(
        &self,
        user: &UserId,
        before: Option<Seq>,
        limit: usize,
        highlights: bool,
    ) -> Result<(Vec<Notification>, Option<Seq>), RoomError> {
        let (user, now_ms) = (user.to_owned(), self.inner.clock.now_ms());
        let limit = limit.clamp(1, LIMIT_MAX);
        self.inner
            .store
            .read(move |tx| {
                let Some(nid) = tx.lookup(Kind::User, user.as_str())? else { return Ok((Vec::new(), None)) };
                let before = before.unwrap_or(Seq(i64::MAX)).min(Seq(tx.position().0 + 1));
                let rules = effective(&user, table::rules(tx, nid)?.as_ref().map(|(_, json)| json.as_str()));
                let mut list = Vec::new();
                for (seq, room, event) in pushers::events_before(tx, nid, before, SCAN_MAX)? {
                    let found = one(tx, &user, nid, &rules, (seq, room, event), highlights, now_ms)?;
                    list.extend(found);
                    if list.len() >= limit {
                        return Ok((list, Some(seq)));
                    }
                }
                let next = Seq(before.0 - SCAN_MAX);
                Ok((list, (next.0 > 1).then_some(next)))
            })
            .await
    }
}

fn one(
    tx: &ReadTx<'_>,
    user: &UserId,
    nid: Nid,
    rules: &ruma::push::Ruleset,
    (seq, room, event): (Seq, Nid, Nid),
    highlights: bool,
    now_ms: u64,
) -> Result<Option<Notification>, StoreError> {
    let Some(own) = membership::user_room(tx, nid, room)?.filter(|own| own.seq <= seq) else {
        return Ok(None);
    };
    let Some(row) = events::event(tx, event)? else { return Ok(None) };
    if row.sender == nid || row.flags & events::REDACTED != 0 {
        return Ok(None);
    }
    let id = tx.text(room)?;
    let Ok(room_id) = <&RoomId>::try_from(&*id) else { return Ok(None) };
    let Ok(client) = serde_json::from_slice::<&RawValue>(&row.client) else { return Ok(None) };
    let members = rooms::room(tx, room)?.map_or(0, |row| row.joined.unsigned_abs());
    let mut judge = Judge::new(room_id, client, members, power_levels(tx, room)?);
    let (verdict, actions) = judge.actions(user, &display_name(tx, room, nid)?, rules);
    if !verdict.notify || (highlights && !verdict.highlight) {
        return Ok(None);
    }
    let viewer = Viewer { user: nid, device: None, room_id: true, now_ms, joined: Some(own.seq) };
    let positions = table::read_positions(tx, nid, room)?;
    let read = positions
        .iter()
        .any(|(thread, upto)| *upto >= seq && (*thread == table::ALL || (*thread == table::MAIN)));
    Ok(Some(Notification {
        room: id.to_string(),
        event: client_event(tx, &row, &viewer)?,
        actions,
        read,
        ts_ms: row.ts,
    }))
}
