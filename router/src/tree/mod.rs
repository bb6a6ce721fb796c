//! Owns this node's place in the spanning trees: what it knows of others' places, which parent it hangs on in each
//! tree, what it tells its peers.
//!
//! ```text
//!   own root ── better root or none left ──> PARENT_REQ ──(PARENT_SIG yes)──> below a parent
//!      ^                                        │ no, or no answer                │
//!      │<──────── passes that peer over ────────┘                                 │
//!      └──────────── the parent's chain is void, or it is gone ───────────────────┘
//! ```
//! Sans-IO like the whole router: `on_*` takes what came, [`Trees::poll_frame`] and [`Trees::announce`] give what goes
//! out, [`Trees::poll_change`] whose coordinates moved.
pub mod ancestry;
mod announce;
mod door;
pub mod generations;
mod parent;
pub mod tenure;

use crate::config::{Boot, Class, SignatureMemory, TREES_MAX};
use crate::crypto::{SecretKey, domain};
use crate::id::{NodeId, Port, Sid};
use crate::lookup::locator::{Coords, Locator};
use crate::rate::Rate;
use crate::stats::Stats;
use crate::time::{Duration, Instant};
use crate::wire::{Control, TreeInfo};
pub use ancestry::Rank;
use ancestry::{Ancestry, Slot, Void};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tenure::{RootTimes, Tenure};

/// The node's view of all trees.
pub struct Trees {
    secret: SecretKey,
    me: NodeId,
    me_slot: Slot,
    class: Class,
    trees: usize,
    next_seq: u64,
    known: Ancestry,
    own: Vec<Own>,
    /// (Boxed: a map of large values has room for eleven of them at least.)
    peers: BTreeMap<Port, Box<TreePeer>>,
    frames: VecDeque<(Port, Control)>,
    changes: BTreeSet<(Port, usize)>,
    hints: BTreeSet<Port>,
    /// Peers whose chains are followed since lately.
    to_prove: BTreeSet<Port>,
    /// Chains for a gain wait until they are proved.
    prove: bool,
    checked: Option<Arc<dyn SignatureMemory>>,
    sweep_at: Option<Instant>,
    started: Instant,
    scratch: Vec<Slot>,
    /// Changes of my root so far, in all trees.
    pub root_changes: u64,
    /// In which tree the locator names the way over which other peer, if all trees hang on one.
    door: Option<(usize, Port)>,
}

/// This node's place in one tree.
struct Own {
    parent: Option<Port>,
    request: Option<Request>,
    /// Peers that refused, or did not answer: until then they are passed over.
    passed_over: BTreeMap<Port, Instant>,
    /// Since when a way that is better by a quarter has been seen,
    gain_since: Option<Instant>,
    /// and through whom.
    gaining: Option<Port>,
    /// Since when the published cost has been off by a factor of two.
    cost_off_since: Option<Instant>,
    /// When the cost of the link to this parent was last published anew.
    cost_published: Option<Instant>,
    tenure: Tenure,
    /// The rank I have as a root.
    my_rank: Rank,
    way: Way,
    /// When to look again though nothing has come.
    look_again: Option<Instant>,
}

/// A PARENT_REQ under way.
struct Request {
    port: Port,
    info: TreeInfo,
    lapses: Instant,
}

/// What the trees know of a peer.
struct TreePeer {
    node: NodeId,
    slot: Slot,
    sid: Sid,
    class: Class,
    cost: u8,
    /// Its link has not answered for a second: nothing hangs on it until it does.
    silent: bool,
    /// Its port for this node.
    port_there: Option<Port>,
    ways: Vec<Result<Way, Void>>,
    /// [`Ancestry::stamp`] of the entries that these come from; 0 if they have to be walked anew whatever it is.
    walked: Vec<u64>,
    /// Nodes and seqs of the chain last announced to it, per tree.
    sent: Vec<Vec<(Slot, u64)>>,
    /// Audits say that it drops what it should pass on.
    suspect: bool,
    /// Parents that it has proved to have.
    proved: Vec<NodeId>,
    /// Parents that it claims only: its chains through them are void.
    claimed: Vec<NodeId>,
    /// It has to hear something.
    due: bool,
    announced: Option<Instant>,
    frame_max: usize,
    /// Trees whose whole chain it must be asked for, since when, and when it was asked last.
    missing: BTreeMap<usize, (Instant, u32)>,
    resynced: Option<Instant>,
    /// Signature checks it may still cause, and when that was counted.
    checks: Rate,
    /// Countersignatures it may still ask for.
    requests: Rate,
}

