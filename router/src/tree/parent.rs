//! Owns the choice of a parent: who is a candidate, when to change, the asking and the granting.
use super::ancestry::{Rank, Slot};
use super::tenure::Allowed;
use super::{Own, PASSED_OVER, Request, TreePeer, Trees};
use crate::config::Class;
use crate::crypto::domain;
use crate::id::{NodeId, Port, Sid};
use crate::stats::Stats;
use crate::time::{Duration, Instant};
use crate::wire::{Control, TreeInfo};

/// A peer that could be the parent. The least is the best: those that are not under suspicion first (but in the last tree,
/// which always keeps the common root), then root, then cost, then the peer that is the parent in the fewest other trees,
/// then its hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Candidate {
    shunned: bool,
    rank: Rank,
    cost: u32,
    elsewhere: usize,
    sid: Sid,
    port: Port,
    root: Slot,
}

impl Trees {
    /// Makes sure that my place is valid, then looks for a better one.
    pub(super) fn choose(&mut self, tree: usize, now: Instant) {
        let standing = self.standing(tree);
        if self.own[tree].parent.is_some() && standing.is_none() {
            // No valid chain: root at once, before anybody countersigns anything.
            self.become_root(tree, now);
            return self.choose(tree, now);
        }
        let request_void = |own: &Own, peers: &Self| {
            own.request.as_ref().is_some_and(|request| peers.candidate(tree, request.port).is_none())
        };
        if request_void(&self.own[tree], self) {
            self.own[tree].request = None;
        }
        self.follow_above(tree, now);

        let candidates: Vec<Candidate> = self
            .peers
            .keys()
            .filter(|port| self.own[tree].passed_over.get(port).is_none_or(|&until| until <= now))
            .filter_map(|&port| self.candidate(tree, port))
            .collect();
        let mut visible: Vec<NodeId> =
            candidates.iter().map(|candidate| self.known.id(candidate.root)).collect();
        if self.own[tree].parent.is_none() {
            // A long-standing root has tenure with itself.
            visible.push(self.me);
        }
        visible.sort_unstable();
        visible.dedup();
        let allowed = self.own[tree].tenure.allowed(&visible, self.me, now);
        let mine = self.own[tree].my_rank;
        // A chain to a root that is worse than myself is none.
        let fit =
            |candidate: &Candidate| candidate.rank < mine && allowed.has(&self.known.id(candidate.root));
        let Some(best) = candidates.into_iter().filter(fit).min() else {
            if self.own[tree].parent.is_some() && self.leaves_for_itself(tree, mine, &allowed) {
                self.become_root(tree, now);
            }
            self.look_again(tree, now);
            return;
        };
        if self.prefers(tree, standing, &best, &allowed, now) {
            self.ask(tree, best, now);
        } else if let Some(standing) = standing
            && self.cost_is_off(tree, &standing, now)
        {
            self.ask(tree, standing, now);
        }
        self.look_again(tree, now);
    }

    /// My parent as a candidate, if its chain is valid.
    fn standing(&self, tree: usize) -> Option<Candidate> {
        self.candidate(tree, self.own[tree].parent?)
    }

    fn candidate(&self, tree: usize, port: Port) -> Option<Candidate> {
        let peer = self.peers.get(&port)?;
        peer.port_there.filter(|_| !peer.silent)?;
        let way = peer.ways[tree].as_ref().ok().filter(|way| !way.through_me)?;
        let link = u32::from(peer.cost) * if peer.class == Class::Mobile { MOBILE_FACTOR } else { 1 };
        let link = if peer.suspect || way.void { SUSPECT_COST } else { link };
        let elsewhere =
            (0..self.trees).filter(|&other| other != tree && self.own[other].parent == Some(port)).count();
        Some(Candidate {
            shunned: peer.suspect && !self.is_last(tree),
            rank: way.rank,
            cost: way.cost + link,
            elsewhere,
            sid: peer.sid,
            port,
            root: way.root,
        })
    }

