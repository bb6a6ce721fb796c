//! Some of the nodes, computed by one thread: what is due for them within a window in which nobody else can reach them.

use std::time::Duration;

use bytes::Bytes;
use router::{Command, Event, Instant, LinkId, Router};

use super::{
    Happened,
    due::{Due, What},
    node::Node,
    queue::Queue,
};
use crate::{
    adversary::Verdict,
    link::{Edge, Fate},
    trace::{Arrival, Seen},
};

/// What all threads read and none changes while they run.
#[derive(Default)]
pub(super) struct Ground {
    pub(super) edges: Vec<Edge>,
    /// Nodes that are not honest.
    pub(super) villains: Vec<bool>,
    pub(super) shards: usize,
}

/// Every n-th node.
#[derive(Default)]
pub(super) struct Shard {
    pub(super) nodes: Vec<Node>,
    pub(super) due: Queue,
    /// For nodes of other shards, by shard.
    pub(super) out: Vec<Vec<Due>>,
    /// Connections to be made: when, in which order, which link.
    pub(super) connects: Vec<(Instant, u64, u32)>,
    /// What was told, in the order of time.
    pub(super) log: Vec<Entry>,
    pub(super) now: Instant,
    pub(super) events: u64,
    pub(super) frames: u64,
    /// Connections that routers gave up.
    pub(super) closed: u64,
    /// A node that wants to be called over and over without time passing.
    pub(super) stuck: Option<usize>,
    index: usize,
}

/// Something that the whole world wants to know, and what puts it in order.
pub(super) struct Entry {
    pub(super) at: Instant,
    pub(super) node: u32,
    pub(super) number: u32,
    pub(super) what: Told,
}

pub(super) enum Told {
    Arrival(Arrival),
    /// With the number of the arrival that brought it.
    Happened(Box<Happened>, Option<u32>),
}

/// Where a connection's frames go.
#[derive(Clone, Copy)]
struct Far {
    node: u32,
    slot: u32,
}

impl Shard {
    pub(super) fn new(index: usize, shards: usize) -> Self {
        Self { out: (0..shards).map(|_| Vec::new()).collect(), index, ..Self::default() }
    }

    /// Does all that is due before that instant.
    pub(super) fn run(&mut self, end: Instant, ground: &Ground) {
        while let Some(due) = self.due.peek()
            && due.at < end
        {
            let Some(Due { at, node, what, .. }) = self.due.pop() else { break };
            self.now = at;
            self.events += 1;
            self.step(node as usize / ground.shards, what, ground);
        }
    }

    fn step(&mut self, at: usize, what: What, ground: &Ground) {
        let now = self.now;
        match what {
            What::Frame { slot, epoch, frame } => self.on_frame(at, slot, epoch, &frame, ground),
            What::Room { slot, epoch } => {
                let half = &mut self.nodes[at].halves[slot as usize];
                if half.open && ground.edges[half.edge as usize].epoch == epoch {
                    half.lane.waiting = false;
                    self.pump(at, slot, ground);
                }
            }
            What::Wake => self.on_wake(at, ground),
            What::Lost { slot, link } => {
                let half = &mut self.nodes[at].halves[slot as usize];
                half.open &= half.link != link;
                if let Some(router) = &mut self.nodes[at].router {
                    router.handle_link_lost(link, now);
                    self.drain(at, None, ground);
                }
            }
            What::Command(command) => self.command(at, *command, ground),
        }
    }

    /// The application of a node wants something.
    pub(super) fn command(&mut self, at: usize, command: Command, ground: &Ground) {
        if let Some(router) = &mut self.nodes[at].router {
            router.handle_command(command, self.now);
            self.drain(at, None, ground);
        }
    }