/// A valid chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    root: Slot,
    rank: Rank,
    cost: u32,
    coords: Coords,
    /// It goes through this node, so it is no way for it.
    through_me: bool,
    /// Its first node does not hang where it says, as far as audits tell.
    void: bool,
}

impl Trees {
    /// A node on its own: root of every tree.
    pub fn new(
        secret: SecretKey,
        class: Class,
        trees: u8,
        boot: &Boot,
        checked: Option<Arc<dyn SignatureMemory>>,
        now: Instant,
    ) -> Self {
        let me = secret.id();
        let mut known = Ancestry::default();
        let me_slot = known.pin(me);
        let trees = usize::from(trees).clamp(1, TREES_MAX);
        let mut this = Self {
            secret,
            me,
            me_slot,
            class,
            trees,
            next_seq: boot.counter.saturating_add(1),
            known,
            own: Vec::new(),
            peers: BTreeMap::new(),
            frames: VecDeque::new(),
            changes: BTreeSet::new(),
            hints: BTreeSet::new(),
            to_prove: BTreeSet::new(),
            prove: false,
            checked,
            sweep_at: None,
            started: now,
            scratch: Vec::new(),
            root_changes: 0,
            door: None,
        };
        for tree in 0..trees {
            let info = this.root_info(tree);
            let way = Way {
                root: me_slot,
                rank: Rank::of(&info),
                cost: 0,
                coords: Coords { root: me.sid(), hops: Vec::new() },
                through_me: false,
                void: false,
            };
            this.known.insert(info, now);
            this.changes.insert((Port::SELF, tree));
            this.own.push(Own {
                parent: None,
                request: None,
                passed_over: BTreeMap::new(),
                gain_since: None,
                gaining: None,
                cost_off_since: None,
                cost_published: None,
                tenure: Tenure::new(me, boot.roots.of_tree(tree), now),
                my_rank: way.rank,
                way,
                look_again: None,
            });
        }
        this
    }

    /// Whether peers have to prove places before they are taken for a gain.
    pub fn set_prove(&mut self, prove: bool) {
        self.prove = prove;
    }

    /// A peer is up. `frame_max` is the largest control frame that goes to it.
    pub fn on_peer_up(
        &mut self,
        port: Port,
        node: NodeId,
        class: Class,
        cost: u8,
        frame_max: usize,
        now: Instant,
    ) {
        let slot = self.known.pin(node);
        let peer = TreePeer {
            node,
            slot,
            sid: node.sid(),
            class,
            cost,
            silent: false,
            port_there: None,
            ways: vec![Err(Void::Unknown); self.trees],
            walked: vec![0; self.trees],
            sent: vec![Vec::new(); self.trees],
            suspect: false,
            proved: Vec::new(),
            claimed: Vec::new(),
            due: true,
            announced: None,
            frame_max,
            missing: BTreeMap::new(),
            resynced: None,
            checks: Rate::new(CHECKS_BURST, CHECKS_PER_SECOND, now),
            requests: Rate::new(REQUESTS_BURST, REQUESTS_PER_SECOND, now),
        };
        if let Some(old) = self.peers.insert(port, Box::new(peer)) {
            self.unpin_peer(&old);
        }
        self.recompute_all(now);
    }

    /// A peer is gone.
    pub fn on_peer_down(&mut self, port: Port, now: Instant) {
        let Some(peer) = self.peers.remove(&port) else { return };
        self.unpin_peer(&peer);
        for tree in 0..self.trees {
            self.changes.insert((port, tree));
            let own = &mut self.own[tree];
            own.passed_over.remove(&port);
            own.request.take_if(|request| request.port == port);
        }
        self.sweep_soon(now);
        self.recompute_all(now);
    }

    /// A peer's link costs something else now, or takes other sizes.
    pub fn on_peer_link(&mut self, port: Port, cost: u8, frame_max: usize, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        peer.frame_max = frame_max;
        if peer.cost != cost {
            peer.cost = cost;
            for tree in 0..self.trees {
                self.choose(tree, now);
            }
        }
    }

