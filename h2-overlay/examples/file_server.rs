//! Serves the files of a directory to whoever knows this node's key.
//!
//! ```text
//! cargo run -p mangrove-h2-overlay --example file_server -- --listen tcp://127.0.0.1:7001 ~/Public
//! ```
//!
//! It prints its key; `curl.rs` beside it fetches from it. With `--key FILE` the key stays the same between starts.

use std::path::{Path, PathBuf};

use axum::{
    Extension, Router,
    extract::{Path as UrlPath, State},
    http::StatusCode,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use clap::Parser;
use h2_overlay::{Caller, Config, Overlay};
use router::{
    SecretKey,
    net::{ListenUri, Multicast, Node, NodeConfig, OsEntropy, PeerUri},
};

#[derive(Parser)]
struct Args {
    /// What is served.
    directory: PathBuf,
    /// Where neighbours may come in, for example tcp://0.0.0.0:7001.
    #[arg(long)]
    listen: Vec<ListenUri>,
    /// Neighbours to keep a link to.
    #[arg(long)]
    peer: Vec<PeerUri>,
    /// Look for neighbours on the same cable or Wi-Fi.
    #[arg(long)]
    multicast: bool,
    /// Where the key is kept; without it every start has a new one.
    #[arg(long)]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let mut config = NodeConfig::new(key(args.key.as_deref())?);
    config.listen = args.listen;
    config.peers = args.peer;
    if args.multicast {
        config.multicast = Multicast::all();
    }
    let node = Node::start(config).await?;
    println!("{}", node.id());

    let files = Router::new()
        .route("/", get(|state| file(state, None)))
        .route("/{*path}", get(|state, UrlPath(path)| file(state, Some(path))))
        .layer(axum::middleware::from_fn(log))
        .with_state(args.directory.canonicalize()?);
    let overlay = Overlay::of(&node, Config::default());
    tokio::select! {
        () = overlay.serve(files) => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    overlay.close().await;
    node.shutdown().await;
    Ok(())
}

/// A file or a list of what is in a directory.
async fn file(State(root): State<PathBuf>, path: Option<String>) -> Response {
    let wanted = root.join(path.unwrap_or_default());
    // Neither `..` nor a link leads out of the directory.
    let Ok(path) = wanted.canonicalize() else { return StatusCode::NOT_FOUND.into_response() };
    if !path.starts_with(&root) {
        return StatusCode::NOT_FOUND.into_response();
    }
    let answer = if path.is_dir() {
        list(&path).map(|html| Html(html).into_response())
    } else {
        tokio::fs::read(&path).await.map(IntoResponse::into_response)
    };
    answer.unwrap_or_else(|_| StatusCode::NOT_FOUND.into_response())
}

fn list(directory: &Path) -> std::io::Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let slash = if entry.file_type()?.is_dir() { "/" } else { "" };
        names.push(format!("{}{slash}\n", entry.file_name().to_string_lossy()));
    }
    names.sort();
    Ok(format!("<pre>\n{}</pre>\n", names.concat().replace('&', "&amp;").replace('<', "&lt;")))
}

async fn log(
    Extension(Caller(caller)): Extension<Caller>,
    request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    println!("{caller} {what} {}", response.status().as_u16());
    response
}

fn key(file: Option<&Path>) -> Result<SecretKey, Box<dyn std::error::Error>> {
    let Some(file) = file else { return Ok(SecretKey::generate(&mut OsEntropy)) };
    if let Ok(bytes) = std::fs::read(file) {
        let seed: [u8; 32] = bytes.try_into().map_err(|_| "the key file is not 32 bytes long")?;
        return Ok(SecretKey::from_seed(seed));
    }
    let secret = SecretKey::generate(&mut OsEntropy);
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    std::io::Write::write_all(&mut options.open(file)?, &*secret.seed())?;
    Ok(secret)
}
