//! Reading the settings again while the node runs: HUP and `mangrove ctl reload`. What can be applied is; the rest is named.

use router::net::{Node, PeerUri};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::log::Log;
use crate::config::{Config, Flags};
use crate::http::tls::Acceptor;
use crate::server::Server;

/// An order to reload, and where its outcome goes.
pub(super) type Order = oneshot::Sender<Result<Value, String>>;

/// Gives the order and waits for the outcome.
pub(super) async fn order(orders: &mpsc::Sender<Order>) -> Result<Value, String> {
    let (told, outcome) = oneshot::channel();
    let gone = || "the node is ending".to_owned();
    orders.send(told).await.map_err(|_| gone())?;
    outcome.await.map_err(|_| gone())?
}

/// What runs, as far as settings reach it.
pub(super) struct Running<'a> {
    pub(super) node: &'a Node,
    /// None in a node that only routes.
    pub(super) server: Option<&'a Server>,
    /// The certificate of the listener for ordinary servers.
    pub(super) tls: Option<&'a Acceptor>,
}

/// Reads the settings again, as often as it is asked.
pub(super) struct Reload {
    flags: Flags,
    log: Log,
    /// What holds: of settings that wait for a restart, what they were at the start.
    config: Config,
}

impl Reload {
    pub(super) fn new(flags: Flags, log: Log, config: Config) -> Self {
        Self { flags, log, config }
    }

    /// Reads the settings from where they came from, applies what can be applied, and says what it did. If anything is
    /// wrong with them nothing has changed.
    pub(super) async fn run(&mut self, running: Running<'_>) -> Result<Value, String> {
        let outcome = self.apply(running).await;
        match &outcome {
            Ok(done) => tracing::info!(%done, "the settings were read again"),
            Err(error) => tracing::error!(error, "the settings were not read again"),
        }
        outcome
    }

    async fn apply(&mut self, running: Running<'_>) -> Result<Value, String> {
        let unchanged = |error: &dyn std::fmt::Display| format!("{error}; nothing was changed");
        let fresh = Config::load(&self.flags).map_err(|error| unchanged(&error))?;
        Log::check(&fresh.log).map_err(|error| unchanged(&error))?;
        let mut changes = Changes::between(&self.config, &fresh);
        if running.server.is_none() {
            changes.only_routing();
        }
        // What can still be refused comes first; of the certificate a broken one stays out by itself.
        if let Some(tls) = running.tls
            && tls.reload().map_err(|error| unchanged(&error))?
        {
            changes.applied.push("certificate");
        }
        if let Some(server) = running.server {
            server.reload(super::node::settings(&fresh)).await.map_err(|error| unchanged(&error))?;
        }
        self.log.change(&fresh.log).map_err(|error| error.to_string())?;
        let refused = change_peers(running.node, &self.config.peers, &fresh.peers).await;
        let kept = self.config.clone();
        self.config = fresh;
        keep(&mut self.config, kept);
        let mut told = json!({ "applied": changes.applied });
        if !changes.waiting.is_empty() {
            told["needs_a_restart"] = json!(changes.waiting);
        }
        if !refused.is_empty() {
            told["peers_refused"] = json!(refused);
        }
        Ok(told)
    }
}

/// Keeps links to those that are named now, and to no others that the settings had named.
async fn change_peers(node: &Node, before: &[PeerUri], now: &[PeerUri]) -> Vec<String> {
    let mut refused = Vec::new();
    for gone in before.iter().filter(|peer| !now.contains(peer)) {
        // It may have been let go of by hand.
        let _ = node.remove_peer(gone).await;
    }
    for new in now.iter().filter(|peer| !before.contains(peer)) {
        if let Err(error) = node.add_peer(new.clone()).await {
            refused.push(error.to_string());
        }
    }
    refused
}

/// Names of settings that have changed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    /// They hold at once.
    applied: Vec<&'static str>,
    /// They hold after a restart.
    waiting: Vec<&'static str>,
}

/// Settings that a node feels which only routes, and whether they hold at once.
const ROUTING: [&str; 9] =
    ["log", "peer", "data", "homeserver", "listen", "multicast", "tun", "log_format", "metrics"];

