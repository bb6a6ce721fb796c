//! Owns what survives a restart: a text file with the counter in its first line, then how long which roots were followed.
//!
//! ```text
//! 1764000065536                     above every number that was used
//! roots 1                           the version of what follows; a file without it is of an earlier release
//! 0 5c1e..(64 hex digits) 4711      tree, key, seconds; each tree's latest last
//! ```
//! Lines that cannot be read are passed over: the file is our own, and what it forgets is only learned anew.

use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::os::unix_ms;
use crate::tree::tenure::RootTimes;

/// How far the stored counter runs ahead of the one in use: so rarely is it written, and a node that is killed
/// starts at most so far in its own future.
const AHEAD: u64 = 1 << 16;
/// Bytes of the file that are read: 32 roots of 8 trees, each line some 80 bytes.
const FILE_BYTES_MAX: u64 = 32 * 1024;
const FILE_NAME: &str = "router.counter";
const ROOTS: &str = "roots 1";

/// What is on the disk, or is being written there.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    path: Option<PathBuf>,
    stored: Saved,
}

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Saved {
    pub(crate) counter: u64,
    pub(crate) roots: RootTimes,
}

impl Kept {
    /// Reads what a directory holds, or begins; without a directory nothing is kept.
    pub(crate) fn open(dir: Option<&Path>) -> io::Result<Self> {
        let Some(dir) = dir else { return Ok(Self::default()) };
        let path = dir.join(FILE_NAME);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(file) => drop(file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        // A torn file cannot be (it is renamed into place); one that somebody emptied counts from the clock.
        Ok(Self { path: Some(path), stored: Saved::read(&String::from_utf8_lossy(&bytes)) })
    }

    /// Where this run begins.
    pub(crate) fn boot(&self) -> crate::config::Boot {
        crate::config::Boot { counter: self.stored.counter.max(unix_ms()), roots: self.stored.roots.clone() }
    }

    /// What has to be stored now that the router has got to `used` and follows these roots, if anything.
    pub(crate) fn due(&self, used: u64, roots: impl FnOnce() -> RootTimes, look: bool) -> Option<Saved> {
        self.path.as_ref()?;
        let late = used.saturating_add(AHEAD / 2) > self.stored.counter;
        if !late && !look {
            return None;
        }
        let roots = roots();
        (late || roots.tells_more_than(&self.stored.roots))
            .then(|| Saved { counter: used.saturating_add(AHEAD).max(self.stored.counter), roots })
    }

    /// Where to write; `stored` is told afterwards that it was done.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn stored(&mut self, saved: Saved) {
        self.stored = saved;
    }
}

impl Saved {
    fn read(text: &str) -> Self {
        let mut lines = text.lines();
        let counter = lines.next().and_then(|line| line.trim().parse().ok()).unwrap_or(0);
        let mut roots = RootTimes::default();
        if lines.next() == Some(ROOTS) {
            for line in lines {
                let mut words = line.split(' ');
                let (tree, key, seconds) = (words.next(), words.next(), words.next());
                if let (Some(Ok(tree)), Some(Ok(key)), Some(Ok(seconds))) =
                    (tree.map(str::parse), key.map(str::parse), seconds.map(str::parse))
                {
                    roots.push(tree, key, Duration::from_secs(u32::into(seconds)));
                }
            }
        }
        Self { counter, roots }
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n{ROOTS}\n", self.counter);
        for (tree, root, followed) in self.roots.iter() {
            let seconds = followed.as_secs().min(u32::MAX.into());
            let _ = writeln!(text, "{tree} {root} {seconds}"); // a String takes all
        }
        text
    }

    /// Writes it so that after a power cut there is the old file or the new one. Blocks on the disk.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("counter.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        match path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::id::NodeId;

    fn roots(seconds: u64) -> RootTimes {
        let mut roots = RootTimes::default();
        roots.push(0, NodeId::from_bytes([1; 32]), Duration::from_secs(90));
        roots.push(0, NodeId::from_bytes([2; 32]), Duration::from_secs(seconds));
        roots.push(3, NodeId::from_bytes([3; 32]), Duration::from_secs(5000));
        roots
    }

    #[test]
    fn the_counter_only_grows_and_roots_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut kept = Kept::open(Some(dir.path())).unwrap();
        let boot = kept.boot();
        assert!(boot.counter > 1_700_000_000_000 && boot.roots == RootTimes::default());
        let ahead = kept.due(boot.counter, || roots(90), false).expect("nothing is stored yet");
        ahead.write(kept.path().unwrap()).unwrap();
        kept.stored(ahead);
        assert_eq!(kept.due(boot.counter + 10, || roots(299), true), None);
        assert_eq!(kept.due(boot.counter + 10, || roots(300), false), None, "nobody looked");
        assert!(kept.due(boot.counter + 10, || roots(300), true).is_some());
        assert!(kept.due(boot.counter + AHEAD / 2 + 1, || roots(90), false).is_some());
        // The next run, by a clock that may stand still, begins above all that this one used.
        let again = Kept::open(Some(dir.path())).unwrap().boot();
        assert!(again.counter >= boot.counter + AHEAD);
        assert_eq!(again.roots, roots(90));
        let mode = std::fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_older_or_an_odd_file_is_survived() {
        let dir = tempfile::tempdir().unwrap();
        let open = |text: &[u8]| {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            Kept::open(Some(dir.path())).unwrap().boot()
        };
        assert_eq!(open(b"9999999999999\n").counter, 9_999_999_999_999);
        let line = format!("0 {} 500\n", NodeId::from_bytes([7; 32]));
        assert_eq!(open(format!("1\nroots 2\n{line}").as_bytes()).roots, RootTimes::default());
        let odd = format!("1\nroots 1\n\n0\n0 ab 5\n99 {line}{}\n-1 {line}{line}", "x".repeat(900));
        assert_eq!(open(odd.as_bytes()).roots.iter().count(), 1);
        assert!(open(&[b'9'; 4000]).counter > 0);
        assert!(open(&[0xff; 4000]).counter > 0);
        open(format!("1\nroots 1\n{}", line.repeat(4000)).as_bytes());
        assert_eq!(Kept::open(None).unwrap().due(u64::MAX, || roots(900), true), None);
    }
}
