//! The node's settings: one TOML file, the same keys as flags and environment variables, one precedence.
//!
//! A flag wins over an environment variable, which wins over the file, which wins over the default. A list given at a
//! stronger place replaces the list of a weaker one. Keys of the file are the flags' names with `_`; `--no-x` is
//! `x = false`. Unknown keys are refused.

mod accounts;
mod calls;
mod federation;
mod media;
mod storage;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use router::config::Secret;
use router::net::{ListenUri, Multicast, MulticastInterfaces, PeerUri};
use ruma::ServerName;
use serde::Deserialize;

use crate::account::NameChoice;
use crate::appservice::registration as appservice;

pub use federation::{Federation, FederationFlags, Tls};
pub use media::{MediaFlags, MediaSettings};
pub use storage::{Storage, StorageFlags};

/// What is wrong with a flag, a variable or the file, and what to do about it; one line.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// Who may make an account over the client API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    /// Whoever has a registration token (`mangrove account token`).
    #[default]
    Token,
    /// Anybody who can reach the client API.
    Open,
    /// Nobody; accounts are made with `mangrove account create`.
    Closed,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// Who finds this node's people and public rooms without typing a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Discoverable {
    /// Neighbours that multicast found: the same cable, Wi-Fi or ad-hoc radio, one hop.
    #[default]
    Neighbours,
    /// Nobody.
    Nobody,
}

