//! The figures of a run, as text for people and JSON for scripts. What was not measured is not there.

use std::fmt;

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
    /// How lookups fared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lookup: Option<LookupShare>,
    /// The crash of a root, if one was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crash: Option<Crash>,
    /// Trouble, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub faults: Option<Faults>,
    /// Packets that came back to where they had been.
    pub loops: Loops,
    /// A hash over every frame that arrived: the same in every run of the same code with the same seed.
    pub digest: String,
    /// Real seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_s: Option<f64>,
    /// Seconds of processor time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_s: Option<f64>,
    /// Most memory that the process had.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rss_mb: Option<f64>,
}

/// Stretches by kind of way.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Stretches {
    /// Routed by the trees, with the coordinates that the lookup gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_packet: Option<Stretch>,
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

/// Shares of probes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Delivery {
    /// Probes sent.
    pub probes: usize,
    /// Sent once.
    pub first_try: f64,
    /// Sent up to four times.
    pub with_retries: f64,
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
    /// Control frames from the cold start until all is settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub messages_build: Option<f64>,
    /// Bytes of tables. The router does not count them yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub table_bytes: Option<f64>,
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
}

/// A root that crashed without a word.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Crash {
    /// When, in virtual seconds.
    pub at_s: f64,
    /// Until all was settled again; none if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healed_s: Option<f64>,
    /// Probes sent while it healed, and their shares.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Delivery>,
}

/// Trouble before the probes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Faults {
    /// Which.
    pub kind: String,
    /// Crashes and cuts.
    pub faults: usize,
    /// From the last of it until all was settled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healed_s: Option<f64>,
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
        if let Some(delivery) = &self.delivery {
            writeln!(f, "delivered           {delivery}")?;
        }
        if let Some(Stretch { mean, p50, p99 }) = self.stretch.first_packet {
            writeln!(f, "stretch             {mean:.3} mean, {p50:.3} p50, {p99:.3} p99")?;
        }
        if let Some(lookup) = self.lookup {
            writeln!(f, "lookups             {} of {}", lookup.success, lookup.lookups)?;
        }
        if let Some(Faults { kind, faults, healed_s }) = &self.faults {
            write!(f, "{kind:<20}{faults} faults")?;
            match healed_s {
                Some(healed) => writeln!(f, ", healed {healed:.2} s after the last")?,
                None => writeln!(f, ", not healed")?,
            }
        }
        if let Some(crash) = &self.crash {
            match crash.healed_s {
                Some(healed) => write!(f, "root crash          healed after {healed:.2} s")?,
                None => write!(f, "root crash          not healed")?,
            }
            match &crash.delivery {
                Some(delivery) => writeln!(f, ", meanwhile {delivery}")?,
                None => writeln!(f)?,
            }
        }
        writeln!(
            f,
            "sessions, records   {:.1}, {:.1} a node",
            self.per_node.sessions, self.per_node.records
        )?;
        write!(f, "digest              {}", self.digest)?;
        if let (Some(wall), Some(cpu), Some(rss)) = (self.wall_s, self.cpu_s, self.rss_mb) {
            write!(f, "\ncost                {wall:.1} s, {cpu:.1} s of processor, {rss:.0} MB")?;
        }
        Ok(())
    }
}

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at first, {} in the end, of {}", self.first_try, self.with_retries, self.probes)?;
        if !self.missing.is_empty() {
            write!(f, ", missing {:?}", self.missing)?;
        }
        Ok(())
    }
}
