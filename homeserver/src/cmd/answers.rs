//! What a running node answers on its control socket.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use router::Target;
use router::id::{NodeId, Sid};
use router::net::{Node, PeerUri};
use router::route::choose::RouteInfo;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::control::{Handle, Request};
use super::{account, backup, reload};
use crate::account::Identity;
use crate::remote::contacts::{Destination, Way};
use crate::server::Server;
use crate::store::Store;

/// Everything that may be asked of a node with a homeserver.
pub(super) struct Answers {
    pub(super) node: Node,
    pub(super) server: Arc<Server>,
    pub(super) identity: Arc<Identity>,
    pub(super) store: Store,
    /// The data directory.
    pub(super) dir: PathBuf,
    /// One backup at a time.
    pub(super) backup: tokio::sync::Mutex<()>,
    /// Where orders to read the settings again go.
    pub(super) reload: mpsc::Sender<reload::Order>,
}

impl Handle for Answers {
    async fn handle(&self, request: Request) -> Result<Value, String> {
        let asks_self = matches!(request, Request::SelfInfo);
        match (RouterAnswers { node: self.node.clone(), reload: self.reload.clone() })
            .handle_router(request)
            .await
        {
            Ok(mut answer) => {
                if asks_self && let (Ok(Value::Object(answer)), name) = (&mut answer, &self.server.name) {
                    answer.insert("server_name".into(), json!(name));
                }
                answer
            }
            Err(Request::Destinations) => self.destinations().await,
            Err(Request::Backup { file }) => self.backup(file).await,
            Err(Request::Admin { order }) => super::admin::handle(&self.server, order).await,
            Err(about_accounts) => account::handle(&self.server.users, &self.identity, about_accounts).await,
        }
    }
}

impl Answers {
    async fn destinations(&self) -> Result<Value, String> {
        let list = self.server.remote.destinations().await.map_err(|error| error.to_string())?;
        let now = self.server.clock.now_ms();
        let row = |dest: Destination| {
            let (way, at) = dest.answered.unzip();
            json!({
                "server": dest.server,
                "carrier": way.map(|way| match way { Way::Overlay => "overlay", Way::Tls => "tls" }),
                "answered_s_ago": at.map(|at| now.saturating_sub(at) / 1000),
                "waiting": if dest.more { format!("{}+", dest.queued) } else { dest.queued.to_string() },
                "under_way": dest.under_way,
                "failures": dest.failures,
                "retry_in_s": dest.retry_in.map(|wait| wait.as_secs()),
            })
        };
        Ok(list.into_iter().map(row).collect())
    }

    async fn backup(&self, file: PathBuf) -> Result<Value, String> {
        let Ok(_one) = self.backup.try_lock() else {
            return Err("another backup is being written; wait for its end".into());
        };
        let (store, dir, name) = (self.store.clone(), self.dir.clone(), self.server.name.clone());
        let written = tokio::task::spawn_blocking(move || {
            backup::write(&store, &dir, name.as_str(), &file).map(|summary| backup::told(&summary, &file))
        });
        match written.await {
            Ok(told) => told.map_err(|error| error.to_string()),
            Err(error) => Err(format!("the backup broke off: {error}")),
        }
    }
}

/// What may be asked of the router, which is all there is of a node with `--no-homeserver`.
pub(super) struct RouterAnswers {
    pub(super) node: Node,
    /// Where orders to read the settings again go.
    pub(super) reload: mpsc::Sender<reload::Order>,
}

impl Handle for RouterAnswers {
    async fn handle(&self, request: Request) -> Result<Value, String> {
        match self.handle_router(request).await {
            Ok(answer) => answer,
            Err(_) => Err("this node only routes; start it without --no-homeserver for accounts".into()),
        }
    }
}

impl RouterAnswers {
    /// Answers what concerns the router; gives anything else back.
    async fn handle_router(&self, request: Request) -> Result<Result<Value, String>, Request> {
        Ok(match request {
            Request::SelfInfo
            | Request::Peers
            | Request::Trees
            | Request::Root
            | Request::Sessions
            | Request::Lookup { .. }
            | Request::Ping { .. }
            | Request::Routes { .. }
            | Request::Trace { .. }
            | Request::Reload
            | Request::AddPeer { .. }
            | Request::RemovePeer { .. } => self.answer(request).await,
            other => return Err(other),
        })
    }

