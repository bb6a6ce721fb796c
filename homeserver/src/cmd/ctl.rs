//! `mangrove ctl`: questions to the running node, and a few orders.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::control::{Asked, Request, ask};
use super::{CmdError, Data, runtime, table};

#[derive(Args, Debug)]
pub(super) struct CtlArgs {
    #[command(flatten)]
    data: Data,
    /// Print the answer as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand, Debug)]
enum What {
    /// Who this node is, and how it does
    #[command(name = "self")]
    SelfInfo,
    /// Direct neighbours: key, address, round trip, cost, bytes
    Peers,
    /// The node's place in each spanning tree
    Trees,
    /// The key of the first tree's root
    Root,
    /// Nodes that this one has session keys with
    Sessions,
    /// Find a node by key (64 hex digits) or IPv6 address
    Lookup { key: String },
    /// Measure the time to a node and back
    Ping { key: String },
    /// The ways to a node: source routes and what was measured of them, and the trees
    Routes { key: String },
    /// Measure the time to each hop on the way to a node
    Trace { key: String },
    /// Other servers: on what carrier and when they last answered, what waits for them, when they are tried again
    Destinations,
    /// Keep a link to one more peer, until the node ends
    AddPeer { uri: String },
    /// Let go of a peer that was added with this URI
    RemovePeer { uri: String },
    /// Read the settings again (as HUP does), apply what can be applied at once, and name what needs a restart
    Reload,
}

pub(super) fn ctl(args: &CtlArgs) -> Result<(), CmdError> {
    let request = match &args.what {
        What::SelfInfo => Request::SelfInfo,
        What::Peers => Request::Peers,
        What::Trees => Request::Trees,
        What::Root => Request::Root,
        What::Sessions => Request::Sessions,
        What::Lookup { key } => Request::Lookup { target: key.clone() },
        What::Ping { key } => Request::Ping { target: key.clone() },
        What::Routes { key } => Request::Routes { target: key.clone() },
        What::Trace { key } => Request::Trace { target: key.clone() },
        What::Destinations => Request::Destinations,
        What::AddPeer { uri } => Request::AddPeer { uri: uri.clone() },
        What::RemovePeer { uri } => Request::RemovePeer { uri: uri.clone() },
        What::Reload => Request::Reload,
    };
    let dir = args.data.resolve()?;
    let value = match runtime()?.block_on(ask(&dir, &request)) {
        Ok(Asked::Answered(answer)) => answer.map_err(CmdError::Failed)?,
        Ok(Asked::NotRunning) => {
            return Err(CmdError::Failed(format!(
                "no node runs in {}; start it with `mangrove run`, or name its directory with --data",
                dir.display()
            )));
        }
        Err(error) => return Err(CmdError::Failed(format!("the node in {}: {error}", dir.display()))),
    };
    print(&value, args.json);
    Ok(())
}

fn print(value: &Value, json: bool) {
    if json {
        println!("{value:#}");
    } else {
        print!("{}", table::render(value));
    }
}
