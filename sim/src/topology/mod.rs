//! Who is linked to whom: the kinds of networks, drawn from a seed or read from a file, and shortest ways to compare with.

mod file;
mod graph;
mod plane;

use std::{collections::BTreeSet, fmt, path::PathBuf, str::FromStr, time::Duration};

use rand_chacha::ChaCha8Rng;

pub use graph::Graph;

use crate::link::{below, unit};

/// Kinds of networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Topology {
    /// A square of nodes, each linked to its four neighbours.
    Grid,
    /// A line whose ends meet.
    Ring,
    /// One after the other.
    Line,
    /// Every node but the first linked to a random earlier one.
    Tree,
    /// A connected random graph of average degree 4.
    Random,
    /// Barabási–Albert with two links for each new node: the Internet.
    ScaleFree,
    /// Points in a square, linked to all within reach, eight on average: a wireless mesh.
    UnitDisk,
    /// Clusters of 20 to 200 nodes, wireless or cabled, each behind 1 to 3 gateways to a scale-free core.
    Mixed,
    /// Read from a file: a list of edges (`a b [latency_ms [mbit_s [loss_percent]]]` a line) or GraphML; `.gz` is unpacked.
    File(PathBuf),
}

/// One cable or radio link of a network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cable {
    /// The lesser of its two nodes.
    pub a: u32,
    /// The greater.
    pub b: u32,
    /// Least and greatest one-way latency it may get.
    pub latency: (Duration, Duration),
    /// Bytes in a second, if this one is not like the others.
    pub rate: Option<u64>,
    /// Frames lost, 0..1, if this one is not like the others.
    pub loss: Option<f64>,
}

/// A whole network.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Network {
    /// How many nodes.
    pub nodes: usize,
    /// Its links, each pair at most once.
    pub cables: Vec<Cable>,
    /// Where the nodes are, in 0..1, if the network lies in a plane.
    pub places: Option<Vec<[f32; 2]>>,
}

/// Links of radio and local cables.
const SHORT: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(2));
/// Links over the Internet.
const LONG: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(40));
/// Mean degree of wireless meshes.
const DEGREE: f64 = 8.0;

impl Topology {
    /// The network of so many nodes. A file says itself how many it has.
    pub fn network(&self, nodes: usize, rng: &mut ChaCha8Rng) -> Result<Network, String> {
        let plain = |pairs: Vec<(usize, usize)>, latency| Network {
            nodes,
            cables: pairs.into_iter().map(|(a, b)| Cable::new(a, b, latency)).collect(),
            places: None,
        };
        Ok(match self {
            Self::Grid => {
                let width = square(nodes);
                let place =
                    |node| [(node % width) as f32 / width as f32, (node / width) as f32 / width as f32];
                Network { places: Some((0..nodes).map(place).collect()), ..plain(grid(nodes), SHORT) }
            }
            Self::Line => plain((1..nodes).map(|node| (node - 1, node)).collect(), SHORT),
            Self::Ring => {
                let mut links: Vec<_> = (1..nodes).map(|node| (node - 1, node)).collect();
                if nodes > 2 {
                    links.push((0, nodes - 1));
                }
                plain(links, SHORT)
            }
            Self::Tree => plain((1..nodes).map(|node| (below(rng, node), node)).collect(), SHORT),
            Self::Random => plain(random(nodes, rng), LONG),
            Self::ScaleFree => plain(scale_free(nodes, rng), LONG),
            Self::UnitDisk => {
                let (pairs, places) = plane::unit_disk(nodes, DEGREE, rng);
                Network { places: Some(places), ..plain(pairs, SHORT) }
            }
            Self::Mixed => mixed(nodes, rng),
            Self::File(path) => file::read(path)?,
        })
    }
}

impl Network {
    /// The same with a wireless mesh beside it, joined to it by one to three links: the added nodes come last, the joining
    /// links too. Returns how many links join.
    pub fn with_mesh(&mut self, size: usize, rng: &mut ChaCha8Rng) -> usize {
        let first = self.nodes;
        let (pairs, _) = plane::unit_disk(size, DEGREE, rng);
        self.cables.extend(pairs.into_iter().map(|(a, b)| Cable::new(first + a, first + b, SHORT)));
        self.nodes += size;
        self.places = None;
        let mut joints = BTreeSet::new();
        for _ in 0..1 + below(rng, 3) {
            joints.insert((below(rng, first.max(1)), first + below(rng, size.max(1))));
        }
        self.cables.extend(joints.iter().map(|&(a, b)| Cable::new(a, b, SHORT)));
        joints.len()
    }
}

impl Cable {
    fn new(a: usize, b: usize, latency: (Duration, Duration)) -> Self {
        Self { a: a.min(b) as u32, b: a.max(b) as u32, latency, rate: None, loss: None }
    }
}

impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grid => f.write_str("grid"),
            Self::Ring => f.write_str("ring"),
            Self::Line => f.write_str("line"),
            Self::Tree => f.write_str("tree"),
            Self::Random => f.write_str("random"),
            Self::ScaleFree => f.write_str("scale-free"),
            Self::UnitDisk => f.write_str("unit-disk"),
            Self::Mixed => f.write_str("mixed"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl FromStr for Topology {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "grid" => Self::Grid,
            "ring" => Self::Ring,
            "line" => Self::Line,
            "tree" => Self::Tree,
            "random" => Self::Random,
            "scale-free" => Self::ScaleFree,
            "unit-disk" => Self::UnitDisk,
            "mixed" => Self::Mixed,
            file if file.contains(['/', '.']) => Self::File(file.into()),
            _ => {
                return Err(
                    "one of grid, ring, line, tree, random, scale-free, unit-disk, mixed, or a file \
                            (with a / or a . in its name)"
                        .to_owned(),
                );
            }
        })
    }
}

fn square(nodes: usize) -> usize {
    (1..).find(|width| width * width >= nodes).expect("some square is large enough")
}

fn grid(nodes: usize) -> Vec<(usize, usize)> {
    let width = square(nodes);
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

/// A fifth of the nodes are the core. Every second cluster is a wireless mesh, the others are cabled.
fn mixed(nodes: usize, rng: &mut ChaCha8Rng) -> Network {
    const CLUSTER: (usize, usize) = (20, 200);
    let core = (nodes / 5).max(3).min(nodes);
    let mut cables: Vec<Cable> =
        scale_free(core, rng).into_iter().map(|(a, b)| Cable::new(a, b, LONG)).collect();
    let mut first = core;
    let mut wireless = true;
    while first < nodes {
        // Evenly on a logarithmic scale: small ones are more common.
        let (least, most) = (CLUSTER.0 as f64, CLUSTER.1 as f64);
        let drawn = (least * (most / least).powf(unit(rng))) as usize;
        let left = nodes - first;
        let size = if left < drawn + CLUSTER.0 { left } else { drawn };
        let pairs = if wireless { plane::unit_disk(size, DEGREE, rng).0 } else { random(size, rng) };
        cables.extend(pairs.into_iter().map(|(a, b)| Cable::new(first + a, first + b, SHORT)));
        let mut gateways = BTreeSet::new();
        for _ in 0..1 + below(rng, 3) {
            gateways.insert((below(rng, core), first + below(rng, size)));
        }
        cables.extend(gateways.into_iter().map(|(a, b)| Cable::new(a, b, LONG)));
        first += size;
        wireless = !wireless;
    }
    Network { nodes, cables, places: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::SeedableRng;

    const ALL: [Topology; 8] = [
        Topology::Grid,
        Topology::Ring,
        Topology::Line,
        Topology::Tree,
        Topology::Random,
        Topology::ScaleFree,
        Topology::UnitDisk,
        Topology::Mixed,
    ];

    fn network(topology: &Topology, nodes: usize) -> Network {
        topology.network(nodes, &mut ChaCha8Rng::seed_from_u64(nodes as u64)).unwrap()
    }

    #[test]
    fn every_kind_is_connected_and_simple() {
        for topology in &ALL {
            for nodes in [1, 2, 3, 10, 25, 200, 1000] {
                let network = network(topology, nodes);
                let pairs: Vec<_> = network.cables.iter().map(|cable| (cable.a, cable.b)).collect();
                let unique: BTreeSet<_> = pairs.iter().collect();
                assert_eq!(unique.len(), pairs.len(), "{topology} {nodes}");
                assert!(pairs.iter().all(|&(a, b)| a < b && (b as usize) < nodes), "{topology} {nodes}");
                let links = pairs.iter().map(|&(a, b)| (a as usize, b as usize, Duration::from_millis(1)));
                let graph = Graph::new(nodes, links);
                assert!(graph.components(|_| true).iter().all(|&c| c == Some(0)), "{topology} {nodes}");
            }
        }
        assert_eq!(network(&Topology::Grid, 25).cables.len(), 40);
        assert_eq!(network(&Topology::ScaleFree, 50).cables.len(), 1 + 2 * 48);
    }

    #[test]
    fn names_read_back() {
        for topology in &ALL {
            assert_eq!(topology.to_string().parse(), Ok(topology.clone()));
        }
        assert_eq!("a/b.txt".parse(), Ok(Topology::File("a/b.txt".into())));
        assert!("gird".parse::<Topology>().is_err());
    }

    #[test]
    fn wireless_meshes_have_eight_neighbours() {
        let network = network(&Topology::UnitDisk, 2000);
        let degree = 2.0 * network.cables.len() as f64 / 2000.0;
        assert!((7.6..8.4).contains(&degree), "{degree}");
    }

    #[test]
    fn a_mesh_is_added_behind_few_links() {
        let mut network = network(&Topology::Mixed, 100);
        let before = network.cables.len();
        let joints = network.with_mesh(30, &mut ChaCha8Rng::seed_from_u64(1));
        assert_eq!(network.nodes, 130);
        let crossing = network.cables.iter().filter(|cable| cable.a < 100 && cable.b >= 100).count();
        assert_eq!(crossing, joints);
        assert!(network.cables.len() > before + 30);
    }
}
