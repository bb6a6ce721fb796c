//! What the sender decides: who gets which rows of the outbox, when, again, or not at all. No I/O.
//!
//! ```text
//!                 rows                 stored                    acknowledged
//!   outbox ──────────────> queue ──────────────> flight ──────────────────────> gone
//!                            │   (Save: inflight)  │  ^
//!                            │                     └──┘ failed: back-off, sent again unchanged
//!                            └ longer than QUEUE_MAX: cut, loaded again when it has run empty
//! ```
//!
//! One stored mark is shared by all destinations that keep up: everything at or below it is done
//! with. A destination that fails gets a row of its own with a cursor, so the mark can move on.
//! A transaction is a range of the outbox; it is stored before it is sent for the first time, so
//! that after a crash the same range goes out under the same id.
//!
//! Drive it as every core here: one `handle_*`, then [`Core::poll_action`] until it has nothing
//! more, then wait for [`Core::poll_timeout`] or news. Each `poll_action` looks at every
//! destination once at most.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::store::{Nid, Seq};

/// spec: <https://spec.matrix.org/v1.19/server-server-api/#transactions>
pub const PDUS_MAX: usize = 50;
/// As [`PDUS_MAX`], for EDUs.
pub const EDUS_MAX: usize = 100;
/// Rows waiting in memory for one destination; the others stay in the outbox until it has caught up.
pub const QUEUE_MAX: usize = 1000;
/// Transactions under way at the same time. A server that takes a connection and never answers holds one for its whole
/// time-out: a hundred of those must leave room for the others (64 delayed one message by 30 s).
pub const SENDING_MAX: usize = 256;
/// Unstored EDUs (typing) waiting for one destination while another transaction of them is under way.
pub const EPHEMERAL_MAX: usize = 32;
/// First wait after a failure. It doubles with each one up to [`WAIT_MAX`].
pub const WAIT_FIRST: Duration = Duration::from_millis(500);
/// Longest wait. Short for a federation, but a lookup in the overlay is cheap.
pub const WAIT_MAX: Duration = Duration::from_secs(30);
/// How long acknowledged work may wait to be written down; a crash in between sends it twice.
pub const SAVE_DELAY: Duration = Duration::from_millis(500);
/// A transaction that the other side calls malformed is given up after so many attempts.
pub const POISON_TRIES: u32 = 5;
/// How far a destination may fall behind, in places of the commit order (weeks of a busy device), before its rows are
/// given up: a server that never comes back must not fill the disk. Events it finds by the gaps they leave.
pub const BEHIND_MAX: i64 = 2_000_000;
/// Destinations greeted at once after a start; the others follow one every [`GREET_STEP`].
pub const GREET_AT_ONCE: usize = 32;
/// See [`GREET_AT_ONCE`]. At most 60 s are spread.
pub const GREET_STEP: Duration = Duration::from_millis(250);
/// Rounds of greetings in a row: a start, and some networks that meet. One more is allowed each [`GREET_AGAIN`].
pub const GREETINGS_MAX: u32 = 4;
/// See [`GREETINGS_MAX`].
pub const GREET_AGAIN: Duration = Duration::from_secs(60);

/// One row of the outbox as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place.
    pub seq: Seq,
    /// A PDU, not an EDU.
    pub pdu: bool,
}

/// A range of the outbox that is one transaction to one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The destination.
    pub server: Nid,
    /// The transaction's id, the same at every attempt.
    pub txn: String,
    /// First row.
    pub first: Seq,
    /// Last row.
    pub last: Seq,
}

/// What is to be written down in one go.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Save {
    /// Transactions that are about to be sent for the first time.
    pub ranges: Vec<Range>,
    /// Destinations whose last transaction is done with.
    pub done: Vec<Nid>,
    /// Cursors of destinations that are behind; `None`: no longer behind.
    pub cursors: Vec<(Nid, Option<Seq>)>,
    /// Everything up to here is done with, but for destinations with a cursor.
    pub mark: Seq,
    /// Rows of the outbox up to here are needed by nobody.
    pub remove_upto: Seq,
}

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Write, then call [`Core::handle_saved`].
    Save(Save),
    /// Send a transaction, then call [`Core::handle_sent`].
    Send(Range),
    /// Send an empty transaction, then call [`Core::handle_greeted`].
    Greet(Nid),
    /// Send these EDUs once, then call [`Core::handle_ephemeral_sent`].
    Ephemeral(Nid, Vec<Box<str>>),
    /// Read the destination's rows after one place up to another, then call [`Core::handle_loaded`].
    Load {
        /// The destination.
        server: Nid,
        /// Rows after this one.
        after: Seq,
        /// Up to and with this one.
        upto: Seq,
    },
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other side has it.
    Done,
    /// Not reached, or it cannot take it now.
    Away {
        /// It said when to come again.
        retry_after: Option<Duration>,
    },
    /// It says that the transaction itself is wrong.
    Malformed,
}

