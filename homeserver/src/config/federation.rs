//! `[federation]`: how ordinary Matrix servers reach this node, and how it reaches them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use ruma::OwnedServerName;
use serde::Deserialize;

use super::{ConfigError, stronger};
use crate::http::limits::ORIGIN_RATE;

/// The flags of the section; in the file they stand under `[federation]` without their prefix.
#[derive(Args, Clone, Debug, Default)]
pub struct FederationFlags {
    /// Answer ordinary Matrix servers here, e.g. 0.0.0.0:8448; needs --server-name or a zone with a domain of its own
    #[arg(
        id = "federation_listen",
        long = "federation-listen",
        value_name = "ADDR",
        env = "MANGROVE_FEDERATION_LISTEN"
    )]
    pub listen: Option<String>,
    /// PEM file of the certificate chain for --federation-listen; read again when it changes
    #[arg(
        id = "federation_tls_cert",
        long = "federation-tls-cert",
        value_name = "FILE",
        env = "MANGROVE_FEDERATION_TLS_CERT"
    )]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of the certificate's private key
    #[arg(
        id = "federation_tls_key",
        long = "federation-tls-key",
        value_name = "FILE",
        env = "MANGROVE_FEDERATION_TLS_KEY"
    )]
    pub tls_key: Option<PathBuf>,
    /// Fetch the certificate from Let's Encrypt (the listener must be reachable as port 443 of the server's name)
    #[arg(
        id = "federation_acme",
        long = "federation-acme",
        env = "MANGROVE_FEDERATION_ACME",
        conflicts_with = "federation_tls_cert"
    )]
    pub acme: bool,
    /// Mail address for the authority that issues the certificate
    #[arg(
        id = "federation_acme_contact",
        long = "federation-acme-contact",
        value_name = "MAIL",
        env = "MANGROVE_FEDERATION_ACME_CONTACT"
    )]
    pub acme_contact: Option<String>,
    /// Directory of another authority than Let's Encrypt
    #[arg(
        long = "federation-acme-directory",
        value_name = "URL",
        env = "MANGROVE_FEDERATION_ACME_DIRECTORY"
    )]
    pub acme_directory: Option<String>,
    /// Speak plain HTTP on --federation-listen: a reverse proxy has the certificate
    #[arg(
        id = "federation_behind_proxy",
        long = "federation-behind-proxy",
        env = "MANGROVE_FEDERATION_BEHIND_PROXY"
    )]
    pub behind_proxy: bool,
    /// PEM file of a further authority whose certificates are believed (repeatable)
    #[arg(
        id = "federation_extra_ca",
        long = "federation-extra-ca",
        value_name = "FILE",
        env = "MANGROVE_FEDERATION_EXTRA_CA",
        value_delimiter = ' '
    )]
    pub extra_ca: Vec<PathBuf>,
    /// Let other servers' names lead to private addresses (test networks)
    #[arg(
        id = "federation_allow_private_addresses",
        long = "federation-allow-private-addresses",
        env = "MANGROVE_FEDERATION_ALLOW_PRIVATE_ADDRESSES"
    )]
    pub allow_private_addresses: bool,
    /// Server that is believed about the keys of servers that cannot be asked themselves (repeatable)
    #[arg(
        id = "federation_notaries",
        long = "federation-notary",
        value_name = "SERVER",
        env = "MANGROVE_FEDERATION_NOTARIES",
        value_delimiter = ' '
    )]
    pub notaries: Vec<String>,
    /// What /.well-known/matrix/server says: host and port where other servers find this one
    #[arg(
        id = "federation_well_known",
        long = "federation-well-known",
        value_name = "HOST:PORT",
        env = "MANGROVE_FEDERATION_WELL_KNOWN"
    )]
    pub well_known: Option<String>,
    /// Answer ordinary servers on --http too: for a proxy that passes everything on to one place
    #[arg(
        id = "federation_with_clients",
        long = "federation-with-clients",
        env = "MANGROVE_FEDERATION_WITH_CLIENTS"
    )]
    pub with_clients: bool,
    /// Exchange nothing with this server, or those that a pattern like *.spam.example names (repeatable)
    #[arg(
        id = "federation_blocked",
        long = "federation-block",
        value_name = "SERVER",
        env = "MANGROVE_FEDERATION_BLOCKED",
        value_delimiter = ' '
    )]
    pub blocked: Vec<String>,
    /// Requests that one other server may make a second
    #[arg(
        id = "federation_requests_per_second",
        long = "federation-requests-per-second",
        value_name = "N",
        env = "MANGROVE_FEDERATION_REQUESTS_PER_SECOND",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub requests_per_second: Option<u32>,
    /// Exchange nothing with ordinary servers
    #[arg(
        id = "no_federation",
        long = "no-federation",
        env = "MANGROVE_NO_FEDERATION",
        conflicts_with = "federation_listen"
    )]
    pub off: bool,
}

