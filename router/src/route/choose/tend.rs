//! Owns what time brings to ways: questions that are due, patience that ends.
use super::super::gauge::Gauge;
use super::way::{State, backoff};
use super::{Env, REFRESH, Routes, Todo};
use crate::time::{Duration, Instant};

impl Routes {
    /// Is there something to do?
    pub fn has_todo(&self) -> bool {
        !self.todo.is_empty()
    }

    /// The next thing to do. O(1).
    pub fn poll(&mut self) -> Option<Todo> {
        self.todo.pop()
    }

    /// When [`Self::handle_timeout`] is wanted.
    pub fn deadline(&self) -> Option<Instant> {
        let guess = self.guess();
        let asked = |id: u8| self.asks.iter().any(|ask| ask.way == id);
        let due = |id: u8, gauge: &Gauge| {
            let ask = if asked(id) { None } else { gauge.ask_at(guess) };
            [ask, gauge.fail_at(guess)].into_iter().flatten().min()
        };
        let active = self.is_active_until();
        let ways = self.ways.iter().flat_map(|way| {
            let again = match way.state {
                State::Failed { again, .. } => Some(again),
                State::Live if self.carries(way.id) => Some(way.asked_at + ASK_USED),
                State::Live => Some(way.asked_at + ASK_SPARE),
                State::Fresh => None,
            };
            [due(way.id, &way.gauge), again.filter(|&at| at < active)]
        });
        let asks = self.asks.iter().map(|ask| Some(ask.sent_at + self.ask_patience(ask)));
        let refresh = self.refreshed_at.map(|at| at + REFRESH).filter(|&at| at < active);
        let now_if = |wanted: bool| wanted.then_some(Instant::ZERO);
        ways.chain(asks)
            .chain([self.search.as_ref().map(|search| search.deadline())])
            .chain([due(0, &self.trees), refresh, now_if(self.rebuild || !self.todo.is_empty())])
            .flatten()
            .min()
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, env: &mut Env<'_>) {
        self.sync(env);
        if std::mem::take(&mut self.rebuild) {
            self.build(env);
        }
        self.on_asks_late(env);
        if self.search.as_ref().is_some_and(|search| search.deadline() <= env.now) {
            self.probe(env);
        }
        let (now, guess) = (env.now, self.guess());
        let ids: Vec<u8> = std::iter::once(0).chain(self.ways.iter().map(|way| way.id)).collect();
        for id in ids {
            let Some(gauge) = self.gauge(id) else { continue };
            let (ask, fail) = (gauge.ask_at(guess), gauge.fail_at(guess));
            if fail.is_some_and(|at| at <= now) {
                self.fail(id, true, env);
            } else if ask.is_some_and(|at| at <= now) && !self.asks.iter().any(|ask| ask.way == id) {
                self.todo.push(Todo::Ask(id));
            }
        }
        if now < self.is_active_until() {
            for at in 0..self.ways.len() {
                let (id, asked_at) = (self.ways[at].id, self.ways[at].asked_at);
                let due = match self.ways[at].state {
                    State::Failed { again, .. } => again <= now,
                    State::Live if self.carries(id) => asked_at + ASK_USED <= now,
                    State::Live => asked_at + ASK_SPARE <= now,
                    State::Fresh => false,
                };
                if due && !self.asks.iter().any(|ask| ask.way == id) {
                    if let State::Failed { times, .. } = self.ways[at].state {
                        self.ways[at].state = State::Failed { times, again: now + backoff(times) };
                    }
                    self.todo.push(Todo::Ask(id));
                }
            }
            if self.refreshed_at.is_some_and(|at| at + REFRESH <= now) {
                self.search(env);
            }
        }
    }
}

/// A way that carries packets is measured so often.
const ASK_USED: Duration = Duration::from_secs(5);
/// One that is kept ready.
const ASK_SPARE: Duration = Duration::from_secs(20);
