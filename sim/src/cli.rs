//! `mangrove sim`: runs from the command line.

use std::{
    cell::Cell,
    fs,
    io::{self, IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant as Wall},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use router::{Instant, LinkKind};

use crate::{
    Report, Scenario, Topology,
    adversary::{DropperKind, DropperPlace},
    event::{Event, Kind},
    report::round,
    scenario::{self, Droppers, ScenarioFile, Violation},
    shrink::shrink,
};

/// Simulate a network: the real router, thousands of nodes, a virtual clock.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Kind of network: grid, ring, line, tree, random, scale-free, unit-disk, mixed, or a file (a list of edges
    /// `a b [latency_ms [mbit_s [loss_percent]]]`, or GraphML; .gz too). [default: scale-free, or the scenario's]
    #[arg(long)]
    pub topology: Option<Topology>,
    /// Number of nodes. [default: 100, or the scenario's]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub nodes: Option<u32>,
    /// Decides all that chance decides: the same seed, the same run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Several seeds, as 1-5 or 1,3,8.
    #[arg(long, conflicts_with = "seed", value_parser = seeds)]
    pub seeds: Option<Seeds>,
    /// Runs at the same time.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub jobs: u16,
    /// Threads that compute one run, which is the same with any number. [default: what the machine has, dealt out to the jobs]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Virtual minutes. [default: 2, or the scenario's]
    #[arg(long)]
    pub minutes: Option<f64>,
    /// Network, traffic, events and expectations from a TOML file (sim/scenarios has some). Flags go before it.
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// Share of the nodes that drop what they should pass on, 0 to 1.
    #[arg(long, value_name = "SHARE")]
    pub droppers: Option<f64>,
    /// Which packets they drop.
    #[arg(long, value_enum, default_value = "silent")]
    pub dropper_kind: DropperKind,
    /// Where they are.
    #[arg(long, value_enum, default_value = "random")]
    pub dropper_place: DropperPlace,
    /// They also lie to whoever looks something up.
    #[arg(long)]
    pub dropper_lies: bool,
    /// Something that goes wrong; may be given several times.
    #[arg(long, value_enum)]
    pub event: Vec<Kind>,
    /// When, in virtual seconds, in the order of the events. Default: one after the other, when traffic flows.
    #[arg(long, value_name = "SECONDS")]
    pub at: Vec<f64>,
    /// How long they go on, in seconds.
    #[arg(long = "for", value_name = "SECONDS")]
    pub lasts: Option<f64>,
    /// Time between two rounds of flap and grind, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub every: Option<f64>,
    /// Attackers of grind and place-theft.
    #[arg(long, default_value_t = 1)]
    pub count: usize,
    /// Nodes that attackers link to.
    #[arg(long, default_value_t = 1)]
    pub places: usize,
    /// Nodes of the mesh that merges.
    #[arg(long, default_value_t = 200)]
    pub size: usize,
    /// Share of the nodes that leave or come each minute, 0 to 1, from the time traffic begins.
    #[arg(long, value_name = "SHARE")]
    pub churn: Option<f64>,
    /// One-way latency of all links, in ms. Default: the topology's, 2, or 2 to 40 over the Internet.
    #[arg(long)]
    pub latency: Option<f64>,
    /// Up to so much on top, in ms. Default: a tenth of the latency.
    #[arg(long)]
    pub jitter: Option<f64>,
    /// Frames that each link loses, in percent (a stream sends them again). [default: 0]
    #[arg(long)]
    pub loss: Option<f64>,
    /// What each link carries, in Mbit/s. [default: 100]
    #[arg(long)]
    pub rate: Option<f64>,
    /// Links are datagrams (udp) instead of streams (tcp).
    #[arg(long)]
    pub datagrams: bool,
    /// Trees, 1 to 8. One is the classic that others use.
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=8))]
    pub trees: Option<u8>,
    /// All packets go by the trees.
    #[arg(long)]
    pub no_source_routes: bool,
    /// Nobody audits neighbours.
    #[arg(long)]
    pub no_audit: bool,
    /// Nobody asks others for their links where packets do not arrive (the verified map).
    #[arg(long)]
    pub no_map: bool,
    /// A keyed hash stands in for signatures and Diffie-Hellmans, which take a fifth of the time: same lengths, same refusals.
    /// The report says so.
    #[arg(long)]
    pub quick_keys: bool,
    /// Nodes tell of those around them, and are reached straight on (the vicinity).
    #[arg(long)]
    pub vicinity: bool,
    /// Packets between random pairs that never talked before. [default: two a node, at most 2000]
    #[arg(long)]
    pub probes: Option<usize>,
    /// Pairs that send a packet a second. [default: 200 if there are events, otherwise none]
    #[arg(long)]
    pub pairs: Option<usize>,
    /// Write a page there with plots of the runs and the networks drawn: report.html, which needs nothing else.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Run every scenario of that folder (what has not been run yet) and print the table of what was expected and found.
    #[arg(long, value_name = "DIR")]
    pub table: Option<PathBuf>,
    /// Where the table's reports are kept.
    #[arg(long, value_name = "DIR", default_value = "target/sim")]
    pub results: PathBuf,
    /// Of the table only scenarios with this in their name.
    #[arg(long, value_name = "NAME", requires = "table")]
    pub only: Option<String>,
    /// Run nothing, print the table of what there is.
    #[arg(long, requires = "table")]
    pub only_print: bool,
    /// After a failure look for a smaller network that fails too.
    #[arg(long)]
    pub shrink: bool,
    /// Write the figures there as JSON (several runs: a list); `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Numbers of runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeds(pub Vec<u64>);

