//! Vouching for other servers' keys: their documents as they signed them, with our signature added. And the other side:
//! asking those whom the operator trusts for keys of servers that cannot be asked any more.
//!
//! A notary could make up the keys of whoever is away, and then speak for them. So only those are asked that the operator
//! names, never whoever happens to bring an event; and what the server itself once told stays.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use bytes::Bytes;
use ruma::{
    CanonicalJsonObject, OwnedServerName, OwnedServerSigningKeyId, ServerName,
    api::federation::discovery::get_remote_server_keys_batch::v2::{QueryCriteria, Request},
};

use super::{FETCH_TIMEOUT, KeyError, Keyring, Remote, ServerKeys, document, table};
use crate::{account::NameKind, remote::Options};

/// Longest document that is kept to be passed on. An ordinary one has some hundred bytes a key.
pub(super) const DOCUMENT_LEN_MAX: usize = 16 << 10;

/// Notaries that are asked about one server.
const NOTARIES_MAX: usize = 4;
/// Documents of one server that are read of a notary's answer: its present one, and those with keys of its past.
const DOCUMENTS_MAX: usize = 8;

/// A server is asked at most so often on behalf of others.
const ASKED_EVERY_MS: u64 = 60_000;

impl Keyring {
    /// Says whom to ask about servers that cannot be asked themselves. Once, at the start.
    pub fn trust(&self, notaries: Vec<OwnedServerName>) {
        // Whoever says it twice is not heard.
        let _ = self.notaries.set(notaries);
    }

    /// A server's keys as the notaries have them, and the document that says so. Nothing, if none of them has any.
    pub(super) async fn notaries_word(
        &self,
        server: &ServerName,
        ids: &BTreeSet<String>,
        stored: Option<&ServerKeys>,
    ) -> Option<(ServerKeys, Bytes)> {
        let notaries = self.notaries.get()?;
        // Nobody vouches for a notary, or two that are away would wait for each other; and a name that is made of an
        // account needs nobody's word.
        if NameKind::of(server) != NameKind::Ordinary || notaries.iter().any(|notary| notary == server) {
            return None;
        }
        for notary in notaries.iter().take(NOTARIES_MAX) {
            let asked = Box::pin(self.ask_notary(notary, server, ids, stored));
            match tokio::time::timeout(FETCH_TIMEOUT, asked).await {
                Ok(Ok(found)) if ids.iter().all(|id| found.0.keys.contains_key(id)) => return Some(found),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::debug!(%notary, %server, %error, "a notary did not help"),
                Err(_) => tracing::debug!(%notary, %server, "a notary did not answer in time"),
            }
        }
        None
    }

    /// Adds keys that a server does not list any more and that the notaries remember.
    pub(super) async fn ask_for_old(
        &self,
        server: &ServerName,
        ids: &BTreeSet<String>,
        keys: &mut ServerKeys,
    ) {
        let missing: BTreeSet<String> =
            ids.iter().filter(|id| !keys.keys.contains_key(*id)).cloned().collect();
        if missing.is_empty() {
            return;
        }
        let Some((old, _)) = self.notaries_word(server, &missing, Some(keys)).await else { return };
        for (id, mut key) in old.keys.into_iter().filter(|(id, _)| missing.contains(id)) {
            // The server has it no more: it is good for what was signed while its promise held.
            key.expired_ms = key.expired_ms.or(key.valid_until_ms);
            keys.keys.insert(id, key);
        }
    }

