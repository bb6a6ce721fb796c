//! Owns the answer to "where is that key?": locators, the records that carry them, and the search for them.
//!
//! Whoever is known from before is in the [`cache`], among the [`kademlia`] contacts or in the [`store`] of records
//! that we keep for others. Everybody else is looked for ([`search`]) by asking nodes ever nearer to the key's place.
//! So that we are found, our own records go to the nodes nearest to their places ([`publish`]).
//!
//! FIND, FOUND, STORE and REFRESH need no session: records are signed, answers come back along the way of the
//! question, and a token shows that whoever stores receives answers.
mod answer;
mod ask;
mod cache;
mod joining;
mod kademlia;
pub mod locator;
mod patience;
mod publish;
pub mod record;
mod search;
mod store;
mod tell;
#[cfg(test)]
mod tests;

pub use locator::{Coords, Hop, Locator, Position};
pub use record::{AccountRecord, LocatorRecord};

use crate::config::{Config, SignatureMemory};
use crate::crypto::{Entropy, SecretKey, hash, random};
use crate::error::Unreachable;
use crate::id::{NodeId, Port, Target};
use crate::rate::Rate;
use crate::time::{Duration, Instant};
use crate::wire::FrameError;
use crate::wire::body::find::{
    Contact, Find, Found, GAIN_MAX, Record, Refresh, Store as StoreBody, Values, What,
};
use crate::wire::body::{self, Body, Destination, Outbound};
use answer::Budget;
#[cfg(test)]
pub(crate) use ask::{GIVE_UP, PENDING_MAX};
use bytes::Bytes;
use cache::Cache;
use joining::Joining;
use kademlia::{BUCKET, Contacts};
use patience::Patience;
use publish::{Due, FRESH_EVERY, FRESH_EVERY_ACCOUNT, Publication};
use record::{ACCOUNT_TTL, TTL_MAX};
use search::{Goal, PATHS, Search};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use store::Store;

/// A place in the key space of the lookup: BLAKE3 of a node's key or of an account. Distance is XOR.
pub type Place = [u8; 32];

/// Something to be looked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Query {
    /// What.
    pub what: What,
    /// Where in the key space; of an address, only the first 15 bytes count.
    pub place: Place,
}

impl Query {
    /// A node by its key.
    pub fn node(node: &NodeId) -> Self {
        Self { what: What::Node, place: node.hash() }
    }

    /// An account's nodes.
    pub fn account(acct: &[u8; 32]) -> Self {
        Self { what: What::Account, place: account_place(acct) }
    }

    /// A node by key or address; `None` for an address outside fd00::/8.
    pub fn target(target: &Target) -> Option<Self> {
        match target {
            Target::Key(node) => Some(Self::node(node)),
            Target::Address(address) => {
                let octets = address.octets();
                let mut place = [0; 32];
                place[..15].copy_from_slice(&octets[1..]);
                (octets[0] == 0xfd).then_some(Self { what: What::Address, place })
            }
        }
    }

    /// The part of the place that counts.
    fn prefix(&self) -> &[u8] {
        match self.what {
            What::Address => &self.place[..15],
            What::Node | What::Account => &self.place,
        }
    }
}

/// Where an account's records are kept.
pub fn account_place(acct: &[u8; 32]) -> Place {
    *blake3::hash(acct).as_bytes()
}

/// What lookups tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LookupEvent {
    /// A node was found.
    Found {
        /// What was asked.
        query: Query,
        /// The node.
        node: NodeId,
        /// Where it is.
        position: Position,
    },
    /// An account's nodes were found.
    Accounts {
        /// What was asked.
        query: Query,
        /// The newest record of each, checked.
        records: Vec<AccountRecord>,
    },
    /// Nobody knew.
    Failed {
        /// What was asked.
        query: Query,
        /// Why.
        reason: Unreachable,
    },
}

/// Counters of all lookups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupStats {
    /// Searches begun.
    pub lookups: u64,
    /// Searches that found nothing.
    pub lookups_failed: u64,
    /// Questions sent.
    pub questions: u64,
    /// Questions of others answered.
    pub answers: u64,
    /// Records of others taken.
    pub stored: u64,
    /// Records of others refused: forged, outdated, or no room.
    pub refused: u64,
    /// Bodies that could not be read, or answer nothing that was asked.
    pub dropped_body: u64,
    /// Questions of others dropped because too many came by one ingress.
    pub dropped_budget: u64,
    /// Signatures checked.
    pub signatures_checked: u64,
}

