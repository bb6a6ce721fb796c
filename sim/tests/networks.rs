//! Goal: small networks of every kind settle, deliver everything, heal, and do so the same way each time.
//! Method: whole runs of the simulator, all oracles on.

use std::time::Duration;

use router::LinkKind;
use sim::{
    Report, Scenario, Topology,
    adversary::{DropperKind, DropperPlace},
    event::{Event, Kind},
    scenario::{self, Droppers},
};

fn scenario(topology: Topology, nodes: usize, seed: u64) -> Scenario {
    let mut scenario = Scenario::new(topology, nodes, seed);
    scenario.duration = Duration::from_secs(60);
    scenario.probes = 60;
    scenario
}

fn run(scenario: &Scenario) -> Report {
    scenario::run(scenario, |_, _| ()).unwrap_or_else(|violation| panic!("{violation}"))
}

/// Everything arrived, at once but for what links lost.
#[track_caller]
fn assert_delivered(report: &Report, first_try_min: f64) {
    let delivery = report.delivery.as_ref().expect("there were probes");
    assert_eq!(delivery.with_retries, 1.0, "{report}");
    assert!(delivery.first_try >= first_try_min, "{report}");
    assert_eq!(report.lookup.expect("there were lookups").success, 1.0, "{report}");
}

#[test]
fn grid() {
    let report = run(&scenario(Topology::Grid, 25, 1));
    assert_delivered(&report, 1.0);
    assert!(report.converged_s.expect("settled") < 3.0, "{report}");
    let stretch = report.stretch.first_packet.expect("measured");
    assert!(stretch.mean < 1.3, "{report}");
}

#[test]
fn scale_free() {
    let report = run(&scenario(Topology::ScaleFree, 50, 2));
    assert_delivered(&report, 1.0);
    assert!(report.converged_s.expect("settled") < 5.0, "{report}");
    let stretch = report.stretch.first_packet.expect("measured");
    assert!(stretch.mean < 1.3, "{report}");
}

#[test]
fn line_ring_and_random() {
    for (topology, nodes) in [(Topology::Line, 12), (Topology::Ring, 12), (Topology::Random, 40)] {
        assert_delivered(&run(&scenario(topology, nodes, 3)), 1.0);
    }
}

#[test]
fn loss_on_streams() {
    let mut scenario = scenario(Topology::ScaleFree, 30, 4);
    scenario.link.loss = 0.05;
    assert_delivered(&run(&scenario), 0.9);
}

#[test]
fn loss_on_datagram_links() {
    let mut scenario = scenario(Topology::Grid, 25, 5);
    scenario.link.loss = 0.05;
    scenario.link.kind = LinkKind::Datagram;
    // Nothing repeats what an application sends: on a way of eight links one try in three is lost.
    let report = run(&scenario);
    let delivery = report.delivery.as_ref().expect("there were probes");
    assert!(delivery.first_try >= 0.6 && delivery.with_retries >= 0.95, "{report}");
    assert_eq!(report.lookup.expect("there were lookups").success, 1.0, "{report}");
}

#[test]
fn slow_links() {
    let mut scenario = scenario(Topology::Grid, 16, 6);
    scenario.link.rate = 12_500;
    assert_delivered(&run(&scenario), 0.9);
}

#[test]
fn the_crash_of_a_root_heals() {
    for seed in 0..3 {
        let mut scenario = scenario(Topology::ScaleFree, 30, seed);
        scenario.duration = Duration::from_secs(150);
        scenario.probes = 120;
        scenario.events.push(Event::new(Kind::RootCrash));
        scenario.watch(100);
        let report = run(&scenario);
        let crash = &report.events[0];
        assert!(crash.healed_s.expect("healed") < 15.0, "{report}");
        assert!(crash.delivery_min.expect("flows were watched") >= 0.7, "{report}");
        assert_eq!(crash.lost, 0, "{report}");
        assert_delivered(&report, 0.9);
    }
}

