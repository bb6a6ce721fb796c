//! The lists that multicast neighbours show of themselves: pulled over the overlay, checked, kept in memory.
//!
//! A list is pulled when its node appears and again when somebody searches, at most every [`FRESH`]; a node that says
//! nothing costs nothing. What somebody types never leaves this node.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use router::{
    NodeId,
    net::{Node, NodeEvent},
};
use ruma::{OwnedRoomId, OwnedServerName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{Notify, broadcast::error::RecvError};
use tokio_util::sync::CancellationToken;

use super::{Neighbours, Person};
use crate::remote::Remote;

/// People in one list.
pub const PEOPLE_MAX: usize = 20;
/// Rooms in one list.
pub const ROOMS_MAX: usize = 50;
/// Largest list in bytes.
const LIST_LEN_MAX: usize = 256 << 10;
/// Neighbours whose lists are kept; a hall full of people has more, and a client shows fewer.
const NODES_MAX: usize = 128;
/// Lists pulled at the same time.
const PULL_PARALLEL: usize = 8;
/// How old a list may be before a search asks for it again.
const FRESH: Duration = Duration::from_secs(3);
/// How long a search waits for newer lists.
const PATIENCE: Duration = Duration::from_millis(400);
/// How long one pull may take.
const PULL_TIMEOUT: Duration = Duration::from_secs(5);
/// First pause before a pull that failed is tried again while nobody searches; it doubles up to [`STALE`].
const RETRY: Duration = Duration::from_secs(5);
/// A list is asked for again after this time even if nobody searches.
const STALE: Duration = Duration::from_secs(600);

/// What a node shows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct List {
    /// Its server name.
    pub server_name: OwnedServerName,
    /// Its people.
    #[serde(default)]
    pub people: Vec<Person>,
    /// Its public rooms: `PublicRoomsChunk` objects.
    #[serde(default)]
    pub rooms: Vec<Box<RawValue>>,
}

struct Kept {
    list: Option<List>,
    at: Instant,
}

/// The lists of the nodes next door.
pub struct NextDoor {
    remote: Remote,
    node: Node,
    kept: Mutex<BTreeMap<NodeId, Kept>>,
    wanted: Notify,
    pulled: Notify,
}

impl NextDoor {
    /// No lists yet: [`Self::run`] pulls them.
    pub fn new(remote: Remote, node: Node) -> Arc<Self> {
        Arc::new(Self { remote, node, kept: Mutex::default(), wanted: Notify::new(), pulled: Notify::new() })
    }

    /// Pulls lists until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let mut events = self.node.events();
        let mut retry = RETRY;
        loop {
            let failed = self.pull().await;
            self.pulled.notify_waiters();
            let due = if failed { retry } else { STALE };
            retry = retry.saturating_mul(2).min(STALE);
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.wanted.notified() => break,
                    () = tokio::time::sleep(due) => break,
                    event = events.recv() => match event {
                        Ok(NodeEvent::PeerUp { multicast: true, .. } | NodeEvent::PeerDown { .. })
                        | Err(RecvError::Lagged(_)) => {
                            retry = RETRY;
                            break;
                        }
                        Ok(_) => {}
                        Err(RecvError::Closed) => return,
                    },
                }
            }
        }
    }

    /// Pulls what is missing or old; true if somebody did not answer.
    async fn pull(&self) -> bool {
        let mut nodes = self.node.neighbours();
        nodes.truncate(NODES_MAX);
        let due: Vec<NodeId> = {
            let mut kept = self.kept();
            kept.retain(|node, _| nodes.contains(node));
            let fresh = |node: &NodeId| {
                kept.get(node).is_some_and(|kept| kept.list.is_some() && kept.at.elapsed() < FRESH)
            };
            nodes.into_iter().filter(|node| !fresh(node)).collect()
        };
        let pulls = stream::iter(due).map(|node| async move { (node, self.pull_from(node).await) });
        let mut pulls = pulls.buffer_unordered(PULL_PARALLEL);
        let mut failed = false;
        while let Some((node, list)) = pulls.next().await {
            failed |= list.is_none();
            let mut kept = self.kept();
            // A node that does not answer once is not gone: its link is still up.
            let before = kept.remove(&node).and_then(|kept| kept.list);
            kept.insert(node, Kept { list: list.or(before), at: Instant::now() });
        }
        failed
    }

    async fn pull_from(&self, node: NodeId) -> Option<List> {
        let path = crate::api::x::NEIGHBOURS_PATH;
        let body = match self.remote.get_from_node(node, path, LIST_LEN_MAX, PULL_TIMEOUT).await {
            Ok(body) => body,
            Err(error) => {
                tracing::debug!(%node, %error, "a neighbour shows no list");
                return None;
            }
        };
        let mut list: List = match serde_json::from_slice(&body) {
            Ok(list) => list,
            Err(error) => {
                tracing::debug!(%node, %error, "a neighbour's list cannot be read");
                return None;
            }
        };
        // Nobody lists people in another's name.
        let keys = self.remote.keyring().keys_at(&list.server_name, node).await.ok()?;
        if !keys.nodes().any(|own| own == node) {
            tracing::debug!(%node, server = %list.server_name, "a neighbour's list is in another's name");
            return None;
        }
        list.people.retain(|person| person.user_id.server_name() == list.server_name);
        list.people.truncate(PEOPLE_MAX);
        list.rooms.retain(|room| room_id(room).is_some());
        list.rooms.truncate(ROOMS_MAX);
        for room in list.rooms.iter().filter_map(|room| room_id(room)) {
            self.remote.note_room(room, list.server_name.clone());
        }
        Some(list)
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<NodeId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Neighbours for NextDoor {
    fn people(&self) -> Vec<Person> {
        let kept = self.kept();
        kept.values().filter_map(|kept| kept.list.as_ref()).flat_map(|list| list.people.clone()).collect()
    }

    fn rooms(&self) -> Vec<Box<RawValue>> {
        let kept = self.kept();
        kept.values().filter_map(|kept| kept.list.as_ref()).flat_map(|list| list.rooms.clone()).collect()
    }

    fn refresh(&self) -> BoxFuture<'_, ()> {
        async move {
            let old = {
                let kept = self.kept();
                let fresh = |node| kept.get(node).is_some_and(|kept| kept.at.elapsed() < FRESH);
                !self.node.neighbours().iter().all(fresh)
            };
            if old {
                let pulled = self.pulled.notified();
                self.wanted.notify_one();
                // Whoever is slower is in the next search.
                let _ = tokio::time::timeout(PATIENCE, pulled).await;
            }
        }
        .boxed()
    }
}

fn room_id(room: &RawValue) -> Option<OwnedRoomId> {
    #[derive(Deserialize)]
    struct Room {
        room_id: OwnedRoomId,
    }
    serde_json::from_str::<Room>(room.get()).ok().map(|room| room.room_id)
}