/// Places of nodes: known, kept for others, looked for, published.
pub struct Lookup {
    secret: SecretKey,
    me: NodeId,
    place: Place,
    verify_account: fn(&AccountRecord) -> bool,
    checked: Option<Arc<dyn SignatureMemory>>,
    /// For tokens.
    boot_secret: [u8; 32],
    own: Position,
    /// Our own record at the present position, once signed.
    own_record: Option<LocatorRecord>,
    /// Our coordinates when the locator record was last published.
    published: Locator,
    contacts: Contacts,
    cache: Cache,
    store: Store,
    pending: BTreeMap<Query, Pending>,
    searches: BTreeMap<u64, Box<Running>>,
    search_next: u64,
    /// Our locator record (`None`) and our account records.
    publications: BTreeMap<Option<[u8; 32]>, Box<Publication>>,
    /// What the nonces of questions stand for.
    questions: BTreeMap<u64, Question>,
    /// Searches that get us to know nodes far from our place: rounds done since when, and when the next is due.
    joining: Joining,
    /// With whoever is asked.
    patience: Patience,
    budgets: BTreeMap<Port, Budget>,
    out: VecDeque<Outbound>,
    events: VecDeque<LookupEvent>,
    wake: Option<Instant>,
    stats: LookupStats,
}

/// Somebody waits for the outcome.
struct Pending {
    seq_min: u64,
    /// The first search that finds nothing ends it, without a word.
    quiet: bool,
    began_at: Instant,
    tries: u32,
    /// `None` while a search goes on.
    next_at: Option<Instant>,
}

struct Running {
    purpose: Purpose,
    search: Search,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Answer(Query),
    Publish(Option<[u8; 32]>),
    /// Whoever answers becomes a contact: in a region that shares exactly so many bits with our place.
    Join {
        region: usize,
    },
}

#[derive(Clone, Copy)]
enum Question {
    Search(u64),
    Keeper(Option<[u8; 32]>),
}

impl Lookup {
    /// Nothing known yet.
    pub fn new(secret: &SecretKey, config: &Config, entropy: &mut dyn Entropy, now: Instant) -> Self {
        let me = secret.id();
        let place = me.hash();
        Self {
            secret: secret.clone(),
            me,
            place,
            verify_account: config.verify_account,
            checked: config.checked.clone(),
            boot_secret: random(entropy),
            own: Position::default(),
            own_record: None,
            published: Locator::default(),
            contacts: Contacts::new(place),
            cache: Cache::default(),
            store: Store::new(place),
            pending: BTreeMap::new(),
            searches: BTreeMap::new(),
            search_next: 0,
            publications: BTreeMap::from([(
                None,
                Box::new(Publication::new(place, TTL_MAX, FRESH_EVERY, now)),
            )]),
            questions: BTreeMap::new(),
            joining: Joining::default(),
            patience: Patience::default(),
            budgets: BTreeMap::new(),
            out: VecDeque::new(),
            events: VecDeque::new(),
            wake: None,
            stats: LookupStats::default(),
        }
    }

    /// This node is there now. Its record goes out at first, and when two trees have changed.
    pub fn handle_own(&mut self, own: Position, entropy: &mut dyn Entropy, now: Instant) {
        let locator = own.locator.clone();
        self.own = own;
        self.own_record = None;
        let trees = locator.iter().count().max(self.published.iter().count());
        let changes = locator.changes(&self.published);
        if changes >= trees.min(TREES_CHANGED) {
            let roots =
                |of: &Locator| of.iter().map(|(tree, coords)| (tree, coords.root)).collect::<Vec<_>>();
            let fresh = roots(&locator) != roots(&self.published);
            // An account's record says nothing of where we are.
            let concerned = self.publications.iter_mut().filter(|(key, _)| fresh || key.is_none());
            concerned.for_each(|(_, publication)| publication.want(fresh, now));
        }
        if changes >= trees
            && let Some(publication) = self.publications.get_mut(&None)
        {
            publication.want_urgently(now);
        }
        self.settle(entropy, now);
    }

    /// A peer is there now.
    pub fn handle_peer(&mut self, node: NodeId, position: Position, entropy: &mut dyn Entropy, now: Instant) {
        self.meet(node, position, true, now);
        self.settle(entropy, now);
    }

    /// The node is no longer a peer.
    pub fn handle_peer_lost(&mut self, node: &NodeId) {
        self.contacts.part(node);
    }

    /// This node has come to another network: whoever waits for an answer that nobody here knew may get it now, and
    /// nodes far away are met. Contacts are all of the network that this node comes from; `guides`, the nodes on its ways to
    /// the new roots, lead into the other one.
    pub fn handle_joined(
        &mut self,
        guides: Vec<(NodeId, Position)>,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if self.joining.joined(guides, now) {
            self.publications.values_mut().for_each(|publication| publication.want(true, now));
        }
        self.retry_now(now);
        self.settle(entropy, now);
    }

