//! The sender in virtual time: nets that lose, delay and split, servers that sleep for weeks, crashes and power cuts on our
//! side. The oracle: all that was accepted arrives, once, in order; what is kept for whoever is away does not grow with it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, HashSet},
};

use proptest::prelude::*;

use super::*;

const SERVERS: usize = 5;
/// What a request that nobody answers takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Rows that one look into the outbox finds for a destination.
const ROWS_FOUND: usize = 200;

/// A random number generator that is the same everywhere (splitmix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % sides
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.roll(100) < percent
    }

    fn ms(&mut self, upto: u64) -> Duration {
        Duration::from_millis(self.roll(upto))
    }
}

/// What happens at some time. Of a run of the sender that has ended, nothing comes back.
enum Event {
    Saved { run: u32 },
    Loaded { run: u32, server: Nid, upto: Seq, items: Vec<Item>, complete: bool },
    Arrives { range: Range, seqs: Vec<i64> },
    Answered { run: u32, server: Nid, txn: String, outcome: Outcome },
    Greeted { run: u32, server: Nid, outcome: Outcome },
    EphemeralGone { run: u32, server: Nid },
    Said { audience: u64, pdu: bool },
    Parts { server: usize },
    Meets { server: usize },
    Crashes { power_cut: bool },
}

/// The other side: what it has taken, and the answers that it keeps.
#[derive(Default)]
struct Receiver {
    away: bool,
    txns: HashMap<String, Vec<i64>>,
    /// In the order of their first arrival.
    got: Vec<i64>,
    known: HashSet<i64>,
    arrivals: usize,
}

struct Net {
    dice: Dice,
    loss: u64,
    delay_ms: u64,
}

struct Sim {
    net: Net,
    now: Duration,
    core: Core,
    run: u32,
    /// What is on disk, and what was before the last write: a power cut may undo that.
    disk: (Stored, Vec<(Item, u64)>),
    before: (Stored, Vec<(Item, u64)>),
    next: i64,
    owed: Vec<Vec<i64>>,
    receivers: Vec<Receiver>,
    heap: BinaryHeap<Reverse<(Duration, u64)>>,
    events: BTreeMap<u64, Event>,
    numbered: u64,
    attempts: usize,
    /// The most rows about destinations that were stored at once.
    most_stored: usize,
}

impl Sim {
    fn new(seed: u64, loss: u64, delay_ms: u64) -> Self {
        Self {
            net: Net { dice: Dice(seed), loss, delay_ms: delay_ms.max(1) },
            now: Duration::ZERO,
            core: Core::new("n1.7".to_owned(), Stored::default()),
            run: 0,
            disk: Default::default(),
            before: Default::default(),
            next: 1,
            owed: vec![Vec::new(); SERVERS],
            receivers: (0..SERVERS).map(|_| Receiver::default()).collect(),
            heap: BinaryHeap::new(),
            events: BTreeMap::new(),
            numbered: 0,
            attempts: 0,
            most_stored: 0,
        }
    }

    fn at(&mut self, when: Duration, event: Event) {
        self.numbered += 1;
        self.heap.push(Reverse((when, self.numbered)));
        self.events.insert(self.numbered, event);
    }

    fn rows_of(&self, server: Nid, after: Seq, upto: Seq) -> Vec<Item> {
        let rows = self.rows_after(after).iter().take_while(|(item, _)| item.seq <= upto);
        rows.filter(|(_, to)| to & (1 << server.0) != 0).map(|(item, _)| *item).take(ROWS_FOUND + 1).collect()
    }

    fn rows_after(&self, after: Seq) -> &[(Item, u64)] {
        let rows = &self.disk.1;
        &rows[rows.partition_point(|(item, _)| item.seq <= after)..]
    }

    fn say(&mut self, audience: u64, pdu: bool) {
        let item = Item { seq: Seq(self.next), pdu };
        self.next += 1 + (self.net.dice.roll(3) as i64);
        for (server, owed) in self.owed.iter_mut().enumerate() {
            if audience & (1 << server) != 0 {
                owed.push(item.seq.0);
            }
        }
        self.disk.1.push((item, audience));
        // What is accepted is on disk for good: it was answered after the commit.
        self.before.1.push((item, audience));
    }

