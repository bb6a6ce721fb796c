//! Owns the answer to "where is that key?": locators, the records that carry them, and the search for them.
//!
//! Whoever is known from before is in the [`cache`], among the [`kademlia`] contacts or in the [`store`] of records
//! that we keep for others. Everybody else is looked for ([`search`]) by asking nodes ever nearer to the key's place.
//! So that we are found, our own records go to the nodes nearest to their places ([`publish`]).
//!
//! FIND, FOUND, STORE and REFRESH need no session: records are signed, answers come back along the way of the
//! question, and a token shows that whoever stores receives answers.
mod cache;
mod kademlia;
pub mod locator;
mod publish;
pub mod record;
mod search;
mod store;
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
use crate::wire::body::{self, Body, Outbound};
use bytes::Bytes;
use cache::Cache;
use kademlia::{BUCKET, Contacts};
use publish::{Due, Publication};
use record::TTL_MAX;
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
    searches: BTreeMap<u64, Running>,
    search_next: u64,
    /// Our locator record (`None`) and our account records.
    publications: BTreeMap<Option<[u8; 32]>, Publication>,
    /// What the nonces of questions stand for.
    questions: BTreeMap<u64, Question>,
    /// Searches that get us to know nodes far from our place: rounds done since when, and when the next is due.
    joining: Joining,
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
    /// Whoever answers becomes a contact.
    Join,
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
            publications: BTreeMap::from([(None, Publication::new(place, now))]),
            questions: BTreeMap::new(),
            joining: Joining::default(),
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
    /// nodes far away are met.
    pub fn handle_joined(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        self.joining.begin(now);
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
        let publication = self.publications.entry(key).or_insert_with(|| Publication::new(place, now));
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
        self.publications.get(&None).map_or(0, Publication::kept_by)
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
            let position = Position { seq: record.seq, locator: record.locator.clone().into() };
            return Some((record.node, position));
        }
        None
    }

    // Questions of others.

    fn on_find(&mut self, find: &Find, ingress: Port, way: &[u8], len: usize, now: Instant) {
        self.stats.answers += 1;
        self.on_asker(find.asker.as_ref(), ingress, now);
        let query = Query { what: find.what, place: find.place };
        let is_me = find.what != What::Account && self.place.starts_with(query.prefix());
        let mut more = false;
        let values = if find.what == What::Account {
            let ours = self
                .publications
                .iter()
                .filter(|(acct, publication)| acct.is_some() && publication.place == find.place);
            let mut records: Vec<AccountRecord> = ours
                .filter_map(|(_, publication)| match &publication.record {
                    Some(Record::Account(record)) => Some(record.clone()),
                    _ => None,
                })
                .collect();
            records.extend(self.store.accounts(&find.place, 0, now));
            let mut records: Vec<AccountRecord> = records.into_iter().skip(find.skip.into()).collect();
            more = records.len() > BUCKET;
            records.truncate(BUCKET);
            Values::Accounts(records)
        } else if is_me {
            Values::Locators(Vec::new())
        } else {
            Values::Locators(self.store.locator(query.prefix(), now).cloned().into_iter().collect())
        };
        let own = Some(self.own_record()).filter(|own| is_me || own.seq > find.known).cloned();
        let contacts = self
            .contacts
            .nearest(&find.place, BUCKET)
            .into_iter()
            .filter(|contact| !contact.position.locator.is_empty())
            .map(|contact| Contact {
                node: contact.node,
                locator: contact.position.locator.fit_or_one(CONTACT_BYTES),
            })
            .collect();
        let token = self.token(way);
        let found = Found { more, own, values, contacts, ..Found::receipt(find.nonce, token, false) };
        self.answer(&found, way, len);
    }

    /// Who asks, and says so, becomes a contact.
    fn on_asker(&mut self, asker: Option<&LocatorRecord>, ingress: Port, now: Instant) {
        let Some(asker) = asker else { return };
        let known = self.contacts.get(&asker.node);
        if known.is_some_and(|known| known.peer || known.position.seq >= asker.seq)
            || !self.budget(ingress, now).checks.take(now)
        {
            return;
        }
        if self.is_genuine(asker) {
            let position = Position { seq: asker.seq, locator: asker.locator.clone().into() };
            self.meet(asker.node, position, false, now);
        } else {
            self.stats.refused += 1;
        }
    }

    fn on_store(&mut self, store: StoreBody, ingress: Port, way: &[u8], now: Instant) {
        let token = self.token(way);
        let stored = hash::equal(&token, &store.token) && self.keep(store.record, ingress, now);
        self.answer(&Found::receipt(store.nonce, token, stored), way, usize::MAX);
    }

    fn keep(&mut self, record: Record, ingress: Port, now: Instant) -> bool {
        let (node, seq) = match &record {
            Record::Locator(record) => (record.node, record.seq),
            Record::Account(record) => (record.node, record.seq),
        };
        let outdated = self.store.seq(&record).is_some_and(|known| known > seq);
        if node == self.me || outdated || !self.budget(ingress, now).checks.take(now) {
            self.stats.refused += 1;
            return false;
        }
        let genuine = match &record {
            Record::Locator(record) => self.is_genuine(record),
            Record::Account(record) => {
                self.stats.signatures_checked += 1;
                record.verify().is_ok() && (self.verify_account)(record)
            }
        };
        if !genuine {
            self.stats.refused += 1;
            return false;
        }
        if let Record::Locator(record) = &record {
            let position = Position { seq: record.seq, locator: record.locator.clone().into() };
            self.meet(node, position, false, now);
        }
        let kept = self.store.put(record, ingress, now);
        if kept {
            self.stats.stored += 1;
        } else {
            self.stats.refused += 1;
        }
        kept
    }

    fn on_refresh(&mut self, refresh: &Refresh, way: &[u8], now: Instant) {
        let token = self.token(way);
        let stored = hash::equal(&token, &refresh.token)
            && self.store.refresh(refresh.acct.as_ref(), refresh.node, refresh.seq, now);
        self.answer(&Found::receipt(refresh.nonce, token, stored), way, usize::MAX);
    }

    fn answer(&mut self, found: &Found, way: &[u8], question_len: usize) {
        let mut body = Vec::with_capacity(256);
        found.encode(question_len.saturating_mul(GAIN_MAX), &mut body);
        self.out.push_back(Outbound::back(&Bytes::copy_from_slice(way), 0, &body));
    }

    fn budget(&mut self, ingress: Port, now: Instant) -> &mut Budget {
        if self.budgets.len() >= INGRESSES_MAX && !self.budgets.contains_key(&ingress) {
            self.budgets.clear();
        }
        self.budgets.entry(ingress).or_insert_with(|| Budget {
            answers: Rate::new(ANSWERS_BURST, ANSWERS_PER_SECOND, now),
            checks: Rate::new(CHECKS_BURST, CHECKS_PER_SECOND, now),
        })
    }

    /// Shows that whoever has it receives what is sent along that way.
    fn token(&self, way: &[u8]) -> [u8; 16] {
        hash::mac(&self.boot_secret, "store", &[way])
    }

    fn is_genuine(&mut self, record: &LocatorRecord) -> bool {
        let (result, checked) = record.verify_remembering(self.checked.as_deref());
        self.stats.signatures_checked += u64::from(checked);
        result.is_ok()
    }

    fn own_record(&mut self) -> &LocatorRecord {
        let Self { secret, own, .. } = self;
        let sign = || LocatorRecord::sign(secret, own.seq, TTL_MAX, &own.locator.fit_or_one(RECORD_BYTES));
        self.own_record.get_or_insert_with(sign)
    }

    // Answers to our questions.

    fn on_found(&mut self, found: Found, entropy: &mut dyn Entropy, now: Instant) {
        match self.questions.get(&found.nonce).copied() {
            Some(Question::Keeper(key)) => {
                self.questions.remove(&found.nonce);
                if let Some(publication) = self.publications.get_mut(&key) {
                    publication.on_receipt(found.nonce, found.stored, found.token, now);
                }
            }
            Some(Question::Search(id)) => self.on_search_answer(id, found, entropy, now),
            None => self.stats.dropped_body += 1,
        }
    }

    fn on_search_answer(&mut self, id: u64, found: Found, _entropy: &mut dyn Entropy, now: Instant) {
        let Some(running) = self.searches.get_mut(&id) else { return };
        let Some(node) = running.search.asked(found.nonce) else { return };
        self.questions.remove(&found.nonce);
        let (what, place, goal) = (running.search.what, running.search.place, running.search.goal);
        let query = Query { what, place };
        running.search.on_answer(&node, found.token, found.contacts, &self.me);
        let mut candidates = Vec::new();
        if let Some(own) = found.own.filter(|own| own.node == node) {
            candidates.push(own);
        } else {
            self.contacts.hear(&node, now);
        }
        let mut count = 0;
        match found.values {
            Values::Locators(records) => {
                // One value can be right; more are noise, or the price of a check each.
                candidates.extend(
                    records
                        .into_iter()
                        .filter(|record| record.node != node && query.matches(&record.node))
                        .take(1),
                );
            }
            Values::Accounts(records) if what == What::Account => {
                for record in records {
                    count += 1;
                    if account_place(&record.acct) != place {
                        continue;
                    }
                    self.stats.signatures_checked += 1;
                    if record.verify().is_ok()
                        && (self.verify_account)(&record)
                        && let Some(running) = self.searches.get_mut(&id)
                    {
                        running.search.on_account(record, now);
                    }
                }
            }
            Values::Accounts(_) => {}
        }
        if found.more
            && let Some(running) = self.searches.get_mut(&id)
        {
            running.search.on_more(&node, count);
        }
        let mut best: Option<(NodeId, Position)> = None;
        for record in candidates {
            let known = self.contacts.get(&record.node).map(|contact| contact.position.seq);
            if record.node == self.me {
                continue;
            }
            if !self.is_genuine(&record) {
                self.stats.dropped_body += 1;
                continue;
            }
            let position = Position { seq: record.seq, locator: record.locator.into() };
            if record.node == node {
                // It answered where it said it was, so it can be asked there.
                if let Some(running) = self.searches.get_mut(&id) {
                    running.search.on_position(&node, position.clone());
                }
                for publication in self.publications.values_mut() {
                    publication.on_position(&node, &position);
                }
                if known.is_none_or(|known| position.seq >= known) {
                    self.meet(node, position.clone(), false, now);
                }
            }
            let newer = best.as_ref().is_none_or(|(_, best)| position.seq > best.seq);
            if query.matches(&record.node) && newer {
                best = Some((record.node, position));
            }
        }
        if let (Some((node, position)), Goal::Value(seq_min)) = (best, goal) {
            self.cache.put(node, position.clone(), now);
            if position.seq >= seq_min {
                self.end_search(id);
                self.pending.remove(&query);
                self.events.push_back(LookupEvent::Found { query, node, position });
            }
        }
    }

    // Our own searches.

    fn pend(&mut self, query: Query, seq_min: u64, quiet: bool, entropy: &mut dyn Entropy, now: Instant) {
        if self.pending.len() >= PENDING_MAX {
            if !quiet {
                self.events.push_back(LookupEvent::Failed { query, reason: Unreachable::Busy });
            }
            return;
        }
        self.pending.insert(query, Pending { seq_min, quiet, began_at: now, tries: 0, next_at: Some(now) });
        self.settle(entropy, now);
    }

    fn begin_search(&mut self, purpose: Purpose, query: Query, goal: Goal) -> Option<u64> {
        let nearest = self.contacts.nearest(&query.place, PATHS * 2);
        let mut start: Vec<(NodeId, Position)> =
            nearest.iter().map(|contact| (contact.node, contact.position.clone())).collect();
        // Where a peer is we know for sure, of the others only where they were.
        if nearest.iter().filter(|contact| contact.peer).count() < START_PEERS {
            let peers = self.contacts.nearest_peers(&query.place, START_PEERS);
            start.extend(
                peers
                    .into_iter()
                    .filter(|peer| nearest.iter().all(|contact| contact.node != peer.node))
                    .map(|peer| (peer.node, peer.position.clone())),
            );
        }
        if start.is_empty() {
            return None;
        }
        self.stats.lookups += 1;
        let id = self.search_next;
        self.search_next += 1;
        let search = Search::new(query.what, query.place, goal, start);
        // Whom a joining search misses the next one meets.
        let search = if purpose == Purpose::Join { search.narrow() } else { search };
        self.searches.insert(id, Running { purpose, search });
        Some(id)
    }

    fn end_search(&mut self, id: u64) -> Option<Running> {
        self.questions.retain(|_, question| !matches!(question, Question::Search(of) if *of == id));
        self.searches.remove(&id)
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
        let publications = self.publications.values().filter_map(Publication::deadline).filter(|_| placed);
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
            let begun = self.begin_search(Purpose::Answer(query), query, goal).is_some();
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
                    let search = self.begin_search(Purpose::Publish(key), query, Goal::Nearest);
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

    /// Looks for whoever is nearest to places far from ours, one region after the other: only who knows somebody in each region
    /// finds everything, and where the network is long and thin nobody comes by on its own.
    fn join(&mut self, entropy: &mut dyn Entropy, now: Instant) {
        if self.own.locator.is_empty() || self.joining.next_at.is_none_or(|at| at > now) {
            return;
        }
        let round = self.joining.rounds;
        self.joining.rounds += 1;
        self.joining.next_at = JOIN_AFTER.get(self.joining.rounds).map(|&pause| now + pause);
        // The region that differs from ours first in this bit.
        let mut place: Place = random(entropy);
        let differs = !self.place[0] & (0x80 >> round);
        let same = self.place[0] & !(0xff >> round);
        place[0] = same | differs | (place[0] & (0x7f >> round));
        self.begin_search(Purpose::Join, Query { what: What::Node, place }, Goal::Nearest);
    }

    /// The record that a publication gives out now.
    fn record_of(&mut self, key: Option<[u8; 32]>) -> Option<Record> {
        match key {
            None => {
                self.published = (*self.own.locator).clone();
                Some(Record::Locator(self.own_record().clone()))
            }
            Some(_) => self.publications.get(&key)?.record.clone(),
        }
    }

    fn drive(&mut self, id: u64, entropy: &mut dyn Entropy, now: Instant) {
        let Some(running) = self.searches.get_mut(&id) else { return };
        let failed = running.search.on_time(now);
        let mut asks = Vec::new();
        while let Some(ask) = running.search.next(u64::from_be_bytes(random(entropy)), now) {
            asks.push(ask);
        }
        let over = running.search.is_over(now);
        let (what, place, purpose) = (running.search.what, running.search.place, running.purpose);
        for ask in asks {
            let known = match self.contacts.get(&ask.node) {
                Some(contact) if contact.peer => u64::MAX,
                Some(contact) => contact.position.seq,
                None => 0,
            };
            // Who publishes or joins wants to be known; who only looks for somebody need not tell.
            let asker = match purpose {
                Purpose::Answer(_) => None,
                Purpose::Publish(_) | Purpose::Join => Some(self.own_record().clone()),
            };
            self.stats.questions += 1;
            self.questions.insert(ask.nonce, Question::Search(id));
            let mut body = Body::with_capacity(body::find::FIND_LEN);
            Find { nonce: ask.nonce, what, place, known, skip: ask.skip, asker }.encode(&mut body);
            self.out.push_back(Outbound::node(ask.node.sid(), &ask.position, 0, body));
        }
        for node in failed {
            self.contacts.fail(&node);
        }
        if !over {
            return;
        }
        let Some(Running { purpose, search }) = self.end_search(id) else { return };
        match purpose {
            Purpose::Answer(query) if query.what == What::Account && !search.accounts.is_empty() => {
                self.pending.remove(&query);
                let records = search.accounts.into_values().collect();
                self.events.push_back(LookupEvent::Accounts { query, records });
            }
            Purpose::Answer(query) => self.on_nothing(query, now),
            Purpose::Join => {}
            Purpose::Publish(key) => {
                let replicas = search.replicas();
                let jitter = Duration::from_millis(u16::from_be_bytes(random(entropy)).into());
                let record = self.record_of(key);
                let Some(publication) = self.publications.get_mut(&key) else { return };
                publication.search = None;
                match record {
                    Some(record) if !replicas.is_empty() => {
                        publication.on_keepers(replicas, record, jitter, now);
                    }
                    _ => publication.want(true, now),
                }
            }
        }
    }

    /// A search has found nothing: again in a while, or not.
    fn on_nothing(&mut self, query: Query, now: Instant) {
        self.stats.lookups_failed += 1;
        let Some(pending) = self.pending.get_mut(&query) else { return };
        if pending.quiet {
            self.pending.remove(&query);
        } else if now.since(pending.began_at) >= GIVE_UP {
            self.pending.remove(&query);
            self.events.push_back(LookupEvent::Failed { query, reason: Unreachable::NotFound });
        } else {
            pending.next_at = Some(now + RETRY_FIRST * (1 << pending.tries.min(4)));
            pending.tries += 1;
        }
    }

    fn tell_keepers(&mut self, key: Option<[u8; 32]>, entropy: &mut dyn Entropy, now: Instant) {
        let Some(publication) = self.publications.get_mut(&key) else { return };
        let tellings = publication.tellings(&mut || u64::from_be_bytes(random(entropy)), now);
        let Some(record) = publication.record.clone() else { return };
        if tellings.is_empty() {
            return;
        }
        // Keepers that were given up will not answer any more.
        self.questions.retain(|nonce, question| {
            !matches!(question, Question::Keeper(of) if *of == key) || publication.expects(*nonce)
        });
        for telling in tellings {
            self.questions.insert(telling.nonce, Question::Keeper(key));
            let mut body = Body::with_capacity(512);
            if telling.refresh {
                let (acct, seq) = match &record {
                    Record::Locator(record) => (None, record.seq),
                    Record::Account(record) => (Some(record.acct), record.seq),
                };
                let (nonce, token) = (telling.nonce, telling.replica.token);
                Refresh { nonce, token, acct, node: self.me, seq }.encode(&mut body);
            } else {
                StoreBody { nonce: telling.nonce, token: telling.replica.token, record: record.clone() }
                    .encode(&mut body);
            }
            self.out.push_back(Outbound::node(
                telling.replica.node.sid(),
                &telling.replica.position,
                0,
                body,
            ));
        }
    }

    /// Takes a node in as a contact; a new one may be nearer to what we published than those who keep it.
    fn meet(&mut self, node: NodeId, position: Position, peer: bool, now: Instant) {
        if node == self.me || !self.contacts.learn(node, position, peer, now) {
            return;
        }
        let place = node.hash();
        for publication in self.publications.values_mut() {
            if publication.is_nearer(&place) {
                publication.want(true, now);
            }
        }
        if peer {
            self.joining.begin(now);
            self.retry_now(now);
        }
    }

    /// Whoever waits for an answer that nobody here knew may get it now.
    fn retry_now(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            pending.next_at = pending.next_at.map(|_| now);
            pending.tries = 0;
        }
    }
}

