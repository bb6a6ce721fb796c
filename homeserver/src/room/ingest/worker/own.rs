//! Building our own events on the head: what clients send, templates for other servers, and what merges forks.

use std::{collections::HashMap, sync::Arc};

use ruma::{OwnedUserId, RoomId, UserId, room_version_rules::EventsReferenceFormatVersion};
use tokio::sync::oneshot;

use super::{DUMMY, DraftJob, Job, MERGERS_MAX, MERGES_MAX, Made, Worker, jobs::refuse};
use crate::{
    room::{
        Draft, RoomError,
        core::{
            build,
            pdu::{FullEvent, MEMBER, Pdu},
            version,
        },
        ingest::{
            append::{After, Append, Before, Forward, Verdict},
            head::{Head, Key},
            load,
        },
        policy::{self, POLICY, Policies, Policy, Unsigned},
    },
    store::{
        Kind, ReadTx, StoreError,
        schema::{
            events,
            membership::{self, Membership},
            partial, rooms, state,
        },
    },
};

impl Worker {
    pub(super) async fn draft(&mut self, job: DraftJob) {
        let policy = match self.policy().await {
            Ok(policy) => policy,
            Err(error) => return refuse(Job::Draft(job), error),
        };
        let many = self.has_many_ends().await;
        let mut built = match many {
            true => {
                self.drain().await;
                self.build_on_some(&job, Forward::All).await
            }
            false => self.build(&job).await,
        };
        if !many && built.is_err() && self.renew().await {
            built = self.build(&job).await;
        }
        if let (Ok(append), Some(policy)) = (&mut built, policy)
            && let Err(error) = Self::vouch(Arc::clone(&self.tools.policies), append, &policy).await
        {
            built = Err(error);
        }
        match built {
            Ok(append) if many => self.settle(append, Job::Draft(job)).await,
            Ok(append) => {
                if let Some(head) = &mut self.head {
                    head.advance(&append.event);
                }
                self.launch(append, Job::Draft(job), Verdict::Accepted, String::new());
            }
            Err(error) => refuse(Job::Draft(job), error),
        }
    }

    /// Gives an event of ours the signature of the room's policy server. Whoever leaves needs nobody's leave.
    async fn vouch(policies: Arc<Policies>, append: &mut Append, policy: &Policy) -> Result<(), RoomError> {
        match policies.sign(policy, append.event.clone(), &append.rules).await {
            Ok(signed) => append.event = signed,
            Err(error) => {
                let pdu = &append.event.pdu;
                let leaves =
                    pdu.is_state(MEMBER, pdu.sender.as_str()) && pdu.membership().as_deref() == Some("leave");
                if !leaves {
                    return Err(match error {
                        Unsigned::Refused(..) => RoomError::Forbidden(error.to_string()),
                        Unsigned::Silent(..) => RoomError::Unreachable(error.to_string()),
                    });
                }
            }
        }
        Ok(())
    }

    /// The policy server that the head's state names, if somebody of it is in the room. If it names one, everything on its
    /// way is decided first: who is in the room is asked of the database.
    pub(super) async fn policy(&mut self) -> Result<Option<Policy>, RoomError> {
        self.tell(&[(POLICY.to_owned(), String::new())]).await?;
        let event = self.head().await?.entry(POLICY, "");
        let Some(policy) = event.and_then(|event| Policy::read(&event.content)) else { return Ok(None) };
        self.drain().await;
        let (room, asked) = (self.room.clone(), policy.clone());
        let there = self.tools.store.read(move |tx| match tx.lookup(Kind::Room, room.as_str())? {
            Some(room) => policy::is_there(tx, room, &asked),
            None => Ok(false),
        });
        Ok(there.await?.then_some(policy))
    }

    /// Has an event written that was worked out from the database.
    async fn settle(&mut self, append: Append, job: Job) {
        self.launch(append, job, Verdict::Accepted, String::new());
        self.drain().await;
        self.head = None;
    }

    /// A refusal counts only against what is committed: what is on its way may fail yet, and a room may have been imported
    /// anew since the head was read. True if there was a head to doubt.
    pub(super) async fn renew(&mut self) -> bool {
        self.drain().await;
        self.head.take().is_some()
    }

    pub(super) async fn build(&mut self, job: &DraftJob) -> Result<Append, RoomError> {
        let now = self.tools.clock.now_ms();
        let signer = self.tools.signer.clone();
        let head = self.prepared(&job.sender, &job.draft).await?;
        let event = head.build(&job.sender, &job.draft, now, &signer)?;
        let power = head.may_redact(&job.sender);
        Ok(Append {
            event,
            own: signer.name,
            version: head.version.clone(),
            rules: head.rules.clone(),
            head: head.number,
            before: Before::Current,
            after: After::Linear,
            verdict: Verdict::Accepted,
            power,
            forward: Forward::All,
            txn: job.txn.clone(),
            now_ms: now,
        })
    }

