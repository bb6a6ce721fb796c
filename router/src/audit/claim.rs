//! Owns the proof of places: a peer says that it hangs on another node, and its chain is followed for that. Whoever took a
//! root's countersignature once, unplugged and claims to hang on it anywhere would draw traffic from all sides. So the
//! claimed parent has to answer a probe that goes through the peer. A void place is asked about again meanwhile: a peer
//! that dropped everything proves nothing, and where it is the only way its chain is the only one.
use crate::id::NodeId;
use crate::time::{Duration, Instant};

/// What one peer claims.
#[derive(Debug, Default)]
pub(super) struct Claims {
    claims: Vec<Claim>,
    changed: bool,
}

/// One parent that a peer says it has.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) parent: NodeId,
    /// It matters now.
    wanted: bool,
    proved: Option<Instant>,
    misses: u8,
    void_until: Option<Instant>,
    pub(super) next: Instant,
    /// A handshake through the peer was begun.
    pub(super) met: bool,
    /// A probe under way, and when its answer is due.
    pub(super) asked: Option<([u8; 8], Instant)>,
}

impl Claim {
    pub(super) const fn is_void(&self) -> bool {
        self.void_until.is_some()
    }
}

impl Claims {
    /// These parents matter now. Others are kept only as long as something is known of them.
    pub(super) fn want(&mut self, parents: &[NodeId], now: Instant) {
        for claim in &mut self.claims {
            claim.wanted = parents.contains(&claim.parent);
        }
        for &parent in parents {
            if self.claims.len() < CLAIMS_MAX && !self.claims.iter().any(|claim| claim.parent == parent) {
                self.claims.push(Claim {
                    parent,
                    wanted: true,
                    proved: None,
                    misses: 0,
                    void_until: None,
                    next: now + SETTLED,
                    met: false,
                    asked: None,
                });
            }
        }
        let (before, mut freed) = (self.claims.len(), false);
        for claim in &mut self.claims {
            if claim.void_until.is_some_and(|until| until <= now) {
                (claim.void_until, claim.misses, freed) = (None, 0, true);
            }
        }
        self.claims.retain(|claim| {
            let fresh = claim.proved.is_some_and(|proved| now - proved < PROVED_FOR);
            claim.wanted || claim.is_void() || fresh
        });
        self.changed |= freed || before != self.claims.len();
    }

    /// The claim that is to be looked at next, if that time has come. Nobody follows a void one, so nobody wants it: it is
    /// looked at all the same.
    pub(super) fn due(&mut self, now: Instant) -> Option<&mut Claim> {
        self.claims.iter_mut().find(|claim| (claim.wanted || claim.is_void()) && claim.next <= now)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let next = |claim: &Claim| (claim.wanted || claim.is_void()).then_some(claim.next);
        self.claims.iter().flat_map(|claim| [claim.void_until, next(claim)]).flatten().min()
    }

    /// Is that the answer to one of the probes?
    pub(super) fn on_answer(&mut self, token: &[u8; 8], from: &NodeId, now: Instant) -> bool {
        let asked = |claim: &&mut Claim| {
            claim.parent == *from && claim.asked.is_some_and(|(asked, _)| asked == *token)
        };
        let Some(claim) = self.claims.iter_mut().find(asked) else { return false };
        claim.asked = None;
        claim.misses = 0;
        claim.next = now + AGAIN;
        self.changed |= claim.proved.is_none() || claim.is_void();
        claim.void_until = None;
        claim.proved = Some(now);
        true
    }

    /// That node has answered an audit through the peer: if it is a parent, that proves the place as well.
    pub(super) fn on_heard(&mut self, from: &NodeId, now: Instant) {
        let open = |claim: &&mut Claim| claim.parent == *from && claim.asked.is_none() && !claim.is_void();
        if let Some(claim) = self.claims.iter_mut().find(open) {
            (claim.misses, claim.next) = (0, now + AGAIN);
            self.changed |= claim.proved.is_none();
            claim.proved = Some(now);
        }
    }

