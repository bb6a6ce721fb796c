//! The identity log: which chain of entries is valid, and which of two branches is in force. Pure.

use std::cmp::Ordering;

use super::{
    entry::{Entry, EntryError, NodeItem, SignPub, b64, key_hash},
    name::Acct,
};

/// Longest log that is read: the sum of its entries' canonical JSON, in bytes.
pub const LOG_LEN_MAX: usize = 1024 * 1024;

/// A valid chain of entries from the inception on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    entries: Vec<Entry>,
    bytes: usize,
}

impl Log {
    /// A log of the inception alone.
    pub fn new(inception: Entry) -> Result<Self, LogError> {
        let fields = inception.fields();
        if fields.n != 0 {
            return Err(LogError::Start);
        }
        // The inception is signed by its own rank-0 key: it names the key that it is checked with.
        if rank_of(&inception, &inception.signer()) != Some(0) {
            return Err(LogError::Signer);
        }
        let bytes = size(&inception);
        Ok(Self { entries: vec![inception], bytes })
    }

    /// Checks a whole log.
    pub fn from_entries(entries: impl IntoIterator<Item = Entry>) -> Result<Self, LogError> {
        let mut entries = entries.into_iter();
        let mut log = Self::new(entries.next().ok_or(LogError::Start)?)?;
        for entry in entries {
            log.push(entry)?;
        }
        Ok(log)
    }

    /// Adds the next entry if it is allowed to come next.
    ///
    /// - It is signed by a key of the entry before; the signer's rank counts from there.
    /// - Rotation keys of a rank below the signer's stay as they are, so that nobody throws out
    ///   those who can overrule him.
    /// - The rank-0 key changes only by a rank-0 signature and only to the key whose hash was
    ///   promised in `next0`, which then changes too: a stolen rank-0 key alone cannot rotate.
    pub fn push(&mut self, entry: Entry) -> Result<(), LogError> {
        let last = self.last();
        let (before, fields) = (last.fields(), entry.fields());
        if entry.acct() != self.acct()
            || fields.n != before.n + 1
            || fields.prev.as_deref() != Some(b64(&last.hash()).as_str())
        {
            return Err(LogError::Chain);
        }
        let rank = rank_of(last, &entry.signer()).ok_or(LogError::Signer)?;
        let kept = |rot: &&super::entry::RotKey| rot.rank < rank.max(1);
        let (old, new) = (before.rot.iter().filter(kept), fields.rot.iter().filter(kept));
        let same = old.eq(new);
        if rank > 0 && (!same || before.next0 != fields.next0) {
            return Err(LogError::Rank);
        }
        if rank == 0 && (!same || before.next0 != fields.next0) {
            let promised = fields.rot.iter().any(|rot| rot.rank == 0 && key_hash(&rot.key) == before.next0);
            if !promised || before.next0 == fields.next0 {
                return Err(LogError::Rotation);
            }
        }
        let bytes = self.bytes + size(&entry);
        if bytes > LOG_LEN_MAX {
            return Err(LogError::TooLong);
        }
        self.bytes = bytes;
        self.entries.push(entry);
        Ok(())
    }

    /// The account.
    pub fn acct(&self) -> Acct {
        self.inception().acct()
    }

    /// The first entry.
    pub fn inception(&self) -> &Entry {
        &self.entries[0]
    }

    /// The entry in force.
    pub fn last(&self) -> &Entry {
        self.entries.last().expect("a log begins with its inception and only grows")
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The nodes in force.
    pub fn nodes(&self) -> &[NodeItem] {
        &self.last().fields().nodes
    }

    /// The fork rule: `Greater` if `self` is in force rather than `other`, of the same account.
    ///
    /// At the first entry where they differ the branch signed by the lower rank wins, then the
    /// smaller hash, then the smaller signer (the same words in two hands); a log wins over its own beginning. The order is total and does not depend on
    /// who is asked about which pair first: whoever knows the same branches ends with the same one.
    /// (Counting the length of a branch before the hash, which suggests itself, makes a circle of
    /// three branches possible in which each beats the next.)
    pub fn compare(&self, other: &Self) -> Ordering {
        for (at, (mine, theirs)) in self.entries.iter().zip(&other.entries).enumerate() {
            // Up to here both are the same, so either one's keys tell the rank.
            let key = |entry: &Entry| {
                let before = at.checked_sub(1).map(|before| &self.entries[before]);
                let rank = before.and_then(|before| rank_of(before, &entry.signer()));
                (rank, entry.hash(), entry.signer())
            };
            let order = key(theirs).cmp(&key(mine));
            if order.is_ne() {
                return order;
            }
        }
        self.entries.len().cmp(&other.entries.len())
    }
}

/// The rank that a key has after `entry`.
fn rank_of(entry: &Entry, key: &SignPub) -> Option<u8> {
    entry.fields().rot.iter().find(|rot| rot.key == *key).map(|rot| rot.rank)
}

fn size(entry: &Entry) -> usize {
    super::entry::canonical(entry.json()).len()
}

/// Why a chain of entries is no log.
#[derive(Debug, Clone, Copy, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LogError {
    /// No inception at the start.
    #[error("an identity log begins with its inception entry")]
    Start,
    /// The entry does not follow the one before.
    #[error("an identity entry does not follow the one before it")]
    Chain,
    /// Signed by a key that is not in force.
    #[error("an identity entry is signed by a key that was not in force")]
    Signer,
    /// Changes keys that overrule the signer.
    #[error("an identity entry changes keys of a rank above its signer's")]
    Rank,
    /// The recovery key changes to one that was not promised.
    #[error("the new recovery key is not the one that was promised")]
    Rotation,
    /// Over [`LOG_LEN_MAX`].
    #[error("the identity log is longer than 1 MiB")]
    TooLong,
    /// An entry is wrong in itself.
    #[error(transparent)]
    Entry(#[from] EntryError),
}
