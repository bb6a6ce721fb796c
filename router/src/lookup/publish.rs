//! Owns the publication of one record of ours: when it goes out, who keeps it, when they hear that it still holds.
//!
//! It goes out when it first can and has settled a little, when what it says has changed, and when the network has. That is allowed
//! three times in a burst, a little later each time, then once a minute. A node that comes up nearer to the record's place than one that keeps it
//! takes that one's part, without a search. After a quarter of an hour those who keep it are told that it still holds, after that more
//! seldom as long as all answer; now and then they are looked for afresh.
use super::kademlia::{BUCKET, distance};
use super::search::{Replica, SAME_PREFIX_MAX, prefix};
use super::{Place, Position};
use crate::id::NodeId;
use crate::time::{Duration, Instant};
use crate::wire::body::find::Record;

pub(super) struct Publication {
    pub(super) place: Place,
    /// As it was last given to the keepers.
    pub(super) record: Option<Record>,
    keepers: Vec<Keeper>,
    /// The search for keepers under way.
    pub(super) search: Option<u64>,
    tokens: u32,
    refilled_at: Instant,
    due_at: Option<Instant>,
    /// The next time keepers are to be looked for.
    fresh: bool,
    refresh_at: Option<Instant>,
    refreshes: u32,
    /// Until the next refresh, and at most.
    pause: Duration,
    pause_max: Duration,
    fresh_every: u32,
    /// Nodes taken in place of farther ones lately.
    adopted: u32,
    adopted_at: Instant,
    /// The network is new to us until then.
    forming_until: Instant,
    last_at: Option<Instant>,
    /// The first of all waits for places to settle, but not beyond this.
    first_latest: Option<Instant>,
}

struct Keeper {
    replica: Replica,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Told, not yet answered.
    Told {
        nonce: u64,
        refresh: bool,
        tries: u32,
        until: Instant,
    },
    Keeps,
    Failed,
}

/// What to do about a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Look for keepers, then give them the record.
    Publish,
    /// Tell the keepers that it still holds.
    Refresh,
}

/// A message to a keeper: STORE or REFRESH.
pub(super) struct Telling {
    pub(super) replica: Replica,
    pub(super) nonce: u64,
    pub(super) refresh: bool,
}

impl Publication {
    /// Of a record that those who keep it forget after that time.
    pub(super) fn new(place: Place, ttl: Duration, fresh_every: u32, now: Instant) -> Self {
        Self {
            fresh_every,
            pause: REFRESH_AFTER,
            pause_max: ttl - ttl / 5,
            adopted: 0,
            adopted_at: now,
            forming_until: now + FORMING,
            place,
            record: None,
            keepers: Vec::new(),
            search: None,
            tokens: BURST,
            refilled_at: now,
            due_at: None,
            fresh: true,
            refresh_at: None,
            refreshes: 0,
            last_at: None,
            first_latest: None,
        }
    }

    /// The record should go out (again), as soon as the rate allows. `fresh` says that other nodes than before may be the
    /// nearest now; otherwise those that keep it get it without a search.
    pub(super) fn want(&mut self, fresh: bool, now: Instant) {
        if fresh {
            self.forming_until = now + FORMING;
        }
        self.want_soon(fresh, now);
    }

    /// Is the network new to us?
    pub(super) fn is_forming(&self, now: Instant) -> bool {
        now < self.forming_until
    }

