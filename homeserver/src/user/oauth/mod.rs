//! OAuth 2.0 for clients: who they are, what a user allowed them, and the browser in which the user did.
// spec: https://spec.matrix.org/v1.19/client-server-api/#oauth-20-api

mod browser;
mod clients;
mod grants;

pub use self::{
    browser::{BROWSER_MS, Browser},
    clients::{ClientError, ClientMetadata},
    grants::{DEVICE_POLL_S, DeviceAsk, GRANT_MS, Grant, GrantError, Scope},
};

/// What the node remembers of log-ins under way; none of it is needed after a restart.
#[derive(Default)]
pub(super) struct State {
    browsers: browser::Browsers,
    grants: grants::Grants,
}
