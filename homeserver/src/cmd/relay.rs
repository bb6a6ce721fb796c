//! A node that only routes (`mangrove run --no-homeserver`): the router, its links, the TUN if one is wanted, and the
//! control socket. No identity, no database, no client API.

use std::io::Write;
use std::sync::Arc;

use router::net::{Node, NodeConfig};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::answers::RouterAnswers;
use super::log::Log;
use super::node::StartError;
use super::reload::{Reload, Running};
use super::run::SETTLED;
use super::{CmdError, DataDir, control, reload};
use crate::account::verify_record;
use crate::config::{Config, Flags};
use crate::memory;

/// A router that runs.
struct Relay {
    dir: DataDir,
    node: Node,
    control: JoinHandle<()>,
}

/// Runs it until Ctrl-C or TERM.
pub(super) fn run(config: Config, flags: &Flags, log: Log) -> Result<(), CmdError> {
    // The router has a thread of its own: this one waits for signals and answers the control socket.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CmdError::Failed(format!("no runtime: {error}")))?;
    runtime.block_on(async {
        let failed = |error: std::io::Error| CmdError::Failed(format!("signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let (orders, mut ordered) = mpsc::channel(1);
        let relay = tokio::select! {
            started = Relay::start(&config, DataDir::open(&config.data)?, orders) => started?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        relay.greet();
        let mut reload = Reload::new(flags.clone(), log, config);
        let reach = || Running { node: &relay.node, server: None, tls: None };
        let settled = tokio::time::sleep(SETTLED);
        tokio::pin!(settled);
        let mut forgotten = false;
        loop {
            tokio::select! {
                () = &mut settled, if !forgotten => {
                    forgotten = true;
                    memory::forget_start();
                }
                _ = terminate.recv() => break,
                _ = interrupt.recv() => break,
                _ = hangup.recv() => drop(reload.run(reach()).await),
                Some(told) = ordered.recv() => drop(told.send(reload.run(reach()).await)),
            }
        }
        relay.stop().await;
        Ok(())
    })
}

impl Relay {
    async fn start(
        config: &Config,
        dir: DataDir,
        reload: mpsc::Sender<reload::Order>,
    ) -> Result<Self, StartError> {
        let node = Node::start(NodeConfig {
            state_dir: Some(dir.path().to_owned()),
            listen: config.listen.clone(),
            peers: config.peers.clone(),
            multicast: config.multicast.clone(),
            tun: config.tun.clone(),
            // It keeps others' account records like every node.
            router: router::config::Config { verify_account: verify_record, ..Default::default() },
            ..NodeConfig::new(dir.node_key()?)
        })
        .await?;
        let control = match control::bind(dir.path()) {
            Ok(socket) => {
                tokio::spawn(control::serve(socket, Arc::new(RouterAnswers { node: node.clone(), reload })))
            }
            Err(error) => {
                node.shutdown().await;
                return Err(StartError::Control(error));
            }
        };
        Ok(Self { dir, node, control })
    }

    /// Says in a few lines who the node is.
    fn greet(&self) {
        let id = self.node.id();
        let mut text = format!(
            "Mangrove routes, without a homeserver.\n  key          {id}\n  address      {}\n",
            id.address()
        );
        for listening in self.node.listening() {
            text += &format!("  links        tcp://{listening}\n");
        }
        let mut out = std::io::stdout().lock();
        // Whoever closed our output does not want to hear it; that is no reason to end.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    async fn stop(self) {
        self.control.abort();
        self.node.shutdown().await;
        // A socket without a listener would tell the next command that a node runs here.
        let _ = std::fs::remove_file(self.dir.path().join("ctl.sock"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::control::{Asked, Request, ask};
    use super::*;
    use crate::config::Flags;

    #[tokio::test]
    async fn it_answers_for_the_router_and_makes_nothing_but_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let flags = Flags {
            data: Some(dir.path().into()),
            no_homeserver: true,
            no_multicast: true,
            listen: vec!["tcp://127.0.0.1:0".into()],
            ..Flags::default()
        };
        let config = Config::load(&flags).unwrap();
        assert!(!config.homeserver);
        let orders = mpsc::channel(1).0;
        let relay = Relay::start(&config, DataDir::open(dir.path()).unwrap(), orders).await.unwrap();
        let id = relay.node.id().to_string();
        let Asked::Answered(Ok(info)) = ask(dir.path(), &Request::SelfInfo).await.unwrap() else { panic!() };
        assert_eq!(info["key"], id.as_str());
        assert!(info.get("server_name").is_none());
        let Asked::Answered(Err(text)) = ask(dir.path(), &Request::AccountList).await.unwrap() else {
            panic!()
        };
        assert!(text.contains("--no-homeserver"));
        relay.stop().await;
        let mut files: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert!(!files.iter().any(|name| name == "hs.db" || name == "ctl.sock"), "{files:?}");
    }
}
