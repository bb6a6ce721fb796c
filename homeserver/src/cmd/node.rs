//! A running node, put together: router, HTTP/2 over it, homeserver, listeners, control socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use h2_overlay::Overlay;
use router::id::NodeId;
use router::net::{Node, NodeConfig};
use ruma::ServerName;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answers::Answers;
use super::{DataDir, control, reload};
use crate::account::{Identity, is_overlay_name, verify_record};
use crate::clock::Clock;
use crate::config::{Config, Registration, Tls};
use crate::http::tls::{Acceptor, Certificates};
use crate::http::{listen, metrics};
use crate::notify::Notify;
use crate::remote::overlay::OverlayCarrier;
use crate::remote::tls::TlsCarrier;
use crate::remote::{self, Remote};
use crate::server::{self, Parts, Server, Settings};
use crate::store::{self, Store};

/// Time that open requests have to end after the listeners closed.
const STOP_TIME_MAX: Duration = Duration::from_millis(700);

/// A node that runs.
pub struct RunningNode {
    dir: DataDir,
    node: Node,
    overlay: Overlay,
    store: Store,
    server: Arc<Server>,
    http: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
    /// The certificate of the listener for ordinary servers.
    tls: Option<Acceptor>,
    orders: mpsc::Sender<reload::Order>,
}