    /// The peer's link has fallen silent, or was heard again.
    pub fn on_peer_silent(&mut self, port: Port, silent: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        if peer.silent != silent {
            peer.silent = silent;
            for tree in 0..self.trees {
                self.choose(tree, now);
            }
        }
    }

    /// Audits say that the peer drops what it should pass on, or no longer.
    pub fn on_suspect(&mut self, port: Port, suspect: bool, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        peer.suspect = suspect;
        for tree in 0..self.trees {
            self.choose(tree, now);
        }
    }

    /// Parents that the peer has proved to have, and such as it only claims.
    pub fn on_places(&mut self, port: Port, proved: Vec<NodeId>, claimed: Vec<NodeId>, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        peer.proved = proved;
        peer.claimed = claimed;
        peer.walked.fill(0);
        self.recompute_all(now);
    }

    /// The parents that the peer says it has in trees where this node follows its chain, or would if they were proved.
    pub fn claims(&self, port: Port) -> Vec<NodeId> {
        let Some(peer) = self.peers.get(&port) else { return Vec::new() };
        let mut parents = Vec::new();
        for (tree, own) in self.own.iter().enumerate() {
            let follows = own.parent == Some(port) || own.gaining == Some(port);
            let info = self.known.info(tree, peer.slot).filter(|info| follows && !info.is_root());
            if let Some(parent) = info.map(|info| info.parent).filter(|parent| *parent != self.me) {
                parents.push(parent);
            }
        }
        parents.sort_unstable();
        parents.dedup();
        parents
    }

    /// Is that peer a parent of this node, in any tree?
    pub fn is_parent(&self, port: Port) -> bool {
        self.own.iter().any(|own| own.parent == Some(port))
    }

    /// A peer whose claims matter since lately. O(1).
    pub fn poll_claim(&mut self) -> Option<Port> {
        self.to_prove.pop_first()
    }

    /// Frames to that peer may have been lost: it gets all chains again.
    pub fn on_peer_moved(&mut self, port: Port) {
        if let Some(peer) = self.peers.get_mut(&port) {
            for sent in &mut peer.sent {
                for (slot, _) in sent.drain(..) {
                    self.known.unpin(slot);
                }
            }
            peer.due = true;
        }
    }

    /// A control frame that concerns the trees.
    pub fn on_frame(&mut self, port: Port, frame: Control, stats: &mut Stats, now: Instant) {
        if !self.peers.contains_key(&port) {
            return;
        }
        match frame {
            Control::Announce { port: port_there, infos } => {
                self.on_announce(port, port_there, infos, stats, now);
            }
            Control::ParentReq { info } => self.on_parent_req(port, info, stats, now),
            Control::ParentSig { tree, seq, sig } => self.on_parent_sig(port, tree, seq, sig, stats, now),
            Control::Resync { trees } => self.on_resync(port, trees, now),
            _ => {}
        }
    }

    /// Frames other than announcements to send. O(1).
    pub fn poll_frame(&mut self) -> Option<(Port, Control)> {
        self.frames.pop_front()
    }

    /// Whose coordinates changed in which tree since this was last asked; [`Port::SELF`] is this node. O(log n).
    pub fn poll_change(&mut self) -> Option<(Port, usize)> {
        self.changes.pop_first()
    }

    /// A peer that others seem to have lost: worth a ping.
    pub fn poll_hint(&mut self) -> Option<Port> {
        self.hints.pop_first()
    }

    /// This node's coordinates in a tree.
    pub fn coords(&self, tree: usize) -> &Coords {
        &self.own[tree].way.coords
    }

    /// A peer's coordinates in a tree, if its chain is valid. A place that it could not prove draws no packets but those of
    /// who has nothing else.
    pub fn peer_coords(&self, port: Port, tree: usize) -> Option<&Coords> {
        let way = self.peers.get(&port)?.ways[tree].as_ref().ok()?;
        (!way.void || self.own[tree].parent == Some(port)).then_some(&way.coords)
    }

    /// The tree in which nobody is without the common root: neither suspicion nor a place that could not be proved parts it.
    const fn is_last(&self, tree: usize) -> bool {
        self.trees > 1 && tree + 1 == self.trees
    }

