//! Owns the file of a backup: a tar archive that any `tar` lists, whole or not there.
//!
//! ```text
//! mangrove-backup.json   what it is: format, program, server name, when
//! hs.db                  the database at one moment
//! node.key, identity …   the other files of the data directory
//! media/…                blobs; each was on the disk before the database named it
//! checksum               BLAKE3 of all bytes of the archive before this entry, in hex
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tar::{Archive, Builder, EntryType, Header};

use crate::store::{Store, StoreError};

/// Version of this layout.
const FORMAT: u32 = 1;
/// First entry.
const ABOUT: &str = "mangrove-backup.json";
/// Last entry.
const CHECKSUM: &str = "checksum";
/// The last entry and the archive's end: header, one block, two empty blocks.
const TAIL: u64 = 4 * 512;
/// Longest first entry.
const ABOUT_BYTES_MAX: u64 = 4096;
/// Names in the data directory that belong to the running process, or that are made anew.
const LEFT_OUT: [&str; 9] = [
    "lock",
    "ctl.sock",
    "hs.db",
    "hs.db-wal",
    "hs.db-shm",
    "cache.db",
    "cache.db-wal",
    "cache.db-shm",
    "tmp",
];

/// Why there is no backup, or none that can be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::cmd) enum BackupError {
    /// A file.
    #[error("{0}: {1}")]
    File(PathBuf, io::Error),
    /// The database.
    #[error("database: {0}")]
    Store(#[from] StoreError),
    /// It is not a backup, or a broken one.
    #[error("{0}")]
    Bad(&'static str),
}

/// What was written or read.
#[derive(Debug)]
pub(in crate::cmd) struct Summary {
    pub(in crate::cmd) bytes: u64,
    pub(in crate::cmd) files: usize,
    /// The server's name.
    pub(in crate::cmd) name: String,
    /// When it was made, in seconds since the epoch with a word before it.
    pub(in crate::cmd) made: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct About {
    format: u32,
    program: String,
    server_name: String,
    made_at: u64,
}

/// Writes everything of a data directory into `file`, mode 0600. Until it is whole it has another name.
pub(in crate::cmd) fn write(
    store: &Store,
    dir: &Path,
    server_name: &str,
    file: &Path,
) -> Result<Summary, BackupError> {
    let parent =
        file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let named = |end: &str| {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(end);
        parent.join(name)
    };
    let (copy, part) = (Remove(named(".db.part")), Remove(named(".part")));
    for left in [&copy.0, &part.0] {
        // Of a backup that broke off.
        let _ = fs::remove_file(left);
    }
    // The database first: a blob that it names is on the disk by then.
    store.copy_to(&copy.0)?;
    let summary = pack(dir, server_name, &copy.0, &part.0)?;
    fs::rename(&part.0, file).map_err(|error| BackupError::File(file.into(), error))?;
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| BackupError::File(parent.into(), error))?;
    Ok(summary)
}

/// Removes a file when it is dropped; one that has gone is no error.
struct Remove(PathBuf);

impl Drop for Remove {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn pack(dir: &Path, server_name: &str, database: &Path, part: &Path) -> Result<Summary, BackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| BackupError::File(path, error)
    };
    let out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).map_err(failed(part))?;
    let mut tar = Builder::new(Hashing { out: BufWriter::new(out), hash: blake3::Hasher::new(), bytes: 0 });
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let about = About {
        format: FORMAT,
        program: env!("CARGO_PKG_VERSION").into(),
        server_name: server_name.into(),
        made_at: now,
    };
    let text = serde_json::to_vec_pretty(&about).map_err(io::Error::other).map_err(failed(part))?;
    append(&mut tar, Path::new(ABOUT), &mut text.as_slice(), text.len() as u64, now).map_err(failed(part))?;
    let mut files = 1;
    append_file(&mut tar, Path::new("hs.db"), database, now).map_err(failed(database))?;
    let mut open = vec![PathBuf::new()];
    while let Some(inside) = open.pop() {
        let at = dir.join(&inside);
        let mut entries: Vec<_> = fs::read_dir(&at).and_then(Iterator::collect).map_err(failed(&at))?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let name = entry.file_name();
            let own = inside.as_os_str().is_empty() || inside == Path::new("media");
            if (own && LEFT_OUT.iter().any(|left| name == *left)) || name.to_string_lossy().ends_with(".new")
            {
                continue;
            }
            let (inside, path) = (inside.join(&name), entry.path());
            let kind = match entry.file_type() {
                Ok(kind) => kind,
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(BackupError::File(path, error)),
            };
            if kind.is_dir() {
                open.push(inside);
            } else if kind.is_file() {
                match append_file(&mut tar, &inside, &path, now) {
                    Ok(()) => files += 1,
                    // A blob that was removed since: the database's copy may name it still, as one that is not here.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(BackupError::File(path, error)),
                }
            }
        }
    }
    let sum = tar.get_ref().hash.finalize().to_hex();
    append(&mut tar, Path::new(CHECKSUM), &mut sum.as_bytes(), sum.len() as u64, now)
        .map_err(failed(part))?;
    let hashing = tar.into_inner().map_err(failed(part))?;
    let bytes = hashing.bytes;
    let out = hashing.out.into_inner().map_err(|error| BackupError::File(part.into(), error.into_error()))?;
    out.sync_all().map_err(failed(part))?;
    Ok(Summary { bytes, files, name: server_name.into(), made: format!("unix time {now}") })
}