/// Why a node does not start; one line that says what to do. Nothing keeps running.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The client API's address.
    #[error("http {0}: {1}; choose another with --http ADDR, port 0 for a free one")]
    Http(SocketAddr, io::Error),
    /// The address that Prometheus asks.
    #[error("metrics {0}: {1}; choose another with --metrics ADDR")]
    Metrics(SocketAddr, io::Error),
    /// The router.
    #[error("{0}")]
    Router(#[from] router::net::StartError),
    /// The database.
    #[error("database: {0}")]
    Store(#[from] store::StoreError),
    /// The homeserver.
    #[error("{0}")]
    Server(#[from] server::StartError),
    /// The control socket.
    #[error("control socket in the data directory: {0}")]
    Control(io::Error),
    /// The address for ordinary servers.
    #[error("federation listen {0}: {1}; choose another with --federation-listen ADDR")]
    Federation(SocketAddr, io::Error),
    /// A listener for ordinary servers whose name none of them can reach.
    #[error(
        "federation listen: {0} lives on the overlay only, ordinary servers cannot reach it; a node for them has a \
         domain of its own (--server-name) or a zone in one, chosen at its first start"
    )]
    NoDomain(ruma::OwnedServerName),
    /// Where a certificate that is fetched would be kept.
    #[error("the folder acme in the data directory: {0}")]
    Acme(io::Error),
    /// Its certificate.
    #[error("federation: {0}")]
    Tls(#[from] crate::http::tls::TlsError),
    /// Authorities to believe.
    #[error("federation: {0}")]
    Roots(#[from] remote::tls::RootsError),
    /// The node's key.
    #[error("{0}")]
    DataDir(#[from] super::DataDirError),
}

impl RunningNode {
    /// Takes the client API's address.
    pub fn bind_http(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
        let bind = || {
            let listener = std::net::TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        bind().map_err(|error: io::Error| match error.kind() {
            io::ErrorKind::AddrInUse => StartError::Http(
                address,
                io::Error::new(error.kind(), "the port is in use by another program"),
            ),
            _ => StartError::Http(address, error),
        })
    }

    /// Starts everything. Orders to read the settings again, which come by the control socket, go to `orders`.
    pub(super) async fn start(
        config: &Config,
        dir: DataDir,
        identity: Identity,
        http: std::net::TcpListener,
        orders: mpsc::Sender<reload::Order>,
    ) -> Result<Self, StartError> {
        let http = TcpListener::from_std(http).map_err(|error| StartError::Http(config.http, error))?;
        let http_address = http.local_addr().map_err(|error| StartError::Http(config.http, error))?;
        let identity = Arc::new(identity);
        let federation = federation_listener(config, &dir, identity.server_name())?;
        let options = store::Options { event_cache: config.storage.event_cache, ..store::Options::default() };
        let store = Store::open(dir.path(), options, Notify::new())?;
        let node = Node::start(NodeConfig {
            state_dir: Some(dir.path().to_owned()),
            listen: config.listen.clone(),
            peers: config.peers.clone(),
            multicast: config.multicast.clone(),
            tun: config.tun.clone(),
            router: router::config::Config { verify_account: verify_record, ..Default::default() },
            ..NodeConfig::new(dir.node_key()?)
        })
        .await?;
        let overlay = Overlay::of(&node, h2_overlay::Config::default());
        let clock = Clock::system();
        let carrier = Arc::new(OverlayCarrier::new(node.clone(), overlay.clone()));
        let tls = tls_carrier(config, identity.server_name())?;
        let remote = Remote::with_tls(store.clone(), Arc::clone(&identity), carrier, tls, clock.clone());
        remote.keyring().trust(config.federation.notaries.clone());
        let parts = Parts {
            settings: settings(config),
            clock,
            store: store.clone(),
            remote,
            media_dir: dir.path().join("media"),
            overlay: Some(node.clone()),
        };
        let server = match Server::start(parts) {
            Ok(server) => server,
            Err(error) => {
                node.shutdown().await;
                return Err(error.into());
            }
        };
        let tls = federation.as_ref().and_then(|(_, tls)| tls.clone());
        let (http_at, tasks) = (http_address, Vec::new());
        let mut running = Self { dir, node, overlay, store, server, http: http_at, tasks, tls, orders };
        match control::bind(running.dir.path()) {
            Ok(socket) => running.spawn(control::serve(socket, Arc::new(running.answers(&identity)))),
            Err(error) => {
                running.stop().await;
                return Err(StartError::Control(error));
            }
        }
        let server = &running.server;
        let overlay_service = listen::overlay_service(Arc::clone(server));
        let overlay = running.overlay.clone();
        let client =
            listen::serve(http, None, listen::client_service(Arc::clone(server)), Arc::clone(server));
        let federation = federation.map(|(listener, tls)| {
            let service = listen::federation_service(Arc::clone(server));
            (tls.clone(), listen::serve(listener, tls, service, Arc::clone(server)))
        });
        let shutdown = server.shutdown.clone();
        if let Some(address) = config.metrics {
            let bound = TcpListener::bind(address).await;
            let listener = match bound {
                Ok(listener) => listener,
                Err(error) => {
                    running.stop().await;
                    return Err(StartError::Metrics(address, error));
                }
            };
            if let Some(handle) = metrics::begin() {
                let service = metrics::service(Arc::clone(&running.server), handle);
                let serve = listen::serve(listener, None, service, Arc::clone(&running.server));
                running.spawn(serve);
            }
        }
        running.spawn(async move { overlay.serve(overlay_service).await });
        running.spawn(client);
        if let Some((tls, serve)) = federation {
            if let Some(tls) = tls {
                running.spawn(tls.maintain(shutdown));
            }
            running.spawn(serve);
        }
        Ok(running)
    }

    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.push(tokio::spawn(task));
    }

    fn answers(&self, identity: &Arc<Identity>) -> Answers {
        Answers {
            node: self.node.clone(),
            server: Arc::clone(&self.server),
            identity: Arc::clone(identity),
            store: self.store.clone(),
            dir: self.dir.path().to_owned(),
            backup: tokio::sync::Mutex::default(),
            reload: self.orders.clone(),
        }
    }

    /// What a reload of the settings reaches.
    pub(super) fn reach(&self) -> reload::Running<'_> {
        reload::Running { node: &self.node, server: Some(&self.server), tls: self.tls.as_ref() }
    }

    /// The server's name.
    pub fn server_name(&self) -> &ServerName {
        &self.server.name
    }

    /// The node's key.
    pub fn id(&self) -> NodeId {
        self.node.id()
    }

    /// Where the client API listens.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where overlay links are accepted, besides those that multicast finds.
    pub fn overlay_listening(&self) -> Vec<SocketAddr> {
        self.node.listening()
    }

    /// A registration token for whoever starts the node for the first time: none where there is an account already, or
    /// where no token is needed.
    pub(super) async fn welcome_token(&self) -> Result<Option<String>, String> {
        if self.server.settings().registration != server::Registration::Token {
            return Ok(None);
        }
        let users = &self.server.users;
        let text = |error: crate::user::UserError| error.to_string();
        if users.count().await.map_err(text)? > 0 {
            return Ok(None);
        }
        users.welcome_token().await.map(Some).map_err(text)
    }

    /// Ends everything in order: no new requests, those that are open have a moment, what was acknowledged is on disk.
    pub async fn stop(self) {
        self.server.stop();
        let Self { dir, node, overlay, store, server, tasks, .. } = self;
        let _ = tokio::time::timeout(STOP_TIME_MAX, server.finish()).await;
        let _ = tokio::time::timeout(STOP_TIME_MAX, overlay.close()).await;
        for task in tasks {
            task.abort();
        }
        let _ = tokio::time::timeout(STOP_TIME_MAX, node.shutdown()).await;
        store.close().await;
        // A socket without a listener would tell the next command that a node runs here.
        let _ = std::fs::remove_file(dir.path().join("ctl.sock"));
    }
}

/// The way to ordinary servers, for a name that they can reach back.
fn tls_carrier(config: &Config, name: &ServerName) -> Result<Option<TlsCarrier>, StartError> {
    if !config.federation.enabled || is_overlay_name(name) {
        return Ok(None);
    }
    let settings = remote::tls::Settings {
        extra_ca: config.federation.extra_ca.clone(),
        allow_private_addresses: config.federation.allow_private_addresses,
    };
    Ok(Some(TlsCarrier::new(&settings)?))
}

/// The folder for what an ACME authority gives: secret keys are in it, and whoever writes them lets others read.
fn acme_dir(data: &Path) -> io::Result<PathBuf> {
    let path = data.join("acme");
    std::fs::create_dir_all(&path)?;
    #[cfg(unix)]
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    Ok(path)
}

/// Takes the address that ordinary servers ask, and its certificate.
fn federation_listener(
    config: &Config,
    dir: &DataDir,
    name: &ServerName,
) -> Result<Option<(TcpListener, Option<Acceptor>)>, StartError> {
    let Some((address, tls)) = &config.federation.listen else { return Ok(None) };
    if is_overlay_name(name) {
        return Err(StartError::NoDomain(name.to_owned()));
    }
    let certificates = match tls {
        Tls::Proxy => None,
        Tls::Files(cert, key) => Some(Certificates::Files { cert: cert.clone(), key: key.clone() }),
        Tls::Acme(directory, contact) => Some(Certificates::Acme {
            domain: name.host().to_owned(),
            contact: contact.clone(),
            directory: directory.clone(),
            cache: acme_dir(dir.path()).map_err(StartError::Acme)?,
        }),
    };
    let acceptor = certificates.map(|certificates| Acceptor::new(&certificates)).transpose()?;
    let bind = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    let listener = bind().map_err(|error| StartError::Federation(*address, error))?;
    Ok(Some((listener, acceptor)))
}

/// This program, also when its file was replaced meanwhile.
fn own_program() -> Option<PathBuf> {
    let linux = Path::new("/proc/self/exe");
    if linux.exists() { Some(linux.to_owned()) } else { std::env::current_exe().ok() }
}

/// What requests feel of the settings.
pub(super) fn settings(config: &Config) -> Settings {
    Settings {
        registration: match config.registration {
            Registration::Token => server::Registration::Token,
            Registration::Open => server::Registration::Open,
            Registration::Closed => server::Registration::Closed,
        },
        registration_shared_secret: config.registration_shared_secret.clone(),
        open_directory: config.open_directory,
        hosts: config.hosts.clone(),
        admin_everywhere: config.admin_everywhere,
        public_url: config.public_url.clone(),
        accounts: config.accounts.clone(),
        calls: config.calls.clone(),
        rate_limits: config.rate_limits,
        picture_program: own_program(),
        upload_bytes_max: config.media.upload_bytes_max,
        remote_media_bytes_max: config.media.cache_bytes_max,
        url_previews: config.media.url_previews,
        url_preview_private_addresses: config.media.url_preview_private_addresses,
        appservices: config.appservices.clone(),
        presence: config.presence,
        push_private_addresses: config.push_private_addresses,
        retention: config.storage.retention,
        default_room_version: config.default_room_version.clone(),
        federation_well_known: config.federation.well_known.clone(),
        federation_blocked: config.federation.blocked.clone(),
        federation_requests_per_second: config.federation.requests_per_second,
        federation_with_clients: config.federation.with_clients,
        discoverable: config.discoverable == crate::config::Discoverable::Neighbours,
    }
}
