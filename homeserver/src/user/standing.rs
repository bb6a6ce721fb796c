//! What an account may do: administrators, guests, those that are locked, suspended or shadow-banned.

use ruma::UserId;

use super::{Flag, Standing, UserError, Users, active};
use crate::store::{ReadTx, WriteTx, schema};

impl Users {
    /// An account's standing. A deactivated account has one, too.
    pub async fn standing(&self, user: &UserId) -> Result<Standing, UserError> {
        let user = user.to_owned();
        self.store
            .read(move |tx: &ReadTx<'_>| {
                let row = schema::users::find(tx, user.as_str())?.ok_or(UserError::NoUser)?;
                Ok(schema::accounts::standing(tx, row.user)?)
            })
            .await
    }

    /// Changes one thing about what an account may do; it holds from the next request on.
    pub async fn set_flag(&self, user: &UserId, flag: Flag, on: bool) -> Result<(), UserError> {
        let name = user.to_owned();
        self.store
            .write(move |tx: &mut WriteTx<'_>| {
                let row = schema::users::find(tx, name.as_str())?.ok_or(UserError::NoUser)?;
                if flag != Flag::Erased {
                    active(tx, &name)?;
                }
                schema::accounts::set_flag(tx, row.user, flag, on)?;
                Ok::<_, UserError>(())
            })
            .await?;
        self.tokens.forget_user(user);
        self.browsers_forget(user);
        Ok(())
    }
}
