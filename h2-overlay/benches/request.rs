//! What a request costs, and what a byte of bulk costs, over a network in memory: QUIC, HTTP/2 and tasks alone, without
//! the router under it. Both ends run on one thread, so wall time is CPU time.

use std::{hint::black_box, time::Duration};

use axum::{Router, extract::Path, routing::get};
use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use h2_overlay::{Class, Config, Overlay, memory::Net};
use http::Request;
use http_body_util::Full;
use router::NodeId;
use tokio::runtime::Runtime;

const SERVER: NodeId = NodeId::from_bytes([2; 32]);

fn pair(runtime: &Runtime, mtu: usize) -> Overlay {
    let _guard = runtime.enter();
    let net = Net::new();
    net.set_mtu(mtu);
    let (server, client) =
        (net.overlay(SERVER, Config::default()), net.overlay(NodeId::from_bytes([1; 32]), Config::default()));
    let service = Router::new().route("/hello", get(|| async { "hello" })).route(
        "/bytes/{length}",
        get(|Path(length): Path<usize>| async move { Bytes::from(vec![7; length]) }),
    );
    runtime.spawn(async move { server.serve(service).await });
    client
}

async fn fetch(client: &Overlay, class: Class, path: &str) -> usize {
    let request = Request::get(path).body(Full::default()).expect("a request");
    let response = client.request(SERVER, class, request).await.expect("an answer");
    response.into_body().bytes(usize::MAX).await.expect("a body").len()
}

fn requests(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = pair(&runtime, 1280);
    criterion.bench_function("request/one", |bencher| {
        bencher.iter(|| black_box(runtime.block_on(fetch(&client, Class::Interactive, "/hello"))));
    });
    let mut group = criterion.benchmark_group("request");
    group.throughput(Throughput::Elements(1000));
    group.bench_function("thousand, 100 at a time", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                for _ in 0..10 {
                    let batch = (0..100).map(|_| fetch(&client, Class::Interactive, "/hello"));
                    black_box(futures_util::future::join_all(batch).await);
                }
            });
        });
    });
}

fn bulk(criterion: &mut Criterion) {
    const LENGTH: usize = 16 * 1024 * 1024;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut group = criterion.benchmark_group("bulk");
    group
        .throughput(Throughput::Bytes(LENGTH as u64))
        .sample_size(10)
        .measurement_time(Duration::from_secs(8));
    for mtu in [1280, 9000, 32 * 1024, 64 * 1024] {
        let client = pair(&runtime, mtu);
        let path = format!("/bytes/{LENGTH}");
        group.bench_function(format!("{mtu} byte datagrams"), |bencher| {
            bencher.iter(|| assert_eq!(runtime.block_on(fetch(&client, Class::Bulk, &path)), LENGTH));
        });
    }
}

criterion_group!(benches, requests, bulk);
criterion_main!(benches);
