//! Owns where ways come from: searches for them, and the paths of the view.
use super::super::gauge::Gauge;
use super::super::view::Path;
use super::way::{State, Way, payload_max};
use super::{Env, Routes, Todo};
use crate::audit::locate::Blame;
use crate::id::Sid;
use crate::time::{Duration, Instant};
use crate::wire::body::sealed::{ROUTE_BACK, ROUTE_TREES};
use crate::wire::data::split_port;
use bytes::Bytes;

impl Routes {
    /// The application has sent a packet: from the second one on it is worth while to look for ways.
    pub fn wish(&mut self, env: &mut Env<'_>) {
        if self.used >= 2 && self.refreshed_at.is_none() {
            self.search(env);
        }
    }

    /// Follows changes of the node's links: what began with one that is gone is over.
    pub(super) fn sync(&mut self, env: &Env<'_>) {
        if self.epoch == env.epoch {
            return;
        }
        self.epoch = env.epoch;
        let alive = |way: &Way| {
            let first = split_port(&way.path.ports).ok().flatten().map(|(port, _)| port);
            env.neighbours.values().any(|&(port, _)| Some(port) == first)
        };
        self.ways.retain(alive);
        if env.neighbours.contains_key(&self.there) || self.view.is_some() {
            self.build(env);
        }
    }

    pub(super) fn make(&mut self, path: Path, now: Instant) -> Way {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            if !matches!(self.next_id, ROUTE_TREES | ROUTE_BACK) && self.way(self.next_id).is_none() {
                break;
            }
        }
        let mtu = payload_max(&path);
        let mut gauge = Gauge::default();
        gauge.set_turn(self.turn);
        Way { id: self.next_id, path, mtu, state: State::Fresh, gauge, asked_at: now }
    }

    /// Ways that have not failed, made anew if something was learned, the best first: for a handshake that gets no answer.
    /// `silent`: those that its latest repetition took in vain.
    pub fn untried(&mut self, silent: &[u8], env: &mut Env<'_>) -> Vec<(u8, Bytes)> {
        for &id in silent {
            if self.way(id).is_some_and(|way| way.state == State::Fresh) {
                self.fail(id, true, env);
            }
        }
        if std::mem::take(&mut self.rebuild) {
            self.build(env);
        }
        let mut ways: Vec<&Way> =
            self.ways.iter().filter(|way| !matches!(way.state, State::Failed { .. })).collect();
        ways.sort_by(|a, b| a.score().total_cmp(&b.score()));
        ways.iter().map(|way| (way.id, way.path.ports.clone())).collect()
    }

    /// Makes ways from what is known now. Those that are still good, or carry something, stay.
    pub(super) fn build(&mut self, env: &Env<'_>) {
        let now = env.now;
        let mtu = self.mtus();
        let mut paths = self.view.as_ref().map_or(Vec::new(), |view| {
            let dear = |from: &Sid, to: &Sid, _: u8| {
                Blame::dear(env.blame.of(from, to, now).max(self.blame.of(from, to, now)))
            };
            view.paths(env.neighbours, WAYS_WANTED, dear, now)
        });
        match env.neighbours.get(&self.there) {
            Some(&(port, span)) if !paths.iter().any(|path| path.nodes.len() == 1) => {
                let mut ports = Vec::with_capacity(3);
                crate::wire::Writer::put_port(&mut ports, port);
                let nodes = vec![self.there];
                let frame_max = span.frame_max();
                paths.insert(0, Path { ports: ports.into(), nodes, cost: span.cost.into(), frame_max });
            }
            None if self.view.is_none() => return,
            _ => {}
        }
        let mut wanted = Vec::with_capacity(paths.len());
        for path in paths {
            if let Some(way) = self.ways.iter_mut().find(|way| way.path.ports == path.ports) {
                let size = payload_max(&path);
                if way.path.nodes.is_empty() {
                    way.mtu = size;
                }
                way.path = path;
                wanted.push(way.id);
                continue;
            }
            let mut way = self.make(path, now);
            if way.is_direct() {
                way.state = State::Live;
                way.gauge.begin(Duration::from_millis(2 * u64::from(way.path.cost)));
            } else {
                self.todo.push(Todo::Ask(way.id));
            }
            wanted.push(way.id);
            self.ways.push(way);
        }
        let carrying: Vec<u8> = self.flows.iter().filter(|flow| flow.known).map(|flow| flow.way).collect();
        let fresh = self.ways.iter().any(|way| wanted.contains(&way.id) && way.state == State::Live);
        self.ways.retain(|way| {
            // What carries something does so until there is something better.
            wanted.contains(&way.id) || way.state == State::Live && (carrying.contains(&way.id) || !fresh)
        });
        self.limit();
        self.review(now);
        if self.mtus() != mtu {
            self.todo.push(Todo::Mtu);
        }
    }

    /// At most [`WAYS_MAX`]: the worst goes.
    pub(super) fn limit(&mut self) {
        while self.ways.len() > WAYS_MAX {
            let rank = |way: &Way| (way.state == State::Live, self.carries(way.id), way.id);
            let Some(worst) = (0..self.ways.len()).min_by_key(|&at| rank(&self.ways[at])) else { return };
            self.ways.swap_remove(worst);
        }
    }

    /// Looks for ways: by all trees together, and by each alone.
    pub(super) fn search(&mut self, env: &Env<'_>) {
        let only = env.neighbours.len() == 1 && env.neighbours.contains_key(&self.there);
        if env.now < self.search_after || only {
            return;
        }
        self.search_after = env.now + SEARCH_GAP * (1 << self.searches.min(4));
        self.searches += 1;
        if self.searches >= MAP_AFTER && !self.ways.iter().any(|way| way.state == State::Live) {
            self.todo.push(Todo::Map);
        }
        self.refreshed_at = Some(env.now);
        self.todo.push(Todo::Record(u8::MAX));
        let mut left = env.trees;
        while left != 0 {
            self.todo.push(Todo::Record(left & left.wrapping_neg()));
            left &= left - 1;
        }
    }
}

/// Searches in vain before the map is asked.
const MAP_AFTER: u32 = 2;
/// Diverse paths that are kept ready.
const WAYS_WANTED: usize = 4;
/// Ways in all: those, and what they are replacing.
const WAYS_MAX: usize = 6;
/// No two searches within that time, and twice as long after each in vain, up to 16 times.
const SEARCH_GAP: Duration = Duration::from_secs(2);
