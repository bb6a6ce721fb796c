//! Goal: keys, addresses and accounts are found, whoever loses or lies. Method: small networks in memory.
use super::*;
use crate::crypto::Entropy as _;
use crate::lookup::{AccountRecord, GIVE_UP};
use crate::wire::body::find::{Contact, FOUND_MAX, Find, Found, GAIN_MAX, Record, Store, Values, What};

/// A connected random mesh; every node has about four peers.
fn mesh(count: usize) -> World {
    let mut world = World::new(count);
    let mut entropy = TestEntropy::new(5);
    for at in 1..count {
        for _ in 0..2 {
            let mut byte = [0; 2];
            entropy.fill(&mut byte);
            world.peer(at, usize::from(u16::from_le_bytes(byte)) % at);
        }
    }
    world
}

/// Asks for every `step`-th pair and says how many were not found.
fn missed(world: &mut World, step: usize) -> usize {
    let count = world.nodes.len();
    let mut asked = 0;
    for pair in (0..count * count).step_by(step) {
        let (from, to) = (pair / count, pair % count);
        if from != to && world.nodes[from].alive && world.nodes[to].alive {
            let target = if pair % 2 == 0 {
                Target::Key(world.id(to))
            } else {
                Target::Address(world.id(to).address())
            };
            world.command(from, Command::Lookup { id: pair as u64, target });
            asked += 1;
        }
    }
    world.run(8000);
    let mut found = 0;
    for from in 0..count {
        for event in std::mem::take(&mut world.nodes[from].events) {
            if let Event::LookupDone { id, result: Ok(node) } = event {
                assert_eq!(node, world.id(id as usize % count));
                found += 1;
            }
        }
    }
    asked - found
}

#[test]
fn everybody_is_found_and_kept_by_eight() {
    let mut world = mesh(40);
    world.run(8000);
    assert_eq!(missed(&mut world, 7), 0);
    for node in &world.nodes {
        assert!(node.endpoint.keepers() >= 7, "{}", node.endpoint.keepers());
    }
}

#[test]
fn everybody_is_found_although_every_fifth_packet_is_lost() {
    let mut world = mesh(30);
    let mut entropy = TestEntropy::new(6);
    world.lose = Box::new(move |_, _, _| {
        let mut byte = [0];
        entropy.fill(&mut byte);
        byte[0] < 51
    });
    world.run(8000);
    assert_eq!(missed(&mut world, 7), 0);
}

#[test]
fn most_are_found_although_every_fifth_node_lies() {
    let mut world = mesh(50);
    world.run(8000);
    world.liar = Some(Box::new(|from, flight| {
        if from % 5 == 3 && flight.body[0] == body::FOUND {
            let Ok(found) = Found::decode(&flight.body) else { return };
            // "Nobody knows; ask these", who do not exist, near to everything.
            let contacts = (0..8)
                .map(|n| Contact {
                    node: NodeId::from_bytes([flight.body[n + 1]; 32]),
                    locator: locator(60_000),
                })
                .collect();
            let lie = Found { own: None, values: Values::Locators(Vec::new()), contacts, ..found };
            flight.body.clear();
            lie.encode(FOUND_MAX, &mut flight.body);
        }
    }));
    let missed = missed(&mut world, 13);
    assert!(missed <= 2, "{missed} of some 190");
}

#[test]
fn what_nobody_knows_is_looked_for_a_while() {
    let mut world = mesh(5);
    world.run(2000);
    let nobody = SecretKey::from_seed([99; 32]).id();
    world.command(0, Command::Lookup { id: 1, target: Target::Key(nobody) });
    world.command(0, Command::FindAccount { id: 2, acct: [3; 32] });
    world.command(0, Command::Send { to: nobody, channel: Channel::Stream, payload: Bytes::new() });
    world.run(GIVE_UP.as_millis() as u64 - 1500);
    assert!(world.nodes[0].events.is_empty());
    world.run(8000);
    let events = &world.nodes[0].events;
    assert!(
        events.iter().any(|e| matches!(e, Event::LookupDone { id: 1, result: Err(Unreachable::NotFound) }))
    );
    assert!(events.iter().any(|e| matches!(e, Event::AccountFound { id: 2, records } if records.is_empty())));
    assert!(events.iter().any(|e| matches!(e, Event::Unreachable { to } if *to == nobody)));
    assert!(world.nodes[0].endpoint.sessions.place(&nobody).is_none());
}

