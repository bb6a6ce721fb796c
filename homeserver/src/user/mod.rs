//! Our own users: accounts, passwords, tokens, devices, profiles, account data.
//!
//! Passwords are hashed (argon2id) on a bounded pool before the write; what must be unique (a name, a one-time token) is
//! decided inside it. Access tokens have 192 bits and are stored as SHA-256 only.

pub mod account_data;
mod accounts;
mod administer;
mod devices;
mod guests;
mod identity_reset;
pub mod invites;
mod login_token;
mod mail;
mod neighbours;
pub mod next_door;
pub mod oauth;
mod operator;
mod password;
pub mod presence;
mod profile;
mod pushers;
mod refresh;
mod registration;
mod rendezvous;
mod search;
mod sessions;
mod settings;
mod shared_secret;
mod standing;
mod terms;
mod threepid;
pub mod token;
mod upstream;

use std::{
    borrow::Cow,
    sync::{Arc, PoisonError, RwLock},
};

use ruma::{DeviceId, OwnedDeviceId, OwnedServerName, OwnedUserId, UserId};

pub use self::{
    accounts::{Account, NewAccount},
    administer::{Page, Report, TokenInfo},
    devices::Device,
    login_token::LOGIN_TOKEN_MS,
    mail::{EmailSettings, Mailer, Security},
    neighbours::{Neighbours, NoNeighbours},
    profile::{PROFILE_BYTES_MAX, Person},
    registration::RegistrationToken,
    rendezvous::{SLOT_BYTES_MAX, Slot, SlotError},
    sessions::{Access, NewDevice, Session},
    settings::{AccountSettings, Captcha, General, Terms},
    shared_secret::SharedSecretRequest,
    threepid::{Address, AskMail, Purpose, SUBMIT_PATH, Threepid},
    upstream::{Step, Then, UpstreamError, UpstreamSettings, Upstreams},
};
pub use crate::store::schema::accounts::{Flag, Standing};
use crate::{
    clock::Clock,
    store::{Kind, Nid, Store, StoreError, WriteTx, schema},
};

/// The users of this homeserver.
#[derive(Clone)]
pub struct Users {
    store: Store,
    clock: Clock,
    name: OwnedServerName,
    hooks: DeviceHooks,
    passwords: password::Pool,
    tokens: Arc<sessions::TokenCache>,
    presence: Arc<presence::Table>,
    tells: Option<presence::Send>,
    nonces: Arc<shared_secret::Nonces>,
    mailer: Arc<RwLock<Option<Mailer>>>,
    resets: Arc<identity_reset::Resets>,
    oauth: Arc<oauth::State>,
    slots: Arc<rendezvous::Slots>,
    agreements: Arc<terms::Agreements>,
}

impl Users {
    /// The users in a store. `hooks` are called inside the writes that make or remove devices.
    pub fn new(store: Store, clock: Clock, name: OwnedServerName, hooks: DeviceHooks) -> Self {
        Self {
            store,
            clock,
            name,
            hooks,
            passwords: password::Pool::new(password::CHARS_MIN),
            tokens: Arc::default(),
            presence: Arc::default(),
            tells: None,
            nonces: Arc::default(),
            mailer: Arc::default(),
            resets: Arc::default(),
            oauth: Arc::default(),
            slots: Arc::default(),
            agreements: Arc::default(),
        }
    }

    /// With a way to send mails.
    #[must_use]
    pub fn with_mailer(self, mailer: Option<Mailer>) -> Self {
        self.set_mailer(mailer);
        self
    }

    /// Sends mails another way from now on.
    pub fn set_mailer(&self, mailer: Option<Mailer>) {
        *self.mailer.write().unwrap_or_else(PoisonError::into_inner) = mailer;
    }

