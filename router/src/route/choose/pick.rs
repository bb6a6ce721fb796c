//! Owns the choice: the way of a packet, and which flow moves to another one.
use super::way::{LOAD_HIGH, State, Way};
use super::{Ask, Env, FLOWS, Flow, Pick, REFRESH, Routes, Todo};
use crate::config::MTU_MIN;
use crate::time::{Duration, Instant};
use bytes::Bytes;

impl Routes {
    /// The way of a packet of that flow.
    pub fn pick(&mut self, flow: usize, len: usize, env: &mut Env<'_>) -> Pick {
        self.sync(env);
        self.wake(env.now);
        let flow = flow % FLOWS;
        let Flow { way: current, known } = self.flows[flow];
        if current != 0
            && let Some(way) = self.ways.iter().find(|way| way.id == current)
            && way.state == State::Live
            && way.mtu >= len
        {
            return Pick::Way(way.id, way.path.ports.clone());
        }
        let best = self.best(len);
        let next = best.map_or(0, |at| self.ways[at].id);
        // A packet that is too large for its flow's way does not move the flow.
        let outsized = self.ways.iter().any(|way| way.id == current && way.state == State::Live);
        if !outsized {
            self.flows[flow] = Flow { way: next, known: true };
            if known && flow == 0 && current != next {
                self.todo.push(Todo::Moved);
            }
        }
        match best {
            Some(at) => Pick::Way(next, self.ways[at].path.ports.clone()),
            None => Pick::Trees(self.mask(env.trees)),
        }
    }

    /// The number of packets that went by a way before.
    pub fn sent(&self, id: u8) -> u32 {
        if id == 0 { self.trees.sent() } else { self.way(id).map_or(0, |way| way.gauge.sent()) }
    }

    /// Which of the other end's receiver indexes packets by a way bear.
    pub fn turn(&self, id: u8) -> u8 {
        if id == 0 { self.trees.turn() } else { self.way(id).map_or(self.turn, |way| way.gauge.turn()) }
    }

    /// A packet goes out by that way.
    pub fn on_sent(&mut self, id: u8, tail: [u8; 8], asks: bool, now: Instant) {
        if asks {
            self.used += 1;
            self.used_at = now;
        }
        if let Some(gauge) = self.gauge(id) {
            gauge.on_sent(tail, asks, now);
        }
    }

    /// A question goes out by that way.
    pub fn on_ask(&mut self, token: [u8; 8], id: u8, now: Instant) {
        let sent_then = self.sent(id);
        if self.asks.len() >= ASKS_MAX {
            self.asks.remove(0);
        }
        self.asks.push(Ask { token, way: id, sent_at: now, sent_then });
        if let Some(way) = self.ways.iter_mut().find(|way| way.id == id) {
            way.asked_at = now;
        }
    }

    /// The ports of a way.
    pub fn ports(&self, id: u8) -> Option<Bytes> {
        self.way(id).map(|way| way.path.ports.clone())
    }

    /// The trees for packets that no way takes.
    pub fn mask(&self, trees: u8) -> u8 {
        match self.rung {
            0 => u8::MAX,
            rung => {
                let mut left = trees;
                for _ in 1..rung {
                    left &= left.wrapping_sub(1);
                }
                if left == 0 { u8::MAX } else { left & left.wrapping_neg() }
            }
        }
    }

    /// Largest payloads that all live ways take, and the broadest of them; `None` without any. While a peer's own link
    /// lives, ways around it only stand by.
    pub fn mtus(&self) -> Option<(usize, usize)> {
        let live = || self.ways.iter().filter(|way| way.state == State::Live);
        let direct = live().find(|way| way.is_direct()).map(|way| (way.mtu, way.mtu));
        direct.or_else(|| Some((live().map(|way| way.mtu).min()?, live().map(|way| way.mtu).max()?)))
    }

    /// Do packets of streams take a live way now?
    pub fn rides(&self) -> bool {
        self.way(self.flows[0].way).is_some_and(|way| way.state == State::Live)
    }

    /// Does any way live?
    pub fn has_live(&self) -> bool {
        self.ways.iter().any(|way| way.state == State::Live)
    }

