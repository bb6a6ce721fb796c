//! What a client holds between two syncs: `{version, incarnation, node, seq, to-device seq}` in text.
//!
//! `s1_<incarnation>_<node>_<seq>_<to-device seq>_<typing>`, and `_<receipts>` where receipts are behind, numbers in
//! decimal, incarnation and node in hex. The
//! incarnation changes when a database is restored from a backup, so that positions it gave out afterwards are never
//! taken for its own; node is the beginning of the key of the node that gave it.

use std::{fmt, str::FromStr};

/// A position in everything a sync shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The life of the database that gave it out.
    pub incarnation: u64,
    /// The node that gave it out.
    pub node: u64,
    /// Everything up to here was shown.
    pub seq: i64,
    /// Messages to the device were handed out up to here; the client that brings it back has them.
    pub to_device: i64,
    /// Who types was shown as of here; counts within one run of the node.
    pub typing: u64,
    /// Receipts were told up to here: less than `seq` where a room had more than fit into a response.
    pub receipts: i64,
}

/// A text that is no token of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a sync token of this server")]
pub struct TokenError;

/// The longest text that is looked at.
const TOKEN_BYTES_MAX: usize = 128;

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { incarnation, node, seq, to_device, typing, receipts } = self;
        write!(f, "s1_{incarnation:x}_{node:x}_{seq}_{to_device}_{typing}")?;
        if receipts < seq { write!(f, "_{receipts}") } else { Ok(()) }
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > TOKEN_BYTES_MAX {
            return Err(TokenError);
        }
        let mut parts = text.strip_prefix("s1_").ok_or(TokenError)?.split('_');
        let mut next = || parts.next().ok_or(TokenError);
        let hex = |text: &str| {
            let canonical = !text.starts_with('+');
            canonical.then(|| u64::from_str_radix(text, 16).ok()).flatten().ok_or(TokenError)
        };
        let number = |text: &str| text.parse::<u64>().map_err(|_| TokenError);
        let position = |text: &str| number(text).and_then(|seq| i64::try_from(seq).map_err(|_| TokenError));
        let mut token = Self {
            incarnation: hex(next()?)?,
            node: hex(next()?)?,
            seq: position(next()?)?,
            to_device: position(next()?)?,
            typing: number(next()?)?,
            receipts: 0,
        };
        token.receipts = match parts.next() {
            None => token.seq,
            Some(behind) => position(behind)?.min(token.seq),
        };
        match parts.next() {
            None => Ok(token),
            Some(_) => Err(TokenError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_token_comes_back(incarnation: u64, node: u64, seq in 0..i64::MAX, to_device in 0..i64::MAX, typing: u64,
                              behind in 0..i64::MAX) {
            let token = Token { incarnation, node, seq, to_device, typing, receipts: seq - behind.min(seq) };
            assert_eq!(token.to_string().parse(), Ok(token));
        }

        #[test]
        fn any_text_is_a_token_or_none(text in "(s1_)?[0-9a-fx_+-]{0,40}") {
            let _ = text.parse::<Token>();
        }
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        for text in
            ["", "s1_", "s1_1_1_1_1", "s1_1_1_-1_1_1", "s1_1_1_1_1_1_1_1", "s2_1_1_1_1_1", "s72594_4483"]
        {
            assert_eq!(text.parse::<Token>(), Err(TokenError), "{text}");
        }
    }
}
