//! Owns what the lookup tells those who keep our records, and who is taken in as a contact.
use super::answer::CONTACT_BYTES;
use super::{
    Body, Entropy, Instant, Lookup, NodeId, Outbound, Position, Question, Record, Refresh, StoreBody, random,
};

impl Lookup {
    /// The record that a publication gives out now.
    pub(super) fn record_of(&mut self, key: Option<[u8; 32]>) -> Option<Record> {
        match key {
            None => {
                self.published = self.own.locator.clone();
                Some(Record::Locator(self.own_record().clone()))
            }
            Some(_) => self.publications.get(&key)?.record.clone(),
        }
    }

    pub(super) fn tell_keepers(&mut self, key: Option<[u8; 32]>, entropy: &mut dyn Entropy, now: Instant) {
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
            // Short headers: what need not be quick need not know four ways.
            let Position { seq, locator } = &telling.replica.position;
            let place = Position { seq: *seq, locator: locator.fit_or_one(CONTACT_BYTES) };
            self.out.push_back(Outbound::node(telling.replica.node.sid(), &place, 0, body));
        }
    }

    /// Takes a node in as a contact; a new one may be nearer to what we published than those who keep it.
    pub(super) fn meet(&mut self, node: NodeId, position: Position, peer: bool, now: Instant) {
        if node == self.me || !self.contacts.learn(node, position.clone(), peer, now) {
            return;
        }
        for publication in self.publications.values_mut() {
            publication.adopt(node, position.clone(), now);
        }
        if peer {
            self.joining.begin(now);
            self.retry_now(now);
        }
    }
}
