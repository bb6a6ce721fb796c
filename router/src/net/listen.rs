//! Listeners: takes connections and gives them to the loop.

use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::sleep;

use super::interfaces;
use super::links::LinkMaker;
use super::tcp::canonical;
use super::uri::{Host, ListenUri};
use crate::config::{LinkKind, LinkSpec, Role};

/// Connections that the kernel completes before they are taken.
const BACKLOG: i32 = 128;
/// The system is out of descriptors: taking the next connection must wait until some are closed.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);

/// Binds a configured listener.
pub(crate) async fn bind(uri: &ListenUri) -> io::Result<TcpListener> {
    let address = match &uri.host {
        Host::Name(name) => lookup_host((name.as_str(), uri.port)).await?.next(),
        literal => literal.literal(uri.port, interfaces::index),
    };
    let unknown = || io::Error::new(io::ErrorKind::AddrNotAvailable, "no such address or interface");
    listener(address.ok_or_else(unknown)?)
}

/// Binds a listener for one interface's link-local address, on a port that the system chooses.
pub(crate) fn bind_link_local(ip: Ipv6Addr, index: u32) -> io::Result<TcpListener> {
    listener(SocketAddrV6::new(ip, 0, 0, index).into())
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let SocketAddr::V6(v6) = address {
        // `[::]` is both families; where the system has no IPv4 that is no reason to fail.
        let _ = socket.set_only_v6(!v6.ip().is_unspecified());
    }
    // A port whose last connections are still winding down is free for the next start.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections on a configured listener until the task is aborted.
pub(crate) async fn accept(listener: TcpListener, uri: ListenUri, maker: LinkMaker) {
    loop {
        let (stream, from) = next(&listener).await;
        let spec = LinkSpec {
            password: uri.password.clone(),
            allowed: uri.allowed.clone(),
            cost: uri.cost,
            remote: format!("tcp://{}", canonical(from)),
            ..LinkSpec::new(LinkKind::Stream, Role::Acceptor)
        };
        // Nobody waits for its end: whoever dialled dials again.
        drop(maker.link(stream, spec, None).await);
    }
}

/// The next connection.
pub(crate) async fn next(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::debug!(%error, "a connection was not taken");
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
                ) {
                    sleep(EXHAUSTED_PAUSE).await;
                }
            }
        }
    }
}