    /// There is no candidate better than myself: do I leave a parent for that?
    fn leaves_for_itself(&self, tree: usize, mine: Rank, allowed: &Allowed) -> bool {
        let standing = self.standing(tree);
        standing.is_none_or(|standing| standing.rank > mine || !allowed.has(&self.known.id(standing.root)))
    }

    /// Is the best candidate worth leaving what I have?
    fn prefers(
        &mut self,
        tree: usize,
        standing: Option<Candidate>,
        best: &Candidate,
        allowed: &Allowed,
        now: Instant,
    ) -> bool {
        let own = &mut self.own[tree];
        let Some(standing) = standing else { return true };
        let was_gaining = own.gaining.take();
        if standing.port == best.port {
            own.gain_since = None;
            return false;
        }
        if standing.shunned && !best.shunned {
            own.gain_since = None;
            return true;
        }
        if best.shunned && !standing.shunned {
            // What I have is passed over for a moment only.
            own.gain_since = None;
            return !allowed.has(&self.known.id(standing.root));
        }
        if best.root != standing.root {
            own.gain_since = None;
            // Better, or mine is none that I may keep.
            return best.rank < standing.rank || !allowed.has(&self.known.id(standing.root));
        }
        if u64::from(best.cost) * 4 > u64::from(standing.cost) * 3 {
            own.gain_since = None;
            return false;
        }
        let since = *own.gain_since.get_or_insert(now);
        own.gaining = Some(best.port);
        if was_gaining != own.gaining {
            self.to_prove.insert(best.port);
        }
        now - since >= GAIN_HOLD && (!self.prove || self.has_proved(tree, best.port))
    }

    /// Has the peer proved the place that its chain begins with? A root has none to prove, nor has a child of mine.
    fn has_proved(&self, tree: usize, port: Port) -> bool {
        let Some(peer) = self.peers.get(&port) else { return false };
        let info = self.known.info(tree, peer.slot);
        info.is_none_or(|info| info.is_root() || info.parent == self.me || peer.proved.contains(&info.parent))
    }

    /// Is the published cost of my link off by a factor of two, for long, and may I publish it anew?
    fn cost_is_off(&mut self, tree: usize, standing: &Candidate, now: Instant) -> bool {
        let published = self.known.info(tree, self.me_slot).map_or(0, |info| u32::from(info.cost));
        let live = self.peers.get(&standing.port).map_or(1, |peer| u32::from(peer.cost));
        let own = &mut self.own[tree];
        if live < 2 * published && published < 2 * live {
            own.cost_off_since = None;
            return false;
        }
        let since = *own.cost_off_since.get_or_insert(now);
        let rested = own.cost_published.is_none_or(|last| now - last >= COST_REST);
        now - since >= self.cost_hold(now) && rested
    }

    /// While a node starts everything moves anyway, and its first costs were made of one measurement.
    fn cost_hold(&self, now: Instant) -> Duration {
        if now - self.started < STARTING { COST_HOLD_STARTING } else { COST_HOLD }
    }

    /// When nothing comes, what has to be looked at again, and when?
    fn look_again(&mut self, tree: usize, now: Instant) {
        let cost_hold = self.cost_hold(now);
        let own = &mut self.own[tree];
        let passed = own.passed_over.values().copied().filter(|&until| until > now).min();
        // A gain that waits for a proof is told of it; a second is for what is not told.
        let gain = own.gain_since.map(|since| (since + GAIN_HOLD, since + GAIN_HOLD > now));
        let gain = gain.map(|(at, waits)| if waits { at } else { now + GAIN_AGAIN });
        let cost = own.cost_off_since.map(|since| {
            let rested = own.cost_published.map_or(now, |last| last + COST_REST);
            (since + cost_hold).max(rested)
        });
        let next = [passed, gain, cost].into_iter().flatten().min();
        // What is due already waits for an answer that is under way.
        own.look_again = next.map(|at| at.max(now + LOOK_AGAIN_LEAST));
    }

