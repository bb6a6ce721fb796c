//! The null crypto session of QUIC: every datagram is sealed and authenticated by the overlay already, so that QUIC
//! has nothing left to hide or to prove. Only the transport parameters are exchanged.
//!
//! That is sound only over sealed datagrams, so [`NullCrypto`] can be made from a [`SealedSocket`] alone, and a
//! `SealedSocket` only from a socket that vouches for who sent what.
//!
//! ```text
//!   client                                     server
//!   Initial    [u16 length][parameters]  ───▶
//!              ◀───                            Initial    0x01
//!              ◀───                            Handshake  [u16 length][parameters]
//!   Handshake  0x02                      ───▶
//! ```

use std::{any::Any, io::Cursor, sync::Arc};

use bytes::BytesMut;
use quinn_proto::{
    ConnectError, ConnectionId, Side, TransportError, TransportErrorCode,
    crypto::{
        AeadKey, ClientConfig, CryptoError, ExportKeyingMaterialError, HandshakeTokenKey, HeaderKey, HmacKey,
        KeyPair, Keys, PacketKey, ServerConfig, Session, UnsupportedVersion,
    },
    transport_parameters::TransportParameters,
};
use router::NodeId;

use super::socket::SealedSocket;

/// The QUIC version on the overlay: "mg" and a number that rises when this handshake changes. It is not QUIC v1, which has
/// TLS inside.
pub(crate) const VERSION: u32 = 0x6d67_0001;

/// Parameters are some 150 bytes; more is nonsense.
const PARAMETERS_BYTES_MAX: usize = 1024;
const SERVER_HELLO: u8 = 1;
const CLIENT_DONE: u8 = 2;

/// Both configurations of the null session.
#[derive(Debug)]
pub(super) struct NullCrypto {
    _private: (),
}

impl NullCrypto {
    /// The socket is the proof that datagrams are sealed.
    pub(super) fn over(_socket: &SealedSocket) -> Arc<Self> {
        Arc::new(Self { _private: () })
    }
}

impl ClientConfig for NullCrypto {
    fn start_session(
        self: Arc<Self>,
        version: u32,
        _server_name: &str,
        params: &TransportParameters,
    ) -> Result<Box<dyn Session>, ConnectError> {
        if version != VERSION {
            return Err(ConnectError::UnsupportedVersion);
        }
        Ok(Box::new(NullSession::new(Side::Client, params)))
    }
}

impl ServerConfig for NullCrypto {
    fn initial_keys(&self, version: u32, _dst_cid: &ConnectionId) -> Result<Keys, UnsupportedVersion> {
        // They sign off a connection that is refused, too, in a packet that nothing pads.
        let header =
            KeyPair { local: Box::new(FirstKey) as Box<dyn HeaderKey>, remote: Box::new(FirstKey) as _ };
        if version == VERSION { Ok(Keys { header, ..keys() }) } else { Err(UnsupportedVersion) }
    }

    fn retry_tag(&self, _version: u32, _orig_dst_cid: &ConnectionId, _packet: &[u8]) -> [u8; 16] {
        [0; 16]
    }

    fn start_session(self: Arc<Self>, _version: u32, params: &TransportParameters) -> Box<dyn Session> {
        Box::new(NullSession::new(Side::Server, params))
    }
}

/// Where the handshake stands. The client goes `Start -> Hello -> Parameters -> Finish -> Done`, the server
/// `Parameters -> Start -> Hello -> Finish -> Done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Client: the first flight is to be written.
    Start,
    /// Client: waits for the server's hello byte.
    AwaitHello,
    /// Client: the hello came, keys of the handshake space are to be given out.
    Hello,
    /// Either: waits for the other's parameters.
    AwaitParameters,
    /// Server: hello byte and handshake keys are to be written; client: the last byte and the data keys.
    Parameters,
    /// Server: the parameters and the data keys are to be written.
    Answer,
    /// Server: waits for the client's last byte.
    AwaitDone,
    /// Nothing is left to say.
    Done,
}

