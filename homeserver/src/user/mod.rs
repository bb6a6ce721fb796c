//! Our own users: accounts, passwords, tokens, devices, profiles, account data.
//!
//! Passwords are hashed (argon2id) on a bounded pool before the write; what must be unique (a name, a one-time token) is
//! decided inside it. Access tokens have 192 bits and are stored as SHA-256 only.

pub mod token;

use ruma::{OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};

use crate::clock::Clock;

/// The users of this homeserver.
#[derive(Clone)]
pub struct Users {
    name: OwnedServerName,
    clock: Clock,
}

/// A user of ours on one of its devices: who an access token speaks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUser {
    /// The user.
    pub user: OwnedUserId,
    /// The device that the token belongs to.
    pub device: OwnedDeviceId,
}

/// What someone showed to be allowed an account.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Nothing: registration is open.
    Open,
    /// A one-time token, consumed in the write that makes the account.
    Token(String),
    /// The operator makes it.
    Operator,
}

/// Why a verb on users failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// The name has characters or a length that user ids must not have.
    #[error("that is not a valid user name: use a-z, 0-9 and . _ = / - +")]
    InvalidName,
    /// Somebody has it, or had it.
    #[error("that user name is taken")]
    NameTaken,
    /// Too short, or longer than anybody types.
    #[error("the password must have 8 to 512 characters")]
    WeakPassword,
    /// No such user, or not its password: the two are not told apart.
    #[error("the user name or password is wrong")]
    WrongPassword,
    /// The account was deactivated.
    #[error("this account was deactivated")]
    Deactivated,
    /// The registration token is none, or was used.
    #[error("this registration token is not valid, or was used before")]
    BadRegistrationToken,
    /// No such device of this user.
    #[error("no such device")]
    NoDevice,
    /// No such user here.
    #[error("no such user here")]
    NoUser,
    /// Too many passwords are being hashed already.
    #[error("too many log-ins at once; try again in a moment")]
    Busy,
}

impl Users {
    /// The users in a store.
    pub fn new(name: OwnedServerName, clock: Clock) -> Self {
        Self { name, clock }
    }

    /// Whose access token this is.
    pub async fn by_token(&self, _token: &str) -> Result<Option<LocalUser>, UserError> {
        let _ = (&self.name, &self.clock);
        unimplemented!()
    }

    /// Checks a password.
    pub async fn check_password(&self, _user: &UserId, _password: &str) -> Result<(), UserError> {
        unimplemented!()
    }
}