    fn ask(&mut self, tree: usize, whom: Candidate, now: Instant) {
        let own = &self.own[tree];
        if let Some(request) = &own.request {
            let asked = self.candidate(tree, request.port);
            let as_good = asked.is_some_and(|asked| {
                asked.root == whom.root && u64::from(whom.cost) * 4 > u64::from(asked.cost) * 3
            });
            if request.port == whom.port || as_good {
                return;
            }
        }
        let Some(TreePeer { node, port_there: Some(port_there), cost, .. }) =
            self.peers.get(&whom.port).map(|peer| &**peer)
        else {
            return;
        };
        let (node, port_there, cost) = (*node, *port_there, *cost);
        let mut info = TreeInfo {
            tree: tree as u8,
            node: self.me,
            class: self.class,
            parent: node,
            parent_port: port_there,
            cost,
            seq: self.take_seq(),
            sig: [0; 64],
            parent_sig: None,
        };
        info.sig = self.secret.sign(domain::TREE_INFO, &info.signed());
        // Four round trips, as far as the cost (milliseconds one way) tells them.
        let lapses = now + REQUEST_LAPSES.max(Duration::from_millis(8 * u64::from(cost)));
        self.own[tree].request = Some(Request { port: whom.port, info, lapses });
        self.frames.push_back((whom.port, Control::ParentReq { info }));
    }

    /// Somebody wants to hang on me.
    pub(super) fn on_parent_req(&mut self, port: Port, info: TreeInfo, stats: &mut Stats, now: Instant) {
        let Some(peer) = self.peers.get_mut(&port) else { return };
        let tree = usize::from(info.tree);
        if tree >= self.trees || !peer.requests.take(now) {
            stats.tree_infos_refused += 1;
            return;
        }
        let (node, slot) = (peer.node, peer.slot);
        let ours = info.node == node && info.parent == self.me && info.parent_port == port;
        let newer = self.known.info(tree, slot).is_none_or(|known| info.seq > known.seq);
        let granted = ours
            && newer
            && !self.own_chain_holds(tree, slot)
            && self.yields_to(tree, node, slot, now)
            && self.holds(&info, stats);
        if !granted {
            stats.tree_infos_refused += u64::from(!ours);
        }
        let sig = granted.then(|| self.secret.sign(domain::PARENT, &info.signed()));
        self.frames.push_back((port, Control::ParentSig { tree: info.tree, seq: info.seq, sig }));
        if granted {
            self.choose(tree, now);
        }
    }

    fn own_chain_holds(&mut self, tree: usize, slot: Slot) -> bool {
        let mut chain = std::mem::take(&mut self.scratch);
        let holds = self.known.walk(tree, self.me_slot, &mut chain).is_err() || chain.contains(&slot);
        self.scratch = chain;
        holds
    }

    /// Two that ask each other (or one below the other) would make a loop: the lower hash's request wins. Says
    /// whether theirs does, and gives mine up then.
    fn yields_to(&mut self, tree: usize, node: NodeId, slot: Slot, now: Instant) -> bool {
        let Some(request) = &self.own[tree].request else { return true };
        let Some(asked) = self.peers.get(&request.port) else { return true };
        let mut chain = std::mem::take(&mut self.scratch);
        let crossing = asked.slot == slot
            || self.known.walk(tree, asked.slot, &mut chain).is_ok() && chain.contains(&slot);
        self.scratch = chain;
        if !crossing {
            return true;
        }
        if self.me.hash() < node.hash() {
            return false;
        }
        let request = self.own[tree].request.take().expect("it was just there");
        // Time for the other to tell where it hangs now.
        self.own[tree].passed_over.insert(request.port, now + YIELDED);
        true
    }

