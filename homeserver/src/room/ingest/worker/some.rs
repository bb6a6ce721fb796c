//! Building events of ours while the graph has more ends than one event builds on.
//!
//! The state before such an event is not the room's present one but that of the ends which it names: whoever else works
//! it out knows nothing of the others.

use ruma::{OwnedEventId, RoomId};

use super::{DraftJob, Worker};
use crate::{
    room::{
        RoomError,
        ingest::{
            append::{Append, Forward, Verdict},
            head::ENDS_MAX,
            place::{self, Placed},
        },
    },
    store::{ReadTx, Store, StoreError},
};

impl Worker {
    /// Whether an event of ours can no longer build on all ends.
    pub(super) async fn has_many_ends(&mut self) -> bool {
        self.head().await.is_ok_and(|head| head.ends.len() > ENDS_MAX)
    }

    /// The event on the deepest ends. Nothing of the room may be on its way to the writer.
    pub(super) async fn build_on_some(
        &mut self,
        job: &DraftJob,
        forward: Forward,
    ) -> Result<Append, RoomError> {
        let (now_ms, signer) = (self.tools.clock.now_ms(), self.tools.signer.clone());
        let mut some = self.head().await?.of_deepest();
        let keys = some.needed(&job.sender, &job.draft)?;
        let prev: Vec<OwnedEventId> = some.ends.iter().map(|(id, _)| id.clone()).collect();
        let (room, rules, version) = (self.room.clone(), some.rules.clone(), some.version.clone());
        let wide = is_wide(&self.tools.store, &room, &prev).await?;
        let for_read = rules.clone();
        let entries = move |tx: &ReadTx<'_>| place::entries_on(tx, &for_read, &room, &prev, keys.clone());
        let entries = match wide {
            true => self.tools.store.read_slowly(entries).await?,
            false => self.tools.store.read(entries).await?,
        };
        for (key, event) in entries {
            some.learn(key, event);
        }
        let event = some.build(&job.sender, &job.draft, now_ms, &signer)?;
        let (pdu, for_read) = (event.pdu.clone(), rules.clone());
        let placed = move |tx: &ReadTx<'_>| place::place(tx, &for_read, &pdu, None, None);
        let placed = match wide {
            true => self.tools.store.read_slowly(placed).await?,
            false => self.tools.store.read(placed).await?,
        };
        let Placed { head, before, after, verdict, reason, power } = placed;
        if verdict != Verdict::Accepted {
            return Err(RoomError::Forbidden(reason));
        }
        Ok(Append {
            event,
            own: signer.name,
            version,
            rules,
            head: Some(head),
            before,
            after,
            verdict,
            power,
            forward,
            txn: job.txn.clone(),
            now_ms,
        })
    }
}

async fn is_wide(store: &Store, room: &RoomId, prev: &[OwnedEventId]) -> Result<bool, StoreError> {
    let (room, prev) = (room.to_owned(), prev.to_vec());
    store.read(move |tx| place::is_wide(tx, &room, &prev)).await
}
