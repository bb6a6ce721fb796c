//! Vouching for other servers' keys: their documents as they signed them, with our signature added.
//!
//! spec: <https://spec.matrix.org/v1.19/server-server-api/#querying-keys-through-another-server>

use std::{collections::BTreeSet, time::Instant};

use ruma::{CanonicalJsonObject, ServerName};

use super::{KeyError, Keyring, document, table};

/// Longest document that is kept to be passed on. An ordinary one has some hundred bytes a key.
pub(super) const DOCUMENT_LEN_MAX: usize = 16 << 10;

/// A server is asked at most so often on behalf of others.
const ASKED_EVERY_MS: u64 = 60_000;

impl Keyring {
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
