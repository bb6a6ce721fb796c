//! Owns what is known of the network between this node and one other: a graph of hops, merged from records and replies,
//! and the best, diverse paths through it.
use crate::id::{Port, Sid};
use crate::time::{Duration, Instant};
use crate::wire::Writer;
use crate::wire::data::split_port;
use crate::wire::record::{Entry, HOPS_MAX, Span};
use crate::wire::{Record, Reply};
use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The peers of this node: what lies behind which port, and what the link takes.
pub type Neighbours = BTreeMap<Sid, (Port, Span)>;

/// The graph between two nodes.
#[derive(Debug)]
pub struct View {
    nodes: Vec<Node>,
    index: BTreeMap<Sid, u16>,
}

#[derive(Debug)]
struct Node {
    sid: Sid,
    edges: Vec<Edge>,
}

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: u16,
    port: Port,
    span: Span,
    /// A packet has really taken it.
    proved: bool,
    seen: Instant,
}

/// A way to the destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// Ports to go out of, this node's first, encoded.
    pub ports: Bytes,
    /// Who is on it, the destination last; empty if unknown.
    pub nodes: Vec<Sid>,
    /// Milliseconds one way, as announced.
    pub cost: u32,
    /// Largest frame it takes, in bytes.
    pub frame_max: usize,
}

/// A link as the verified map has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeenLink {
    /// Whose port it is.
    pub from: Sid,
    /// Who is there.
    pub to: Sid,
    /// The port.
    pub port: Port,
    /// The link.
    pub span: Span,
}

/// This node, in [`View::nodes`].
const ME: u16 = 0;
/// The destination.
const THERE: u16 = 1;

impl View {
    /// Nothing known.
    pub fn new(me: Sid, there: Sid) -> Self {
        let node = |sid| Node { sid, edges: Vec::new() };
        Self { nodes: vec![node(me), node(there)], index: BTreeMap::from([(me, ME), (there, THERE)]) }
    }

    /// A packet of ours has come back with its reply: `way` are the ports that it took from here, as the reply gathered
    /// them. False: the reply says something else, and is not believed.
    pub fn learn_reply(&mut self, way: &[u8], reply: &Reply<'_>, now: Instant) -> bool {
        let Some(hops) = self.check(way, &reply.record, false) else { return false };
        let nodes = self.take_in(&hops, &reply.record, false, now);
        let mut last = u8::MAX;
        for chord in reply.chords() {
            let Ok(chord) = chord else { break };
            // They were added from the destination's end on: who speaks out of turn speaks for another.
            if chord.from > last || chord.to <= chord.from + 1 {
                break;
            }
            last = chord.from;
            let ends = (nodes.get(usize::from(chord.from)), nodes.get(usize::from(chord.to)));
            if let (Some(&Some(from)), Some(&Some(to))) = ends {
                self.connect(from, to, chord.port, chord.link, false, now);
            }
        }
        true
    }

    /// A packet of theirs has come with its record: `way` are the ports that lead back. False: the record says something
    /// else, and is not believed.
    pub fn learn_record(&mut self, way: &[u8], record: &Record<'_>, now: Instant) -> bool {
        let Some(hops) = self.check(way, record, true) else { return false };
        self.take_in(&hops, record, true, now);
        true
    }

    /// Links that both their ends told of. No packet has taken them yet.
    pub fn learn_links(&mut self, links: &[SeenLink], now: Instant) {
        if self.nodes.len() + links.len() / 2 > NODES_MAX {
            self.prune(now);
        }
        for link in links {
            if let (Some(from), Some(to)) = (self.place(link.from), self.place(link.to)) {
                self.connect(from, to, link.port, link.span, false, now);
            }
        }
    }

