//! `mangrove sim`: one run from the command line.

use std::{
    cell::Cell,
    fs,
    io::{self, IsTerminal, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant as Wall},
};

use indicatif::{ProgressBar, ProgressStyle};
use router::{Instant, LinkKind};

use crate::{
    Report, Scenario, Topology,
    fault::Fault,
    report::round,
    scenario::{self, Violation},
    shrink::shrink,
};

/// Simulate a network: the real router, hundreds of nodes, a virtual clock.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Kind of network.
    #[arg(long, value_enum, default_value = "scale-free")]
    pub topology: Topology,
    /// Number of nodes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub nodes: u32,
    /// Decides all that chance decides: the same seed, the same run.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Virtual minutes.
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    /// Frames that each link loses, in percent (a stream sends them again).
    #[arg(long, default_value_t = 0.0)]
    pub loss: f64,
    /// One-way latency of all links, in ms. Default: 2, or 2 to 40 in random and scale-free networks.
    #[arg(long)]
    pub latency: Option<f64>,
    /// What each link carries, in Mbit/s.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// Links are datagrams (udp) instead of streams (tcp).
    #[arg(long)]
    pub datagrams: bool,
    /// Packets between random pairs. Default: two a node, at most 2000.
    #[arg(long)]
    pub probes: Option<usize>,
    /// Crash the first tree's root, without a word, amid the probes.
    #[arg(long)]
    pub crash_root: bool,
    /// Trouble in the first half of the time.
    #[arg(long, value_enum)]
    pub fault: Option<Fault>,
    /// After a failure look for a smaller network that fails too.
    #[arg(long)]
    pub shrink: bool,
    /// Write the figures there as JSON; `-` is standard output.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Runs it. Exit code 1: something that must hold did not, or a panic; 2: the arguments make no sense.
pub fn run(args: Args) -> ExitCode {
    let scenario = match args.scenario() {
        Ok(scenario) => scenario,
        Err(what) => {
            eprintln!("mangrove sim: {what}");
            return ExitCode::from(2);
        }
    };
    let start = Wall::now();
    match supervised(&scenario) {
        Ok(mut report) => {
            report.wall_s = Some(round(start.elapsed().as_secs_f64()));
            report.cpu_s = cpu_s();
            report.rss_mb = rss_mb();
            match print(&report, args.json.as_ref()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(what) => {
                    eprintln!("mangrove sim: {what}");
                    ExitCode::from(2)
                }
            }
        }
        Err(violation) => {
            eprintln!("mangrove sim: {violation}");
            eprintln!("again with: {}", args.again(&scenario));
            if args.shrink {
                let (small, violation) =
                    shrink(&scenario, violation, |scenario| supervised(scenario).map(|_| ()));
                eprintln!("smaller: {violation}");
                eprintln!("again with: {}", args.again(&small));
            }
            ExitCode::FAILURE
        }
    }
}

impl Args {
    /// What they ask for.
    pub fn scenario(&self) -> Result<Scenario, String> {
        let within = |value: f64, least: f64, most: f64, what: &str| {
            if (least..=most).contains(&value) {
                Ok(value)
            } else {
                Err(format!("{what} must be {least} to {most}"))
            }
        };
        let minutes = within(self.minutes, 0.01, 100_000.0, "--minutes")?;
        let mut scenario = Scenario::new(self.topology, self.nodes as usize, self.seed);
        scenario.duration = Duration::from_secs_f64(minutes * 60.0);
        scenario.loss = within(self.loss, 0.0, 90.0, "--loss")? / 100.0;
        scenario.rate = (within(self.rate, 0.001, 1e6, "--rate")? * 125_000.0) as u64;
        scenario.kind = if self.datagrams { LinkKind::Datagram } else { LinkKind::Stream };
        scenario.latency = match self.latency {
            Some(ms) => Some(Duration::from_secs_f64(within(ms, 0.01, 60_000.0, "--latency")? / 1000.0)),
            None => None,
        };
        scenario.probes = self.probes.unwrap_or(scenario.probes);
        scenario.crash_root = self.crash_root;
        scenario.fault = self.fault;
        Ok(scenario)
    }

    fn again(&self, scenario: &Scenario) -> String {
        let mut line = format!(
            "mangrove sim --topology {} --nodes {} --seed {} --minutes {} --loss {} --rate {}",
            scenario.topology.name(),
            scenario.nodes,
            scenario.seed,
            self.minutes,
            self.loss,
            self.rate
        );
        let mut add = |text: String| {
            line.push(' ');
            line.push_str(&text);
        };
        if let Some(latency) = self.latency {
            add(format!("--latency {latency}"));
        }
        if let Some(probes) = self.probes {
            add(format!("--probes {probes}"));
        }
        if let Some(fault) = self.fault {
            add(format!("--fault {}", fault.name()));
        }
        if self.datagrams {
            add("--datagrams".to_owned());
        }
        if self.crash_root {
            add("--crash-root".to_owned());
        }
        line
    }
}

/// Runs it with a bar on a terminal; a panic becomes a violation with its seed and virtual time.
pub fn supervised(scenario: &Scenario) -> Result<Report, Violation> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(STEPS) } else { ProgressBar::hidden() };
    bar.set_style(
        ProgressStyle::with_template("{wide_bar} {msg} {elapsed}").expect("the template is well-formed"),
    );
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

fn print(report: &Report, json: Option<&PathBuf>) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())? + "\n";
    match json {
        Some(path) if path.as_os_str() == "-" => {
            io::stdout().write_all(text.as_bytes()).map_err(|error| error.to_string())
        }
        Some(path) => {
            println!("{report}");
            fs::write(path, text).map_err(|error| format!("cannot write {}: {error}", path.display()))
        }
        None => {
            println!("{report}");
            Ok(())
        }
    }
}

/// Processor time of this process, where the system tells.
fn cpu_s() -> Option<f64> {
    const TICKS_PER_S: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
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
