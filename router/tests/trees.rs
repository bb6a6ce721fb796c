//! Goal: the trees come together, heal and resist. Method: small nets under a hand-moved clock.
mod harness;

use harness::{Net, grid, line, ring};
use router::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn two_become_one_tree_each() {
    let mut net = Net::new(2, 1);
    net.join(0, 1);
    let took = net.run_until(SECOND, |net| net.one_root()).expect("they agree");
    assert!(took < Duration::from_millis(20), "{took:?}");
}

#[test]
fn line_ring_and_grid_agree_on_roots() {
    for (name, make) in [("line", line as fn(&mut Net)), ("ring", ring), ("grid", |net| grid(net, 6))] {
        let mut net = Net::new(30, 7);
        make(&mut net);
        let took = net.run_until(10 * SECOND, |net| net.one_root());
        let took = took.unwrap_or_else(|| panic!("the {name} does not agree"));
        println!("{name}: {took:?}");
        assert!(took < 2 * SECOND, "{name}: {took:?}");
    }
}
