//! Threads that the client has missed something of (MSC4360), and which the user follows (MSC4308).

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use super::{
    conn::bits,
    extensions::{Extend, Shown},
};
use crate::{
    room::{
        read::{
            json::{Viewer, client_event},
            thread_updates::updates,
        },
        thread::{self, Followed},
    },
    store::{Nid, Seq, StoreError, schema::events},
    sync::json::Writer,
};

/// The name of the extension about what is followed.
const FOLLOWED: &str = "io.element.msc4308.thread_subscriptions";
/// The name of the extension about what is new.
const UPDATES: &str = "io.element.msc4360.threads";
/// Threads in one response when the client does not say.
const LIMIT: u64 = 100;
/// Threads in one response at most.
const LIMIT_MAX: u64 = 500;

/// A thread as it is told: its root's id, the root, where to page back from.
type Told = (String, Option<Box<serde_json::value::RawValue>>, Option<String>);

impl Extend<'_> {
    /// What changed in the threads that the user follows: at first those that are followed, then what changes.
    pub(super) fn thread_subscriptions(
        &self,
        writer: &mut Writer,
        global: &mut u8,
    ) -> Result<bool, StoreError> {
        let asked = &self.context.ask.extensions.thread_subscriptions;
        let whole = *global & bits::FOLLOWED_THREADS == 0;
        *global |= bits::FOLLOWED_THREADS;
        let since = if whole { Seq(0) } else { self.context.since() };
        let limit = asked.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX) as u32;
        let (mut found, more) = thread::changes(self.tx, self.context.user, since, self.news.until, limit)?;
        if whole {
            found.retain(|one| one.sub.follows);
        }
        if found.is_empty() && more.is_none() {
            return Ok(false);
        }
        writer.key(FOLLOWED).object(|object| {
            for (key, follows) in [("subscribed", true), ("unsubscribed", false)] {
                let mut rooms: BTreeMap<&str, Vec<&Followed>> = BTreeMap::new();
                for one in found.iter().filter(|one| one.sub.follows == follows) {
                    rooms.entry(&one.room).or_default().push(one);
                }
                if rooms.is_empty() {
                    continue;
                }
                object.key(key).object(|object| {
                    for (room, threads) in &rooms {
                        object.key(room).object(|object| {
                            for Followed { root, sub, .. } in threads {
                                object.key(root.as_str()).object(|object| {
                                    if follows {
                                        object.key("automatic").bool(sub.automatic);
                                    }
                                    object.key("bump_stamp").number(sub.seq.0);
                                });
                            }
                        });
                    }
                });
            }
            if let Some(more) = more {
                object.key("prev_batch").string(&thread::token(more));
            }
        });
        Ok(true)
    }

    /// Threads with replies since the client's position. Without `include_roots` those of which the rooms' timelines show
    /// all that is new are left out. A client that begins has missed nothing yet.
    pub(super) fn threads(&self, writer: &mut Writer, shown: &[Shown<'_>]) -> Result<bool, StoreError> {
        let (tx, context, until) = (self.tx, self.context, self.news.until);
        let asked = &context.ask.extensions.threads;
        let roots = asked.include_roots.unwrap_or(false);
        let limit = asked.limit.unwrap_or(LIMIT).clamp(1, LIMIT_MAX) as usize;
        let Some(since) = context.token.map(|token| Seq(token.seq)) else { return Ok(false) };
        let told: HashMap<Nid, HashSet<Nid>> =
            shown.iter().map(|room| (room.room, room.events.iter().copied().collect())).collect();
        let (found, more) = updates(tx, context.user, since, until, limit, |update| {
            let missed = |told: &HashSet<Nid>| update.replies.iter().any(|reply| !told.contains(reply));
            roots || told.get(&update.room).is_none_or(missed)
        })?;
        let mut rooms: BTreeMap<Arc<str>, Vec<Told>> = BTreeMap::new();
        for update in found {
            let viewer = Viewer {
                user: context.user,
                device: Some(&context.device),
                room_id: false,
                now_ms: context.now_ms,
                joined: None,
            };
            let root = match events::event(tx, update.root)?.filter(|_| roots) {
                Some(root) => Some(client_event(tx, &root, &viewer)?),
                None => None,
            };
            let id = events::id(tx, update.root)?.to_string();
            let prev = update.prev.map(|token| token.to_string());
            rooms.entry(tx.text(update.room)?).or_default().push((id, root, prev));
        }
        if rooms.is_empty() {
            return Ok(false);
        }
        writer.key(UPDATES).object(|object| {
            object.key("updates").object(|object| {
                for (room, threads) in &rooms {
                    object.key(room).object(|object| {
                        for (id, root, prev) in threads {
                            object.key(id).object(|object| {
                                if let Some(root) = root {
                                    object.key("thread_root").raw(root.get().as_bytes());
                                }
                                if let Some(prev) = prev {
                                    object.key("prev_batch").string(prev);
                                }
                            });
                        }
                    });
                }
            });
            if let Some(more) = more {
                object.key("prev_batch").string(&thread::token(more));
            }
        });
        Ok(true)
    }
}