    async fn answer(&self, request: Request) -> Result<Value, String> {
        match request {
            Request::SelfInfo => self.self_info().await,
            Request::Peers => Ok(self.peers().await),
            Request::Trees => Ok(self.trees().await),
            Request::Root => {
                let trees = self.node.trees().await;
                trees
                    .first()
                    .map(|tree| json!(tree.root.to_string()))
                    .ok_or_else(|| "the router has ended".into())
            }
            Request::Sessions => Ok(self.sessions().await),
            Request::Lookup { target } => {
                let key = self.find(&target).await?;
                Ok(json!({ "key": key.to_string(), "address": key.address() }))
            }
            Request::Ping { target } => {
                let key = self.find(&target).await?;
                let time = self.node.ping(key).await.map_err(|error| error.to_string())?;
                Ok(json!({ "key": key.to_string(), "time": format!("{:.3} ms", time.as_secs_f64() * 1e3) }))
            }
            Request::Reload => reload::order(&self.reload).await,
            Request::Routes { target } => self.routes(&target).await,
            Request::Trace { target } => self.trace(&target).await,
            Request::AddPeer { uri } => {
                let peer = uri.parse::<PeerUri>().map_err(|error| error.to_string())?;
                self.node.add_peer(peer).await.map_err(|error| error.to_string())?;
                Ok(json!("added until the node ends; put it into the configuration to keep it"))
            }
            Request::RemovePeer { uri } => {
                let peer = uri.parse::<PeerUri>().map_err(|error| error.to_string())?;
                self.node.remove_peer(&peer).await.map_err(|error| error.to_string())?;
                Ok(json!("removed until the node ends"))
            }
            _ => Err("not a question to the router".into()),
        }
    }

    async fn self_info(&self) -> Result<Value, String> {
        let info = self.node.self_info().await.ok_or("the router has ended")?;
        let stats = self.node.stats().await;
        Ok(json!({
            "key": info.id.to_string(),
            "address": info.address,
            "version": env!("CARGO_PKG_VERSION"),
            "peers": info.peers,
            "sessions": info.sessions,
            "records": info.records,
            "listening": self.node.listening(),
            "tun_packets_in": stats.net.tun_packets_in,
            "tun_packets_out": stats.net.tun_packets_out,
            "tun_dropped_source": stats.router.dropped_address + stats.net.tun_foreign,
            "links_bad": stats.net.links_bad,
        }))
    }

    async fn peers(&self) -> Value {
        let peers = self.node.peers().await;
        peers
            .into_iter()
            .filter_map(|peer| {
                let key = peer.node?;
                Some(json!({
                    "key": key.to_string(),
                    "address": key.address(),
                    "remote": peer.remote,
                    "interface": peer.interface,
                    "multicast": peer.multicast,
                    "active": peer.active,
                    "rtt_ms": peer.rtt.map(|rtt| (rtt.as_secs_f64() * 1e5).round() / 1e2),
                    "cost": peer.cost,
                    "bytes_in": peer.bytes_in,
                    "bytes_out": peer.bytes_out,
                    "up_s": peer.up_for.as_secs(),
                }))
            })
            .collect()
    }

    async fn trees(&self) -> Value {
        let trees = self.node.trees().await;
        trees
            .into_iter()
            .map(|tree| {
                json!({
                    "tree": tree.tree,
                    "root": tree.root.to_string(),
                    "parent": tree.parent.map(|parent| parent.to_string()),
                    "cost": tree.cost,
                    "hops": tree.coords.len(),
                })
            })
            .collect()
    }

    async fn sessions(&self) -> Value {
        let sessions = self.node.sessions().await;
        sessions
            .into_iter()
            .map(|session| {
                json!({
                    "key": session.node.to_string(),
                    "rtt_ms": session.rtt.map(millis),
                    "bytes_in": session.bytes_in,
                    "bytes_out": session.bytes_out,
                    "up_s": session.up_for.as_secs(),
                })
            })
            .collect()
    }

    async fn routes(&self, target: &str) -> Result<Value, String> {
        let key = self.find(target).await?;
        let routes = self.node.routes(key).await;
        if routes.is_empty() {
            return Err("no session with that node; `mangrove ctl ping KEY` begins one".into());
        }
        let row = |route: RouteInfo| {
            json!({
                "id": route.id,
                "state": route.state,
                "used": route.used,
                "hops": route.length,
                "rtt_ms": route.rtt.map(millis),
                "loss": (f64::from(route.loss) * 1e3).round() / 1e3,
                "load": route.load,
                "mtu": route.mtu,
                "sent": route.sent,
                "over": route.hops.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            })
        };
        Ok(routes.into_iter().map(row).collect())
    }

    async fn trace(&self, target: &str) -> Result<Value, String> {
        let key = self.find(target).await?;
        // So that there is a session, and its way is fresh.
        self.node.ping(key).await.map_err(|error| error.to_string())?;
        let hops = self.node.trace(key).await;
        if hops.is_empty() {
            return Err(
                "packets to that node go by the trees: no source route is in use; try again in a second"
                    .into(),
            );
        }
        let row = |(at, (sid, time)): (usize, (Sid, Option<Duration>))| json!({ "hop": at + 1, "node": sid.to_string(), "rtt_ms": time.map(millis) });
        Ok(hops.into_iter().enumerate().map(row).collect())
    }

    /// A node by its key or its address.
    async fn find(&self, target: &str) -> Result<NodeId, String> {
        let target = if let Ok(key) = target.parse::<NodeId>() {
            Target::Key(key)
        } else if let Ok(address) = target.parse::<Ipv6Addr>() {
            Target::Address(address)
        } else {
            return Err(format!("{target:?} is neither a key (64 hex digits) nor an IPv6 address"));
        };
        self.node.lookup(target).await.map_err(|error| error.to_string())
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 1e2
}
