//! What is watched during a run, and what the report says of it.

use std::{collections::BTreeMap, time::Duration};

use router::{Instant, NodeId};

use super::{Scenario, run::TICK};
use crate::{
    Report, World,
    check::convergence,
    event::{Kind, Trouble},
    report::{
        Busiest, Delivery, EventFigures, LookupShare, Loops, PerNode, Picture, Second, Stretch, Stretches,
        Totals, round, share,
    },
    workload::{FLOWS, ISLAND, PATIENCE, STRANGERS, TRIES, Workload, stretches},
};

/// Looks at the roots all the time while something goes wrong.
#[derive(Debug, Default)]
pub(super) struct Watch {
    looked: Option<Instant>,
    /// By number of the trouble: since when all has been well, and when one root was seen first.
    healed: BTreeMap<usize, Healing>,
    /// By tree: since when the honest nodes of the largest part have had more than one root.
    split_since: BTreeMap<usize, Instant>,
    /// The longest time that a tree had more than one.
    split_max: Duration,
    /// Minute by minute while nodes come and go: entries of all tables, a node.
    tables: Vec<f64>,
    tables_next: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Healing {
    one_root: Option<Instant>,
    settled: Option<Instant>,
}

/// While nothing changes it is enough to look so often.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A trouble's delivery is looked at for so long after its end.
const AFTER: u64 = 60;
/// A second with fewer packets than that says nothing about a share.
const SAMPLES_MIN: u32 = 20;
/// Ways compared with the shortest: some hundred shortest-way trees.
const WAYS_COMPARED: usize = 4000;
/// An audit round: eight answers due at one a quarter of a minute, as `docs/protocol.md` says.
const AUDIT_ROUND: Duration = Duration::from_secs(150);
/// Churn shorter than that says nothing about growth.
const GROWTH_MINUTES: usize = 20;
/// Before anybody can have been found out.
const BEFORE_AUDIT: Duration = Duration::from_secs(30);
/// Nodes and links of the drawing.
const DRAWN_MAX: usize = 3000;

impl Watch {
    pub(super) fn look(&mut self, world: &World, components: &[Option<usize>], troubles: &[Trouble]) {
        if troubles.is_empty() {
            return;
        }
        let now = world.now();
        let open = troubles.iter().enumerate().any(|(number, trouble)| {
            trouble.is_over() && self.healed.get(&number).is_none_or(|healing| healing.settled.is_none())
        });
        let soon = if world.len() <= 2000 { TICK } else { TICK * 4 };
        let rest = if open { soon } else { LOOK_EVERY };
        if self.looked.is_some_and(|last| now.since(last) < rest) {
            return;
        }
        self.looked = Some(now);
        self.splits(world, components);
        let churns = troubles.iter().any(|trouble| trouble.event.kind == Kind::Churn && !trouble.is_over());
        if churns && self.tables_next.is_none_or(|next| now >= next) {
            self.tables_next = Some(now + Duration::from_secs(60));
            let (mut entries, mut nodes) = (0, 0);
            for (_, router) in world.routers() {
                let info = router.self_info();
                entries += router.known() + info.records + info.sessions + info.peers;
                nodes += 1;
            }
            self.tables.push(entries as f64 / f64::from(nodes.max(1)));
        }
        if !open {
            return;
        }
        let one_root = convergence::one_root(world, &world.components()).is_none();
        let settled = one_root && convergence::unsettled(world).is_none();
        for (number, trouble) in troubles.iter().enumerate().filter(|(_, trouble)| trouble.is_over()) {
            let _ = trouble;
            let healing = self.healed.entry(number).or_default();
            if one_root {
                healing.one_root.get_or_insert(now);
            }
            if settled {
                healing.settled.get_or_insert(now);
            }
        }
    }