#[test]
fn what_waits_goes_out_as_soon_as_there_is_somebody_to_ask() {
    let mut world = World::new(3);
    world.peer(1, 2);
    world.run(1000);
    world.send(0, 2, b"early");
    world.run(700);
    world.peer(0, 1);
    world.run(60);
    assert_eq!(world.received(2), [b"early"]);
}

#[test]
fn an_account_is_found_with_its_newest_proof() {
    let mut world = mesh(20);
    world.run(5000);
    let record = |world: &World, at: usize, seq, proof: &'static [u8]| {
        AccountRecord::sign(&world.nodes[at].secret, [7; 32], seq, Bytes::from_static(proof)).unwrap()
    };
    for at in [3, 4] {
        for seq in [1, 2] {
            let record = record(&world, at, seq, b"good");
            world.command(at, Command::Publish { record });
            world.run(3000);
        }
    }
    let forged = record(&world, 5, 9, b"bad");
    world.command(5, Command::Publish { record: forged });
    world.run(3000);
    for at in [0, 4, 9, 19] {
        world.nodes[at].events.clear();
        world.command(at, Command::FindAccount { id: 1, acct: [7; 32] });
        world.run(1000);
        let found = world.nodes[at].events.iter().find_map(|event| match event {
            Event::AccountFound { id: 1, records } => Some(records.clone()),
            _ => None,
        });
        let mut found: Vec<(NodeId, u64)> =
            found.unwrap().iter().map(|record| (record.node, record.seq)).collect();
        found.sort();
        let mut expected = vec![(world.id(3), 2), (world.id(4), 2)];
        expected.sort();
        assert_eq!(found, expected, "asked by {at}");
    }
    world.command(3, Command::Withdraw { acct: [7; 32] });
    world.run(91 * 60 * 1000);
    world.nodes[0].events.clear();
    world.command(0, Command::FindAccount { id: 1, acct: [7; 32] });
    world.run(1000);
    let only_4 = |event: &Event| matches!(event, Event::AccountFound { records, .. } if records.len() == 1);
    assert!(world.nodes[0].events.iter().any(only_4));
}

#[test]
fn two_nodes_alone_find_each_others_accounts_at_once() {
    let mut world = World::new(2);
    world.peer(0, 1);
    world.run(100);
    let record =
        AccountRecord::sign(&world.nodes[1].secret, [7; 32], 1, Bytes::from_static(b"good")).unwrap();
    world.command(1, Command::Publish { record });
    world.command(0, Command::FindAccount { id: 1, acct: [7; 32] });
    world.run(200);
    let found = |event: &Event| matches!(event, Event::AccountFound { id: 1, records } if records.len() == 1);
    assert!(world.nodes[0].events.iter().any(found), "{:?}", world.nodes[0].events);
}

#[test]
fn records_live_by_refreshes_alone() {
    let mut world = mesh(12);
    // Whoever met a nearer keeper while all joined may have published once more after a minute.
    world.run(120_000);
    world.sent.clear();
    world.run(16 * 60 * 1000);
    let (refreshes, stores) = (world.sent(body::REFRESH), world.sent(body::STORE));
    assert!((12 * 7..=12 * 9).contains(&refreshes), "{refreshes} {stores}");
    assert!(stores <= 12, "{stores}");
    world.run(2 * 3600 * 1000);
    assert!(world.nodes.iter().all(|node| node.endpoint.records() >= 4));
    assert_eq!(missed(&mut world, 5), 0);
}