    fn want_soon(&mut self, fresh: bool, now: Instant) {
        self.fresh |= fresh;
        self.refill(now);
        if self.last_at.is_none() {
            let latest = *self.first_latest.get_or_insert(now + FIRST_LATEST);
            self.due_at = Some((now + FIRST_AFTER).min(latest));
            return;
        }
        let young = self.young_until().filter(|at| now < *at);
        let at = match self.tokens {
            _ if !self.is_forming(now) && young.is_some() => young.unwrap_or(now),
            0 => self.refilled_at + TOKEN_EVERY,
            tokens if self.is_forming(now) => now + DELAYS[(BURST - tokens) as usize],
            // What has moved in some trees may move in others, and is found by the rest meanwhile.
            _ => self.last_at.map_or(now, |last| last + TOKEN_EVERY).max(now + MOVED_AFTER),
        };
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// Costs of new links, and places with them, come to rest some time after a start: what has moved meanwhile is told then. Not by
    /// all in the same moment.
    fn young_until(&self) -> Option<Instant> {
        let apart = YOUNG_APART / 256 * u32::from(self.place[31]);
        Some(self.first_latest? + YOUNG + apart)
    }

    /// Nothing of what the record says holds any more: it goes out soon, whatever the rate.
    pub(super) fn want_urgently(&mut self, now: Instant) {
        let Some(last) = self.last_at else { return };
        let at = now.max(last + URGENT_EVERY);
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// All that is to be known of the network is known: it goes out once more, then, whatever the rate.
    pub(super) fn want_at(&mut self, at: Instant) {
        self.fresh = true;
        self.due_at = Some(self.due_at.map_or(at, |due| due.min(at)));
    }

    /// A node has come up: if it is nearer to the place than one of those that keep the record, it gets it in that one's
    /// place, without a search. Bounded, since keys near a place can be ground: [`ADOPTIONS`], and no more below one prefix
    /// of the trees than a search would choose.
    pub(super) fn adopt(&mut self, node: NodeId, position: Position, now: Instant) {
        let place = node.hash();
        if self.keepers.is_empty() && self.search.is_none() {
            // Nobody could be asked before.
            return self.want(true, now);
        }
        if !self.is_nearer(&place) {
            return;
        }
        if self.search.is_some() || self.record.is_none() {
            return;
        }
        let rested = (now.since(self.adopted_at).as_micros() / ADOPT_EVERY.as_micros()) as u32;
        if rested > 0 {
            self.adopted = self.adopted.saturating_sub(rested);
            self.adopted_at = now;
        }
        if self.adopted >= ADOPTIONS {
            return;
        }
        let live = |keeper: &&Keeper| keeper.state != State::Failed;
        if self.keepers.iter().filter(live).count() >= BUCKET {
            let below = prefix(&position);
            let same = self
                .keepers
                .iter()
                .filter(live)
                .filter(|keeper| below.is_some() && prefix(&keeper.replica.position) == below);
            if same.count() >= SAME_PREFIX_MAX {
                return;
            }
            self.keepers.retain(|keeper| keeper.state != State::Failed);
            let distance_of = |keeper: &Keeper| distance(&self.place, &keeper.replica.node.hash());
            let farthest = (0..self.keepers.len()).max_by_key(|at| distance_of(&self.keepers[*at]));
            farthest.map(|at| self.keepers.swap_remove(at));
        }
        self.adopted += 1;
        // Its token is not known: REFRESH brings it, and is shorter than the record.
        let replica = Replica { node, position, token: [0; 16] };
        let state = State::Told { nonce: 0, refresh: true, tries: 0, until: now + ADOPT_AFTER };
        self.keepers.push(Keeper { replica, state });
    }

    /// Would a node at that place keep the record rather than one that does?
    pub(super) fn is_nearer(&self, place: &Place) -> bool {
        let mut keepers = self.keepers.iter().filter(|keeper| keeper.state != State::Failed);
        let nearer = |keeper: &Keeper| {
            distance(&self.place, place) < distance(&self.place, &keeper.replica.node.hash())
        };
        keepers.clone().all(|keeper| keeper.replica.node.hash() != *place)
            && (keepers.clone().count() < BUCKET || keepers.any(nearer))
    }

    /// What is due now. The caller does it.
    pub(super) fn due(&mut self, now: Instant) -> Option<Due> {
        self.refill(now);
        if self.search.is_none() && self.due_at.is_some_and(|at| at <= now) {
            self.due_at = None;
            self.last_at = Some(now);
            self.tokens = self.tokens.saturating_sub(1);
            let fresh = std::mem::take(&mut self.fresh) || self.kept_by() < BUCKET / 2;
            return Some(if fresh { Due::Publish } else { Due::Refresh });
        }
        if self.refresh_at.is_some_and(|at| at <= now) && self.search.is_none() {
            self.refreshes += 1;
            self.pause = (self.pause * 2).min(self.pause_max);
            self.refresh_at = Some(now + self.pause);
            return Some(if self.refreshes.is_multiple_of(self.fresh_every) {
                Due::Publish
            } else {
                Due::Refresh
            });
        }
        None
    }

    /// Nobody could be asked: the next contact brings it up again.
    pub(super) fn postpone(&mut self) {
        self.tokens = (self.tokens + 1).min(BURST);
        self.fresh = true;
        self.search = None;
    }

    /// The search for keepers is over: they get the record. `share`, drawn evenly, keeps nodes that began together apart.
    pub(super) fn on_keepers(&mut self, replicas: Vec<Replica>, record: Record, share: u16, now: Instant) {
        self.search = None;
        let same = self.record.as_ref() == Some(&record);
        self.record = Some(record);
        let apart = self.pause / REFRESH_APART * u32::from(share) / (1 << 16);
        self.refresh_at = Some(now + self.pause - self.pause / (2 * REFRESH_APART) + apart);
        let before = std::mem::take(&mut self.keepers);
        let keeps = |node: &NodeId| {
            same && before.iter().any(|known| known.replica.node == *node && known.state == State::Keeps)
        };
        let told = |replica: Replica| {
            // Who has it already need not get it again.
            let refresh = keeps(&replica.node);
            Keeper { replica, state: State::Told { nonce: 0, refresh, tries: 0, until: now } }
        };
        self.keepers = replicas.into_iter().map(told).collect();
    }

    /// The keepers get the record as it is now, or hear that the one they have still holds.
    pub(super) fn on_refresh(&mut self, record: Record, now: Instant) {
        let refresh = self.record.as_ref() == Some(&record);
        self.record = Some(record);
        self.keepers.retain(|keeper| keeper.state != State::Failed);
        self.tell_all(refresh, now);
    }

    /// Messages that are due, repetitions among them; each gets a nonce from `nonces`.
    pub(super) fn tellings(&mut self, nonces: &mut dyn FnMut() -> u64, now: Instant) -> Vec<Telling> {
        let mut due = Vec::new();
        for keeper in &mut self.keepers {
            let State::Told { nonce, refresh, tries, until } = keeper.state else { continue };
            if until > now {
                continue;
            }
            if tries >= TRIES {
                keeper.state = State::Failed;
                // Where nodes leave, others have left as well.
                self.pause = REFRESH_LEAST;
                self.refresh_at = self.refresh_at.map(|at| at.min(now + REFRESH_LEAST));
                continue;
            }
            let nonce = if tries == 0 { nonces() } else { nonce };
            keeper.state = State::Told {
                nonce,
                refresh,
                tries: tries + 1,
                until: now + patience(refresh) * (1 << tries),
            };
            due.push(Telling { replica: keeper.replica.clone(), nonce, refresh });
        }
        let lost = !self.keepers.is_empty()
            && self.keepers.iter().filter(|keeper| keeper.state == State::Failed).count() * 2
                > self.keepers.len();
        if lost {
            self.keepers.retain(|keeper| keeper.state != State::Failed);
            self.want(true, now);
        }
        due
    }

    /// A keeper has answered. One that does not have the record (restarted, or the way has changed and the token with
    /// it) gets it again, once for each new token.
    pub(super) fn on_receipt(&mut self, nonce: u64, stored: bool, token: [u8; 16], now: Instant) {
        let told =
            |keeper: &&mut Keeper| matches!(keeper.state, State::Told { nonce: own, .. } if own == nonce);
        let Some(keeper) = self.keepers.iter_mut().find(told) else { return };
        let State::Told { refresh, .. } = keeper.state else { return };
        keeper.state = if stored {
            State::Keeps
        } else if refresh || keeper.replica.token != token {
            State::Told { nonce: 0, refresh: false, tries: 0, until: now }
        } else {
            State::Failed
        };
        keeper.replica.token = token;
    }

    /// Is an answer with that nonce still waited for?
    pub(super) fn expects(&self, nonce: u64) -> bool {
        self.keepers
            .iter()
            .any(|keeper| matches!(keeper.state, State::Told { nonce: own, .. } if own == nonce))
    }

    /// A keeper has moved.
    pub(super) fn on_position(&mut self, node: &NodeId, position: &Position) {
        if let Some(keeper) = self.keepers.iter_mut().find(|keeper| keeper.replica.node == *node) {
            keeper.replica.position = position.clone();
        }
    }

    /// When [`Self::due`] or [`Self::tellings`] are wanted.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let told = self.keepers.iter().filter_map(|keeper| match keeper.state {
            State::Told { until, .. } => Some(until),
            _ => None,
        });
        let due = [self.due_at, self.refresh_at].into_iter().flatten().filter(|_| self.search.is_none());
        told.chain(due).min()
    }

    /// How many keep the record, as far as they told.
    pub(super) fn kept_by(&self) -> usize {
        self.keepers.iter().filter(|keeper| keeper.state == State::Keeps).count()
    }

    fn tell_all(&mut self, refresh: bool, now: Instant) {
        for keeper in &mut self.keepers {
            keeper.state = State::Told { nonce: 0, refresh, tries: 0, until: now };
        }
    }

    fn refill(&mut self, now: Instant) {
        while self.tokens < BURST && now.since(self.refilled_at) >= TOKEN_EVERY {
            self.tokens += 1;
            self.refilled_at += TOKEN_EVERY;
        }
        if self.tokens == BURST {
            self.refilled_at = now;
        }
    }
}

