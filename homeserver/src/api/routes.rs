//! The one table: endpoint -> (route group, handler). Paths and methods come from ruma's metadata.
//!
//! A handler is `async fn(Arc<Server>, Args<R>) -> Result<impl IntoReply, Error>` and stands in the table of its file:
//! `table.add(Group::Client, whoami)`. Every handler is erased to one type before it meets axum, whose routing code is
//! therefore compiled once and not per endpoint.

use std::{
    convert::Infallible,
    future::Future,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task,
    time::Instant,
};

use axum::{
    Router,
    extract::Request,
    routing::{MethodFilter, MethodRouter},
};
use futures_util::FutureExt as _;
use http::Method;
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder as _};
use tracing::Instrument as _;

use crate::{
    api,
    error::{Error, RequestError},
    http::{
        args::{Args, Incoming, Streaming},
        auth::CallerKind,
        limits::Class,
        metrics,
        reply::{IntoReply, Reply},
        standing::Policy,
    },
    server::Server,
};

/// What a listener may be asked for. A listener is a set of groups; never one router for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The client-server API, its media included.
    Client,
    /// The server-server API, its media included.
    Federation,
    /// `/_matrix/key`: the server's signing keys.
    Keys,
    /// `/_x`: between nodes.
    X,
    /// The identity log under `/_x`, which the key document refers to: public, and proves itself.
    Identity,
    /// `/.well-known`: discovery.
    WellKnown,
    /// `/_synapse/admin`: what Synapse's administrators' tools ask for.
    Admin,
    /// Log-in pages, OAuth 2.0 and the pages behind links in mails.
    Pages,
}

/// All endpoints. See the module's words for how to add one.
#[derive(Default)]
pub struct Table {
    rows: Vec<Row>,
}

/// One endpoint: every path it has, one handler.
pub struct Row {
    group: Group,
    method: Method,
    paths: Vec<&'static str>,
    limit: Class,
    body_max: usize,
    query_default: Option<(&'static str, &'static str)>,
    handler: Handler,
}

type Handler = Arc<dyn Fn(Arc<Server>, Streaming, usize) -> ReplyFuture + Send + Sync>;
type ReplyFuture = Pin<Box<dyn Future<Output = Result<Reply, Error>> + Send>>;

impl Table {
    /// The whole table.
    pub fn whole() -> Self {
        let mut table = Self::default();
        api::admin::routes(&mut table);
        api::client::routes(&mut table);
        api::federation::routes(&mut table);
        api::x::routes(&mut table);
        api::oauth::routes(&mut table);
        api::pages::routes(&mut table);
        api::wellknown::routes(&mut table);
        table
    }

    /// Adds an endpoint under all the paths that ruma knows for its request type.
    pub fn add<R, F, Fut, A>(&mut self, group: Group, handler: F) -> &mut Row
    where
        R: IncomingRequest + Metadata + Send + 'static,
        R::Authentication: CallerKind,
        F: Fn(Arc<Server>, Args<R>) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Error>> + Send + 'static,
        A: IntoReply,
    {
        let erased: Handler = Arc::new(move |server, streaming, body_max| {
            Box::pin(async move {
                let incoming = streaming.read(body_max).await?;
                let args = Args::from_incoming(&server, incoming).await?;
                Ok(handler(server, args).await?.into_reply())
            })
        });
        self.push::<R>(group, erased)
    }

    /// Adds an endpoint whose body the handler reads itself, as it comes: uploads.
    pub fn add_streaming<R, F, Fut, A>(&mut self, group: Group, handler: F) -> &mut Row
    where
        R: Metadata,
        F: Fn(Arc<Server>, Streaming) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Error>> + Send + 'static,
        A: IntoReply,
    {
        let erased: Handler = Arc::new(move |server, streaming, _| {
            Box::pin(async move { Ok(handler(server, streaming).await?.into_reply()) })
        });
        self.push::<R>(group, erased)
    }

    /// Adds an endpoint that ruma has no type for: the handler takes the request as it came, its body read.
    pub fn plain<F, Fut, A>(
        &mut self,
        group: Group,
        method: Method,
        path: &'static str,
        handler: F,
    ) -> &mut Row
    where
        F: Fn(Arc<Server>, Incoming) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<A, Error>> + Send + 'static,
        A: IntoReply,
    {
        let erased: Handler = Arc::new(move |server, streaming, body_max| {
            Box::pin(async move {
                let incoming = streaming.read(body_max).await?;
                Ok(handler(server, incoming).await?.into_reply())
            })
        });
        self.push_row(group, method, vec![path], erased)
    }

