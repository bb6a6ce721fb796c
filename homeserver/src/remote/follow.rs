//! What happens on the overlay and matters here: our account is published, and whoever comes back is sent to at once.

use router::net::{Node, NodeEvent};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use super::Remote;

impl Remote {
    /// Publishes the account's record on this node and listens to it until `shutdown`.
    pub async fn follow(self, node: Node, shutdown: CancellationToken) {
        let mut events = node.events();
        // The router keeps the record findable; a later start has a later number.
        node.publish(self.identity().account_record(self.clock().now_ms()));
        loop {
            let event = tokio::select! {
                () = shutdown.cancelled() => return,
                event = events.recv() => event,
            };
            match event {
                Ok(NodeEvent::SessionUp { node }) => {
                    self.inner.look_again_for(&node);
                    match self.names_of(&node) {
                        names if names.is_empty() => self.network_changed(),
                        names => names.iter().for_each(|name| self.inner.outgoing.wake(name)),
                    }
                }
                // A new link may lead anywhere.
                Ok(NodeEvent::PeerUp { .. }) => {
                    self.inner.look_again();
                    self.network_changed();
                }
                // Somewhere a link came back that joined two networks: who was cut off from us may have kept something
                // for us, and not have noticed.
                Ok(NodeEvent::Joined) | Err(RecvError::Lagged(_)) => {
                    self.inner.look_again();
                    self.network_joined();
                }
                Ok(_) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }
}