    /// The peer that I asked has answered.
    pub(super) fn on_parent_sig(
        &mut self,
        port: Port,
        tree: u8,
        seq: u64,
        sig: Option<[u8; 64]>,
        stats: &mut Stats,
        now: Instant,
    ) {
        let tree = usize::from(tree);
        let Some(own) = self.own.get_mut(tree) else { return };
        let asked = |request: &mut Request| request.port == port && request.info.seq == seq;
        let Some(request) = own.request.take_if(asked) else { return };
        let info = TreeInfo { parent_sig: sig, ..request.info };
        let good = sig.is_some_and(|sig| {
            self.signature_holds(&info.parent, domain::PARENT, &info.signed(), &sig, stats)
        });
        if !good || self.candidate(tree, port).is_none() {
            self.own[tree].passed_over.insert(port, now + PASSED_OVER);
            return self.choose(tree, now);
        }
        let own = &mut self.own[tree];
        if own.parent == Some(port) {
            own.cost_published = Some(now);
        } else {
            own.cost_published = None;
            stats.parent_changes += 1;
        }
        let former = own.parent.replace(port);
        self.to_prove.insert(port);
        own.gain_since = None;
        own.gaining = None;
        own.cost_off_since = None;
        self.known.insert(info, now);
        self.sweep_soon(now);
        self.show_void(tree, [former, Some(port)]);
        self.recompute_own(tree, now);
        self.recompute(tree, now);
    }

    /// A void place is shown to whoever forwards as long as it is the parent's.
    fn show_void(&mut self, tree: usize, ports: [Option<Port>; 2]) {
        for port in ports.into_iter().flatten() {
            let way = self.peers.get(&port).and_then(|peer| peer.ways[tree].as_ref().ok());
            if way.is_some_and(|way| way.void) {
                self.changes.insert((port, tree));
            }
        }
    }

    pub(super) fn become_root(&mut self, tree: usize, now: Instant) {
        let info = self.root_info(tree);
        let own = &mut self.own[tree];
        let former = own.parent.take();
        own.request = None;
        own.gain_since = None;
        own.gaining = None;
        own.cost_off_since = None;
        self.known.insert(info, now);
        self.sweep_soon(now);
        self.show_void(tree, [former, None]);
        self.recompute_own(tree, now);
        // Peers that hang on me hang elsewhere now.
        self.rewalk_peers(tree, now);
    }

    /// Something above me may have moved.
    fn follow_above(&mut self, tree: usize, now: Instant) {
        if self.own[tree].parent.is_some() {
            self.recompute_own(tree, now);
        }
    }
}

/// A mobile peer's link counts that much more: it will be gone soon.
const MOBILE_FACTOR: u32 = 4;
/// A gain that has been held for long enough and is not proved yet is looked at again.
const GAIN_AGAIN: Duration = Duration::from_secs(1);
/// With only suspects left, or places that could not be proved, one of them at that cost.
const SUSPECT_COST: u32 = 1000;
/// A way to the same root must be better by a quarter for that long.
const GAIN_HOLD: Duration = Duration::from_secs(5);
/// A published cost must be off by a factor of two for that long to be published anew (kilobytes on every link below),
const COST_HOLD: Duration = Duration::from_secs(60);
/// or for that long soon after the start,
const COST_HOLD_STARTING: Duration = Duration::from_secs(15);
/// which is as long as new links are measured (`peer/cost.rs`), and a little more;
const STARTING: Duration = Duration::from_secs(30);
/// and that only so often.
const COST_REST: Duration = Duration::from_secs(30 * 60);
/// An unanswered PARENT_REQ lapses after four round trips, and not before.
const REQUEST_LAPSES: Duration = Duration::from_secs(1);
/// Whoever yielded to a crossing request waits so long for the other to tell where it hangs now.
const YIELDED: Duration = Duration::from_millis(300);
/// Keeps a deadline that has passed from coming back at once.
const LOOK_AGAIN_LEAST: Duration = Duration::from_millis(20);
