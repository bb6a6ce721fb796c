//! The command line of `mangrove`: a file per subcommand.

mod account;
mod admin;
mod answers;
mod backup;
mod control;
mod ctl;
mod data_dir;
mod init;
mod log;
mod node;
mod relay;
mod reload;
mod run;
mod shrink;

mod table;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{ConfigError, Flags};

pub use data_dir::{DataDir, DataDirError};
pub use node::{RunningNode, StartError};

/// Chat over Matrix, peer to peer: a homeserver that reaches others by public key.
///
/// Without a command the node runs. Settings come from flags, then from MANGROVE_… variables, then from the TOML file
/// named with --config, then from the defaults.
#[derive(Parser, Debug)]
#[command(name = "mangrove", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run the node (also without a command)
    Run(Box<Flags>),
    /// Make key, identity and database, if they are not there yet
    Init(init::InitArgs),
    /// Print the node's public key
    Key(Data),
    /// Print the node's IPv6 address on the overlay
    Address(Data),
    /// Print the server's name
    ServerName(Data),
    /// Make and look after accounts
    Account(account::AccountArgs),
    /// Write everything of the node into one file, also while it runs
    Backup(backup::BackupArgs),
    /// Make a data directory of a backup
    Restore(backup::RestoreArgs),
    /// Look after users and rooms of the running node
    Admin(Box<admin::AdminArgs>),
    /// Ask the running node, or tell it
    Ctl(ctl::CtlArgs),
    #[command(hide = true, name = "shrink-picture")]
    Shrink(shrink::ShrinkArgs),
    #[command(hide = true, name = "read-page")]
    ReadPage(shrink::PageArgs),
    /// Simulate a network of many routers
    Sim(Box<sim::cli::Args>),
}

/// Which node is meant.
#[derive(Args, Clone, Debug)]
struct Data {
    /// Directory of the node [default: the XDG data home + /mangrove]
    #[arg(long = "data", value_name = "DIR", global = true, env = "MANGROVE_DATA")]
    dir: Option<std::path::PathBuf>,
}

impl Data {
    fn resolve(&self) -> Result<std::path::PathBuf, CmdError> {
        Ok(crate::config::data_dir(self.dir.clone())?)
    }
}

/// Why a command ended without success. The text is one line that says what to do.
#[derive(Debug, thiserror::Error)]
enum CmdError {
    /// Bad input or surroundings that the user can mend; nothing was changed. Exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It was tried and failed. Exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl From<ConfigError> for CmdError {
    fn from(error: ConfigError) -> Self {
        Self::Usage(error.0)
    }
}

impl From<DataDirError> for CmdError {
    fn from(error: DataDirError) -> Self {
        Self::Usage(error.to_string())
    }
}

/// Runs what the command line asks for.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        None => run::run(&cli.run),
        Some(Command::Run(flags)) => run::run(&flags),
        Some(Command::Init(args)) => init::init(&args),
        Some(Command::Key(data)) => init::key(&data),
        Some(Command::Address(data)) => init::address(&data),
        Some(Command::ServerName(data)) => init::server_name(&data),
        Some(Command::Admin(args)) => admin::admin(&args),
        Some(Command::Account(args)) => account::account(&args),
        Some(Command::Backup(args)) => backup::backup(&args),
        Some(Command::Restore(args)) => backup::restore(&args),
        Some(Command::Ctl(args)) => ctl::ctl(&args),
        Some(Command::Shrink(args)) => shrink::shrink(&args),
        Some(Command::ReadPage(args)) => shrink::read_page(&args),
        Some(Command::Sim(args)) => return sim::cli::run(*args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("mangrove: {}", error.to_string().replace('\n', " "));
            ExitCode::from(match error {
                CmdError::Usage(_) => 2,
                CmdError::Failed(_) => 1,
            })
        }
    }
}

/// A runtime for commands that speak to a socket or a database; small, since they do one thing.
fn runtime() -> Result<tokio::runtime::Runtime, CmdError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CmdError::Failed(format!("no runtime: {error}")))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};

    use super::Cli;

    /// Two arguments of one name, a conflict with one that does not exist: clap finds them only when it runs.
    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    /// `--data` and `--json` stand where people write them: before the verb, or at the end.
    #[test]
    fn the_directory_may_stand_at_the_end() {
        for line in [
            "mangrove account create alice --data /d",
            "mangrove account --data /d create alice",
            "mangrove ctl --data /d --json self",
            "mangrove ctl self --json --data /d",
            "mangrove admin --data /d users --json",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
