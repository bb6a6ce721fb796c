//! Who is linked to whom, and shortest ways to compare with.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    time::Duration,
};

use rand_chacha::ChaCha8Rng;

use crate::link::below;

/// Kinds of networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Topology {
    /// A square of nodes, each linked to its four neighbours: a wireless mesh.
    Grid,
    /// A connected random graph of average degree 4.
    Random,
    /// Barabási–Albert with two links for each new node: the Internet.
    ScaleFree,
    /// One after the other.
    Line,
    /// A line whose ends meet.
    Ring,
}

impl Topology {
    /// The name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Grid => "grid",
            Self::Random => "random",
            Self::ScaleFree => "scale-free",
            Self::Line => "line",
            Self::Ring => "ring",
        }
    }

    /// Links as pairs of nodes `0..nodes`, the lesser number first, each pair once, connected.
    pub fn links(self, nodes: usize, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        match self {
            Self::Grid => grid(nodes),
            Self::Random => random(nodes, rng),
            Self::ScaleFree => scale_free(nodes, rng),
            Self::Line => (1..nodes).map(|node| (node - 1, node)).collect(),
            Self::Ring => {
                let mut links: Vec<_> = (1..nodes).map(|node| (node - 1, node)).collect();
                if nodes > 2 {
                    links.push((0, nodes - 1));
                }
                links
            }
        }
    }

    /// The range of one-way latencies of its links: cables and radio are short, the Internet is not.
    pub fn latencies(self) -> (Duration, Duration) {
        match self {
            Self::Grid | Self::Line | Self::Ring => (Duration::from_millis(2), Duration::from_millis(2)),
            Self::Random | Self::ScaleFree => (Duration::from_millis(2), Duration::from_millis(40)),
        }
    }
}

fn grid(nodes: usize) -> Vec<(usize, usize)> {
    let width = (1..).find(|width| width * width >= nodes).expect("some square is large enough");
    let mut links = Vec::new();
    for node in 0..nodes {
        if node % width + 1 < width && node + 1 < nodes {
            links.push((node, node + 1));
        }
        if node + width < nodes {
            links.push((node, node + width));
        }
    }
    links
}

fn random(nodes: usize, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
    let mut links: BTreeSet<(usize, usize)> = (1..nodes).map(|node| (below(rng, node), node)).collect();
    let complete = nodes * nodes.saturating_sub(1) / 2;
    while links.len() < (2 * nodes).min(complete) {
        let (a, b) = (below(rng, nodes), below(rng, nodes));
        if a != b {
            links.insert((a.min(b), a.max(b)));
        }
    }
    links.into_iter().collect()
}

fn scale_free(nodes: usize, rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
    const LINKS: usize = 2;
    let mut links = Vec::new();
    // Every end of every link once: drawing from it prefers nodes with many links.
    let mut ends = vec![0];
    for node in 1..nodes {
        let mut chosen = BTreeSet::new();
        while chosen.len() < LINKS.min(node) {
            chosen.insert(ends[below(rng, ends.len())]);
        }
        for other in chosen {
            links.push((other, node));
            ends.extend([other, node]);
        }
    }
    links
}

/// The network as a graph of latencies, for shortest ways.
#[derive(Debug, Clone, Default)]
pub struct Graph {
    neighbours: Vec<Vec<(usize, Duration)>>,
}

impl Graph {
    /// A graph of these links.
    pub fn new(nodes: usize, links: impl IntoIterator<Item = (usize, usize, Duration)>) -> Self {
        let mut neighbours = vec![Vec::new(); nodes];
        for (a, b, latency) in links {
            neighbours[a].push((b, latency));
            neighbours[b].push((a, latency));
        }
        Self { neighbours }
    }

    /// The least latency from a node to each; `None` where no way leads.
    pub fn distances(&self, from: usize) -> Vec<Option<Duration>> {
        let mut distances = vec![None; self.neighbours.len()];
        let mut heap = BinaryHeap::from([Reverse((Duration::ZERO, from))]);
        while let Some(Reverse((distance, node))) = heap.pop() {
            if distances[node].is_some() {
                continue;
            }
            distances[node] = Some(distance);
            for &(next, latency) in &self.neighbours[node] {
                if distances[next].is_none() {
                    heap.push(Reverse((distance + latency, next)));
                }
            }
        }
        distances
    }

    /// The component of each node of `alive`, as the least number in it.
    pub fn components(&self, alive: impl Fn(usize) -> bool) -> Vec<Option<usize>> {
        let mut component = vec![None; self.neighbours.len()];
        for start in 0..self.neighbours.len() {
            if component[start].is_some() || !alive(start) {
                continue;
            }
            let mut open = vec![start];
            while let Some(node) = open.pop() {
                if component[node].is_none() && alive(node) {
                    component[node] = Some(start);
                    open.extend(self.neighbours[node].iter().map(|&(next, _)| next));
                }
            }
        }
        component
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    #[test]
    fn every_kind_is_connected_and_simple() {
        for topology in
            [Topology::Grid, Topology::Random, Topology::ScaleFree, Topology::Line, Topology::Ring]
        {
            for nodes in [1, 2, 3, 10, 25, 200] {
                let links = topology.links(nodes, &mut ChaCha8Rng::seed_from_u64(nodes as u64));
                let unique: BTreeSet<_> = links.iter().collect();
                assert_eq!(unique.len(), links.len(), "{topology:?} {nodes}");
                assert!(links.iter().all(|&(a, b)| a < b && b < nodes), "{topology:?} {nodes}");
                let graph = Graph::new(nodes, links.iter().map(|&(a, b)| (a, b, Duration::from_millis(1))));
                assert!(graph.components(|_| true).iter().all(|&c| c == Some(0)), "{topology:?} {nodes}");
            }
        }
        assert_eq!(Topology::Grid.links(25, &mut ChaCha8Rng::seed_from_u64(1)).len(), 40);
        assert_eq!(Topology::ScaleFree.links(50, &mut ChaCha8Rng::seed_from_u64(1)).len(), 1 + 2 * 48);
    }

    #[test]
    fn distances_are_the_least() {
        let ms = Duration::from_millis;
        let graph = Graph::new(4, [(0, 1, ms(5)), (1, 2, ms(5)), (0, 2, ms(20))]);
        assert_eq!(graph.distances(0), [Some(ms(0)), Some(ms(5)), Some(ms(10)), None]);
    }
}
