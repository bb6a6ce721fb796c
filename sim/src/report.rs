//! The figures of a run, as text for people and JSON for scripts. What was not measured is not there.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// One run.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// The code that ran, if the build was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// Nodes.
    pub nodes: usize,
    /// Links.
    pub edges: usize,
    /// Kind of network.
    pub topology: String,
    /// Frames lost by each link, in percent.
    pub loss_percent: f64,
    /// Virtual seconds in all.
    pub virtual_s: f64,
    /// From the cold start of all nodes at once until every tree has one root and all coordinates fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub converged_s: Option<f64>,
    /// Latency of ways taken over the least possible.
    pub stretch: Stretches,
    /// Shares of probes that arrived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
    /// Costs of a node, means.
    pub per_node: PerNode,
    /// Bytes a link, both directions, of the first 75 s after all start at once, by what they are for. Only without traffic.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub start_bytes: BTreeMap<&'static str, f64>,
    /// The same of a minute without traffic, from three quarters of a minute after the network has settled.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub idle_bytes: BTreeMap<&'static str, f64>,
    /// How lookups fared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup: Option<LookupShare>,
    /// Flows over the busiest node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<Busiest>,
    /// What went wrong on purpose.
    pub events: Vec<EventFigures>,
    /// Packets that came back to where they had been.
    pub loops: Loops,
    /// A hash over every frame that arrived: the same in every run of the same code with the same seed.
    pub digest: String,
    /// A keyed hash stood in for signatures and Diffie-Hellmans.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub quick_keys: bool,
    /// Real seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_s: Option<f64>,
    /// Seconds of processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Most memory that the process had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_mb: Option<f64>,
    /// Delivery second by second, for plots.
    #[serde(skip)]
    pub seconds: Vec<Second>,
    /// The network at the end, for plots.
    #[serde(skip)]
    pub picture: Picture,
}

/// What is counted during a run.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Nodes that the network began with, attackers that come later not counted.
    pub nodes: usize,
    /// Its links.
    pub edges: usize,
    /// Control frames a node until all was settled.
    pub messages_build: Option<f64>,
    /// Bytes a node and minute without traffic.
    pub control_bytes_min: Option<f64>,
    /// The same by link and direction.
    pub link_bytes_min: Option<f64>,
    /// Bytes of the first 75 s, if no application sent anything, by what they are for.
    pub start_kinds: BTreeMap<&'static str, u64>,
    /// Bytes of a minute without traffic.
    pub idle_kinds: BTreeMap<&'static str, u64>,
    /// Traffic that goes on was started.
    pub loaded: bool,
    /// Where nodes are, if the network lies in a plane.
    pub places: Option<Vec<[f32; 2]>>,
}

/// Delivery of the packets sent in one second.
#[derive(Debug, Clone, PartialEq)]
pub struct Second {
    /// Since the start.
    pub at: u64,
    /// Packets.
    pub sent: u32,
    /// Share of those between strangers that arrived with the first try.
    pub strangers: Option<f64>,
    /// Of those of flows.
    pub flows: Option<f64>,
    /// Share of all that arrived within all tries.
    pub retried: Option<f64>,
}

/// The network at the end of a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Picture {
    /// How many nodes have so many links.
    pub degrees: BTreeMap<usize, usize>,
    /// By tree: how many nodes are so deep.
    pub depths: Vec<BTreeMap<usize, usize>>,
    /// Bytes sent, by node.
    pub bytes: Vec<u64>,
    /// Control frames sent, by node.
    pub frames: Vec<u64>,
    /// Packets passed on, by node.
    pub forwarded: Vec<u64>,
    /// Where nodes are.
    pub places: Option<Vec<[f32; 2]>>,
    /// Links, if there are not too many to be drawn.
    pub links: Vec<[u32; 2]>,
    /// Parents in the first tree.
    pub parents: Vec<Option<u32>>,
    /// Nodes that are not honest.
    pub villains: Vec<u32>,
}

