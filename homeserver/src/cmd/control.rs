//! The control socket of a running node: `ctl.sock` in its data directory, which its owner alone may open.
//!
//! One request and one answer a connection, each one line of JSON: `{"do": "ping", "target": "…"}` and then
//! `{"ok": …}` or `{"error": "what went wrong"}`.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

/// What a running node can be asked or told.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(super) enum Request {
    /// Who this node is, and how it does.
    #[serde(rename = "self")]
    SelfInfo,
    /// Its direct neighbours.
    Peers,
    /// Its place in each spanning tree.
    Trees,
    /// The key of the first tree's root.
    Root,
    /// Nodes that it has keys with.
    Sessions,
    /// Finds a node by key or address.
    Lookup { target: String },
    /// Measures the time to a node and back.
    Ping { target: String },
    /// The ways that packets to a node may take.
    Routes { target: String },
    /// The time to each hop of the way that packets to a node take.
    Trace { target: String },
    /// Keeps a link to one more peer, until the node ends.
    AddPeer { uri: String },
    /// Lets go of a peer.
    RemovePeer { uri: String },
    /// Reads the settings again.
    Reload,
    /// Other servers: what waits for them, and when they last answered.
    Destinations,
    /// Writes everything of the node into one file.
    Backup { file: PathBuf },
    /// An administrator's order.
    Admin {
        /// What to do.
        order: super::admin::Admin,
    },
    /// Makes an account, an administrator's if asked for.
    AccountCreate {
        name: String,
        password: String,
        #[serde(default)]
        admin: bool,
    },
    /// Lists the accounts.
    AccountList,
    /// Sets a new password, and ends all sessions of the account.
    AccountResetPassword { name: String, password: String },
    /// Makes a registration token for one account.
    AccountToken,
    /// The identity's recovery words.
    RecoveryWords,
    /// Removes the recovery words from this device.
    ForgetRecoveryWords,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Ok(Value),
    Error(String),
}

/// Longest request; a peer URI and a password are far below it.
const REQUEST_BYTES_MAX: u64 = 64 * 1024;
/// Time a connection has to bring its request.
const REQUEST_TIME_MAX: Duration = Duration::from_secs(5);
/// Connections served at once; each is one command of the owner's.
const CONNECTIONS_MAX: usize = 32;

/// Does what is asked for.
pub(super) trait Handle: Send + Sync + 'static {
    /// The answer, or what went wrong.
    fn handle(&self, request: Request) -> impl Future<Output = Result<Value, String>> + Send;
}

/// Opens the socket. Whoever calls this holds the directory's lock, so a socket that is there is a dead one.
pub(super) fn bind(dir: &Path) -> io::Result<UnixListener> {
    let _ = std::fs::remove_file(dir.join("ctl.sock"));
    let (_guard, path) = short_path(dir)?;
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(dir.join("ctl.sock"), std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves the socket until the task is dropped.
pub(super) async fn serve(listener: UnixListener, handler: std::sync::Arc<impl Handle>) {
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors: give those that are open time to end.
                tracing::warn!(%error, "control socket: cannot accept; raise the limit of open files if this goes on");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(stream, &*handler).await {
                tracing::debug!(%error, "control socket");
            }
            drop(place);
        });
    }
}

async fn answer(stream: UnixStream, handler: &impl Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let mut limited = BufReader::new(read.take(REQUEST_BYTES_MAX));
    tokio::time::timeout(REQUEST_TIME_MAX, limited.read_line(&mut line))
        .await
        .map_err(io::Error::other)??;
    let answer = match serde_json::from_str::<Request>(&line) {
        Ok(request) => match handler.handle(request).await {
            Ok(value) => Answer::Ok(value),
            Err(error) => Answer::Error(error),
        },
        Err(error) => Answer::Error(format!("not a request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

/// What came of asking the node of a directory.
pub(super) enum Asked {
    /// It answered.
    Answered(Result<Value, String>),
    /// No node runs there.
    NotRunning,
}

/// Asks the node that runs in `dir`.
pub(super) async fn ask(dir: &Path, request: &Request) -> io::Result<Asked> {
    let connected = match short_path(dir) {
        Ok((_guard, path)) => UnixStream::connect(path).await,
        Err(error) => Err(error),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Asked::NotRunning);
        }
        Err(error) => return Err(error),
    };
    let (read, mut write) = stream.into_split();
    let mut bytes = serde_json::to_vec(request)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await?;
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    match serde_json::from_str(&line) {
        Ok(Answer::Ok(value)) => Ok(Asked::Answered(Ok(value))),
        Ok(Answer::Error(error)) => Ok(Asked::Answered(Err(error))),
        Err(_) => Err(io::Error::other("the node ended before it answered; try again once it runs")),
    }
}

/// A path to the socket that fits into `sun_path` (108 bytes) however deep the directory lies: by way of a descriptor
/// of the directory, which must live as long as the path is used.
fn short_path(dir: &Path) -> io::Result<(std::fs::File, PathBuf)> {
    let file = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(dir)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}/ctl.sock", file.as_raw_fd()));
    Ok((file, path))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;

    struct Echo;
    impl Handle for Echo {
        async fn handle(&self, request: Request) -> Result<Value, String> {
            match request {
                Request::Ping { target } if target == "x" => Ok(json!(target)),
                other => Err(format!("{other:?}")),
            }
        }
    }

    #[tokio::test]
    async fn a_deep_directory_has_a_socket_that_answers_its_owner() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("d".repeat(120));
        std::fs::create_dir(&dir).unwrap();
        assert!(matches!(ask(&dir, &Request::Peers).await.unwrap(), Asked::NotRunning));
        let task = tokio::spawn(serve(bind(&dir).unwrap(), Arc::new(Echo)));
        let mode = std::fs::metadata(dir.join("ctl.sock")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let asked = ask(&dir, &Request::Ping { target: "x".into() }).await.unwrap();
        assert!(matches!(asked, Asked::Answered(Ok(value)) if value == "x"));
        let asked = ask(&dir, &Request::Root).await.unwrap();
        assert!(matches!(asked, Asked::Answered(Err(text)) if text == "Root"));
        // Rubbish is answered with an error, and the next one is served.
        let (_guard, path) = short_path(&dir).unwrap();
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(b"\xff{]\n").await.unwrap();
        let mut text = String::new();
        let _ = BufReader::new(stream).read_line(&mut text).await;
        assert!(matches!(ask(&dir, &Request::Root).await.unwrap(), Asked::Answered(Err(_))));
        task.abort();
        let _ = task.await;
        assert!(matches!(ask(&dir, &Request::Peers).await.unwrap(), Asked::NotRunning));
    }
}