/// The flags of `mangrove run`; each is also an environment variable and, but for `--config` and `--check-config`, a
/// key of the file.
#[derive(Args, Clone, Debug, Default)]
pub struct Flags {
    /// Directory of the node's key, identity, database and media [default: the XDG data home + /mangrove]
    #[arg(long, value_name = "DIR", env = "MANGROVE_DATA")]
    pub data: Option<PathBuf>,
    /// Only route: no homeserver, no client API, no identity or database; a node that carries others' packets
    #[arg(long, env = "MANGROVE_NO_HOMESERVER")]
    pub no_homeserver: bool,
    /// Address of the client API; port 0 picks a free one and prints it [default: 127.0.0.1:8008]
    #[arg(long, value_name = "ADDR", env = "MANGROVE_HTTP")]
    pub http: Option<String>,
    /// Accept overlay links here, e.g. tcp://0.0.0.0:9001?password=.. (repeatable)
    #[arg(long, value_name = "URI", env = "MANGROVE_LISTEN", value_delimiter = ' ')]
    pub listen: Vec<String>,
    /// Keep an overlay link to this node, e.g. tcp://host:9001?key=HEX&password=..&cost=.. (repeatable)
    #[arg(long, value_name = "URI", env = "MANGROVE_PEER", value_delimiter = ' ')]
    pub peer: Vec<String>,
    /// Find neighbours by multicast on this interface (repeatable) [default: every interface that can]
    #[arg(long, value_name = "IFACE", env = "MANGROVE_MULTICAST", value_delimiter = ' ')]
    pub multicast: Vec<String>,
    /// Do not look for neighbours by multicast
    #[arg(long, env = "MANGROVE_NO_MULTICAST", conflicts_with = "multicast")]
    pub no_multicast: bool,
    /// Only neighbours that know this password are linked to by multicast
    #[arg(long, value_name = "PASSWORD", env = "MANGROVE_MULTICAST_PASSWORD", hide_env_values = true)]
    pub multicast_password: Option<String>,
    /// Who sees this node's people and public rooms [default: neighbours]
    #[arg(long, value_enum, env = "MANGROVE_DISCOVERABLE")]
    pub discoverable: Option<Discoverable>,
    /// Who may make an account over the client API [default: token]
    #[arg(long, value_enum, env = "MANGROVE_REGISTRATION")]
    pub registration: Option<Registration>,
    /// Where clients reach this node, e.g. `https://chat.example.org` [default: the address they ask]
    #[arg(long, value_name = "URL", env = "MANGROVE_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// Whoever knows this secret makes accounts at /_synapse/admin/v1/register, as scripts for Synapse do
    #[arg(long, value_name = "SECRET", env = "MANGROVE_REGISTRATION_SHARED_SECRET", hide_env_values = true)]
    pub registration_shared_secret: Option<String>,
    /// Show profiles, aliases and public rooms without an access token
    #[arg(long, env = "MANGROVE_OPEN_DIRECTORY")]
    pub open_directory: bool,
    /// Answer clients that ask for this host name too, e.g. one that a proxy passes on (repeatable)
    #[arg(long, value_name = "NAME", env = "MANGROVE_HOSTS", value_delimiter = ' ')]
    pub hosts: Vec<String>,
    /// Answer /_synapse/admin beyond this machine too [default: loopback alone]
    #[arg(long, env = "MANGROVE_ADMIN_EVERYWHERE")]
    pub admin_everywhere: bool,
    /// Answer every client request, however fast they come (for benchmarks)
    #[arg(long, env = "MANGROVE_NO_RATE_LIMITS")]
    pub no_rate_limits: bool,
    /// Give the node's IPv6 address to a TUN interface of this name (needs CAP_NET_ADMIN)
    #[arg(long, value_name = "NAME", env = "MANGROVE_TUN")]
    pub tun: Option<String>,
    /// End of the server's name, chosen once, at the first start [default: mesh.alt]
    #[arg(long, value_name = "ZONE", env = "MANGROVE_ZONE", conflicts_with = "server_name")]
    pub zone: Option<String>,
    /// An own domain as the server's name instead of a name made from its identity; chosen once, at the first start
    #[arg(long, value_name = "NAME", env = "MANGROVE_SERVER_NAME")]
    pub server_name: Option<String>,
    /// Tell who is online to those who share a room on this node [default: false]
    #[arg(long, env = "MANGROVE_PRESENCE")]
    pub presence: bool,
    /// Let an application service in by its registration file (YAML, repeatable)
    #[arg(long, value_name = "FILE", env = "MANGROVE_APPSERVICES", value_delimiter = ' ')]
    pub appservices: Vec<PathBuf>,
    /// Let push gateways stand in the own network and speak without TLS [default: false]
    #[arg(long, env = "MANGROVE_PUSH_PRIVATE_ADDRESSES")]
    pub push_private_addresses: bool,
    /// Room version of new rooms [default: 12]
    #[arg(long, value_name = "VERSION", env = "MANGROVE_DEFAULT_ROOM_VERSION")]
    pub default_room_version: Option<String>,
    /// What to log, as in RUST_LOG: error, warn, info, debug, trace, or per module [default: warn]
    #[arg(long, value_name = "FILTER", env = "MANGROVE_LOG")]
    pub log: Option<String>,
    #[command(flatten)]
    pub federation: FederationFlags,
    #[command(flatten)]
    pub storage: StorageFlags,
    #[command(flatten)]
    pub media: MediaFlags,
    /// Log text for people or JSON for programs [default: text]
    #[arg(long, value_enum, env = "MANGROVE_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Tell Prometheus about the node here, at /metrics, e.g. 127.0.0.1:9008 [default: nowhere]
    #[arg(long, value_name = "ADDR", env = "MANGROVE_METRICS")]
    pub metrics: Option<String>,
    /// Read the settings from this TOML file
    #[arg(long, value_name = "FILE", env = "MANGROVE_CONFIG")]
    pub config: Option<PathBuf>,
    /// Check flags, variables and file, say what is wrong, start nothing
    #[arg(long)]
    pub check_config: bool,
}