    /// A peer's coordinates in all trees, as far as they are known.
    pub fn peer_locator(&self, port: Port) -> Locator {
        Locator::of((0..self.trees).filter_map(|tree| Some((tree, self.peer_coords(port, tree)?))))
    }

    /// Number of trees.
    pub const fn len(&self) -> usize {
        self.trees
    }

    /// Never: there is at least one tree.
    pub const fn is_empty(&self) -> bool {
        self.trees == 0
    }

    /// The key of a tree's root.
    pub fn root(&self, tree: usize) -> NodeId {
        self.known.id(self.own[tree].way.root)
    }

    /// The rank of a tree's root: the least wins.
    pub fn root_rank(&self, tree: usize) -> Rank {
        self.own[tree].way.rank
    }

    /// Nodes on this node's way up a tree, itself left out, with their coordinates there: the root last.
    pub fn ancestors(&self, tree: usize) -> Vec<(NodeId, Coords)> {
        let mut chain = Vec::new();
        if self.known.walk(tree, self.me_slot, &mut chain).is_err() {
            return Vec::new();
        }
        let above = 1..chain.len();
        above.map(|at| (self.known.id(chain[at]), self.known.coords(tree, &chain[at..]).0)).collect()
    }

    /// The parent in a tree, and the summed cost up to the root.
    pub fn parent(&self, tree: usize) -> (Option<NodeId>, u32) {
        let own = &self.own[tree];
        (own.parent.and_then(|port| Some(self.peers.get(&port)?.node)), own.way.cost)
    }

    /// The parent's port in a tree.
    pub fn parent_port(&self, tree: usize) -> Option<Port> {
        self.own[tree].parent
    }

    /// Known nodes, for the bound that tests hold it to.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    /// Bytes of memory that tree entries and peers' ways take.
    pub fn bytes(&self) -> usize {
        let peer = |peer: &TreePeer| {
            let ways =
                peer.ways.iter().flatten().map(|way| size_of_val(way.coords.hops.as_slice())).sum::<usize>();
            let sent = peer.sent.iter().map(|sent| size_of_val(sent.as_slice())).sum::<usize>();
            size_of::<TreePeer>() + peer.ways.len() * size_of::<Result<Way, Void>>() + ways + sent
        };
        self.known.bytes() + self.peers.values().map(|entry| peer(entry)).sum::<usize>()
    }

    /// Above every seq used so far.
    pub const fn counter(&self) -> u64 {
        self.next_seq
    }

    /// How long which roots were followed. O(trees).
    pub fn root_times(&self, now: Instant) -> RootTimes {
        let mut times = RootTimes::default();
        for (tree, own) in self.own.iter().enumerate() {
            for (root, followed) in own.tenure.times(now) {
                times.push(tree, root, followed);
            }
        }
        times
    }

    /// When [`Self::handle_timeout`] wants to be called. Announcements have their own: [`Self::announce_at`].
    pub fn deadline(&self) -> Option<Instant> {
        let own = self.own.iter().filter_map(|own| {
            let request = own.request.as_ref().map(|request| request.lapses);
            [request, own.look_again].into_iter().flatten().min()
        });
        let missing = self.peers.values().filter_map(|peer| {
            peer.missing.values().map(|&(since, asked)| since + resync_after(asked)).min()
        });
        own.chain(missing).chain(self.sweep_at).min()
    }

    /// [`Self::deadline`] has come, or not yet.
    pub fn handle_timeout(&mut self, now: Instant) {
        for tree in 0..self.trees {
            let own = &mut self.own[tree];
            if let Some(lapsed) = own.request.take_if(|request| now >= request.lapses) {
                own.passed_over.insert(lapsed.port, now + PASSED_OVER);
                own.look_again = Some(now);
            }
            if own.look_again.is_some_and(|at| now >= at) {
                own.look_again = None;
                own.passed_over.retain(|_, until| *until > now);
                self.choose(tree, now);
            }
        }
        self.ask_for_missing(now);
        if self.sweep_at.is_some_and(|at| now >= at) {
            self.sweep(now);
        }
    }

    fn sweep_soon(&mut self, now: Instant) {
        self.sweep_at.get_or_insert(now + SWEEP_EVERY);
    }

    fn sweep(&mut self, now: Instant) {
        let mut starts: Vec<Slot> = self.peers.values().map(|peer| peer.slot).collect();
        starts.push(self.me_slot);
        self.known.mark(self.trees, &starts);
        let more = self.known.sweep(now);
        self.sweep_at = more.then_some(now + SWEEP_EVERY);
    }

