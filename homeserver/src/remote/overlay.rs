//! The carrier of a running node: HTTP/2 over the overlay.

use axum::body::Body;
use bytes::Bytes;
use h2_overlay::Overlay;
use http_body_util::Full;
use router::{AccountRecord, NodeId, net::Node};

use super::carrier::{Carried, Carrier, CarrierError, Class};
use crate::account::Acct;

/// Carries requests over the overlay and finds accounts in it.
#[derive(Clone)]
pub struct OverlayCarrier {
    node: Node,
    overlay: Overlay,
}

impl OverlayCarrier {
    /// Over a running node.
    pub fn new(node: Node, overlay: Overlay) -> Self {
        Self { node, overlay }
    }
}

impl Carrier for OverlayCarrier {
    fn find_account(&self, acct: Acct) -> Carried<'_, Vec<AccountRecord>> {
        Box::pin(async move {
            self.node.find_account(acct.0).await.map_err(|error| CarrierError::Unreachable(error.to_string()))
        })
    }

    fn request(
        &self,
        node: NodeId,
        class: Class,
        request: http::Request<Bytes>,
    ) -> Carried<'_, http::Response<Body>> {
        let class = match class {
            Class::Interactive => h2_overlay::Class::Interactive,
            Class::Bulk => h2_overlay::Class::Bulk,
        };
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            // The overlay fills in scheme and authority: the key is the address.
            let path = parts.uri.path_and_query().cloned();
            parts.uri = path.map_or_else(|| http::Uri::from_static("/"), http::Uri::from);
            // Every request of ours may arrive twice: transactions and events have ids.
            parts.extensions.insert(h2_overlay::Idempotent);
            let request = http::Request::from_parts(parts, Full::new(body));
            let response = self
                .overlay
                .request(node, class, request)
                .await
                .map_err(|error| CarrierError::Unreachable(error.to_string()))?;
            Ok(response.map(Body::new))
        })
    }

    fn heard(&self, node: NodeId) {
        self.overlay.reachable(&node);
    }
}