/// The file: the same keys as [`Flags`].
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    homeserver: Option<bool>,
    http: Option<String>,
    listen: Option<Vec<String>>,
    peer: Option<Vec<String>>,
    multicast: Option<SwitchOrList>,
    multicast_password: Option<String>,
    discoverable: Option<Discoverable>,
    registration: Option<Registration>,
    registration_shared_secret: Option<String>,
    open_directory: Option<bool>,
    hosts: Option<Vec<String>>,
    admin_everywhere: Option<bool>,
    rate_limits: Option<bool>,
    tun: Option<String>,
    zone: Option<String>,
    server_name: Option<String>,
    presence: Option<bool>,
    push_private_addresses: Option<bool>,
    appservices: Option<Vec<PathBuf>>,
    default_room_version: Option<String>,
    log: Option<String>,
    log_format: Option<LogFormat>,
    metrics: Option<String>,
    #[serde(default)]
    federation: federation::FederationFile,
    #[serde(default)]
    storage: storage::StorageFile,
    public_url: Option<String>,
    #[serde(default)]
    accounts: crate::user::General,
    terms: Option<crate::user::Terms>,
    captcha: Option<crate::user::Captcha>,
    email: Option<crate::user::EmailSettings>,
    #[serde(default)]
    oidc: Vec<crate::user::UpstreamSettings>,
    #[serde(default)]
    media: media::MediaFile,
    turn: Option<crate::calls::Turn>,
    livekit: Option<crate::calls::LiveKit>,
}

/// `multicast = false`, `true`, or a list of interfaces.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false or a list of interface names")]
enum SwitchOrList {
    Switch(bool),
    List(Vec<String>),
}

/// The settings in force, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The data directory.
    pub data: PathBuf,
    /// Whether a homeserver runs, and not the router alone.
    pub homeserver: bool,
    /// Where the client API listens.
    pub http: SocketAddr,
    /// Where overlay links are accepted.
    pub listen: Vec<ListenUri>,
    /// Overlay links to keep.
    pub peers: Vec<PeerUri>,
    /// Where neighbours are looked for, and what they must know.
    pub multicast: Multicast,
    /// Who sees people and public rooms.
    pub discoverable: Discoverable,
    /// Who may make accounts.
    pub registration: Registration,
    /// What makes accounts at Synapse's path for scripts; none: nothing does.
    pub registration_shared_secret: Option<Secret>,
    /// Whether profiles, aliases and public rooms are shown without an access token.
    pub open_directory: bool,
    /// Further host names that the client API answers to.
    pub hosts: Vec<String>,
    /// Whether `/_synapse/admin` answers beyond loopback.
    pub admin_everywhere: bool,
    /// Whether clients' requests are limited in rate.
    pub rate_limits: bool,
    /// Name of the TUN interface.
    pub tun: Option<String>,
    /// The name asked for, if any.
    pub name: Option<NameChoice>,
    /// Room version of new rooms.
    pub default_room_version: ruma::RoomVersionId,
    /// Application services that are let in.
    pub appservices: Vec<Arc<appservice::Registration>>,
    /// Whether push gateways may stand in the own network.
    pub push_private_addresses: bool,
    /// Whether syncs tell who is online.
    pub presence: bool,
    /// Log filter.
    pub log: String,
    /// How it is written.
    pub log_format: LogFormat,
    /// Where Prometheus asks.
    pub metrics: Option<SocketAddr>,
    /// Ordinary Matrix servers.
    pub federation: Federation,
    /// What the database keeps.
    pub storage: Storage,
    /// Where clients reach this node, e.g. `https://chat.example.org`.
    pub public_url: Option<String>,
    /// The sections about accounts.
    pub accounts: crate::user::AccountSettings,
    /// Uploads, copies of others' media, previews of links.
    pub media: MediaSettings,
    /// The sections about calls.
    pub calls: crate::calls::CallSettings,
}

