//! When other servers last answered, and on which carrier: for people to look at.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use ruma::{OwnedServerName, ServerName};

use super::{Remote, sender::core::Waiting};
use crate::store::{Nid, StoreError};

/// Servers that are remembered; past that, those that answered longest ago are forgotten.
const SERVERS_MAX: usize = 4_096;

/// On what an answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The overlay.
    Overlay,
    /// TLS, as ordinary servers speak it.
    Tls,
}

#[derive(Default)]
pub(super) struct Contacts {
    known: Mutex<HashMap<OwnedServerName, (Way, u64)>>,
}

impl Contacts {
    pub(super) fn note(&self, server: &ServerName, way: Way, now_ms: u64) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(server) {
            *known = (way, now_ms);
            return;
        }
        if known.len() >= SERVERS_MAX {
            let mut times: Vec<u64> = known.values().map(|(_, at)| *at).collect();
            let (_, middle, _) = times.select_nth_unstable(SERVERS_MAX / 2);
            let middle = *middle;
            known.retain(|_, (_, at)| *at > middle);
        }
        if known.len() < SERVERS_MAX {
            known.insert(server.to_owned(), (way, now_ms));
        }
    }

    fn all(&self) -> HashMap<OwnedServerName, (Way, u64)> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How it stands with one server.
#[derive(Clone, Debug)]
pub struct Destination {
    /// Its name.
    pub server: OwnedServerName,
    /// On what it last answered, and when (milliseconds since the epoch); none since the start.
    pub answered: Option<(Way, u64)>,
    /// Rows of the outbox that wait for it in memory.
    pub queued: usize,
    /// More of them are only in the database.
    pub more: bool,
    /// A transaction is under way, or is to be sent again.
    pub under_way: bool,
    /// Attempts that failed since the last success.
    pub failures: u32,
    /// Time to the next attempt.
    pub retry_in: Option<Duration>,
}

impl Remote {
    /// All servers that something waits for, or that were heard of since the start, by name.
    pub async fn destinations(&self) -> Result<Vec<Destination>, StoreError> {
        let waiting = self.inner.outgoing.overview().await.unwrap_or_default();
        let numbers: Vec<Nid> = waiting.iter().map(|waiting| waiting.server).collect();
        let names = self
            .store()
            .read(move |tx| numbers.into_iter().map(|server| tx.text(server)).collect::<Result<Vec<_>, _>>())
            .await?;
        let mut answered = self.inner.contacts.all();
        let mut list = Vec::new();
        for (name, waiting) in names.into_iter().zip(waiting) {
            let Ok(server) = ServerName::parse(&*name) else { continue };
            let Waiting { queued, more, under_way, failures, retry_in, .. } = waiting;
            let answered = answered.remove(&server);
            list.push(Destination { server, answered, queued, more, under_way, failures, retry_in });
        }
        list.extend(answered.into_iter().map(|(server, answered)| Destination {
            server,
            answered: Some(answered),
            queued: 0,
            more: false,
            under_way: false,
            failures: 0,
            retry_in: None,
        }));
        list.sort_by(|one, other| one.server.cmp(&other.server));
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_that_answered_longest_ago_are_forgotten_first() {
        let contacts = Contacts::default();
        let name = |i: usize| ServerName::parse(format!("s{i}.test")).unwrap();
        for i in 0..=SERVERS_MAX {
            contacts.note(&name(i), Way::Tls, i as u64);
        }
        let all = contacts.all();
        assert!(all.len() <= SERVERS_MAX / 2 + 1, "{}", all.len());
        assert!(all.contains_key(&name(SERVERS_MAX)) && !all.contains_key(&name(0)));
        contacts.note(&name(SERVERS_MAX), Way::Overlay, 9);
        assert_eq!(contacts.all()[&name(SERVERS_MAX)], (Way::Overlay, 9));
    }
}
