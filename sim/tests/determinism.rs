//! Goal: the same seed is the same run, byte for byte, and another seed another one.
//! Method: two runs in one process (every hash map of the standard library has another order in each), figures and the
//! hash over all frames compared.

use std::time::Duration;

use router::LinkKind;
use sim::{
    Report, Scenario, Topology, cli,
    event::{Event, Kind},
    scenario,
};

fn scenario(kind: LinkKind, seed: u64) -> Scenario {
    let mut scenario = Scenario::new(Topology::ScaleFree, 40, seed);
    scenario.duration = Duration::from_secs(60);
    scenario.link.kind = kind;
    scenario.link.loss = 0.02;
    scenario.events.push(Event::new(Kind::RootCrash));
    scenario.watch(20);
    scenario
}

fn run(kind: LinkKind, seed: u64) -> Report {
    scenario::run(&scenario(kind, seed), |_, _| ()).unwrap_or_else(|violation| panic!("{violation}"))
}

#[test]
fn runs_beside_others_are_the_same_runs() {
    let scenarios: Vec<_> = (1..4).map(|seed| scenario(LinkKind::Stream, seed)).collect();
    let digests = |jobs| {
        let reports = cli::run_all(&scenarios, jobs).into_iter();
        reports
            .map(|report| report.unwrap_or_else(|violation| panic!("{violation}")).digest)
            .collect::<Vec<_>>()
    };
    assert_eq!(digests(1), digests(3));
}

#[test]
fn any_number_of_threads_computes_the_same_run() {
    let of = |threads, quick_keys| {
        let mut scenario = scenario(LinkKind::Datagram, 21);
        (scenario.threads, scenario.quick_keys) = (threads, quick_keys);
        scenario.duration = Duration::from_secs(40);
        scenario::run(&scenario, |_, _| ()).unwrap_or_else(|violation| panic!("{violation}"))
    };
    let one = of(1, true);
    assert_eq!(one, of(3, true));
    assert!(one.quick_keys && one.delivery.is_some());
}

#[test]
fn the_same_seed_is_the_same_run() {
    for kind in [LinkKind::Stream, LinkKind::Datagram] {
        let (one, other) = (run(kind, 11), run(kind, 11));
        assert_eq!(one, other);
        let (one, other) = (serde_json::to_string(&one).unwrap(), serde_json::to_string(&other).unwrap());
        assert_eq!(one, other);
        assert_ne!(one, serde_json::to_string(&run(kind, 12)).unwrap());
    }
}