    fn push<R: Metadata>(&mut self, group: Group, handler: Handler) -> &mut Row {
        let mut paths: Vec<&'static str> = Vec::new();
        for path in R::PATH_BUILDER.all_paths() {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        self.push_row(group, R::METHOD, paths, handler)
    }

    fn push_row(
        &mut self,
        group: Group,
        method: Method,
        paths: Vec<&'static str>,
        handler: Handler,
    ) -> &mut Row {
        self.rows.push(Row {
            group,
            method,
            paths,
            limit: Class::Free,
            body_max: BODY_BYTES_MAX,
            query_default: None,
            handler,
        });
        self.rows.last_mut().expect("a row was pushed just now")
    }

    /// Every (group, method, path): for tests that ask them all.
    #[cfg(test)]
    pub(crate) fn endpoints(&self) -> Vec<(Group, Method, &'static str)> {
        self.rows
            .iter()
            .flat_map(|row| row.paths.iter().map(|path| (row.group, row.method.clone(), *path)))
            .collect()
    }

    /// A router with the endpoints of some groups.
    pub fn router(&self, server: &Arc<Server>, groups: &[Group]) -> Router {
        let mut by_path: Vec<(&'static str, MethodRouter)> = Vec::new();
        for row in self.rows.iter().filter(|row| groups.contains(&row.group)) {
            let filter = MethodFilter::try_from(row.method.clone())
                .expect("ruma's endpoints have methods that axum knows");
            for path in &row.paths {
                let endpoint = Endpoint {
                    server: Arc::clone(server),
                    handler: Arc::clone(&row.handler),
                    body_max: row.body_max,
                    query_default: row.query_default,
                    limit: row.limit,
                    policy: Policy::of(&row.method, path),
                    path,
                };
                let at = match by_path.iter().position(|(known, _)| known == path) {
                    Some(at) => at,
                    None => {
                        by_path.push((path, MethodRouter::new()));
                        by_path.len() - 1
                    }
                };
                let known = std::mem::take(&mut by_path[at].1);
                by_path[at].1 = known.on_service(filter, endpoint);
            }
        }
        let mut router = Router::new();
        for (path, methods) in by_path {
            router = router.route(path, methods);
        }
        router
            .fallback(|| async { Error::from(RequestError::UnknownPath).into_reply() })
            .method_not_allowed_fallback(|| async { Error::from(RequestError::UnknownMethod).into_reply() })
    }
}

impl Row {
    /// Counts this endpoint's requests by caller under `class` before its handler runs. Handlers that count by
    /// something else (a user, a name) call [`Limits`](crate::http::limits::Limits) themselves.
    pub fn limit(&mut self, class: Class) -> &mut Self {
        self.limit = class;
        self
    }

    /// Takes bodies of another size than [`BODY_BYTES_MAX`].
    pub fn body_max(&mut self, bytes: usize) -> &mut Self {
        self.body_max = bytes;
        self
    }

    /// The value of a query parameter that ruma wants and clients leave out.
    pub fn query_default(&mut self, name: &'static str, value: &'static str) -> &mut Self {
        self.query_default = Some((name, value));
        self
    }

    /// A further spelling that clients use.
    pub fn also(&mut self, path: &'static str) -> &mut Self {
        self.paths.push(path);
        self
    }
}

/// An endpoint as axum sees it: the same type for all.
#[derive(Clone)]
struct Endpoint {
    server: Arc<Server>,
    handler: Handler,
    limit: Class,
    body_max: usize,
    query_default: Option<(&'static str, &'static str)>,
    policy: Policy,
    path: &'static str,
}

impl tower::Service<Request> for Endpoint {
    type Response = Reply;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<Result<(), Infallible>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { server, handler, limit, body_max, query_default, policy, path } = self.clone();
        let (began, method) = (Instant::now(), request.method().clone());
        let span =
            tracing::error_span!("request", id = NEXT_ID.fetch_add(1, Ordering::Relaxed), %method, path);
        let handled = async move {
            let answer = async {
                let mut streaming = Streaming::new(request, policy).await?;
                if let Some((name, value)) = query_default {
                    streaming.incoming.head.complete_query(name, value);
                }
                if limit != Class::Free
                    && !(limit == Class::Federation && streaming.incoming.origin.is_here())
                {
                    server.limits.take(limit, &streaming.incoming.origin.key())?;
                }
                handler(server, streaming, body_max).await
            };
            // A panic is a bug of ours; it costs this request, not its connection's others.
            let reply = match AssertUnwindSafe(answer).catch_unwind().await {
                Ok(answer) => answer.unwrap_or_else(IntoReply::into_reply),
                Err(_) => Error::internal("a handler panicked").into_reply(),
            };
            metrics::answered(&method, path, reply.status(), began.elapsed());
            Ok(reply)
        };
        Box::pin(handled.instrument(span))
    }
}

/// Numbers requests in the log, so that the lines of one can be told from those of others.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What a JSON body may have if its row says nothing else: an event is at most 64 KiB, but key uploads and account data
/// are larger.
pub const BODY_BYTES_MAX: usize = 1 << 20;
