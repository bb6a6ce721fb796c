//! Goal: ways are found around who drops, with few questions, and whatever comes stays within bounds. Method: maps that
//! answer each other over a graph in memory, no time but what questions wait.
use super::*;
use crate::lookup::{Coords, Hop};
use crate::wire::body::Destination;
use crate::wire::data::decode_ports;
use std::collections::BTreeSet;

struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

/// A grid of maps: node n has port 1 + d for its neighbour in direction d.
struct Grid {
    side: usize,
    maps: Vec<Map>,
    droppers: BTreeSet<usize>,
    now: Instant,
    entropy: Counting,
    blame: Blame,
}

impl Grid {
    fn new(side: usize) -> Self {
        let now = Instant::from_micros(1_000_000);
        let secrets: Vec<SecretKey> =
            (0..side * side).map(|n| SecretKey::from_seed([n as u8 + 1; 32])).collect();
        let mut maps: Vec<Map> = secrets.iter().map(|secret| Map::new(secret, true, 5, now)).collect();
        let mut grid = Self {
            side,
            maps: Vec::new(),
            droppers: BTreeSet::new(),
            now,
            entropy: Counting(3),
            blame: Blame::default(),
        };
        for (n, map) in maps.iter_mut().enumerate() {
            for direction in 0..4 {
                if let Some(other) = grid.next(n, direction) {
                    let port = Port(1 + direction as u16);
                    map.handle_link(secrets[other].id().sid(), port, Span { cost: 2, size: 65 });
                }
            }
            // One tree, its root the first node: down the first column, then along the rows.
            let (x, y) = (n % side, n / side);
            let down = std::iter::repeat_n(Hop { port: Port(4), cost: 2 }, y);
            let along = std::iter::repeat_n(Hop { port: Port(2), cost: 2 }, x);
            let coords = Coords { root: secrets[0].id().sid(), hops: down.chain(along).collect() };
            map.handle_own(Locator::of([(0, &coords)]));
        }
        grid.maps = maps;
        grid
    }

    /// 0 left, 1 right, 2 up, 3 down.
    fn next(&self, n: usize, direction: usize) -> Option<usize> {
        let (x, y) = (n % self.side, n / self.side);
        match direction {
            0 => (x > 0).then(|| n - 1),
            1 => (x + 1 < self.side).then(|| n + 1),
            2 => n.checked_sub(self.side),
            _ => (y + 1 < self.side).then(|| n + self.side),
        }
    }

    /// Where a list of ports leads, and the ports that lead back; `None` if somebody drops what goes along it.
    fn follow(&self, from: usize, ports: &[u8]) -> Option<(usize, Vec<u8>)> {
        let (mut at, mut back) = (from, Vec::new());
        for (hop, port) in decode_ports(ports).unwrap().into_iter().enumerate() {
            if hop > 0 && self.droppers.contains(&at) {
                return None;
            }
            let direction = usize::from(port.0) - 1;
            at = self.next(at, direction)?;
            back.insert(0, 1 + (direction as u8 ^ 1));
        }
        Some((at, back))
    }

    /// Carries questions and answers until nobody has any, then lets time pass until the next is given up.
    fn run(&mut self, from: usize) {
        for _ in 0..2000 {
            let mut quiet = true;
            for n in 0..self.maps.len() {
                while let Some(Outbound { to, body, .. }) = self.maps[n].poll_packet() {
                    quiet = false;
                    let Destination::Back(ports) = to else { panic!("maps go along ports") };
                    let Some((at, back)) = self.follow(n, &ports) else { continue };
                    let (now, blame) = (self.now, &self.blame);
                    self.maps[at].handle_packet(
                        Port(1),
                        &back,
                        body.as_slice(),
                        blame,
                        &mut self.entropy,
                        now,
                    );
                }
            }
            if quiet {
                let Some(at) = self.maps[from].poll_timeout() else { return };
                self.now = self.now.max(at);
                let now = self.now;
                self.maps[from].handle_timeout(&self.blame, &mut self.entropy, now);
            }
        }
        panic!("it does not end");
    }

    fn want(&mut self, from: usize, to: usize) {
        let (node, locator) = (self.maps[to].secret.id(), self.maps[to].own.clone());
        let now = self.now;
        self.maps[from].want(node, locator, &self.blame, &mut self.entropy, now);
        self.run(from);
    }

    fn of(&self, sid: &Sid) -> usize {
        self.maps.iter().position(|map| map.me == *sid).unwrap()
    }
}

