//! Owns the records kept for others: bounded, newest seq only, each until its ttl has run from arrival.
use super::kademlia::distance;
use super::record::{ACCOUNT_TTL, AccountRecord, LocatorRecord};
use super::{Place, account_place};
use crate::id::{NodeId, Port};
use crate::time::Instant;
use crate::wire::body::find::Record;
use std::collections::BTreeMap;

/// Records of both kinds.
pub(super) struct Store {
    me: Place,
    records: BTreeMap<Key, Kept>,
    bytes: usize,
    /// Bytes held for each ingress.
    shares: BTreeMap<Port, usize>,
    /// Nothing ends before.
    next_end: Instant,
}

/// Where a record is kept: its place, whether it is an account's, who signed it.
type Key = (Place, bool, NodeId);

struct Kept {
    record: Record,
    ends_at: Instant,
    ingress: Port,
    bytes: usize,
}

impl Store {
    pub(super) fn new(me: Place) -> Self {
        Self { me, records: BTreeMap::new(), bytes: 0, shares: BTreeMap::new(), next_end: Instant::ZERO }
    }

    /// The seq of the record that would be replaced.
    pub(super) fn seq(&self, record: &Record) -> Option<u64> {
        self.records.get(&key(record)).map(|kept| seq(&kept.record))
    }

    /// Keeps a record that has been checked; false if there is a newer one, or no room for it. When the store is full,
    /// the farthest record of the ingress with the largest share goes, so that nobody is crowded out by another's
    /// neighbours, however many keys these have.
    pub(super) fn put(&mut self, record: Record, ingress: Port, now: Instant) -> bool {
        self.expire(now);
        let (place, account, node) = key(&record);
        let id = (place, account, node);
        let (bytes, ttl) = match &record {
            Record::Locator(record) => (record.encoded_len() + RECORD_OVERHEAD, record.ttl),
            Record::Account(record) => (record.encoded_len() + RECORD_OVERHEAD, ACCOUNT_TTL),
        };
        if self.records.get(&id).is_some_and(|kept| seq(&kept.record) > seq(&record)) {
            return false;
        }
        let of_account =
            self.records.range((place, true, LEAST)..).take_while(|((at, kind, _), _)| *at == place && *kind);
        if account && !self.records.contains_key(&id) && of_account.count() >= ACCOUNT_NODES_MAX {
            return false;
        }
        self.remove(&id);
        *self.shares.entry(ingress).or_default() += bytes;
        self.bytes += bytes;
        let ends_at = now + ttl;
        self.next_end = if self.records.is_empty() { ends_at } else { self.next_end.min(ends_at) };
        self.records.insert(id, Kept { record, ends_at, ingress, bytes });
        while self.bytes > STORE_BYTES_MAX {
            let Some(victim) = self.victim() else { break };
            self.remove(&victim);
        }
        self.records.contains_key(&id)
    }

    /// Keeps a record for longer; false if that very record is not here.
    pub(super) fn refresh(
        &mut self,
        acct: Option<&[u8; 32]>,
        node: NodeId,
        seq_now: u64,
        now: Instant,
    ) -> bool {
        self.expire(now);
        let id = match acct {
            Some(acct) => (account_place(acct), true, node),
            None => (node.hash(), false, node),
        };
        match self.records.get_mut(&id) {
            Some(kept) if seq(&kept.record) == seq_now => {
                let ttl = match &kept.record {
                    Record::Locator(record) => record.ttl,
                    Record::Account(_) => ACCOUNT_TTL,
                };
                kept.ends_at = now + ttl;
                true
            }
            _ => false,
        }
    }

    /// The node's record whose place begins with those bytes.
    pub(super) fn locator(&mut self, prefix: &[u8], now: Instant) -> Option<&LocatorRecord> {
        self.expire(now);
        let mut from = [0; 32];
        from[..prefix.len()].copy_from_slice(prefix);
        self.records
            .range((from, false, LEAST)..)
            .take_while(|((place, ..), _)| place.starts_with(prefix))
            .find_map(|(_, kept)| match &kept.record {
                Record::Locator(record) => Some(record),
                Record::Account(_) => None,
            })
    }

