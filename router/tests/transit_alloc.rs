//! Goal: a transit node allocates nothing for a packet that it passes on. Method: an allocator that counts, three routers in a
//! line, and the middle one's calls counted alone, once buffers have reached their size.
#![allow(unsafe_code)] // an allocator cannot be written without

use router::time::Duration;
use router::wire::kind;
use router::{
    Boot, Channel, Command, Config, Entropy, Event, Instant, LinkId, LinkKind, LinkSpec, Role, Router,
    SecretKey,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    /// Allocations of this thread; the test harness has threads of its own.
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything to the system's allocator; counting touches a constant-initialised thread-local alone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Chance(u64);

impl Entropy for Chance {
    fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (self.0 >> 33) as u8;
        }
    }
}

const LEFT: LinkId = LinkId(1);
const RIGHT: LinkId = LinkId(2);

/// Three routers in a line.
struct Line {
    nodes: Vec<Router>,
    now: Instant,
    received: usize,
}

impl Line {
    fn new(source_routes: bool, kind: LinkKind) -> Self {
        let now = Instant::from_micros(1_000_000);
        let config = Config { source_routes, audit: false, ..Config::default() };
        let router = |n: u8| {
            let secret = SecretKey::from_seed([n; 32]);
            Router::new(secret, config.clone(), Boot::first(1), Box::new(Chance(n.into())), now)
        };
        let mut line = Self { nodes: (1..=3).map(router).collect(), now, received: 0 };
        let spec = |role| match kind {
            LinkKind::Stream => LinkSpec::new(kind, role),
            LinkKind::Datagram => LinkSpec { mtu: 1500, ..LinkSpec::new(kind, role) },
        };
        for (a, b, link) in [(0, 1, LEFT), (1, 2, RIGHT)] {
            line.nodes[a].handle_link(link, spec(Role::Dialer), now);
            line.nodes[b].handle_link(link, spec(Role::Acceptor), now);
        }
        line.run(Duration::from_secs(20));
        line
    }

    fn run(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += Duration::from_millis(10);
            for node in &mut self.nodes {
                node.handle_timeout(self.now);
            }
            while (0..3).any(|n| self.pass(n)) {}
        }
    }

    /// Moves all that a node has to say; false if there was nothing.
    fn pass(&mut self, n: usize) -> bool {
        let mut moved = false;
        while let Some(link) = self.nodes[n].poll_link() {
            while let Some(frame) = self.nodes[n].poll_transmit(link, self.now) {
                moved = true;
                let other = if link == LEFT { 1 - n } else { 3 - n };
                self.nodes[other].handle_frame(link, &frame, self.now);
            }
        }
        while let Some(event) = self.nodes[n].poll_event() {
            self.received += usize::from(matches!(event, Event::Received { .. }));
        }
        moved
    }

    fn send(&mut self, size: usize) {
        let to = self.nodes[2].id();
        let payload = vec![7; size].into();
        self.nodes[0].handle_command(Command::Send { to, channel: Channel::Stream, payload }, self.now);
    }

    /// Passes the frames of the first node's queue through the middle one. Gives how many were packets of that kind and
    /// what the middle allocated for them.
    fn through(&mut self, of: u8) -> (usize, u64) {
        let (mut packets, mut allocated) = (0, 0);
        while let Some(frame) = self.nodes[0].poll_transmit(LEFT, self.now) {
            let middle = &mut self.nodes[1];
            let before = COUNT.get();
            middle.handle_frame(LEFT, &frame, self.now);
            let mut out = None;
            while let Some(link) = middle.poll_link() {
                while let Some(next) = middle.poll_transmit(link, self.now) {
                    out = Some((link, next));
                }
            }
            let spent = COUNT.get() - before;
            if frame[0] == of {
                packets += 1;
                allocated += spent;
            }
            if let Some((RIGHT, next)) = out {
                self.nodes[2].handle_frame(RIGHT, &next, self.now);
            }
        }
        (packets, allocated)
    }
}

#[track_caller]
fn assert_nothing_allocated(source_routes: bool, kind: LinkKind, of: u8) {
    let mut line = Line::new(source_routes, kind);
    // Session, routes, and buffers at their size.
    for _ in 0..20 {
        line.send(1200);
        line.run(Duration::from_millis(100));
    }
    let before = line.received;
    assert!(before >= 10, "{before}");
    let (mut packets, mut allocated) = (0, 0);
    for round in 0..1000 {
        line.send([64, 1200, 700][round % 3]);
        let (some, spent) = line.through(of);
        packets += some;
        // The first of them may still stretch a buffer.
        if round >= 100 {
            allocated += spent;
        }
        while (0..3).any(|n| line.pass(n)) {}
    }
    assert!(packets >= 900, "{packets} packets of that kind went through");
    assert_eq!(line.received - before, 1000);
    assert_eq!(allocated, 0, "allocations for 900 packets passed on");
}

#[test]
fn packets_by_the_trees() {
    assert_nothing_allocated(false, LinkKind::Stream, kind::DATA_T);
}

#[test]
fn packets_on_source_routes() {
    assert_nothing_allocated(true, LinkKind::Stream, kind::DATA_S);
}

#[test]
fn packets_over_datagram_links() {
    // Each comes under one link's counter and MAC, and goes under the other's.
    assert_nothing_allocated(false, LinkKind::Datagram, kind::GUARDED);
    assert_nothing_allocated(true, LinkKind::Datagram, kind::GUARDED);
}