    fn on_frame(&mut self, at: usize, slot: u32, epoch: u32, frame: &Bytes, ground: &Ground) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let half = &node.halves[slot as usize];
        let edge = &ground.edges[half.edge as usize];
        if !half.open || edge.epoch != epoch {
            return;
        }
        let link = half.link;
        let sender = edge.ends[usize::from(1 - half.end)];
        self.frames += 1;
        node.digest.add(now, link, frame);
        if let Some(malice) = &mut node.malice {
            match malice.comes(frame) {
                Verdict::Pass => {}
                Verdict::Drop => return,
                Verdict::Answer(frame) => return self.send(at, slot, frame, ground),
            }
        }
        let arrival = Seen::new(frame).map(|seen| {
            let number = node.tell();
            let arrival = Arrival::new(&seen, sender, node.number, node.sid, edge.shape.latency);
            self.log.push(Entry { at: now, node: node.number, number, what: Told::Arrival(arrival) });
            number
        });
        if let Some(router) = &mut node.router {
            router.handle_frame(link, frame, now);
            self.drain(at, arrival, ground);
        }
    }

    fn on_wake(&mut self, at: usize, ground: &Ground) {
        let now = self.now;
        let node = &mut self.nodes[at];
        // Of several wake-ups that are due only the one that counts.
        if node.wakes != Some(now) {
            return;
        }
        node.wakes = None;
        let Some(router) = &mut node.router else { return };
        if router.poll_timeout().is_some_and(|due| due <= now) {
            router.handle_timeout(now);
            self.drain(at, None, ground);
        } else {
            self.plan_wake(at);
        }
    }

    /// After every change of a router: what it has to say, to send and to wait for.
    pub(super) fn drain(&mut self, at: usize, arrival: Option<u32>, ground: &Ground) {
        while let Some(event) = self.nodes[at].router.as_mut().and_then(Router::poll_event) {
            self.on_event(at, event, arrival, ground);
        }
        while let Some(link) = self.nodes[at].router.as_mut().and_then(Router::poll_link) {
            match self.current(at, link, ground) {
                Some(slot) => self.pump(at, slot, ground),
                None => self.discard(at, link),
            }
        }
        self.plan_wake(at);
    }

    /// The place of a connection among those of its node, while it stands.
    fn current(&self, at: usize, link: LinkId, ground: &Ground) -> Option<u32> {
        let (edge, end) = Edge::of(link);
        let slot = ground.edges.get(edge)?.slots[end];
        let half = self.nodes[at].halves.get(slot as usize)?;
        (half.open && half.link == link).then_some(slot)
    }

    fn on_event(&mut self, at: usize, event: Event, arrival: Option<u32>, ground: &Ground) {
        let now = self.now;
        let happened = match event {
            Event::Received { from, payload, .. } => {
                let at = self.nodes[at].number as usize;
                Happened::Received { at, when: now, from, payload, way: None }
            }
            Event::LookupDone { id, result } => {
                Happened::LookupDone { at: self.nodes[at].number as usize, id, result: result.ok() }
            }
            Event::LinkClose { link, .. } => return self.close(at, link, ground),
            _ => return,
        };
        let node = &mut self.nodes[at];
        let (number, what) = (node.tell(), Told::Happened(Box::new(happened), arrival));
        self.log.push(Entry { at: now, node: node.number, number, what });
    }

    /// A router gives a connection up.
    fn close(&mut self, at: usize, link: LinkId, ground: &Ground) {
        let now = self.now;
        let Some(slot) = self.current(at, link, ground) else { return };
        self.closed += 1;
        let node = &mut self.nodes[at];
        let half = &mut node.halves[slot as usize];
        half.open = false;
        let (number, end) = (half.edge, usize::from(half.end));
        let edge = &ground.edges[number as usize];
        let order = node.order();
        self.connects.push((now + REDIAL, order, number));
        if edge.exists {
            let (to, link) = (far(edge, end), Edge::other(link));
            let order = node.order();
            self.schedule(
                now + edge.shape.latency,
                order,
                to.node,
                What::Lost { slot: to.slot, link },
                ground,
            );
        }
    }

    /// Moves frames from a router's queue into the socket as long as it takes them.
    fn pump(&mut self, at: usize, slot: u32, ground: &Ground) {
        let now = self.now;
        loop {
            let node = &mut self.nodes[at];
            let half = &mut node.halves[slot as usize];
            let edge = &ground.edges[half.edge as usize];
            if let Some(room) = half.lane.full_until(&edge.shape, now) {
                if !std::mem::replace(&mut half.lane.waiting, true) {
                    let (order, number) = (node.order(), node.number);
                    self.schedule(room, order, number, What::Room { slot, epoch: edge.epoch }, ground);
                }
                return;
            }
            let link = half.link;
            let Some(frame) = node.router.as_mut().and_then(|router| router.poll_transmit(link, now)) else {
                return;
            };
            if let Some(malice) = &node.malice {
                let other = edge.ends[usize::from(1 - half.end)];
                if malice.swallows(&frame, ground.villains[other]) {
                    continue;
                }
            }
            self.send(at, slot, frame, ground);
        }
    }

    /// Puts a frame on the cable.
    fn send(&mut self, at: usize, slot: u32, frame: Bytes, ground: &Ground) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let half = &mut node.halves[slot as usize];
        let edge = &ground.edges[half.edge as usize];
        let fate = half.lane.send(frame.len(), &edge.shape, now, &mut node.dice);
        if let (Fate::Arrives(when), true) = (fate, edge.exists) {
            let to = far(edge, usize::from(half.end));
            let order = node.order();
            let what = What::Frame { slot: to.slot, epoch: edge.epoch, frame };
            self.schedule(when, order, to.node, what, ground);
        }
    }

    /// Frames for a connection that is gone.
    fn discard(&mut self, at: usize, link: LinkId) {
        let now = self.now;
        let Some(router) = &mut self.nodes[at].router else { return };
        while router.poll_transmit(link, now).is_some() {}
    }

    fn plan_wake(&mut self, at: usize) {
        let now = self.now;
        let node = &mut self.nodes[at];
        let Some(due) = node.router.as_ref().and_then(Router::poll_timeout) else { return };
        if due > now {
            node.spins = 0;
        } else {
            node.spins += 1;
            if node.spins > SPINS_MAX {
                self.stuck = Some(node.number as usize);
                return;
            }
        }
        let due = due.max(now);
        if node.wakes.is_none_or(|planned| due < planned) {
            node.wakes = Some(due);
            let (order, node) = (node.order(), node.number);
            self.due.push(Due { at: due, order, node, what: What::Wake });
        }
    }

    fn schedule(&mut self, at: Instant, order: u64, node: u32, what: What, ground: &Ground) {
        let shard = node as usize % ground.shards;
        let due = Due { at, order, node, what };
        if shard == self.index {
            self.due.push(due);
        } else {
            self.out[shard].push(due);
        }
    }
}

/// The other end of a link.
fn far(edge: &Edge, end: usize) -> Far {
    Far { node: edge.ends[1 - end] as u32, slot: edge.slots[1 - end] }
}

/// A connection that was closed is made again after this long.
pub(super) const REDIAL: Duration = Duration::from_secs(1);
/// Timeouts without time passing that are still taken for work.
const SPINS_MAX: u32 = 10_000;
