//! What is true of a room for a user, worked out from the events as they are stored and from nothing that syncs, push or
//! history made of them.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde_json::Value;

use crate::store::{
    Kind, Nid, ReadTx, Seq, Store, StoreError,
    ids::skey_split,
    schema::{events, membership, receipts, state},
};

/// An event as it is stored.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub(super) id: String,
    pub(super) seq: i64,
    pub(super) sender: String,
    pub(super) kind: String,
    pub(super) key: Option<String>,
    pub(super) content: Value,
    pub(super) redacted: bool,
}

/// A receipt: (user, thread or empty, event, private).
pub(super) type Receipt = (String, String, String, bool);

/// A room as it is stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    /// Oldest first.
    pub(super) events: Vec<Stored>,
    /// The resolved state now.
    pub(super) state: BTreeMap<(String, String), String>,
    pub(super) receipts: Vec<Receipt>,
    /// The user's own place in it: membership, since when, whether it is forgotten.
    pub(super) mine: Option<(String, i64, bool)>,
}

/// Unread events: notifying, highlighting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) notify: i64,
    pub(super) highlight: i64,
}

impl Room {
    /// Reads a room, as it is for `user`.
    pub(super) async fn read(store: &Store, room: &str, user: &str) -> Self {
        let (room, user) = (room.to_owned(), user.to_owned());
        store.read(move |tx| load(tx, &room, &user)).await.unwrap()
    }

    pub(super) fn membership(&self) -> &str {
        self.mine.as_ref().map_or("leave", |(membership, ..)| membership)
    }

    pub(super) fn is_joined(&self) -> bool {
        self.membership() == "join"
    }

    /// Position of the last event.
    pub(super) fn last(&self) -> i64 {
        self.events.last().map_or(0, |event| event.seq)
    }

    /// Ids of what `user` may see, oldest first: up to when they went, if they are out of the room.
    pub(super) fn visible(&self, user: &str) -> Vec<String> {
        let (mut history, mut member) = ("shared".to_owned(), String::new());
        let mut seen = Vec::new();
        let mut last_seen_in = 0;
        for event in &self.events {
            let before = (history.clone(), member.clone());
            if event.kind == "m.room.history_visibility" {
                history = text(&event.content, "history_visibility");
            }
            let own = event.kind == "m.room.member" && event.key.as_deref() == Some(user);
            if own {
                member = text(&event.content, "membership");
            }
            let sees = |(history, member): &(String, String)| {
                matches!(
                    (&**history, &**member),
                    (_, "join") | ("invited", "invite") | ("shared" | "world_readable", _)
                )
            };
            if sees(&before) || sees(&(history.clone(), member.clone())) {
                seen.push(event.id.clone());
            }
            if before.1 == "join" || member == "join" {
                last_seen_in = seen.len();
            }
        }
        if !self.is_joined() {
            seen.truncate(last_seen_in);
        }
        seen
    }

    /// Whether state changed between two events in a way that `user` may not see.
    pub(super) fn hides_state(&self, user: &str, from: &str, to: &str) -> bool {
        let visible = self.visible(user);
        let place = |id: &str| self.events.iter().position(|event| event.id == id).unwrap_or_default();
        let (from, to) = (place(from), place(to));
        let between = self.events.get(from..to).unwrap_or_default();
        between.iter().any(|event| event.key.is_some() && !visible.contains(&event.id))
    }

    /// What `user` has not read, in the main timeline and in each thread (by its root) that has anything. `threads`: the
    /// root of each event that was sent into a thread.
    pub(super) fn unread(&self, user: &str, threads: &HashMap<String, String>) -> BTreeMap<String, Count> {
        let seq_of = |id: &str| self.events.iter().find(|event| event.id == id).map_or(0, |event| event.seq);
        let (mut all, mut read): (i64, HashMap<String, i64>) = (0, HashMap::new());
        let mut member = String::new();
        for event in &self.events {
            if event.kind == "m.room.member" && event.key.as_deref() == Some(user) {
                let now = text(&event.content, "membership");
                if now == "join" && member != "join" {
                    all = event.seq;
                }
                member = now;
            }
            if event.sender == user {
                // Who writes has read what stands before.
                let thread = threads.get(&event.id).map_or("main", |root| root);
                read.insert(thread.to_owned(), event.seq);
            }
        }
        for (of, thread, event, _) in &self.receipts {
            if of == user {
                let at = seq_of(event);
                if thread.is_empty() {
                    all = all.max(at);
                } else {
                    let known = read.entry(thread.clone()).or_default();
                    *known = at.max(*known);
                }
            }
        }
        let mut unread: BTreeMap<String, Count> = BTreeMap::new();
        for event in &self.events {
            let thread = threads.get(&event.id).map_or("main", |root| root);
            let position = all.max(read.get(thread).copied().unwrap_or_default());
            let relation = event.content["m.relates_to"]["rel_type"].as_str();
            let notifies = event.kind == "m.room.message" && relation != Some("m.replace");
            if event.redacted || !notifies || event.sender == user || event.seq <= position {
                continue;
            }
            let count = unread.entry(thread.to_owned()).or_default();
            count.notify += 1;
            let named = event.content["m.mentions"]["user_ids"].as_array();
            if named.is_some_and(|ids| ids.iter().any(|id| id == user)) {
                count.highlight += 1;
            }
        }
        unread
    }
}

/// Everything together.
pub(super) fn whole(unread: &BTreeMap<String, Count>) -> Count {
    unread.values().fold(Count::default(), |sum, count| Count {
        notify: sum.notify + count.notify,
        highlight: sum.highlight + count.highlight,
    })
}

fn text(content: &Value, field: &str) -> String {
    content[field].as_str().unwrap_or_default().to_owned()
}

fn load(tx: &ReadTx<'_>, id: &str, user: &str) -> Result<Room, StoreError> {
    let mut loaded = Room::default();
    let Some(room) = tx.lookup(Kind::Room, id)? else { return Ok(loaded) };
    let range = (Seq(i64::MIN), Seq(i64::MAX));
    for (_, seq, nid) in events::places(tx, room, (0, Seq(i64::MIN)), range, false, u32::MAX)? {
        let row = events::event(tx, nid)?.unwrap();
        let client: Value = serde_json::from_slice(&row.client).unwrap();
        loaded.events.push(Stored {
            id: events::id(tx, nid)?.to_string(),
            seq: seq.0,
            sender: text(&client, "sender"),
            kind: text(&client, "type"),
            key: client["state_key"].as_str().map(ToOwned::to_owned),
            content: client["content"].clone(),
            redacted: row.redacted_by.is_some(),
        });
    }
    for (skey, nid) in state::current_all(tx, room)? {
        let pair = tx.text(skey)?;
        let (kind, key) = skey_split(&pair);
        loaded.state.insert((kind.to_owned(), key.to_owned()), events::id(tx, nid)?.to_string());
    }
    let me = tx.lookup(Kind::User, user)?.unwrap();
    let users: HashSet<Nid> = membership::room_users(tx, room)?.into_iter().collect();
    for of in users {
        for row in receipts::own(tx, room, of)? {
            if !row.private || of == me {
                loaded.receipts.push((tx.text(of)?.to_string(), row.thread, row.event, row.private));
            }
        }
    }
    loaded.mine = membership::user_room(tx, me, room)?
        .map(|row| (row.membership.as_str().to_owned(), row.seq.0, row.forgotten));
    Ok(loaded)
}
