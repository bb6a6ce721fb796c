//! Connections: what each client was sent, by room. In RAM, bounded; behind it `cache.db`, so that they outlive a restart.
//!
//! A state has a number. A response that changes it carries the next number in its `pos`, and the change is pending until
//! the client brings that `pos` back; a `pos` of the state before throws the pending change away, and the same request is
//! answered from the same state. A response that only tells what is new in rooms the client has already changes nothing
//! here: how far those are told is the position in the `pos` itself. So an idle or chatting client writes nothing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio_util::sync::CancellationToken;

use super::config::StateConfig;
pub(super) use crate::store::schema::conn::Key;
use crate::{
    clock::Clock,
    store::{CacheDb, Nid, Seq, StoreError, schema::conn as table},
};

/// Connections of one device; a client has two or three. Beyond, the one that was used least recently goes.
const CONNS_MAX: u32 = 10;
/// Rooms over all connections that are kept in RAM, about 10 MiB; beyond, connections are read again from the file.
const ROOMS_MAX: usize = 200_000;
/// Different room configurations of one connection; one that needs more begins anew.
pub(super) const CONFIGS_MAX: usize = 64;
/// Connections that nobody used for so long are dropped: 30 days.
const UNUSED_MS: u64 = 30 * 24 * 60 * 60 * 1000;

/// Bits of [`Sent::bits`]: what of the room the extensions have told whole.
pub(super) mod bits {
    /// Account data.
    pub(in crate::sync::sliding) const ACCOUNT_DATA: u8 = 1;
    /// Receipts.
    pub(in crate::sync::sliding) const RECEIPTS: u8 = 2;
    /// Who types.
    pub(in crate::sync::sliding) const TYPING: u8 = 4;
    /// Of [`super::GLOBAL`]: which threads are followed.
    pub(in crate::sync::sliding) const FOLLOWED_THREADS: u8 = 8;
    /// Profiles of its members.
    pub(in crate::sync::sliding) const PROFILES: u8 = 32;
    /// It was told to be direct.
    pub(in crate::sync::sliding) const DM: u8 = 16;
}

/// The entry under which a connection keeps what belongs to no room.
pub(super) const GLOBAL: Nid = Nid(0);

/// What a connection was sent of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    /// Everything up to here; `None`: up to the connection's position.
    pub(super) upto: Option<Seq>,
    /// So many of the latest events.
    pub(super) limit: u16,
    /// Which of the connection's configurations chose its state.
    pub(super) config: u16,
    /// See [`bits`].
    pub(super) bits: u8,
}

impl Sent {
    const BYTES: usize = 13;

    fn encode(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.upto.map_or(-1, |seq| seq.0).to_le_bytes());
        bytes[8..10].copy_from_slice(&self.limit.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.config.to_le_bytes());
        bytes[12] = self.bits;
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let upto = i64::from_le_bytes(bytes[..8].try_into().ok()?);
        Some(Self {
            upto: (upto >= 0).then_some(Seq(upto)),
            limit: u16::from_le_bytes([bytes[8], bytes[9]]),
            config: u16::from_le_bytes([bytes[10], bytes[11]]),
            bits: bytes[12],
        })
    }
}

/// What a client was sent.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    pub(super) rooms: HashMap<Nid, Sent>,
    pub(super) configs: Vec<Arc<StateConfig>>,
}

/// How a response changes it.
#[derive(Clone, Debug, Default)]
pub(super) struct Delta {
    pub(super) rooms: Vec<(Nid, Option<Sent>)>,
    /// Configurations that follow those of the state.
    pub(super) configs: Vec<Arc<StateConfig>>,
}

impl Delta {
    pub(super) fn is_empty(&self) -> bool {
        self.rooms.is_empty() && self.configs.is_empty()
    }

