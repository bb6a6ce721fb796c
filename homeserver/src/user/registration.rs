//! One-time registration tokens: made by the operator, used up by the account they make.

use super::{UserError, Users, token};
use crate::store::{ReadTx, WriteTx, schema};

pub use crate::store::schema::users::TokenRow as RegistrationToken;

impl Users {
    /// Makes a token for `uses` accounts; `text`: a chosen one, `for_ms`: how long it is good.
    pub async fn make_token(
        &self,
        text: Option<String>,
        uses: u32,
        for_ms: Option<u64>,
    ) -> Result<RegistrationToken, UserError> {
        let text = text.unwrap_or_else(token::random);
        if !well_formed(&text) {
            return Err(UserError::InvalidRegistrationToken);
        }
        let now = self.clock.now_ms();
        let row = RegistrationToken {
            token: text,
            uses_left: uses,
            made_ms: now,
            expires_ms: for_ms.map(|ms| now.saturating_add(ms)),
        };
        let stored = row.clone();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                Ok::<_, UserError>(schema::users::put_registration_token(tx, &stored)?)
            })
            .await?;
        Ok(row)
    }

    /// The tokens that still make an account.
    pub async fn registration_tokens(&self) -> Result<Vec<RegistrationToken>, UserError> {
        let now = self.clock.now_ms();
        self.store.read(move |tx: &ReadTx<'_>| Ok(schema::users::registration_tokens(tx, now)?)).await
    }

    /// A token that still makes an account: an old one, or a new one if there is none. Shown at start.
    pub async fn welcome_token(&self) -> Result<String, UserError> {
        match self.registration_tokens().await?.into_iter().next() {
            Some(token) => Ok(token.token),
            None => Ok(self.make_token(None, 1, None).await?.token),
        }
    }

    /// Whether a token would make an account now.
    pub async fn registration_token_valid(&self, text: &str) -> Result<bool, UserError> {
        if !well_formed(text) {
            return Ok(false);
        }
        let (text, now) = (text.to_owned(), self.clock.now_ms());
        self.store
            .read(move |tx: &ReadTx<'_>| Ok(schema::users::registration_token_valid(tx, &text, now)?))
            .await
    }
}

// spec: https://spec.matrix.org/v1.19/client-server-api/#token-authenticated-registration
fn well_formed(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'~' | b'-'))
}
