//! Who has something for the loop: sources mark themselves, the loop takes all marks at once.
//!
//! A source is marked at most once until the loop has looked at it, so a flood of wake-ups costs one turn of the loop
//! and the list is never longer than there are sources.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use crate::id::LinkId;

/// What can have something for the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    /// A link's connection can be read or written.
    Link(LinkId),
    /// The TUN can be read.
    Tun,
    /// Commands wait in the handle's queue.
    Commands,
    /// Requests wait in a channel.
    Requests,
}

/// The marks.
#[derive(Debug, Default)]
pub(crate) struct ReadySet {
    inner: Mutex<Marks>,
}

#[derive(Debug, Default)]
struct Marks {
    marked: Vec<Token>,
    waiting: Option<Waker>,
}

impl ReadySet {
    /// Ready while something is marked. One task may wait.
    pub(crate) fn poll_marked(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if !inner.marked.is_empty() {
            return Poll::Ready(());
        }
        match &mut inner.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }

    /// Whether something is marked.
    pub(crate) fn is_marked(&self) -> bool {
        !self.lock().marked.is_empty()
    }

    /// Moves all marks to the end of `out`.
    pub(crate) fn take(&self, out: &mut Vec<Token>) {
        out.append(&mut self.lock().marked);
    }

    fn mark(&self, token: Token) {
        let mut inner = self.lock();
        inner.marked.push(token);
        let waiting = inner.waiting.take();
        drop(inner);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One source's mark; as a [`Waker`] it is what the runtime wakes.
#[derive(Debug)]
pub(crate) struct Source {
    token: Token,
    set: Arc<ReadySet>,
    marked: AtomicBool,
}

impl Source {
    pub(crate) fn new(token: Token, set: &Arc<ReadySet>) -> Arc<Self> {
        Arc::new(Self { token, set: Arc::clone(set), marked: AtomicBool::new(false) })
    }

    /// Marks the source, once.
    pub(crate) fn mark(&self) {
        if !self.marked.swap(true, Ordering::AcqRel) {
            self.set.mark(self.token);
        }
    }

    /// The loop is about to look: from now on the source may be marked again.
    pub(crate) fn begin(&self) {
        self.marked.store(false, Ordering::Release);
    }

    pub(crate) fn waker(self: &Arc<Self>) -> Waker {
        Waker::from(Arc::clone(self))
    }
}

impl Wake for Source {
    fn wake(self: Arc<Self>) {
        self.mark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.mark();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_once() {
        let set = Arc::new(ReadySet::default());
        let (a, b) = (Source::new(Token::Tun, &set), Source::new(Token::Link(LinkId(7)), &set));
        a.waker().wake_by_ref();
        a.waker().wake();
        b.mark();
        assert!(set.is_marked());
        let mut taken = Vec::new();
        set.take(&mut taken);
        assert_eq!(taken, [Token::Tun, Token::Link(LinkId(7))]);
        a.begin();
        a.mark();
        b.mark(); // not begun: still the loop's
        assert!(set.is_marked());
        taken.clear();
        set.take(&mut taken);
        assert_eq!(taken, [Token::Tun]);
        assert!(set.poll_marked(&Context::from_waker(Waker::noop())).is_pending());
    }
}
