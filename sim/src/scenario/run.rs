//! One run from cold start to report: the network settles, is left alone, gets traffic, and meets its troubles.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use router::{Instant, lookup::Locator, wire::body::find::Contact};

use super::{Droppers, Fault, Scenario, Violation, measure::Watch};
use crate::{
    Report, Shape, World,
    adversary::{DropperPlace, Malice},
    check::{convergence, loops, state_size},
    event::{Kind, Prepared, Trouble, seconds},
    link::below,
    report::Totals,
    workload::{Map, PATIENCE, TRIES, Workload},
    world::Happened,
};

/// How often the world is looked at: the precision of times.
pub(super) const TICK: Duration = Duration::from_millis(50);
/// How often bounds of tables are looked at.
const BOUNDS_EVERY: Duration = Duration::from_secs(5);
/// After settling it is left alone for so long before idle traffic is counted: nodes publish, look for others, measure costs.
const CALM: Duration = Duration::from_secs(45);
/// What the start costs is counted until then.
const START: Duration = Duration::from_secs(75);
/// A network without faults must have settled by then, whatever the seed.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// And after trouble. (A silent neighbour on an idle link is noticed after half a minute only.)
const HEAL_MAX: Duration = Duration::from_secs(45);
/// After many changes of roots it may take until everybody may change again (`docs/protocol.md`, Tenure).
const TENURE: Duration = Duration::from_secs(150);
/// Traffic flows for so long before the first trouble that names no time: pairs have met, routes are known.
const WARM: Duration = Duration::from_secs(15);

