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
    let mut roots: BTreeMap<(usize, usize), NodeId> = BTreeMap::new();
    for (node, router) in world.routers() {
        let Some(component) = components[node] else { continue };
        for tree in 0..router.tree_count() {
            let seen = router.root(tree)?;
            let root = *roots.entry((component, tree)).or_insert(seen);
            if root != seen {
                return Some(format!("tree {tree}: node {node} sees root {seen:?}, another one {root:?}"));
            }
        }
    }
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
