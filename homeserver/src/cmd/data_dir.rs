//! The data directory: who may use it, and the node's key in it.
//!
//! ```text
//! DIR/              mode 0700 where we make it
//!   lock            flock(2) held by the process that uses the directory
//!   node.key        seed of the node's ed25519 key, 64 hex digits, mode 0600
//!   ctl.sock        socket of the running node, mode 0600
//!   ...             identity, database, media: see their areas
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use router::crypto::SecretKey;
use zeroize::Zeroizing;

use crate::account::files;

/// Why a data directory cannot be used, in one line with a way out.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// It cannot be made, read or written.
    #[error("data directory {0}: {1}; choose one that can be written with --data DIR")]
    Unusable(PathBuf, io::Error),
    /// Another process has it.
    #[error(
        "data directory {0} is in use by another mangrove process; stop it first, or choose another with --data DIR"
    )]
    InUse(PathBuf),
    /// There is no node in it.
    #[error(
        "data directory {0} has no node yet; `mangrove init --data {0}` or `mangrove run --data {0}` makes one"
    )]
    Empty(PathBuf),
    /// The key's file is not one of ours.
    #[error(
        "{0} does not hold a node's key (64 hex digits); put the right file back, or move it away for a new node"
    )]
    BadKey(PathBuf),
}

/// A data directory that this process alone uses, until it is dropped.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// The lock goes with the descriptor, also when the process is killed.
    _lock: nix::fcntl::Flock<File>,
}

impl DataDir {
    /// Makes the directory where it is missing, and takes it for this process.
    pub fn open(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |error| DataDirError::Unusable(path.into(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(unusable)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(unusable)?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { path: path.into(), _lock: lock }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DataDirError::InUse(path.into())),
            Err((_, errno)) => Err(unusable(errno.into())),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The node's key, made from the operating system's generator where there is none.
    pub fn node_key(&self) -> Result<SecretKey, DataDirError> {
        match read_node_key(&self.path) {
            Err(DataDirError::Empty(_)) => {}
            found => return found,
        }
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed).map_err(|error| {
            DataDirError::Unusable(self.path.clone(), io::Error::other(error.to_string()))
        })?;
        let text = Zeroizing::new(data_encoding::HEXLOWER.encode(&*seed) + "\n");
        files::write(&self.path.join("node.key"), text.as_bytes())
            .map_err(|error| DataDirError::Unusable(self.path.clone(), error))?;
        Ok(SecretKey::from_seed(*seed))
    }
}

/// The node's key of a directory that may be in use.
pub(crate) fn read_node_key(dir: &Path) -> Result<SecretKey, DataDirError> {
    let path = dir.join("node.key");
    let text = match fs::read_to_string(&path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DataDirError::Empty(dir.into())),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(DataDirError::BadKey(path)),
        Err(error) => return Err(DataDirError::Unusable(dir.into(), error)),
    };
    let decoded = data_encoding::HEXLOWER.decode(text.trim().as_bytes()).map(Zeroizing::new);
    match decoded.ok().and_then(|seed| <[u8; 32]>::try_from(seed.as_slice()).ok()) {
        Some(seed) => Ok(SecretKey::from_seed(seed)),
        None => Err(DataDirError::BadKey(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_has_one_user_at_a_time_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path).unwrap();
        let key = first.node_key().unwrap().id();
        assert!(matches!(DataDir::open(&path), Err(DataDirError::InUse(_))));
        drop(first);
        assert_eq!(DataDir::open(&path).unwrap().node_key().unwrap().id(), key);
        let mode = |name| fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("node.key"), mode("lock"), mode(".")), (0o600, 0o600, 0o700));
    }

    #[test]
    fn a_spoilt_key_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for spoilt in ["", "zz", "00ff", "\u{0}"] {
            fs::write(dir.path().join("node.key"), spoilt).unwrap();
            assert!(matches!(DataDir::open(dir.path()).unwrap().node_key(), Err(DataDirError::BadKey(_))));
            assert_eq!(fs::read_to_string(dir.path().join("node.key")).unwrap(), spoilt);
        }
    }
}