    /// Smoothed round trip of the way that streams take, if measured.
    pub fn rtt(&self) -> Option<Duration> {
        match self.flows[0].way {
            0 => self.trees.srtt(),
            id => self.way(id)?.gauge.srtt(),
        }
    }

    /// After a long silence nothing is known of the ways: the best are asked while the first packets go by the trees.
    fn wake(&mut self, now: Instant) {
        if now - self.used_at <= STALE || self.ways.is_empty() {
            return;
        }
        self.used_at = now;
        self.doubt();
        let mut fresh: Vec<&Way> = self.ways.iter().filter(|way| way.state == State::Fresh).collect();
        fresh.sort_by(|a, b| a.score().total_cmp(&b.score()));
        self.todo.extend(fresh.iter().take(WOKEN).map(|way| Todo::Ask(way.id)));
        if self.refreshed_at.is_some_and(|at| at + REFRESH <= now) {
            self.refreshed_at = None;
        }
    }

    /// The best live way for a packet of that length; if there is none and the trees do not answer, one not tried yet.
    pub(super) fn best(&self, len: usize) -> Option<usize> {
        let of = |state: State| {
            let fitting = (0..self.ways.len()).filter(move |&at| {
                self.ways[at].state == state && (self.ways[at].mtu >= len || len <= MTU_MIN)
            });
            fitting.min_by(|&a, &b| self.ways[a].score().total_cmp(&self.ways[b].score()))
        };
        let live = of(State::Live).map(|best| {
            // A new flow keeps out of what is crowded.
            let lighter =
                (0..self.ways.len()).filter(|&at| self.ways[at].is_lighter_than(&self.ways[best], len));
            lighter.min_by(|&a, &b| self.ways[a].score().total_cmp(&self.ways[b].score())).unwrap_or(best)
        });
        live.or_else(|| if self.rung > 0 { of(State::Fresh) } else { None })
    }

    /// Moves flows: to a way that is better by a quarter; and one of them away from a crowded way to one that carries less
    /// than half, at most every [`MOVE_GAP`].
    pub(super) fn review(&mut self, now: Instant) {
        for flow in 0..FLOWS {
            if !self.flows[flow].known {
                continue;
            }
            let id = self.flows[flow].way;
            let Some(best) = self.best(0) else { continue };
            let current = self.way(id).filter(|way| way.state == State::Live);
            let best = &self.ways[best];
            let (moves, crowded) = match current {
                None => (true, false),
                Some(way) if way.id == best.id => (false, false),
                Some(way) => {
                    let rested = now - self.moved_at >= MOVE_GAP;
                    let crowded = rested && best.is_lighter_than(way, 0);
                    // What has just been found is taken if it is better at all; later moves must be worth it.
                    let found = self.refreshed_at.is_some_and(|at| now - at <= FOUND);
                    let better = if found { BETTER_FOUND } else { BETTER };
                    (
                        crowded
                            || best.score() * better < way.score()
                                && best.gauge.load() <= way.gauge.load().max(LOAD_HIGH),
                        crowded,
                    )
                }
            };
            if moves {
                let id = best.id;
                self.flows[flow].way = id;
                if crowded {
                    self.moved_at = now;
                }
                if flow == 0 {
                    self.todo.push(Todo::Moved);
                }
            }
        }
    }
}

/// Questions under way: one for each way and its fresh paths, and the records of two searches.
const ASKS_MAX: usize = 24;
/// Ways that carried nothing for so long are not trusted: a node that moved tells only whom it talks to.
const STALE: Duration = Duration::from_secs(60);
/// So many of them are asked when packets go again.
const WOKEN: usize = 2;
/// A flow moves for a gain of a quarter.
const BETTER: f32 = 1.25;
/// Just after a search for less: it has to move once anyway.
const BETTER_FOUND: f32 = 1.05;
/// A search's results have come and are measured by then.
const FOUND: Duration = Duration::from_secs(3);
/// No flow leaves a crowded way within that time after another did.
const MOVE_GAP: Duration = Duration::from_secs(5);
