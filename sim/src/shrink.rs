//! Makes a failing run small: fewer nodes, as long as something still fails.

use crate::{Scenario, Violation};

/// Seeds tried for each size: with fewer nodes the same seed is another network.
const SEEDS: u64 = 4;

/// The smallest network found in which a violation still happens, starting from one that fails. `attempt` runs a scenario.
pub fn shrink(
    failing: &Scenario,
    found: Violation,
    mut attempt: impl FnMut(&Scenario) -> Result<(), Violation>,
) -> (Scenario, Violation) {
    let (mut smallest, mut violation) = (failing.clone(), found);
    'smaller: loop {
        let nodes = smallest.nodes;
        let mut sizes = vec![nodes / 4, nodes / 2, nodes * 3 / 4, nodes.saturating_sub(1)];
        sizes.dedup();
        for size in sizes.into_iter().filter(|&size| size > 0 && size < nodes) {
            for seed in 0..SEEDS {
                let scenario =
                    Scenario { nodes: size, seed: failing.seed.wrapping_add(seed), ..smallest.clone() };
                if let Err(smaller) = attempt(&scenario) {
                    (smallest, violation) = (scenario, smaller);
                    continue 'smaller;
                }
            }
        }
        return (smallest, violation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topology;
    use router::Instant;

    #[test]
    fn it_ends_at_the_smallest_that_fails() {
        let fails = |scenario: &Scenario| {
            let (seed, at) = (scenario.seed, Instant::ZERO);
            if scenario.nodes >= 7 { Err(Violation { seed, at, what: "large".to_owned() }) } else { Ok(()) }
        };
        let failing = Scenario::new(Topology::Grid, 100, 5);
        let found = fails(&failing).unwrap_err();
        assert_eq!(shrink(&failing, found, fails).0.nodes, 7);
    }
}
