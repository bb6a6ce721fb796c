//! Taking other servers' events: on the head where they build on it, worked out from the database where they do not.

use std::{sync::Arc, time::Duration};

use ruma::OwnedEventId;
use tokio::time::Instant;

use super::{
    AUTH_CACHE_MAX, FREE_CPU, Job, MERGE_AFTER, PduJob, REST_MAX, REST_TIMES, Taken, Worker,
    jobs::{forward, refuse},
};
use crate::{
    room::{
        RoomError,
        core::pdu::{FullEvent, Pdu},
        ingest::{
            append::{After, Append, Before, Verdict},
            authorize::{self, Lookup},
            head::ENDS_MAX,
            place::{self, Placed},
        },
    },
    store::{ReadTx, Store, StoreError, cpu_time, schema::state::StateMap},
};

impl Worker {
    pub(super) async fn pdu(&mut self, job: PduJob) {
        match self.take(&job).await {
            Ok(Step::Answer(taken)) => {
                // Nobody may wait for it any longer: no error.
                let _ = job.answer.send(Ok(taken));
            }
            Ok(Step::Append { decided, reason, linear }) => {
                let verdict = decided.verdict;
                match &mut self.head {
                    Some(head) if linear && verdict == Verdict::Accepted => head.advance(&decided.event),
                    Some(head) if linear => head.step(),
                    _ => {}
                }
                self.launch(*decided, Job::Pdu(job), verdict, reason);
                if !linear {
                    self.drain().await;
                    self.head = None;
                }
                if self.merge.is_none() && self.head().await.is_ok_and(|head| head.ends.len() > ENDS_MAX) {
                    self.merge = Some(Instant::now() + MERGE_AFTER);
                }
            }
            Err(error) => refuse(Job::Pdu(job), error),
        }
    }

    async fn take(&mut self, job: &PduJob) -> Result<Step, RoomError> {
        let event = &job.event;
        let pdu = event.pdu.clone();
        let unsigned = self.unsigned(event).await?;
        let snapshot = {
            let head = self.head().await?;
            head.snapshot
        };
        // Everything the stages need of the database, in one look.
        let unknown_prev: Vec<OwnedEventId> = {
            let head = self.head().await?;
            pdu.prev.iter().filter(|prev| !head.is_recent(prev)).cloned().collect()
        };
        let unknown_auth: Vec<OwnedEventId> =
            pdu.auth.iter().filter(|id| self.known_auth(id).is_none()).cloned().collect();
        let id = pdu.event_id.clone();
        let look = self
            .tools
            .store
            .read(move |tx| -> Result<_, StoreError> {
                place::look(tx, &id, unknown_prev, unknown_auth, snapshot)
            })
            .await?;
        if look.known {
            return Ok(Step::Answer(Taken::Known));
        }
        if self.auth.len() > AUTH_CACHE_MAX {
            self.auth.clear();
        }
        for auth in look.auth {
            self.auth.insert(auth.event_id.clone(), auth);
        }
        let missing_auth: Vec<OwnedEventId> =
            pdu.auth.iter().filter(|id| self.known_auth(id).is_none()).cloned().collect();
        let head = self.head().await?;
        for prev in look.present_state {
            head.note_recent(prev);
        }
        let head = self.head().await?;
        // The state stays what the ends resolve to only if one of them has it already, or all of them are covered.
        let at_head = job.state.is_none()
            && !pdu.prev.is_empty()
            && pdu.prev.iter().all(|prev| head.is_recent(prev))
            && match pdu.state_key {
                None => head.ends.iter().any(|(end, _)| head.is_recent(end)),
                Some(_) => head.ends.iter().all(|(end, _)| pdu.prev.contains(end)),
            };
        if missing_auth.is_empty() && at_head {
            return self.take_linear(job, unsigned).await;
        }
        // Not on the present head: everything on its way has to be decided first.
        self.drain().await;
        let missing_prev = missing_prev(&self.tools.store, job).await?;
        if !missing_auth.is_empty() || (job.state.is_none() && !missing_prev.is_empty()) {
            return Ok(Step::Answer(Taken::Missing { prev: missing_prev, auth: missing_auth }));
        }
        self.take_forked(job, unsigned).await
    }

    fn known_auth(&self, id: &OwnedEventId) -> Option<Arc<Pdu>> {
        self.auth.get(id).cloned().or_else(|| self.head.as_ref()?.by_id(id))
    }

