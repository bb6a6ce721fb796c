//! Goal: each oracle sees what it is there for, says with which seed and when, and the case is made small. Method: a fault
//! that no router has is injected between the routers and who counts.

use std::{fs, path::Path, time::Duration};

use router::Instant;
use sim::{Scenario, Topology, Violation, scenario, scenario::Fault, shrink::shrink};

fn faulty(fault: Fault) -> Scenario {
    let mut scenario = Scenario::new(Topology::Grid, 16, 3);
    scenario.fault = Some(fault);
    scenario.quick_keys = true;
    scenario.duration = Duration::from_secs(60);
    scenario
}

fn found(scenario: &Scenario) -> Violation {
    let found = scenario::run(scenario, |_, _| ()).expect_err("the oracle sees it");
    assert_eq!(found.seed, scenario.seed);
    assert!(found.at > Instant::ZERO && found.to_string().contains("of virtual time"), "{found}");
    found
}

#[test]
fn without_a_fault_nothing_is_seen() {
    let scenario = Scenario { fault: None, ..faulty(Fault::Twice) };
    scenario::run(&scenario, |_, _| ()).unwrap();
}

#[test]
fn a_packet_that_comes_twice_is_seen_and_the_case_made_small() {
    let scenario = faulty(Fault::Twice);
    let violation = found(&scenario);
    assert!(violation.what.contains("came twice"), "{violation}");
    let again = found(&scenario);
    assert_eq!(
        (again.at, again.what),
        (violation.at, violation.what.clone()),
        "the same seed shows the same again"
    );
    let run = |small: &Scenario| scenario::run(small, |_, _| ()).map(|_| ());
    let (small, smaller) = shrink(&scenario, violation, run);
    assert!(small.nodes <= 4, "{} nodes", small.nodes);
    let replayed = found(&small);
    assert_eq!((replayed.at, replayed.what), (smaller.at, smaller.what));
}

#[test]
fn a_packet_as_from_another_key_is_seen() {
    let violation = found(&faulty(Fault::WrongKey));
    assert!(violation.what.contains("as from"), "{violation}");
}

#[test]
fn packets_that_never_come_are_seen() {
    let violation = found(&faulty(Fault::Swallow));
    assert!(violation.what.contains("never heard from"), "{violation}");
}

#[test]
fn a_table_beyond_its_bound_is_seen() {
    let violation = found(&faulty(Fault::Oversized));
    assert!(violation.what.contains("sessions"), "{violation}");
}

#[test]
fn two_roots_of_one_network_are_seen() {
    let edges = Path::new(env!("CARGO_TARGET_TMPDIR")).join("two-networks.txt");
    fs::write(&edges, "a b\nb c\nc a\nd e\ne f\n").unwrap();
    let scenario = Scenario { topology: Topology::File(edges), ..faulty(Fault::TwoRoots) };
    let violation = found(&scenario);
    assert!(violation.what.contains("sees root") && violation.what.contains("another one"), "{violation}");
}