    /// A correspondent told where it is.
    pub fn handle_correspondent(
        &mut self,
        node: NodeId,
        position: Position,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        self.cache.put(node, position.clone(), now);
        self.meet(node, position, false, now);
        self.settle(entropy, now);
    }

    /// Finds what is asked: the answer is an event, at once if it is known here. Asking again while a search goes on
    /// changes nothing.
    pub fn find(&mut self, query: Query, entropy: &mut dyn Entropy, now: Instant) {
        if let Some(pending) = self.pending.get_mut(&query) {
            pending.quiet = false;
            return;
        }
        if let Some((node, position)) = self.known(&query, now) {
            self.events.push_back(LookupEvent::Found { query, node, position });
            return;
        }
        self.pend(query, 0, false, entropy, now);
    }

    /// Looks once for a newer position of a node than the known one, whose seq is given. Only success is told.
    pub fn find_newer(&mut self, node: &NodeId, seq: u64, entropy: &mut dyn Entropy, now: Instant) {
        let query = Query::node(node);
        if !self.contacts.get(node).is_some_and(|contact| contact.peer) && !self.pending.contains_key(&query)
        {
            self.pend(query, seq.saturating_add(1), true, entropy, now);
        }
    }

    /// Keeps a record of an account of ours findable. False if there are too many.
    pub fn publish(&mut self, record: AccountRecord, entropy: &mut dyn Entropy, now: Instant) -> bool {
        let key = Some(record.acct);
        if record.node != self.me
            || self.publications.len() > ACCOUNTS_MAX && !self.publications.contains_key(&key)
        {
            return false;
        }
        let place = account_place(&record.acct);
        let publication = self
            .publications
            .entry(key)
            .or_insert_with(|| Box::new(Publication::new(place, ACCOUNT_TTL, FRESH_EVERY_ACCOUNT, now)));
        publication.record = Some(Record::Account(record));
        publication.want(true, now);
        self.settle(entropy, now);
        true
    }

    /// No longer keeps the account's record findable. Where it is kept, it runs out.
    pub fn withdraw(&mut self, acct: &[u8; 32]) {
        self.publications.remove(&Some(*acct));
    }

    /// A packet for this node of kind FIND, FOUND, STORE or REFRESH.
    pub fn handle_packet(
        &mut self,
        ingress: Port,
        way: &[u8],
        packet: &[u8],
        entropy: &mut dyn Entropy,
        now: Instant,
    ) -> Result<(), FrameError> {
        let asks = matches!(packet.first(), Some(&(body::FIND | body::STORE | body::REFRESH)));
        if asks && !self.budget(ingress, now).answers.take(now) {
            self.stats.dropped_budget += 1;
            return Ok(());
        }
        let result = match packet.first() {
            Some(&body::FIND) => {
                Find::decode(packet).map(|find| self.on_find(&find, ingress, way, packet.len(), now))
            }
            Some(&body::FOUND) => Found::decode(packet).map(|found| self.on_found(found, entropy, now)),
            Some(&body::STORE) => {
                StoreBody::decode(packet).map(|store| self.on_store(store, ingress, way, now))
            }
            Some(&body::REFRESH) => {
                Refresh::decode(packet).map(|refresh| self.on_refresh(&refresh, way, now))
            }
            _ => Err(FrameError::Value),
        };
        self.stats.dropped_body += u64::from(result.is_err());
        self.settle(entropy, now);
        result
    }

    /// A packet of ours, named by its last 8 bytes, was not passed on. True if it was a question.
    pub fn handle_notice(&mut self, tail: &[u8; 8], entropy: &mut dyn Entropy, now: Instant) -> bool {
        let nonce = u64::from_be_bytes(*tail);
        let Some(Question::Search(id)) = self.questions.get(&nonce).copied() else { return false };
        if let Some(running) = self.searches.get_mut(&id) {
            // Where it was there is no way any more.
            for node in running.search.on_lost(nonce) {
                self.contacts.fail(&node);
            }
        }
        self.settle(entropy, now);
        true
    }

    /// Does all that is due.
    pub fn handle_timeout(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        if self.wake.is_some_and(|wake| wake <= now) {
            self.settle(entropy, now);
        }
    }

    /// The next packet to send. O(1).
    pub fn poll_packet(&mut self) -> Option<Outbound> {
        self.out.pop_front()
    }

    /// The next event. O(1).
    pub fn poll_event(&mut self) -> Option<LookupEvent> {
        self.events.pop_front()
    }