#[test]
fn the_way_is_found_with_questions_to_those_on_it() {
    let mut grid = Grid::new(12);
    grid.want(0, 143);
    let (node, links) = grid.maps[0].poll_found().expect("found");
    assert_eq!(node, grid.maps[143].secret.id());
    assert!(links.iter().any(|link| grid.of(&link.to) == 143));
    let stats = grid.maps[0].stats();
    println!("{} questions for {} hops", stats.questions, 22);
    assert!(stats.questions <= 80, "{}", stats.questions);
    assert_eq!((stats.searches, stats.found), (1, 1));
}

#[test]
fn it_widens_around_those_who_drop() {
    let mut grid = Grid::new(10);
    // A wall with one gap, far from the straight way.
    grid.droppers = (0..9).map(|y| 5 + 10 * y).collect();
    grid.want(0, 9);
    let mut links = Vec::new();
    while let Some((_, more)) = grid.maps[0].poll_found() {
        links = more;
    }
    assert!(links.iter().any(|link| grid.of(&link.to) == 9), "the way through the gap is found");
    let stats = grid.maps[0].stats();
    println!("{} questions", stats.questions);
    assert!(stats.questions <= 150);
    let gap = grid.maps[95].me;
    assert!(links.iter().any(|link| link.from == gap));
}

#[test]
fn a_link_that_only_one_end_tells_of_is_not_followed() {
    let mut grid = Grid::new(5);
    // Node 6 says that the destination's neighbour is its peer; that one does not.
    let liar = grid.maps[23].me;
    grid.maps[6].handle_link(liar, Port(9), Span { cost: 1, size: 65 });
    grid.want(0, 24);
    let mut links = Vec::new();
    while let Some((_, more)) = grid.maps[0].poll_found() {
        links = more;
    }
    assert!(!links.is_empty());
    assert!(links.iter().all(|link| link.from != grid.maps[6].me || link.to != liar));
}

#[test]
fn who_is_not_there_costs_a_bounded_number_of_questions() {
    let mut grid = Grid::new(15);
    let (nobody, locator) = (SecretKey::from_seed([250; 32]).id(), grid.maps[200].own.clone());
    for _ in 0..50 {
        let now = grid.now;
        grid.maps[0].want(nobody, locator.clone(), &grid.blame, &mut grid.entropy, now);
        grid.run(0);
    }
    assert!(grid.maps[0].poll_found().is_none());
    let stats = grid.maps[0].stats();
    assert!(stats.questions as usize <= ASKED_MAX + 30, "{} questions, then a rest", stats.questions);
    assert!(grid.maps[0].goals.len() <= GOALS_MAX && grid.maps[0].known.len() <= KNOWN_MAX);
}

#[test]
fn answers_are_rationed_and_cost_one_signature_a_change() {
    let mut grid = Grid::new(3);
    let mut body = Vec::new();
    MapGet { nonce: 1, skip: 0 }.encode(&mut body);
    let now = grid.now;
    for _ in 0..5000 {
        grid.maps[4].handle_packet(Port(1), &[1], &body, &grid.blame, &mut grid.entropy, now);
    }
    assert!(grid.maps[4].stats().answers <= 256);
    assert_eq!(grid.maps[4].pages.len(), 1, "signed once");
    // Others are served, and a change is signed anew.
    grid.maps[4].handle_link(Sid::from_bytes([1; 8]), Port(9), Span { cost: 1, size: 6 });
    assert!(grid.maps[4].pages.is_empty());
    let answers = grid.maps[4].stats().answers;
    grid.maps[4].handle_packet(Port(2), &[1], &body, &grid.blame, &mut grid.entropy, now);
    assert_eq!(grid.maps[4].stats().answers, answers + 1);
    for skip in 0..=255 {
        let mut body = Vec::new();
        MapGet { nonce: 1, skip }.encode(&mut body);
        grid.maps[4].handle_packet(Port(3), &[1], &body, &grid.blame, &mut grid.entropy, now);
        assert!(grid.maps[4].pages.len() <= 9);
    }
    // An answer to nothing is not even looked at.
    let page = MapPage::body(77, &grid.maps[4].pages[&0].clone());
    let dropped = grid.maps[0].stats().dropped_body;
    grid.maps[0].handle_packet(Port(1), &[1], &page, &grid.blame, &mut grid.entropy, now);
    assert_eq!(grid.maps[0].stats().dropped_body, dropped + 1);
    assert!(grid.maps[0].known.is_empty());
}
