//! Pictures of strangers are decoded, and pages of the web read, in a process of its own: this program again, with hardly any rights, memory and time. A
//! decoder that is tricked or does not end costs that process and nothing else.

use std::{
    io::{self, Read as _, Write as _},
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::sys::resource::{Resource, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::{
    MediaError,
    files::Files,
    page,
    shrink::{self, Method, Shrunk, Size},
};
use crate::store::schema::media::Hash;

/// What the program is called with to be that process.
pub(super) const COMMAND: &str = "shrink-picture";
/// And for a page.
pub(super) const PAGE_COMMAND: &str = "read-page";

/// Makes a stored picture small: (bytes, type), or `None` if the original is no larger than asked for. `program` does it;
/// without one, as in tests of this area, it is done here.
pub(super) async fn shrink(
    program: Option<&Path>,
    files: &Files,
    original: &Hash,
    size: Size,
) -> Result<Option<(Vec<u8>, String)>, MediaError> {
    let Some(program) = program else {
        let (files, original) = (files.clone(), *original);
        let shrunk = tokio::task::spawn_blocking(move || -> io::Result<_> {
            Ok(shrink::shrink(&files.read_blocking(&original)?, size))
        });
        return match shrunk.await.map_err(|_| MediaError::NoThumbnail)?? {
            Shrunk::Small => Ok(None),
            Shrunk::Made(bytes, kind) => Ok(Some((bytes, kind.to_owned()))),
            Shrunk::NoPicture => Err(MediaError::NoThumbnail),
        };
    };
    let (file, _) = files.open_blob(original).await?;
    let method = if size.method == Method::Crop { "crop" } else { "scale" };
    let words =
        [COMMAND, &size.width.to_string(), &size.height.to_string(), method, &size.animated.to_string()];
    let mut told = ask(program, &words, Stdio::from(file.into_std().await), None).await?;
    // What the process says is not trusted further than its form.
    match told.first() {
        Some(b'0') => Ok(None),
        Some(kind) => {
            let kind = KINDS.iter().find(|(code, _)| code == kind).ok_or(MediaError::NoThumbnail)?.1;
            Ok(Some((told.split_off(1), kind.to_owned())))
        }
        None => Err(MediaError::NoThumbnail),
    }
}

/// What a page of the web says of itself, as JSON: see `page.rs`.
pub(super) async fn read_page(
    program: Option<&Path>,
    html: Vec<u8>,
    address: String,
) -> Result<Vec<u8>, MediaError> {
    match program {
        Some(program) => ask(program, &[PAGE_COMMAND, &address], Stdio::piped(), Some(html)).await,
        None => tokio::task::spawn_blocking(move || page::read(&html, &address))
            .await
            .map_err(|_| MediaError::NoThumbnail),
    }
}

/// Runs the program with nothing but its input, and takes what it says if it ends well.
async fn ask(
    program: &Path,
    words: &[&str],
    input: Stdio,
    bytes: Option<Vec<u8>>,
) -> Result<Vec<u8>, MediaError> {
    let mut child = Command::new(program)
        .args(words)
        .env_clear()
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let mut told = Vec::new();
    let (input, output) = (child.stdin.take(), child.stdout.take().ok_or(MediaError::NoThumbnail)?);
    let answer = async {
        let write = async {
            if let (Some(mut input), Some(bytes)) = (input, bytes) {
                // It may end before it has read all.
                let _ = input.write_all(&bytes).await;
            }
        };
        let mut output = output.take(ANSWER_BYTES_MAX);
        let (_, read) = tokio::join!(write, output.read_to_end(&mut told));
        read?;
        child.wait().await
    };
    match tokio::time::timeout(WITHIN, answer).await {
        Ok(status) => match status?.success() {
            true => Ok(told),
            false => Err(MediaError::NoThumbnail),
        },
        Err(_) => {
            tracing::warn!("a stranger's file took more than {} s and was given up", WITHIN.as_secs());
            Err(MediaError::NoThumbnail)
        }
    }
}

/// The process's own side: gives up its rights, reads a picture from standard input, writes a small one to standard output.
/// False: no small picture can be made.
pub fn run(size: Size) -> io::Result<bool> {
    give_up_rights()?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut out = io::stdout().lock();
    match shrink::shrink(&bytes, size) {
        Shrunk::Small => out.write_all(b"0")?,
        Shrunk::Made(small, kind) => {
            let code = KINDS.iter().find(|(_, known)| *known == kind).map_or(b'?', |(code, _)| *code);
            out.write_all(&[code])?;
            out.write_all(&small)?;
        }
        Shrunk::NoPicture => return Ok(false),
    }
    out.flush()?;
    Ok(true)
}

/// The same for a page of the web: reads it from standard input, writes what it says of itself.
pub fn run_page(address: &str) -> io::Result<()> {
    give_up_rights()?;
    let mut bytes = Vec::new();
    io::stdin().lock().take(INPUT_BYTES_MAX).read_to_end(&mut bytes)?;
    let mut out = io::stdout().lock();
    out.write_all(&page::read(&bytes, address))?;
    out.flush()
}

fn give_up_rights() -> io::Result<()> {
    for (resource, most) in [
        (Resource::RLIMIT_AS, MEMORY_BYTES),
        (Resource::RLIMIT_CPU, CPU_S),
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_FSIZE, 0),
        // The three that it has, and not one more.
        (Resource::RLIMIT_NOFILE, 3),
    ] {
        setrlimit(resource, most, most)?;
    }
    #[cfg(target_os = "linux")]
    {
        nix::sys::prctl::set_no_new_privs()?;
        // When the node ends, so does this.
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    Ok(())
}

/// The first byte of an answer, and the type that it stands for.
const KINDS: [(u8, &str); 3] = [(b'1', "image/jpeg"), (b'2', "image/png"), (b'3', "image/gif")];
/// The file, what a decoder may allocate (128 MiB), the picture once more in another form, and the program itself.
const MEMORY_BYTES: u64 = 1 << 30;
/// The largest pictures take one or two.
const CPU_S: u64 = 15;
/// Also if it waits for something.
const WITHIN: Duration = Duration::from_secs(30);
const INPUT_BYTES_MAX: u64 = 256 << 20;
const ANSWER_BYTES_MAX: u64 = 16 << 20;
