//! Questions that the router has not answered yet.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::Unreachable;
use crate::id::{NodeId, Sid};
use crate::lookup::AccountRecord;

/// Questions of this node's own applications at one time; the next ones are told that the node is busy.
const ASKED_MAX: usize = 4096;

/// A hop and the time to it and back, if it answered.
pub(crate) type Traced = (Sid, Option<Duration>);

/// Who waits for which answer.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

#[derive(Debug)]
enum Waiting {
    Lookup(oneshot::Sender<Result<NodeId, Unreachable>>),
    Ping(oneshot::Sender<Result<Duration, Unreachable>>),
    /// The driver itself: does a packet of some size arrive?
    Size,
    Account(oneshot::Sender<Vec<AccountRecord>>),
    Trace(oneshot::Sender<Vec<Traced>>),
}

/// An answer whose asker has gone goes nowhere, in all of these.
impl Asked {
    pub(crate) fn lookup(&mut self, answer: oneshot::Sender<Result<NodeId, Unreachable>>) -> Option<u64> {
        if self.full() {
            let _ = answer.send(Err(Unreachable::Busy));
            return None;
        }
        Some(self.wait(Waiting::Lookup(answer)))
    }

    pub(crate) fn ping(&mut self, answer: oneshot::Sender<Result<Duration, Unreachable>>) -> Option<u64> {
        if self.full() {
            let _ = answer.send(Err(Unreachable::Busy));
            return None;
        }
        Some(self.wait(Waiting::Ping(answer)))
    }

    pub(crate) fn account(&mut self, answer: oneshot::Sender<Vec<AccountRecord>>) -> Option<u64> {
        if self.full() {
            let _ = answer.send(Vec::new());
            return None;
        }
        Some(self.wait(Waiting::Account(answer)))
    }

    pub(crate) fn trace(&mut self, answer: oneshot::Sender<Vec<Traced>>) -> Option<u64> {
        if self.full() {
            let _ = answer.send(Vec::new());
            return None;
        }
        Some(self.wait(Waiting::Trace(answer)))
    }

    pub(crate) fn traced(&mut self, id: u64, hops: Vec<Traced>) {
        if let Some(Waiting::Trace(answer)) = self.waiting.remove(&id) {
            let _ = answer.send(hops);
        }
    }

    pub(crate) fn looked_up(&mut self, id: u64, result: Result<NodeId, Unreachable>) {
        if let Some(Waiting::Lookup(answer)) = self.waiting.remove(&id) {
            let _ = answer.send(result);
        }
    }

    /// A question of the driver itself.
    pub(crate) fn size(&mut self) -> Option<u64> {
        if self.full() { None } else { Some(self.wait(Waiting::Size)) }
    }

    /// True: it was a question of the driver.
    pub(crate) fn pong(&mut self, id: u64, result: Result<Duration, Unreachable>) -> bool {
        match self.waiting.remove(&id) {
            Some(Waiting::Ping(answer)) => {
                let _ = answer.send(result);
                false
            }
            Some(Waiting::Size) => true,
            _ => false,
        }
    }

    pub(crate) fn found(&mut self, id: u64, records: Vec<AccountRecord>) {
        if let Some(Waiting::Account(answer)) = self.waiting.remove(&id) {
            let _ = answer.send(records);
        }
    }

    fn full(&mut self) -> bool {
        if self.waiting.len() >= ASKED_MAX {
            self.waiting.retain(|_, waiting| match waiting {
                Waiting::Lookup(answer) => !answer.is_closed(),
                Waiting::Ping(answer) => !answer.is_closed(),
                Waiting::Size => true,
                Waiting::Account(answer) => !answer.is_closed(),
                Waiting::Trace(answer) => !answer.is_closed(),
            });
        }
        self.waiting.len() >= ASKED_MAX
    }

    fn wait(&mut self, waiting: Waiting) -> u64 {
        self.next += 1;
        self.waiting.insert(self.next, waiting);
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_bounded_and_those_given_up_make_room() {
        let mut asked = Asked::default();
        let mut waiting = Vec::new();
        for _ in 0..ASKED_MAX {
            let (answer, answered) = oneshot::channel();
            assert!(asked.ping(answer).is_some());
            waiting.push(answered);
        }
        let (answer, mut answered) = oneshot::channel();
        assert_eq!(asked.lookup(answer), None);
        assert_eq!(answered.try_recv(), Ok(Err(Unreachable::Busy)));
        waiting.pop();
        let (answer, mut answered) = oneshot::channel();
        let id = asked.lookup(answer).expect("one has given up");
        asked.pong(id, Ok(Duration::ZERO)); // the wrong kind of answer ends it
        assert!(answered.try_recv().is_err());
    }
}
