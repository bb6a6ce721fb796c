//! Scenario files: what to run and what to expect, in TOML.

use std::{collections::BTreeMap, fmt, fs, path::Path, time::Duration};

use router::LinkKind;
use serde::Deserialize;

use super::{Droppers, Links, Scenario};
use crate::{
    Topology,
    adversary::{DropperKind, DropperPlace},
    event::{Event, seconds},
    workload::Load,
};

/// A file of `sim/scenarios/`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScenarioFile {
    /// What it shows, in a sentence.
    pub about: String,
    /// Networks to run it on, by name; each is a run of its own.
    pub topologies: Vec<String>,
    /// How many nodes.
    pub nodes: usize,
    /// Virtual minutes.
    pub minutes: f64,
    #[serde(default)]
    link: LinkTable,
    #[serde(default)]
    router: RouterTable,
    #[serde(default)]
    traffic: TrafficTable,
    #[serde(default, rename = "load")]
    loads: Vec<Load>,
    #[serde(default, rename = "event")]
    events: Vec<Event>,
    #[serde(default)]
    droppers: Option<DroppersTable>,
    /// What must come out, as the median of all seeds.
    #[serde(default, rename = "expect")]
    pub expects: Vec<Expectation>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LinkTable {
    latency_ms: Option<f64>,
    jitter_ms: Option<f64>,
    loss_percent: Option<f64>,
    rate_mbit: Option<f64>,
    datagrams: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RouterTable {
    trees: Option<u8>,
    source_routes: Option<bool>,
    audit: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct TrafficTable {
    at_s: Option<f64>,
    probes: Option<usize>,
    lookups: Option<usize>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct DroppersTable {
    share: f64,
    kind: DropperKind,
    #[serde(default)]
    place: DropperPlace,
    #[serde(default)]
    lie: bool,
}

/// One figure of the report and its bound.
#[derive(Debug, Clone, Deserialize)]
pub struct Expectation {
    /// Its row in the table.
    pub label: String,
    /// Where it stands in the JSON, names and numbers of list entries between dots.
    pub figure: String,
    /// By topology, or for `all`: `">= 0.99"` or `"<= 1.1"`.
    #[serde(flatten)]
    pub bounds: BTreeMap<String, Bound>,
}

/// At least or at most that much.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "String")]
pub enum Bound {
    /// Not less.
    Least(f64),
    /// Not more.
    Most(f64),
}

impl TryFrom<String> for Bound {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("expected \">= NUMBER\" or \"<= NUMBER\", not {text:?}");
        let (kind, number) = text.trim().split_at_checked(2).ok_or_else(wrong)?;
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        match kind {
            ">=" => Ok(Self::Least(number)),
            "<=" => Ok(Self::Most(number)),
            _ => Err(wrong()),
        }
    }
}

impl Bound {
    /// Whether a figure keeps it.
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::Least(least) => figure >= least,
            Self::Most(most) => figure <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Least(least) => write!(f, "≥ {least}"),
            Self::Most(most) => write!(f, "≤ {most}"),
        }
    }
}

impl Expectation {
    /// The bound for a topology, if there is one.
    pub fn bound(&self, topology: &str) -> Option<Bound> {
        self.bounds.get(topology).or_else(|| self.bounds.get("all")).copied()
    }

    /// The figure in a report.
    pub fn find(&self, report: &serde_json::Value) -> Option<f64> {
        let step = |value: Option<&'_ serde_json::Value>, name: &str| -> Option<serde_json::Value> {
            let value = value?;
            match name.parse::<usize>() {
                Ok(number) if value.is_array() => value.get(number).cloned(),
                _ => value.get(name).cloned(),
            }
        };
        let mut value = Some(report.clone());
        for name in self.figure.split('.') {
            value = step(value.as_ref(), name);
        }
        value?.as_f64()
    }
}

