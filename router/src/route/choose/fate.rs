//! Owns what becomes of a way: it works, or it fails, and what follows from that.
use super::way::{State, backoff, chain};
use super::{Ask, Env, FLOWS, RTT_GUESS, Routes, Todo};
use crate::audit::locate::Search;
use crate::time::Duration;
use crate::wire::data::split_port;

impl Routes {
    /// What was live is no longer known to be.
    pub(super) fn doubt(&mut self) {
        for way in self.ways.iter_mut().filter(|way| way.state == State::Live && !way.is_direct()) {
            way.state = State::Fresh;
        }
    }

    /// A sign of life came by that way.
    pub(super) fn works(&mut self, id: u8, env: &mut Env<'_>) {
        let now = env.now;
        if id == 0 {
            return;
        }
        let mtu = self.mtus();
        let Some(way) = self.ways.iter_mut().find(|way| way.id == id) else { return };
        let was = std::mem::replace(&mut way.state, State::Live);
        self.turn = way.gauge.turn();
        if was != State::Live {
            let nodes = chain(self.me, &way.path.nodes);
            env.blame.answered(&nodes, now);
            self.blame.answered(&nodes, now);
            self.searches = 0;
            self.rung = 0;
            self.review(now);
            if self.mtus() != mtu {
                self.todo.push(Todo::Mtu);
            }
        }
    }

    /// Nothing comes back by that way.
    pub(super) fn fail(&mut self, id: u8, silent: bool, env: &mut Env<'_>) {
        let now = env.now;
        self.asks.retain(|ask| ask.way != id);
        self.todo.push(Todo::Again(id));
        if id == 0 {
            self.trees.forgive();
            if silent {
                self.trees.set_turn(self.trees.turn().wrapping_add(1));
                self.todo.push(Todo::DoubtTrees(self.mask(env.trees)));
            }
            // All together, then each alone.
            self.rung = (self.rung + 1) % (1 + env.trees.count_ones().max(1) as u8);
            self.search(env);
            return;
        }
        let mtu = self.mtus();
        let Some(way) = self.ways.iter_mut().find(|way| way.id == id) else { return };
        way.gauge.forgive();
        if silent {
            // Perhaps somebody there drops some flows only: the next question is another one.
            way.gauge.set_turn(way.gauge.turn().wrapping_add(1));
        }
        let was = way.state;
        let times = if let State::Failed { times, .. } = was { times + 1 } else { 1 };
        way.state = State::Failed { times, again: now + backoff(times) };
        if silent && times <= TURNS_AT_ONCE {
            self.todo.push(Todo::Ask(id));
        }
        if silent && was == State::Live && !way.is_direct() {
            let first = split_port(&way.path.ports).ok().flatten();
            self.todo.extend(first.map(|(port, _)| Todo::Doubt(port)));
        }
        if silent && !way.path.nodes.is_empty() {
            let nodes = chain(self.me, &way.path.nodes);
            env.blame.failed(&nodes, now);
            self.blame.failed(&nodes, now);
            if self.search.is_none() && was != State::Fresh {
                let (ports, patience) = (way.path.ports.clone(), way.gauge.patience(RTT_GUESS));
                self.search = Search::new(nodes, &ports, patience).map(Box::new);
            }
        }
        let carried = self.carries(id);
        for flow in 0..FLOWS {
            if self.flows[flow].known && self.flows[flow].way == id {
                let next = self.best(0).map_or(0, |at| self.ways[at].id);
                self.flows[flow].way = next;
                if flow == 0 {
                    self.todo.push(Todo::Moved);
                }
            }
        }
        self.rebuild |= self.view.is_some();
        if carried {
            // The others are asked at once: one of them is needed now.
            let others =
                self.ways.iter().filter(|way| way.id != id && way.state != State::Live).map(|way| way.id);
            self.todo.extend(others.map(Todo::Ask).collect::<Vec<_>>());
            if !self.ways.iter().any(|way| way.state == State::Live) {
                self.search(env);
            }
        }
        if self.mtus() != mtu {
            self.todo.push(Todo::Mtu);
        }
    }

    pub(super) fn on_asks_late(&mut self, env: &mut Env<'_>) {
        let now = env.now;
        let mut late = Vec::new();
        let patience: Vec<Duration> = self.asks.iter().map(|ask| self.ask_patience(ask)).collect();
        let mut at = 0;
        self.asks.retain(|ask| {
            let over = ask.sent_at + patience[at] <= now;
            at += 1;
            if over {
                late.push(ask.way);
            }
            !over
        });
        late.sort_unstable();
        late.dedup();
        for id in late.into_iter().filter(|&id| id != 0) {
            self.fail(id, true, env);
        }
    }

    pub(super) fn ask_patience(&self, ask: &Ask) -> Duration {
        let guess = self.guess();
        match self.way(ask.way) {
            None => self.trees.patience(guess),
            // Nothing was measured of it but what its hops said.
            Some(way) if way.gauge.srtt().is_none() => {
                way.gauge.patience(guess.max(Duration::from_millis(2 * u64::from(way.path.cost))))
            }
            Some(way) => way.gauge.patience(guess),
        }
    }
}

/// A way that fell silent is asked so often under other indexes at once, then as [`backoff`] says.
const TURNS_AT_ONCE: u32 = 2;