impl Config {
    /// Puts flags (with their variables) over the file over the defaults, and checks every value.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let (file, origin) = match &flags.config {
            Some(path) => (File::read(path)?, format!("{}: ", path.display())),
            None => (File::default(), String::new()),
        };
        let data = data_dir(flags.data.clone().or(file.data))?;
        let http = parse_http(flags.http.as_deref().or(file.http.as_deref()).unwrap_or("127.0.0.1:8008"))?;
        let listen = stronger(&flags.listen, file.listen)
            .iter()
            .map(|uri| uri.parse().map_err(|error| ConfigError(format!("listen {uri}: {error}"))))
            .collect::<Result<_, _>>()?;
        let peers = stronger(&flags.peer, file.peer)
            .iter()
            .map(|uri| uri.parse().map_err(|error| ConfigError(format!("peer {uri}: {error}"))))
            .collect::<Result<_, _>>()?;
        let interfaces = if flags.no_multicast {
            MulticastInterfaces::Off
        } else if !flags.multicast.is_empty() {
            MulticastInterfaces::Named(flags.multicast.clone())
        } else {
            match file.multicast {
                None | Some(SwitchOrList::Switch(true)) => MulticastInterfaces::All,
                Some(SwitchOrList::Switch(false)) => MulticastInterfaces::Off,
                Some(SwitchOrList::List(names)) => MulticastInterfaces::Named(names),
            }
        };
        if let MulticastInterfaces::Named(names) = &interfaces
            && let Some(bad) = names.iter().find(|name| !interface_name_ok(name))
        {
            return Err(ConfigError(format!(
                "multicast {bad:?}: not the name of an interface; `ip link` lists them, e.g. --multicast wlan0"
            )));
        }
        let password = flags.multicast_password.clone().or(file.multicast_password).map(Secret::new);
        let tun = flags.tun.clone().or(file.tun);
        if let Some(name) = tun.as_deref().filter(|name| !interface_name_ok(name)) {
            return Err(ConfigError(format!(
                "tun {name:?}: an interface's name has 1 to 15 characters without / or space, e.g. --tun mangrove0"
            )));
        }
        let (zone, server_name) = if flags.zone.is_some() || flags.server_name.is_some() {
            (flags.zone.clone(), flags.server_name.clone())
        } else {
            (file.zone, file.server_name)
        };
        let name = name_choice(zone.as_deref(), server_name.as_deref())
            .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let appservices = match flags.appservices.is_empty() {
            false => flags.appservices.clone(),
            true => file.appservices.unwrap_or_default(),
        };
        let appservices = appservices
            .iter()
            .map(|path| Ok(Arc::new(appservice::Registration::read(path)?)))
            .collect::<Result<_, appservice::RegistrationError>>()
            .map_err(|error| ConfigError(error.to_string()))?;
        let version = flags.default_room_version.clone().or(file.default_room_version);
        let default_room_version = parse_room_version(version.as_deref().unwrap_or("12"))?;
        let shared_secret = flags.registration_shared_secret.clone().or(file.registration_shared_secret);
        if shared_secret.as_deref().is_some_and(str::is_empty) {
            return Err(ConfigError(
                "registration_shared_secret: empty; leave it out, or take a long random one".into(),
            ));
        }
        let hosts = stronger(&flags.hosts, file.hosts);
        if let Some(bad) = hosts.iter().find(|host| ServerName::parse(host.as_str()).is_err()) {
            return Err(ConfigError(format!(
                "hosts {bad:?}: not a host name; e.g. --hosts chat.example.org"
            )));
        }
        let metrics = flags.metrics.clone().or(file.metrics);
        let metrics = metrics
            .map(|text| {
                text.parse().map_err(|_| {
                    ConfigError(format!("metrics {text:?}: not an address; e.g. --metrics 127.0.0.1:9008"))
                })
            })
            .transpose()?;
        let accounts = accounts::load(accounts::AccountsFile {
            accounts: file.accounts,
            terms: file.terms,
            captcha: file.captcha,
            email: file.email,
            oidc: file.oidc,
        })
        .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let media = MediaSettings::load(&flags.media, &file.media)
            .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let calls = calls::load(file.turn, file.livekit)
            .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let public_url =
            flags.public_url.clone().or(file.public_url).map(|url| parse_url(&url)).transpose()?;
        let federation = Federation::load(&flags.federation, file.federation)
            .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let storage = Storage::load(&flags.storage, &file.storage)
            .map_err(|ConfigError(text)| ConfigError(format!("{origin}{text}")))?;
        let rate_limits = !flags.no_rate_limits && file.rate_limits.unwrap_or(true);
        Ok(Self {
            data,
            homeserver: !flags.no_homeserver && file.homeserver.unwrap_or(true),
            http,
            listen,
            peers,
            multicast: Multicast { interfaces, password },
            discoverable: flags.discoverable.or(file.discoverable).unwrap_or_default(),
            registration: flags.registration.or(file.registration).unwrap_or_default(),
            registration_shared_secret: shared_secret.map(Secret::new),
            open_directory: flags.open_directory || file.open_directory.unwrap_or(false),
            hosts,
            admin_everywhere: flags.admin_everywhere || file.admin_everywhere.unwrap_or(false),
            rate_limits,
            tun,
            name,
            default_room_version,
            appservices,
            push_private_addresses: flags.push_private_addresses
                || file.push_private_addresses.unwrap_or(false),
            presence: flags.presence || file.presence.unwrap_or(false),
            federation,
            storage,
            public_url,
            accounts,
            calls,
            media,
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            metrics,
            log: flags.log.clone().or(file.log).unwrap_or_else(|| "warn".into()),
        })
    }
}