    fn mailer(&self) -> Option<Mailer> {
        self.mailer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// With another length of the shortest password.
    #[must_use]
    pub fn with_password_min(self, chars: Option<usize>) -> Self {
        self.set_password_min(chars);
        self
    }

    /// Another length of the shortest password from now on.
    pub fn set_password_min(&self, chars: Option<usize>) {
        self.passwords.set_chars_min(chars.unwrap_or(password::CHARS_MIN));
    }

    /// With a way to tell other servers who is there; without, nothing is told to them or taken from them.
    #[must_use]
    pub fn with_presence(self, tells: Option<presence::Send>) -> Self {
        Self { tells, ..self }
    }

    /// The user id that goes with a local part.
    fn id_of(&self, localpart: &str) -> Result<OwnedUserId, UserError> {
        // spec: https://spec.matrix.org/v1.19/appendices/#user-identifiers
        let fits = !localpart.is_empty()
            && localpart.bytes().all(
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+'),
            );
        let id = format!("@{localpart}:{}", self.name);
        if !fits || id.len() > USER_ID_BYTES_MAX {
            return Err(UserError::InvalidName);
        }
        UserId::parse(id).map_err(|_| UserError::InvalidName)
    }
}

/// What the end-to-end encryption area does in the same write when a device comes, changes or goes. It stands to the
/// right of this area, so it is handed in.
#[derive(Clone, Copy)]
pub struct DeviceHooks {
    /// A device was made or renamed: those who share a room have to hear of it.
    pub changed: DeviceHook,
    /// A device is gone: so are its keys and the messages that waited for it.
    pub deleted: DeviceHook,
}

/// See [`DeviceHooks`].
pub type DeviceHook = fn(&mut WriteTx<'_>, &UserId, &DeviceId) -> Result<(), StoreError>;

impl DeviceHooks {
    /// Does nothing: for tests of this area alone.
    pub fn none() -> Self {
        Self { changed: |_, _, _| Ok(()), deleted: |_, _, _| Ok(()) }
    }
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
    #[error("the password must have {min} to {max} characters")]
    WeakPassword {
        /// The fewest characters.
        min: usize,
        /// The most.
        max: usize,
    },
    /// No such user, or not its password: the two are not told apart.
    #[error("the user name or password is wrong")]
    WrongPassword,
    /// The account was deactivated.
    #[error("this account was deactivated")]
    Deactivated,
    /// An administrator has locked the account.
    #[error("this account is locked; ask whoever runs this server")]
    Locked,
    /// The access token's time is over; a refresh or a new log-in on the same device goes on.
    #[error("this access token has expired; refresh it or log in again")]
    ExpiredToken,
    /// A refresh token nobody has, or no longer.
    #[error("this refresh token is not (or no longer) valid; log in again")]
    BadRefreshToken,
    /// A log-in token nobody has, or that was used or is too old.
    #[error("this log-in token is not valid, was used before, or is too old; ask for a new one")]
    BadLoginToken,
    /// This server sends no mails.
    #[error("this server sends no e-mail; its operator has to set up [email]")]
    NoMail,
    /// The mail server did not take the mail.
    #[error("the e-mail could not be sent; try again later")]
    MailFailed,
    /// Another account has the address.
    #[error("this e-mail address belongs to an account already")]
    AddressInUse,
    /// No account has the address.
    #[error("no account here has this e-mail address")]
    UnknownAddress,
    /// The link in the mail was not followed yet, or the session is over.
    #[error("the e-mail address is not proven; open the link in the e-mail first")]
    NotProven,
    /// The registration token is none, or was used.
    #[error("this registration token is not valid, or was used before")]
    BadRegistrationToken,
    /// A registration token has other characters or another length than the specification allows.
    #[error("a registration token has 1 to 64 of the characters A-Z a-z 0-9 . _ ~ -")]
    InvalidRegistrationToken,
    /// Whoever asks does not know the operator's shared secret.
    #[error("the HMAC is wrong; is it made with this server's `registration_shared_secret`?")]
    BadSharedSecret,
    /// No such device of this user.
    #[error("no such device")]
    NoDevice,
    /// No such user here.
    #[error("no such user here")]
    NoUser,
    /// A device id, a name or a value is longer than anybody needs.
    #[error("{0}")]
    TooLarge(Cow<'static, str>),
    /// A value that the specification does not allow.
    #[error("{0}")]
    Invalid(Cow<'static, str>),
    /// Too many passwords are being hashed already.
    #[error("too many log-ins at once; try again in a moment")]
    Busy,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A user's number, given out now if need be.
fn user_nid(tx: &mut WriteTx<'_>, user: &UserId) -> Result<Nid, StoreError> {
    tx.intern(Kind::User, user.as_str())
}

/// The number of a user that has an account which is not deactivated.
fn active(tx: &crate::store::ReadTx<'_>, user: &UserId) -> Result<Nid, UserError> {
    let row = schema::users::find(tx, user.as_str())?.ok_or(UserError::NoUser)?;
    if row.deactivated {
        return Err(UserError::Deactivated);
    }
    Ok(row.user)
}

/// The specification's bound on user ids.
const USER_ID_BYTES_MAX: usize = 255;
