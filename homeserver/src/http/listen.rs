//! Listeners: which route groups each has, which `Host` names it answers to, and the loop that serves connections.
//!
//! Any web page that a browser shows can send requests to `localhost`, and one that makes its own name point there
//! could even read the answers. So a listener answers only to names that are its own, whatever the request is.

use std::{net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
};
use http::{Method, StatusCode, header, uri::Authority};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::server::TlsStream;

use super::{
    auth::PeerAddr,
    guard::{Callers, Counted, FIRST_WITHIN, Prompt},
    reply::{self, IntoReply as _, Reply},
    tls::Acceptor,
};
use crate::{
    api::routes::{Group, Table},
    error::{Error, RequestError},
    server::Server,
};

/// What clients reach: the client API and discovery. Checks the `Host` and lets web pages read the answers.
pub fn client_service(server: Arc<Server>) -> Router {
    let mut groups = vec![Group::Client, Group::WellKnown, Group::Pages, Group::Admin];
    if server.settings().federation_with_clients {
        groups.extend([Group::Federation, Group::Keys, Group::Identity]);
    }
    Table::whole().router(&server, &groups).layer(middleware::from_fn_with_state(server, at_the_door))
}

/// What any stranger on the overlay reaches: federation, keys and `/_x`; never log-in or registration.
pub fn overlay_service(server: Arc<Server>) -> Router {
    Table::whole().router(&server, &[Group::Federation, Group::Keys, Group::X, Group::Identity])
}

/// What other servers reach over TLS: federation, keys, discovery, and the identity log that ours refers to.
pub fn federation_service(server: Arc<Server>) -> Router {
    Table::whole().router(&server, &[Group::Federation, Group::Keys, Group::Identity, Group::WellKnown])
}

/// Serves connections until the server is told to stop, then ends in good order: what is being answered is answered,
/// long polls at once, and after [`END_WITHIN`] the rest is dropped.
pub async fn serve(listener: TcpListener, tls: Option<Acceptor>, service: Router, server: Arc<Server>) {
    let door = Door { loopback: listener.local_addr().is_ok_and(|address| address.ip().is_loopback()) };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let callers = Callers::default();
    loop {
        let place = tokio::select! {
            () = server.shutdown.cancelled() => return,
            place = Arc::clone(&places).acquire_owned() => place,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            () = server.shutdown.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(counted) = callers.enter(peer.ip()) else {
                    tracing::debug!(%peer, "too many connections from one address");
                    continue;
                };
                let place = (place, counted);
                let service = service.clone();
                // Answers are written whole; waiting for more only costs time.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "TCP_NODELAY");
                }
                let (tls, owner) = (tls.clone(), Arc::clone(&server));
                server.tasks.spawn(async move {
                    match tls {
                        None => connection(stream, PeerAddr(peer), door, service, owner, place).await,
                        Some(tls) => match handshake(&tls, stream, &owner).await {
                            Ok(Some(stream)) => {
                                connection(stream, PeerAddr(peer), door, service, owner, place).await;
                            }
                            Ok(None) => {}
                            Err(error) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                        },
                    }
                });
            }
            Err(error) => {
                // No file descriptor is left, most likely: connections that end give some back.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn handshake(
    tls: &Acceptor,
    stream: TcpStream,
    server: &Server,
) -> std::io::Result<Option<TlsStream<TcpStream>>> {
    tokio::select! {
        () = server.shutdown.cancelled() => Ok(None),
        outcome = tls.accept(stream) => outcome,
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: PeerAddr,
    door: Door,
    service: Router,
    server: Arc<Server>,
    _place: (OwnedSemaphorePermit, Counted),
) {
    let service = tower::ServiceBuilder::new()
        .map_request(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(door);
            request.map(Body::new)
        })
        .service(service);
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE_EVERY)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX);
    let mut connection = pin!(builder.serve_connection(
        TokioIo::new(Prompt::new(stream, FIRST_WITHIN)),
        TowerToHyperService::new(service)
    ));
    tokio::select! {
        ended = connection.as_mut() => return ended.unwrap_or_else(|error| tracing::trace!(%error, "a connection broke")),
        () = server.shutdown.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    if tokio::time::timeout(END_WITHIN, connection).await.is_err() {
        tracing::debug!(peer = %peer.0, "a connection was still busy at the end");
    }
}

