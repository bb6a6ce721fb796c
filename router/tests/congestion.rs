//! Goal: a bulk transfer does not make others wait on a link that both use. Method: whole routers under a hand-moved clock, a
//! link of 10 Mbit/s in the middle, twice as much bulk as it carries.
mod harness;

use harness::{Net, Wire};
use router::time::Duration;
use router::{Channel, Command, Event};

const SLOW: u64 = 1_250_000;
const FAST: u64 = 125_000_000;

/// `left` and `right` hang on two transit nodes, numbers 0 and 1, with the slow link between these.
fn dumbbell(left: usize, right: usize) -> Net {
    let mut net = Net::new(2 + left + right, 5);
    let wire = |rate| Wire { latency: Duration::from_millis(5), rate: Some(rate), ..Wire::default() };
    net.join_by(0, 1, &wire(SLOW));
    for n in 0..left {
        net.join_by(2 + n, 0, &wire(FAST));
    }
    for n in 0..right {
        net.join_by(2 + left + n, 1, &wire(FAST));
    }
    net.run(Duration::from_secs(10));
    net
}

/// Median and worst of 50 pings, in milliseconds, with or without bulk the other way or the same.
fn pings(net: &mut Net, from: usize, to: usize, bulk: Option<(usize, usize)>) -> (u128, u128) {
    net.events[from].clear();
    for n in 0..100u64 {
        // The first half of the time for the queue to stand.
        if n >= 50 {
            let to = net.ids[to];
            net.command(from, Command::Ping { id: n, to });
        }
        for _ in 0..100 {
            if let Some((from, to)) = bulk {
                // 2.5 MB a second.
                for _ in 0..2 {
                    let (to, payload) = (net.ids[to], vec![7; 1250].into());
                    net.command(from, Command::Send { to, channel: Channel::Stream, payload });
                }
            }
            net.run(Duration::from_millis(1));
        }
    }
    net.run(Duration::from_secs(2));
    let pong = |event: &Event| match event {
        Event::Pong { result, .. } => Some(result.as_ref().map_or(10_000, |time| time.as_millis())),
        _ => None,
    };
    let mut times: Vec<u128> = net.events[from].iter().filter_map(pong).collect();
    assert_eq!(times.len(), 50);
    times.sort_unstable();
    (times[25], times[49])
}

#[test]
fn a_bulk_transfer_from_elsewhere_does_not_triple_the_round_trip() {
    let mut net = dumbbell(2, 2);
    let (idle, _) = pings(&mut net, 2, 4, None);
    let (median, worst) = pings(&mut net, 2, 4, Some((3, 5)));
    println!("{idle} ms idle, {median} ms beside bulk, {worst} at worst");
    assert!(median <= idle * 3 / 2 && worst <= idle * 3, "{idle} {median} {worst}");
}

#[test]
fn nor_does_one_from_the_same_node() {
    let mut net = dumbbell(1, 2);
    let (idle, _) = pings(&mut net, 2, 3, None);
    let (median, worst) = pings(&mut net, 2, 3, Some((2, 4)));
    println!("{idle} ms idle, {median} ms beside bulk, {worst} at worst");
    assert!(median <= idle * 3 / 2 && worst <= idle * 3, "{idle} {median} {worst}");
}

#[test]
fn nor_one_to_the_transit_node_itself_or_the_other_way() {
    let mut net = dumbbell(1, 1);
    let (idle, _) = pings(&mut net, 2, 3, None);
    for bulk in [(2, 1), (1, 2), (0, 3)] {
        let (median, worst) = pings(&mut net, 2, 3, Some(bulk));
        println!("{bulk:?}: {idle} ms idle, {median} ms beside bulk, {worst} at worst");
        assert!(median <= idle * 3 / 2 && worst <= idle * 3, "{bulk:?}: {idle} {median} {worst}");
    }
}
