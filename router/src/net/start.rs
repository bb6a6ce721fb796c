//! Starts a node: makes what can fail, then the thread that runs the loop.

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot, watch};

use super::driver::{Driver, State};
use super::handle::{Request, Shared};
use super::interfaces;
use super::kept::Kept;
use super::links::{INTERNAL_MAX, LinkMaker};
use super::listen;
use super::multicast::Discovery;
use super::os::{Clock, OsEntropy};
use super::queue::Commands;
use super::ready::{ReadySet, Source, Token};
use super::tun::Tun;
use super::{ListenUri, MulticastInterfaces, NodeConfig, PeerUri, StartError};
use crate::router::Router;

/// Threads for what blocks: looking a name up, storing what survives a restart.
const BLOCKING_THREADS: usize = 4;
/// How long a name that is being looked up may hold the end of the node up.
const END_PATIENCE: Duration = Duration::from_millis(200);

/// A node with everything that can fail behind it.
struct Prepared {
    driver: Driver,
    peers: Vec<PeerUri>,
    listeners: Vec<(TcpListener, ListenUri)>,
    discovery: Option<Discovery>,
    interfaces: watch::Sender<interfaces::Interfaces>,
}

/// Starts a node. On an error nothing of it is left.
pub(crate) async fn start(
    config: NodeConfig,
    requests: mpsc::Receiver<Request>,
) -> Result<Arc<Shared>, StartError> {
    let (tell, told) = oneshot::channel();
    let body = move || {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS)
            .thread_name("mangrove-block")
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            // Whoever started the node may have given up, here and below.
            Err(error) => return drop(tell.send(Err(StartError::Thread(error)))),
        };
        let ended = runtime.block_on(async {
            let prepared = match prepare(config, requests).await {
                Ok(prepared) => prepared,
                Err(error) => {
                    drop(tell.send(Err(error)));
                    return None;
                }
            };
            if tell.send(Ok(Arc::clone(&prepared.driver.shared))).is_err() {
                return None;
            }
            run(prepared).await
        });
        runtime.shutdown_timeout(END_PATIENCE);
        if let Some(ended) = ended {
            let _ = ended.send(());
        }
    };
    thread::Builder::new().name("mangrove-net".to_owned()).spawn(body).map_err(StartError::Thread)?;
    told.await.unwrap_or_else(|_| Err(StartError::Thread(io::Error::other("it ended at once"))))
}

async fn run(prepared: Prepared) -> Option<oneshot::Sender<()>> {
    let Prepared { driver, peers, listeners, discovery, interfaces } = prepared;
    tokio::spawn(interfaces::follow(interfaces));
    for (listener, uri) in listeners {
        tokio::spawn(listen::accept(listener, uri, driver.maker.clone()));
    }
    if let Some(discovery) = discovery {
        tokio::spawn(discovery.run());
    }
    let _closed = CloseOnEnd(Arc::clone(&driver.shared));
    driver.run(peers).await
}

/// However the loop ends, nobody waits for it any longer.
struct CloseOnEnd(Arc<Shared>);

impl Drop for CloseOnEnd {
    fn drop(&mut self) {
        self.0.commands.close();
        self.0.received.close();
    }
}

async fn prepare(config: NodeConfig, requests: mpsc::Receiver<Request>) -> Result<Prepared, StartError> {
    let NodeConfig { secret, state_dir, listen, peers, multicast, tun, router } = config;
    let id = secret.id();
    let mut listeners = Vec::new();
    for uri in listen {
        let bound = listen::bind(&uri).await;
        let listener = bound.map_err(|source| StartError::Listen { uri: uri.to_string(), source })?;
        listeners.push((listener, uri));
    }
    let tun = match tun {
        Some(name) => Some(Tun::open(&name, id).map_err(|source| StartError::Tun { name, source })?),
        None => None,
    };

    let ready = Arc::new(ReadySet::default());
    let commands = Commands::new(Source::new(Token::Commands, &ready));
    let shared = Arc::new(Shared::new(id, commands));
    shared.view().listening = listeners.iter().filter_map(|(l, _)| l.local_addr().ok()).collect();
    // A host that cannot list its interfaces now is asked again by whoever follows them.
    let (interfaces, seen) = watch::channel(Arc::new(interfaces::list().unwrap_or_default()));
    let (internal, inbox) = mpsc::channel(INTERNAL_MAX);
    let maker = LinkMaker::new(Arc::clone(&shared), internal, seen.clone());
    let discovery = match multicast.interfaces {
        MulticastInterfaces::Off => None,
        // A host without IPv6 has no interface that can; only those who named one want to hear of it.
        MulticastInterfaces::All => match Discovery::open(multicast, maker.clone()) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            opened => Some(opened.map_err(StartError::Multicast)?),
        },
        MulticastInterfaces::Named(_) => {
            Some(Discovery::open(multicast, maker.clone()).map_err(StartError::Multicast)?)
        }
    };

    let state_error = |source| StartError::State { path: state_dir.clone().unwrap_or_default(), source };
    let mut kept = Kept::open(state_dir.as_deref()).map_err(state_error)?;
    let clock = Clock::start();
    let boot = kept.boot();
    let (counter, roots) = (boot.counter, boot.roots.clone());
    let router = Router::new(secret, router, boot, Box::new(OsEntropy), clock.now());
    if let (Some(path), Some(saved)) =
        (kept.path(), kept.due(router.persisted().max(counter), || roots, false))
    {
        // Before the first frame is sent, and so waited for.
        saved.write(path).map_err(state_error)?;
        kept.stored(saved);
    }
    let state = State::new(&ready);
    let driver = Driver {
        router,
        clock,
        shared,
        ready,
        requests,
        internal: inbox,
        interfaces: seen,
        maker,
        kept,
        tun,
        state,
    };
    Ok(Prepared { driver, peers, listeners, discovery, interfaces })
}
