//! Two programs talk by key, over whatever links there are.
//!
//! ```text
//! cargo run -p mangrove-router --example echo -- tcp://127.0.0.1:9001              answers; prints its key
//! cargo run -p mangrove-router --example echo -- tcp://127.0.0.1:9001 <that key>   asks
//! ```
//!
//! On one cable the address can be left out (`-`): the two find each other by multicast. With a third node between
//! them nothing changes but the address: keys are found wherever they are.

use std::error::Error;
use std::time::{Duration, Instant};

use bytes::Bytes;
use router::crypto::{Entropy, SecretKey};
use router::net::{Multicast, Node, NodeConfig, OsEntropy};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let usage = "usage: echo ADDRESS|- [KEY]";
    let address = std::env::args().nth(1).ok_or(usage)?;
    let key = std::env::args().nth(2);

    let mut seed = [0; 32];
    OsEntropy.fill(&mut seed);
    let mut config = NodeConfig::new(SecretKey::from_seed(seed));
    match (address.as_str(), &key) {
        ("-", _) => config.multicast = Multicast::all(),
        (address, None) => config.listen.push(address.parse()?),
        (address, Some(_)) => config.peers.push(address.parse()?),
    }
    let node = Node::start(config).await?;
    let socket = node.socket();

    let Some(key) = key else {
        println!("{}", node.id());
        while let Some((from, payload)) = socket.recv().await {
            socket.send(from, payload).await?;
        }
        return Ok(());
    };
    let to = key.parse()?;
    for i in 0..5 {
        let sent = Instant::now();
        socket.send(to, Bytes::from(format!("hello {i}"))).await?;
        match tokio::time::timeout(Duration::from_secs(5), socket.recv()).await {
            Ok(Some((from, payload))) => println!("{:?} from {from} in {:?}", payload, sent.elapsed()),
            _ => println!("no answer"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    node.shutdown().await;
    Ok(())
}