    /// The records of the account at that place, but for the first `skip`.
    pub(super) fn accounts(&mut self, place: &Place, skip: usize, now: Instant) -> Vec<AccountRecord> {
        self.expire(now);
        self.records
            .range((*place, true, LEAST)..)
            .take_while(|((at, account, _), _)| at == place && *account)
            .filter_map(|(_, kept)| match &kept.record {
                Record::Account(record) => Some(record.clone()),
                Record::Locator(_) => None,
            })
            .skip(skip)
            .collect()
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    /// O(1) until something ends, then O(records).
    fn expire(&mut self, now: Instant) {
        if now < self.next_end || self.records.is_empty() {
            return;
        }
        let over: Vec<Key> =
            self.records.iter().filter(|(_, kept)| kept.ends_at <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.remove(&id);
        }
        self.next_end = self.records.values().map(|kept| kept.ends_at).min().unwrap_or(Instant::ZERO);
    }

    fn remove(&mut self, id: &Key) {
        if let Some(kept) = self.records.remove(id) {
            self.bytes -= kept.bytes;
            if let Some(share) = self.shares.get_mut(&kept.ingress) {
                *share -= kept.bytes;
                if *share == 0 {
                    self.shares.remove(&kept.ingress);
                }
            }
        }
    }

    /// The farthest record of the ingress with the largest share. O(records).
    fn victim(&self) -> Option<Key> {
        let (greedy, _) = self.shares.iter().max_by_key(|(_, bytes)| **bytes)?;
        self.records
            .iter()
            .filter(|(_, kept)| kept.ingress == *greedy)
            .max_by_key(|((place, ..), _)| distance(&self.me, place))
            .map(|(id, _)| *id)
    }
}

/// Bytes of records kept for others: some 4 000 locators of a large mesh.
pub(super) const STORE_BYTES_MAX: usize = 2 << 20;
/// Nodes of one account that are kept.
pub(super) const ACCOUNT_NODES_MAX: usize = 16;
/// What a record takes in memory beside its bytes, roughly.
const RECORD_OVERHEAD: usize = 200;
const LEAST: NodeId = NodeId::from_bytes([0; 32]);

fn key(record: &Record) -> Key {
    match record {
        Record::Locator(record) => (record.node.hash(), false, record.node),
        Record::Account(record) => (account_place(&record.acct), true, record.node),
    }
}

fn seq(record: &Record) -> u64 {
    match record {
        Record::Locator(record) => record.seq,
        Record::Account(record) => record.seq,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretKey;
    use crate::lookup::Locator;
    use crate::time::Duration;
    use bytes::Bytes;

    fn secret(seed: u16) -> SecretKey {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&seed.to_le_bytes());
        SecretKey::from_seed(bytes)
    }

    fn locator(seed: u16, seq: u64, secs: u64) -> Record {
        let ttl = Duration::from_secs(secs);
        Record::Locator(LocatorRecord::sign(&secret(seed), seq, ttl, &Locator::default()))
    }

    /// Unsigned: the store takes what has been checked before.
    fn account(acct: u8, node: u32, seq: u64) -> Record {
        let mut bytes = [7; 32];
        bytes[..4].copy_from_slice(&node.to_le_bytes());
        Record::Account(AccountRecord {
            acct: [acct; 32],
            node: NodeId::from_bytes(bytes),
            seq,
            proof: Bytes::from(vec![0; 900]),
            sig: [0; 64],
        })
    }

    #[test]
    fn newest_seq_wins_and_ttl_counts_from_arrival() {
        let mut store = Store::new([0; 32]);
        let place = secret(1).id().hash();
        let at = |secs| Instant::ZERO + Duration::from_secs(secs);
        assert!(store.put(locator(1, 5, 100), Port(1), at(0)));
        assert!(!store.put(locator(1, 4, 100), Port(1), at(0)));
        assert_eq!(store.locator(&place, at(99)).unwrap().seq, 5);
        assert_eq!(store.locator(&place[..15], at(99)).unwrap().seq, 5);
        assert!(store.refresh(None, secret(1).id(), 5, at(99)));
        assert!(!store.refresh(None, secret(1).id(), 4, at(99)));
        assert_eq!(store.locator(&place, at(150)).unwrap().seq, 5);
        assert!(store.locator(&place, at(200)).is_none());
        assert_eq!((store.len(), store.bytes, store.shares.len()), (0, 0, 0));
    }

    #[test]
    fn one_record_for_each_node_of_an_account() {
        let mut store = Store::new([0; 32]);
        for node in 0..ACCOUNT_NODES_MAX as u32 {
            assert!(store.put(account(1, node, 1), Port(1), Instant::ZERO));
            assert!(store.put(account(1, node, 2), Port(1), Instant::ZERO));
        }
        assert!(
            !store.put(account(1, 999, 1), Port(1), Instant::ZERO),
            "more nodes than an account may have"
        );
        let place = account_place(&[1; 32]);
        let all = store.accounts(&place, 0, Instant::ZERO);
        assert_eq!(all.len(), ACCOUNT_NODES_MAX);
        assert!(all.iter().all(|record| record.seq == 2));
        assert_eq!(store.accounts(&place, 10, Instant::ZERO).len(), ACCOUNT_NODES_MAX - 10);
        assert!(store.accounts(&account_place(&[2; 32]), 0, Instant::ZERO).is_empty());
    }

    #[test]
    fn a_flood_from_one_ingress_does_not_crowd_out_another() {
        let mut store = Store::new([0; 32]);
        for seed in 0..50 {
            assert!(store.put(locator(seed, 1, 1000), Port(1), Instant::ZERO));
        }
        for node in 0..4000u32 {
            store.put(account((node / 10) as u8, node, 1), Port(2), Instant::ZERO);
            assert!(store.bytes <= STORE_BYTES_MAX);
        }
        assert!(store.len() < 4000);
        for seed in 0..50 {
            assert!(store.locator(&secret(seed).id().hash(), Instant::ZERO).is_some());
        }
    }
}
