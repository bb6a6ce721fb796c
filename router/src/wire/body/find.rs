//! Owns the bytes of lookup: FIND, FOUND, STORE, REFRESH.
//!
//! ```text
//! FIND    = 08  nonce:8  what:1  place:32  known:8  skip:1  flags:1  [asker's record]  zeros  nonce:8
//! FOUND   = 09  nonce:8  token:16  flags:1  [own record]  count:1 values  count:1 x (key:32 locator)
//! STORE   = 0a  nonce:8  token:16  what:1  record
//! REFRESH = 0b  nonce:8  token:16  what:1  [acct:32]  key:32  seq:8
//! what    = 0 a node, place is BLAKE3(key)   1 a node, the first 15 bytes of it (its IPv6 address)
//!           2 an account, place is BLAKE3(acct)
//! flags   of FIND: 1 the asker's locator record follows
//!           of FOUND: 1 the record of STORE or REFRESH is kept   2 own record follows   4 there are more values: ask with
//!           skip + count   8 values are account records
//! ```
//! `known` is the newest seq of the responder's own record that the asker has; an older one is not sent. A FOUND is at
//! most three times as long as what it answers, and at most [`FOUND_MAX`]: FIND is padded to get long answers. The
//! nonce at its end is what a NOTICE names it by.
use super::{FIND, FOUND, REFRESH, STORE};
use crate::id::NodeId;
use crate::lookup::record::{AccountRecord, LocatorRecord};
use crate::lookup::{Locator, Place};
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer};

/// What a FIND is after.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum What {
    /// The node at that place.
    Node = 0,
    /// The node whose place begins with the same 15 bytes.
    Address = 1,
    /// The records of an account.
    Account = 2,
}

impl What {
    fn decode(reader: &mut Reader<'_>) -> Result<Self, FrameError> {
        match reader.u8()? {
            0 => Ok(Self::Node),
            1 => Ok(Self::Address),
            2 => Ok(Self::Account),
            _ => Err(FrameError::Value),
        }
    }
}

/// A question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Find {
    /// Comes back in the answer.
    pub nonce: u64,
    /// What is looked for.
    pub what: What,
    /// Where in the key space.
    pub place: Place,
    /// Newest seq of the responder's own record that the asker has.
    pub known: u64,
    /// How many values to leave out, for an account with more than fit into an answer.
    pub skip: u8,
    /// Where the asker is, if it wants to be known.
    pub asker: Option<LocatorRecord>,
}

impl Find {
    /// Reads the body, kind included.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, FIND)?;
        Ok(Self {
            nonce: reader.u64()?,
            what: What::decode(&mut reader)?,
            place: reader.array()?,
            known: reader.u64()?,
            skip: reader.u8()?,
            asker: match reader.u8()? & ASKER {
                0 => None,
                _ => Some(LocatorRecord::decode(&mut reader)?),
            },
        })
    }

    /// Writes the body, padded to at least [`FIND_LEN`].
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(FIND);
        out.put_eight(self.nonce);
        out.put_byte(self.what as u8);
        out.put(&self.place);
        out.put_eight(self.known);
        out.put_byte(self.skip);
        out.put_byte(if self.asker.is_some() { ASKER } else { 0 });
        let mut record = [0; FIND_LEN - 60].to_vec();
        if let Some(asker) = &self.asker {
            record.clear();
            asker.encode(&mut record);
            record.resize(record.len().max(FIND_LEN - 60), 0);
        }
        out.put(&record);
        out.put_eight(self.nonce);
    }
}

/// A node that the asker may ask next. Only a hint: nobody signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Its key.
    pub node: NodeId,
    /// Where it is.
    pub locator: Locator,
}