    fn unpin_peer(&mut self, peer: &TreePeer) {
        self.known.unpin(peer.slot);
        for (slot, _) in peer.sent.iter().flatten() {
            self.known.unpin(*slot);
        }
    }

    fn recompute_all(&mut self, now: Instant) {
        for tree in 0..self.trees {
            self.recompute(tree, now);
        }
    }

    /// Walks anew from every peer, then chooses.
    fn recompute(&mut self, tree: usize, now: Instant) {
        self.rewalk_peers(tree, now);
        self.choose(tree, now);
    }

    /// My own chain, after a change of parent or above me. `choose` has made sure that it is valid.
    fn recompute_own(&mut self, tree: usize, now: Instant) {
        let mut chain = std::mem::take(&mut self.scratch);
        if let Ok(way) = walk(&self.known, tree, self.me_slot, self.me_slot, &mut chain) {
            let own = &mut self.own[tree];
            if way.coords != own.way.coords {
                self.changes.insert((Port::SELF, tree));
            }
            let root = self.known.id(way.root);
            self.root_changes += u64::from(way.root != own.way.root);
            own.tenure.follow(root, self.me, now);
            own.way = way;
        }
        self.scratch = chain;
        // Whatever moved above me, seqs included, is news for my peers.
        for peer in self.peers.values_mut() {
            peer.due = true;
        }
    }

    fn root_info(&mut self, tree: usize) -> TreeInfo {
        let mut info = TreeInfo {
            tree: tree as u8,
            node: self.me,
            class: self.class,
            parent: self.me,
            parent_port: Port::SELF,
            cost: 0,
            seq: self.take_seq(),
            sig: [0; 64],
            parent_sig: None,
        };
        info.sig = self.secret.sign(domain::TREE_INFO, &info.signed());
        info
    }

    const fn take_seq(&mut self) -> u64 {
        let seq = self.next_seq;
        self.next_seq = self.next_seq.saturating_add(1);
        seq
    }

    /// Do the signatures hold? A check that this process has made before is not made again.
    fn holds(&self, info: &TreeInfo, stats: &mut Stats) -> bool {
        let signed = info.signed();
        let parent = info.parent_sig.as_ref();
        self.signature_holds(&info.node, domain::TREE_INFO, &signed, &info.sig, stats)
            && parent
                .is_none_or(|sig| self.signature_holds(&info.parent, domain::PARENT, &signed, sig, stats))
    }

    fn signature_holds(
        &self,
        key: &NodeId,
        domain: &str,
        signed: &[u8],
        sig: &[u8; 64],
        stats: &mut Stats,
    ) -> bool {
        let memory = self.checked.as_deref();
        let (result, checked) = key.verify_remembering(memory, domain, signed, sig);
        stats.signatures_checked += u64::from(checked);
        result.is_ok()
    }
}

fn walk(known: &Ancestry, tree: usize, start: Slot, me: Slot, chain: &mut Vec<Slot>) -> Result<Way, Void> {
    let rank = known.walk(tree, start, chain)?;
    let (coords, cost) = known.coords(tree, chain);
    let root = *chain.last().expect("a walk that ends has its start");
    Ok(Way { root, rank, cost, coords, through_me: start != me && chain.contains(&me), void: false })
}

fn resync_after(asked: u32) -> Duration {
    RESYNC_AFTER * (1 << (2 * asked).min(10))
}

/// A peer that refused, or did not answer, is not asked again for that long (or until its next ANNOUNCE).
const PASSED_OVER: Duration = Duration::from_millis(100);
/// A chain that stays void for want of an entry is asked for; then after four times as long, up to 200 s.
const RESYNC_AFTER: Duration = Duration::from_millis(200);
/// How often entries that no chain needs are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Signature checks that one peer may cause at once: the whole ways to four roots through 250 nodes each.
const CHECKS_BURST: u32 = 2048;
/// And per second: a tenth of a core.
const CHECKS_PER_SECOND: u32 = 1000;
/// Countersignatures that one peer may ask for at once.
const REQUESTS_BURST: u32 = 64;
/// And per second: in each of four trees, five.
const REQUESTS_PER_SECOND: u32 = 20;
