//! The homeserver put together: every area, each built from those before it. No logic.

use std::sync::Arc;

use ruma::OwnedServerName;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    http::{auth::VerifyXMatrix, limits::Limits},
    remote::Remote,
    user::Users,
};

/// All areas, shared by every handler.
pub struct Server {
    /// Our server name.
    pub name: OwnedServerName,
    /// What the operator chose.
    pub settings: Settings,
    /// The one wall clock.
    pub clock: Clock,
    /// How often one caller may do one kind of thing.
    pub limits: Limits,
    /// Cancelled when the node ends: long polls answer at once.
    pub shutdown: CancellationToken,
    /// Accounts, tokens, devices, profiles, account data.
    pub users: Users,
    /// Checks other servers' signatures.
    pub xmatrix: Arc<dyn VerifyXMatrix>,
    /// Speaks to other servers.
    pub remote: Remote,
}

/// What a [`Server`] is made of.
pub struct Parts {
    /// Our server name.
    pub name: OwnedServerName,
    /// What the operator chose.
    pub settings: Settings,
    /// The one wall clock.
    pub clock: Clock,
    /// Speaks to other servers, and checks their signatures.
    pub remote: Remote,
}

impl Server {
    /// Builds every area, in order.
    pub fn start(parts: Parts) -> Arc<Self> {
        let users = Users::new(parts.name.clone(), parts.clock.clone());
        Arc::new(Self {
            limits: Limits::new(parts.settings.rate_limits, parts.clock.clone()),
            shutdown: CancellationToken::new(),
            name: parts.name,
            settings: parts.settings,
            clock: parts.clock,
            users,
            xmatrix: Arc::new(parts.remote.clone()),
            remote: parts.remote,
        })
    }
}

/// The operator's choices that requests feel.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Who may make an account.
    pub registration: Registration,
    /// Off only for benches.
    pub rate_limits: bool,
    /// Whether profiles, aliases and public rooms are shown without a token. Off: any web page can call a loopback listener.
    pub open_directory: bool,
    /// Further host names that listeners answer to.
    pub hosts: Vec<String>,
    /// The address clients are told in `/.well-known/matrix/client`; `None`: the one they asked.
    pub public_url: Option<String>,
    /// The largest media upload in bytes.
    pub upload_bytes_max: u64,
    /// What remote media may occupy on disk.
    pub remote_media_bytes_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            registration: Registration::Token,
            rate_limits: true,
            open_directory: false,
            hosts: Vec::new(),
            public_url: None,
            upload_bytes_max: 50 << 20,
            remote_media_bytes_max: 1 << 30,
        }
    }
}

/// Who may make an account over the client API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registration {
    /// Whoever has a one-time token.
    Token,
    /// Everybody who reaches the listener.
    Open,
    /// Nobody: accounts are made on the command line.
    Closed,
}
