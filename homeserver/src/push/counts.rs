//! What a user has not read, as differences of sums.

use crate::store::{
    Nid, ReadTx, Seq, StoreError,
    schema::push::{self as table, ALL, MAIN},
};

/// Threads that are counted for one room; who has more unread ones sees the count of the latest.
pub const THREADS_MAX: u32 = 100;
/// Rows of one's own that are looked at for one room; a count that high is shown as it is then.
const OWN_MAX: u32 = 10_000;

/// Unread events of a room or thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// That notify.
    pub notify: i64,
    /// That highlight.
    pub highlight: i64,
}

/// Unread events of a room.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unread {
    /// In the main timeline.
    pub main: Count,
    /// In threads, by the thread root's number; those with nothing unread are not here.
    pub threads: Vec<(Nid, Count)>,
}

impl Unread {
    /// Everything together, for clients that do not know threads.
    pub fn whole(&self) -> Count {
        self.threads.iter().fold(self.main, |sum, (_, count)| Count {
            notify: sum.notify + count.notify,
            highlight: sum.highlight + count.highlight,
        })
    }
}

/// What a user who has been in the room since `joined` has not read. The cost grows with the threads that have unread
/// events (at most [`THREADS_MAX`]) and with unread mentions, not with messages or members.
pub fn unread(tx: &ReadTx<'_>, user: Nid, room: Nid, joined: Seq) -> Result<Unread, StoreError> {
    let positions = table::read_positions(tx, user, room)?;
    let position =
        |thread: Nid| positions.iter().find(|(at, _)| *at == thread).map_or(Seq(0), |(_, seq)| *seq);
    let all = position(ALL).max(joined);
    let main = position(MAIN).max(all);
    let own = table::own_after(tx, user, room, all, OWN_MAX)?;
    let count = |thread: Nid, read: Seq| -> Result<Count, StoreError> {
        let sum = table::total(tx, room, thread, Seq(i64::MAX))? - table::total(tx, room, thread, read)?;
        let sum = sum - table::uncounted(tx, room, thread, read)?;
        let mine = own.iter().filter(|row| row.thread == thread && row.seq > read);
        let (delta, highlight) = mine.fold((0, 0), |(delta, highlight), row| {
            (delta + row.delta, highlight + i64::from(row.highlight))
        });
        Ok(Count { notify: (sum + delta).max(0), highlight })
    };
    let mut unread = Unread { main: count(ALL, main)?, threads: Vec::new() };
    let mut threads = table::threads_after(tx, room, all, THREADS_MAX)?;
    threads.extend(own.iter().map(|row| row.thread).filter(|thread| *thread != ALL));
    threads.sort_unstable();
    threads.dedup();
    for thread in threads.into_iter().take(THREADS_MAX as usize) {
        let count = count(thread, position(thread).max(all))?;
        if count != Count::default() {
            unread.threads.push((thread, count));
        }
    }
    Ok(unread)
}