fn seeds(text: &str) -> Result<Seeds, String> {
    let number = |text: &str| text.trim().parse::<u64>().map_err(|_| format!("{text:?} is no seed"));
    let mut seeds = Vec::new();
    for part in text.split(',') {
        match part.split_once('-') {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first || last - first >= 10_000 {
                    return Err(format!("{part:?} is no range of seeds"));
                }
                seeds.extend(first..=last);
            }
            None => seeds.push(number(part)?),
        }
    }
    Ok(Seeds(seeds))
}

/// Runs it. Exit code 1: something that must hold or was expected did not, or a panic; 2: the arguments make no sense.
pub fn run(args: Args) -> ExitCode {
    if let Some(folder) = &args.table {
        return match crate::table::table(&args, folder, &args.results) {
            Ok(page) => {
                print!("{page}");
                ExitCode::SUCCESS
            }
            Err(what) => {
                eprintln!("mangrove sim: {what}");
                ExitCode::from(2)
            }
        };
    }
    let prepared = args.file().and_then(|file| Ok((args.scenarios(file.as_ref())?, file)));
    let (scenarios, file) = match prepared {
        Ok(prepared) => prepared,
        Err(what) => {
            eprintln!("mangrove sim: {what}");
            return ExitCode::from(2);
        }
    };
    let outcomes = run_all(&scenarios, usize::from(args.jobs));
    let mut reports = Vec::new();
    let mut failed = false;
    for (scenario, outcome) in scenarios.iter().zip(outcomes) {
        match outcome {
            Ok(report) => reports.push(report),
            Err(violation) => {
                failed = true;
                eprintln!("mangrove sim: {violation}");
                eprintln!("again with: {}", args.again(scenario));
                if args.shrink {
                    let (small, violation) =
                        shrink(scenario, violation, |scenario| supervised(scenario, None).map(|_| ()));
                    eprintln!("smaller: {violation}");
                    eprintln!("again with: {}", args.again(&small));
                }
            }
        }
    }
    let printed = print(&reports, args.json.as_ref()).and_then(|()| match &args.report {
        Some(folder) => {
            let path = folder.join("report.html");
            let written =
                fs::create_dir_all(folder).and_then(|()| fs::write(&path, crate::html::page(&reports)));
            written.map_err(|error| format!("cannot write {}: {error}", path.display()))
        }
        None => Ok(()),
    });
    if let Err(what) = printed {
        eprintln!("mangrove sim: {what}");
        return ExitCode::from(2);
    }
    if let Some(file) = &file {
        failed |= !expected(file, &reports);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// Says which expectations of a scenario were not met; true if all were.
fn expected(file: &ScenarioFile, reports: &[Report]) -> bool {
    let mut met = true;
    let mut topologies: Vec<&str> = reports.iter().map(|report| report.topology.as_str()).collect();
    topologies.dedup();
    for topology in topologies {
        for expect in &file.expects {
            let Some(bound) = expect.bound(topology) else { continue };
            let of = reports.iter().filter(|report| report.topology == topology);
            let figure = median(of.filter_map(|report| expect.find(&serde_json::to_value(report).ok()?)));
            let holds = figure.is_some_and(|figure| bound.holds(figure));
            met &= holds;
            let figure = figure.map_or_else(|| "not measured".to_owned(), |figure| figure.to_string());
            let mark = if holds { "ok  " } else { "MISS" };
            eprintln!("{mark} {topology}: {}: {figure} (expected {bound})", expect.label);
        }
    }
    met
}

/// The middle one; of an even number the lesser of the two.
pub fn median(figures: impl Iterator<Item = f64>) -> Option<f64> {
    let mut figures: Vec<f64> = figures.collect();
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

/// Runs them, so many at a time. The outcome of each depends on nothing but itself.
pub fn run_all(scenarios: &[Scenario], jobs: usize) -> Vec<Result<Report, Violation>> {
    let bars = MultiProgress::new();
    if !io::stderr().is_terminal() {
        bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new((0..scenarios.len()).map(|_| None).collect::<Vec<_>>());
    let alone = jobs.min(scenarios.len()) == 1;
    thread::scope(|scope| {
        for _ in 0..jobs.min(scenarios.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(scenario) = scenarios.get(at) else { return };
                    let (wall, cpu) = (Wall::now(), cpu_s(alone));
                    let mut outcome = supervised(scenario, Some(&bars));
                    if let Ok(report) = &mut outcome {
                        report.wall_s = Some(round(wall.elapsed().as_secs_f64()));
                        let spent = cpu_s(alone).zip(cpu).map(|(after, before)| round(after - before));
                        report.cpu_s = spent.filter(|_| alone || scenario.threads == 1);
                        // Of several at once nobody can say whose memory it was.
                        report.rss_mb = rss_mb().filter(|_| alone);
                    }
                    outcomes.lock().expect("no panic under the lock")[at] = Some(outcome);
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().expect("no panic under the lock");
    outcomes.into_iter().map(|outcome| outcome.expect("every number was drawn")).collect()
}

impl Args {
    fn file(&self) -> Result<Option<ScenarioFile>, String> {
        self.scenario.as_deref().map(ScenarioFile::read).transpose()
    }

    /// All runs that they ask for.
    pub fn scenarios(&self, file: Option<&ScenarioFile>) -> Result<Vec<Scenario>, String> {
        let seeds = self.seeds.clone().map_or_else(|| vec![self.seed], |seeds| seeds.0);
        let mut scenarios = Vec::new();
        let names = match (&self.topology, file) {
            // Of a table the networks that the scenario is about.
            (Some(topology), Some(file)) if self.table.is_some() => {
                let name = topology.to_string();
                file.topologies.iter().filter(|topology| **topology == name).cloned().collect()
            }
            (Some(topology), _) => vec![topology.to_string()],
            (None, Some(file)) => file.topologies.clone(),
            (None, None) => vec!["scale-free".to_owned()],
        };
        for name in &names {
            for &seed in &seeds {
                let nodes = self.nodes.map(|nodes| nodes as usize);
                let base = match file {
                    Some(file) => file.scenario(name, nodes, seed)?,
                    None => Scenario::new(name.parse()?, nodes.unwrap_or(100), seed),
                };
                scenarios.push(self.applied(base)?);
            }
        }
        Ok(scenarios)
    }

    /// Flags go before what a file says.
    fn applied(&self, mut scenario: Scenario) -> Result<Scenario, String> {
        let within = |value: f64, least: f64, most: f64, what: &str| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(format!("{what} must be {least} to {most}"))
            }
        };
        if let Some(minutes) = self.minutes {
            scenario.duration =
                Duration::from_secs_f64(within(minutes, 0.01, 100_000.0, "--minutes")? * 60.0);
        }
        if let Some(loss) = self.loss {
            scenario.link.loss = within(loss, 0.0, 90.0, "--loss")? / 100.0;
        }
        if let Some(rate) = self.rate {
            scenario.link.rate = (within(rate, 0.001, 1e6, "--rate")? * 125_000.0) as u64;
        }
        if let Some(ms) = self.latency {
            let latency = within(ms, 0.01, 60_000.0, "--latency")? / 1000.0;
            scenario.link.latency = Some(Duration::from_secs_f64(latency));
        }
        if let Some(ms) = self.jitter {
            let jitter = within(ms, 0.0, 60_000.0, "--jitter")? / 1000.0;
            scenario.link.jitter = Some(Duration::from_secs_f64(jitter));
        }
        if self.datagrams {
            scenario.link.kind = LinkKind::Datagram;
        }
        if let Some(trees) = self.trees {
            scenario.config.trees = trees;
        }
        if self.no_source_routes || self.no_audit {
            scenario.switch(!self.no_source_routes, !self.no_audit);
        }
        if self.vicinity {
            scenario.config.vicinity = true;
        }
        if self.no_map {
            scenario.config.map = false;
        }
        if let Some(share) = self.droppers {
            scenario.droppers = Some(Droppers {
                share: within(share, 0.0, 0.9, "--droppers")?,
                kind: self.dropper_kind,
                place: self.dropper_place,
                lie: self.dropper_lies,
            });
        }
        for (number, &kind) in self.event.iter().enumerate() {
            scenario.events.push(Event {
                at_s: self.at.get(number).copied(),
                for_s: self.lasts,
                every_s: self.every,
                count: self.count,
                places: self.places,
                size: self.size,
                ..Event::new(kind)
            });
        }
        if let Some(share) = self.churn {
            let share = within(share, 0.0, 10.0, "--churn")?;
            let lasts = scenario.duration.as_secs_f64() / 2.0 - 75.0;
            scenario.events.push(Event {
                share: Some(share),
                for_s: Some(self.lasts.unwrap_or_else(|| lasts.max(10.0))),
                ..Event::new(Kind::Churn)
            });
        }
        scenario.quick_keys |= self.quick_keys;
        let machine = thread::available_parallelism().map_or(1, usize::from);
        scenario.threads = self.threads.map_or_else(|| machine / usize::from(self.jobs), usize::from).max(1);
        scenario.probes = self.probes.unwrap_or(scenario.probes);
        match self.pairs {
            Some(pairs) => {
                scenario.loads.clear();
                scenario.watch(pairs);
            }
            None if scenario.loads.is_empty() && !scenario.events.is_empty() => scenario.watch(200),
            None => {}
        }
        Ok(scenario)
    }

    /// The command that repeats a run.
    fn again(&self, scenario: &Scenario) -> String {
        let mut line = format!(
            "mangrove sim --topology {} --nodes {} --seed {}",
            scenario.topology, scenario.nodes, scenario.seed
        );
        let mut add = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                line.push_str(&format!(" --{flag} {value}"));
            }
        };
        let number = |value: Option<f64>| value.map(|value| value.to_string());
        let name = |value: &dyn erased::Name| Some(value.name());
        add("minutes", number(self.minutes));
        add("scenario", self.scenario.as_ref().map(|path| path.display().to_string()));
        if let Some(share) = self.droppers {
            add("droppers", Some(share.to_string()));
            add("dropper-kind", name(&self.dropper_kind));
            add("dropper-place", name(&self.dropper_place));
        }
        for kind in &self.event {
            add("event", name(kind));
        }
        for at in &self.at {
            add("at", Some(at.to_string()));
        }
        add("for", number(self.lasts));
        add("every", number(self.every));
        if !self.event.is_empty() {
            add("count", Some(self.count.to_string()));
            add("places", Some(self.places.to_string()));
            add("size", Some(self.size.to_string()));
        }
        add("churn", number(self.churn));
        add("latency", number(self.latency));
        add("jitter", number(self.jitter));
        add("loss", number(self.loss));
        add("rate", number(self.rate));
        add("trees", self.trees.map(|trees| trees.to_string()));
        add("probes", self.probes.map(|probes| probes.to_string()));
        add("pairs", self.pairs.map(|pairs| pairs.to_string()));
        for (flag, given) in [
            ("datagrams", self.datagrams),
            ("no-source-routes", self.no_source_routes),
            ("no-audit", self.no_audit),
            ("no-map", self.no_map),
            ("vicinity", self.vicinity),
            ("dropper-lies", self.dropper_lies),
            ("quick-keys", self.quick_keys),
        ] {
            if given {
                line.push_str(&format!(" --{flag}"));
            }
        }
        line
    }
}

mod erased {
    //! Names of values as the command line spells them.

    pub(super) trait Name {
        fn name(&self) -> String;
    }

    impl<T: clap::ValueEnum> Name for T {
        fn name(&self) -> String {
            self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
        }
    }
}

/// Runs it with a bar on a terminal; a panic becomes a violation with its seed and virtual time.
pub fn supervised(scenario: &Scenario, bars: Option<&MultiProgress>) -> Result<Report, Violation> {
    let bar = bars.map_or_else(ProgressBar::hidden, |bars| bars.add(ProgressBar::new(STEPS)));
    bar.set_style(
        ProgressStyle::with_template("{prefix} {wide_bar} {msg} {elapsed}")
            .expect("the template is well-formed"),
    );
    bar.set_prefix(format!("{} {}", scenario.topology, scenario.seed));
    let reached = Cell::new(Instant::ZERO);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        scenario::run(scenario, |share, now| {
            reached.set(now);
            bar.set_position((share * STEPS as f64) as u64);
            bar.set_message(format!("{:.1} s", now.as_micros() as f64 / 1e6));
        })
    }));
    bar.finish_and_clear();
    outcome.unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(Violation { seed: scenario.seed, at: reached.get(), what: format!("panic after that: {text}") })
    })
}

const STEPS: u64 = 1000;

fn print(reports: &[Report], json: Option<&PathBuf>) -> Result<(), String> {
    let text = match reports {
        [report] => serde_json::to_string_pretty(report),
        reports => serde_json::to_string_pretty(reports),
    };
    let text = text.map_err(|error| error.to_string())? + "\n";
    if json.is_some_and(|path| path.as_os_str() == "-") {
        return io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string());
    }
    for report in reports {
        println!("{report}\n");
    }
    match json {
        Some(path) => {
            fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        }
        None => Ok(()),
    }
}

/// Processor time of this process, or of this thread alone, where the system tells.
fn cpu_s(process: bool) -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string(if process { "/proc/self/stat" } else { "/proc/thread-self/stat" }).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(round((user + system) / TICKS_PER_S))
}

/// The most memory that this process had.
fn rss_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(round(kib / 1024.0))
}
