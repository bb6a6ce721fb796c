//! Owns the bodies of DATA frames: what two ends say to each other over any number of hops. The first byte is the kind.
//!
//! [`DATA`] is sealed under a session's keys; handshakes seal themselves; lookup bodies are in clear and answered along
//! the way they came.
pub mod find;
pub mod init;
pub mod sealed;

/// A packet under a session's keys.
pub const DATA: u8 = 0x01;
/// First message of a handshake.
pub const INIT: u8 = 0x02;
/// Its answer.
pub const INIT_ACK: u8 = 0x03;
/// "Show that you receive what is sent back to you": answer to INIT under load.
pub const COOKIE: u8 = 0x04;
/// "I have seen a higher counter of yours": answer to an old INIT.
pub const HINT: u8 = 0x05;
/// Who is near that key, what is kept for it?
pub const FIND: u8 = 0x08;
/// Answer to FIND, STORE and REFRESH.
pub const FOUND: u8 = 0x09;
/// Please keep this record.
pub const STORE: u8 = 0x0a;
/// Please keep the record that you have for longer.
pub const REFRESH: u8 = 0x0b;
/// Reserved: asks for a map of the neighbourhood.
pub const MAP_GET: u8 = 0x0c;
/// Reserved: answer to it.
pub const MAP: u8 = 0x0d;

/// The last 8 bytes of a body: what a NOTICE names the refused packet by. Zero-filled if it is shorter.
pub fn tail(body: &[u8]) -> [u8; 8] {
    body.last_chunk().copied().unwrap_or_default()
}