struct NullSession {
    side: Side,
    state: State,
    ours: Vec<u8>,
    theirs: Option<TransportParameters>,
    /// What has arrived of a message that is not whole yet.
    partial: Vec<u8>,
    announced: bool,
}

impl NullSession {
    fn new(side: Side, params: &TransportParameters) -> Self {
        let mut ours = Vec::new();
        params.write(&mut ours);
        let state = if side.is_client() { State::Start } else { State::AwaitParameters };
        Self { side, state, ours, theirs: None, partial: Vec::new(), announced: false }
    }

    /// Takes one message off `partial` if it is there whole.
    fn read_parameters(&mut self) -> Result<bool, TransportError> {
        let Some(length) =
            self.partial.first_chunk::<2>().map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
        else {
            return Ok(false);
        };
        if length > PARAMETERS_BYTES_MAX {
            return Err(violation("transport parameters too long"));
        }
        let Some(bytes) = self.partial.get(2..2 + length) else { return Ok(false) };
        let params = TransportParameters::read(self.side, &mut Cursor::new(bytes))?;
        self.theirs = Some(params);
        self.partial.drain(..2 + length);
        Ok(true)
    }

    fn read_byte(&mut self, expected: u8) -> Result<bool, TransportError> {
        match self.partial.first() {
            None => Ok(false),
            Some(byte) if *byte == expected => {
                self.partial.remove(0);
                Ok(true)
            }
            Some(_) => Err(violation("unexpected handshake message")),
        }
    }
}

impl Session for NullSession {
    fn initial_keys(&self, _dst_cid: &ConnectionId, _side: Side) -> Keys {
        keys()
    }

    fn handshake_data(&self) -> Option<Box<dyn Any>> {
        self.theirs.is_some().then(|| Box::new(()) as Box<dyn Any>)
    }

    /// Never QUIC's to say: the identity is that of the overlay's session.
    fn peer_identity(&self) -> Option<Box<dyn Any>> {
        None
    }

    fn early_crypto(&self) -> Option<(Box<dyn HeaderKey>, Box<dyn PacketKey>)> {
        None
    }

    fn early_data_accepted(&self) -> Option<bool> {
        Some(false)
    }

    fn is_handshaking(&self) -> bool {
        self.state != State::Done
    }

    fn read_handshake(&mut self, buf: &[u8]) -> Result<bool, TransportError> {
        if self.partial.len() + buf.len() > 2 + PARAMETERS_BYTES_MAX + 1 {
            return Err(violation("handshake too long"));
        }
        self.partial.extend_from_slice(buf);
        loop {
            let (whole, next) = match self.state {
                State::AwaitHello => (self.read_byte(SERVER_HELLO)?, State::Hello),
                State::AwaitParameters => (self.read_parameters()?, State::Parameters),
                State::AwaitDone => (self.read_byte(CLIENT_DONE)?, State::Done),
                State::Done if !self.partial.is_empty() => {
                    return Err(violation("data after the handshake"));
                }
                _ => break,
            };
            if !whole {
                break;
            }
            self.state = next;
        }
        let first = self.theirs.is_some() && !self.announced;
        self.announced |= first;
        Ok(first)
    }

    fn transport_parameters(&self) -> Result<Option<TransportParameters>, TransportError> {
        Ok(self.theirs)
    }

    fn write_handshake(&mut self, buf: &mut Vec<u8>) -> Option<Keys> {
        let parameters = |ours: &[u8], buf: &mut Vec<u8>| {
            buf.extend_from_slice(&(ours.len() as u16).to_be_bytes());
            buf.extend_from_slice(ours);
        };
        match (self.side, self.state) {
            (Side::Client, State::Start) => {
                parameters(&self.ours, buf);
                self.state = State::AwaitHello;
                None
            }
            (Side::Client, State::Hello) => {
                self.state = State::AwaitParameters;
                Some(keys())
            }
            (Side::Client, State::Parameters) => {
                buf.push(CLIENT_DONE);
                self.state = State::Done;
                Some(keys())
            }
            (Side::Server, State::Parameters) => {
                buf.push(SERVER_HELLO);
                self.state = State::Answer;
                Some(keys())
            }
            (Side::Server, State::Answer) => {
                parameters(&self.ours, buf);
                self.state = State::AwaitDone;
                Some(keys())
            }
            _ => None,
        }
    }