    /// The event builds on the present state.
    async fn take_linear(&mut self, job: &PduJob, unsigned: Option<String>) -> Result<Step, RoomError> {
        let pdu = job.event.pdu.clone();
        let keys = {
            let head = self.head().await?;
            authorize::needed(&head.rules, &pdu)
        };
        self.tell(&keys).await?;
        let (own, now_ms) = (self.tools.signer.name.clone(), self.tools.clock.now_ms());
        let auth: Vec<Arc<Pdu>> = pdu.auth.iter().filter_map(|id| self.known_auth(id)).collect();
        let head = self.head().await?;
        let create = head.entry("m.room.create", "");
        let own_auth = Lookup::new(auth, create);
        let (verdict, reason) = authorize::decide(
            &head.rules,
            &pdu,
            &own_auth,
            |kind, key| own_auth.in_part(head.partial, &pdu, (kind, key), || head.entry(kind, key)),
            None::<fn(&str, &str) -> Option<Arc<Pdu>>>,
        );
        let (verdict, reason) = match unsigned {
            Some(unsigned) if verdict == Verdict::Accepted => (Verdict::SoftFailed, unsigned),
            _ => (verdict, reason),
        };
        let decided = Append {
            event: job.event.clone(),
            own,
            version: head.version.clone(),
            rules: head.rules.clone(),
            head: head.number,
            before: Before::Current,
            after: After::Linear,
            verdict,
            power: head.may_redact(&pdu.sender),
            forward: forward(job),
            txn: None,
            now_ms,
        };
        Ok(Step::Append { decided: Box::new(decided), reason, linear: true })
    }

    /// The event builds on something else: its state, and what the room's becomes, are worked out from the database.
    async fn take_forked(&mut self, job: &PduJob, unsigned: Option<String>) -> Result<Step, RoomError> {
        let own = self.tools.signer.name.clone();
        let (version, rules) = {
            let head = self.head().await?;
            (head.version.clone(), head.rules.clone())
        };
        let (event, told) = (job.event.clone(), job.state.clone());
        let for_read = rules.clone();
        let (pdu, size) = (event.pdu.clone(), told.iter().flatten().map(StateMap::len).sum::<usize>());
        let wide = size > place::WIDE_ENTRIES
            || self.tools.store.read(move |tx| place::is_wide(tx, &pdu.room, &pdu.prev)).await?;
        let work = move |tx: &ReadTx<'_>| -> Result<_, RoomError> {
            let begun = cpu_time();
            let placed = place::place(tx, &for_read, &event.pdu, told, unsigned)?;
            Ok((placed, cpu_time().saturating_sub(begun)))
        };
        let (placed, cpu) = match wide {
            true => self.tools.store.read_slowly(work).await?,
            false => self.tools.store.read(work).await?,
        };
        self.charge(cpu);
        let Placed { head, before, after, verdict, reason, power } = placed;
        let decided = Append {
            event: job.event.clone(),
            own,
            version,
            rules,
            head: Some(head),
            before,
            after,
            verdict,
            power,
            forward: forward(job),
            txn: None,
            now_ms: self.tools.clock.now_ms(),
        };
        Ok(Step::Append { decided: Box::new(decided), reason, linear: false })
    }

    /// Why the room's policy server, by the present state, keeps an event from being shown; `None` if it does not.
    async fn unsigned(&mut self, event: &FullEvent) -> Result<Option<String>, RoomError> {
        let Some(policy) = self.policy().await? else { return Ok(None) };
        if policy.server() == self.tools.signer.name {
            return Ok(None);
        }
        let rules = self.head().await?.rules.clone();
        let missing = format!("it lacks the signature of the room's policy server {}", policy.server());
        Ok((!policy.has_signed(event, &rules)).then_some(missing))
    }

    /// Notes what an event of another server cost.
    fn charge(&mut self, cpu: Duration) {
        if cpu > FREE_CPU {
            let rest = (cpu * REST_TIMES).min(REST_MAX);
            tracing::debug!(room = %self.room, ?cpu, ?rest, "a costly fork: the room's foreign events rest");
            self.rest = Some(Instant::now() + rest);
        }
    }
}

/// What taking a foreign event comes to.
enum Step {
    Answer(Taken),
    Append { decided: Box<Append>, reason: String, linear: bool },
}

async fn missing_prev(store: &Store, job: &PduJob) -> Result<Vec<OwnedEventId>, RoomError> {
    let prev = job.event.pdu.prev.clone();
    Ok(store.read(move |tx| place::missing(tx, &prev)).await?)
}
