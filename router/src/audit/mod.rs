//! Droppers: [`roster`] (who may be asked about whom: PEERS), [`watch`] (the neighbour audit), [`claim`] (does a peer hang
//! where it says it does?), [`locate`] (the sender's suspicion of links).
//!
//! An audit is a packet of an ordinary session, sent through the audited peer to another peer of it, by a route that
//! seems to come from farther and to go farther; so is the answer. Whoever opens it keeps it, so no frame kind, no list
//! and no flag tells an audit from data. Only what this node has seen itself counts; nobody is accused before others.
//!
//! Sans-IO: [`Audit::handle_timeout`] is given a [`View`] of the rest, [`Audit::poll_ask`] says what to send,
//! [`Audit::poll_verdict`] what has been found.
pub mod claim;
pub mod locate;
pub mod roster;
pub mod watch;

use crate::config::{Config, SignatureMemory};
use crate::crypto::{Entropy, SecretKey, random};
use crate::id::{NodeId, Port};
use crate::time::{Duration, Instant};
use crate::wire::Control;
use bytes::Bytes;
use roster::Roster;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use watch::Watch;

/// What an audit has to know of the rest of the node.
pub trait View {
    /// Bytes sent to that peer so far.
    fn sent(&self, port: Port) -> u64;
    /// Bytes of a packet of others that was passed on to that peer lately; 0 if there was none.
    fn size(&self, port: Port) -> usize;
    /// Is there a session that can seal? When was its other end heard last?
    fn session(&self, node: &NodeId) -> Option<Instant>;
    /// The parents that the peer claims in trees where this node follows, or is about to follow, its chain.
    fn claims(&self, port: Port) -> Vec<NodeId>;
    /// A port of this node that leads to a parent of it.
    fn is_parent(&self, port: Port) -> bool;
}

/// What an audit wants to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// A probe through a session: out by these ports, the first this node's own.
    Probe {
        /// Whose session.
        to: NodeId,
        /// The way, and what seems to lie beyond.
        ports: Bytes,
        /// Comes back with the answer.
        token: [u8; 8],
        /// Bytes of the probe behind the token.
        pad: usize,
    },
    /// An INIT along these ports; without any, the node is looked for.
    Meet {
        /// With whom.
        to: NodeId,
        /// The way.
        ports: Option<Bytes>,
    },
    /// A probe through a session by the trees, but not by that peer: is the other end there at all?
    Check {
        /// Whose session.
        to: NodeId,
        /// The peer.
        avoid: Port,
    },
}

/// What an audit has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The peer is under suspicion, or no longer.
    Suspect(Port, bool),
    /// The peer tells of nobody else, so nothing can be sent through it that would be passed on; or no longer.
    Mute(Port, bool),
    /// The parents that the peer has proved to have, and those that it has not in spite of all.
    Places(Port, Vec<NodeId>, Vec<NodeId>),
}

/// Counters of the audits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditStats {
    /// Probes sent.
    pub probes: u64,
    /// Probes answered.
    pub answered: u64,
    /// Times that a peer fell under suspicion.
    pub suspected: u64,
    /// Places found to be claimed only.
    pub places_void: u64,
}

/// All audits of one node.
pub struct Audit {
    on: bool,
    roster: Roster,
    watches: BTreeMap<Port, Box<Watch>>,
    asks: VecDeque<Ask>,
    verdicts: VecDeque<Verdict>,
    stats: AuditStats,
}

impl Audit {
    /// No peers yet. Without `config.audit` this node tells who its peers are and answers, but judges nobody.
    pub fn new(secret: &SecretKey, config: &Config) -> Self {
        let checked: Option<Arc<dyn SignatureMemory>> = config.checked.clone();
        Self {
            on: config.audit,
            roster: Roster::new(secret.clone(), checked),
            watches: BTreeMap::new(),
            asks: VecDeque::new(),
            verdicts: VecDeque::new(),
            stats: AuditStats::default(),
        }
    }

    /// A peer is up.
    pub fn on_peer_up(&mut self, port: Port, node: NodeId, entropy: &mut dyn Entropy, now: Instant) {
        self.roster.on_peer_up(port, node, now);
        if self.on {
            let first = now + FIRST_AFTER + jitter(FIRST_AFTER, entropy);
            self.watches.insert(port, Box::new(Watch::new(port, first, now)));
        }
    }

