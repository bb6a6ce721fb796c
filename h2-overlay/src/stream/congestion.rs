//! Tells congestion control of a new path.
//!
//! QUIC sees one address for a node, whatever way the router's packets take. What it has measured of one way says little of
//! the next: the window of a broad one floods a narrow one, the least round trip of a short one makes a long one look
//! congested. So when the router moves the streams of a node to another way, the controller begins anew, with half of the
//! window that it had: a transfer neither starts from nothing nor drowns the new way.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Instant,
};

use quinn_proto::{
    RttEstimator,
    congestion::{BbrConfig, Controller, ControllerFactory, ControllerMetrics},
};

/// Counts how often the way to a node has changed.
pub(crate) type PathChanges = Arc<AtomicU32>;

/// Makes controllers that begin anew when the path changes.
#[derive(Clone)]
pub(crate) struct Rerouted {
    pub(crate) changes: PathChanges,
}

impl ControllerFactory for Rerouted {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let inner = Arc::new(BbrConfig::default()).build(now, current_mtu);
        let seen = self.changes.load(Relaxed);
        Box::new(Watching { inner, changes: self.changes.clone(), seen, mtu: current_mtu })
    }
}

struct Watching {
    inner: Box<dyn Controller>,
    changes: PathChanges,
    seen: u32,
    mtu: u16,
}

impl Watching {
    /// Begins anew if the path has changed since.
    fn look(&mut self, now: Instant) {
        let changes = self.changes.load(Relaxed);
        if changes == self.seen {
            return;
        }
        self.seen = changes;
        let mut config = BbrConfig::default();
        let least = WINDOW_PACKETS_MIN * u64::from(self.mtu);
        config.initial_window((self.inner.window() / 2).clamp(least, WINDOW_MAX.max(least)));
        self.inner = Arc::new(config).build(now, self.mtu);
    }
}

impl Controller for Watching {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.look(now);
        self.inner.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.look(now);
        self.inner.on_ack(now, sent, bytes, app_limited, rtt);
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.inner.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.look(now);
        self.inner.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu;
        self.inner.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.inner.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.inner.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        let (inner, changes) = (self.inner.clone_box(), self.changes.clone());
        Box::new(Self { inner, changes, seen: self.seen, mtu: self.mtu })
    }

    fn initial_window(&self) -> u64 {
        self.inner.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A new path carries that much at once, as RFC 6928 lets any path.
const WINDOW_PACKETS_MIN: u64 = 10;
/// And never more: the delay of a full queue of 1 MiB is what the old path may have hidden.
const WINDOW_MAX: u64 = 512 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_path_begins_with_half_of_the_window() {
        let changes = PathChanges::default();
        let now = Instant::now();
        let mut controller = Arc::new(Rerouted { changes: changes.clone() }).build(now, 1280);
        let before = controller.window();
        controller.on_sent(now, 1280, 1);
        assert_eq!(controller.window(), before, "nothing has changed");
        changes.fetch_add(1, Relaxed);
        controller.on_sent(now, 1280, 2);
        let after = controller.window();
        assert_eq!(after, before / 2);
        controller.on_sent(now, 1280, 3);
        assert_eq!(controller.window(), after, "once for each change");
        for _ in 0..10 {
            changes.fetch_add(1, Relaxed);
            controller.on_sent(now, 1280, 4);
        }
        assert_eq!(controller.window(), 10 * 1280, "however often it changes");
    }
}
