//! `mangrove init`, `key`, `address` and `server-name`: a node's names, made once and told at any time.

use clap::Args;

use super::data_dir::read_node_key;
use super::{CmdError, Data, DataDir};
use crate::account::{Identity, NameChoice};
use crate::config::name_choice;
use crate::notify::Notify;
use crate::store::Store;

#[derive(Args, Debug)]
pub(super) struct InitArgs {
    #[command(flatten)]
    data: Data,
    /// End of the server's name, chosen once [default: mesh.alt]
    #[arg(long, value_name = "ZONE", env = "MANGROVE_ZONE", conflicts_with = "server_name")]
    zone: Option<String>,
    /// An own domain as the server's name; chosen once
    #[arg(long, value_name = "NAME", env = "MANGROVE_SERVER_NAME")]
    server_name: Option<String>,
}

/// Makes key, identity and database where they are missing.
pub(super) fn init(args: &InitArgs) -> Result<(), CmdError> {
    let wish = name_choice(args.zone.as_deref(), args.server_name.as_deref())?;
    let dir = DataDir::open(&args.data.resolve()?)?;
    let fresh = !dir.path().join("node.key").exists();
    let identity = open_identity(&dir, wish)?;
    Store::open(dir.path(), Default::default(), Notify::default())
        .map_err(|error| CmdError::Usage(format!("database in {}: {error}", dir.path().display())))?;
    println!("server name  {}", identity.server_name());
    println!("key          {}", dir.node_key()?.id());
    println!("address      {}", dir.node_key()?.id().address());
    if fresh {
        println!(
            "The server's name is chosen for good; `mangrove run --data {}` starts the node.",
            dir.path().display()
        );
    }
    Ok(())
}

/// The identity of a directory, made with the wished name where there is none.
pub(super) fn open_identity(dir: &DataDir, choice: Option<NameChoice>) -> Result<Identity, CmdError> {
    Identity::open_or_create(dir.path(), choice, &dir.node_key()?)
        .map_err(|error| CmdError::Usage(error.to_string()))
}

/// Prints the node's key.
pub(super) fn key(data: &Data) -> Result<(), CmdError> {
    println!("{}", read_node_key(&data.resolve()?)?.id());
    Ok(())
}

/// Prints the node's address.
pub(super) fn address(data: &Data) -> Result<(), CmdError> {
    println!("{}", read_node_key(&data.resolve()?)?.id().address());
    Ok(())
}

/// Prints the server's name.
pub(super) fn server_name(data: &Data) -> Result<(), CmdError> {
    let dir = data.resolve()?;
    read_node_key(&dir)?;
    let name = Identity::read_server_name(&dir).map_err(|error| CmdError::Usage(error.to_string()))?;
    println!("{name}");
    Ok(())
}
