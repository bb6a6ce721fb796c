//! The node inside a process: configured by words, asked by lines.

use std::io::{BufRead, Write};
use std::net::Ipv6Addr;
use std::time::Duration;

use router::crypto::SecretKey;
use router::net::{Multicast, MulticastInterfaces, Node, NodeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Runs the node that `MG_NODE` describes until its standard input ends.
pub(crate) fn main() {
    let Ok(words) = std::env::var("MG_NODE") else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = match Node::start(config(&words)).await {
            Ok(node) => node,
            Err(error) => return say(&format!("error: {error}")),
        };
        say(&format!("{} {}", node.id(), node.id().address()));
        let (tell, mut lines) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines().map_while(Result::ok) {
                if tell.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        while let Some(line) = lines.recv().await {
            say(&answer(&node, &line).await);
        }
        node.shutdown().await;
    });
}

fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "@{line}").unwrap();
    out.flush().unwrap();
}

fn config(words: &str) -> NodeConfig {
    let mut config = NodeConfig::new(SecretKey::from_seed([0; 32]));
    for word in words.split(' ') {
        let (name, value) = word.split_once('=').unwrap();
        match name {
            "seed" => config.secret = SecretKey::from_seed([value.parse().unwrap(); 32]),
            "listen" => config.listen.push(value.parse().unwrap()),
            "peer" => config.peers.push(value.parse().unwrap()),
            "multicast" if value == "all" => config.multicast = Multicast::all(),
            "multicast" => {
                let names = value.split(',').map(str::to_owned).collect();
                config.multicast.interfaces = MulticastInterfaces::Named(names);
            }
            "password" => config.multicast.password = Some(router::Secret::new(value.as_bytes())),
            "noise" => {
                let interface = value.to_owned();
                std::thread::spawn(move || crate::noise(&interface));
            }
            "tun" => config.tun = Some(value.to_owned()),
            _ => panic!("no such word: {name}"),
        }
    }
    config
}

async fn answer(node: &Node, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        ["peers"] => {
            let peers = node.peers().await;
            let mut keys: Vec<String> = peers.iter().filter_map(|p| Some(p.node?.to_string())).collect();
            keys.sort();
            keys.dedup();
            keys.len().to_string()
        }
        ["links"] => node.peers().await.len().to_string(),
        ["neighbours"] => node.neighbours().len().to_string(),
        ["root"] => node.trees().await[0].root.to_string(),
        ["ping", key] => match node.ping(key.parse().unwrap()).await {
            Ok(rtt) => format!("ok {rtt:?}"),
            Err(error) => error.to_string(),
        },
        ["lookup", address] => match node.lookup(address.parse::<Ipv6Addr>().unwrap()).await {
            Ok(key) => key.to_string(),
            Err(error) => error.to_string(),
        },
        ["spoofed"] => node.stats().await.router.dropped_address.to_string(),
        ["foreign"] => node.stats().await.net.tun_foreign.to_string(),
        ["suspects"] => node.peers().await.iter().filter(|peer| peer.suspect).count().to_string(),
        ["too_big"] => node.stats().await.net.tun_too_big.to_string(),
        ["beacons_bad"] => node.stats().await.net.beacons_bad.to_string(),
        ["tcp-serve", port] => {
            let listener = TcpListener::bind(("::", port.parse().unwrap())).await.unwrap();
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        // Sums up what comes and tells what it was.
                        let (mut sum, mut buffer) = (blake3::Hasher::new(), vec![0; 65_536]);
                        while let Ok(read) = stream.read(&mut buffer).await
                            && read > 0
                        {
                            sum.update(&buffer[..read]);
                        }
                        let told = format!("{} {}", sum.count(), sum.finalize());
                        let _ = stream.write_all(told.as_bytes()).await;
                    });
                }
            });
            "ok".to_owned()
        }
        ["tcp-send", address, port, bytes] => {
            let send = send(address.parse().unwrap(), port.parse().unwrap(), bytes.parse().unwrap());
            match tokio::time::timeout(Duration::from_secs(15), send).await {
                Ok(Ok(received)) => received,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "too slow".to_owned(),
            }
        }
        _ => format!("no such question: {line}"),
    }
}

async fn send(to: Ipv6Addr, port: u16, bytes: usize) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((to, port)).await?;
    let mut data = vec![0; bytes];
    blake3::Hasher::new().update(&to.octets()).finalize_xof().fill(&mut data);
    stream.write_all(&data).await?;
    stream.shutdown().await?;
    let mut received = String::new();
    stream.read_to_string(&mut received).await?;
    let whole = received == format!("{bytes} {}", blake3::hash(&data));
    Ok(if whole { "whole".to_owned() } else { format!("{received} arrived") })
}