/// Reads `--zone` or `--server-name`; at most one may be given.
pub fn name_choice(zone: Option<&str>, server_name: Option<&str>) -> Result<Option<NameChoice>, ConfigError> {
    match (zone, server_name) {
        (Some(_), Some(_)) => Err(ConfigError(
            "zone and server_name: choose one; a name is either made from the identity, in a zone, or an own \
             domain"
                .into(),
        )),
        (None, None) => Ok(None),
        (Some(zone), None) => {
            let label_ok = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            // 53 characters and a dot come before it in a server name of at most 230 (so that a user ID, at most
            // 255 bytes, has room for a localpart).
            if zone.len() > 176 || !zone.split('.').all(label_ok) {
                return Err(ConfigError(format!(
                    "zone {zone:?}: not a domain name in lower case; e.g. --zone mesh.alt"
                )));
            }
            Ok(Some(NameChoice::Zone(zone.into())))
        }
        (None, Some(name)) => match ServerName::parse(name) {
            Ok(parsed) if name == name.to_ascii_lowercase() => Ok(Some(NameChoice::ServerName(parsed))),
            _ => Err(ConfigError(format!(
                "server_name {name:?}: not a server name in lower case; e.g. --server-name example.org"
            ))),
        },
    }
}

impl File {
    fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            ConfigError(format!("config {}: {error}; name a TOML file that can be read", path.display()))
        })?;
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map(|span| text[..span.start.min(text.len())].matches('\n').count() + 1);
            let place = line.map(|line| format!(" line {line}")).unwrap_or_default();
            let what = error.message().lines().next().unwrap_or("not valid").to_owned();
            ConfigError(format!(
                "config {}{place}: {what}; mangrove.example.toml shows every key",
                path.display()
            ))
        })
    }
}

/// The list of the stronger place, if it has one.
fn stronger<T: Clone>(flags: &[T], file: Option<Vec<T>>) -> Vec<T> {
    if flags.is_empty() { file.unwrap_or_default() } else { flags.to_vec() }
}

/// The data directory: the one named, or the XDG base directory specification's data home, with our name.
pub fn data_dir(named: Option<PathBuf>) -> Result<PathBuf, ConfigError> {
    match named {
        Some(dir) if dir.as_os_str().is_empty() => {
            return Err(ConfigError(
                "data: the directory's name is empty; name one, e.g. --data ./node".into(),
            ));
        }
        Some(dir) => return Ok(dir),
        None => {}
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|home| home.join("mangrove"))
        .ok_or_else(|| {
            ConfigError("data: neither XDG_DATA_HOME nor HOME is set; name a directory with --data".into())
        })
}

fn parse_http(text: &str) -> Result<SocketAddr, ConfigError> {
    let with_ip = text.strip_prefix("localhost:").map(|port| format!("127.0.0.1:{port}"));
    with_ip.as_deref().unwrap_or(text).parse().map_err(|_| {
        ConfigError(format!(
            "http {text:?}: not an IP address and port; e.g. --http 127.0.0.1:8008 or [::]:8008"
        ))
    })
}