/// The section of the file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FederationFile {
    enabled: Option<bool>,
    listen: Option<String>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    acme: Option<bool>,
    acme_contact: Option<String>,
    acme_directory: Option<String>,
    behind_proxy: Option<bool>,
    extra_ca: Option<Vec<PathBuf>>,
    allow_private_addresses: Option<bool>,
    notaries: Option<Vec<String>>,
    well_known: Option<String>,
    with_clients: Option<bool>,
    blocked: Option<Vec<String>>,
    requests_per_second: Option<u32>,
}

/// The settings in force, checked.
#[derive(Clone, Debug)]
pub struct Federation {
    /// Whether ordinary servers are spoken to at all (by a name that they can reach).
    pub enabled: bool,
    /// Where they are answered.
    pub listen: Option<(SocketAddr, Tls)>,
    /// Further authorities.
    pub extra_ca: Vec<PathBuf>,
    /// Whether names may lead to private addresses.
    pub allow_private_addresses: bool,
    /// Who is believed about the keys of servers that cannot be asked.
    pub notaries: Vec<OwnedServerName>,
    /// What `/.well-known/matrix/server` says.
    pub well_known: Option<String>,
    /// Whether the client API's listener answers other servers too.
    pub with_clients: bool,
    /// Servers with which nothing is exchanged.
    pub blocked: Vec<String>,
    /// Requests that one other server may make a second.
    pub requests_per_second: u32,
}

impl Default for Federation {
    fn default() -> Self {
        Self {
            enabled: true,
            listen: None,
            extra_ca: Vec::new(),
            allow_private_addresses: false,
            notaries: Vec::new(),
            well_known: None,
            with_clients: false,
            blocked: Vec::new(),
            requests_per_second: ORIGIN_RATE,
        }
    }
}

/// Where the listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tls {
    /// Two PEM files: chain and key.
    Files(PathBuf, PathBuf),
    /// An ACME authority: directory and contact.
    Acme(String, Option<String>),
    /// A reverse proxy has it.
    Proxy,
}