    /// The parent did not answer through the peer, or the peer did not say how to reach it.
    pub(super) fn on_miss(&mut self, parent: &NodeId, now: Instant) {
        let Some(claim) = self.claims.iter_mut().find(|claim| claim.parent == *parent) else { return };
        claim.asked = None;
        claim.misses = claim.misses.saturating_add(1);
        claim.next = now + RETRY;
        if claim.misses >= MISSES_MAX {
            claim.next = now + VOID_AGAIN * (1 << (claim.misses - MISSES_MAX).min(4));
            self.changed |= !claim.is_void();
            claim.void_until.get_or_insert(now + VOID_FOR);
            claim.proved = None;
        }
    }

    /// A handshake with the parent was begun through the peer; it has until then.
    pub(super) fn on_meet(&mut self, parent: &NodeId, until: Instant) {
        if let Some(claim) = self.claims.iter_mut().find(|claim| claim.parent == *parent) {
            claim.met = true;
            claim.next = until;
        }
    }

    pub(super) fn proved(&self) -> Vec<NodeId> {
        self.claims.iter().filter(|claim| claim.proved.is_some()).map(|claim| claim.parent).collect()
    }

    pub(super) fn void(&self) -> Vec<NodeId> {
        self.claims.iter().filter(|claim| claim.is_void()).map(|claim| claim.parent).collect()
    }

    /// Has [`Self::proved`] or [`Self::void`] changed since this was asked last?
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

/// A tree that heals goes through places for moments; what stays that long is asked about.
const SETTLED: Duration = Duration::from_secs(2);
/// After a miss.
const RETRY: Duration = Duration::from_secs(3);
/// A place that was proved is asked about again after that, unless an audit has gone there meanwhile.
const AGAIN: Duration = Duration::from_secs(90 * 60);
/// And counts as proved for so long though nobody follows it.
const PROVED_FOR: Duration = Duration::from_secs(15 * 60);
/// Three misses, and the place is void
const MISSES_MAX: u8 = 3;
/// for ten minutes.
const VOID_FOR: Duration = Duration::from_secs(10 * 60);
/// unless an answer comes before: asked for after so long, then after twice as long each time.
const VOID_AGAIN: Duration = Duration::from_secs(30);
/// Parents of one peer: one a tree, and as many that it has left.
const CLAIMS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Instant {
        Instant::from_micros(1_000_000 * secs)
    }

    #[test]
    fn three_misses_void_a_place_for_ten_minutes_and_an_answer_proves_it() {
        let (thief, honest) = (NodeId::from_bytes([1; 32]), NodeId::from_bytes([2; 32]));
        let mut claims = Claims::default();
        claims.want(&[thief, honest], at(0));
        assert!(claims.due(at(1)).is_none() && claims.due(at(2)).is_some());
        for secs in [3, 7, 11] {
            assert!(claims.void().is_empty());
            claims.on_miss(&thief, at(secs));
        }
        claims.due(at(11)).unwrap().asked = Some(([5; 8], at(13)));
        assert!(!claims.on_answer(&[5; 8], &thief, at(12)), "another's answer proves nothing");
        assert!(claims.on_answer(&[5; 8], &honest, at(12)));
        assert!(claims.take_changed());
        assert_eq!((claims.proved(), claims.void()), (vec![honest], vec![thief]));
        claims.want(&[], at(600));
        assert_eq!(claims.void(), [thief], "leaving it for a moment frees nobody");
        claims.want(&[thief], at(611));
        assert!(claims.void().is_empty());
    }

    #[test]
    fn a_void_place_is_asked_about_again_and_an_answer_frees_it() {
        let parent = NodeId::from_bytes([1; 32]);
        let mut claims = Claims::default();
        claims.want(&[parent], at(0));
        for secs in [3, 7, 11] {
            claims.on_miss(&parent, at(secs));
        }
        assert!(claims.take_changed());
        claims.want(&[], at(12));
        assert!(claims.due(at(40)).is_none() && claims.due(at(41)).is_some());
        assert_eq!(claims.deadline(), Some(at(41)));
        claims.on_miss(&parent, at(41));
        assert!(!claims.take_changed(), "it is void as before, and for no longer");
        assert!(claims.due(at(100)).is_none());
        claims.due(at(101)).unwrap().asked = Some(([5; 8], at(103)));
        assert!(claims.on_answer(&[5; 8], &parent, at(102)) && claims.take_changed());
        assert_eq!((claims.proved(), claims.void()), (vec![parent], vec![]));
    }
}