    fn apply(&self, state: &mut State) {
        state.configs.extend(self.configs.iter().cloned());
        for (room, sent) in &self.rooms {
            match sent {
                Some(sent) => drop(state.rooms.insert(*room, *sent)),
                None => drop(state.rooms.remove(room)),
            }
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = (self.rooms.len() as u32).to_le_bytes().to_vec();
        for (room, sent) in &self.rooms {
            bytes.extend_from_slice(&room.0.to_le_bytes());
            bytes.push(u8::from(sent.is_some()));
            bytes.extend_from_slice(&sent.map_or([0; Sent::BYTES], Sent::encode));
        }
        let configs: Vec<&StateConfig> = self.configs.iter().map(|config| &**config).collect();
        bytes.extend(serde_json::to_vec(&configs).unwrap_or_default());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        const ROW: usize = 9 + Sent::BYTES;
        let (count, rest) = bytes.split_at_checked(4)?;
        let count = u32::from_le_bytes(count.try_into().ok()?) as usize;
        let (rows, configs) = rest.split_at_checked(count.checked_mul(ROW)?)?;
        let mut delta = Self::default();
        for row in rows.chunks_exact(ROW) {
            let room = Nid(i64::from_le_bytes(row[..8].try_into().ok()?));
            let sent = if row[8] == 1 { Some(Sent::decode(&row[9..])?) } else { None };
            delta.rooms.push((room, sent));
        }
        let configs: Vec<StateConfig> = serde_json::from_slice(configs).ok()?;
        delta.configs = configs.into_iter().map(Arc::new).collect();
        Some(delta)
    }
}

/// A connection in RAM.
#[derive(Debug)]
struct Conn {
    used: u64,
    nonce: i64,
    n: i64,
    /// Numbers given out up to here.
    last: i64,
    state: Arc<State>,
    pending: Option<(i64, Arc<Delta>)>,
    /// The request that is under way; a newer one ends it.
    turn: CancellationToken,
}

/// A request's hold of its connection.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) key: Key,
    pub(super) nonce: i64,
    /// Number of the state that the client has.
    pub(super) n: i64,
    pub(super) state: Arc<State>,
    /// Cancelled when the client asks anew.
    pub(super) turn: CancellationToken,
}

/// All connections.
pub(super) struct Conns {
    table: Mutex<HashMap<Key, Conn>>,
    tick: std::sync::atomic::AtomicU64,
    cache: CacheDb,
    clock: Clock,
}

impl Conns {
    pub(super) fn new(cache: CacheDb, clock: Clock) -> Self {
        Self { table: Mutex::default(), tick: 0.into(), cache, clock }
    }

