//! The two bounded queues between applications and the loop: commands in, packets of streams out.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::ready::Source;
use crate::id::NodeId;
use crate::router::Command;

/// Packets that wait to be sent: two turns of a busy loop. Whoever sends more is told to wait, not dropped.
const COMMANDS_MAX: usize = 512;
/// Their bytes: a window of one bulk stream.
const COMMAND_BYTES_MAX: usize = 1 << 20;
/// Commands without a payload (lookups and the like) that wait; their callers have bounds of their own.
const PLAIN_COMMANDS_MAX: usize = 4 * COMMANDS_MAX;
/// Packets that wait to be received. What comes on top is dropped and counted, as a full UDP socket does.
const RECEIVED_MAX: usize = 4096;
/// Their bytes.
const RECEIVED_BYTES_MAX: usize = 4 << 20;
/// Tasks that wait for room, at most: one per connection of the stream layer, and it has fewer.
const WAITING_MAX: usize = 1024;

/// Commands on their way to the loop.
#[derive(Debug)]
pub(crate) struct Commands {
    source: Arc<Source>,
    inner: Mutex<CommandsInner>,
}

#[derive(Debug, Default)]
struct CommandsInner {
    queue: Vec<Command>,
    packets: usize,
    bytes: usize,
    waiting: Vec<Waker>,
    closed: bool,
}

/// Why a command was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Full,
    Closed,
}

impl CommandsInner {
    fn full(&self) -> bool {
        self.packets >= COMMANDS_MAX || self.bytes >= COMMAND_BYTES_MAX
    }
}

impl Commands {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self { source, inner: Mutex::default() }
    }

    /// Hands a command over; one with a payload only while there is room for payloads.
    pub(crate) fn push(&self, command: Command) -> Result<(), Refused> {
        let bytes = match &command {
            Command::Send { payload, .. } | Command::SendToAddress { payload, .. } => Some(payload.len()),
            _ => None,
        };
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Refused::Closed);
        }
        match bytes {
            Some(_) if inner.full() => return Err(Refused::Full),
            Some(bytes) => {
                inner.packets += 1;
                inner.bytes += bytes;
            }
            None if inner.queue.len() >= PLAIN_COMMANDS_MAX => return Err(Refused::Full),
            None => {}
        }
        inner.queue.push(command);
        drop(inner);
        self.source.mark();
        Ok(())
    }

    /// Ready once a payload would be taken; also when the loop has ended, so that nobody waits for ever.
    pub(crate) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = lock(&self.inner);
        if inner.closed || !inner.full() || inner.waiting.len() >= WAITING_MAX {
            return Poll::Ready(());
        }
        if !inner.waiting.iter().any(|w| w.will_wake(cx.waker())) {
            inner.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Takes all commands; `out` is empty before.
    pub(crate) fn take(&self, out: &mut Vec<Command>) {
        debug_assert!(out.is_empty());
        self.source.begin();
        let mut inner = lock(&self.inner);
        std::mem::swap(&mut inner.queue, out);
        (inner.packets, inner.bytes) = (0, 0);
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }

    /// The loop has ended.
    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.queue.clear();
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Packets of [`crate::Channel::Stream`] on their way to the application.
#[derive(Debug, Default)]
pub(crate) struct Received {
    inner: Mutex<ReceivedInner>,
}

#[derive(Debug, Default)]
struct ReceivedInner {
    queue: VecDeque<(NodeId, Bytes)>,
    bytes: usize,
    dropped: u64,
    waiting: Option<Waker>,
    closed: bool,
}

impl Received {
    /// Hands over what one turn of the loop received; `from` is empty afterwards.
    pub(crate) fn push(&self, from: &mut Vec<(NodeId, Bytes)>) {
        let mut inner = lock(&self.inner);
        for (node, payload) in from.drain(..) {
            if inner.queue.len() >= RECEIVED_MAX || inner.bytes + payload.len() > RECEIVED_BYTES_MAX {
                inner.dropped += 1;
                continue;
            }
            inner.bytes += payload.len();
            inner.queue.push_back((node, payload));
        }
        let waiting = inner.waiting.take();
        drop(inner);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }

    /// Moves up to `max` packets to the end of `out`; ready with 0 only when the loop has ended.
    pub(crate) fn poll(&self, cx: &Context<'_>, out: &mut Vec<(NodeId, Bytes)>, max: usize) -> Poll<usize> {
        let mut inner = lock(&self.inner);
        if inner.queue.is_empty() {
            if inner.closed {
                return Poll::Ready(0);
            }
            match &mut inner.waiting {
                Some(waiting) => waiting.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            return Poll::Pending;
        }
        let count = inner.queue.len().min(max.max(1));
        out.extend(inner.queue.drain(..count));
        let taken: usize = out[out.len() - count..].iter().map(|(_, p)| p.len()).sum();
        inner.bytes -= taken;
        Poll::Ready(count)
    }

    /// Packets dropped since the application did not take them in time.
    pub(crate) fn dropped(&self) -> u64 {
        lock(&self.inner).dropped
    }

    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        let waiting = inner.waiting.take();
        drop(inner);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

/// The data stays whole if a holder panicked: every change above is complete before anything can.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::ready::{ReadySet, Token};
    use crate::router::Channel;

    fn packet(bytes: usize) -> Command {
        let to = NodeId::from_bytes([1; 32]);
        Command::Send { to, channel: Channel::Stream, payload: Bytes::from(vec![0; bytes]) }
    }

    #[test]
    fn commands_are_bounded_and_room_is_told() {
        let set = Arc::new(ReadySet::default());
        let commands = Commands::new(Source::new(Token::Commands, &set));
        let cx = &Context::from_waker(Waker::noop());
        while commands.push(packet(1000)).is_ok() {}
        assert_eq!(commands.push(packet(1)), Err(Refused::Full));
        assert!(commands.poll_room(cx).is_pending());
        // What carries no payload still gets through.
        commands.push(Command::CloseLink { link: crate::id::LinkId(1) }).unwrap();
        let mut out = Vec::new();
        commands.take(&mut out);
        assert_eq!(out.len(), COMMANDS_MAX + 1);
        assert!(commands.poll_room(cx).is_ready());
        while commands.push(packet(60_000)).is_ok() {}
        out.clear();
        commands.take(&mut out);
        assert!(out.len() * 60_000 < COMMAND_BYTES_MAX + 60_000);
        commands.close();
        assert_eq!(commands.push(packet(1)), Err(Refused::Closed));
    }

    #[test]
    fn received_packets_are_bounded() {
        let received = Received::default();
        let cx = &Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        assert!(received.poll(cx, &mut out, 8).is_pending());
        let node = NodeId::from_bytes([1; 32]);
        let mut batch: Vec<_> = (0..RECEIVED_MAX + 5).map(|_| (node, Bytes::from_static(b"abc"))).collect();
        received.push(&mut batch);
        assert_eq!(received.dropped(), 5);
        assert_eq!(received.poll(cx, &mut out, 8), Poll::Ready(8));
        assert_eq!(received.poll(cx, &mut out, usize::MAX), Poll::Ready(RECEIVED_MAX - 8));
        assert_eq!(lock(&received.inner).bytes, 0);
        assert!(received.poll(cx, &mut out, 8).is_pending());
        received.close();
        assert_eq!(received.poll(cx, &mut out, 8), Poll::Ready(0));
    }
}
