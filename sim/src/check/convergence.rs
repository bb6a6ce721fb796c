//! One root for each tree and component, and coordinates that fit together.

use std::collections::BTreeMap;

use router::{NodeId, Port, TreeInfoView};

use crate::World;

/// Why a world has not settled, or `None` if it has: every node of a component sees the same root in each tree, that root is one
/// of them, and every node's coordinates are its parent's and one step.
pub fn unsettled(world: &World) -> Option<String> {
    let components = world.components();
    let places: BTreeMap<NodeId, (usize, Vec<TreeInfoView>)> =
        world.routers().map(|(node, router)| (router.id(), (node, router.trees()))).collect();
    let mut roots: BTreeMap<(usize, u8), NodeId> = BTreeMap::new();
    for (node, trees) in places.values() {
        let component = components[*node]?;
        for place in trees {
            let root = *roots.entry((component, place.tree)).or_insert(place.root);
            if root != place.root {
                return Some(format!(
                    "tree {}: node {node} sees root {:?}, another one {root:?}",
                    place.tree, place.root
                ));
            }
            let Some((at, _)) = places.get(&root) else {
                return Some(format!("tree {}: node {node} sees root {root:?}, which is down", place.tree));
            };
            if components[*at] != Some(component) {
                return Some(format!("tree {}: root {root:?} of node {node} cannot be reached", place.tree));
            }
            if let Some(wrong) = misplaced(place, &places) {
                return Some(format!("tree {}: node {node} {wrong}", place.tree));
            }
        }
    }
    None
}

fn misplaced(place: &TreeInfoView, places: &BTreeMap<NodeId, (usize, Vec<TreeInfoView>)>) -> Option<String> {
    let Some(parent) = place.parent else {
        return (!place.coords.is_empty()).then(|| "is a root with coordinates".to_owned());
    };
    let Some((number, trees)) = places.get(&parent) else {
        return Some("has a parent that is down".to_owned());
    };
    let above = trees.iter().find(|other| other.tree == place.tree)?;
    let ports = |coords: &[(Port, u8)]| coords.iter().map(|&(port, _)| port).collect::<Vec<_>>();
    let expected = ports(&above.coords);
    match ports(&place.coords).split_last() {
        Some((_, rest)) if rest == expected => None,
        _ => Some(format!("has coordinates that do not follow from its parent {number}")),
    }
}
