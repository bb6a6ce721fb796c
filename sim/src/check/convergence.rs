//! One root for each tree and component, and coordinates that fit together.

use std::collections::BTreeMap;

use router::NodeId;

use crate::World;

/// Why a world has not settled, or `None` if it has: every node of a component sees the same root in each tree, that root is one
/// of them, and every node's coordinates are its parent's and one step.
pub fn unsettled(world: &World) -> Option<String> {
    let components = world.components();
    one_root(world, &components).or_else(|| {
        for (node, router) in world.routers() {
            for tree in 0..router.tree_count() {
                let (parent, coords) = router.place(tree)?;
                let ports = |coords: &router::lookup::Coords| {
                    coords.hops.iter().map(|hop| hop.port).collect::<Vec<_>>()
                };
                let Some(parent) = parent else {
                    if !coords.hops.is_empty() {
                        return Some(format!("tree {tree}: node {node} is a root with coordinates"));
                    }
                    continue;
                };
                let above = world.node(&parent).and_then(|parent| world.router(parent));
                let Some(above) = above else {
                    return Some(format!("tree {tree}: node {node} has a parent that is down"));
                };
                let (_, above) = above.place(tree)?;
                if ports(coords).split_last().is_none_or(|(_, rest)| rest != ports(above)) {
                    return Some(format!(
                        "tree {tree}: node {node} has coordinates that do not follow from those of its parent {parent:?}"
                    ));
                }
            }
        }
        None
    })
}

/// Why there is not one root for each tree and component, or `None` if there is.
pub fn one_root(world: &World, components: &[Option<usize>]) -> Option<String> {
    let roots = match roots(world, components, 0) {
        Ok(roots) => roots,
        Err(what) => return Some(what),
    };
    for (&(component, tree), root) in &roots {
        let at = world.node(root).filter(|&at| world.router(at).is_some());
        match at {
            None => return Some(format!("tree {tree}: root {root:?} is down")),
            Some(at) if components[at] != Some(component) => {
                return Some(format!("tree {tree}: root {root:?} cannot be reached"));
            }
            Some(_) => {}
        }
    }
    None
}

/// Why a network with droppers that audits have parted is not as whole as it can be: in the last tree all have one root,
/// droppers and those behind them included; in each tree those have one between whom honest nodes lead.
pub fn parted(world: &World) -> Option<String> {
    let trees = world.routers().map(|(_, router)| router.tree_count()).max().unwrap_or_default();
    let last = roots(world, &world.components(), trees.saturating_sub(1));
    last.and_then(|_| roots(world, &world.honest_components(), 0)).err()
}

/// The root of each component in each tree from that one on.
fn roots(
    world: &World,
    components: &[Option<usize>],
    first: usize,
) -> Result<BTreeMap<(usize, usize), NodeId>, String> {
    let mut roots: BTreeMap<(usize, usize), NodeId> = BTreeMap::new();
    for (node, router) in world.routers() {
        let Some(component) = components[node] else { continue };
        for tree in first..router.tree_count() {
            let Some(seen) = router.root(tree) else { continue };
            let root = *roots.entry((component, tree)).or_insert(seen);
            if root != seen {
                return Err(format!("tree {tree}: node {node} sees root {seen:?}, another one {root:?}"));
            }
        }
    }
    Ok(roots)
}