impl Query {
    fn matches(&self, node: &NodeId) -> bool {
        self.what != What::Account && node.hash().starts_with(self.prefix())
    }
}

/// When to look for nodes far away: a few times after a start, and after a new neighbour, who may stand for a whole
/// network.
#[derive(Default)]
struct Joining {
    rounds: usize,
    began_at: Option<Instant>,
    next_at: Option<Instant>,
}

impl Joining {
    fn begin(&mut self, now: Instant) {
        if self.began_at.is_none_or(|began| now.since(began) >= JOIN_REST) {
            *self = Self { rounds: 0, began_at: Some(now), next_at: Some(now + JOIN_AFTER[0]) };
        }
    }
}

/// What one ingress may cost us.
struct Budget {
    answers: Rate,
    checks: Rate,
}

/// Our record goes out when so many trees have changed: the others still lead to us.
const TREES_CHANGED: usize = 2;
/// Peers among those that a search begins with.
const START_PEERS: usize = 2;
/// The pauses before the searches of [`Lookup::join`]: the first wait until trees have settled, the later ones until
/// others have done theirs.
const JOIN_AFTER: [Duration; 4] =
    [Duration::from_millis(1500), Duration::from_secs(3), Duration::from_secs(8), Duration::from_secs(20)];
/// So often at most.
const JOIN_REST: Duration = Duration::from_secs(60);
/// Of a contact in an answer as many trees are told as fit into this: eight contacts beside the answerer's own record. In a
/// deep network whole locators would leave room for one or two, and searches would miss whole regions.
const CONTACT_BYTES: usize = 80;
/// Our record tells as many trees as fit into this, so that it fits into every answer (630 bytes is p99 of the whole in a mesh of
/// 10 000 wireless nodes).
const RECORD_BYTES: usize = 640;
/// Things looked for at once.
pub(crate) const PENDING_MAX: usize = 256;
/// Accounts of ours that are kept findable.
pub(crate) const ACCOUNTS_MAX: usize = 64;
/// What was not found is looked for again after 100, 200, 400 ms ...
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// ... until so much time has gone.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(5);
/// Signatures that may be checked for one ingress in a second: about 1 % of a core.
const CHECKS_PER_SECOND: u32 = 200;
/// At once, after a quiet time: a network that republishes.
const CHECKS_BURST: u32 = 500;
/// Questions that are answered for one ingress in a second: 5 Mbit/s of answers.
const ANSWERS_PER_SECOND: u32 = 500;
/// At once, after a quiet time.
const ANSWERS_BURST: u32 = 1000;
/// Ingresses that are counted apart; there are no more peers.
const INGRESSES_MAX: usize = 1024;
/// Timers fire at least so far apart.
const TICK: Duration = Duration::from_millis(1);