impl Changes {
    /// Every setting is in one of the two lists; the pattern makes sure that none is forgotten.
    fn between(before: &Config, now: &Config) -> Self {
        let Config {
            data,
            homeserver,
            http,
            listen,
            peers,
            multicast,
            discoverable,
            registration,
            registration_shared_secret,
            open_directory,
            hosts,
            admin_everywhere,
            rate_limits,
            tun,
            name,
            default_room_version,
            appservices,
            push_private_addresses,
            presence,
            log,
            log_format,
            metrics,
            federation,
            storage,
            public_url,
            accounts,
            media,
            calls,
        } = now;
        let mut lasting = federation.clone();
        lasting.take_changeable(&before.federation);
        let applied = [
            ("discoverable", *discoverable != before.discoverable),
            ("registration", *registration != before.registration),
            ("registration_shared_secret", *registration_shared_secret != before.registration_shared_secret),
            ("open_directory", *open_directory != before.open_directory),
            ("hosts", *hosts != before.hosts),
            ("admin_everywhere", *admin_everywhere != before.admin_everywhere),
            ("rate_limits", *rate_limits != before.rate_limits),
            ("default_room_version", *default_room_version != before.default_room_version),
            ("appservices", !same_text(appservices, &before.appservices)),
            ("log", *log != before.log),
            ("peer", *peers != before.peers),
            ("public_url", *public_url != before.public_url),
            ("federation.well_known", federation.well_known != before.federation.well_known),
            ("federation.blocked", federation.blocked != before.federation.blocked),
            (
                "federation.requests_per_second",
                federation.requests_per_second != before.federation.requests_per_second,
            ),
            ("accounts", !same_text(&accounts.general, &before.accounts.general)),
            ("terms", !same_text(&accounts.terms, &before.accounts.terms)),
            ("captcha", !same_text(&accounts.captcha, &before.accounts.captcha)),
            ("email", accounts.email != before.accounts.email),
            ("turn", calls.turn != before.calls.turn),
        ];
        let waiting = [
            ("data", *data != before.data),
            ("homeserver", *homeserver != before.homeserver),
            ("http", *http != before.http),
            ("listen", *listen != before.listen),
            ("multicast", *multicast != before.multicast),
            ("tun", *tun != before.tun),
            ("zone, server_name", !same_text(name, &before.name)),
            ("push_private_addresses", *push_private_addresses != before.push_private_addresses),
            ("presence", *presence != before.presence),
            ("log_format", *log_format != before.log_format),
            ("metrics", *metrics != before.metrics),
            ("federation", !same_text(&lasting, &before.federation)),
            ("storage", *storage != before.storage),
            ("media", *media != before.media),
            ("oidc", accounts.oidc != before.accounts.oidc),
            ("livekit", calls.livekit != before.calls.livekit),
        ];
        let changed = |list: &[(&'static str, bool)]| {
            list.iter().filter(|(_, changed)| *changed).map(|(name, _)| *name).collect()
        };
        Self { applied: changed(&applied), waiting: changed(&waiting) }
    }

    /// Leaves out what a node without a homeserver does not feel.
    fn only_routing(&mut self) {
        self.applied.retain(|name| ROUTING.contains(name));
        self.waiting.retain(|name| ROUTING.contains(name));
    }
}

/// For what has no secrets that `Debug` would hide.
fn same_text<T: std::fmt::Debug>(one: &T, other: &T) -> bool {
    format!("{one:?}") == format!("{other:?}")
}

/// Puts back into `config` what waits for a restart, so that the next reload names it again.
fn keep(config: &mut Config, before: Config) {
    config.data = before.data;
    config.homeserver = before.homeserver;
    config.http = before.http;
    config.listen = before.listen;
    config.multicast = before.multicast;
    config.tun = before.tun;
    config.name = before.name;
    config.push_private_addresses = before.push_private_addresses;
    config.presence = before.presence;
    config.log_format = before.log_format;
    config.metrics = before.metrics;
    let fresh = std::mem::replace(&mut config.federation, before.federation);
    config.federation.take_changeable(&fresh);
    config.storage = before.storage;
    config.media = before.media;
    config.accounts.oidc = before.accounts.oidc;
    config.calls.livekit = before.calls.livekit;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(file: &str) -> Config {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, format!("data = \"d\"\n{file}")).unwrap();
        Config::load(&Flags { config: Some(path), ..Flags::default() }).unwrap()
    }

    #[test]
    fn what_changed_is_named_and_what_waits_is_named_again() {
        let email = "[email]\nhost = \"h.org\"\nfrom = \"a@b.org\"\nuser = \"u\"\npassword";
        let before = config(&format!("multicast_password = \"a\"\n{email} = \"x\""));
        assert_eq!(Changes::between(&before, &before), Changes::default());
        // Secrets, too, though they are never shown.
        let now = config(&format!(
            "multicast_password = \"b\"\nregistration = \"open\"\nrate_limits = false\n{email} = \"y\"\n\
             [storage]\nevent_cache = 64\n[federation]\nwell_known = \"m.example.org:443\"\n\
             blocked = [\"evil.example\"]"
        ));
        let changes = Changes::between(&before, &now);
        assert_eq!(
            changes.applied,
            ["registration", "rate_limits", "federation.well_known", "federation.blocked", "email"]
        );
        assert_eq!(changes.waiting, ["multicast", "storage"]);
        let mut kept = now.clone();
        keep(&mut kept, before);
        assert_eq!(Changes::between(&kept, &now).waiting, ["multicast", "storage"]);
        assert!(Changes::between(&kept, &now).applied.is_empty());
    }
}