    /// The hops of a record, if it agrees with the ports: those out of which we go, or those that lead back.
    fn check(&self, way: &[u8], record: &Record<'_>, backwards: bool) -> Option<Vec<Entry>> {
        let hops: Vec<Entry> = record.iter().collect::<Result<_, _>>().ok()?;
        let mut ports = Vec::with_capacity(hops.len());
        let mut left = way;
        while let Some((port, rest)) = split_port(left).ok()? {
            ports.push(port);
            left = rest;
        }
        // The first is this node's own.
        let ports = ports.get(1..)?;
        if hops.len() > ports.len() || hops.len() < ports.len() && !record.full {
            return None;
        }
        let agrees = if backwards {
            hops.iter().zip(ports.iter().rev()).all(|(hop, port)| hop.in_port == *port)
        } else {
            hops.iter().zip(ports).all(|(hop, port)| hop.out_port == *port)
        };
        agrees.then_some(hops)
    }

    /// Adds the links of a record, in both directions. Gives the places of its hops.
    fn take_in(
        &mut self,
        hops: &[Entry],
        record: &Record<'_>,
        backwards: bool,
        now: Instant,
    ) -> Vec<Option<u16>> {
        if self.nodes.len() + hops.len() > NODES_MAX {
            self.prune(now);
        }
        let nodes: Vec<Option<u16>> = hops.iter().map(|hop| self.place(hop.sid)).collect();
        for (at, pair) in hops.windows(2).enumerate() {
            if let (Some(here), Some(next)) = (nodes[at], nodes[at + 1]) {
                self.connect(here, next, pair[0].out_port, pair[0].link, true, now);
                self.connect(next, here, pair[1].in_port, pair[0].link, true, now);
            }
        }
        match (hops.first(), hops.last(), nodes.first(), nodes.last()) {
            (Some(first), _, Some(&Some(node)), _) if backwards => {
                self.connect(node, THERE, first.in_port, record.first, true, now);
            }
            (_, Some(last), _, Some(&Some(node))) if !backwards && !record.full => {
                self.connect(node, THERE, last.out_port, last.link, true, now);
            }
            _ => {}
        }
        nodes
    }

    /// The place of a node, made if there is room.
    fn place(&mut self, sid: Sid) -> Option<u16> {
        if let Some(&at) = self.index.get(&sid) {
            return Some(at);
        }
        if self.nodes.len() >= NODES_MAX {
            return None;
        }
        let at = self.nodes.len() as u16;
        self.nodes.push(Node { sid, edges: Vec::new() });
        self.index.insert(sid, at);
        Some(at)
    }

    fn connect(&mut self, from: u16, to: u16, port: Port, span: Span, proved: bool, now: Instant) {
        // This node's own links are known better elsewhere, and nobody passes through the destination.
        if from == to || from == ME || from == THERE {
            return;
        }
        let edges = &mut self.nodes[usize::from(from)].edges;
        let edge = Edge { to, port, span, proved, seen: now };
        if let Some(known) = edges.iter_mut().find(|known| known.to == to) {
            if proved || !known.proved || now - known.seen > FRESH {
                *known = edge;
            }
            return;
        }
        if edges.len() >= EDGES_MAX {
            let oldest = (0..edges.len()).min_by_key(|&at| (edges[at].proved, edges[at].seen)).unwrap_or(0);
            edges.swap_remove(oldest);
        }
        edges.push(edge);
    }

    /// Forgets what was not seen lately.
    fn prune(&mut self, now: Instant) {
        let (me, there) = (self.nodes[usize::from(ME)].sid, self.nodes[usize::from(THERE)].sid);
        let old = std::mem::replace(self, Self::new(me, there));
        for node in &old.nodes {
            for edge in node.edges.iter().filter(|edge| now - edge.seen <= FRESH) {
                let (from, to) = (self.place(node.sid), self.place(old.nodes[usize::from(edge.to)].sid));
                if let (Some(from), Some(to)) = (from, to) {
                    self.connect(from, to, edge.port, edge.span, edge.proved, edge.seen);
                }
            }
        }
    }