/// A destination for which something waits, or that does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The destination.
    pub server: Nid,
    /// Rows in memory that wait for it.
    pub queued: usize,
    /// Further rows are in the outbox only.
    pub more: bool,
    /// A transaction is under way, or is to be sent again.
    pub under_way: bool,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Time to the next attempt, after a failure.
    pub retry_in: Option<Duration>,
}

#[derive(Debug)]
struct Flight {
    range: Range,
    state: FlightState,
    refused: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FlightState {
    /// In a Save that is not written yet.
    Storing,
    /// May be sent.
    Ready,
    /// Under way.
    Sending,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    No,
    From(Duration),
    Sending,
    /// Under way, and wanted once more if that attempt fails.
    Again,
}

#[derive(Debug)]
struct Dest {
    queue: VecDeque<Item>,
    /// Rows up to here are acknowledged, in flight or queued.
    taken: Seq,
    /// There are rows after `taken` that are only in the outbox.
    cut: bool,
    loading: bool,
    flight: Option<Flight>,
    failures: u32,
    retry_at: Option<Duration>,
    greeting: Greeting,
    /// The cursor as it is stored.
    row: Option<Seq>,
    /// An inflight row is stored for a transaction that is done with.
    stale_flight: bool,
    ephemeral: Vec<(Box<str>, Box<str>)>,
    ephemeral_sending: bool,
}

impl Dest {
    fn new(taken: Seq) -> Self {
        Self {
            queue: VecDeque::new(),
            taken,
            cut: false,
            loading: false,
            flight: None,
            failures: 0,
            retry_at: None,
            greeting: Greeting::No,
            row: None,
            stale_flight: false,
            ephemeral: Vec::new(),
            ephemeral_sending: false,
        }
    }

    /// The last row of which the destination has everything up to it.
    fn cursor(&self, seen: Seq) -> Seq {
        let first = self.flight.as_ref().map(|flight| flight.range.first);
        let first = first.or_else(|| self.queue.front().map(|item| item.seq));
        match first {
            Some(first) => Seq(first.0 - 1),
            None if self.cut => self.taken,
            None => seen,
        }
    }

    fn push(&mut self, item: Item) {
        if item.seq <= self.taken || self.cut {
            return;
        }
        if self.queue.len() >= QUEUE_MAX {
            self.cut = true;
            return;
        }
        self.queue.push_back(item);
        self.taken = item.seq;
    }

    /// Gives up what is too old.
    fn give_up(&mut self, seen: Seq) {
        let sending = self.flight.as_ref().is_some_and(|flight| flight.state != FlightState::Ready);
        if sending || self.loading || seen.0 - self.cursor(seen).0 <= BEHIND_MAX {
            return;
        }
        self.stale_flight |= self.flight.take().is_some();
        self.queue.clear();
        self.taken = seen;
        self.cut = false;
    }

    fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.flight.is_none()
            && !self.cut
            && self.row.is_none()
            && self.failures == 0
            && self.greeting == Greeting::No
            && !self.stale_flight
            && self.ephemeral.is_empty()
            && !self.ephemeral_sending
    }

    fn may_try(&self, now: Duration) -> bool {
        self.retry_at.is_none_or(|at| at <= now)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Core {
    /// `<node>.<incarnation>`: the start of every transaction id.
    prefix: String,
    dests: BTreeMap<Nid, Dest>,
    /// Rows up to here have been given to their destinations.
    seen: Seq,
    /// The mark as it is stored.
    mark: Seq,
    removed: Seq,
    sending: usize,
    /// Rounds of greetings lately, and when the last one was.
    greetings: u32,
    greeted_at: Duration,
    saving: Option<Save>,
    /// Something acknowledged or failed since the last Save; to be written by then.
    dirty_at: Option<Duration>,
    ready: VecDeque<Action>,
}

/// What was stored when the node ended last time.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The shared mark.
    pub mark: Seq,
    /// Destinations that are behind.
    pub cursors: Vec<(Nid, Seq)>,
    /// Transactions that may have been sent.
    pub ranges: Vec<Range>,
}

impl Core {
    /// Goes on where the last run ended.
    pub fn new(prefix: String, stored: Stored) -> Self {
        let mut dests = BTreeMap::new();
        for (server, cursor) in stored.cursors {
            let dest = Dest { cut: true, row: Some(cursor), ..Dest::new(cursor) };
            dests.insert(server, dest);
        }
        for range in stored.ranges {
            let dest = dests.entry(range.server).or_insert_with(|| Dest::new(stored.mark));
            dest.taken = dest.taken.max(range.last);
            dest.flight = Some(Flight { range, state: FlightState::Ready, refused: 0 });
        }
        Self {
            prefix,
            dests,
            seen: stored.mark,
            mark: stored.mark,
            removed: Seq(0),
            sending: 0,
            greetings: 0,
            greeted_at: Duration::ZERO,
            saving: None,
            dirty_at: None,
            ready: VecDeque::new(),
        }
    }