impl Federation {
    pub(super) fn load(flags: &FederationFlags, file: FederationFile) -> Result<Self, ConfigError> {
        let enabled = !flags.off && file.enabled.unwrap_or(true);
        let cert = flags.tls_cert.clone().or(file.tls_cert);
        let key = flags.tls_key.clone().or(file.tls_key);
        let acme = flags.acme || file.acme.unwrap_or(false);
        let proxy = flags.behind_proxy || file.behind_proxy.unwrap_or(false);
        let listen = match flags.listen.as_deref().or(file.listen.as_deref()).filter(|_| enabled) {
            None => None,
            Some(text) => {
                let address = text.parse().map_err(|_| {
                    ConfigError(format!(
                        "federation listen {text:?}: not an IP address and port; e.g. 0.0.0.0:8448 or [::]:8448"
                    ))
                })?;
                let tls = match (cert, key, acme, proxy) {
                    (Some(cert), Some(key), false, false) => Tls::Files(cert, key),
                    (None, None, true, false) => {
                        let directory = flags.acme_directory.clone().or(file.acme_directory);
                        let contact = flags.acme_contact.clone().or(file.acme_contact);
                        Tls::Acme(directory.unwrap_or_else(|| LETS_ENCRYPT.into()), contact)
                    }
                    (None, None, false, true) => Tls::Proxy,
                    (Some(_), None, ..) | (None, Some(_), ..) => {
                        return Err(ConfigError(
                            "federation: tls_cert and tls_key belong together; name both PEM files".into(),
                        ));
                    }
                    _ => {
                        return Err(ConfigError(
                            "federation listen: choose where the certificate comes from: tls_cert and tls_key, acme, \
                             or behind_proxy"
                                .into(),
                        ));
                    }
                };
                Some((address, tls))
            }
        };
        let extra_ca = stronger(&flags.extra_ca, file.extra_ca);
        if let Some(missing) = extra_ca.iter().find(|path| !path.is_file()) {
            return Err(missing_file("extra_ca", missing));
        }
        if let Some((_, Tls::Files(cert, key))) = &listen
            && let Some(missing) = [cert, key].into_iter().find(|path| !path.is_file())
        {
            return Err(missing_file("tls_cert, tls_key", missing));
        }
        let notaries = stronger(&flags.notaries, file.notaries)
            .into_iter()
            .map(|name| {
                OwnedServerName::try_from(name.as_str()).map_err(|_| {
                    ConfigError(format!(
                        "federation notaries {name:?}: no server name; e.g. matrix.example.org"
                    ))
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let well_known = flags.well_known.clone().or(file.well_known);
        if let Some(bad) = well_known.as_deref().filter(|name| ruma::ServerName::parse(*name).is_err()) {
            return Err(ConfigError(format!(
                "federation well_known {bad:?}: not a host and port; e.g. matrix.example.org:443"
            )));
        }
        let allow_private_addresses =
            flags.allow_private_addresses || file.allow_private_addresses.unwrap_or(false);
        let with_clients = enabled && (flags.with_clients || file.with_clients.unwrap_or(false));
        let blocked = stronger(&flags.blocked, file.blocked);
        if let Some(bad) = blocked.iter().find(|pattern| !is_pattern(pattern)) {
            return Err(ConfigError(format!(
                "federation blocked {bad:?}: no server name and no pattern of one; e.g. evil.example or *.spam.example"
            )));
        }
        let requests_per_second =
            flags.requests_per_second.or(file.requests_per_second).unwrap_or(ORIGIN_RATE);
        if requests_per_second == 0 {
            return Err(ConfigError(
                "federation requests_per_second: 0 would answer nobody; at least 1, or enabled = false"
                    .into(),
            ));
        }
        Ok(Self {
            enabled,
            listen,
            extra_ca,
            allow_private_addresses,
            notaries,
            well_known,
            with_clients,
            blocked,
            requests_per_second,
        })
    }

    /// Takes over from other settings what can change while the node runs.
    pub(crate) fn take_changeable(&mut self, other: &Self) {
        self.well_known.clone_from(&other.well_known);
        self.blocked.clone_from(&other.blocked);
        self.requests_per_second = other.requests_per_second;
    }
}

/// Whether a text is a server name, or would be one with characters in the place of `*` and `?`.
fn is_pattern(text: &str) -> bool {
    !text.is_empty() && ruma::ServerName::parse(text.replace(['*', '?'], "1")).is_ok()
}

fn missing_file(key: &str, path: &Path) -> ConfigError {
    ConfigError(format!("federation {key}: there is no file {}; name a PEM file", path.display()))
}

const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Federation, String> {
        let file = toml::from_str(text).map_err(|error| error.to_string())?;
        Federation::load(&FederationFlags::default(), file).map_err(|error| error.to_string())
    }

    #[test]
    fn a_listener_says_where_its_certificate_comes_from() {
        assert_eq!(load("").unwrap().listen, None);
        let acme = load("listen = \"0.0.0.0:443\"\nacme = true\nacme_contact = \"a@b.c\"").unwrap();
        assert_eq!(acme.listen.unwrap().1, Tls::Acme(LETS_ENCRYPT.into(), Some("a@b.c".into())));
        let proxy = load("listen = \"127.0.0.1:8448\"\nbehind_proxy = true").unwrap();
        assert_eq!(proxy.listen.unwrap().1, Tls::Proxy);
        assert!(load("enabled = false\nlisten = \"127.0.0.1:1\"").unwrap().listen.is_none());
        for (text, word) in [
            ("listen = \"127.0.0.1:1\"", "choose"),
            ("listen = \"8448\"", "0.0.0.0:8448"),
            ("listen = \"127.0.0.1:1\"\ntls_cert = \"/c\"", "both"),
            ("listen = \"127.0.0.1:1\"\ntls_cert = \"/no/c\"\ntls_key = \"/no/k\"", "/no/c"),
            ("listen = \"127.0.0.1:1\"\nacme = true\nbehind_proxy = true", "choose"),
            ("extra_ca = [\"/no/ca\"]", "/no/ca"),
            ("notaries = [\"a b\"]", "matrix.example.org"),
            ("well_known = \"a b\"", "matrix.example.org:443"),
            ("blocked = [\"a b\"]", "*.spam.example"),
            ("requests_per_second = 0", "at least 1"),
            ("lisen = 1", "lisen"),
        ] {
            let error = load(text).unwrap_err();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
