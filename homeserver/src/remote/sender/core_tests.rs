//! The sender's rules one by one, and against a model: random rows, failures and crashes, nothing
//! is lost, nothing overtakes, a repeated transaction is the same one.

use proptest::prelude::*;

use super::*;

const A: Nid = Nid(1);
const B: Nid = Nid(2);

fn at(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn item(seq: i64) -> Item {
    Item { seq: Seq(seq), pdu: true }
}

fn core() -> Core {
    Core::new("n1.7".to_owned(), Stored::default())
}

fn actions(core: &mut Core, now: Duration) -> Vec<Action> {
    std::iter::from_fn(|| core.poll_action(now)).collect()
}

/// Saves at once and gives everything else.
fn settle(core: &mut Core, now: Duration) -> (Vec<Save>, Vec<Action>) {
    let (mut saves, mut rest) = (Vec::new(), Vec::new());
    loop {
        let all = actions(core, now);
        if all.is_empty() {
            return (saves, rest);
        }
        for action in all {
            match action {
                Action::Save(save) => {
                    saves.push(save);
                    core.handle_saved();
                }
                other => rest.push(other),
            }
        }
    }
}

fn sent(actions: &[Action]) -> Vec<Range> {
    let range = |action: &Action| match action {
        Action::Send(range) => Some(range.clone()),
        _ => None,
    };
    actions.iter().filter_map(range).collect()
}

#[test]
fn a_row_goes_out_at_once_after_it_was_written_down() {
    let mut core = core();
    core.handle_row(item(5), &[A, B], at(0));
    let first = actions(&mut core, at(0));
    let [Action::Save(save)] = &first[..] else { panic!("{first:?}") };
    assert_eq!(save.ranges.len(), 2);
    assert!(save.ranges.iter().all(|range| range.first == Seq(5) && range.last == Seq(5)));
    assert!(save.mark < Seq(5) && save.remove_upto < Seq(5));
    assert!(actions(&mut core, at(0)).is_empty(), "not before it is stored");
    core.handle_saved();
    let ranges = sent(&actions(&mut core, at(0)));
    assert_eq!(ranges.len(), 2);
    for range in ranges {
        core.handle_sent(range.server, &range.txn, Outcome::Done, at(5));
    }
    let (saves, rest) = settle(&mut core, at(1000));
    assert!(rest.is_empty());
    assert_eq!(saves[0].mark, Seq(5));
    assert_eq!(saves[0].remove_upto, Seq(5));
    assert_eq!(saves[0].done, vec![A, B]);
    assert!(core.is_idle());
    assert_eq!(core.poll_timeout(), None);
}

#[test]
fn what_comes_while_one_is_under_way_waits_and_goes_together() {
    let mut core = core();
    core.handle_row(item(1), &[A], at(0));
    let (_, rest) = settle(&mut core, at(0));
    let first = sent(&rest).remove(0);
    for seq in 2..=120 {
        core.handle_row(item(seq), &[A], at(1));
    }
    assert!(sent(&settle(&mut core, at(1)).1).is_empty(), "one transaction at a time");
    core.handle_sent(A, &first.txn, Outcome::Done, at(2));
    let next = sent(&settle(&mut core, at(2)).1).remove(0);
    assert_eq!((next.first, next.last), (Seq(2), Seq(51)), "50 PDUs");
}

#[test]
fn a_failure_backs_off_repeats_unchanged_and_a_wake_up_ends_it() {
    let mut core = core();
    core.handle_row(item(1), &[A], at(0));
    let first = sent(&settle(&mut core, at(0)).1).remove(0);
    let mut now = at(0);
    let mut waits = Vec::new();
    for _ in 0..12 {
        core.handle_sent(A, &first.txn, Outcome::Away { retry_after: None }, now);
        assert!(sent(&settle(&mut core, now).1).is_empty());
        let mut next = core.poll_timeout().unwrap();
        let mut again = sent(&settle(&mut core, next).1);
        while again.is_empty() {
            next = core.poll_timeout().unwrap();
            again = sent(&settle(&mut core, next).1);
        }
        assert_eq!(again, vec![first.clone()], "the same range under the same id");
        waits.push(next - now);
        now = next;
    }
    assert_eq!(waits[0], WAIT_FIRST);
    assert_eq!(waits[11], WAIT_MAX);
    core.handle_sent(A, &first.txn, Outcome::Away { retry_after: None }, now);
    settle(&mut core, now);
    core.handle_wake(A);
    assert_eq!(sent(&settle(&mut core, now).1), vec![first.clone()]);
    core.handle_sent(A, &first.txn, Outcome::Away { retry_after: None }, now);
    core.handle_wake_all();
    assert_eq!(sent(&settle(&mut core, now).1), vec![first]);
}

#[test]
fn one_that_is_away_does_not_hold_up_the_mark() {
    let mut core = core();
    core.handle_row(item(1), &[A, B], at(0));
    for range in sent(&settle(&mut core, at(0)).1) {
        let outcome = if range.server == A { Outcome::Done } else { Outcome::Away { retry_after: None } };
        core.handle_sent(range.server, &range.txn, outcome, at(0));
    }
    core.handle_row(item(2), &[A], at(1));
    let (saves, _) = settle(&mut core, at(1));
    assert_eq!(saves[0].cursors, vec![(B, Some(Seq(0)))]);
    assert_eq!(saves[0].mark, Seq(1));
    assert_eq!(saves[0].remove_upto, Seq(0), "but its rows stay");
}

#[test]
fn one_that_never_comes_back_is_given_up() {
    let mut core = core();
    core.handle_row(item(1), &[A], at(0));
    let range = sent(&settle(&mut core, at(0)).1).remove(0);
    core.handle_sent(A, &range.txn, Outcome::Away { retry_after: None }, at(0));
    core.handle_row(item(2 + BEHIND_MAX), &[B], at(0));
    let (saves, rest) = settle(&mut core, SAVE_DELAY);
    let last = saves.last().unwrap();
    assert!(last.done.contains(&A) && last.remove_upto > Seq(1), "{last:?}");
    assert!(sent(&rest).iter().all(|range| range.server == B));
    // It still is somebody to send to.
    core.handle_row(item(3 + BEHIND_MAX), &[A], WAIT_MAX);
    assert!(sent(&settle(&mut core, WAIT_MAX * 2).1).iter().any(|range| range.server == A));
}

#[test]
fn a_malformed_transaction_is_given_up() {
    let mut core = core();
    core.handle_row(item(1), &[A], at(0));
    core.handle_row(Item { seq: Seq(2), pdu: false }, &[A], at(0));
    let mut now = at(0);
    let mut tries = 0;
    for _ in 0..100 {
        now += WAIT_MAX;
        for range in sent(&settle(&mut core, now).1) {
            tries += 1;
            core.handle_sent(A, &range.txn, Outcome::Malformed, now);
        }
    }
    assert_eq!(tries, POISON_TRIES);
    assert!(core.is_idle());
}

#[test]
fn a_hundred_that_hang_hold_up_nobody_else() {
    let mut core = core();
    let all: Vec<Nid> = (1..=101).map(Nid).collect();
    for seq in 1..=50 {
        core.handle_row(item(seq), &all, at(seq as u64));
        core.handle_ephemeral(&all, "k", "typing");
        let now = settle(&mut core, at(seq as u64)).1;
        // All but one never answer.
        let own: Vec<Range> = sent(&now).into_iter().filter(|range| range.server == A).collect();
        assert_eq!(own.len(), 1, "row {seq}");
        core.handle_sent(A, &own[0].txn, Outcome::Done, at(seq as u64));
        core.handle_ephemeral_sent(A);
    }
}

#[test]
fn greetings_are_spread_and_repeated_until_they_arrive() {
    let mut core = core();
    let servers: Vec<Nid> = (1..=60).map(Nid).collect();
    core.handle_joined(&servers, at(0));
    let first = settle(&mut core, at(0)).1;
    assert_eq!(first.len(), GREET_AT_ONCE);
    core.handle_greeted(Nid(1), Outcome::Away { retry_after: None }, at(0));
    for server in 2..=GREET_AT_ONCE as i64 {
        core.handle_greeted(Nid(server), Outcome::Done, at(0));
    }
    let again = settle(&mut core, WAIT_FIRST).1;
    assert!(again.contains(&Action::Greet(Nid(1))));
    core.handle_greeted(Nid(1), Outcome::Done, WAIT_FIRST);
    let mut left: Vec<Action> = again;
    let mut now = WAIT_FIRST;
    for _ in 0..100 {
        for action in std::mem::take(&mut left) {
            if let Action::Greet(server) = action {
                core.handle_greeted(server, Outcome::Done, now);
            }
        }
        now += GREET_STEP;
        left = settle(&mut core, now).1;
    }
    assert!(core.is_idle());
}

#[test]
fn typing_is_sent_once_replaced_and_never_to_who_is_away() {
    let mut core = core();
    core.handle_ephemeral(&[A], "typing r u", "1");
    let first = actions(&mut core, at(0));
    assert_eq!(first, vec![Action::Ephemeral(A, vec!["1".into()])]);
    core.handle_ephemeral(&[A], "typing r u", "2");
    core.handle_ephemeral(&[A], "typing r u", "3");
    assert!(actions(&mut core, at(0)).is_empty());
    core.handle_ephemeral_sent(A);
    assert_eq!(actions(&mut core, at(0)), vec![Action::Ephemeral(A, vec!["3".into()])]);
    core.handle_ephemeral_sent(A);
    core.handle_row(item(1), &[A], at(0));
    let range = sent(&settle(&mut core, at(0)).1).remove(0);
    core.handle_sent(A, &range.txn, Outcome::Away { retry_after: None }, at(0));
    core.handle_ephemeral(&[A], "typing r u", "4");
    assert!(!settle(&mut core, at(0)).1.iter().any(|action| matches!(action, Action::Ephemeral(..))));
}

/// The world around the core: an outbox, a store, destinations that are there or not.
struct World {
    core: Core,
    stored: Stored,
    rows: Vec<(Item, Vec<Nid>)>,
    next: i64,
    now: Duration,
    away: Vec<bool>,
    got: Vec<Vec<i64>>,
    txns: std::collections::HashMap<(Nid, String), Vec<i64>>,
    pending: VecDeque<Action>,
}

const SERVERS: usize = 3;

impl World {
    fn new() -> Self {
        Self {
            core: core(),
            stored: Stored::default(),
            rows: Vec::new(),
            next: 1,
            now: at(0),
            away: vec![false; SERVERS],
            got: vec![Vec::new(); SERVERS],
            txns: Default::default(),
            pending: VecDeque::new(),
        }
    }

    fn row(&mut self, audience: u8, pdu: bool) {
        let servers: Vec<Nid> =
            (0..SERVERS).filter(|bit| audience & (1 << bit) != 0).map(|bit| Nid(bit as i64)).collect();
        let item = Item { seq: Seq(self.next), pdu };
        self.next += 1 + i64::from(audience);
        self.rows.push((item, servers));
    }

    fn feed(&mut self) {
        let seen = self.core.seen();
        for (item, servers) in self.rows.iter().filter(|(item, _)| item.seq > seen) {
            self.core.handle_row(*item, servers, self.now);
        }
    }

    fn of(&self, server: Nid, after: Seq, upto: Seq) -> Vec<Item> {
        let mine = |(item, servers): &&(Item, Vec<Nid>)| {
            item.seq > after && item.seq <= upto && servers.contains(&server)
        };
        self.rows.iter().filter(mine).map(|(item, _)| *item).collect()
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Save(save) => {
                self.stored.mark = save.mark;
                for server in &save.done {
                    self.stored.ranges.retain(|range| range.server != *server);
                }
                for range in &save.ranges {
                    self.stored.ranges.retain(|known| known.server != range.server);
                    self.stored.ranges.push(range.clone());
                }
                for (server, cursor) in &save.cursors {
                    self.stored.cursors.retain(|(known, _)| known != server);
                    self.stored.cursors.extend(cursor.map(|cursor| (*server, cursor)));
                }
                self.rows.retain(|(item, _)| item.seq > save.remove_upto);
                self.core.handle_saved();
            }
            Action::Send(range) => {
                let server = range.server.0 as usize;
                let items = self.of(range.server, Seq(range.first.0 - 1), range.last);
                let seqs: Vec<i64> = items.iter().map(|item| item.seq.0).collect();
                assert!(!seqs.is_empty(), "rows of a transaction were removed");
                let before = self.txns.insert((range.server, range.txn.clone()), seqs.clone());
                assert!(before.is_none_or(|before| before == seqs), "a repeated transaction changed");
                let outcome = if self.away[server] {
                    Outcome::Away { retry_after: None }
                } else {
                    self.got[server].extend(seqs);
                    Outcome::Done
                };
                self.core.handle_sent(range.server, &range.txn, outcome, self.now);
            }
            Action::Load { server, after, upto } => {
                let mut items = self.of(server, after, upto);
                let complete = items.len() <= 7;
                items.truncate(7);
                self.core.handle_loaded(server, upto, &items, complete);
            }
            Action::Greet(server) => self.core.handle_greeted(server, Outcome::Done, self.now),
            Action::Ephemeral(server, _) => self.core.handle_ephemeral_sent(server),
        }
    }

    fn step(&mut self) {
        self.feed();
        if self.pending.is_empty() {
            self.pending.extend(self.core.poll_action(self.now));
        }
        if let Some(action) = self.pending.pop_front() {
            self.perform(action);
        }
    }

    fn crash(&mut self) {
        self.pending.clear();
        self.core = Core::new("n1.7".to_owned(), self.stored.clone());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn everybody_gets_everything_in_order(
        steps in prop::collection::vec((0u8..12, 0u8..8, any::<bool>()), 1..300),
    ) {
        let mut world = World::new();
        let mut all: Vec<Vec<i64>> = vec![Vec::new(); SERVERS];
        for (what, how, flag) in steps {
            match what {
                0..=3 => {
                    for (bit, all) in all.iter_mut().enumerate() {
                        if how & (1 << bit) != 0 {
                            all.push(world.next);
                        }
                    }
                    world.row(how, flag);
                }
                4 => world.away[usize::from(how) % SERVERS] = flag,
                5 => world.now += at(u64::from(how) * 400),
                6 if flag => world.crash(),
                7 => world.core.handle_wake(Nid(i64::from(how) % 3)),
                _ => (0..how).for_each(|_| world.step()),
            }
        }
        world.away = vec![false; SERVERS];
        for _ in 0..5000 {
            world.step();
            if world.pending.is_empty() {
                world.now += at(200);
            }
        }
        for (got, all) in world.got.iter().zip(&all) {
            // First arrivals are in order, and nothing is missing.
            let mut first = Vec::new();
            for seq in got {
                if !first.contains(seq) {
                    first.push(*seq);
                }
            }
            prop_assert_eq!(&first, all);
        }
        prop_assert!(world.core.is_idle(), "{:?}", world.core);
        prop_assert!(world.rows.is_empty(), "{:?}", world.rows);
    }

    #[test]
    fn a_destination_far_behind_stays_small(rows in 1000i64..3000) {
        let mut core = core();
        for seq in 1..=rows {
            core.handle_row(item(seq), &[A], at(0));
        }
        prop_assert!(core.dests[&A].queue.len() <= QUEUE_MAX);
    }
}

#[test]
fn greets_when_networks_meet_but_not_for_ever() {
    let away = Outcome::Away { retry_after: None };
    let mut core = core();
    core.handle_joined(&[A], at(0));
    assert_eq!(settle(&mut core, at(0)).1, [Action::Greet(A)]);
    // The network that it was greeted in was the wrong one.
    core.handle_joined(&[A], at(10));
    assert!(settle(&mut core, at(10)).1.is_empty());
    core.handle_greeted(A, away, at(20));
    assert_eq!(settle(&mut core, at(20)).1, [Action::Greet(A)], "no back-off");
    core.handle_greeted(A, Outcome::Done, at(30));
    for n in 0..2 {
        assert!(core.may_greet(at(100 + n)));
        core.handle_joined(&[A], at(100 + n));
    }
    assert!(!core.may_greet(at(200)), "it flaps");
    assert!(core.may_greet(at(200) + GREET_AGAIN));
}