    /// Merges the graph's ends by events that say nothing, if there are too many and someone of ours may send one.
    pub(super) async fn merge_ends(&mut self) {
        for _ in 0..MERGES_MAX {
            self.drain().await;
            if !self.has_many_ends().await {
                return;
            }
            // Not where each event has to be asked for: the next one that is said merges some, too.
            if !matches!(self.policy().await, Ok(None)) {
                return;
            }
            let (room, own) = (self.room.clone(), self.tools.signer.name.clone());
            let members = self.tools.store.read(move |tx| mergers(tx, &room)).await;
            let Ok(members) = members else { return };
            let mut merged = false;
            for sender in members.into_iter().filter(|member| member.server_name() == own) {
                let Ok(content) = serde_json::value::to_raw_value(&serde_json::Map::new()) else { return };
                // Nobody waits for the answer.
                let (answer, _) = oneshot::channel();
                let draft = Draft::message(DUMMY, content);
                let job = DraftJob { sender, draft, txn: None, answer, tries: 0 };
                // Who may not do it now is not asked whether it might on those ends.
                if self.build(&job).await.is_err() {
                    continue;
                }
                // Others meet a merging event when the next one builds on it.
                let Ok(append) = self.build_on_some(&job, Forward::No).await else { continue };
                self.settle(append, Job::Draft(job)).await;
                merged = true;
                break;
            }
            if !merged {
                return;
            }
        }
    }

    pub(super) async fn template(
        &mut self,
        sender: &OwnedUserId,
        draft: &Draft,
        sign: bool,
    ) -> Result<Made, RoomError> {
        let now = self.tools.clock.now_ms();
        let signer = self.tools.signer.clone();
        let room = self.room.clone();
        let head = self.prepared(sender, draft).await?;
        let mut event = head.unsigned(sender, draft, now)?;
        // An id is needed to ask the rules; it is not the final one if others have to sign or hash.
        let mut signed = event.clone();
        let id = build::sign(&mut signed, &signer, &head.rules)?;
        let whole = FullEvent::new(id, &room, signed.clone())
            .map_err(|error| RoomError::Invalid(error.to_string()))?;
        head.check(&whole.pdu)?;
        if sign {
            event = signed;
        }
        Ok(Made { version: head.version.clone(), event })
    }

    /// The head, knowing all that a draft needs.
    pub(super) async fn prepared(
        &mut self,
        sender: &OwnedUserId,
        draft: &Draft,
    ) -> Result<&mut Head, RoomError> {
        let keys = self.head().await?.needed(sender, draft)?;
        self.tell(&keys).await?;
        self.head().await
    }

    /// Tells the head the state entries that it misses.
    pub(super) async fn tell(&mut self, keys: &[Key]) -> Result<(), RoomError> {
        let missing = self.head().await?.missing(keys);
        if missing.is_empty() {
            return Ok(());
        }
        let room = self.room.clone();
        let found = self
            .tools
            .store
            .read(move |tx| -> Result<_, StoreError> { read_entries(tx, &room, missing) })
            .await?;
        let head = self.head().await?;
        for (key, event) in found {
            head.learn(key, event);
        }
        Ok(())
    }

    /// The head; the committed one if there is none.
    pub(super) async fn head(&mut self) -> Result<&mut Head, RoomError> {
        if self.head.is_none() {
            let room = self.room.clone();
            let head = self.tools.store.read(move |tx| read_head(tx, &room)).await?;
            self.head = Some(head);
        }
        self.head.as_mut().ok_or(RoomError::Busy)
    }
}

/// Members of ours in a room.
fn mergers(tx: &ReadTx<'_>, room: &RoomId) -> Result<Vec<OwnedUserId>, StoreError> {
    let Some(room) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
    let members = membership::local_members(tx, room, Membership::Join)?;
    let mut users = Vec::new();
    for member in members.into_iter().take(MERGERS_MAX) {
        users.extend(UserId::parse(&*tx.text(member)?).ok());
    }
    Ok(users)
}

/// The committed head.
fn read_head(tx: &ReadTx<'_>, room: &RoomId) -> Result<Head, RoomError> {
    let unknown = || RoomError::NotFound("this room is not known here".into());
    let nid = tx.lookup(Kind::Room, room.as_str())?.ok_or_else(unknown)?;
    let row = rooms::room(tx, nid)?.ok_or_else(unknown)?;
    if !row.resident {
        return Err(RoomError::Forbidden("nobody of this server is in the room".into()));
    }
    let rules =
        version::rules(&row.version).ok_or_else(|| RoomError::UnsupportedVersion(row.version.clone()))?;
    let (mut ends, mut hashes) = (Vec::new(), HashMap::new());
    for end in events::forward(tx, nid)? {
        if let Some(event) = events::event(tx, end)? {
            if rules.events_reference_format == EventsReferenceFormatVersion::V1 {
                let pdu = load::pdu_of(tx, &event)?;
                hashes.extend(pdu.hash.clone().map(|hash| (pdu.event_id.clone(), hash)));
            }
            ends.push((events::id(tx, end)?, event.depth, event.state_after == Some(row.sid)));
        }
    }
    let version = row.version.into();
    let mut head = Head::stored(room.to_owned(), version, Arc::new(rules), row.head, ends, row.sid);
    head.partial = partial::is_partial(tx, nid)?;
    head.learn_hashes(hashes);
    Ok(head)
}

#[allow(clippy::type_complexity, reason = "pairs of what was asked and what was found")]
fn read_entries(
    tx: &ReadTx<'_>,
    room: &RoomId,
    keys: Vec<Key>,
) -> Result<Vec<(Key, Option<Arc<Pdu>>)>, StoreError> {
    let Some(nid) = tx.lookup(Kind::Room, room.as_str())? else { return Ok(Vec::new()) };
    keys.into_iter()
        .map(|key| {
            let event = match state::current_of(tx, nid, &key.0, &key.1)? {
                Some(event) => load::pdu(tx, event)?,
                None => None,
            };
            Ok((key, event))
        })
        .collect()
}
