//! What a pusher is told: the next events that notify its user, read from the store.

use ruma::{
    EventId, RoomId, UserId,
    push::{Action, Tweak},
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    push::{
        counts,
        project::{display_name, power_levels},
        rules::{Judge, effective},
    },
    store::{
        Nid, ReadTx, Seq, StoreError,
        schema::{
            events,
            membership::{self, Membership},
            push as table, pushers, rooms, thread_subs,
        },
    },
};

/// Rows of the stream that are looked through in one read.
const SCAN_MAX: i64 = 5_000;
/// Events that are looked at in one read.
const EVENTS_MAX: u32 = 100;

/// An event that notifies somebody.
#[derive(Clone, Debug)]
pub(super) struct Note {
    /// Its position.
    pub seq: Seq,
    /// When it was made.
    pub ts: i64,
    /// `notification` without `devices` and `counts`, whole.
    pub whole: Value,
    /// The same for `event_id_only`.
    pub short: Value,
    /// The rule's tweaks.
    pub tweaks: Value,
}

/// The next event after `after` that notifies a user, and up to where was looked; `None` if there is none up to there.
pub(super) fn next(
    tx: &ReadTx<'_>,
    user: Nid,
    after: Seq,
    until: Seq,
) -> Result<(Option<Note>, Seq), StoreError> {
    let end = Seq(until.0.min(after.0 + SCAN_MAX));
    let found = pushers::events_for(tx, user, after, end, EVENTS_MAX)?;
    let id = tx.text(user)?;
    let Ok(user_id) = <&UserId>::try_from(&*id) else { return Ok((None, end)) };
    let rules = effective(user_id, table::rules(tx, user)?.as_ref().map(|(_, json)| json.as_str()));
    let whole = found.len() < EVENTS_MAX as usize;
    let mut last = after;
    for (seq, room, nid) in found {
        last = seq;
        if let Some(note) = note(tx, user, user_id, &rules, seq, room, nid)? {
            return Ok((Some(note), seq));
        }
    }
    Ok((None, if whole { end } else { last }))
}

fn note(
    tx: &ReadTx<'_>,
    user: Nid,
    user_id: &UserId,
    rules: &ruma::push::Ruleset,
    seq: Seq,
    room: Nid,
    nid: Nid,
) -> Result<Option<Note>, StoreError> {
    let Some(own) = membership::user_room(tx, user, room)? else { return Ok(None) };
    let invited = own.membership == Membership::Invite && own.nid == nid;
    let joined = own.membership == Membership::Join && own.seq <= seq;
    let Some(event) = events::event(tx, nid)? else { return Ok(None) };
    if !(invited || joined) || event.sender == user || event.flags & events::REDACTED != 0 {
        return Ok(None);
    }
    if joined && is_read(tx, user, room, seq)? {
        return Ok(None);
    }
    let (room_text, row) = (tx.text(room)?, rooms::room(tx, room)?);
    let Ok(room_id) = <&RoomId>::try_from(&*room_text) else { return Ok(None) };
    let client: &RawValue = match serde_json::from_slice(&event.client) {
        Ok(client) => client,
        Err(_) => return Ok(None),
    };
    let members = row.as_ref().map_or(0, |row| row.joined.unsigned_abs());
    let mut judge = Judge::new(room_id, client, members, power_levels(tx, room)?);
    let name = display_name(tx, room, user)?;
    if let Some(root) = thread_of(tx, client)? {
        judge.with_subscription(thread_subs::follows(tx, user, room, root)?);
    }
    let (verdict, actions) = judge.actions(user_id, &name, rules);
    if !verdict.notify {
        return Ok(None);
    }
    #[derive(Deserialize)]
    struct Event<'a> {
        r#type: String,
        #[serde(borrow)]
        content: &'a RawValue,
        sender: String,
        state_key: Option<String>,
    }
    let Ok(parsed) = serde_json::from_str::<Event<'_>>(client.get()) else { return Ok(None) };
    let mut tweaks = serde_json::Map::new();
    for tweak in actions.iter().filter_map(|action| match action {
        Action::SetTweak(tweak) => Some(tweak),
        _ => None,
    }) {
        match tweak {
            Tweak::Highlight(_) => {}
            other => {
                let value: Option<Value> =
                    other.value().and_then(|value| serde_json::from_str(value.get()).ok());
                tweaks.insert(other.set_tweak().to_owned(), value.unwrap_or(Value::Null));
            }
        }
    }
    if verdict.highlight {
        tweaks.insert("highlight".into(), true.into());
    }
    let loud = !tweaks.is_empty() || parsed.r#type == "m.room.encrypted" || invited;
    let id = events::id(tx, nid)?;
    let short = json!({"event_id": id, "room_id": room_id, "prio": if loud { "high" } else { "low" }});
    let mut whole = short.clone();
    let mut put = |key: &str, value: Option<Value>| {
        if let Some(value) = value {
            whole[key] = value;
        }
    };
    let sender_name = display_name(tx, room, event.sender)?;
    put("type", Some(parsed.r#type.into()));
    put("sender", Some(parsed.sender.into()));
    put("sender_display_name", (!sender_name.is_empty()).then(|| sender_name.into()));
    put("room_name", row.as_ref().and_then(|row| row.name.clone()).map(Value::from));
    put("room_alias", row.as_ref().and_then(|row| row.alias.clone()).map(Value::from));
    put("user_is_target", parsed.state_key.map(|key| Value::from(key == user_id.as_str())));
    put("content", serde_json::from_str(parsed.content.get()).ok());
    Ok(Some(Note { seq, ts: event.ts, whole, short, tweaks: tweaks.into() }))
}

/// The root of the thread that an event is a reply in.
fn thread_of(tx: &ReadTx<'_>, event: &RawValue) -> Result<Option<Nid>, StoreError> {
    if !event.get().contains("m.thread") {
        return Ok(None);
    }
    let event: Value = serde_json::from_str(event.get()).unwrap_or_default();
    let relation = &event["content"]["m.relates_to"];
    match (relation["rel_type"].as_str(), relation["event_id"].as_str().map(EventId::parse)) {
        (Some("m.thread"), Some(Ok(root))) => events::nid(tx, &root),
        _ => Ok(None),
    }
}

fn is_read(tx: &ReadTx<'_>, user: Nid, room: Nid, seq: Seq) -> Result<bool, StoreError> {
    let positions = table::read_positions(tx, user, room)?;
    Ok(positions.iter().any(|(thread, read)| *thread == table::ALL && *read >= seq))
}

/// Unread events that notify, over all rooms.
pub(super) fn badge(tx: &ReadTx<'_>, user: Nid) -> Result<i64, StoreError> {
    let mut sum = 0;
    for (room, joined) in pushers::maybe_unread(tx, user)? {
        sum += counts::unread(tx, user, room, joined)?.whole().notify;
    }
    Ok(sum)
}