/// Stretches by kind of way.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stretches {
    /// Of the packet that begins a session, routed by the trees with the coordinates that the lookup gave: the links' latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_packet: Option<Stretch>,
    /// Of packets on source routes: the links' latencies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<Stretch>,
    /// Of all packets of applications: the time from command to event, queues, jitter, lookup and handshake included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Stretch>,
}

/// How much longer ways are than the shortest.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Stretch {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 99 of 100 are no longer.
    pub p99: f64,
}

impl Stretch {
    /// Of a sorted list; none of an empty one.
    pub fn of(sorted: &[f64]) -> Option<Self> {
        let at = |share: f64| sorted.get(((sorted.len() - 1) as f64 * share).round() as usize).copied();
        if sorted.is_empty() {
            return None;
        }
        let mean = sorted.iter().sum::<f64>() / sorted.len() as f64;
        Some(Self { mean: round(mean), p50: round(at(0.5)?), p99: round(at(0.99)?) })
    }
}

/// Shares of the packets of applications that arrived. Pairs between which no way of honest nodes led are not counted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delivery {
    /// Packets sent, repeats not counted.
    pub probes: usize,
    /// Sent once.
    pub first_try: f64,
    /// Sent once, before droppers can have been found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before_audit: Option<f64>,
    /// Sent once, when droppers have been audited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_audit: Option<f64>,
    /// Sent up to three times, 3 s apart (with droppers: when they have been audited).
    pub with_retries: f64,
    /// Sent once, between strangers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strangers: Option<f64>,
    /// Sent once, in flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flows: Option<f64>,
    /// Who did not hear from whom, the first few.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<(usize, usize)>,
}

/// Means over all nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct PerNode {
    /// Bytes sent in a minute in which no application sends anything: control frames, lookups, records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control_bytes_min: Option<f64>,
    /// The same by link and direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link_bytes_min: Option<f64>,
    /// Control frames from the cold start until all is settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_build: Option<f64>,
    /// Bytes of the tables of trees and forwarding at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_bytes: Option<f64>,
    /// Nodes of which the trees know something.
    pub known: f64,
    /// Sessions at the end.
    pub sessions: f64,
    /// Records kept for others at the end.
    pub records: f64,
}

/// Lookups.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct LookupShare {
    /// How many.
    pub lookups: usize,
    /// Share that named the right key.
    pub success: f64,
    /// Questions asked for one, those of sessions and publication included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries_mean: Option<f64>,
    /// Hops that a question took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hops_mean: Option<f64>,
}

/// The node that passes most flows on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Busiest {
    /// Its share of them, in the second half of the traffic.
    pub busiest_share: f64,
    /// What it would be if each flow took the way of the least latency.
    pub shortest_share: Option<f64>,
    /// Which.
    pub node: usize,
}

/// Something that went wrong on purpose, and what it did to flows. Seconds are those in which packets were sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct EventFigures {
    /// Which.
    pub kind: String,
    /// When it began.
    pub at_s: f64,
    /// Crashes, cuts, attackers.
    pub faults: usize,
    /// First try in the worst second, from the beginning to a minute after the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_min: Option<f64>,
    /// The same with one retry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_retry_min: Option<f64>,
    /// First try in the worst second from the third after the beginning on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after_3s_min: Option<f64>,
    /// First try in the worst second, within the part that was cut off or came in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub island_min: Option<f64>,
    /// First try over the whole time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_try: Option<f64>,
    /// From the end of the trouble until every tree had one root again in each part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub one_root_s: Option<f64>,
    /// Until all coordinates fitted together too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healed_s: Option<f64>,
    /// The longest time that honest nodes that reach each other had different roots of a tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_s: Option<f64>,
    /// Packets that no retry brought.
    pub lost: u64,
}

/// How straight packets went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Loops {
    /// How often a packet came to a node where it had been.
    pub revisits: u64,
    /// The most often that one packet was at one node.
    pub visits_max: usize,
    /// The longest way.
    pub hops_max: usize,
}