    /// Tables that grow for as long as nodes come and go would grow for ever. Sessions and records of the first minutes fill
    /// up to what the traffic needs; from then on nothing may rise by a half.
    pub(super) fn grew(&self) -> Option<String> {
        let minutes = self.tables.len();
        if minutes < GROWTH_MINUTES {
            return None;
        }
        let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len().max(1) as f64;
        let (middle, last) =
            (mean(&self.tables[minutes / 2..minutes * 3 / 4]), mean(&self.tables[minutes * 3 / 4..]));
        (last > 1.5 * middle).then(|| {
            format!("tables grew from {middle:.0} to {last:.0} entries a node while nodes came and went")
        })
    }

    /// How long honest nodes that can reach each other have named different roots.
    fn splits(&mut self, world: &World, components: &[Option<usize>]) {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        for component in components.iter().flatten() {
            *sizes.entry(*component).or_default() += 1;
        }
        let Some((&largest, _)) = sizes.iter().max_by_key(|&(_, size)| size) else { return };
        let mut roots: BTreeMap<usize, NodeId> = BTreeMap::new();
        let mut split: BTreeMap<usize, bool> = BTreeMap::new();
        for (node, router) in world.routers().filter(|&(node, _)| components[node] == Some(largest)) {
            let _ = node;
            for tree in 0..router.tree_count() {
                let Some(root) = router.root(tree) else { continue };
                let first = *roots.entry(tree).or_insert(root);
                *split.entry(tree).or_default() |= first != root;
            }
        }
        let now = world.now();
        for (tree, split) in split {
            if split {
                let since = *self.split_since.entry(tree).or_insert(now);
                self.split_max = self.split_max.max(now.since(since));
            } else if let Some(since) = self.split_since.remove(&tree) {
                self.split_max = self.split_max.max(now.since(since));
            }
        }
    }
}

/// Everything that was measured, and nothing else.
#[allow(clippy::too_many_arguments)]
pub(super) fn report(
    scenario: &Scenario,
    world: &World,
    workload: &Workload,
    watch: &Watch,
    settled: Option<Instant>,
    totals: Totals,
    troubles: &[Trouble],
    traffic: Option<(Instant, Instant)>,
) -> Report {
    let graph = world.honest_graph();
    let firsts = world
        .traces()
        .firsts
        .iter()
        .filter(|first| world.is_honest(first.from as usize) && world.is_honest(first.to as usize));
    // Before traffic began nobody but the network itself has met anybody.
    let firsts = firsts.map(|first| (first.from, first.to, first.latency));
    let listed = workload.taken.iter().filter(|taken| taken.listed);
    let nodes = world.routers().count().max(1) as f64;
    let infos: Vec<_> = world.routers().map(|(_, router)| router.self_info()).collect();
    let (lookups, found) = workload.lookups(world);
    let stats = world.stats();
    let questions: u64 = stats.iter().map(|stats| stats.lookup_questions).sum();
    let begun: u64 = stats.iter().map(|stats| stats.lookups).sum();
    Report {
        seed: scenario.seed,
        commit: option_env!("MANGROVE_COMMIT").map(str::to_owned),
        nodes: totals.nodes,
        edges: totals.edges,
        topology: scenario.topology.to_string(),
        loss_percent: round(scenario.link.loss * 100.0),
        virtual_s: round(world.now().since(Instant::ZERO).as_secs_f64()),
        converged_s: settled.map(|at| round(at.since(Instant::ZERO).as_secs_f64())),
        stretch: Stretches {
            first_packet: Stretch::of(&stretches(&graph, firsts, WAYS_COMPARED)),
            route: Stretch::of(&stretches(
                &graph,
                listed.map(|taken| (taken.from, taken.to, taken.latency)),
                WAYS_COMPARED,
            )),
            latency: Stretch::of(&stretches(
                &graph,
                workload.taken.iter().map(|taken| (taken.from, taken.to, taken.delay)),
                WAYS_COMPARED,
            )),
        },
        delivery: traffic.and_then(|traffic| delivery(scenario, workload, traffic)),
        events: troubles
            .iter()
            .enumerate()
            .map(|(number, trouble)| event(number, trouble, troubles, workload, watch, world))
            .collect(),
        per_node: PerNode {
            control_bytes_min: totals.control_bytes_min.map(round),
            link_bytes_min: totals.link_bytes_min.map(round),
            messages_build: totals.messages_build.map(round),
            table_bytes: Some(round(
                world.routers().map(|(_, router)| router.table_bytes()).sum::<usize>() as f64 / nodes,
            )),
            known: round(world.routers().map(|(_, router)| router.known()).sum::<usize>() as f64 / nodes),
            sessions: round(infos.iter().map(|info| info.sessions).sum::<usize>() as f64 / nodes),
            records: round(infos.iter().map(|info| info.records).sum::<usize>() as f64 / nodes),
        },
        start_bytes: each_link(&totals.start_kinds, totals.edges),
        idle_bytes: each_link(&totals.idle_kinds, totals.edges),
        lookup: (lookups > 0).then(|| LookupShare {
            lookups,
            success: share(found, lookups),
            queries_mean: (begun > 0).then(|| round(questions as f64 / begun as f64)),
            hops_mean: mean(world.traces().questions),
        }),
        load: workload.busiest().map(|(node, busiest_share)| Busiest {
            busiest_share: round(busiest_share),
            shortest_share: workload.busiest_by_shortest(&graph).map(round),
            node: node as usize,
        }),
        loops: Loops {
            revisits: world.traces().revisits,
            visits_max: world.traces().visits_max,
            hops_max: world.traces().hops_max,
        },
        digest: world.digest(),
        quick_keys: scenario.quick_keys,
        seconds: seconds(workload),
        picture: picture(world, &totals),
        ..Report::default()
    }
}

fn each_link(kinds: &BTreeMap<&'static str, u64>, links: usize) -> BTreeMap<&'static str, f64> {
    let each = |bytes: u64| round(bytes as f64 / links.max(1) as f64);
    kinds.iter().map(|(&name, &bytes)| (name, each(bytes))).filter(|(_, bytes)| *bytes > 0.0).collect()
}

fn mean((count, sum): (u64, u64)) -> Option<f64> {
    (count > 0).then(|| round(sum as f64 / count as f64))
}

fn delivery(scenario: &Scenario, workload: &Workload, (from, last): (Instant, Instant)) -> Option<Delivery> {
    let second = |at: Instant| at.as_micros() / 1_000_000;
    let all = workload.sum(&[STRANGERS, FLOWS, ISLAND], 0, u64::MAX);
    let settled = scenario.droppers.is_some().then(|| {
        // Droppers drop from the start, audits run from the start: what counts is virtual time.
        let before = workload.sum(&[STRANGERS, FLOWS], 0, second(from + BEFORE_AUDIT));
        let audited = (Instant::ZERO + AUDIT_ROUND).max(from + BEFORE_AUDIT);
        let after = workload.sum(&[STRANGERS, FLOWS], second(audited), second(last) + 1);
        (before.share(1), after)
    });
    let counted = settled.map(|(_, after)| after).filter(|after| after.sent > 0).unwrap_or(all);
    Some(Delivery {
        probes: all.sent as usize,
        first_try: all.share(1).map(round)?,
        before_audit: settled.and_then(|(before, _)| before).map(round),
        after_audit: settled.and_then(|(_, after)| after.share(1)).map(round),
        with_retries: counted.share(usize::from(TRIES)).map(round)?,
        strangers: workload.sum(&[STRANGERS], 0, u64::MAX).share(1).map(round),
        flows: workload.sum(&[FLOWS, ISLAND], 0, u64::MAX).share(1).map(round),
        missing: workload.missing.clone(),
    })
}

fn event(
    number: usize,
    trouble: &Trouble,
    troubles: &[Trouble],
    workload: &Workload,
    watch: &Watch,
    world: &World,
) -> EventFigures {
    let second = |at: Instant| at.as_micros() / 1_000_000;
    let began = second(trouble.began);
    let over = trouble.over_since().max(trouble.began);
    let next = troubles.iter().map(|other| other.began).filter(|&at| at > over).min();
    let until = next.map_or(u64::MAX, second).min(second(over) + AFTER);
    let worst = |groups: &[u8], tries: usize, from: u64| {
        let shares = (from..until).filter_map(|second| {
            let bin = workload.sum(groups, second, second + 1);
            (bin.sent >= SAMPLES_MIN).then(|| bin.share(tries)).flatten()
        });
        shares.min_by(f64::total_cmp).map(round)
    };
    let all = workload.sum(&[FLOWS, ISLAND], began, until);
    let healing = watch.healed.get(&number).copied().unwrap_or_default();
    let since = |at: Option<Instant>| at.map(|at| round(at.since(over).as_secs_f64()));
    let _ = (world, PATIENCE);
    EventFigures {
        kind: trouble.event.kind.name().to_owned(),
        at_s: round(trouble.began.since(Instant::ZERO).as_secs_f64()),
        faults: trouble.faults,
        delivery_min: worst(&[FLOWS, ISLAND], 1, began),
        one_retry_min: worst(&[FLOWS, ISLAND], 2, began),
        after_3s_min: worst(&[FLOWS, ISLAND], 1, began + 3),
        island_min: worst(&[ISLAND], 1, began),
        first_try: all.share(1).map(round),
        one_root_s: since(healing.one_root),
        healed_s: since(healing.settled),
        split_s: matches!(trouble.event.kind, Kind::Grind | Kind::PlaceTheft | Kind::Flap | Kind::Churn)
            .then(|| round(watch.split_max.as_secs_f64())),
        lost: u64::from(all.sent - all.within[usize::from(TRIES) - 1]),
    }
}

fn seconds(workload: &Workload) -> Vec<Second> {
    let mut seconds: BTreeMap<u64, (crate::workload::Bin, crate::workload::Bin)> = BTreeMap::new();
    for (&(second, group), bin) in &workload.bins {
        let entry = seconds.entry(second).or_default();
        if group == STRANGERS {
            entry.0 = entry.0.plus(*bin);
        } else {
            entry.1 = entry.1.plus(*bin);
        }
    }
    let second = |(at, (strangers, flows)): (u64, (crate::workload::Bin, crate::workload::Bin))| Second {
        at,
        sent: strangers.sent + flows.sent,
        strangers: strangers.share(1),
        flows: flows.share(1),
        retried: flows.plus(strangers).share(usize::from(TRIES)),
    };
    seconds.into_iter().map(second).collect()
}

/// What the drawing shows.
fn picture(world: &World, totals: &Totals) -> Picture {
    let mut degrees: BTreeMap<usize, usize> = BTreeMap::new();
    let mut depths: Vec<BTreeMap<usize, usize>> = Vec::new();
    for (node, router) in world.routers() {
        *degrees.entry(world.degree(node)).or_default() += 1;
        for tree in 0..router.tree_count() {
            if depths.len() <= tree {
                depths.push(BTreeMap::new());
            }
            if let Some((_, coords)) = router.place(tree) {
                *depths[tree].entry(coords.hops.len()).or_default() += 1;
            }
        }
    }
    let mut parents = Vec::new();
    let mut bytes = Vec::new();
    let mut frames = Vec::new();
    let mut forwarded = Vec::new();
    for node in 0..world.len() {
        let router = world.router(node);
        let parent = router.and_then(|router| router.place(0)?.0).and_then(|parent| world.node(&parent));
        parents.push(parent.map(|parent| parent as u32));
        let stats = router.map(router::Router::stats).unwrap_or_default();
        bytes.push(stats.bytes_out);
        frames.push(stats.control_frames_out);
        forwarded.push(stats.forwarded);
    }
    let drawn = world.len() <= DRAWN_MAX;
    Picture {
        degrees,
        depths,
        bytes,
        frames,
        forwarded,
        places: totals.places.clone().filter(|_| drawn),
        links: if drawn {
            (0..world.edges())
                .filter(|&edge| world.has_link(edge))
                .map(|edge| world.ends(edge).map(|node| node as u32))
                .collect()
        } else {
            Vec::new()
        },
        parents: if drawn { parents } else { Vec::new() },
        villains: (0..world.len()).filter(|&node| !world.is_honest(node)).map(|node| node as u32).collect(),
    }
}