/// What is kept for a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Values {
    /// Of nodes.
    Locators(Vec<LocatorRecord>),
    /// Of accounts.
    Accounts(Vec<AccountRecord>),
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// That of the question.
    pub nonce: u64,
    /// Lets the asker STORE and REFRESH by the same way.
    pub token: [u8; 16],
    /// The record of STORE or REFRESH is kept.
    pub stored: bool,
    /// There are more values.
    pub more: bool,
    /// Where the responder itself is.
    pub own: Option<LocatorRecord>,
    /// What is kept for the place asked for.
    pub values: Values,
    /// Who is nearer to it, nearest first.
    pub contacts: Vec<Contact>,
}

impl Found {
    /// An answer that only says whether the record is kept.
    pub fn receipt(nonce: u64, token: [u8; 16], stored: bool) -> Self {
        Self {
            nonce,
            token,
            stored,
            more: false,
            own: None,
            values: Values::Locators(Vec::new()),
            contacts: Vec::new(),
        }
    }

    /// Reads the body, kind included. Signatures are not checked.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, FOUND)?;
        if body.len() > FOUND_MAX {
            return Err(FrameError::Long);
        }
        let nonce = reader.u64()?;
        let token = reader.array()?;
        let flags = reader.u8()?;
        let own = (flags & OWN != 0).then(|| LocatorRecord::decode(&mut reader)).transpose()?;
        let count = counted(reader.u8()?)?;
        let values = if flags & ACCOUNTS != 0 {
            Values::Accounts(
                (0..count).map(|_| AccountRecord::decode(&mut reader)).collect::<Result<_, _>>()?,
            )
        } else {
            Values::Locators(
                (0..count).map(|_| LocatorRecord::decode(&mut reader)).collect::<Result<_, _>>()?,
            )
        };
        let count = counted(reader.u8()?)?;
        let contacts = (0..count)
            .map(|_| Ok(Contact { node: reader.node()?, locator: Locator::decode(&mut reader)? }))
            .collect::<Result<_, _>>()?;
        Ok(Self { nonce, token, stored: flags & STORED != 0, more: flags & MORE != 0, own, values, contacts })
    }

    /// Writes as much of the answer as fits into `room` bytes: values first, then the own record, then contacts; sets
    /// "more" if a value did not fit. The receipt alone is [`RECEIPT_LEN`] long.
    pub fn encode(&self, room: usize, out: &mut impl Writer) {
        let mut left = room.min(FOUND_MAX).saturating_sub(RECEIPT_LEN);
        let mut take = |len: usize| left.checked_sub(len).map(|rest| left = rest).is_some();
        let (mut values, mut count, mut more) = (Vec::new(), 0, self.more);
        let mut add = |len: usize, write: &dyn Fn(&mut Vec<u8>)| {
            if !more && count < COUNT_MAX && take(len) {
                write(&mut values);
                count += 1;
            } else {
                more = true;
            }
        };
        let accounts = match &self.values {
            Values::Locators(records) => {
                records.iter().for_each(|record| add(record.encoded_len(), &|out| record.encode(out)));
                0
            }
            Values::Accounts(records) => {
                records.iter().for_each(|record| add(record.encoded_len(), &|out| record.encode(out)));
                ACCOUNTS
            }
        };
        let own = self.own.as_ref().filter(|own| take(own.encoded_len()));
        let fitting: Vec<&Contact> = self
            .contacts
            .iter()
            .take(usize::from(COUNT_MAX))
            .filter(|contact| take(32 + contact.locator.encoded_len()))
            .collect();
        out.put_byte(FOUND);
        out.put_eight(self.nonce);
        out.put(&self.token);
        out.put_byte(
            u8::from(self.stored) * STORED + u8::from(own.is_some()) * OWN + u8::from(more) * MORE + accounts,
        );
        if let Some(own) = own {
            own.encode(out);
        }
        out.put_byte(count);
        out.put(&values);
        out.put_byte(fitting.len() as u8);
        for contact in fitting {
            out.put(contact.node.as_bytes());
            contact.locator.encode(out);
        }
    }
}

/// A record of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// Where a node is.
    Locator(LocatorRecord),
    /// Who has an account.
    Account(AccountRecord),
}

