//! One run: all nodes start at once, settle, have a quiet time, then probe each other; perhaps a root crashes amid that.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::SeedableRng;
use router::{Config, Instant, LinkKind};

use crate::{
    Report, Shape, Topology, World,
    check::{convergence, loops, state_size},
    fault::{Fault, Trouble},
    report::{Crash, Delivery, Faults, LookupShare, Loops, PerNode, Stretch, Stretches, round, share},
    workload::{Outcome, RETRY, TRIES, Workload},
    world::End,
};

/// What to run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Kind of network.
    pub topology: Topology,
    /// How many nodes.
    pub nodes: usize,
    /// Decides all that chance decides.
    pub seed: u64,
    /// Virtual time in all.
    pub duration: Duration,
    /// Frames lost by each link, 0..1.
    pub loss: f64,
    /// Kind of links.
    pub kind: LinkKind,
    /// Bytes that each link carries in a second.
    pub rate: u64,
    /// One-way latency of every link, instead of the topology's own.
    pub latency: Option<Duration>,
    /// Probes between random pairs; as many lookups are a quarter of them.
    pub probes: usize,
    /// Crash the root of the first tree halfway through the probes.
    pub crash_root: bool,
    /// Trouble in the first half, in the place of a quiet time.
    pub fault: Option<Fault>,
    /// Settings of all routers.
    pub config: Config,
}

impl Scenario {
    /// Two minutes of a network without loss.
    pub fn new(topology: Topology, nodes: usize, seed: u64) -> Self {
        Self {
            topology,
            nodes,
            seed,
            duration: Duration::from_secs(120),
            loss: 0.0,
            kind: LinkKind::Stream,
            rate: Shape::default().rate,
            latency: None,
            probes: (2 * nodes).clamp(50, 2000),
            crash_root: false,
            fault: None,
            config: Config::default(),
        }
    }
}

/// What must not happen, when it did.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}, {at:?} of virtual time: {what}")]
pub struct Violation {
    /// The seed that shows it again.
    pub seed: u64,
    /// When.
    pub at: Instant,
    /// What.
    pub what: String,
}

/// How often the world is looked at: the precision of times.
const TICK: Duration = Duration::from_millis(50);
/// How often bounds of tables are looked at.
const BOUNDS_EVERY: Duration = Duration::from_secs(5);
/// After settling it is left alone for so long before idle traffic is counted: nodes publish, look for others, measure costs.
const CALM: Duration = Duration::from_secs(45);
/// A network without faults must have settled by then, whatever the seed.
const SETTLE_MAX: Duration = Duration::from_secs(60);
/// Of what did not arrive, so many are named.
const MISSING_SHOWN: usize = 8;
/// And after a crash.
/// (A silent neighbour on an idle link is noticed after half a minute only.)
const HEAL_MAX: Duration = Duration::from_secs(45);

/// Runs it to its end or to the first violation. `progress` hears the share that is done and the virtual time.
pub fn run(scenario: &Scenario, mut progress: impl FnMut(f64, Instant)) -> Result<Report, Violation> {
    let mut run = Run::new(scenario);
    let end = Instant::ZERO + scenario.duration;
    while run.world.now() < end {
        run.tick(scenario)?;
        progress(run.world.now().as_micros() as f64 / end.as_micros().max(1) as f64, run.world.now());
    }
    run.finish(scenario)
}

struct Run {
    world: World,
    workload: Workload,
    rng: ChaCha8Rng,
    components: Vec<Option<usize>>,
    settled: Option<Instant>,
    messages_build: Option<f64>,
    /// When idle counting began, with all control bytes so far.
    idle: Option<(Instant, u64)>,
    control_bytes_min: Option<f64>,
    /// Probes and lookups sent.
    sent: usize,
    asked: usize,
    crash: Option<CrashRun>,
    trouble: Option<TroubleRun>,
    bounds_checked: Instant,
}

struct TroubleRun {
    trouble: Trouble,
    /// When the last fault was made or mended.
    last: Instant,
    healed: Option<Instant>,
}

struct CrashRun {
    at: Instant,
    healed: Option<Instant>,
    /// Probes sent while it healed.
    probes: Workload,
}

