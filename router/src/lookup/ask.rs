//! Owns what the lookup asks: searches from their first question to their end, and what their answers bring.
use super::{
    Body, Destination, Duration, Entropy, Find, Found, Goal, Instant, Lookup, LookupEvent, NodeId, Outbound,
    PATHS, Pending, Position, Purpose, Query, Question, Running, Search, Unreachable, Values, What,
    account_place, body, random,
};

impl Lookup {
    pub(super) fn on_found(&mut self, found: Found, entropy: &mut dyn Entropy, now: Instant) {
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

    pub(super) fn on_search_answer(
        &mut self,
        id: u64,
        found: Found,
        _entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        let Some(running) = self.searches.get_mut(&id) else { return };
        let Some((node, asked_at)) = running.search.asked(found.nonce) else { return };
        // (Of a question that was put twice this may be too much, but never to do so would be to learn nothing where all are slow.)
        self.patience.sample(now - asked_at);
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
            let position = Position { seq: record.seq, locator: record.locator };
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

    pub(super) fn pend(
        &mut self,
        query: Query,
        seq_min: u64,
        quiet: bool,
        entropy: &mut dyn Entropy,
        now: Instant,
    ) {
        if self.pending.len() >= PENDING_MAX {
            if !quiet {
                self.events.push_back(LookupEvent::Failed { query, reason: Unreachable::Busy });
            }
            return;
        }
        self.pending.insert(query, Pending { seq_min, quiet, began_at: now, tries: 0, next_at: Some(now) });
        self.settle(entropy, now);
    }

    pub(super) fn begin_search(
        &mut self,
        purpose: Purpose,
        query: Query,
        goal: Goal,
        now: Instant,
    ) -> Option<u64> {
        // What found nothing begins elsewhere the next time: whoever led it astray would do so again.
        let tries = match purpose {
            Purpose::Answer(query) => self.pending.get(&query).map_or(0, |pending| pending.tries as usize),
            _ => 0,
        };
        let mut nearest = self.contacts.nearest(&query.place, if tries > 0 { usize::MAX } else { START });
        let passed = START * tries % nearest.len().max(1);
        nearest.rotate_left(passed);
        nearest.truncate(START);
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
        let mut search = Search::new(query.what, query.place, goal, start);
        let count = if matches!(purpose, Purpose::Answer(_)) { PATHS / 2 } else { PATHS };
        for (node, position) in self.joining.guides(count, now) {
            if node != self.me {
                search.ask_first(node, position);
            }
        }
        let search = match purpose {
            // Whom a joining search misses the next one meets.
            Purpose::Join { .. } => search.narrow(),
            Purpose::Publish(_) => search.thorough(),
            _ if tries > 0 => search.broad(),
            _ => search,
        };
        self.searches.insert(id, Box::new(Running { purpose, search }));
        Some(id)
    }

    pub(super) fn end_search(&mut self, id: u64) -> Option<Box<Running>> {
        self.questions.retain(|_, question| !matches!(question, Question::Search(of) if *of == id));
        self.searches.remove(&id)
    }

    pub(super) fn drive(&mut self, id: u64, entropy: &mut dyn Entropy, now: Instant) {
        let Some(running) = self.searches.get_mut(&id) else { return };
        let failed = running.search.on_time(now);
        let enough = match running.purpose {
            Purpose::Join { region } => self.knows_region(region, now),
            Purpose::Answer(_) | Purpose::Publish(_) => false,
        };
        let patience = self.patience.get();
        let Some(running) = self.searches.get_mut(&id) else { return };
        let mut asks = Vec::new();
        while !enough
            && let Some(ask) = running.search.next(u64::from_be_bytes(random(entropy)), patience, now)
        {
            asks.push(ask);
        }
        let over = enough || running.search.is_over(now);
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
                Purpose::Publish(_) | Purpose::Join { .. } => Some(self.own_record().clone()),
            };
            self.stats.questions += 1;
            self.questions.insert(ask.nonce, Question::Search(id));
            let mut body = Body::with_capacity(body::find::FIND_LEN);
            Find { nonce: ask.nonce, what, place, known, skip: ask.skip, asker }.encode(&mut body);
            // By the trees, the second time: whoever says that the node is in sight may lie.
            let mask = if ask.again { ask.position.locator.mask() } else { u8::MAX };
            let (sid, locator) = (ask.node.sid(), ask.position.locator);
            let to = Destination::Node { sid, locator, mask, record: false };
            self.out.push_back(Outbound { to, index: 0, body });
        }
        for node in failed {
            self.contacts.fail(&node);
        }
        if !over {
            return;
        }
        let Some(Running { purpose, search }) = self.end_search(id).map(|running| *running) else { return };
        match purpose {
            Purpose::Answer(query) if query.what == What::Account && !search.accounts.is_empty() => {
                self.pending.remove(&query);
                let records = search.accounts.into_values().collect();
                self.events.push_back(LookupEvent::Accounts { query, records });
            }
            Purpose::Answer(query) => self.on_nothing(query, now),
            Purpose::Join { .. } => {}
            Purpose::Publish(key) => {
                let replicas = search.replicas();
                let share = u16::from_be_bytes(random(entropy));
                let record = self.record_of(key);
                let Some(publication) = self.publications.get_mut(&key) else { return };
                publication.search = None;
                match record {
                    Some(record) if !replicas.is_empty() => {
                        publication.on_keepers(replicas, record, share, now);
                    }
                    _ => publication.want(true, now),
                }
            }
        }
    }

    /// A search has found nothing: again in a while, or not.
    pub(super) fn on_nothing(&mut self, query: Query, now: Instant) {
        self.stats.lookups_failed += 1;
        let Some(pending) = self.pending.get_mut(&query) else { return };
        // Where everybody moves, a newer position is a moment away.
        let forming = self.publications.get(&None).is_some_and(|publication| publication.is_forming(now));
        if pending.quiet && (!forming || now.since(pending.began_at) >= QUIET_MAX) {
            self.pending.remove(&query);
        } else if now.since(pending.began_at) >= GIVE_UP {
            self.pending.remove(&query);
            self.events.push_back(LookupEvent::Failed { query, reason: Unreachable::NotFound });
        } else {
            pending.next_at = Some(now + RETRY_FIRST * (1 << pending.tries.min(4)));
            pending.tries += 1;
        }
    }

    /// Whoever waits for an answer that nobody here knew may get it now.
    pub(super) fn retry_now(&mut self, now: Instant) {
        for pending in self.pending.values_mut() {
            pending.next_at = pending.next_at.map(|_| now);
            pending.tries = 0;
        }
    }
}

/// Contacts that a search begins with.
const START: usize = PATHS * 2;
/// Peers among those that a search begins with.
const START_PEERS: usize = 2;
/// Things looked for at once.
pub(crate) const PENDING_MAX: usize = 256;
/// What was not found is looked for again after 100, 200, 400 ms ...
const RETRY_FIRST: Duration = Duration::from_millis(100);
/// Whoever only asked for a newer position of a node is not served longer than that, and while the network forms.
const QUIET_MAX: Duration = Duration::from_millis(1500);
/// ... until so much time has gone.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(5);