#[test]
fn an_answer_is_at_most_three_times_as_long_as_the_question() {
    let mut world = mesh(30);
    world.tape = Some(Vec::new());
    world.run(3000);
    let tape = world.tape.take().unwrap();
    let mut asked = BTreeMap::new();
    for flight in &tape {
        let nonce = flight.body.get(1..9).map(<[u8]>::to_vec);
        match flight.body[0] {
            body::FIND | body::STORE | body::REFRESH => {
                asked.insert(nonce, flight.body.len());
            }
            body::FOUND => {
                // Some questions were asked before the tape ran.
                let question = asked.get(&nonce).copied().unwrap_or(FOUND_MAX);
                assert!(flight.body.len() <= (question * GAIN_MAX).min(FOUND_MAX));
            }
            _ => {}
        }
    }
    assert!(asked.len() > 30);
}

#[test]
fn nothing_is_stored_without_a_token_of_the_same_way() {
    let mut world = World::new(3);
    world.peer(0, 1);
    world.run(1000);
    let before = world.nodes[0].endpoint.records();
    let secret = SecretKey::from_seed([50; 32]);
    let ttl = Duration::from_secs(600);
    let record = crate::lookup::LocatorRecord::sign(&secret, 5, ttl, &locator(9));
    world.tape = Some(Vec::new());
    let store = |world: &mut World, from: usize, token: [u8; 16], record: &crate::lookup::LocatorRecord| {
        let mut body = Vec::new();
        Store { nonce: 1, token, record: Record::Locator(record.clone()) }.encode(&mut body);
        world.arrive(Flight { from, to: 0, index: 0, body });
        let receipt = world.taped(0, from, body::FOUND).pop().unwrap();
        Found::decode(&receipt.body).unwrap()
    };
    let refused = store(&mut world, 2, [0; 16], &record);
    assert!(!refused.stored);
    assert!(!store(&mut world, 1, refused.token, &record).stored, "a token of another way");
    let mut forged = record.clone();
    forged.seq += 1;
    assert!(!store(&mut world, 2, refused.token, &forged).stored);
    assert!(store(&mut world, 2, refused.token, &record).stored);
    assert_eq!(world.nodes[0].endpoint.records(), before + 1);
}

#[test]
fn a_record_goes_out_when_two_trees_have_changed_and_not_for_one() {
    let mut world = World::new(2);
    world.peer(0, 1);
    world.run(5000);
    world.sent.clear();
    let moved = locator_of([1, 1, 5, 1]);
    let node = &mut world.nodes[0];
    node.endpoint.handle_coordinates(moved, &mut node.entropy, world.now);
    world.run(5000);
    assert_eq!(world.sent(body::STORE), 0);
    let moved = locator_of([1, 5, 5, 1]);
    let node = &mut world.nodes[0];
    node.locator = moved.clone();
    node.endpoint.handle_coordinates(moved, &mut node.entropy, world.now);
    world.peer(1, 0);
    world.run(70_000);
    assert_eq!(world.sent(body::STORE), 1);
}

#[test]
fn a_find_for_ones_own_key_is_answered_with_the_record() {
    let mut world = World::new(2);
    world.run(100);
    world.tape = Some(Vec::new());
    let mut body = Vec::new();
    Find { nonce: 3, what: What::Node, place: world.id(0).hash(), known: u64::MAX, skip: 0, asker: None }
        .encode(&mut body);
    world.arrive(Flight { from: 1, to: 0, index: 0, body });
    let answer = world.taped(0, 1, body::FOUND).pop().unwrap();
    let own = Found::decode(&answer.body).unwrap().own.unwrap();
    assert_eq!((own.node, &own.locator), (world.id(0), &world.nodes[0].locator));
    assert!(own.verify().is_ok());
}

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

#[test]
fn an_idle_network_is_silent_and_a_move_costs_a_few_packets() {
    let mut world = mesh(20);
    world.run(60_000);
    world.sent.clear();
    world.run(120_000);
    assert!(world.sent.is_empty(), "{:?}", world.sent);
    // A parent changes, the roots stay: whoever keeps the record gets the new one, nobody is searched for.
    world.place(7, 99);
    world.run(5000);
    assert_eq!(world.sent(body::FIND), 0);
    assert!((7..=9).contains(&world.sent(body::STORE)), "{:?}", world.sent);
    assert_eq!(missed(&mut world, 9), 0);
}