    /// Rows after this one are wanted.
    pub fn seen(&self) -> Seq {
        self.seen
    }

    /// A row of the outbox, in order, with its audience.
    pub fn handle_row(&mut self, item: Item, audience: &[Nid], now: Duration) {
        if item.seq <= self.seen {
            return;
        }
        let before = self.seen;
        for server in audience {
            self.dests.entry(*server).or_insert_with(|| Dest::new(before)).push(item);
        }
        self.seen = item.seq;
        self.dirty(now);
    }

    /// A destination's rows in answer to [`Action::Load`]; `complete` if there are no more up to
    /// the place asked for.
    pub fn handle_loaded(&mut self, server: Nid, upto: Seq, items: &[Item], complete: bool) {
        let seen = self.seen;
        let Some(dest) = self.dests.get_mut(&server) else { return };
        dest.loading = false;
        for item in items.iter().take(QUEUE_MAX) {
            if item.seq > dest.taken {
                dest.queue.push_back(*item);
                dest.taken = item.seq;
            }
        }
        if complete && items.len() <= QUEUE_MAX {
            dest.taken = dest.taken.max(upto);
            // Rows that came meanwhile were not queued: they are loaded next.
            dest.cut = upto < seen;
        }
    }

    /// A [`Save`] is written.
    pub fn handle_saved(&mut self) {
        let Some(save) = self.saving.take() else { return };
        self.mark = save.mark;
        self.removed = save.remove_upto;
        for (server, cursor) in save.cursors {
            if let Some(dest) = self.dests.get_mut(&server) {
                dest.row = cursor;
            }
        }
        for server in save.done {
            if let Some(dest) = self.dests.get_mut(&server) {
                dest.stale_flight = false;
            }
        }
        for range in save.ranges {
            if let Some(flight) = self.dests.get_mut(&range.server).and_then(|dest| dest.flight.as_mut())
                && flight.range.txn == range.txn
            {
                flight.state = FlightState::Ready;
            }
        }
        self.dests.retain(|_, dest| !dest.is_idle());
    }

    /// An attempt ended.
    pub fn handle_sent(&mut self, server: Nid, txn: &str, outcome: Outcome, now: Duration) {
        self.sending = self.sending.saturating_sub(1);
        let Some(dest) = self.dests.get_mut(&server) else { return };
        let Some(flight) = dest.flight.as_mut().filter(|flight| flight.range.txn == txn) else { return };
        flight.state = FlightState::Ready;
        let given_up = outcome == Outcome::Malformed && {
            flight.refused += 1;
            flight.refused >= POISON_TRIES
        };
        if outcome == Outcome::Done || given_up {
            dest.flight = None;
            dest.stale_flight = true;
            dest.failures = 0;
            dest.retry_at = None;
            if !matches!(dest.greeting, Greeting::Sending | Greeting::Again) {
                dest.greeting = Greeting::No;
            }
        } else {
            Self::back_off(dest, outcome, now);
        }
        self.dirty(now);
    }

    /// A greeting's attempt ended.
    pub fn handle_greeted(&mut self, server: Nid, outcome: Outcome, now: Duration) {
        self.sending = self.sending.saturating_sub(1);
        let Some(dest) = self.dests.get_mut(&server) else { return };
        match outcome {
            Outcome::Done | Outcome::Malformed => {
                dest.greeting = Greeting::No;
                dest.failures = 0;
                dest.retry_at = None;
            }
            Outcome::Away { .. } if dest.greeting == Greeting::Again => dest.greeting = Greeting::From(now),
            Outcome::Away { .. } => {
                Self::back_off(dest, outcome, now);
                dest.greeting = Greeting::From(dest.retry_at.unwrap_or(now));
            }
        }
        self.dirty(now);
    }

    /// An attempt at unstored EDUs ended; they are gone either way.
    pub fn handle_ephemeral_sent(&mut self, server: Nid) {
        self.sending = self.sending.saturating_sub(1);
        if let Some(dest) = self.dests.get_mut(&server) {
            dest.ephemeral_sending = false;
            if dest.is_idle() {
                self.dests.remove(&server);
            }
        }
    }

