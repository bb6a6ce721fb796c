//! Packets do not walk in circles.

use crate::World;

/// The longest way any packet may take: the router's own limit on hops.
pub const HOPS_MAX: usize = 255;
/// How often a packet may be at one node. Coming back is allowed: when coordinates are out of date a tree leads astray, is given up,
/// and the next one may lead back. Each of the four trees has a budget of eight hops that come no nearer; more than all of
/// them together is a circle.
pub const VISITS_MAX: usize = 4 * (8 + 1);

/// Why the ways so far cannot be right.
pub fn looping(world: &World) -> Option<String> {
    let traces = world.traces();
    if traces.hops_max > HOPS_MAX {
        return Some(format!("a packet took {} hops", traces.hops_max));
    }
    (traces.visits_max > VISITS_MAX)
        .then(|| format!("a packet was {} times at the same node", traces.visits_max))
}