/// Please keep this record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Store {
    /// Comes back in the receipt.
    pub nonce: u64,
    /// From a FOUND that came by the same way.
    pub token: [u8; 16],
    /// The record.
    pub record: Record,
}

impl Store {
    /// Reads the body, kind included. Signatures are not checked.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, STORE)?;
        Ok(Self {
            nonce: reader.u64()?,
            token: reader.array()?,
            record: match What::decode(&mut reader)? {
                What::Node => Record::Locator(LocatorRecord::decode(&mut reader)?),
                What::Account => Record::Account(AccountRecord::decode(&mut reader)?),
                What::Address => return Err(FrameError::Value),
            },
        })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(STORE);
        out.put_eight(self.nonce);
        out.put(&self.token);
        match &self.record {
            Record::Locator(record) => {
                out.put_byte(What::Node as u8);
                record.encode(out);
            }
            Record::Account(record) => {
                out.put_byte(What::Account as u8);
                record.encode(out);
            }
        }
    }
}

/// Please keep the record that you have for longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// Comes back in the receipt.
    pub nonce: u64,
    /// From a FOUND that came by the same way.
    pub token: [u8; 16],
    /// The account, if it is an account's record.
    pub acct: Option<[u8; 32]>,
    /// Who signed the record.
    pub node: NodeId,
    /// The record's seq.
    pub seq: u64,
}

impl Refresh {
    /// Reads the body, kind included.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        let mut reader = of_kind(body, REFRESH)?;
        let (nonce, token) = (reader.u64()?, reader.array()?);
        let acct = match What::decode(&mut reader)? {
            What::Node => None,
            What::Account => Some(reader.array()?),
            What::Address => return Err(FrameError::Value),
        };
        Ok(Self { nonce, token, acct, node: reader.node()?, seq: reader.u64()? })
    }

    /// Writes the body.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(REFRESH);
        out.put_eight(self.nonce);
        out.put(&self.token);
        out.put_byte(if self.acct.is_some() { What::Account as u8 } else { What::Node as u8 });
        if let Some(acct) = &self.acct {
            out.put(acct);
        }
        out.put(self.node.as_bytes());
        out.put_eight(self.seq);
    }
}

/// A third of [`FOUND_MAX`], so that a FIND can be answered in full length.
pub const FIND_LEN: usize = FOUND_MAX.div_ceil(3);
/// Longest answer: every path takes it.
pub const FOUND_MAX: usize = 1280;
/// How many times longer than the question an answer may be: a forged way back gains little.
pub const GAIN_MAX: usize = 3;
/// An answer without record or contact.
pub const RECEIPT_LEN: usize = 1 + 8 + 16 + 1 + 1 + 1;

/// Most values, and most contacts, in one answer: a bucket's worth.
const COUNT_MAX: u8 = 8;
/// Of FIND.
const ASKER: u8 = 1;
const STORED: u8 = 1;
const OWN: u8 = 2;
const MORE: u8 = 4;
const ACCOUNTS: u8 = 8;

fn counted(count: u8) -> Result<u8, FrameError> {
    if count > COUNT_MAX { Err(FrameError::Long) } else { Ok(count) }
}