    /// Something was heard of a destination: whatever waits for it is tried at once.
    pub fn handle_wake(&mut self, server: Nid) {
        if let Some(dest) = self.dests.get_mut(&server) {
            Self::wake(dest);
        }
    }

    /// The network changed: everybody who waits is tried at once.
    pub fn handle_wake_all(&mut self) {
        self.dests.values_mut().for_each(Self::wake);
    }

    /// Whether [`Self::handle_joined`] is allowed again: a network that flaps must not make us greet for ever.
    pub fn may_greet(&self, now: Duration) -> bool {
        self.greetings < GREETINGS_MAX || now >= self.greeted_at + GREET_AGAIN
    }

    /// The node has started, or come to another network: tell these servers, so that they send what they have kept for us.
    pub fn handle_joined(&mut self, servers: &[Nid], now: Duration) {
        let rested = (now.saturating_sub(self.greeted_at).as_secs() / GREET_AGAIN.as_secs()) as u32;
        self.greetings = self.greetings.saturating_sub(rested) + 1;
        self.greeted_at = now;
        for (at, server) in servers.iter().enumerate() {
            let step = at.saturating_sub(GREET_AT_ONCE - 1).min(240);
            let from = now + GREET_STEP * u32::try_from(step).unwrap_or(240);
            let seen = self.seen;
            let dest = self.dests.entry(*server).or_insert_with(|| Dest::new(seen));
            dest.greeting = match dest.greeting {
                // It may be on its way into a network that we have left.
                Greeting::Sending => Greeting::Again,
                Greeting::From(at) => Greeting::From(at.min(from)),
                Greeting::No | Greeting::Again => Greeting::From(from),
            };
        }
    }

    /// An EDU that is neither stored nor repeated. A later one with the same key takes its place;
    /// destinations that do not answer do not get it.
    pub fn handle_ephemeral(&mut self, servers: &[Nid], key: &str, edu: &str) {
        let seen = self.seen;
        for server in servers {
            let dest = self.dests.entry(*server).or_insert_with(|| Dest::new(seen));
            if dest.failures > 0 {
                continue;
            }
            dest.ephemeral.retain(|(known, _)| **known != *key);
            if dest.ephemeral.len() >= EPHEMERAL_MAX {
                dest.ephemeral.remove(0);
            }
            dest.ephemeral.push((key.into(), edu.into()));
        }
    }

    /// The next thing to do at this time.
    pub fn poll_action(&mut self, now: Duration) -> Option<Action> {
        if self.ready.is_empty() {
            self.look(now);
        }
        self.ready.pop_front()
    }

    /// When [`Self::poll_action`] has something to do without any news. What waits for a write or for a place among those
    /// that are being sent waits for news: a time for it that has passed would have the caller come back at once, for ever.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let (can_save, can_send) = (self.saving.is_none(), self.sending < SENDING_MAX);
        let save = self.dirty_at.filter(|_| can_save);
        let dests = self.dests.values().filter_map(|dest| {
            let waits = match &dest.flight {
                Some(flight) => can_send && flight.state == FlightState::Ready,
                None => can_save && !dest.queue.is_empty(),
            };
            let retry = dest.retry_at.filter(|_| waits);
            let greet = match dest.greeting {
                Greeting::From(at) if can_send => Some(dest.retry_at.map_or(at, |retry| retry.max(at))),
                Greeting::From(_) | Greeting::No | Greeting::Sending | Greeting::Again => None,
            };
            retry.into_iter().chain(greet).min()
        });
        save.into_iter().chain(dests).min()
    }

    /// What waits for whom, for people to look at.
    pub fn overview(&self, now: Duration) -> Vec<Waiting> {
        let row = |(server, dest): (&Nid, &Dest)| Waiting {
            server: *server,
            queued: dest.queue.len(),
            more: dest.cut,
            under_way: dest.flight.is_some(),
            failures: dest.failures,
            retry_in: dest.retry_at.filter(|_| dest.failures > 0).map(|at| at.saturating_sub(now)),
        };
        self.dests.iter().map(row).collect()
    }

    /// Whether nothing waits to be sent or written: for tests and a clean end.
    pub fn is_idle(&self) -> bool {
        self.dests.is_empty() && self.saving.is_none() && self.dirty_at.is_none()
    }