fn append_file<W: Write>(tar: &mut Builder<W>, name: &Path, path: &Path, now: u64) -> io::Result<()> {
    let file = File::open(path)?;
    let size = file.metadata()?.len();
    // A file that grows meanwhile (none of ours does) is cut there, one that shrinks is an error.
    append(tar, name, &mut file.take(size), size, now)
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    name: &Path,
    data: &mut impl Read,
    size: u64,
    now: u64,
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(0o600);
    header.set_mtime(now);
    header.set_size(size);
    let mut counted = Counted { data, left: size };
    tar.append_data(&mut header, name, &mut counted)?;
    match counted.left {
        0 => Ok(()),
        _ => Err(io::Error::other("the file became shorter while it was read; try again")),
    }
}

/// Counts what is read.
struct Counted<'a, R> {
    data: &'a mut R,
    left: u64,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.data.read(buffer)?;
        self.left = self.left.saturating_sub(read as u64);
        Ok(read)
    }
}

/// Hashes what passes.
struct Hashing {
    out: BufWriter<File>,
    hash: blake3::Hasher,
    bytes: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Unpacks a backup into a directory that is not there yet, after it has proved whole.
pub(super) fn read(file: &Path, dir: &Path) -> Result<Summary, BackupError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| BackupError::File(path, error)
    };
    let mut from = File::open(file).map_err(failed(file))?;
    let bytes = check(&mut from).map_err(failed(file))??;
    from.seek(SeekFrom::Start(0)).map_err(failed(file))?;
    let mut private = fs::DirBuilder::new();
    private.recursive(true).mode(0o700);
    private.create(dir).map_err(failed(dir))?;
    let mut archive = Archive::new(BufReader::new(from));
    let mut about = None;
    let mut files = 0;
    for entry in archive.entries().map_err(failed(file))? {
        let mut entry = entry.map_err(failed(file))?;
        let name = entry.path().map_err(failed(file))?.into_owned();
        let plain = entry.header().entry_type() == EntryType::Regular
            && name.components().all(|part| matches!(part, Component::Normal(_)));
        if !plain {
            return Err(BackupError::Bad(
                "it holds something that no backup holds; it was not made by mangrove",
            ));
        }
        if about.is_none() {
            about = Some(read_about(&name, &mut entry)?);
            continue;
        }
        if name == Path::new(CHECKSUM) {
            break;
        }
        let to = dir.join(&name);
        if let Some(parent) = to.parent() {
            private.create(parent).map_err(failed(parent))?;
        }
        let mut out =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&to).map_err(failed(&to))?;
        io::copy(&mut entry, &mut out).and_then(|_| out.sync_all()).map_err(failed(&to))?;
        files += 1;
    }
    let about = about.ok_or(BackupError::Bad("it is empty"))?;
    if !dir.join("hs.db").is_file() {
        return Err(BackupError::Bad("there is no database in it"));
    }
    Ok(Summary { bytes, files, name: about.server_name, made: format!("unix time {}", about.made_at) })
}

fn read_about(name: &Path, entry: &mut impl Read) -> Result<About, BackupError> {
    let bad = BackupError::Bad("it is not a backup of mangrove");
    if name != Path::new(ABOUT) {
        return Err(bad);
    }
    let mut text = Vec::new();
    entry
        .take(ABOUT_BYTES_MAX)
        .read_to_end(&mut text)
        .map_err(|error| BackupError::File(name.into(), error))?;
    let about: About = serde_json::from_slice(&text).map_err(|_| bad)?;
    if about.format != FORMAT {
        return Err(BackupError::Bad("a newer mangrove made it; use that one"));
    }
    Ok(about)
}

/// Compares the checksum; gives the file's length.
fn check(file: &mut File) -> io::Result<Result<u64, BackupError>> {
    let cut = Ok(Err(BackupError::Bad("it is cut short or damaged: its checksum does not fit")));
    let bytes = file.metadata()?.len();
    let Some(body) = bytes.checked_sub(TAIL) else { return cut };
    let mut hash = blake3::Hasher::new();
    io::copy(&mut BufReader::with_capacity(1 << 20, Read::by_ref(file).take(body)), &mut hash)?;
    file.seek(SeekFrom::Start(body))?;
    let mut tail = [0; TAIL as usize];
    file.read_exact(&mut tail)?;
    let sum = hash.finalize().to_hex();
    let named = tail.starts_with(CHECKSUM.as_bytes()) && tail[CHECKSUM.len()] == 0;
    if named && tail[512..].starts_with(sum.as_bytes()) { Ok(Ok(bytes)) } else { cut }
}

/// Gives an unpacked directory its name; on return all of it is on the disk.
pub(super) fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![from.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                open.push(entry.path());
            }
        }
        File::open(&dir)?.sync_all()?;
    }
    // An empty directory of that name is replaced.
    fs::rename(from, to)?;
    let parent =
        to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(parent)?.sync_all()
}
