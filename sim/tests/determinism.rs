//! Goal: the same seed is the same run, byte for byte, and another seed another one.
//! Method: two runs in one process (every hash map of the standard library has another order in each), figures and the
//! hash over all frames compared.

use std::time::Duration;

use router::LinkKind;
use sim::{Report, Scenario, Topology, scenario};

fn run(kind: LinkKind, seed: u64) -> Report {
    let mut scenario = Scenario::new(Topology::ScaleFree, 40, seed);
    scenario.duration = Duration::from_secs(40);
    scenario.kind = kind;
    scenario.loss = 0.02;
    scenario.crash_root = true;
    scenario::run(&scenario, |_, _| ()).unwrap_or_else(|violation| panic!("{violation}"))
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
