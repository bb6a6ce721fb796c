//! Goal: nothing that comes from outside makes an endpoint panic or grow without bound. Method: random bytes behind
//! every kind, real packets with bytes changed, and floods.
use super::*;
use proptest::prelude::*;

/// A pair in the middle of things, and what it said so far.
fn busy_pair() -> (World, Vec<Flight>) {
    let mut world = World::new(2);
    world.tape = Some(Vec::new());
    world.peer(0, 1);
    world.run(1000);
    world.send(0, 1, b"x");
    world.run(100);
    world.send(1, 0, b"y");
    world.run(100);
    let tape = world.tape.take().unwrap();
    (world, tape)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_survived(
        packets in proptest::collection::vec(
            (0u8..16, any::<u32>(), proptest::collection::vec(any::<u8>(), 0..600), 0u64..400),
            1..40,
        ),
    ) {
        let (mut world, _) = busy_pair();
        for (kind, index, rest, ms) in packets {
            let body = [&[kind][..], &rest].concat();
            world.arrive(Flight { from: 0, to: 1, index, body });
            world.run(ms);
        }
        world.send(0, 1, b"z");
        world.run(5000);
        prop_assert!(world.received(1).contains(&b"z".to_vec()));
    }

    #[test]
    fn changed_packets_are_survived(
        changes in proptest::collection::vec((any::<u16>(), any::<u16>(), 1u8.., any::<bool>(), 0u64..200), 1..60),
    ) {
        let (mut world, tape) = busy_pair();
        for (which, at, bits, cut, ms) in changes {
            let mut flight = tape[usize::from(which) % tape.len()].clone();
            let at = usize::from(at) % flight.body.len();
            flight.body[at] ^= bits;
            if cut {
                flight.body.truncate(at);
            }
            world.arrive(flight);
            world.run(ms);
        }
        world.send(0, 1, b"z");
        world.run(5000);
        prop_assert!(world.received(1).contains(&b"z".to_vec()));
        prop_assert_eq!(world.nodes[1].endpoint.sessions().len(), 1);
    }

    #[test]
    fn repeated_and_reordered_packets_are_survived(order in proptest::collection::vec((any::<u16>(), 0u64..300), 1..80)) {
        let (mut world, tape) = busy_pair();
        for (which, ms) in order {
            world.arrive(tape[usize::from(which) % tape.len()].clone());
            world.run(ms);
        }
        prop_assert_eq!(world.received(1), [b"x"]);
        prop_assert_eq!(world.received(0), [b"y"]);
        world.send(0, 1, b"z");
        world.run(5000);
        prop_assert_eq!(world.received(1), [b"z"]);
    }
}

#[test]
fn packets_to_ever_new_keys_take_bounded_room() {
    let mut world = World::new(2);
    world.peer(0, 1);
    world.run(1000);
    for at in 0..3000u32 {
        let mut seed = [1; 32];
        seed[..4].copy_from_slice(&at.to_le_bytes());
        let to = NodeId::from_bytes(seed);
        let payload = Bytes::from_static(&[0; 1000]);
        world.command(0, Command::Send { to, channel: Channel::Stream, payload: payload.clone() });
        world.command(0, Command::SendToAddress { to: to.address(), payload });
        if at % 100 == 0 {
            world.run(10);
        }
    }
    let endpoint = &world.nodes[0].endpoint;
    assert!(endpoint.waiters.len() <= crate::lookup::PENDING_MAX);
    world.run(20_000);
    let endpoint = &world.nodes[0].endpoint;
    assert!(endpoint.waiters.is_empty() && endpoint.sessions().len() <= 1);
    world.send(0, 1, b"z");
    world.run(1000);
    assert_eq!(world.received(1), [b"z"]);
}
