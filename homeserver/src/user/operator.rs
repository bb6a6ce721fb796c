//! What the operator does on the command line: by the running node's socket, or on the data directory itself.

use ruma::OwnedUserId;

use super::{Account, NewAccount, Proof, UserError, Users};

impl Users {
    /// Makes an account with a password. `name`: a local part or a whole id of ours.
    pub async fn create_by_operator(&self, name: &str, password: &str) -> Result<OwnedUserId, UserError> {
        let user = self.named(name)?;
        let account = NewAccount {
            localpart: Some(user.localpart().to_owned()),
            password: Some(password.to_owned()),
            ..NewAccount::new(Proof::Operator)
        };
        let (user, _) = self.register(account, None).await?;
        Ok(user)
    }

    /// All accounts, in the order they were made.
    pub async fn list(&self) -> Result<Vec<Account>, UserError> {
        self.accounts().await
    }

    /// How many accounts there are, deactivated ones included.
    pub async fn count(&self) -> Result<usize, UserError> {
        Ok(self.accounts().await?.len())
    }

    /// Sets a new password and logs every device out.
    pub async fn reset_password(&self, name: &str, password: &str) -> Result<OwnedUserId, UserError> {
        let user = self.named(name)?;
        self.set_password(&user, password, true, None).await?;
        Ok(user)
    }

    /// A new token that makes one account.
    pub async fn make_registration_token(&self) -> Result<String, UserError> {
        Ok(self.make_token(None, 1, None).await?.token)
    }
}
