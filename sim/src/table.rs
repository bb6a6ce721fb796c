//! The whole table: every scenario of a folder on every network that it names, with several seeds, as one page of Markdown.
//! Reports are kept beside it, so that a run that was broken off goes on where it was.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    Scenario,
    cli::{Args, median, run_all},
    scenario::ScenarioFile,
};

/// One run of the table.
struct Entry {
    scenario: Scenario,
    topology: String,
    report: PathBuf,
}

/// Runs what is missing of the table of a folder and gives it as Markdown; reports go to `results`.
pub fn table(args: &Args, folder: &Path, results: &Path) -> Result<String, String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(|error| format!("cannot read {}: {error}", folder.display()))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    if let Some(only) = &args.only {
        paths.retain(|path| name(path).contains(only.as_str()));
    }
    fs::create_dir_all(results).map_err(|error| format!("cannot make {}: {error}", results.display()))?;
    let mut page = String::new();
    let mut failures = Vec::new();
    writeln!(page, "| | goal | {} |", COLUMNS.join(" | ")).expect("a string takes everything");
    writeln!(page, "|---|---|{}", "---|".repeat(COLUMNS.len())).expect("a string takes everything");
    for path in paths {
        let file = ScenarioFile::read(&path)?;
        let entries = entries(args, &file, &name(&path), results)?;
        let missing: Vec<&Entry> = entries.iter().filter(|entry| !entry.report.exists()).collect();
        // Each report is kept as soon as it is there: the table may be broken off at any time.
        for some in missing.chunks(usize::from(args.jobs)).take_while(|_| !args.only_print) {
            let scenarios: Vec<Scenario> = some.iter().map(|entry| entry.scenario.clone()).collect();
            for (entry, outcome) in some.iter().zip(run_all(&scenarios, usize::from(args.jobs))) {
                match outcome {
                    Ok(report) => {
                        let text =
                            serde_json::to_string_pretty(&report).map_err(|error| error.to_string())?;
                        fs::write(&entry.report, text + "\n")
                            .map_err(|error| format!("cannot write {}: {error}", entry.report.display()))?;
                    }
                    Err(violation) => {
                        eprintln!("{}, {}: {violation}", name(&path), entry.topology);
                        failures.push(format!("{} on {}: {violation}", name(&path), entry.topology));
                    }
                }
            }
        }
        rows(&mut page, &file, &entries)?;
    }
    for failure in failures {
        writeln!(page, "\nBroken: {failure}").expect("a string takes everything");
    }
    Ok(page)
}

const COLUMNS: [&str; 3] = ["scale-free", "unit-disk", "mixed"];

fn name(path: &Path) -> String {
    path.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn entries(args: &Args, file: &ScenarioFile, name: &str, results: &Path) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::new();
    for scenario in args.scenarios(Some(file))? {
        let topology = scenario.topology.to_string();
        let file = format!("{name}-{}-{}-{}.json", topology.replace('/', "_"), scenario.nodes, scenario.seed);
        entries.push(Entry { report: results.join(file), scenario, topology });
    }
    Ok(entries)
}

fn rows(page: &mut String, file: &ScenarioFile, entries: &[Entry]) -> Result<(), String> {
    let mut reports: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for entry in entries.iter().filter(|entry| entry.report.exists()) {
        let text = fs::read_to_string(&entry.report)
            .map_err(|error| format!("cannot read {}: {error}", entry.report.display()))?;
        let report =
            serde_json::from_str(&text).map_err(|error| format!("{}: {error}", entry.report.display()))?;
        reports.entry(&entry.topology).or_default().push(report);
    }
    for expect in &file.expects {
        let mut goals: Vec<String> = Vec::new();
        let mut cells = Vec::new();
        for topology in COLUMNS {
            let Some(bound) =
                expect.bound(topology).filter(|_| file.topologies.iter().any(|name| name == topology))
            else {
                cells.push("–".to_owned());
                continue;
            };
            goals.push(bound.to_string());
            let reports = reports.get(topology).map_or(&[][..], Vec::as_slice);
            let figures: Vec<f64> = reports.iter().filter_map(|report| expect.find(report)).collect();
            let nodes = reports.first().and_then(|report| report["nodes"].as_u64());
            cells.push(match median(figures.iter().copied()) {
                Some(figure) => {
                    let mark = if bound.holds(figure) { "" } else { " **miss**" };
                    let small = nodes.filter(|&nodes| (nodes as usize) < file.nodes);
                    let small = small.map_or_else(String::new, |nodes| format!(", {nodes} nodes"));
                    let seeds = if figures.len() == 1 {
                        "1 seed".to_owned()
                    } else {
                        format!("{} seeds", figures.len())
                    };
                    format!("{figure}{mark} ({seeds}{small})")
                }
                None => "not run".to_owned(),
            });
        }
        let mut goal = goals.clone();
        goal.dedup();
        let goal = if goal.len() == 1 { goal.remove(0) } else { goals.join(" / ") };
        writeln!(page, "| {} | {goal} | {} |", expect.label, cells.join(" | "))
            .expect("a string takes everything");
    }
    Ok(())
}
