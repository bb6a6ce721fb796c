//! Owns the searches that get us to know nodes far from our place: when, and for whom.
use super::{
    Duration, Entropy, Goal, Instant, Lookup, NodeId, Place, Position, Purpose, Query, What, random,
};

impl Lookup {
    /// Looks for whoever is nearest to places far from ours, one region after the other: only who knows somebody in each region
    /// finds everything, and where the network is long and thin nobody comes by on its own.
    pub(super) fn join(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        if self.own.locator.is_empty() || self.joining.next_at.is_none_or(|at| at > now) {
            return;
        }
        // Where some are known already the next one that comes by tells of more.
        while self.joining.rounds < JOIN_AFTER.len() && self.knows_region(self.joining.rounds, now) {
            self.joining.rounds += 1;
        }
        let round = self.joining.rounds;
        self.joining.rounds += 1;
        self.joining.next_at = JOIN_AFTER.get(self.joining.rounds).map(|&pause| now + pause);
        if self.joining.next_at.is_none() {
            // Everybody has met whom it had to meet: what was published to fewer goes to the right ones.
            for publication in self.publications.values_mut() {
                let jitter = u16::from_be_bytes(random(entropy)) % JOIN_JITTER_MS;
                publication.want_at(now + JOIN_DONE + Duration::from_millis(jitter.into()));
            }
        }
        if round >= JOIN_AFTER.len() {
            return;
        }
        // The region that differs from ours first in this bit.
        let mut place: Place = random(entropy);
        let differs = !self.place[0] & (0x80 >> round);
        let same = self.place[0] & !(0xff >> round);
        place[0] = same | differs | (place[0] & (0x7f >> round));
        self.begin_search(
            Purpose::Join { region: round },
            Query { what: What::Node, place },
            Goal::Nearest,
            now,
        );
    }

    /// Are nodes enough known of a region? Of the one that shares exactly so many bits with our place.
    pub(super) fn knows_region(&self, region: usize, now: Instant) -> bool {
        !self.joining.is_guided(now) && self.contacts.in_region(region) >= KNOWN_ENOUGH
    }
}

/// When to look for nodes far away: a few times after a start, and after a new neighbour, who may stand for a whole
/// network.
#[derive(Default)]
pub(super) struct Joining {
    pub(super) rounds: usize,
    pub(super) began_at: Option<Instant>,
    /// Of the first neighbour.
    first_at: Option<Instant>,
    pub(super) next_at: Option<Instant>,
    /// Nodes that may belong to a network that this one has just met, and until when they are worth a question.
    guides: Vec<(NodeId, Position)>,
    guided_until: Instant,
}

impl Joining {
    pub(super) fn begin(&mut self, now: Instant) {
        self.first_at.get_or_insert(now);
        if self.began_at.is_none_or(|began| now.since(began) >= JOIN_REST) {
            self.rounds = 0;
            self.began_at = Some(now);
            self.next_at = Some(now + JOIN_AFTER[0]);
        }
    }

    /// Two networks have met. False if this node has only just come to its first one, which it gets to know anyway.
    pub(super) fn joined(&mut self, mut guides: Vec<(NodeId, Position)>, now: Instant) -> bool {
        if self.first_at.is_none_or(|first| now.since(first) < YOUNG) {
            return false;
        }
        guides.truncate(GUIDES_MAX);
        self.guides = guides;
        self.guided_until = now + GUIDED;
        self.begin(now);
        true
    }

    /// Have two networks met not long ago?
    pub(super) fn is_guided(&self, now: Instant) -> bool {
        !self.guides.is_empty() && now < self.guided_until
    }

    /// Some of the guides, others each time, while they are worth a question.
    pub(super) fn guides(&mut self, count: usize, now: Instant) -> Vec<(NodeId, Position)> {
        if now >= self.guided_until {
            self.guides.clear();
        }
        let count = count.min(self.guides.len());
        if count > 0 {
            self.guides.rotate_left(count);
        }
        self.guides[..count].to_vec()
    }
}

/// The pauses before the searches of [`Lookup::join`]: the first wait until trees have settled, the later ones until
/// others have done theirs.
const JOIN_AFTER: [Duration; 4] =
    [Duration::from_millis(1500), Duration::from_secs(3), Duration::from_secs(6), Duration::from_secs(12)];
/// After the last of them records go out once more, unless that is done already.
const JOIN_DONE: Duration = Duration::from_secs(3);
/// Milliseconds that nodes which began together are spread over.
const JOIN_JITTER_MS: u16 = 4000;
/// Nodes on the ways to four roots that are remembered after networks have met.
const GUIDES_MAX: usize = 64;
/// Until all searches of a joining are over.
const GUIDED: Duration = Duration::from_secs(35);
/// A node that has had neighbours for less than that has no network of its own. With three seconds clusters that start together and
/// meet a second later took each other for one network, and some of their pairs never found each other.
const YOUNG: Duration = Duration::from_millis(300);
/// Nodes known of a region, in whose search others would be met.
const KNOWN_ENOUGH: usize = 4;
/// So often at most.
const JOIN_REST: Duration = Duration::from_secs(60);
