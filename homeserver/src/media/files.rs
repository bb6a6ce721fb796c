//! The content store: `media/ab/cdef…`, each file named by the BLAKE3 hash of what is in it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    fs::{self, File, OpenOptions},
    io::AsyncWriteExt as _,
};

use crate::{store::schema::media::Hash, user::token};

/// The store's directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    dir: Arc<Path>,
}

impl Files {
    /// Makes the directory, readable by its owner only, and removes what broken uploads left.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let tmp = dir.join("tmp");
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&tmp)?;
        for entry in std::fs::read_dir(&tmp)? {
            std::fs::remove_file(entry?.path())?;
        }
        Ok(Self { dir: dir.into() })
    }

    fn path(&self, hash: &Hash) -> PathBuf {
        let hex = data_encoding::HEXLOWER.encode(hash);
        self.dir.join(&hex[..2]).join(&hex[2..])
    }

    /// Begins a file that has no name yet.
    pub(super) async fn begin(&self) -> io::Result<Writing> {
        let path = self.dir.join("tmp").join(token::random());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        options.mode(0o600);
        let file = options.open(&path).await?;
        Ok(Writing { file, hasher: Box::default(), size: 0, tmp: Tmp(Some(path)) })
    }

    /// Gives a written file its name. On return it is on the disk.
    pub(super) async fn finish(&self, writing: Writing) -> io::Result<(Hash, u64)> {
        let Writing { mut file, hasher, size, mut tmp } = writing;
        file.flush().await?;
        file.sync_all().await?;
        drop(file);
        let hash: Hash = hasher.finalize().into();
        let path = self.path(&hash);
        if fs::try_exists(&path).await? {
            return Ok((hash, size));
        }
        let parent = path.parent().unwrap_or(&self.dir).to_owned();
        fs::create_dir_all(&parent).await?;
        if let Some(from) = &tmp.0 {
            fs::rename(from, &path).await?;
        }
        tmp.0 = None;
        File::open(&parent).await?.sync_all().await?;
        File::open(&self.dir).await?.sync_all().await?;
        Ok((hash, size))
    }

    /// Opens a blob for reading: (file, size).
    pub(super) async fn open_blob(&self, hash: &Hash) -> io::Result<(File, u64)> {
        let file = File::open(self.path(hash)).await?;
        let size = file.metadata().await?.len();
        Ok((file, size))
    }

    /// Reads a whole blob, on the calling thread.
    pub(super) fn read_blocking(&self, hash: &Hash) -> io::Result<Vec<u8>> {
        std::fs::read(self.path(hash))
    }

    /// Removes a blob; that it is not there is fine.
    pub(super) async fn remove(&self, hash: &Hash) -> io::Result<()> {
        match fs::remove_file(self.path(hash)).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// A file being written. Dropped before it is finished, it is removed.
#[derive(Debug)]
pub(super) struct Writing {
    file: File,
    hasher: Box<blake3::Hasher>,
    size: u64,
    tmp: Tmp,
}

impl Writing {
    pub(super) async fn write(&mut self, data: &[u8]) -> io::Result<()> {
        self.hasher.update(data);
        self.size += data.len() as u64;
        self.file.write_all(data).await
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }
}

#[derive(Debug)]
struct Tmp(Option<PathBuf>);

impl Drop for Tmp {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What stays behind is removed at the next start.
            let _ = std::fs::remove_file(path);
        }
    }
}