    fn look(&mut self, now: Duration) {
        let mut ranges = Vec::new();
        let due = self.dirty_at.is_some_and(|at| at <= now);
        if due {
            self.dests.values_mut().for_each(|dest| dest.give_up(self.seen));
        }
        for (server, dest) in &mut self.dests {
            if dest.cut && !dest.loading && dest.queue.is_empty() {
                dest.loading = true;
                let (after, upto) = (dest.taken, self.seen);
                self.ready.push_back(Action::Load { server: *server, after, upto });
            }
            if self.sending < SENDING_MAX && !dest.ephemeral_sending && !dest.ephemeral.is_empty() {
                dest.ephemeral_sending = true;
                self.sending += 1;
                let edus = dest.ephemeral.drain(..).map(|(_, edu)| edu).collect();
                self.ready.push_back(Action::Ephemeral(*server, edus));
            }
            if !dest.may_try(now) {
                continue;
            }
            if let Greeting::From(at) = dest.greeting
                && at <= now
                && self.sending < SENDING_MAX
            {
                let waits = dest.flight.is_some() || !dest.queue.is_empty();
                // A transaction that goes out anyway is greeting enough.
                dest.greeting = if waits { Greeting::No } else { Greeting::Sending };
                if !waits {
                    self.sending += 1;
                    self.ready.push_back(Action::Greet(*server));
                }
            }
            match &mut dest.flight {
                Some(flight) if flight.state == FlightState::Ready && self.sending < SENDING_MAX => {
                    flight.state = FlightState::Sending;
                    self.sending += 1;
                    self.ready.push_back(Action::Send(flight.range.clone()));
                }
                Some(_) => {}
                None if self.saving.is_none() => {
                    if let Some(range) = take(&mut dest.queue, *server, &self.prefix) {
                        ranges.push(range.clone());
                        dest.flight = Some(Flight { range, state: FlightState::Storing, refused: 0 });
                        dest.stale_flight = false;
                    }
                }
                None => {}
            }
        }
        if self.saving.is_none() && (due || !ranges.is_empty()) {
            let save = self.save(ranges);
            self.dirty_at = None;
            self.saving = Some(save.clone());
            self.ready.push_back(Action::Save(save));
        }
    }

    fn save(&self, ranges: Vec<Range>) -> Save {
        let mut save = Save { ranges, mark: self.seen, remove_upto: self.seen, ..Save::default() };
        for (server, dest) in &self.dests {
            let cursor = dest.cursor(self.seen);
            // Who fails, or has more than fits in memory, holds the others' mark up no longer.
            let behind = dest.failures > 0 || dest.cut || (dest.row.is_some() && cursor < self.seen);
            let row = behind.then_some(cursor);
            if row != dest.row {
                save.cursors.push((*server, row));
            }
            if !behind {
                save.mark = save.mark.min(cursor);
            }
            save.remove_upto = save.remove_upto.min(cursor);
            if dest.stale_flight {
                save.done.push(*server);
            }
        }
        save.mark = save.mark.max(self.mark);
        save
    }

    fn back_off(dest: &mut Dest, outcome: Outcome, now: Duration) {
        let wait = WAIT_FIRST.saturating_mul(1 << dest.failures.min(10)).min(WAIT_MAX);
        dest.failures = dest.failures.saturating_add(1);
        let asked = match outcome {
            Outcome::Away { retry_after } => retry_after.unwrap_or_default().min(RETRY_AFTER_MAX),
            Outcome::Done | Outcome::Malformed => Duration::ZERO,
        };
        dest.retry_at = Some(now + wait.max(asked));
        // Nobody wants to know now who was typing then.
        dest.ephemeral.clear();
    }

    fn wake(dest: &mut Dest) {
        dest.retry_at = None;
        dest.failures = dest.failures.min(1);
        if let Greeting::From(at) = &mut dest.greeting {
            *at = Duration::ZERO;
        }
    }

    fn dirty(&mut self, now: Duration) {
        self.dirty_at = self.dirty_at.or(Some(now + SAVE_DELAY));
    }
}

/// What another server may ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Takes the start of a queue that fits in one transaction.
fn take(queue: &mut VecDeque<Item>, server: Nid, prefix: &str) -> Option<Range> {
    let first = queue.front()?.seq;
    let mut last = first;
    let (mut pdus, mut edus) = (0, 0);
    while let Some(item) = queue.front() {
        let count = if item.pdu { &mut pdus } else { &mut edus };
        *count += 1;
        if pdus > PDUS_MAX || edus > EDUS_MAX {
            break;
        }
        last = item.seq;
        queue.pop_front();
    }
    let txn = format!("{prefix}.{:x}.{:x}", first.0, last.0);
    Some(Range { server, txn, first, last })
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "core_sim.rs"]
mod simulation;
