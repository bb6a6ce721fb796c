//! `mangrove run`: the node, until Ctrl-C or TERM.

use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::log::Log;
use super::node::StartError;
use super::reload::Reload;
use super::{CmdError, DataDir, RunningNode, init, relay};
use crate::config::{Config, Flags, Registration};
use crate::memory;

/// After how long a start is over, as far as memory is concerned: first links, sessions and jobs are behind it.
pub(super) const SETTLED: Duration = Duration::from_secs(3);

/// Runs the node.
pub(super) fn run(flags: &Flags) -> Result<(), CmdError> {
    let config = Config::load(flags)?;
    if flags.check_config {
        println!("the settings are fine; the data directory would be {}", config.data.display());
        return Ok(());
    }
    let log = Log::start(&config.log, config.log_format)?;
    if !config.homeserver {
        return relay::run(config, flags, log);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| CmdError::Failed(format!("no runtime: {error}")))?;
    let outcome = runtime.block_on(run_until_told(config, flags, log));
    // Blocking work that still runs (a password hash, an image) is not waited for: nothing of it is durable yet.
    runtime.shutdown_background();
    outcome
}

async fn run_until_told(config: Config, flags: &Flags, log: Log) -> Result<(), CmdError> {
    let failed = |error: std::io::Error| CmdError::Failed(format!("signals: {error}"));
    // Before anything is made, so that an early signal ends it in good order too.
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
    // What can be refused is tried before anything is made.
    let listener = RunningNode::bind_http(config.http)?;
    let dir = DataDir::open(&config.data)?;
    let identity = init::open_identity(&dir, config.name.clone())?;
    let (orders, mut ordered) = mpsc::channel(1);
    let starting = RunningNode::start(&config, dir, identity, listener, orders);
    let node = tokio::select! {
        started = starting => started?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    greet(&config, &node).await?;
    let mut reload = Reload::new(flags.clone(), log, config);
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
            // What came of it is in the log.
            _ = hangup.recv() => drop(reload.run(node.reach()).await),
            Some(told) = ordered.recv() => drop(told.send(reload.run(node.reach()).await)),
        }
    }
    node.stop().await;
    Ok(())
}

/// Says in a few lines who the node is and what to do next.
async fn greet(config: &Config, node: &RunningNode) -> Result<(), CmdError> {
    let mut text = format!(
        "Mangrove runs.\n  server name  {}\n  key          {}\n  address      {}\n",
        node.server_name(),
        node.id(),
        node.id().address()
    );
    for listening in node.overlay_listening() {
        text += &format!("  links        tcp://{listening}\n");
    }
    text += &format!("Log in with any Matrix client at http://{}\n", client_host(node.http()));
    if !node.http().ip().is_loopback()
        && let Some(name) = host_name()
    {
        text +=
            &format!("  from other devices on this network: http://{name}.local:{}\n", node.http().port());
    }
    text += "  make an account:  mangrove account create NAME\n";
    if config.registration == Registration::Token
        && let Some(token) = node.welcome_token().await.map_err(CmdError::Failed)?
    {
        text += &format!("  or register in the client with this one-time token  {token}\n");
    }
    let mut out = std::io::stdout().lock();
    // Whoever closed our output does not want to hear it; that is no reason to end.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Ok(())
}

/// What to type into a client on this machine.
fn client_host(http: SocketAddr) -> String {
    if http.ip().is_unspecified() || http.ip() == std::net::Ipv4Addr::LOCALHOST {
        format!("localhost:{}", http.port())
    } else {
        http.to_string()
    }
}

fn host_name() -> Option<String> {
    nix::unistd::gethostname().ok()?.into_string().ok().filter(|name| !name.is_empty() && name != "localhost")
}

impl From<StartError> for CmdError {
    fn from(error: StartError) -> Self {
        Self::Usage(error.to_string())
    }
}
