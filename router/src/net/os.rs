//! What the core cannot have of its own: the clock, randomness, and the counter that survives a restart.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::crypto::Entropy;
use crate::time::Instant;

/// How far the stored counter runs ahead of the one in use: so rarely is it written, and a node that is killed
/// starts at most so far in its own future.
const AHEAD: u64 = 1 << 16;
/// Bytes of the file that are read: a u64 in decimal and its line end.
const FILE_BYTES_MAX: u64 = 32;
const FILE_NAME: &str = "router.counter";

/// The operating system's random generator.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsEntropy;

impl Entropy for OsEntropy {
    fn fill(&mut self, out: &mut [u8]) {
        // Linux fails here only before its generator is seeded in early boot, where it blocks instead, and with
        // memory that is not ours. No key may ever be made from less.
        getrandom::fill(out).expect("the operating system gives randomness");
    }
}

/// The one clock of a node: microseconds since it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn now(&self) -> Instant {
        // One hour in, so that "an hour ago" is a time like any other.
        Instant::from_micros(self.0.elapsed().as_micros() as u64 + 3_600_000_000)
    }

    /// How long from now until then.
    pub(crate) fn until(&self, then: Instant) -> std::time::Duration {
        then - self.now()
    }
}

/// Milliseconds since 1970 by this host's clock, wrong as it may be.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}

/// The persisted counter: every number that the router used is below what is stored.
#[derive(Debug)]
pub(crate) struct Counter {
    path: Option<PathBuf>,
    stored: u64,
}

impl Counter {
    /// Reads the counter of a directory, or begins one; without a directory nothing is kept.
    pub(crate) fn open(dir: Option<&Path>) -> io::Result<Self> {
        let Some(dir) = dir else { return Ok(Self { path: None, stored: 0 }) };
        let path = dir.join(FILE_NAME);
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => drop(file.take(FILE_BYTES_MAX).read_to_string(&mut text)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        // A torn file cannot be (it is renamed into place); one that somebody emptied counts from the clock.
        let stored = text.trim().parse().unwrap_or(0);
        Ok(Self { path: Some(path), stored })
    }

    /// Where this run begins.
    pub(crate) fn boot(&self) -> u64 {
        self.stored.max(unix_ms())
    }

    /// What has to be stored now that the router has got to `used`, if anything.
    pub(crate) fn due(&self, used: u64) -> Option<u64> {
        (self.path.is_some() && used.saturating_add(AHEAD / 2) > self.stored)
            .then(|| used.saturating_add(AHEAD))
    }

    /// Where and what to write; `stored` is told afterwards that it was done.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn stored(&mut self, value: u64) {
        self.stored = value;
    }
}

/// Writes a counter so that after a power cut there is the old one or the new one. Blocks on the disk.
pub(crate) fn write_counter(path: &Path, value: u64) -> io::Result<()> {
    let new = path.with_extension("counter.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(file, "{value}")?;
    file.sync_all()?;
    std::fs::rename(&new, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_counter_only_grows() {
        let dir = tempfile::tempdir().unwrap();
        let mut counter = Counter::open(Some(dir.path())).unwrap();
        let boot = counter.boot();
        assert!(boot > 1_700_000_000_000);
        let ahead = counter.due(boot).expect("nothing is stored yet");
        write_counter(counter.path().unwrap(), ahead).unwrap();
        counter.stored(ahead);
        assert_eq!(counter.due(boot + 10), None);
        assert!(counter.due(boot + AHEAD / 2 + 1).is_some());
        // The next run, by a clock that may stand still, begins above all that this one used.
        assert!(Counter::open(Some(dir.path())).unwrap().boot() >= boot + AHEAD);
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_odd_file_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE_NAME), "9".repeat(4000)).unwrap();
        assert!(Counter::open(Some(dir.path())).unwrap().boot() > 0);
        assert_eq!(Counter::open(None).unwrap().due(u64::MAX), None);
    }

    #[test]
    fn entropy_fills() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        OsEntropy.fill(&mut a);
        OsEntropy.fill(&mut b);
        assert_ne!(a, b);
    }
}