/// Publications in a burst.
const BURST: u32 = 3;
/// The wait before each of a burst: while trees settle, coordinates change several times.
const DELAYS: [Duration; BURST as usize] =
    [Duration::from_millis(300), Duration::from_millis(500), Duration::from_millis(3000)];
/// The first publication waits until places have not changed for so long.
const FIRST_AFTER: Duration = Duration::from_millis(150);
/// But no longer than that since it was first wanted: who starts wants to be reached.
const FIRST_LATEST: Duration = Duration::from_millis(400);
/// So long after a start places may move as links are measured.
const YOUNG: Duration = Duration::from_secs(28);
/// Nodes that began together are spread over that time.
const YOUNG_APART: Duration = Duration::from_secs(5);
/// Once the network is known, a record waits so long for more to change.
const MOVED_AFTER: Duration = Duration::from_secs(10);
/// After the burst, and between any two once the network is known.
const TOKEN_EVERY: Duration = Duration::from_secs(60);
/// While nobody could find this node by its record.
const URGENT_EVERY: Duration = Duration::from_secs(5);
/// The first time; half a locator record's ttl. Twice as long each time that all have answered, up to four fifths of the ttl:
/// each round costs some 16 packets, and 900 bytes a link and minute are for all there is.
pub(super) const REFRESH_AFTER: Duration = Duration::from_secs(900);
/// All of a network that began together would refresh in the same minute: they do it within a third of that time.
const REFRESH_APART: u32 = 3;
/// After one of those that keep it has fallen silent.
const REFRESH_LEAST: Duration = Duration::from_secs(300);
/// Nodes taken in place of farther ones at once: all eight of them, three times over, while a network forms.
const ADOPTIONS: u32 = 24;
/// And one more each time that has passed.
const ADOPT_EVERY: Duration = Duration::from_secs(10);
/// A burst of publications takes 5 s.
const FORMING: Duration = Duration::from_secs(10);
/// What is met may move while trees settle.
const ADOPT_AFTER: Duration = Duration::from_millis(20);
/// Every so many refreshes those who keep a locator record are looked for afresh: whoever comes up near its place publishes
/// near there itself and is met anyway.
pub(super) const FRESH_EVERY: u32 = 8;
/// Of an account's record, whose place is near nobody in particular.
pub(super) const FRESH_EVERY_ACCOUNT: u32 = 4;
const fn patience(refresh: bool) -> Duration {
    if refresh { REFRESH_WITHIN } else { ANSWER_WITHIN }
}