    /// Up to `count` paths, the best first; each avoids the nodes of those before. `dear` says how many times dearer a link
    /// is than announced (from, to, announced cost). O(count x edges x log edges).
    pub fn paths(
        &self,
        neighbours: &Neighbours,
        count: usize,
        dear: impl Fn(&Sid, &Sid, u8) -> f32,
        now: Instant,
    ) -> Vec<Path> {
        let mut found: Vec<Path> = Vec::with_capacity(count);
        let mut surcharge = vec![0u32; self.nodes.len()];
        let mut direct = true;
        while found.len() < count {
            let Some((path, steps)) = self.cheapest(neighbours, direct, &surcharge, &dear, now) else {
                break;
            };
            // A peer's own link has no nodes to avoid: the others do without it.
            direct &= steps.len() > 1;
            if found.iter().any(|known| known.ports == path.ports) {
                break;
            }
            let mean = steps.iter().map(|step| step.weight).sum::<u32>() / steps.len().max(1) as u32;
            for step in &steps {
                let extra = &mut surcharge[usize::from(step.to)];
                *extra = extra.saturating_add(mean.saturating_mul(USED_HOPS));
            }
            found.push(path);
        }
        found
    }

    fn cheapest(
        &self,
        neighbours: &Neighbours,
        direct: bool,
        surcharge: &[u32],
        dear: &impl Fn(&Sid, &Sid, u8) -> f32,
        now: Instant,
    ) -> Option<(Path, Vec<Step>)> {
        let sid = |at: u16| &self.nodes[usize::from(at)].sid;
        let weigh = |from: u16, to: u16, span: Span| {
            let weight = f32::from(span.cost) * WEIGHT * dear(sid(from), sid(to), span.cost);
            weight.clamp(1.0, WEIGHT_MAX) as u32
        };
        let mut best: Vec<Option<Step>> = vec![None; self.nodes.len()];
        let mut done = vec![false; self.nodes.len()];
        let mut queue = BinaryHeap::new();
        let reach = |best: &mut Vec<Option<Step>>,
                     queue: &mut BinaryHeap<_>,
                     step: Step,
                     hops: usize,
                     before: u32| {
            if hops > HOPS_MAX {
                return;
            }
            let extra = if step.to == THERE { 0 } else { surcharge[usize::from(step.to)] };
            let total = before.saturating_add(step.weight).saturating_add(extra);
            let known = &mut best[usize::from(step.to)];
            if known.as_ref().is_none_or(|known| total < known.total) {
                *known = Some(Step { total, ..step });
                queue.push(Reverse((total, hops, step.to)));
            }
        };
        for (peer, &(port, span)) in neighbours {
            if let Some(&to) = self.index.get(peer).filter(|&&to| to != ME && (direct || to != THERE)) {
                let step = Step { from: ME, to, port, span, weight: weigh(ME, to, span), total: 0 };
                reach(&mut best, &mut queue, step, 1, 0);
            }
        }
        while let Some(Reverse((total, hops, at))) = queue.pop() {
            if at == THERE {
                break;
            }
            if std::mem::replace(&mut done[usize::from(at)], true) {
                continue;
            }
            for edge in &self.nodes[usize::from(at)].edges {
                if edge.to != ME && !done[usize::from(edge.to)] && now - edge.seen <= KEPT {
                    let weight = weigh(at, edge.to, edge.span);
                    let step =
                        Step { from: at, to: edge.to, port: edge.port, span: edge.span, weight, total: 0 };
                    reach(&mut best, &mut queue, step, hops + 1, total);
                }
            }
        }
        let mut steps = Vec::new();
        let mut at = THERE;
        while at != ME {
            let step = best[usize::from(at)]?;
            at = step.from;
            steps.push(step);
        }
        steps.reverse();
        let mut ports = Vec::with_capacity(steps.len() + 4);
        steps.iter().for_each(|step| ports.put_port(step.port));
        let path = Path {
            ports: ports.into(),
            nodes: steps.iter().map(|step| *sid(step.to)).collect(),
            cost: steps.iter().map(|step| u32::from(step.span.cost)).sum(),
            frame_max: steps.iter().map(|step| step.span.frame_max()).min().unwrap_or_default(),
        };
        Some((path, steps))
    }

    /// Nodes known, this one and the destination included.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Is nothing known but the two ends?
    pub fn is_empty(&self) -> bool {
        self.nodes.len() <= 2
    }
}