/// An address of ours as clients are told it, without a slash at the end.
fn parse_url(text: &str) -> Result<String, ConfigError> {
    let url = text.trim_end_matches('/');
    let parsed: Option<http::Uri> = url.parse().ok();
    let fits = parsed.is_some_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() && uri.query().is_none()
    });
    if fits {
        Ok(url.to_owned())
    } else {
        Err(ConfigError(format!(
            "public_url {text:?}: not a URL; e.g. --public-url https://chat.example.org"
        )))
    }
}

fn parse_room_version(text: &str) -> Result<ruma::RoomVersionId, ConfigError> {
    match ruma::RoomVersionId::try_from(text) {
        Ok(version) if crate::room::core::version::rules(text).is_some() => Ok(version),
        _ => Err(ConfigError(format!(
            "default_room_version {text:?}: not one that rooms are made in; e.g. 12"
        ))),
    }
}

fn interface_name_ok(name: &str) -> bool {
    // IFNAMSIZ is 16 with the closing zero.
    (1..=15).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flags: Flags, file: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c.toml");
        std::fs::write(&path, file).unwrap();
        Config::load(&Flags {
            config: Some(path),
            data: flags.data.clone().or_else(|| Some("d".into())),
            ..flags
        })
        .map_err(|error| error.to_string())
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = "http = \"127.0.0.1:1\"\nregistration = \"closed\"\nlisten = [\"tcp://0.0.0.0:1\"]\n";
        let config = load(Flags { http: Some("127.0.0.1:2".into()), ..Flags::default() }, file).unwrap();
        assert_eq!(config.http.port(), 2);
        assert_eq!(config.registration, Registration::Closed);
        assert_eq!(config.listen.len(), 1);
        assert_eq!(config.discoverable, Discoverable::Neighbours);
    }

    #[test]
    fn multicast_is_a_switch_or_a_list() {
        assert_eq!(load(Flags::default(), "").unwrap().multicast.interfaces, MulticastInterfaces::All);
        assert_eq!(
            load(Flags::default(), "multicast = false").unwrap().multicast.interfaces,
            MulticastInterfaces::Off
        );
        let named = load(Flags::default(), "multicast = [\"eth0\"]").unwrap().multicast.interfaces;
        assert_eq!(named, MulticastInterfaces::Named(vec!["eth0".into()]));
        let flag = Flags { no_multicast: true, ..Flags::default() };
        assert_eq!(
            load(flag, "multicast = [\"eth0\"]").unwrap().multicast.interfaces,
            MulticastInterfaces::Off
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_a_way_out() {
        let error = load(Flags::default(), "http = \"127.0.0.1:1\"\nlisen = []\n").unwrap_err();
        assert!(error.contains("line 2") && error.contains("lisen") && !error.contains('\n'), "{error}");
        for (file, word) in [
            ("http = \"nowhere\"", "--http"),
            ("listen = [\"ftp://x:1\"]", "tcp://"),
            ("peer = [\"tcp://x\"]", "port"),
            ("zone = \"UPPER\"", "--zone"),
            ("zone = \"a\"\nserver_name = \"b.c\"", "choose one"),
            ("server_name = \"a b\"", "--server-name"),
            ("listen = [\"tcp://[::]:1?key=12\"]", "key"),
            ("tun = \"a/b\"", "--tun"),
            ("default_room_version = \"99\"", "12"),
            ("multicast = 3", "interface"),
            ("rate_limits = \"no\"", "bool"),
            ("[storage]\nretention_days = 7", "--retention"),
            ("[storage]\nevent_cache = 99999999", "MiB"),
            ("hosts = [\"a b\"]", "--hosts"),
            ("registration_shared_secret = \"\"", "random"),
        ] {
            let error = load(Flags::default(), file).unwrap_err();
            assert!(error.contains(word) && !error.contains('\n'), "{file}: {error}");
        }
    }
}
