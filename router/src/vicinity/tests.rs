//! Goal: the nearest nodes are reached by shortest ways, no circle forms, tables stay bounded. Method: nodes over a graph in
//! memory, told of each other in rounds of a second.
use super::*;
use crate::wire::Control;

struct Graph {
    nodes: Vec<Vicinity>,
    links: BTreeMap<(usize, usize), u8>,
    now: Instant,
    frames: usize,
    entries: usize,
}

fn sid(n: usize) -> Sid {
    let mut bytes = [0xee; 8];
    bytes[..2].copy_from_slice(&(n as u16).to_be_bytes());
    Sid::from_bytes(bytes)
}

fn port(n: usize) -> Port {
    Port(n as u16 + 1)
}

impl Graph {
    fn new(nodes: usize) -> Self {
        let now = Instant::from_micros(1_000_000);
        let nodes = (0..nodes).map(|n| Vicinity::new(sid(n), true, 1, now)).collect();
        Self { nodes, links: BTreeMap::new(), now, frames: 0, entries: 0 }
    }

    fn ring(nodes: usize) -> Self {
        let mut graph = Self::new(nodes);
        (0..nodes).for_each(|n| graph.join(n, (n + 1) % nodes, 2));
        graph
    }

    fn join(&mut self, a: usize, b: usize, cost: u8) {
        self.links.insert((a.min(b), a.max(b)), cost);
        let now = self.now;
        self.nodes[a].on_peer_up(port(b), sid(b), cost, now);
        self.nodes[b].on_peer_up(port(a), sid(a), cost, now);
    }

    fn cut(&mut self, a: usize, b: usize) {
        self.links.remove(&(a.min(b), a.max(b)));
        let now = self.now;
        self.nodes[a].on_peer_down(port(b), now);
        self.nodes[b].on_peer_down(port(a), now);
    }

    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            let now = self.now;
            for n in 0..self.nodes.len() {
                for (to, control) in self.nodes[n].handle_timeout(now) {
                    let Control::Vicinity { entries } = control else { panic!() };
                    self.frames += 1;
                    self.entries += entries.len();
                    let to = usize::from(to.0) - 1;
                    self.nodes[to].on_frame(port(n), &entries, now);
                }
                assert!(self.nodes[n].deadline().is_none_or(|at| at > now));
            }
        }
    }

    /// Follows the routes as packets do; the cost of the way, if it arrives.
    fn follow(&self, from: usize, to: usize) -> Option<u32> {
        let (mut at, mut mark, mut cost) = (from, u32::MAX, 0);
        while at != to {
            let (next, left) = self.nodes[at].route(&sid(to))?;
            if left >= mark {
                return None;
            }
            mark = left;
            let next = usize::from(next.0) - 1;
            cost += u32::from(self.links[&(at.min(next), at.max(next))]);
            at = next;
        }
        Some(cost)
    }
}

#[test]
fn those_in_sight_are_reached_by_the_shortest_way() {
    let mut graph = Graph::ring(20);
    graph.join(0, 10, 3);
    graph.run(25);
    assert_eq!(graph.follow(0, 5), Some(10));
    assert_eq!(graph.follow(1, 11), Some(2 + 3 + 2));
    for from in 0..20 {
        for to in 0..20 {
            assert!(graph.follow(from, to).is_some(), "{from} to {to}");
        }
    }
    // At rest nobody says anything until the seqs are renewed.
    let frames = graph.frames;
    graph.run(300);
    assert_eq!(graph.frames, frames);
}

#[test]
fn a_cut_is_healed_with_the_next_seq_and_nothing_counts_up() {
    let mut graph = Graph::ring(12);
    graph.run(20);
    graph.cut(0, 11);
    graph.entries = 0;
    graph.run(60);
    // Both ends of the link have told a new seq by now, and the others that are only seen the long way round were wished for one.
    assert_eq!(graph.follow(0, 11), Some(22));
    assert_eq!(graph.follow(11, 0), Some(22));
    println!("{} entries", graph.entries);
    assert!(graph.entries < 12 * 12 * 6, "{} entries", graph.entries);
    graph.run(60);
    for from in 0..12 {
        for to in 0..12 {
            assert!(graph.follow(from, to).is_some(), "{from} to {to}");
        }
    }
}

#[test]
fn a_node_that_is_gone_is_soon_out_of_sight() {
    let mut graph = Graph::ring(8);
    graph.run(15);
    graph.cut(3, 4);
    graph.cut(4, 5);
    graph.run(15);
    for n in [0, 1, 2, 3, 5, 6, 7] {
        assert!(graph.follow(n, 4).is_none());
        assert!(graph.nodes[n].route(&sid(4)).is_none(), "node {n}");
    }
}

#[test]
fn only_the_nearest_are_told_of() {
    let mut graph = Graph::ring(300);
    graph.run(60);
    for node in &graph.nodes {
        assert!((64..=80).contains(&node.len()), "{}", node.len());
        assert!(node.nodes.len() <= 2 * HEARD_MAX);
    }
    assert_eq!(graph.follow(0, 30), Some(60));
    assert_eq!(graph.nodes[0].route(&sid(150)), None);
}

#[test]
fn a_stranger_cannot_make_it_grow() {
    let mut graph = Graph::new(2);
    graph.join(0, 1, 1);
    for round in 0..200u32 {
        let entries: Vec<VicinityEntry> = (0..80)
            .map(|n| VicinityEntry {
                node: sid(100 + (round as usize * 80 + n) % 60_000),
                cost: 1,
                seq: round,
            })
            .collect();
        let now = graph.now;
        graph.nodes[0].on_frame(port(1), &entries, now);
    }
    assert!(graph.nodes[0].nodes.len() <= HEARD_MAX && graph.nodes[0].len() <= NEAR + NEAR_SPARE);
}