#[derive(Clone, Copy, Debug)]
struct Step {
    from: u16,
    to: u16,
    port: Port,
    span: Span,
    weight: u32,
    total: u32,
}

/// Nodes of one view: five ways of 94 hops (the 99th percentile in wireless meshes of 10 000) that share little.
pub const NODES_MAX: usize = 512;
/// Links kept of one node.
const EDGES_MAX: usize = 16;
/// A node that another path uses counts as so many hops more.
const USED_HOPS: u32 = 3;
/// A claim outlives a proof by so much; more than the time between refreshes.
const FRESH: Duration = Duration::from_secs(130);
/// A link that was not heard of for so long is no longer used.
const KEPT: Duration = Duration::from_secs(300);
/// Weights are whole numbers: so many for a millisecond.
const WEIGHT: f32 = 16.0;
/// A link that is as good as dead: a second way round of 255 of them still sums up.
const WEIGHT_MAX: f32 = 1_000_000.0;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Chord;
    use proptest::prelude::*;

    const NOW: Instant = Instant::from_micros(1_000_000);

    fn sid(n: u8) -> Sid {
        Sid::from_bytes([n; 8])
    }

    fn span(cost: u8) -> Span {
        Span { cost, size: 64 }
    }

    /// Hops with these names; hop n goes out by port n and came in by port 100 + n.
    fn record(names: &[u8], cost: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        Record::new(span(cost)).encode(None, &mut bytes);
        for &n in names {
            let entry = Entry {
                sid: sid(n),
                in_port: Port(u16::from(n) + 100),
                out_port: Port(u16::from(n)),
                link: span(cost),
            };
            let mut longer = Vec::new();
            Record::split(&bytes).unwrap().0.encode(Some(&entry), &mut longer);
            bytes = longer;
        }
        bytes
    }

    fn way(ports: &[u8]) -> Vec<u8> {
        crate::wire::data::encode_ports(&ports.iter().map(|&port| Port(port.into())).collect::<Vec<_>>())
    }

    fn neighbours(all: &[(u8, u16)]) -> Neighbours {
        all.iter().map(|&(n, port)| (sid(n), (Port(port), span(1)))).collect()
    }

    fn names(path: &Path) -> Vec<u8> {
        path.nodes.iter().map(|sid| sid.as_bytes()[0]).collect()
    }

    fn plain(_: &Sid, _: &Sid, _: u8) -> f32 {
        1.0
    }

    #[test]
    fn ways_are_merged_and_a_chord_shortens_them() {
        let mut view = View::new(sid(0), sid(99));
        let peers = neighbours(&[(1, 7), (5, 8)]);
        let first = record(&[1, 2, 3, 4], 3);
        let chord = Chord { from: 1, to: 3, port: Port(44), link: span(1) };
        let mut reply = Vec::new();
        Reply { record: Record::split(&first).unwrap().0, chords: &[] }.encode(&[chord], &mut reply);
        assert!(view.learn_reply(&way(&[7, 1, 2, 3, 4]), &Reply::split(&reply).unwrap().0, NOW));
        let paths = view.paths(&peers, 4, plain, NOW);
        assert_eq!(names(&paths[0]), [1, 2, 4, 99]);
        assert_eq!(paths[0].ports, way(&[7, 1, 44, 4]));
        assert_eq!((paths[0].cost, paths[0].frame_max), (1 + 3 + 1 + 3, 64 * 256));
        let other = record(&[5, 6, 4], 9);
        assert!(!view.learn_record(&way(&[8, 105 + 1, 105, 50]), &Record::split(&other).unwrap().0, NOW));
        let second = record(&[5, 6], 9);
        let mut reply = Vec::new();
        Reply { record: Record::split(&second).unwrap().0, chords: &[] }.encode(&[], &mut reply);
        assert!(view.learn_reply(&way(&[8, 5, 6]), &Reply::split(&reply).unwrap().0, NOW));
        let paths = view.paths(&peers, 4, plain, NOW);
        assert_eq!(names(&paths[0]), [1, 2, 4, 99]);
        assert_eq!(names(&paths[1]), [5, 6, 99], "the second one avoids the first one's nodes");
        let dear = |from: &Sid, _: &Sid, _: u8| if *from == sid(2) { 100.0 } else { 1.0 };
        assert_eq!(names(&view.paths(&peers, 4, dear, NOW)[0]), [5, 6, 99]);
        assert!(view.paths(&peers, 4, plain, NOW + KEPT + KEPT).is_empty());
    }

    #[test]
    fn the_way_of_their_packet_leads_back() {
        let mut view = View::new(sid(0), sid(99));
        // It went 99, 3, 2, 1 and came in here by port 7.
        let bytes = record(&[3, 2, 1], 4);
        assert!(view.learn_record(&way(&[7, 101, 102, 103]), &Record::split(&bytes).unwrap().0, NOW));
        let paths = view.paths(&neighbours(&[(1, 7)]), 4, plain, NOW);
        assert_eq!(paths.len(), 1);
        assert_eq!(paths[0].ports, way(&[7, 101, 102, 103]));
    }

    #[test]
    fn what_disagrees_with_the_ports_is_not_believed() {
        let mut view = View::new(sid(0), sid(99));
        let bytes = record(&[1, 2, 3], 3);
        let reply = Reply { record: Record::split(&bytes).unwrap().0, chords: &[] };
        for wrong in [&[7, 1, 2, 4][..], &[7, 1, 2], &[7, 1, 2, 3, 4], &[7], &[]] {
            assert!(!view.learn_reply(&way(wrong), &reply, NOW), "{wrong:?}");
        }
        assert!(view.is_empty());
        let cut = Record { full: true, ..reply.record };
        assert!(view.learn_reply(&way(&[7, 1, 2, 3, 4, 5]), &Reply { record: cut, ..reply }, NOW));
        assert!(
            view.paths(&neighbours(&[(1, 7)]), 4, plain, NOW).is_empty(),
            "it ends before the destination"
        );
    }

    #[test]
    fn a_way_that_goes_in_circles_gives_one_that_does_not() {
        let mut view = View::new(sid(0), sid(99));
        let bytes = record(&[1, 2, 3, 1, 4], 3);
        let reply = Reply { record: Record::split(&bytes).unwrap().0, chords: &[] };
        assert!(view.learn_reply(&way(&[7, 1, 2, 3, 1, 4]), &reply, NOW));
        let paths = view.paths(&neighbours(&[(1, 7)]), 4, plain, NOW);
        assert_eq!(names(&paths[0]), [1, 4, 99]);
    }

    #[test]
    fn a_stranger_cannot_make_it_grow() {
        let mut view = View::new(sid(0), sid(99));
        for round in 0..40u16 {
            let mut bytes = Vec::new();
            Record::new(span(1)).encode(None, &mut bytes);
            let mut ports = vec![Port(7)];
            for n in 0..90u16 {
                let mut name = [1; 8];
                name[..4].copy_from_slice(&(u32::from(round) * 1000 + u32::from(n)).to_be_bytes());
                let entry = Entry {
                    sid: Sid::from_bytes(name),
                    in_port: Port(1),
                    out_port: Port(n + 1),
                    link: span(1),
                };
                let mut longer = Vec::new();
                Record::split(&bytes).unwrap().0.encode(Some(&entry), &mut longer);
                bytes = longer;
                ports.push(Port(n + 1));
            }
            let reply = Reply { record: Record::split(&bytes).unwrap().0, chords: &[] };
            assert!(view.learn_reply(&crate::wire::data::encode_ports(&ports), &reply, NOW));
            assert!(view.len() <= NODES_MAX);
        }
    }

    proptest! {
        #[test]
        fn any_lists_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200), ports in proptest::collection::vec(1u8..20, 0..8)) {
            let mut view = View::new(sid(0), sid(99));
            if let Ok((reply, _)) = Reply::split(&bytes) {
                view.learn_reply(&way(&ports), &reply, NOW);
                view.learn_record(&way(&ports), &reply.record, NOW);
            }
            view.paths(&neighbours(&[(1, 7)]), 4, plain, NOW);
        }
    }
}
