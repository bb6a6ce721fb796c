//! Packets do not walk in circles.

use crate::World;

/// The longest way any packet may take: the router's own limit on hops.
pub const HOPS_MAX: usize = 255;

/// Why the ways so far cannot be right. `settled_revisits` are packets that came back to a node while nothing was changing.
pub fn looping(world: &World, settled_revisits: u64) -> Option<String> {
    if world.traces().hops_max > HOPS_MAX {
        return Some(format!("a packet took {} hops", world.traces().hops_max));
    }
    (settled_revisits > 0).then(|| {
        format!("{settled_revisits} packets came back to a node they had left, in a settled network")
    })
}
