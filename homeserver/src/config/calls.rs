//! The sections about calls: `[turn]` and `[livekit]`. They stand in the file alone.

use super::ConfigError;
use crate::calls::{CallSettings, LiveKit, Turn};

/// The sections, checked.
pub(super) fn load(turn: Option<Turn>, livekit: Option<LiveKit>) -> Result<CallSettings, ConfigError> {
    if let Some(turn) = &turn {
        let bad = turn
            .uris
            .iter()
            .find(|uri| !["turn:", "turns:", "stun:", "stuns:"].iter().any(|kind| uri.starts_with(kind)));
        if let Some(bad) = bad {
            return Err(ConfigError(format!(
                "turn.uris {bad:?}: not an address of a TURN server; e.g. \"turn:turn.example.org:3478?transport=udp\""
            )));
        }
        if turn.uris.is_empty() || turn.lifetime == 0 {
            return Err(ConfigError(
                "turn: at least one address in uris, and a lifetime of some seconds".into(),
            ));
        }
    }
    if let Some(livekit) = &livekit {
        if !(livekit.url.starts_with("wss://") || livekit.url.starts_with("ws://")) {
            return Err(ConfigError(format!(
                "livekit.url {:?}: not where clients reach a LiveKit server; e.g. \"wss://livekit.example.org\"",
                livekit.url
            )));
        }
        if let Some(url) = &livekit.api_url
            && !(url.starts_with("https://") || url.starts_with("http://"))
        {
            return Err(ConfigError(format!(
                "livekit.api_url {url:?}: not where this node reaches it; e.g. \"http://127.0.0.1:7880\""
            )));
        }
    }
    Ok(CallSettings { turn, livekit })
}
