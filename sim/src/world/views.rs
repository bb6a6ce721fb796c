//! What can be asked of a world.

use std::{collections::BTreeMap, time::Duration};

use router::{Instant, NodeId, Router, Stats};

use super::{Happened, World, node::Node};
use crate::{adversary::Malice, link::unit, topology::Graph, trace::Traces};

impl World {
    /// Virtual time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Number of nodes, those that are down too.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of links.
    pub fn edges(&self) -> usize {
        self.ground.edges.len()
    }

    /// The two nodes of a link.
    pub fn ends(&self, edge: usize) -> [usize; 2] {
        self.ground.edges[edge].ends
    }

    /// A node's key.
    pub fn key(&self, node: usize) -> NodeId {
        self.node_at(node).key
    }

    /// The number of a key.
    pub fn node(&self, key: &NodeId) -> Option<usize> {
        self.numbers.get(key).map(|&number| number as usize)
    }

    /// Since when a node has been up.
    pub fn up_since(&self, node: usize) -> Option<Instant> {
        let entry = self.node_at(node);
        entry.router.is_some().then_some(entry.since)
    }

    /// Makes a node do what an honest one does not.
    pub fn corrupt(&mut self, node: usize, malice: Malice) {
        self.node_mut(node).malice = Some(Box::new(malice));
        self.ground.villains[node] = true;
    }

    /// Whether it does only what an honest node does.
    pub fn is_honest(&self, node: usize) -> bool {
        !self.ground.villains[node]
    }

    /// Changes whenever a node or a link comes or goes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Links of a node that the network has.
    pub fn degree(&self, node: usize) -> usize {
        self.edges_of[node].iter().filter(|&&edge| self.ground.edges[edge as usize].exists).count()
    }

    /// The links of a node, those that are cut too.
    pub fn edges_of(&self, node: usize) -> &[u32] {
        &self.edges_of[node]
    }

    /// Whether the network has the link now.
    pub fn has_link(&self, edge: usize) -> bool {
        self.ground.edges[edge].exists
    }

    /// A node's router, if it is up.
    pub fn router(&self, node: usize) -> Option<&Router> {
        self.node_at(node).router.as_ref()
    }

    fn all(&self) -> impl Iterator<Item = &Node> {
        (0..self.len).map(|node| self.node_at(node))
    }

    /// All nodes that are up.
    pub fn routers(&self) -> impl Iterator<Item = (usize, &Router)> {
        self.all().enumerate().filter_map(|(number, node)| Some((number, node.router.as_ref()?)))
    }

    /// The links between nodes that are up, as a graph of latencies.
    pub fn graph(&self) -> Graph {
        self.graph_of(|node| self.node_at(node).router.is_some())
    }

    /// The links between honest nodes that are up: nobody else need pass anything on.
    pub fn honest_graph(&self) -> Graph {
        self.graph_of(|node| self.node_at(node).router.is_some() && !self.ground.villains[node])
    }

    fn graph_of(&self, keeps: impl Fn(usize) -> bool) -> Graph {
        let links = self
            .ground
            .edges
            .iter()
            .filter(|edge| edge.exists && edge.ends.iter().all(|&node| keeps(node)))
            .map(|edge| (edge.ends[0], edge.ends[1], edge.shape.latency));
        Graph::new(self.len, links)
    }

    /// The component of every node that is up.
    pub fn components(&self) -> Vec<Option<usize>> {
        self.graph().components(|node| self.node_at(node).router.is_some())
    }

    /// The component of every honest node that is up, ways through others not counted.
    pub fn honest_components(&self) -> Vec<Option<usize>> {
        self.honest_graph()
            .components(|node| self.node_at(node).router.is_some() && !self.ground.villains[node])
    }

    /// The counters of all nodes that are up, added.
    pub fn stats(&self) -> Vec<Stats> {
        self.routers().map(|(_, router)| router.stats()).collect()
    }

    /// All bytes that nodes which are up have sent, or that came over links to them, by what they are for.
    pub fn bytes_by_kind(&self) -> BTreeMap<&'static str, u64> {
        let mut kinds = BTreeMap::new();
        let stats = self.stats();
        let control = stats.iter().flat_map(|stats| stats.control_kinds.iter());
        for (name, bytes) in control.chain(self.traces.bytes_by_kind()).filter(|(_, bytes)| *bytes > 0) {
            *kinds.entry(name).or_default() += bytes;
        }
        kinds
    }

    /// Takes what happened since the last call.
    pub fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// How packets fared.
    pub fn traces(&self) -> &Traces {
        &self.traces
    }

    /// The same, to be set and emptied.
    pub fn traces_mut(&mut self) -> &mut Traces {
        &mut self.traces
    }

    /// A node whose router wants to be called over and over without time passing.
    pub fn stuck(&self) -> Option<usize> {
        self.shards.iter().find_map(|shard| shard.stuck)
    }

    /// Events and frames so far.
    pub fn counts(&self) -> (u64, u64) {
        self.shards
            .iter()
            .fold((0, 0), |(events, frames), shard| (events + shard.events, frames + shard.frames))
    }

    /// Connections that routers gave up.
    pub fn links_closed(&self) -> u64 {
        self.shards.iter().map(|shard| shard.closed).sum()
    }

    /// A hash over every frame that arrived, when and on which link.
    pub fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for node in self.all() {
            hasher.update(&node.digest.bytes());
        }
        hasher.finalize().to_hex()[..32].to_owned()
    }

    /// A latency drawn from a range, by the world's chance.
    pub fn draw(&mut self, from: Duration, to: Duration) -> Duration {
        from + (to - from).mul_f64(unit(&mut self.rng))
    }
}