    fn perform(&mut self, action: Action) {
        let run = self.run;
        let soon = self.now + self.net.dice.ms(20);
        match action {
            Action::Save(save) => {
                self.before = self.disk.clone();
                let (stored, rows) = &mut self.disk;
                stored.mark = save.mark;
                stored.ranges.retain(|range| !save.done.contains(&range.server));
                for range in &save.ranges {
                    stored.ranges.retain(|known| known.server != range.server);
                    stored.ranges.push(range.clone());
                }
                for (server, cursor) in &save.cursors {
                    stored.cursors.retain(|(known, _)| known != server);
                    stored.cursors.extend(cursor.map(|cursor| (*server, cursor)));
                }
                rows.retain(|(item, _)| item.seq > save.remove_upto);
                self.most_stored = self.most_stored.max(stored.ranges.len() + stored.cursors.len());
                self.at(soon, Event::Saved { run });
            }
            Action::Load { server, after, upto } => {
                let mut items = self.rows_of(server, after, upto);
                let complete = items.len() <= ROWS_FOUND;
                items.truncate(ROWS_FOUND);
                self.at(soon, Event::Loaded { run, server, upto, items, complete });
            }
            Action::Send(range) => {
                self.attempts += 1;
                let items = self.rows_of(range.server, Seq(range.first.0 - 1), range.last);
                let (mut pdus, mut edus) = (0, 0);
                items.iter().for_each(|item| *(if item.pdu { &mut pdus } else { &mut edus }) += 1);
                assert!(pdus <= PDUS_MAX && edus <= EDUS_MAX && pdus + edus > 0, "{pdus} PDUs, {edus} EDUs");
                let seqs = items.iter().map(|item| item.seq.0).collect();
                let (server, txn) = (range.server, range.txn.clone());
                let away = self.receivers[server.0 as usize].away;
                let there = self.now + self.net.dice.ms(self.net.delay_ms);
                let lost = self.net.dice.chance(self.net.loss);
                let answer_lost = self.net.dice.chance(self.net.loss);
                // Refused at once, or never answered.
                let fails = if self.net.dice.chance(50) { self.now + TIMEOUT } else { there };
                let outcome = if away || lost || answer_lost {
                    Outcome::Away { retry_after: None }
                } else {
                    Outcome::Done
                };
                if !away && !lost {
                    self.at(there, Event::Arrives { range, seqs });
                }
                let back = match outcome {
                    Outcome::Done => there + self.net.dice.ms(self.net.delay_ms),
                    _ if answer_lost => (self.now + TIMEOUT).max(there),
                    _ => fails,
                };
                self.at(back, Event::Answered { run, server, txn, outcome });
            }
            Action::Greet(server) => {
                let away = self.receivers[server.0 as usize].away;
                let outcome = if away { Outcome::Away { retry_after: None } } else { Outcome::Done };
                self.at(soon, Event::Greeted { run, server, outcome });
            }
            Action::Ephemeral(server, _) => self.at(soon, Event::EphemeralGone { run, server }),
        }
    }