fn of_kind(body: &[u8], kind: u8) -> Result<Reader<'_>, FrameError> {
    let mut reader = Reader::new(body);
    if reader.u8()? != kind {
        return Err(FrameError::Value);
    }
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SecretKey;
    use crate::id::{Port, Sid};
    use crate::lookup::{Coords, Hop};
    use crate::time::Duration;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn locator(depth: usize) -> Locator {
        let hops = vec![Hop { port: Port(3), cost: 9 }; depth];
        let coords = Coords { root: Sid::from_bytes([7; 8]), hops };
        Locator::of((0..4).map(|tree| (tree, &coords)))
    }

    fn record(seed: u8, depth: usize) -> LocatorRecord {
        let secret = SecretKey::from_seed([seed; 32]);
        LocatorRecord::sign(&secret, 5, Duration::from_secs(600), &locator(depth))
    }

    #[test]
    fn an_answer_is_cut_to_the_room_it_has() {
        let contact = |seed: u8| Contact { node: SecretKey::from_seed([seed; 32]).id(), locator: locator(5) };
        let found = Found {
            own: Some(record(1, 5)),
            values: Values::Locators(vec![record(2, 5)]),
            contacts: (3..30).map(contact).collect(),
            ..Found::receipt(77, [4; 16], false)
        };
        for room in [RECEIPT_LEN, 300, 700, FOUND_MAX, 9000] {
            let mut body = Vec::new();
            found.encode(room, &mut body);
            assert!(body.len() <= room.min(FOUND_MAX), "{} in {room}", body.len());
            let read = Found::decode(&body).unwrap();
            assert_eq!((read.nonce, read.token), (77, [4; 16]));
            assert_eq!(read.more, room < 300);
        }
        let mut body = Vec::new();
        found.encode(FOUND_MAX, &mut body);
        let read = Found::decode(&body).unwrap();
        assert_eq!((read.own.as_ref(), &read.values), (found.own.as_ref(), &found.values));
        assert!(read.contacts.len() >= 4, "{}", read.contacts.len());
    }

    #[test]
    fn the_largest_account_record_fits_into_an_answer_and_a_store() {
        let secret = SecretKey::from_seed([1; 32]);
        let proof = Bytes::from(vec![0; crate::lookup::record::PROOF_MAX]);
        let record = AccountRecord::sign(&secret, [2; 32], 3, proof).unwrap();
        let found = Found {
            values: Values::Accounts(vec![record.clone(), record.clone()]),
            ..Found::receipt(1, [0; 16], false)
        };
        let mut body = Vec::new();
        found.encode(FOUND_MAX, &mut body);
        let read = Found::decode(&body).unwrap();
        assert_eq!(read.values, Values::Accounts(vec![record.clone()]));
        assert!(read.more);
        let mut body = Vec::new();
        let store = Store { nonce: 1, token: [0; 16], record: Record::Account(record) };
        store.encode(&mut body);
        assert!(body.len() <= FOUND_MAX);
        assert_eq!(Store::decode(&body), Ok(store));
    }

    #[test]
    fn questions_round_trip() {
        let find = Find { nonce: 1, what: What::Address, place: [3; 32], known: 9, skip: 2, asker: None };
        let mut body = Vec::new();
        find.encode(&mut body);
        assert_eq!(body.len(), FIND_LEN);
        assert_eq!(Find::decode(&body).as_ref(), Ok(&find));
        for depth in [0, 5, 60] {
            let asking = Find { asker: Some(record(3, depth)), ..find.clone() };
            let mut body = Vec::new();
            asking.encode(&mut body);
            assert!((FIND_LEN..=FOUND_MAX).contains(&body.len()));
            assert_eq!(Find::decode(&body), Ok(asking));
        }
        let node = SecretKey::from_seed([1; 32]).id();
        for acct in [None, Some([5; 32])] {
            let refresh = Refresh { nonce: 8, token: [1; 16], acct, node, seq: 4 };
            let mut body = Vec::new();
            refresh.encode(&mut body);
            assert_eq!(Refresh::decode(&body), Ok(refresh));
            assert!(body.len() * GAIN_MAX >= RECEIPT_LEN);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_message_or_an_error(kind in FIND..=REFRESH, rest in proptest::collection::vec(any::<u8>(), 0..1300)) {
            let body = [&[kind][..], &rest].concat();
            let _ = (Find::decode(&body), Store::decode(&body), Refresh::decode(&body));
            if let Ok(found) = Found::decode(&body) {
                let mut again = Vec::new();
                found.encode(FOUND_MAX, &mut again);
                prop_assert_eq!(Found::decode(&again), Ok(found));
            }
        }
    }
}