/// Patience with a keeper that gets a record; doubled for each repetition.
const ANSWER_WITHIN: Duration = Duration::from_millis(600);
/// With one that hears that the record still holds: that is not urgent, and far nodes on busy machines are slow.
const REFRESH_WITHIN: Duration = Duration::from_secs(3);
/// How often a keeper is told.
const TRIES: u32 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn publication() -> Publication {
        Publication::new([0; 32], Duration::from_secs(1800), FRESH_EVERY, Instant::ZERO)
    }

    #[test]
    fn a_burst_then_one_a_minute() {
        let mut publication = publication();
        let mut published = Vec::new();
        for ms in (0..200_000u64).step_by(50) {
            let now = Instant::from_micros(ms * 1000);
            publication.want(true, now);
            if publication.due(now) == Some(Due::Publish) {
                published.push(ms);
            }
        }
        assert_eq!(published.iter().filter(|ms| **ms < 10_000).count(), 3, "{published:?}");
        assert_eq!(published[0], 400);
        assert!((5..=6).contains(&published.len()), "{published:?}");
        assert!(published[3..].windows(2).all(|pair| pair[1] - pair[0] >= 59_000), "{published:?}");
    }

    #[test]
    fn a_keeper_that_lost_the_record_gets_it_again() {
        let mut publication = publication();
        let secret = crate::crypto::SecretKey::from_seed([1; 32]);
        let record = || {
            Record::Locator(crate::lookup::LocatorRecord::sign(
                &secret,
                1,
                Duration::from_secs(60),
                &crate::lookup::Locator::default(),
            ))
        };
        let replica = Replica { node: secret.id(), position: Position::default(), token: [1; 16] };
        let now = Instant::ZERO;
        publication.on_keepers(vec![replica], record(), u16::MAX / 2, now);
        let mut nonce = 10;
        let mut nonces = move || {
            nonce += 1;
            nonce
        };
        let told = publication.tellings(&mut nonces, now);
        assert!(!told[0].refresh);
        publication.on_receipt(told[0].nonce, true, [1; 16], now);
        assert_eq!(publication.kept_by(), 1);
        assert_eq!(publication.due(now + REFRESH_AFTER), Some(Due::Refresh));
        publication.on_refresh(record(), now);
        let told = publication.tellings(&mut nonces, now);
        assert!(told[0].refresh);
        publication.on_receipt(told[0].nonce, false, [2; 16], now);
        let told = publication.tellings(&mut nonces, now);
        assert!(!told[0].refresh);
        assert_eq!(told[0].replica.token, [2; 16]);
        publication.on_receipt(told[0].nonce, false, [2; 16], now);
        assert!(publication.tellings(&mut nonces, now).is_empty(), "refused with a good token: not again");
    }

    #[test]
    fn a_silent_keeper_is_told_three_times() {
        let mut publication = publication();
        let node = NodeId::from_bytes([1; 32]);
        let replica = Replica { node, position: Position::default(), token: [1; 16] };
        let secret = crate::crypto::SecretKey::from_seed([1; 32]);
        let record = Record::Locator(crate::lookup::LocatorRecord::sign(
            &secret,
            1,
            Duration::from_secs(60),
            &crate::lookup::Locator::default(),
        ));
        let mut now = Instant::ZERO;
        publication.on_keepers(vec![replica], record, u16::MAX / 2, now);
        let mut count = 0;
        while let Some(at) = publication.deadline().filter(|at| *at < Instant::from_micros(10_000_000)) {
            now = at;
            count += publication.tellings(&mut || 5, now).len();
            if publication.due(now).is_some() {
                break;
            }
        }
        assert_eq!(count, 3);
    }
}