    fn happens(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Saved { run } if run == self.run => self.core.handle_saved(),
            Event::Loaded { run, server, upto, items, complete } if run == self.run => {
                self.core.handle_loaded(server, upto, &items, complete);
            }
            Event::Answered { run, server, txn, outcome } if run == self.run => {
                self.core.handle_sent(server, &txn, outcome, now);
            }
            Event::Greeted { run, server, outcome } if run == self.run => {
                self.core.handle_greeted(server, outcome, now);
            }
            Event::EphemeralGone { run, server } if run == self.run => {
                self.core.handle_ephemeral_sent(server);
            }
            Event::Saved { .. }
            | Event::Loaded { .. }
            | Event::Answered { .. }
            | Event::Greeted { .. }
            | Event::EphemeralGone { .. } => {}
            Event::Arrives { range, seqs } => {
                // A request that was on its way when the sender crashed, or the net split, arrives all the same.
                let receiver = &mut self.receivers[range.server.0 as usize];
                receiver.arrivals += 1;
                let known = receiver.txns.get(&range.txn);
                assert!(known.is_none_or(|known| *known == seqs), "a repeated transaction changed");
                for seq in &seqs {
                    if receiver.known.insert(*seq) {
                        receiver.got.push(*seq);
                    }
                }
                receiver.txns.insert(range.txn, seqs);
            }
            Event::Said { audience, pdu } => self.say(audience, pdu),
            Event::Parts { server } => self.receivers[server].away = true,
            Event::Meets { server } => {
                self.receivers[server].away = false;
                // Half of those that come back are noticed.
                if self.net.dice.chance(50) {
                    self.core.handle_wake(Nid(server as i64));
                }
            }
            Event::Crashes { power_cut } => {
                self.run += 1;
                if power_cut {
                    self.disk = self.before.clone();
                }
                self.core = Core::new("n1.7".to_owned(), self.disk.0.clone());
                let everybody: Vec<Nid> = (0..SERVERS).map(|server| Nid(server as i64)).collect();
                self.core.handle_joined(&everybody, now);
            }
        }
    }

    /// Runs until nothing happens any more, or until `end`.
    fn run_until(&mut self, end: Duration) {
        let mut idle = 0;
        loop {
            let seen = self.core.seen();
            let new = self.rows_after(seen).to_vec();
            for (item, audience) in new {
                let to: Vec<Nid> =
                    (0..SERVERS as i64).filter(|bit| audience & (1 << bit) != 0).map(Nid).collect();
                self.core.handle_row(item, &to, self.now);
            }
            let mut acted = false;
            while let Some(action) = self.core.poll_action(self.now) {
                acted = true;
                self.perform(action);
            }
            idle = if acted { 0 } else { idle + 1 };
            for dest in self.core.dests.values() {
                assert!(dest.queue.len() <= QUEUE_MAX);
            }
            let event = self.heap.peek().map(|Reverse((at, _))| *at);
            let timer = self.core.poll_timeout();
            assert!(timer.is_none_or(|at| at > self.now), "nothing to do, and due: {:?}", self.core);
            let Some(next) = event.into_iter().chain(timer).min() else { return };
            if next > end {
                self.now = end;
                return;
            }
            assert!(next > self.now || idle < 10_000, "it spins at {:?}: {:?}", self.now, self.core);
            self.now = self.now.max(next);
            if event.is_some_and(|at| at <= self.now)
                && let Some(Reverse((_, number))) = self.heap.pop()
                && let Some(event) = self.events.remove(&number)
            {
                self.happens(event);
            }
        }
    }

    /// All of it has arrived, and nothing is kept any more.
    fn check(&self) {
        for (server, (receiver, owed)) in self.receivers.iter().zip(&self.owed).enumerate() {
            assert_eq!(receiver.got, *owed, "server {server}");
        }
        assert!(self.core.is_idle(), "{:?}", self.core);
        assert!(self.disk.1.is_empty(), "{} rows are left", self.disk.1.len());
        assert!(self.disk.0.cursors.is_empty() && self.disk.0.ranges.is_empty(), "{:?}", self.disk.0);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_accepted_arrives_once_and_in_order_whatever_the_net_does(
        seed in any::<u64>(),
        loss in 0u64..40,
        delay_ms in 1u64..20_000,
        rows in 1u64..400,
    ) {
        let mut sim = Sim::new(seed, loss, delay_ms);
        let span = 6 * 3_600_000;
        for _ in 0..rows {
            let (at, audience) = (sim.net.dice.ms(span), sim.net.dice.roll(1 << SERVERS));
            let pdu = sim.net.dice.chance(60);
            // Some come in bursts.
            for _ in 0..1 + sim.net.dice.roll(2) * sim.net.dice.roll(120) {
                sim.at(at, Event::Said { audience, pdu });
            }
        }
        for server in 0..SERVERS {
            for _ in 0..sim.net.dice.roll(6) {
                let (parts, meets) = (sim.net.dice.ms(span), sim.net.dice.ms(2 * 3_600_000));
                sim.at(parts, Event::Parts { server });
                sim.at(parts + meets, Event::Meets { server });
            }
            // Whatever overlaps, in the end it is there.
            sim.at(9 * HOUR, Event::Meets { server });
        }
        for _ in 0..sim.net.dice.roll(8) {
            let (at, power_cut) = (sim.net.dice.ms(span), sim.net.dice.chance(30));
            sim.at(at, Event::Crashes { power_cut });
        }
        sim.run_until(9 * HOUR);
        sim.net.loss = 0;
        sim.run_until(20 * HOUR);
        sim.check();
        prop_assert!(sim.most_stored <= 2 * SERVERS, "{} rows about {SERVERS} servers", sim.most_stored);
    }
}

/// One that was away for three weeks, with restarts on our side meanwhile: one cursor is kept for it and not a row per event,
/// it is asked a bounded number of times, and gets all of it in full transactions as soon as it is back.
#[test]
fn weeks_of_absence_cost_one_row_and_end_at_once() {
    let day = 24 * HOUR;
    let mut sim = Sim::new(7, 0, 50);
    sim.at(HOUR, Event::Parts { server: 0 });
    let (days, each) = (21, 240);
    for n in 0..days * each {
        let at = 2 * HOUR + day * (n / each) + Duration::from_secs(u64::from(n % each) * 60);
        sim.at(at, Event::Said { audience: 0b11, pdu: true });
    }
    for n in 0..days {
        sim.at(day * n + 5 * HOUR, Event::Crashes { power_cut: n % 5 == 4 });
    }
    let back = day * days;
    sim.run_until(back);
    assert_eq!(sim.receivers[0].arrivals, 0);
    // The other has everything, and what is stored is a cursor and a transaction.
    assert_eq!(sim.receivers[1].got, sim.owed[1]);
    assert!(sim.most_stored <= 4, "{}", sim.most_stored);
    let tries = sim.attempts - sim.receivers[1].arrivals;
    assert!(
        tries as u64 <= back.as_secs() / WAIT_MAX.as_secs() + 21 * 20,
        "{tries} attempts at one that is away"
    );
    sim.receivers[0].away = false;
    sim.core.handle_wake(Nid(0));
    sim.run_until(back + Duration::from_secs(120));
    sim.check();
    let full = (days * each) as usize / PDUS_MAX;
    assert!(sim.receivers[0].arrivals <= full + full / 10, "{} transactions", sim.receivers[0].arrivals);
}