/// Four digits behind the point: more would be noise.
pub fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// A share of a whole; 1 of nothing.
pub fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 1.0 } else { round(part as f64 / whole as f64) }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes, {} links, {}, seed {}, {} % loss, {} s",
            self.nodes, self.edges, self.topology, self.seed, self.loss_percent, self.virtual_s
        )?;
        match self.converged_s {
            Some(seconds) => writeln!(f, "settled after       {seconds:.2} s")?,
            None => writeln!(f, "settled             never")?,
        }
        if let Some(messages) = self.per_node.messages_build {
            writeln!(f, "frames to build     {messages:.0} a node")?;
        }
        if let Some(bytes) = self.per_node.control_bytes_min {
            writeln!(f, "control, idle       {bytes:.0} bytes a node and minute")?;
        }
        for (name, kinds) in [("start", &self.start_bytes), ("idle", &self.idle_bytes)] {
            if !kinds.is_empty() {
                let sum: f64 = kinds.values().sum();
                write!(
                    f,
                    "a link, {name:<12}{sum:.0} bytes{}",
                    if name == "idle" { " a minute" } else { "" }
                )?;
                let mut kinds: Vec<_> = kinds.iter().collect();
                kinds.sort_by(|a, b| b.1.total_cmp(a.1));
                for (kind, bytes) in kinds {
                    write!(f, ", {kind} {bytes:.0}")?;
                }
                writeln!(f)?;
            }
        }
        if let Some(delivery) = &self.delivery {
            writeln!(f, "delivered           {delivery}")?;
        }
        for (name, stretch) in [
            ("first packet", self.stretch.first_packet),
            ("source route", self.stretch.route),
            ("latency", self.stretch.latency),
        ] {
            if let Some(Stretch { mean, p50, p99 }) = stretch {
                let name = format!("stretch, {name}");
                writeln!(f, "{name:<22}{mean:.3} mean, {p50:.3} p50, {p99:.3} p99")?;
            }
        }
        if let Some(lookup) = self.lookup {
            writeln!(f, "lookups             {} of {}", lookup.success, lookup.lookups)?;
        }
        if let Some(busiest) = self.load {
            let shortest = busiest
                .shortest_share
                .map_or_else(String::new, |share| format!(" ({share} by the shortest ways)"));
            writeln!(f, "busiest node        {} of the flows{shortest}", busiest.busiest_share)?;
        }
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        writeln!(
            f,
            "sessions, records   {:.1}, {:.1} a node",
            self.per_node.sessions, self.per_node.records
        )?;
        write!(f, "digest              {}", self.digest)?;
        if self.quick_keys {
            write!(f, "\nkeys                a keyed hash stood in for signatures and Diffie-Hellmans")?;
        }
        if let (Some(wall), Some(cpu), Some(rss)) = (self.wall_s, self.cpu_s, self.rss_mb) {
            write!(f, "\ncost                {wall:.1} s, {cpu:.1} s of processor, {rss:.0} MB")?;
        }
        Ok(())
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at first, {} in three tries, of {}", self.first_try, self.with_retries, self.probes)?;
        if let (Some(before), Some(after)) = (self.before_audit, self.after_audit) {
            write!(f, "; first try {before} before audits, {after} after")?;
        }
        if !self.missing.is_empty() {
            write!(f, ", missing {:?}", self.missing)?;
        }
        Ok(())
    }
}

impl fmt::Display for EventFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<20}at {:.1} s, {} faults", self.kind, self.at_s, self.faults)?;
        let mut figure = |name: &str, value: Option<f64>| match value {
            Some(value) => write!(f, ", {name} {value}"),
            None => Ok(()),
        };
        figure("worst second", self.delivery_min)?;
        figure("with one retry", self.one_retry_min)?;
        figure("from the third second", self.after_3s_min)?;
        figure("within the part", self.island_min)?;
        figure("one root after s", self.one_root_s)?;
        figure("healed after s", self.healed_s)?;
        figure("longest split s", self.split_s)?;
        write!(f, ", {} lost", self.lost)
    }
}
