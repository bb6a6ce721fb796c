//! Owns the tracing of a way, for people: a probe to each of its hops at once, and how long each took to answer.
use super::super::SessionEvent;
use super::ways::probe;
use super::{Context, Session};
use crate::id::{Port, Sid};
use crate::route::choose::RouteInfo;
use crate::time::{Duration, Instant};
use crate::wire::body::{Destination, Outbound, tail};
use crate::wire::data::{decode_ports, encode_ports};

/// Probes to the hops of one way.
pub(super) struct Trace {
    id: u64,
    hops: Vec<Hop>,
    pub(super) ends_at: Instant,
}

struct Hop {
    sid: Sid,
    tail: [u8; 8],
    sent_at: Instant,
    took: Option<Duration>,
}

impl Trace {
    pub(super) fn holds(&self, tail: &[u8; 8]) -> bool {
        self.hops.iter().any(|hop| hop.tail == *tail)
    }
}

impl Session {
    /// Sends a probe to each hop of the way that packets of streams take: [`SessionEvent::Traced`] tells, at once if no
    /// way is known (everything goes by the trees) or another trace goes on.
    pub(in crate::session) fn trace(&mut self, id: u64, ctx: &mut Context<'_>) {
        let infos = self.routes.infos();
        let used: Option<&RouteInfo> = infos.iter().find(|route| route.used && route.id != 0);
        let way = used.and_then(|route| Some((route, decode_ports(&self.routes.ports(route.id)?).ok()?)));
        let Some((route, ports)) = way.filter(|(route, ports)| {
            self.trace.is_none() && self.current.is_some() && route.hops.len() == ports.len()
        }) else {
            ctx.events.push_back(SessionEvent::Traced { id, hops: Vec::new() });
            return;
        };
        let hops = (1..=ports.len()).zip(&route.hops).map(|(count, &sid)| {
            let (index, body) = probe(ctx.entropy);
            let hop = Hop { sid, tail: tail(body.as_slice()), sent_at: ctx.now, took: None };
            let ways: &[Port] = &ports[..count];
            ctx.out.push_back(Outbound { to: Destination::Back(encode_ports(ways).into()), index, body });
            hop
        });
        let trace = Trace { id, hops: hops.collect(), ends_at: ctx.now + TRACE_MAX };
        self.trace = Some(Box::new(trace));
    }

    /// A hop has answered.
    pub(super) fn on_traced(&mut self, tail: &[u8; 8], ctx: &mut Context<'_>) -> bool {
        let Some(trace) = &mut self.trace else { return false };
        let Some(hop) = trace.hops.iter_mut().find(|hop| hop.tail == *tail) else { return false };
        hop.took.get_or_insert(ctx.now - hop.sent_at);
        if trace.hops.iter().all(|hop| hop.took.is_some()) {
            self.end_trace(ctx);
        }
        true
    }

    pub(super) fn end_trace(&mut self, ctx: &mut Context<'_>) {
        if let Some(trace) = self.trace.take() {
            let hops = trace.hops.iter().map(|hop| (hop.sid, hop.took)).collect();
            ctx.events.push_back(SessionEvent::Traced { id: trace.id, hops });
        }
    }
}

/// A hop that has not answered by then does not, or its notice was lost.
const TRACE_MAX: Duration = Duration::from_secs(2);