    async fn ask_notary(
        &self,
        notary: &ServerName,
        server: &ServerName,
        ids: &BTreeSet<String>,
        stored: Option<&ServerKeys>,
    ) -> Result<(ServerKeys, Bytes), KeyError> {
        let inner = self.remote.upgrade().ok_or(KeyError::Closing)?;
        let remote = Remote { inner };
        let keys_of_notary = self.keys(notary, &BTreeSet::new()).await?;
        let wanted: BTreeMap<OwnedServerSigningKeyId, QueryCriteria> = ids
            .iter()
            .filter_map(|id| {
                Some((OwnedServerSigningKeyId::try_from(id.as_str()).ok()?, QueryCriteria::new()))
            })
            .collect();
        let request = Request::new(BTreeMap::from([(server.to_owned(), wanted)]));
        let options = Options {
            limit: DOCUMENTS_MAX * super::DOCUMENT_LEN_MAX,
            timeout: FETCH_TIMEOUT,
            ..Options::default()
        };
        let answer = remote.request_with(notary, request, options).await?;
        let now = self.clock.now_ms();
        let mut keys = ServerKeys { fetched_ms: now, ..ServerKeys::default() };
        keys.keys.extend(
            stored.into_iter().filter(|stored| stored.log.is_none()).flat_map(|stored| stored.keys.clone()),
        );
        let mut last = None;
        for raw in answer.server_keys.into_iter().take(DOCUMENTS_MAX) {
            let bytes = Bytes::copy_from_slice(raw.json().get().as_bytes());
            // Another server's, or one that it has not signed itself.
            let Ok(found) = document::read(server, &bytes, now) else { continue };
            if !document::is_signed(notary, &bytes, &keys_of_notary) {
                return Err(super::DocumentError::Signature.into());
            }
            for (id, key) in found.keys {
                match keys.keys.get(&id) {
                    // What the server itself told under this id is another key.
                    Some(known) if known.key != key.key => return Err(super::DocumentError::Identity.into()),
                    _ => {
                        keys.keys.insert(id, key);
                    }
                }
            }
            last = Some(bytes);
        }
        let id = || ids.iter().next().cloned().unwrap_or_default();
        Ok((keys, last.ok_or_else(|| KeyError::UnknownKey(server.to_owned(), id()))?))
    }

    /// A server's key document, signed by us too. It is asked for anew if the one that is kept is not valid until
    /// `wanted_ms`; if none can be had, the one that is kept has to do, and the asker sees until when it was valid.
    pub async fn vouched(&self, server: &ServerName, wanted_ms: u64) -> Option<CanonicalJsonObject> {
        let kept = self.kept(server).await;
        let fresh =
            |object: &CanonicalJsonObject| document::valid_until(object).is_some_and(|at| at >= wanted_ms);
        let object = match kept {
            Some(kept) if fresh(&kept) => Some(kept),
            kept if self.asked_lately(server) => kept,
            kept => match self.renew(server).await {
                Ok(()) => self.kept(server).await.or(kept),
                Err(error) => {
                    tracing::debug!(%server, %error, "keys to vouch for cannot be had");
                    kept
                }
            },
        };
        let mut object = object?;
        self.identity.sign_json(&mut object);
        Some(object)
    }

    /// Whoever asks for what no document promises does not make us ask again and again.
    fn asked_lately(&self, server: &ServerName) -> bool {
        let now = self.clock.now_ms();
        self.known(server).is_some_and(|keys| now.saturating_sub(keys.fetched_ms) < ASKED_EVERY_MS)
    }

    async fn kept(&self, server: &ServerName) -> Option<CanonicalJsonObject> {
        let name = server.to_owned();
        // A store that fails is as good as an empty one here.
        let bytes = self.store.read(move |tx| table::document(tx, &name)).await.ok().flatten()?;
        serde_json::from_slice(&bytes).ok()
    }

    /// Asks a server for its keys even if they are known.
    async fn renew(&self, server: &ServerName) -> Result<(), KeyError> {
        let slot = self.slot(server);
        let mut turn = slot.turn.lock().await;
        if let Some(failed) = turn.as_ref().filter(|failed| Instant::now() < failed.until) {
            return Err(failed.error.clone());
        }
        let stored = match self.known(server) {
            Some(known) => Some(known),
            None => self.load(server).await?,
        };
        self.fetch_in_turn(server, &BTreeSet::new(), None, stored, &mut turn).await.map(drop)
    }
}