/// Runs it to its end or to the first violation. `progress` hears the share that is done and the virtual time.
pub fn run(scenario: &Scenario, mut progress: impl FnMut(f64, Instant)) -> Result<Report, Violation> {
    let mut run = Run::new(scenario)?;
    let end = Instant::ZERO + scenario.duration;
    while run.world.now() < end {
        run.tick()?;
        progress(run.world.now().as_micros() as f64 / end.as_micros().max(1) as f64, run.world.now());
    }
    run.finish()
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    workload: Workload,
    watch: Watch,
    rng: ChaCha8Rng,
    prepared: Prepared,
    components: Vec<Option<usize>>,
    /// The world's version that `components` fit.
    mapped: u64,
    settled: Option<Instant>,
    totals: Totals,
    /// When idle counting began, with all bytes so far.
    idle: Option<(Instant, u64, BTreeMap<&'static str, u64>)>,
    traffic: Option<(Instant, Instant)>,
    probes_sent: usize,
    lookups_sent: usize,
    troubles: Vec<Trouble>,
    /// Events that have not begun, the next one last.
    coming: Vec<(Instant, usize)>,
    bounds_checked: Instant,
    /// Droppers.
    villains: Vec<usize>,
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario) -> Result<Self, Violation> {
        let refused = |what| Violation { seed: scenario.seed, at: Instant::ZERO, what };
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed ^ 0x70_70);
        let mut network = scenario.topology.network(scenario.nodes, &mut rng).map_err(refused)?;
        let mut prepared = Prepared::default();
        let merge = scenario.events.iter().find(|event| event.kind == Kind::Merge);
        if let Some(merge) = merge {
            let first = network.nodes;
            let joints = network.with_mesh(merge.size, &mut rng);
            prepared.mesh = Some(first..network.nodes);
            prepared.joints = (network.cables.len() - joints..network.cables.len()).collect();
        }
        let (seed, mut config) = (scenario.seed, scenario.config.clone());
        if scenario.quick_keys {
            config = World::quick(config, seed);
        }
        let mut world = World::with_threads(network.nodes, seed, config, scenario.threads);
        for cable in &network.cables {
            let (least, most) = scenario.link.latency.map_or(cable.latency, |same| (same, same));
            let latency = world.draw(least, most);
            let shape = Shape {
                kind: scenario.link.kind,
                latency,
                jitter: scenario.link.jitter.unwrap_or(latency / 10),
                loss: cable.loss.unwrap_or(scenario.link.loss),
                rate: cable.rate.unwrap_or(scenario.link.rate),
                ..Shape::default()
            };
            let edge = world.link(cable.a as usize, cable.b as usize, shape);
            if prepared.joints.contains(&edge) {
                world.set_link(edge, false);
            }
        }
        let villains =
            scenario.droppers.as_ref().map_or_else(Vec::new, |droppers| chosen(&world, droppers, &mut rng));
        corrupt(&mut world, scenario.droppers.as_ref(), &villains);
        Ok(Self {
            scenario,
            workload: Workload::default(),
            watch: Watch::default(),
            rng,
            prepared,
            components: world.honest_components(),
            mapped: world.version(),
            world,
            settled: None,
            totals: Totals {
                nodes: network.nodes,
                edges: network.cables.len(),
                places: network.places,
                ..Totals::default()
            },
            idle: None,
            traffic: None,
            probes_sent: 0,
            lookups_sent: 0,
            troubles: Vec::new(),
            coming: Vec::new(),
            bounds_checked: Instant::ZERO,
            villains,
        })
    }

    fn tick(&mut self) -> Result<(), Violation> {
        let until = self.world.now() + TICK;
        self.map();
        let map = Map { components: &self.components, island: self.prepared.mesh.clone() };
        self.workload.handle(&mut self.world, &map, until);
        self.world.run_until(until);
        for mut happened in self.world.take_happened() {
            for _ in 0..self.delivered(&mut happened) {
                self.workload.on_happened(&happened, &self.world);
            }
        }
        let now = self.world.now();
        if now.since(self.bounds_checked) >= BOUNDS_EVERY {
            self.bounds_checked = now;
            if let Some(what) = state_size::oversized(&self.world, self.most_sessions()) {
                return Err(self.violation(what));
            }
        }
        match self.settled {
            None => self.while_settling()?,
            Some(settled) => self.when_settled(settled),
        }
        self.watch.look(&self.world, &self.components, &self.troubles);
        if let Some(what) = self.workload.wrong().map(str::to_owned) {
            return Err(self.violation(what));
        }
        match loops::looping(&self.world) {
            Some(what) => Err(self.violation(what)),
            None => Ok(()),
        }
    }

    /// How often that is told to who counts: once, unless a fault is to be seen.
    fn delivered(&self, happened: &mut Happened) -> usize {
        let key = |node: usize| self.world.key(node);
        match (self.scenario.fault, happened) {
            (Some(Fault::Swallow), Happened::Received { .. }) => 0,
            (Some(Fault::Twice), Happened::Received { .. }) => 2,
            (Some(Fault::WrongKey), Happened::Received { at, from, .. }) => {
                *from = key(*at);
                1
            }
            _ => 1,
        }
    }

    /// Sessions that a router may keep.
    fn most_sessions(&self) -> usize {
        if self.scenario.fault == Some(Fault::Oversized) { 0 } else { state_size::SESSIONS_MAX }
    }

    /// Keeps the map of who can reach whom up to date.
    fn map(&mut self) {
        if self.mapped != self.world.version() {
            self.mapped = self.world.version();
            self.components = self.world.honest_components();
        }
    }

    fn while_settling(&mut self) -> Result<(), Violation> {
        let now = self.world.now();
        match convergence::unsettled(&self.world) {
            None => {
                self.settled = Some(now);
                // Only now do they have places that they can name.
                corrupt(&mut self.world, self.scenario.droppers.as_ref(), &self.villains);
                let frames: u64 = self.world.stats().iter().map(|stats| stats.control_frames_out).sum();
                self.totals.messages_build = Some(frames as f64 / self.world.len().max(1) as f64);
                self.plan(now);
            }
            Some(what) if now.since(Instant::ZERO) >= SETTLE_MAX => {
                return Err(self.violation(format!("not settled: {what}")));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Now it is known when everything else is to happen.
    fn plan(&mut self, settled: Instant) {
        let end = Instant::ZERO + self.scenario.duration;
        let wanted = self.scenario.traffic_at.unwrap_or(self.scenario.duration / 2);
        let from = (Instant::ZERO + wanted).max(settled);
        let last = (end - PATIENCE * u32::from(TRIES + 1)).max(from + TICK);
        self.traffic = Some((from, last));
        let mut next = from + WARM;
        for (number, event) in self.scenario.events.iter().enumerate() {
            let at = event.at_s.map_or(next, |at| (Instant::ZERO + seconds(at)).max(settled));
            next = at + event.lasts() + HEAL_MAX;
            self.coming.push((at, number));
        }
        self.coming.sort_unstable();
        self.coming.reverse();
    }

    /// Calm, idle until traffic begins, then traffic and troubles until the last packets can arrive.
    fn when_settled(&mut self, settled: Instant) {
        let now = self.world.now();
        while let Some(&(_, number)) = self.coming.last().filter(|(at, _)| *at <= now) {
            self.coming.pop();
            self.idle = None;
            self.troubles.push(Trouble::new(self.scenario.events[number].clone(), now));
        }
        for trouble in &mut self.troubles {
            trouble.handle(&mut self.world, &self.prepared, &mut self.rng);
        }
        self.map();
        let Some((from, last)) = self.traffic else { return };
        if now < from {
            if self.totals.start_kinds.is_empty() && self.troubles.is_empty() && now >= Instant::ZERO + START
            {
                self.totals.start_kinds = self.world.bytes_by_kind();
            }
            if self.idle.is_none() && self.troubles.is_empty() && now >= settled + CALM {
                self.idle = Some((now, self.bytes(), self.world.bytes_by_kind()));
            }
            return;
        }
        if let Some((since, bytes, kinds)) = self.idle.take() {
            let minutes = now.since(since).as_secs_f64() / 60.0;
            if minutes > 0.1 {
                let spent = self.bytes().saturating_sub(bytes) as f64;
                self.totals.control_bytes_min = Some(spent / minutes / self.world.len().max(1) as f64);
                let links = 2.0 * self.world.edges().max(1) as f64;
                self.totals.link_bytes_min = Some(spent / minutes / links);
                self.totals.idle_kinds = self.world.bytes_by_kind();
                for (name, bytes) in &mut self.totals.idle_kinds {
                    *bytes -= kinds.get(name).copied().unwrap_or_default();
                    *bytes = (*bytes as f64 / minutes) as u64;
                }
            }
        }
        let map = Map { components: &self.components, island: self.prepared.mesh.clone() };
        if !self.totals.loaded {
            self.totals.loaded = true;
            for load in &self.scenario.loads {
                self.workload.add(load, &map, now, &mut self.rng);
            }
        }
        // The load is what it is when routes have been found and flows have moved.
        self.workload.watch_load = now.since(from) * 2 > last.since(from);
        if now > last {
            self.workload.stop();
            return;
        }
        let done = now.since(from).as_secs_f64() / last.since(from).as_secs_f64().max(TICK.as_secs_f64());
        while self.probes_sent < (self.scenario.probes as f64 * done) as usize {
            self.probes_sent += 1;
            self.workload.probe(&mut self.world, &map, &mut self.rng);
        }
        while self.lookups_sent < (self.scenario.lookups as f64 * done) as usize {
            self.lookups_sent += 1;
            self.workload.lookup(&mut self.world, &map, &mut self.rng);
        }
    }

    /// All bytes so far. While no application sends anything all of them keep the network up.
    fn bytes(&self) -> u64 {
        self.world.stats().iter().map(|stats| stats.bytes_out).sum()
    }

    fn violation(&self, what: String) -> Violation {
        Violation { seed: self.scenario.seed, at: self.world.now(), what }
    }

    /// Nothing went wrong lately, so nothing may be wrong.
    fn is_quiet(&self) -> bool {
        let now = self.world.now();
        self.coming.is_empty()
            && self.troubles.iter().all(|trouble| {
                let patience = match trouble.event.kind {
                    Kind::RootsCrash | Kind::Flap | Kind::Grind => TENURE,
                    _ => HEAL_MAX,
                };
                trouble.is_over() && now.since(trouble.over_since().max(trouble.began)) >= patience
            })
    }

    /// Why the trees are not what they should be by now.
    fn unsettled(&self) -> Option<String> {
        if self.scenario.fault == Some(Fault::TwoRoots) {
            return convergence::one_root(&self.world, &vec![Some(0); self.world.len()]);
        }
        if self.scenario.droppers.is_none() || !self.scenario.config.audit {
            return convergence::unsettled(&self.world);
        }
        // Droppers are no parents and prove no place, so what hangs on them alone parts: but not in the last tree, and
        // not where honest nodes lead.
        convergence::parted(&self.world)
    }

    /// Where nothing went wrong everything arrives, and no packet runs out of hops.
    fn unreached(&self) -> Option<String> {
        let scenario = self.scenario;
        let calm = scenario.events.is_empty() && scenario.droppers.is_none() && scenario.link.loss == 0.0;
        if !calm || !scenario.loads.is_empty() {
            return None;
        }
        let ended: u64 = self.world.stats().iter().map(|stats| stats.dropped_ttl).sum();
        if ended > 0 {
            return Some(format!("{ended} packets ran out of hops in a network without trouble"));
        }
        let &(from, to) = self.workload.missing.first()?;
        Some(format!("node {to} never heard from node {from}, to which it is connected"))
    }

    fn finish(self) -> Result<Report, Violation> {
        if self.settled.is_some()
            && self.is_quiet()
            && let Some(what) = self.unsettled()
        {
            return Err(self.violation(format!("no longer settled: {what}")));
        }
        if let Some(what) = self.unreached() {
            return Err(self.violation(what));
        }
        if let Some(what) = self.watch.grew() {
            return Err(self.violation(what));
        }
        let Self { scenario, world, workload, watch, settled, totals, troubles, traffic, .. } = self;
        Ok(super::measure::report(scenario, &world, &workload, &watch, settled, totals, &troubles, traffic))
    }
}

/// The nodes that are droppers.
fn chosen(world: &World, droppers: &Droppers, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let count = (droppers.share.clamp(0.0, 1.0) * world.len() as f64).round() as usize;
    let mut nodes: Vec<usize> = (0..world.len()).collect();
    match droppers.place {
        DropperPlace::Random => {
            for at in 0..count.min(nodes.len()) {
                let other = at + below(rng, nodes.len() - at);
                nodes.swap(at, other);
            }
        }
        DropperPlace::Degree => nodes.sort_by_key(|&node| std::cmp::Reverse(world.degree(node))),
    }
    nodes.truncate(count);
    nodes
}

/// Makes droppers of these.
fn corrupt(world: &mut World, droppers: Option<&Droppers>, nodes: &[usize]) {
    let Some(droppers) = droppers else { return };
    let contact = |&node: &usize| {
        let router = world.router(node);
        let places = router.into_iter().flat_map(|router| {
            (0..router.tree_count()).filter_map(|tree| Some((tree, router.place(tree)?.1)))
        });
        Contact { node: world.key(node), locator: Locator::of(places) }
    };
    let fellows: Arc<[Contact]> = nodes.iter().map(contact).collect();
    for &node in nodes {
        let malice = Malice::new(droppers.kind, world.key(node));
        world.corrupt(node, if droppers.lie { malice.lying(fellows.clone()) } else { malice });
    }
}