    fn next_1rtt_keys(&mut self) -> Option<KeyPair<Box<dyn PacketKey>>> {
        Some(KeyPair { local: Box::new(NullKey), remote: Box::new(NullKey) })
    }

    /// We never send one, and whoever we dialled can close the connection anyway.
    fn is_valid_retry(&self, _orig_dst_cid: &ConnectionId, _header: &[u8], _payload: &[u8]) -> bool {
        false
    }

    fn export_keying_material(
        &self,
        _output: &mut [u8],
        _label: &[u8],
        _context: &[u8],
    ) -> Result<(), ExportKeyingMaterialError> {
        Err(ExportKeyingMaterialError)
    }
}

fn violation(reason: &str) -> TransportError {
    TransportError { code: TransportErrorCode::PROTOCOL_VIOLATION, frame: None, reason: reason.into() }
}

fn keys() -> Keys {
    Keys {
        header: KeyPair { local: Box::new(NullKey), remote: Box::new(NullKey) },
        packet: KeyPair { local: Box::new(NullKey), remote: Box::new(NullKey) },
    }
}

/// The header key of a connection's first packet, as the listener sees it: as [`NullKey`], but nothing has to be padded.
struct FirstKey;

impl HeaderKey for FirstKey {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn sample_size(&self) -> usize {
        0
    }
}

/// Leaves every packet as it is.
struct NullKey;

impl PacketKey for NullKey {
    fn encrypt(&self, _packet: u64, _buf: &mut [u8], _header_len: usize) {}

    fn decrypt(&self, _packet: u64, _header: &[u8], _payload: &mut BytesMut) -> Result<(), CryptoError> {
        Ok(())
    }

    fn tag_len(&self) -> usize {
        0
    }

    fn confidentiality_limit(&self) -> u64 {
        u64::MAX
    }

    fn integrity_limit(&self) -> u64 {
        u64::MAX
    }
}

impl HeaderKey for NullKey {
    fn decrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    fn encrypt(&self, _pn_offset: usize, _packet: &mut [u8]) {}

    /// Nothing is sampled; the size pads the smallest packets (a lone PING) to 22 bytes and more, without which a
    /// restarted node could not answer them with a stateless reset.
    fn sample_size(&self) -> usize {
        12
    }
}

/// Makes the reset tokens of a node. They have to be the same after a restart, or a connection that did not survive it
/// could not be reset. They need no secret: only the node itself can send datagrams under its key, and connection IDs
/// are seen by nobody but the two ends.
pub(super) struct ResetKey(NodeId);

impl ResetKey {
    pub(super) fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self(node))
    }

    fn mac(&self, data: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("mangrove/1/quic-reset");
        hasher.update(self.0.as_bytes()).update(data);
        *hasher.finalize().as_bytes()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(&self.mac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        if self.mac(data) == signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Address validation tokens prove an address that the overlay proves already: none is ever given out, so none opens.
pub(super) struct NoTokens;

impl HandshakeTokenKey for NoTokens {
    fn aead_from_hkdf(&self, _random_bytes: &[u8]) -> Box<dyn AeadKey> {
        Box::new(Self)
    }
}

impl AeadKey for NoTokens {
    fn seal(&self, _data: &mut Vec<u8>, _additional_data: &[u8]) -> Result<(), CryptoError> {
        Ok(())
    }

    fn open<'a>(&self, _data: &'a mut [u8], _additional_data: &[u8]) -> Result<&'a mut [u8], CryptoError> {
        Err(CryptoError)
    }
}
