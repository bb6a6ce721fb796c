//! `mangrove backup` and `mangrove restore`: everything of a node in one file, and back.

mod archive;

use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use serde_json::{Value, json};

pub(super) use archive::{Summary, write};

use super::control::{Asked, Request, ask};
use super::{CmdError, Data, DataDir, runtime, table};
use crate::account::Identity;
use crate::notify::Notify;
use crate::store::Store;

#[derive(Args, Debug)]
pub(super) struct BackupArgs {
    #[command(flatten)]
    data: Data,
    /// File to write; one that is there is replaced when the new one is whole
    file: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct RestoreArgs {
    #[command(flatten)]
    data: Data,
    /// A file that `mangrove backup` wrote
    #[arg(required_unless_present = "in_place")]
    file: Option<PathBuf>,
    /// The directory was put back by other means (a disk snapshot, a copy): only make it a new life of the node
    #[arg(long, conflicts_with = "file")]
    in_place: bool,
}

/// Writes a backup, through the running node if one runs.
pub(super) fn backup(args: &BackupArgs) -> Result<(), CmdError> {
    let dir = args.data.resolve()?;
    let file = std::path::absolute(&args.file)
        .map_err(|error| CmdError::Usage(format!("{}: {error}", args.file.display())))?;
    let runtime = runtime()?;
    let request = Request::Backup { file: file.clone() };
    let value = match runtime.block_on(ask(&dir, &request)) {
        Ok(Asked::Answered(answer)) => answer.map_err(CmdError::Failed)?,
        Ok(Asked::NotRunning) => runtime.block_on(offline(&dir, &file))?,
        Err(error) => return Err(CmdError::Failed(format!("the node in {}: {error}", dir.display()))),
    };
    print!("{}", table::render(&value));
    Ok(())
}

/// A node that does not run is backed up by this process.
async fn offline(dir: &Path, file: &Path) -> Result<Value, CmdError> {
    super::data_dir::read_node_key(dir)?;
    let dir = DataDir::open(dir)?;
    let name = Identity::read_server_name(dir.path()).map_err(|error| CmdError::Usage(error.to_string()))?;
    let store = open(dir.path())?;
    let written = write(&store, dir.path(), name.as_str(), file);
    store.close().await;
    Ok(told(&written.map_err(|error| CmdError::Failed(error.to_string()))?, file))
}

fn open(dir: &Path) -> Result<Store, CmdError> {
    Store::open(dir, Default::default(), Notify::default())
        .map_err(|error| CmdError::Failed(format!("database in {}: {error}", dir.display())))
}

/// What the user is told of a backup.
pub(super) fn told(summary: &Summary, file: &Path) -> Value {
    json!({
        "file": file,
        "bytes": summary.bytes,
        "files": summary.files,
        "note": "it holds the node's keys and all messages that are not encrypted: keep it as safe as the node itself",
    })
}

/// Makes a data directory of a backup, or of one that was put back by other means.
pub(super) fn restore(args: &RestoreArgs) -> Result<(), CmdError> {
    let dir = args.data.resolve()?;
    let Some(file) = &args.file else {
        super::data_dir::read_node_key(&dir)?;
        let held = DataDir::open(&dir)?;
        begin_anew(held.path())?;
        println!("{} is a new life of its node: clients sync anew.", dir.display());
        return Ok(());
    };
    let taken = fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) || dir.is_file();
    if taken {
        return Err(CmdError::Usage(format!(
            "{} is not empty; a restore overwrites nothing: name another directory with --data, or move this one away",
            dir.display()
        )));
    }
    let mut beside = dir.clone().into_os_string();
    beside.push(".restoring");
    let beside = PathBuf::from(beside);
    // What a broken restore left; the name is ours.
    let _ = fs::remove_dir_all(&beside);
    let made = archive::read(file, &beside)
        .map_err(|error| CmdError::Usage(format!("{}: {error}", file.display())))
        .and_then(|summary| begin_anew(&beside).map(|()| summary))
        .and_then(|summary| {
            archive::put_in_place(&beside, &dir)
                .map_err(|error| CmdError::Failed(format!("{}: {error}", dir.display())))?;
            Ok(summary)
        });
    if made.is_err() {
        // The error that matters is the first one.
        let _ = fs::remove_dir_all(&beside);
    }
    let summary = made?;
    println!(
        "restored {} of {} into {}\nClients sync anew at their next request; what came after the backup is lost here.\n\
         Never run two nodes of one identity at the same time.",
        summary.name,
        summary.made,
        dir.display()
    );
    Ok(())
}

fn begin_anew(dir: &Path) -> Result<(), CmdError> {
    let store = open(dir)?;
    let runtime = runtime()?;
    let begun = runtime.block_on(async {
        let begun = store.begin_new_life().await;
        store.close().await;
        begun
    });
    begun.map_err(|error| CmdError::Failed(format!("database in {}: {error}", dir.display())))
}

#[cfg(test)]
mod tests;
