//! Owns copies of the database: how one is taken while the node runs, and what makes a restored one a life of its own.

use std::path::Path;

use rusqlite::{Connection, backup::Backup};

use super::{COUNTER_JUMP, Store, StoreError, WriteTx, connect, create_private, schema};

impl Store {
    /// Copies the database as it is at one moment into a new file, readable by its owner alone, while others read and
    /// write. (Until it is done the log grows instead of being reset.) On the calling thread; on return it is on the disk.
    pub fn copy_to(&self, file: &Path) -> Result<(), StoreError> {
        if file.exists() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(StoreError::Io(std::sync::Arc::new(exists)));
        }
        create_private(file)?;
        let from = connect(&self.inner.path, true)?;
        let mut to = Connection::open(file)?;
        to.pragma_update(None, "synchronous", "OFF")?;
        // In one step: in several, each write in between would begin it anew, and a busy node would never be done.
        Backup::new(&from, &mut to)?.step(-1)?;
        to.close().map_err(|(_, error)| error)?;
        std::fs::File::open(file)?.sync_all()?;
        Ok(())
    }

    /// Makes a database that was put back from a copy a new life of itself, before anybody uses it: a new incarnation, so
    /// that tokens given out after the copy was made are recognised as foreign and clients sync anew; no one-time keys,
    /// for some were claimed since; and numbers that were not used before, so that whoever remembers one (other servers
    /// remember positions of device lists) takes none for an old one.
    pub async fn begin_new_life(&self) -> Result<(), StoreError> {
        self.write(|tx: &mut WriteTx<'_>| -> Result<(), StoreError> {
            schema::e2ee::drop_one_time_keys(tx)?;
            let mut incarnation = [0; 8];
            getrandom::fill(&mut incarnation).map_err(|error| std::io::Error::other(error.to_string()))?;
            tx.execute("UPDATE meta SET value = ?1 WHERE key = 'incarnation'", [incarnation.as_slice()])?;
            tx.jump(COUNTER_JUMP)
        })
        .await
    }
}
