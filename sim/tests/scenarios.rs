//! Goal: the scenarios of `sim/scenarios` are understood, and hold what must always hold, in small.
//! Method: every file is read; some are run whole with a few dozen nodes. Expectations are for their full size and not
//! asked for here.

use std::{fs, path::PathBuf};

use sim::{Report, scenario, scenario::ScenarioFile};

fn files() -> Vec<PathBuf> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn run(name: &str, topology: &str, nodes: usize) -> Report {
    let path = files().into_iter().find(|path| path.to_string_lossy().contains(name)).expect("it is there");
    let mut scenario = ScenarioFile::read(&path).unwrap().scenario(topology, Some(nodes), 1).unwrap();
    scenario.probes = scenario.probes.min(100);
    scenario.lookups = scenario.lookups.min(25);
    for load in &mut scenario.loads {
        load.count = load.count.min(30);
    }
    for event in &mut scenario.events {
        event.size = event.size.min(15);
    }
    scenario::run(&scenario, |_, _| ()).unwrap_or_else(|violation| panic!("{name}: {violation}"))
}

#[test]
fn every_file_is_understood() {
    let files = files();
    assert!(files.len() >= 20);
    for path in files {
        let file = ScenarioFile::read(&path).unwrap_or_else(|what| panic!("{what}"));
        assert!(!file.expects.is_empty(), "{}", path.display());
        for topology in &file.topologies {
            file.scenario(topology, None, 1).unwrap();
            assert!(
                file.expects.iter().any(|expect| expect.bound(topology).is_some()),
                "{}: nothing is expected of {topology}",
                path.display()
            );
        }
    }
}

#[test]
fn a_root_crashes_in_small() {
    let report = run("02-root-crash", "unit-disk", 40);
    assert!(report.events[0].one_root_s.is_some_and(|seconds| seconds < 10.0), "{report}");
}

#[test]
fn a_mesh_joins_in_small() {
    let report = run("09-merge.", "mixed", 50);
    assert!(report.events[0].island_min.is_some_and(|share| share > 0.8), "{report}");
}

#[test]
fn ground_keys_in_small() {
    let report = run("11-grind-1-30", "scale-free", 30);
    assert!(report.events[0].first_try.is_some_and(|share| share > 0.8), "{report}");
}
