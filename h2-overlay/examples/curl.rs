//! Asks any node for anything it serves, by key.
//!
//! ```text
//! cargo run -p mangrove-h2-overlay --example curl -- --peer tcp://127.0.0.1:7001 <key>/path
//! ```
//!
//! The body goes to standard output (or `--output`), the head to standard error with `--include`. Exit code 22 for
//! an HTTP error with `--fail`, 7 where the node cannot be reached, 1 for all else, as curl has it.

use std::{
    io::Write,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use bytes::Bytes;
use clap::Parser;
use h2_overlay::{Class, Config, Overlay};
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use router::{
    NodeId, SecretKey,
    net::{Multicast, Node, NodeConfig, OsEntropy, PeerUri},
};

#[derive(Parser)]
struct Args {
    /// <key>/path, the key as 64 hex digits.
    url: String,
    /// Neighbours to reach the network through.
    #[arg(long)]
    peer: Vec<PeerUri>,
    /// Look for neighbours on the same cable or Wi-Fi (always, where there is no --peer).
    #[arg(long)]
    multicast: bool,
    /// The method; GET, or POST with --data.
    #[arg(short = 'X', long)]
    request: Option<Method>,
    /// The request's body; @FILE reads it from a file.
    #[arg(short, long)]
    data: Option<String>,
    /// "name: value", repeatable.
    #[arg(short = 'H', long)]
    header: Vec<String>,
    /// Where the answer's body goes.
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Print the answer's head on standard error.
    #[arg(short, long)]
    include: bool,
    /// An HTTP error is an error.
    #[arg(short, long)]
    fail: bool,
    /// As media goes: after small requests, in large frames.
    #[arg(long)]
    bulk: bool,
    /// Print time and rate on standard error.
    #[arg(long)]
    stats: bool,
    /// How long it may take in all, in seconds.
    #[arg(short, long, default_value_t = 60)]
    max_time: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let patience = Duration::from_secs(args.max_time);
    match tokio::time::timeout(patience, run(args)).await {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => {
            eprintln!("curl: {error}");
            let absent =
                error.downcast_ref::<h2_overlay::Error>().is_some_and(h2_overlay::Error::is_unreachable);
            ExitCode::from(if absent { 7 } else { 1 })
        }
        Err(_) => {
            eprintln!("curl: no answer within {patience:?}");
            ExitCode::from(28)
        }
    }
}

async fn run(args: Args) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let url = args.url.strip_prefix("http://").unwrap_or(&args.url);
    let (key, path) = url.split_at(url.find('/').unwrap_or(url.len()));
    let to: NodeId = key.parse()?;
    let body = match args.data.as_deref().map(|data| (data.strip_prefix('@'), data)) {
        Some((Some(file), _)) => Bytes::from(std::fs::read(file)?),
        Some((None, text)) => Bytes::from(text.to_owned()),
        None => Bytes::new(),
    };
    let default = if args.data.is_some() { Method::POST } else { Method::GET };
    let path = if path.is_empty() { "/" } else { path };
    let mut request =
        Request::builder().method(args.request.unwrap_or(default)).uri(path).body(Full::new(body))?;
    for header in &args.header {
        let (name, value) = header.split_once(':').ok_or("a header is \"name: value\"")?;
        let (name, value): (HeaderName, HeaderValue) = (name.trim().parse()?, value.trim().parse()?);
        request.headers_mut().append(name, value);
    }

    let mut config = NodeConfig::new(SecretKey::generate(&mut OsEntropy));
    if args.multicast || args.peer.is_empty() {
        config.multicast = Multicast::all();
    }
    config.peers = args.peer;
    let node = Node::start(config).await?;
    let overlay = Overlay::of(&node, Config::default());
    let class = if args.bulk { Class::Bulk } else { Class::Interactive };
    let start = Instant::now();
    let response = overlay.request(to, class, request).await?;
    let head = start.elapsed();
    if args.include {
        eprintln!("{:?} {}", response.version(), response.status());
        for (name, value) in response.headers() {
            eprintln!("{name}: {}", String::from_utf8_lossy(value.as_bytes()));
        }
    }
    let failed = args.fail && (response.status().is_client_error() || response.status().is_server_error());
    let mut out: Box<dyn Write> = match &args.output {
        Some(path) => Box::new(std::fs::File::create(path)?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut length = 0;
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            length += data.len();
            out.write_all(&data)?;
        }
    }
    out.flush()?;
    if args.stats {
        let all = start.elapsed();
        let rate = length as f64 / 1e6 / all.as_secs_f64();
        eprintln!("{length} bytes, head after {head:.1?}, all after {all:.1?}, {rate:.1} MB/s");
    }
    overlay.close().await;
    node.shutdown().await;
    Ok(ExitCode::from(if failed { 22 } else { 0 }))
}
