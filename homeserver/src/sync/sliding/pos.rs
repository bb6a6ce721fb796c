//! A `pos`: the connection, the state of it that the client has, and a sync token.
//!
//! `<nonce>.<n>/<token>`, the nonce in hex. What stands after the slash is what other endpoints want of it.

use std::{fmt, str::FromStr};

use crate::sync::token::{Token, TokenError};

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pos {
    /// Tells the connection from earlier ones of the same name.
    pub(super) nonce: i64,
    /// Number of the connection's state.
    pub(super) n: i64,
    /// What was told.
    pub token: Token,
}

/// The longest text that is looked at.
const POS_BYTES_MAX: usize = 192;

impl fmt::Display for Pos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{}/{}", self.nonce, self.n, self.token)
    }
}

impl FromStr for Pos {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        if text.len() > POS_BYTES_MAX {
            return Err(TokenError);
        }
        let (conn, token) = text.split_once('/').ok_or(TokenError)?;
        let (nonce, n) = conn.split_once('.').ok_or(TokenError)?;
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !digits(nonce) || !digits(n) {
            return Err(TokenError);
        }
        Ok(Self {
            nonce: i64::from_str_radix(nonce, 16).map_err(|_| TokenError)?,
            n: n.parse().map_err(|_| TokenError)?,
            token: token.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn a_pos_comes_back(nonce in 0..i64::MAX, n in 0..i64::MAX, seq in 0..i64::MAX) {
            let token = Token { incarnation: 1, node: 2, seq, to_device: 0, typing: 1, receipts: seq };
            let pos = Pos { nonce, n, token };
            assert_eq!(pos.to_string().parse(), Ok(pos));
        }

        #[test]
        fn any_text_is_a_pos_or_none(text in "[0-9a-f.+/s_-]{0,60}") {
            let _ = text.parse::<Pos>();
        }
    }
}