    /// A peer is gone.
    pub fn on_peer_down(&mut self, port: Port, now: Instant) {
        self.roster.on_peer_down(port, now);
        self.watches.remove(&port);
    }

    /// Frames to that peer may have been lost: it is told all again.
    pub fn on_peer_moved(&mut self, port: Port, now: Instant) {
        self.roster.on_peer_moved(port, now);
    }

    /// A PEERS has come.
    pub fn on_frame(&mut self, port: Port, frame: Control, now: Instant) {
        if let Control::Peers { half, gone, here } = frame {
            self.roster.on_peers(port, half, &gone, here, now);
            if let (Some(watch), Some(told)) = (self.watches.get_mut(&port), self.roster.told_by(port)) {
                watch.on_told(told);
            }
        }
    }

    /// A probe has been answered by the node whose session it went through. `beyond` are ports of that node.
    pub fn on_answer(&mut self, token: &[u8; 8], from: &NodeId, beyond: &[u8], now: Instant) {
        for watch in self.watches.values_mut() {
            if watch.on_answer(token, from, beyond, now) {
                self.stats.answered += 1;
                return;
            }
        }
    }

    /// A packet that this node sent through the peer was not answered by whoever it was for: the audit is hurried.
    pub fn on_doubt(&mut self, port: Port, now: Instant) {
        if let Some(watch) = self.watches.get_mut(&port) {
            watch.doubt(now);
        }
    }

    /// That peer's chain is followed, or may be soon: its place is to be proved, and peers that may follow through it
    /// are told how to reach it.
    pub fn on_parent(&mut self, port: Port, now: Instant) {
        self.roster.on_parent(port, now);
        if let Some(watch) = self.watches.get_mut(&port) {
            watch.look(now);
        }
    }

    /// Is the peer under suspicion?
    pub fn is_suspect(&self, port: Port) -> bool {
        self.watches.get(&port).is_some_and(|watch| watch.suspect)
    }

    /// When [`Self::handle_timeout`] is wanted. O(peers).
    pub fn deadline(&self) -> Option<Instant> {
        self.watches.values().map(|watch| watch.deadline()).chain(self.roster.deadline()).min()
    }

    /// Does what is due. O(peers).
    pub fn handle_timeout(&mut self, view: &dyn View, entropy: &mut dyn Entropy, now: Instant) {
        self.roster.handle_timeout(|port| view.is_parent(port), now);
        let ports: Vec<Port> =
            self.watches.iter().filter(|(_, w)| w.deadline() <= now).map(|(p, _)| *p).collect();
        for port in ports {
            let Some(watch) = self.watches.get_mut(&port) else { continue };
            let (was, void) = ((watch.suspect, watch.mute), watch.claims.void());
            watch.handle_timeout(view, entropy, now, &mut self.asks);
            if watch.mute != was.1 {
                self.verdicts.push_back(Verdict::Mute(port, watch.mute));
            }
            if watch.suspect != was.0 {
                self.stats.suspected += u64::from(watch.suspect);
                self.verdicts.push_back(Verdict::Suspect(port, watch.suspect));
            }
            if watch.claims.take_changed() {
                let now_void = watch.claims.void();
                self.stats.places_void += now_void.iter().filter(|node| !void.contains(node)).count() as u64;
                self.verdicts.push_back(Verdict::Places(port, watch.claims.proved(), now_void));
            }
        }
        self.stats.probes += self.asks.iter().filter(|ask| matches!(ask, Ask::Probe { .. })).count() as u64;
    }

    /// PEERS to send. O(1).
    pub fn poll_frame(&mut self) -> Option<(Port, Control)> {
        self.roster.poll_frame()
    }

    /// What to send end to end. O(1).
    pub fn poll_ask(&mut self) -> Option<Ask> {
        self.asks.pop_front()
    }

    /// What has been found. O(1).
    pub fn poll_verdict(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// Counters since the start.
    pub const fn stats(&self) -> AuditStats {
        self.stats
    }
}

/// A random time below that one.
pub(crate) fn jitter(below: Duration, entropy: &mut dyn Entropy) -> Duration {
    below * u32::from(u16::from_be_bytes(random(entropy))) / (1 << 16)
}

/// A new peer tells of its own peers first; then it takes as long again at most until the first audit.
const FIRST_AFTER: Duration = Duration::from_secs(5);