    /// A connection from the beginning; one of the same name ends.
    pub(super) async fn begin(&self, key: Key) -> Result<Handle, StoreError> {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).map_err(|_| StoreError::Closed)?;
        // 53 bits: the number travels as text, but may be looked at by JavaScript.
        let nonce = (u64::from_le_bytes(bytes) >> 11) as i64;
        let now = self.clock.now_ms();
        let stored = key.clone();
        self.cache
            .post(move |conn| {
                table::drop_unused(conn, now.saturating_sub(UNUSED_MS) as i64)?;
                table::create(conn, &stored, nonce, now as i64, CONNS_MAX)
            })
            .await?;
        let turn = CancellationToken::new();
        let state = Arc::new(State::default());
        let conn = Conn {
            used: self.tick(),
            nonce,
            n: 0,
            last: 0,
            state: state.clone(),
            pending: None,
            turn: turn.clone(),
        };
        let mut table = self.table();
        if let Some(old) = table.insert(key.clone(), conn) {
            old.turn.cancel();
        }
        trim_device(&mut table, &key);
        trim(&mut table, &key);
        Ok(Handle { key, nonce, n: 0, state, turn })
    }

    /// The connection as of state `n`, which the client has; `None` if nobody knows it any more.
    pub(super) async fn resume(&self, key: Key, nonce: i64, n: i64) -> Result<Option<Handle>, StoreError> {
        if !self.table().contains_key(&key) {
            let asked = key.clone();
            let stored = self.cache.run(move |conn| table::load(conn, &asked)).await?;
            let Some(conn) = stored.and_then(|row| self.read_row(row)) else { return Ok(None) };
            // Whoever was quicker has it from the same file.
            self.table().entry(key.clone()).or_insert(conn);
        }
        let tick = self.tick();
        let (handle, confirmed) = {
            let mut table = self.table();
            let Some(conn) = table.get_mut(&key).filter(|conn| conn.nonce == nonce) else { return Ok(None) };
            let mut confirmed = None;
            match conn.pending.take() {
                Some((next, delta)) if next == n => {
                    delta.apply(Arc::make_mut(&mut conn.state));
                    conn.n = n;
                    confirmed = Some(delta);
                }
                // The response is lost, or the client asks something else of the same state.
                _ if conn.n == n => {}
                pending => {
                    conn.pending = pending;
                    return Ok(None);
                }
            }
            conn.used = tick;
            conn.turn.cancel();
            conn.turn = CancellationToken::new();
            let (state, turn) = (conn.state.clone(), conn.turn.clone());
            trim(&mut table, &key);
            (Handle { key, nonce, n, state, turn }, confirmed)
        };
        if let Some(delta) = confirmed {
            let key = handle.key.clone();
            let first = handle.state.configs.len() - delta.configs.len();
            self.cache
                .post(move |conn| {
                    let rooms: Vec<table::RoomChange> = delta
                        .rooms
                        .iter()
                        .map(|(room, sent)| (*room, sent.map(|sent| sent.encode().to_vec())))
                        .collect();
                    let mut configs = Vec::new();
                    for (index, config) in delta.configs.iter().enumerate() {
                        let json = serde_json::to_string(&**config)
                            .map_err(|_| StoreError::Corrupt("a configuration that cannot be written"))?;
                        configs.push(((first + index) as i64, json));
                    }
                    table::confirm(conn, &key, nonce, n, &rooms, &configs)
                })
                .await?;
        }
        Ok(Some(handle))
    }

    /// The response of `handle` changes the state by `delta`: gives the number of the state that the client has once it
    /// brings the response's `pos` back.
    pub(super) async fn sent(&self, handle: &Handle, delta: Delta) -> Result<i64, StoreError> {
        if delta.is_empty() {
            return Ok(handle.n);
        }
        let delta = Arc::new(delta);
        let next = {
            let mut table = self.table();
            match table.get_mut(&handle.key) {
                // Only the request that holds the connection may change it: the answer of another is not read.
                Some(conn) if conn.nonce == handle.nonce && !handle.turn.is_cancelled() => {
                    conn.last = conn.last.max(conn.n) + 1;
                    conn.pending = Some((conn.last, delta.clone()));
                    conn.last
                }
                _ => return Ok(handle.n),
            }
        };
        let (key, nonce, now) = (handle.key.clone(), handle.nonce, self.clock.now_ms() as i64);
        self.cache
            .post(move |conn| table::put_pending(conn, &key, nonce, next, &delta.encode(), now))
            .await?;
        Ok(next)
    }

    fn read_row(&self, row: table::ConnRow) -> Option<Conn> {
        let mut state = State::default();
        for (room, sent) in row.rooms {
            state.rooms.insert(room, Sent::decode(&sent)?);
        }
        for (index, (config, json)) in row.configs.into_iter().enumerate() {
            if config != index as i64 {
                return None;
            }
            state.configs.push(Arc::new(serde_json::from_str(&json).ok()?));
        }
        let pending = match row.pending {
            Some((n, bytes)) => Some((n, Arc::new(Delta::decode(&bytes)?))),
            None => None,
        };
        Some(Conn {
            used: self.tick(),
            nonce: row.nonce,
            n: row.n,
            last: pending.as_ref().map_or(row.n, |(n, _)| *n),
            state: Arc::new(state),
            pending,
            turn: CancellationToken::new(),
        })
    }

    fn tick(&self) -> u64 {
        self.tick.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Key, Conn>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device has no more connections in RAM than in the file.
fn trim_device(table: &mut HashMap<Key, Conn>, current: &Key) {
    let same = |key: &Key| key.user == current.user && key.device == current.device;
    while table.keys().filter(|key| same(key)).count() > CONNS_MAX as usize {
        let oldest = table
            .iter()
            .filter(|(key, _)| same(key) && *key != current)
            .min_by_key(|(_, conn)| conn.used)
            .map(|(key, _)| key.clone());
        let Some(conn) = oldest.and_then(|key| table.remove(&key)) else { return };
        conn.turn.cancel();
    }
}

/// What is over the bound leaves the RAM; the file has it.
fn trim(table: &mut HashMap<Key, Conn>, current: &Key) {
    // An entry counts also without rooms, so that the number of connections is bounded with them.
    let weight = |conn: &Conn| conn.state.rooms.len() + 16;
    let mut rooms: usize = table.values().map(weight).sum();
    while rooms > ROOMS_MAX {
        let oldest = table
            .iter()
            .filter(|(key, _)| *key != current)
            .min_by_key(|(_, conn)| conn.used)
            .map(|(key, _)| key.clone());
        let Some(conn) = oldest.and_then(|key| table.remove(&key)) else { return };
        rooms -= weight(&conn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_comes_back() {
        let sent = Sent { upto: Some(Seq(7)), limit: 20, config: 3, bits: bits::DM | bits::TYPING };
        let config = Arc::new(StateConfig::default());
        let delta = Delta { rooms: vec![(Nid(5), Some(sent)), (Nid(6), None)], configs: vec![config] };
        let back = Delta::decode(&delta.encode()).unwrap();
        assert_eq!((back.rooms, back.configs), (delta.rooms, delta.configs));
        for bytes in [&[][..], &[1, 0, 0, 0], &[255, 255, 255, 255, 1], b"\0\0\0\0x"] {
            assert!(Delta::decode(bytes).is_none());
        }
        let live = Sent { upto: None, ..sent };
        assert_eq!(Sent::decode(&live.encode()), Some(live));
    }
}