impl Run {
    fn new(scenario: &Scenario) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(scenario.seed ^ 0x70_70);
        let links = scenario.topology.links(scenario.nodes, &mut rng);
        let mut world = World::new(scenario.nodes, scenario.seed, scenario.config.clone());
        let (least, most) =
            scenario.latency.map_or_else(|| scenario.topology.latencies(), |same| (same, same));
        for (a, b) in links {
            let latency = world.draw(least, most);
            let shape = Shape {
                kind: scenario.kind,
                latency,
                jitter: latency / 10,
                loss: scenario.loss,
                rate: scenario.rate,
                ..Shape::default()
            };
            world.link(a, b, shape);
        }
        let components = world.components();
        Self {
            world,
            workload: Workload::default(),
            rng,
            components,
            settled: None,
            messages_build: None,
            idle: None,
            control_bytes_min: None,
            sent: 0,
            asked: 0,
            crash: None,
            trouble: None,
            bounds_checked: Instant::ZERO,
        }
    }

    fn tick(&mut self, scenario: &Scenario) -> Result<(), Violation> {
        let before = self.world.now();
        self.world.run_until(before + TICK);
        let now = self.world.now();
        for happened in self.world.take_happened() {
            self.workload.handle(&happened);
            if let Some(crash) = &mut self.crash {
                crash.probes.handle(&happened);
            }
        }
        self.workload.resend(&mut self.world);
        if now.since(self.bounds_checked) >= BOUNDS_EVERY {
            self.bounds_checked = now;
            if let Some(what) = state_size::oversized(&self.world) {
                return Err(self.violation(scenario, what));
            }
        }
        if let Some(settled) = self.settled {
            if !self.in_trouble(scenario, settled)? {
                self.when_settled(scenario, settled, before);
            }
        } else {
            self.while_settling(scenario)?;
        }
        match loops::looping(&self.world) {
            Some(what) => Err(self.violation(scenario, what)),
            None => Ok(()),
        }
    }

    fn while_settling(&mut self, scenario: &Scenario) -> Result<(), Violation> {
        let unsettled = convergence::unsettled(&self.world);
        let now = self.world.now();
        match unsettled {
            None => {
                self.settled = Some(now);
                let frames: u64 = self.world.stats().iter().map(|stats| stats.control_frames_out).sum();
                self.messages_build = Some(frames as f64 / self.world.len().max(1) as f64);
            }
            Some(what) if now.since(Instant::ZERO) >= SETTLE_MAX => {
                return Err(self.violation(scenario, format!("not settled: {what}")));
            }
            Some(_) => {}
        }
        Ok(())
    }

    /// Makes the trouble that was asked for until half of the time is over, then waits until it has healed. Says whether that goes
    /// on.
    fn in_trouble(&mut self, scenario: &Scenario, settled: Instant) -> Result<bool, Violation> {
        let Some(fault) = scenario.fault else { return Ok(false) };
        let now = self.world.now();
        let until = (Instant::ZERO + scenario.duration / 2).max(settled);
        let run = self.trouble.get_or_insert_with(|| TroubleRun {
            trouble: Trouble::new(fault, now, until),
            last: now,
            healed: None,
        });
        if run.healed.is_some() {
            return Ok(false);
        }
        if run.trouble.handle(&mut self.world, &mut self.rng) {
            run.last = now;
        }
        if run.trouble.is_over(now) {
            match convergence::unsettled(&self.world) {
                None => {
                    run.healed = Some(now);
                    self.components = self.world.components();
                }
                Some(what) if now.since(run.last) >= HEAL_MAX => {
                    return Err(self.violation(scenario, format!("not healed: {what}")));
                }
                Some(_) => {}
            }
        }
        Ok(true)
    }

    /// After settling: calm, idle until half of the time is over, then probes until the last ones can be answered.
    fn when_settled(&mut self, scenario: &Scenario, settled: Instant, before: Instant) {
        let now = self.world.now();
        let end = Instant::ZERO + scenario.duration;
        let healed = self.trouble.as_ref().and_then(|run| run.healed).unwrap_or(settled);
        let probing = (Instant::ZERO + scenario.duration / 2).max(healed);
        let last = (end - RETRY * (TRIES + 1)).max(probing + TICK);
        if now < probing {
            if self.idle.is_none() && now >= settled + CALM {
                self.idle = Some((now, self.control_bytes()));
            }
            return;
        }
        if let Some((since, bytes)) = self.idle.take() {
            let minutes = now.since(since).as_secs_f64() / 60.0;
            let spent = self.control_bytes().saturating_sub(bytes) as f64;
            self.control_bytes_min = Some(round(spent / minutes / self.world.len().max(1) as f64));
        }
        if scenario.crash_root {
            let middle = probing + last.since(probing) / 2;
            if before < middle && now >= middle {
                self.crash_root();
            }
            self.watch_crash();
        }
        if now <= last {
            let done =
                now.since(probing).as_secs_f64() / last.since(probing).as_secs_f64().max(TICK.as_secs_f64());
            self.send_until(
                (scenario.probes as f64 * done) as usize,
                (scenario.probes as f64 / 4.0 * done) as usize,
            );
        }
    }

    fn send_until(&mut self, probes: usize, lookups: usize) {
        while self.sent < probes {
            self.sent += 1;
            let healing = self.crash.as_mut().filter(|crash| crash.healed.is_none());
            let workload = healing.map_or(&mut self.workload, |crash| &mut crash.probes);
            workload.probe(&mut self.world, &self.components, &mut self.rng);
        }
        while self.asked < lookups {
            self.asked += 1;
            self.workload.lookup(&mut self.world, &self.components, &mut self.rng);
        }
    }

    fn crash_root(&mut self) {
        let root =
            self.world.routers().find_map(|(_, router)| router.trees().first().map(|place| place.root));
        let Some(node) = root.and_then(|root| self.world.node(&root)) else { return };
        self.world.crash(node, End::Silent);
        self.components = self.world.components();
        // Numbers of the healing probes start elsewhere, so that none is taken for another one.
        let probes = Workload::starting_at(1 << 32);
        self.crash = Some(CrashRun { at: self.world.now(), healed: None, probes });
    }

    fn watch_crash(&mut self) {
        let Some(crash) = &mut self.crash else { return };
        crash.probes.resend(&mut self.world);
        if crash.healed.is_none() && convergence::unsettled(&self.world).is_none() {
            crash.healed = Some(self.world.now());
        }
    }

    /// All bytes so far. While no application sends anything all of them keep the network up.
    fn control_bytes(&self) -> u64 {
        self.world.stats().iter().map(|stats| stats.bytes_out).sum()
    }

    fn violation(&self, scenario: &Scenario, what: String) -> Violation {
        Violation { seed: scenario.seed, at: self.world.now(), what }
    }

    fn finish(self, scenario: &Scenario) -> Result<Report, Violation> {
        if self.settled.is_some()
            && let Some(what) = convergence::unsettled(&self.world)
        {
            let crashed = self.crash.as_ref().map(|crash| crash.at);
            if crashed.is_none_or(|at| self.world.now().since(at) >= HEAL_MAX) {
                return Err(self.violation(scenario, format!("no longer settled: {what}")));
            }
        }
        let graph = self.world.graph();
        let outcome = self.workload.outcome(&graph);
        let nodes = self.world.len().max(1) as f64;
        let infos: Vec<_> = self.world.routers().map(|(_, router)| router.self_info()).collect();
        Ok(Report {
            seed: scenario.seed,
            commit: option_env!("MANGROVE_COMMIT").map(str::to_owned),
            nodes: self.world.len(),
            edges: self.world.edges(),
            topology: scenario.topology.name().to_owned(),
            loss_percent: round(scenario.loss * 100.0),
            virtual_s: scenario.duration.as_secs_f64(),
            converged_s: self.settled.map(|at| round(at.since(Instant::ZERO).as_secs_f64())),
            stretch: Stretches { first_packet: Stretch::of(&outcome.stretch) },
            delivery: delivery(&outcome),
            per_node: PerNode {
                control_bytes_min: self.control_bytes_min,
                messages_build: self.messages_build.map(round),
                table_bytes: None,
                sessions: round(infos.iter().map(|info| info.sessions).sum::<usize>() as f64 / nodes),
                records: round(infos.iter().map(|info| info.records).sum::<usize>() as f64 / nodes),
            },
            lookup: (outcome.lookups.0 > 0).then(|| LookupShare {
                lookups: outcome.lookups.0,
                success: share(outcome.lookups.1, outcome.lookups.0),
            }),
            crash: self.crash.map(|crash| Crash {
                at_s: round(crash.at.since(Instant::ZERO).as_secs_f64()),
                healed_s: crash.healed.map(|healed| round(healed.since(crash.at).as_secs_f64())),
                delivery: delivery(&crash.probes.outcome(&graph)),
            }),
            faults: self.trouble.map(|run| Faults {
                kind: scenario.fault.map_or_else(String::new, |fault| fault.name().to_owned()),
                faults: run.trouble.faults,
                healed_s: run.healed.map(|healed| round(healed.since(run.last).as_secs_f64())),
            }),
            loops: Loops {
                revisits: self.world.traces().revisits,
                visits_max: self.world.traces().visits_max,
                hops_max: self.world.traces().hops_max,
            },
            digest: self.world.digest(),
            ..Report::default()
        })
    }
}

fn delivery(outcome: &Outcome) -> Option<Delivery> {
    (outcome.sent > 0).then(|| Delivery {
        probes: outcome.sent,
        first_try: share(outcome.first_try, outcome.sent),
        with_retries: share(outcome.arrived, outcome.sent),
        missing: outcome.missing.iter().copied().take(MISSING_SHOWN).collect(),
    })
}