impl ScenarioFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text =
            fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|what| format!("{}: {what}", path.display()))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let file: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        if file.topologies.is_empty() {
            return Err("topologies names no network".to_owned());
        }
        for name in &file.topologies {
            name.parse::<Topology>()?;
        }
        if !(0.01..=100_000.0).contains(&file.minutes) || !(1..=1_000_000).contains(&file.nodes) {
            return Err("minutes or nodes makes no sense".to_owned());
        }
        Ok(file)
    }

    /// The run on one of its networks. What depends on the size follows `nodes`.
    pub fn scenario(&self, topology: &str, nodes: Option<usize>, seed: u64) -> Result<Scenario, String> {
        let mut scenario = Scenario::new(topology.parse()?, nodes.unwrap_or(self.nodes), seed);
        scenario.duration = seconds(self.minutes * 60.0);
        let ms = |ms: f64| Duration::from_secs_f64(ms.clamp(0.0, 60_000.0) / 1000.0);
        scenario.link = Links {
            latency: self.link.latency_ms.map(ms),
            jitter: self.link.jitter_ms.map(ms),
            loss: self.link.loss_percent.unwrap_or(0.0).clamp(0.0, 90.0) / 100.0,
            rate: self
                .link
                .rate_mbit
                .map_or(scenario.link.rate, |mbit| (mbit.clamp(0.001, 1e6) * 125_000.0) as u64),
            kind: if self.link.datagrams { LinkKind::Datagram } else { LinkKind::Stream },
        };
        scenario.traffic_at = self.traffic.at_s.map(seconds);
        scenario.probes = self.traffic.probes.unwrap_or(scenario.probes);
        scenario.lookups = self.traffic.lookups.unwrap_or(scenario.lookups);
        scenario.loads.clone_from(&self.loads);
        if let Some(nodes) = nodes.filter(|&nodes| nodes < self.nodes) {
            // A smaller network gets less to carry, but enough to be measured.
            let less = |count: usize| (count * nodes / self.nodes).max(count.min(LOAD_LEAST));
            scenario.loads.iter_mut().for_each(|load| load.count = less(load.count));
            scenario.probes = less(scenario.probes);
            scenario.lookups = less(scenario.lookups);
        }
        scenario.events.clone_from(&self.events);
        scenario.droppers = self.droppers.as_ref().map(|table| Droppers {
            share: table.share,
            kind: table.kind,
            place: table.place,
            lie: table.lie,
        });
        scenario.config.trees = self.router.trees.unwrap_or(scenario.config.trees).clamp(1, 8);
        let RouterTable { source_routes, audit, .. } = &self.router;
        scenario.switch(source_routes.unwrap_or(true), audit.unwrap_or(true));
        Ok(scenario)
    }
}

/// Pairs, probes and lookups of a smaller run.
const LOAD_LEAST: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;

    const TEXT: &str = r#"
        about = "a root goes"
        topologies = ["scale-free", "mixed"]
        nodes = 100
        minutes = 2
        [link]
        loss_percent = 5
        [[load]]
        kind = "pairs"
        count = 50
        [[event]]
        kind = "root-crash"
        at_s = 60
        [droppers]
        share = 0.1
        kind = "audit-aware"
        [[expect]]
        label = "worst second"
        figure = "events.0.delivery_min"
        scale-free = ">= 0.98"
        all = "<= 1"
    "#;

    #[test]
    fn a_file_is_a_scenario() {
        let file = ScenarioFile::parse(TEXT).unwrap();
        let scenario = file.scenario("mixed", None, 7).unwrap();
        assert_eq!((scenario.nodes, scenario.seed, scenario.link.loss), (100, 7, 0.05));
        assert_eq!(scenario.events[0].kind, Kind::RootCrash);
        assert_eq!(scenario.droppers.unwrap().kind, DropperKind::AuditAware);
        let expect = &file.expects[0];
        assert_eq!(expect.bound("scale-free"), Some(Bound::Least(0.98)));
        assert_eq!(expect.bound("mixed"), Some(Bound::Most(1.0)));
        let report = serde_json::json!({ "events": [{ "delivery_min": 0.97 }] });
        assert_eq!(expect.find(&report), Some(0.97));
        assert!(!Bound::Least(0.98).holds(0.97));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        assert!(ScenarioFile::parse(&TEXT.replace("minutes", "minuets")).is_err());
        assert!(ScenarioFile::parse(&TEXT.replace(">= 0.98", "> 0.98")).is_err());
        assert!(ScenarioFile::parse(&TEXT.replace("\"mixed\"", "\"mixt\"")).is_err());
    }
}