/// What kind of listener a request came through. Requests without one (tests) count as from loopback.
#[derive(Clone, Copy, Debug)]
struct Door {
    loopback: bool,
}

async fn at_the_door(State(server): State<Arc<Server>>, request: Request, next: Next) -> Reply {
    let mut reply = if !is_ours(&server, &request) {
        Error::from(RequestError::ForeignHost).into_reply()
    } else if request.uri().path().starts_with("/_synapse/") && !admin_here(&server, &request) {
        Error::from(RequestError::UnknownPath).into_reply()
    } else if request.method() == Method::OPTIONS {
        reply::json(StatusCode::OK, "{}")
    } else {
        next.run(request).await
    };
    reply::allow_any_page(&mut reply);
    reply
}

/// Administrators' paths are for this machine, unless the operator opens them.
fn admin_here(server: &Server, request: &Request) -> bool {
    server.settings().admin_everywhere || request.extensions().get::<Door>().is_none_or(|door| door.loopback)
}

/// Whether the request asks for a host that this listener answers to.
fn is_ours(server: &Server, request: &Request) -> bool {
    let from_header = || request.headers().get(header::HOST)?.to_str().ok()?.parse::<Authority>().ok();
    let authority = match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None if request.headers().contains_key(header::HOST) => match from_header() {
            Some(authority) => Some(authority),
            None => return false,
        },
        // No browser leaves it out.
        None => None,
    };
    let Some(authority) = authority else { return true };
    let loopback = request.extensions().get::<Door>().is_none_or(|door| door.loopback);
    answers_to(&server.settings().hosts, loopback, authority.host())
}

fn answers_to(configured: &[String], loopback: bool, host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address: Option<IpAddr> = host.trim_start_matches('[').trim_end_matches(']').parse().ok();
    if host == "localhost" || configured.iter().any(|name| name.eq_ignore_ascii_case(&host)) {
        return true;
    }
    match address {
        // Nobody else's page can have a number for its name.
        Some(address) => address.is_loopback() || !loopback,
        None => !loopback && (host == "host.docker.internal" || Some(&*host) == local_name().as_deref()),
    }
}

/// `NAME.local`, as phones on the same network find this machine.
pub fn local_name() -> Option<String> {
    let name = nix::unistd::gethostname().ok()?.into_string().ok()?;
    let name = name.split('.').next()?.to_ascii_lowercase();
    (!name.is_empty()).then(|| format!("{name}.local"))
}

/// Connections open at once; a client has one to six. Beyond, newcomers wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// Requests at once on one HTTP/2 connection.
const STREAMS_MAX: u32 = 128;
/// All headers of one request.
const HEADERS_BYTES_MAX: u32 = 32 << 10;
/// From a connection's (next) request's first byte to the end of its head.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// An HTTP/2 connection of which nothing is heard is asked so often whether it is there; who does not answer is gone.
const ALIVE_EVERY: Duration = Duration::from_secs(120);
/// What a connection gets to finish in at the end.
const END_WITHIN: Duration = Duration::from_millis(1_500);
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_answers_to_local_names_alone() {
        let names = ["chat.example.org".to_owned()];
        for host in
            ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "[::1]", "chat.example.org", "localhost."]
        {
            assert!(answers_to(&names, true, host), "{host}");
            assert!(answers_to(&names, false, host), "{host}");
        }
        for host in
            ["evil.example.org", "localhost.evil.example.org", "mylocalhost", "", "127.0.0.1.evil.org"]
        {
            assert!(!answers_to(&names, true, host), "{host}");
            assert!(!answers_to(&names, false, host), "{host}");
        }
        for host in ["192.168.1.7", "[fe80::1]", "host.docker.internal"] {
            assert!(!answers_to(&names, true, host), "{host}");
            assert!(answers_to(&names, false, host), "{host}");
        }
    }

    #[test]
    fn a_machine_has_a_local_name() {
        let name = local_name().expect("this machine has a name");
        assert!(name.ends_with(".local"));
        assert!(answers_to(&[], false, &name));
        assert!(!answers_to(&[], true, &name));
    }
}
