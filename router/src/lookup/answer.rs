//! Owns what the lookup says to others: answers to their questions, records kept for them, within a budget an ingress.
use super::{
    AccountRecord, BUCKET, Bytes, Contact, Find, Found, GAIN_MAX, Instant, LocatorRecord, Lookup, Outbound,
    Port, Position, Query, Rate, Record, Refresh, StoreBody, TTL_MAX, Values, What, hash,
};

/// What one ingress may cost us.
pub(super) struct Budget {
    pub(super) answers: Rate,
    pub(super) checks: Rate,
}

impl Lookup {
    pub(super) fn on_find(&mut self, find: &Find, ingress: Port, way: &[u8], len: usize, now: Instant) {
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
    pub(super) fn on_asker(&mut self, asker: Option<&LocatorRecord>, ingress: Port, now: Instant) {
        let Some(asker) = asker else { return };
        let known = self.contacts.get(&asker.node);
        if known.is_some_and(|known| known.peer || known.position.seq >= asker.seq)
            || !self.budget(ingress, now).checks.take(now)
        {
            return;
        }
        if self.is_genuine(asker) {
            let position = Position { seq: asker.seq, locator: asker.locator.clone() };
            self.meet(asker.node, position, false, now);
        } else {
            self.stats.refused += 1;
        }
    }

    pub(super) fn on_store(&mut self, store: StoreBody, ingress: Port, way: &[u8], now: Instant) {
        let token = self.token(way);
        let stored = hash::equal(&token, &store.token) && self.keep(store.record, ingress, now);
        self.answer(&Found::receipt(store.nonce, token, stored), way, usize::MAX);
    }

    pub(super) fn keep(&mut self, record: Record, ingress: Port, now: Instant) -> bool {
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
            let position = Position { seq: record.seq, locator: record.locator.clone() };
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

    pub(super) fn on_refresh(&mut self, refresh: &Refresh, way: &[u8], now: Instant) {
        let token = self.token(way);
        // It makes no record where there was none, and its answer is shorter: so it holds by whatever way it comes.
        let stored = self.store.refresh(refresh.acct.as_ref(), refresh.node, refresh.seq, now);
        self.answer(&Found::receipt(refresh.nonce, token, stored), way, usize::MAX);
    }

    pub(super) fn answer(&mut self, found: &Found, way: &[u8], question_len: usize) {
        let mut body = Vec::with_capacity(256);
        found.encode(question_len.saturating_mul(GAIN_MAX), &mut body);
        self.out.push_back(Outbound::back(&Bytes::copy_from_slice(way), 0, &body));
    }

    pub(super) fn budget(&mut self, ingress: Port, now: Instant) -> &mut Budget {
        if self.budgets.len() >= INGRESSES_MAX && !self.budgets.contains_key(&ingress) {
            self.budgets.clear();
        }
        self.budgets.entry(ingress).or_insert_with(|| Budget {
            answers: Rate::new(ANSWERS_BURST, ANSWERS_PER_SECOND, now),
            checks: Rate::new(CHECKS_BURST, CHECKS_PER_SECOND, now),
        })
    }

    /// Shows that whoever has it receives what is sent along that way.
    pub(super) fn token(&self, way: &[u8]) -> [u8; 16] {
        hash::mac(&self.boot_secret, "store", &[way])
    }

    pub(super) fn own_record(&mut self) -> &LocatorRecord {
        let Self { secret, own, .. } = self;
        let sign = || LocatorRecord::sign(secret, own.seq, TTL_MAX, &own.locator.fit_or_one(RECORD_BYTES));
        self.own_record.get_or_insert_with(sign)
    }
}

/// Of a contact in an answer as many trees are told as fit into this: eight contacts beside the answerer's own record. In a
/// deep network whole locators would leave room for one or two, and searches would miss whole regions.
pub(super) const CONTACT_BYTES: usize = 80;
/// Our record tells as many trees as fit into this, so that it fits into every answer (630 bytes is p99 of the whole in a mesh of
/// 10 000 wireless nodes).
const RECORD_BYTES: usize = 640;
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