    /// When [`Self::handle_timeout`] is wanted. O(1).
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.wake
    }

    /// Counters since the start.
    pub fn stats(&self) -> LookupStats {
        self.stats
    }

    /// Records kept for others.
    pub fn records(&self) -> usize {
        self.store.len()
    }

    /// Nodes that can be asked.
    pub fn contacts(&self) -> usize {
        self.contacts.len()
    }

    /// How many nodes have confirmed that they keep this node's locator record.
    pub fn keepers(&self) -> usize {
        self.publications.get(&None).map_or(0, |publication| publication.kept_by())
    }

    /// Our own record of an account, if we publish one.
    pub fn own_account(&self, acct: &[u8; 32]) -> Option<AccountRecord> {
        match self.publications.get(&Some(*acct))?.record.as_ref()? {
            Record::Account(record) => Some(record.clone()),
            Record::Locator(_) => None,
        }
    }

    /// What is known here without asking anybody.
    pub fn known(&mut self, query: &Query, now: Instant) -> Option<(NodeId, Position)> {
        if query.what == What::Account {
            return None;
        }
        let prefix = query.prefix();
        if let Some(contact) = self.contacts.by_prefix(prefix).filter(|contact| contact.peer) {
            return Some((contact.node, contact.position.clone()));
        }
        if let Some(cached) = self.cache.get(prefix, now) {
            return Some(cached);
        }
        if let Some(record) = self.store.locator(prefix, now) {
            let position = Position { seq: record.seq, locator: record.locator.clone() };
            return Some((record.node, position));
        }
        None
    }

    fn is_genuine(&mut self, record: &LocatorRecord) -> bool {
        let (result, checked) = record.verify_remembering(self.checked.as_deref());
        self.stats.signatures_checked += u64::from(checked);
        result.is_ok()
    }

    /// Does all that can be done now: begins what is due, asks, ends what is over. Bounded by what is under way.
    fn settle(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.begin_due(now);
        self.join(entropy, now);
        for id in self.searches.keys().copied().collect::<Vec<_>>() {
            self.drive(id, entropy, now);
        }
        for key in self.publications.keys().copied().collect::<Vec<_>>() {
            self.tell_keepers(key, entropy, now);
        }
        let searches = self.searches.values().filter_map(|running| running.search.deadline());
        let pending = self.pending.values().filter_map(|pending| pending.next_at);
        let placed = !self.own.locator.is_empty();
        let publications =
            self.publications.values().filter_map(|publication| publication.deadline()).filter(|_| placed);
        let joining = self.joining.next_at.filter(|_| placed);
        self.wake =
            searches.chain(pending).chain(publications).chain(joining).min().map(|at| at.max(now + TICK));
    }

    fn begin_due(&mut self, now: Instant) {
        let due = |pending: &Pending| pending.next_at.is_some_and(|at| at <= now);
        let queries: Vec<Query> =
            self.pending.iter().filter(|(_, pending)| due(pending)).map(|(query, _)| *query).collect();
        for query in queries {
            let goal = Goal::Value(self.pending.get(&query).map_or(0, |pending| pending.seq_min));
            let begun = self.begin_search(Purpose::Answer(query), query, goal, now).is_some();
            if let Some(pending) = self.pending.get_mut(&query) {
                pending.next_at = None;
            }
            if !begun {
                self.on_nothing(query, now);
            }
        }
        if self.own.locator.is_empty() {
            return;
        }
        for key in self.publications.keys().copied().collect::<Vec<_>>() {
            let Some(publication) = self.publications.get_mut(&key) else { continue };
            let place = publication.place;
            match publication.due(now) {
                Some(Due::Publish) => {
                    let what = if key.is_some() { What::Account } else { What::Node };
                    let query = Query { what, place };
                    let search = self.begin_search(Purpose::Publish(key), query, Goal::Nearest, now);
                    if let Some(publication) = self.publications.get_mut(&key) {
                        publication.search = search;
                        if search.is_none() {
                            publication.postpone();
                        }
                    }
                }
                Some(Due::Refresh) => {
                    if let Some(record) = self.record_of(key)
                        && let Some(publication) = self.publications.get_mut(&key)
                    {
                        publication.on_refresh(record, now);
                    }
                }
                None => {}
            }
        }
    }
}

impl Query {
    fn matches(&self, node: &NodeId) -> bool {
        self.what != What::Account && node.hash().starts_with(self.prefix())
    }
}

/// Our record goes out when so many trees have changed: the others still lead to us.
const TREES_CHANGED: usize = 2;
/// Accounts of ours that are kept findable.
pub(crate) const ACCOUNTS_MAX: usize = 64;
/// Timers fire at least so far apart.
const TICK: Duration = Duration::from_millis(1);