#[test]
fn churn_heals() {
    for seed in 0..3 {
        let mut scenario = scenario(Topology::Random, 30, seed);
        scenario.duration = Duration::from_secs(180);
        scenario.traffic_at = Some(Duration::from_secs(15));
        let churn = |kind, share| Event { share: Some(share), for_s: Some(40.0), ..Event::new(kind) };
        scenario.events = vec![churn(Kind::Churn, 0.4), churn(Kind::LinkChurn, 0.4)];
        let report = run(&scenario);
        assert!(report.events.iter().map(|event| event.faults).sum::<usize>() >= 5, "{report}");
        let delivery = report.delivery.as_ref().expect("there were probes");
        assert!(delivery.with_retries >= 0.98 && delivery.first_try >= 0.9, "{report}");
    }
}

#[test]
fn two_halves_merge() {
    let mut scenario = scenario(Topology::Grid, 36, 9);
    scenario.duration = Duration::from_secs(150);
    scenario.events.push(Event::new(Kind::Partition));
    let report = run(&scenario);
    assert!(report.events[0].healed_s.is_some_and(|s| s < 10.0), "{report}");
    assert_delivered(&report, 0.95);
}

#[test]
fn a_mesh_joins() {
    let mut scenario = scenario(Topology::Mixed, 60, 2);
    scenario.duration = Duration::from_secs(150);
    scenario.events.push(Event { size: 20, ..Event::new(Kind::Merge) });
    scenario.watch(100);
    let report = run(&scenario);
    assert!(report.events[0].one_root_s.is_some_and(|s| s < 10.0), "{report}");
    assert!(report.events[0].island_min.is_some_and(|share| share >= 0.9), "{report}");
}

#[test]
fn droppers_drop() {
    let mut scenario = scenario(Topology::UnitDisk, 40, 3);
    scenario.droppers =
        Some(Droppers { share: 0.2, kind: DropperKind::Silent, place: DropperPlace::Random, lie: false });
    let whole = run(&scenario);
    scenario.switch(false, false);
    let bare = run(&scenario);
    let first = |report: &Report| report.delivery.as_ref().map(|delivery| delivery.first_try).unwrap();
    assert!(first(&bare) < 1.0, "{bare}");
    assert!(first(&whole) > first(&bare), "source routes and audits find around droppers\n{whole}\n{bare}");
}

#[test]
fn one_tree_stays_whole_under_droppers() {
    // The oracle of the run itself: at its end the last tree has one root in each component, droppers and whoever is
    // behind them included, and every tree one where honest nodes lead.
    for (seed, topology) in [(3, Topology::ScaleFree), (3, Topology::UnitDisk)] {
        let mut scenario = scenario(topology, 40, seed);
        scenario.duration = Duration::from_secs(100);
        scenario.probes = 0;
        scenario.lookups = 0;
        scenario.droppers =
            Some(Droppers { share: 0.2, kind: DropperKind::Silent, place: DropperPlace::Random, lie: false });
        run(&scenario);
    }
}

#[test]
fn lookups_succeed_though_every_fifth_node_lies() {
    for (seed, topology) in [(1, Topology::ScaleFree), (2, Topology::UnitDisk)] {
        let mut scenario = scenario(topology, 40, seed);
        scenario.duration = Duration::from_secs(130);
        scenario.traffic_at = Some(Duration::from_secs(100));
        scenario.probes = 0;
        scenario.lookups = 200;
        scenario.droppers =
            Some(Droppers { share: 0.2, kind: DropperKind::Silent, place: DropperPlace::Random, lie: true });
        let report = run(&scenario);
        assert!(report.lookup.expect("there were lookups").success >= 0.99, "{report}");
    }
}

#[test]
fn two_nodes_and_one() {
    assert_delivered(&run(&scenario(Topology::Line, 2, 7)), 1.0);
    let alone = run(&scenario(Topology::Line, 1, 8));
    assert_eq!(alone.converged_s, Some(0.05));
}
