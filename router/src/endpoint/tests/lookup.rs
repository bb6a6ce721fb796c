//! Goal: keys, addresses and accounts are found, whoever loses or lies. Method: small networks in memory.
use super::*;

#[test]
fn a_third_node_is_found_through_the_second() {
    let mut world = World::new(3);
    world.peer(0, 1);
    world.peer(1, 2);
    world.run(2000);
    world.send(0, 2, b"over there");
    world.run(100);
    assert_eq!(world.received(2), [b"over there".to_vec()]);
}

#[test]
fn a_node_that_just_came_up_is_found_within_milliseconds() {
    let mut world = World::new(3);
    world.peer(0, 1);
    world.run(5000);
    world.peer(1, 2);
    world.send(0, 2, b"welcome");
    world.run(100);
    assert_eq!(world.received(2), [b"welcome".to_vec()]);
}
