//! Owns the router's plain counters; only those who drive it export them.
use crate::wire::kind;

/// What happened since the start. Copied out, never reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Frames handed in, and their bytes.
    pub frames_in: u64,
    /// Bytes of those frames.
    pub bytes_in: u64,
    /// Frames handed out.
    pub frames_out: u64,
    /// Bytes of those frames.
    pub bytes_out: u64,
    /// Bytes handed out that were control frames.
    pub control_bytes_out: u64,
    /// Control frames handed out.
    pub control_frames_out: u64,
    /// The bytes of these by what they say.
    pub control_kinds: ControlKinds,
    /// Frames that could not be read, or not be opened.
    pub frames_bad: u64,
    /// Frames of a kind this version does not know.
    pub frames_unknown: u64,
    /// Link handshakes that failed.
    pub handshakes_failed: u64,
    /// Packets passed on for others.
    pub forwarded: u64,
    /// Packets that reached this node.
    pub delivered: u64,
    /// Packets dropped because no peer is nearer to the destination.
    pub dropped_no_route: u64,
    /// Packets dropped because they went over too many hops.
    pub dropped_ttl: u64,
    /// Packets dropped by a full or slow queue.
    pub dropped_queue: u64,
    /// Packets that no link on the way takes.
    pub dropped_too_large: u64,
    /// Bodies of packets that were not readable or not openable.
    pub dropped_body: u64,
    /// Of our own packets: dropped because too many waited for a session or a place.
    pub dropped_parked: u64,
    /// Packets to an overlay address outside fd00::/8, or whose source is not the session's.
    pub dropped_address: u64,
    /// Notices sent about packets that could not be passed on.
    pub notices_sent: u64,
    /// Notices that were told to us about packets of ours.
    pub notices_received: u64,
    /// Notices that match nothing we sent, or came too fast.
    pub notices_ignored: u64,
    /// Tree entries taken over.
    pub tree_infos_accepted: u64,
    /// Tree entries whose signatures do not hold, or that break a bound.
    pub tree_infos_refused: u64,
    /// Changes of my parent, all trees.
    pub parent_changes: u64,
    /// Changes of my root, all trees.
    pub root_changes: u64,
    /// Lookups begun.
    pub lookups: u64,
    /// Lookups that found nothing.
    pub lookups_failed: u64,
    /// Questions of lookups sent.
    pub lookup_questions: u64,
    /// Records of others taken in.
    pub records_stored: u64,
    /// Records of others refused: forged, outdated, or no room.
    pub records_refused: u64,
    /// Session handshakes begun.
    pub session_handshakes: u64,
    /// Session handshakes of others that were answered with a cookie, under load.
    pub session_cookies: u64,
    /// Packets that came a second time.
    pub dropped_repeated: u64,
    /// Audits sent through peers.
    pub audit_probes: u64,
    /// Audits answered.
    pub audit_answers: u64,
    /// Times that a peer fell under suspicion.
    pub audit_suspected: u64,
    /// Places in trees that a peer claimed and could not prove.
    pub audit_places_void: u64,
    /// Nodes that were looked for by the map.
    pub map_searches: u64,
    /// Of these, such that a link to them was found.
    pub map_found: u64,
    /// Questions of the map sent.
    pub map_questions: u64,
    /// Questions of others' maps answered.
    pub map_answers: u64,
    /// Signatures checked.
    pub signatures_checked: u64,
}

/// Bytes of control frames by what they say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlKinds([u64; CONTROL_KINDS.len()]);

impl ControlKinds {
    /// Counts a frame of a control kind ([`kind`]) with so many bytes on the wire.
    pub(crate) fn add(&mut self, kind: u8, bytes: usize) {
        let named = CONTROL_KINDS.iter().position(|(_, kinds)| kinds.contains(&kind));
        self.0[named.unwrap_or(CONTROL_KINDS.len() - 1)] += bytes as u64;
    }

    /// Name and bytes of each kind.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        CONTROL_KINDS.iter().map(|(name, _)| *name).zip(self.0)
    }
}

/// What is counted together.
const CONTROL_KINDS: [(&str, &[u8]); 7] = [
    ("link handshake", &[kind::HELLO, kind::LINK_ACK]),
    ("signs of life", &[kind::PING, kind::PONG, kind::ACK]),
    ("parents", &[kind::PARENT_REQ, kind::PARENT_SIG]),
    ("announcements", &[kind::ANNOUNCE, kind::RESYNC]),
    ("peers told", &[kind::PEERS]),
    ("vicinity", &[kind::VICINITY]),
    ("other control", &[]),
];
