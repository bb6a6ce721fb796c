//! Owns what this node tells of its own links: signed once a change, and answered within a budget an ingress.
use super::{Map, Outbound};
use crate::id::Port;
use crate::rate::Rate;
use crate::time::Instant;
use crate::wire::body::map::{MapGet, MapLink, MapPage};
use bytes::Bytes;

impl Map {
    /// Somebody asks for our links.
    pub(super) fn on_get(&mut self, get: MapGet, ingress: Port, way: &[u8], now: Instant) {
        if self.budgets.len() >= INGRESSES_MAX && !self.budgets.contains_key(&ingress) {
            self.budgets.clear();
        }
        let budget =
            self.budgets.entry(ingress).or_insert_with(|| Rate::new(ANSWERS_BURST, ANSWERS_PER_SECOND, now));
        if way.is_empty() || !budget.take(now) {
            return;
        }
        let Self { secret, seq, neighbours, own, pages, .. } = self;
        let page = pages.entry(get.skip).or_insert_with(|| {
            let all: Vec<MapLink> = neighbours
                .iter()
                .take(LINKS_TOLD_MAX)
                .map(|(&to, &(port, span))| MapLink { to, port, span })
                .collect();
            MapPage::sign(secret, *seq, get.skip, &all, own).into()
        });
        let body = MapPage::body(get.nonce, page);
        self.out.push_back(Outbound::back(&Bytes::copy_from_slice(way), 0, &body));
        while self.pages.len() > PAGES_MAX {
            self.pages.pop_last();
        }
        self.stats.answers += 1;
    }

    /// Our links or our place are others now.
    pub(super) fn on_changed(&mut self) {
        self.pages.clear();
        self.seq = self.seq.saturating_add(1);
    }
}

/// Links that a node tells: ways need diverse ones, not all that a hub has.
pub(super) const LINKS_TOLD_MAX: usize = 128;
/// Signed pages that are kept.
const PAGES_MAX: usize = 8;
/// Questions that are answered for one ingress at once: some searches of whoever lies behind it.
const ANSWERS_BURST: u32 = 256;
/// And per second: 300 kbit/s of answers.
const ANSWERS_PER_SECOND: u32 = 64;
/// Ingresses that are counted apart; there are no more peers.
const INGRESSES_MAX: usize = 1024;
