//! No table grows past its bound, and no router asks for time without end.

use crate::World;

/// Sessions that a router may keep, with room for those being replaced.
pub const SESSIONS_MAX: usize = 8192;
/// Records that a router may keep for others.
pub const RECORDS_MAX: usize = 65_536;

/// Which table is over its bound; `sessions` is that of sessions, [`SESSIONS_MAX`] but in tests of this oracle.
pub fn oversized(world: &World, sessions: usize) -> Option<String> {
    if let Some(node) = world.stuck() {
        return Some(format!("node {node} wants to be called over and over without time passing"));
    }
    for (node, router) in world.routers() {
        let info = router.self_info();
        if info.sessions > sessions {
            return Some(format!("node {node} has {} sessions", info.sessions));
        }
        if info.records > RECORDS_MAX {
            return Some(format!("node {node} has {} records", info.records));
        }
    }
    None
}
