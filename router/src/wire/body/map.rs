//! Owns the bytes of maps: MAP_GET and MAP.
//!
//! ```text
//! MAP_GET = 0c  nonce:8  skip:1  zeros  nonce:8
//! MAP     = 0d  nonce:8  key:32  seq:8  skip:1  total:1  n:1 x link  locator  sig:64
//! link    = sid:8  port:1-3  cost:1  size:1
//! ```
//! A MAP tells the links of the node `key` from number `skip` on, of `total`; `sig` is by it, type `map`, over all between
//! nonce and sig: it is made once and told to everybody. It is at most three times as long as a MAP_GET.
use super::{MAP, MAP_GET};
use crate::config::SignatureMemory;
use crate::crypto::{SecretKey, domain};
use crate::id::{NodeId, Port, Sid};
use crate::lookup::Locator;
use crate::wire::FrameError;
use crate::wire::codec::{Reader, Writer, port_bytes};
use crate::wire::record::Span;

/// A question for somebody's links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapGet {
    /// Comes back in the answer.
    pub nonce: u64,
    /// Links that are known already.
    pub skip: u8,
}

impl MapGet {
    /// Reads the body, kind included.
    pub fn decode(body: &[u8]) -> Result<Self, FrameError> {
        if body.len() < MAP_GET_LEN {
            return Err(FrameError::Short);
        }
        let mut reader = Reader::new(body);
        if reader.u8()? != MAP_GET {
            return Err(FrameError::Value);
        }
        Ok(Self { nonce: reader.u64()?, skip: reader.u8()? })
    }

    /// Writes the body, [`MAP_GET_LEN`] bytes.
    pub fn encode(&self, out: &mut impl Writer) {
        out.put_byte(MAP_GET);
        out.put_eight(self.nonce);
        out.put_byte(self.skip);
        out.put(&[0; MAP_GET_LEN - 18]);
        out.put_eight(self.nonce);
    }
}

/// One link of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLink {
    /// Who is there.
    pub to: Sid,
    /// The node's port for it.
    pub port: Port,
    /// The link.
    pub span: Span,
}

/// Some of a node's links, as it signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapPage {
    /// Who says so.
    pub node: NodeId,
    /// Only grows; the newest counts.
    pub seq: u64,
    /// Links before these.
    pub skip: u8,
    /// Links that the node has in all, as far as it tells them.
    pub total: u8,
    /// These.
    pub links: Vec<MapLink>,
    /// Where the node is.
    pub locator: Locator,
}

impl MapPage {
    /// Reads a MAP, kind included: nonce and page. The signature holds, or what stands in for it (simulator).
    pub fn decode(body: &[u8], memory: Option<&dyn SignatureMemory>) -> Result<(u64, Self), FrameError> {
        if body.len() > MAP_MAX {
            return Err(FrameError::Long);
        }
        let mut reader = Reader::new(body);
        if reader.u8()? != MAP {
            return Err(FrameError::Value);
        }
        let nonce = reader.u64()?;
        let signed = reader.rest();
        let (node, seq, skip, total) = (reader.node()?, reader.u64()?, reader.u8()?, reader.u8()?);
        let count = reader.u8()?;
        let link = |reader: &mut Reader<'_>| {
            let (to, port) = (reader.sid()?, reader.port()?);
            let span = Span { cost: reader.u8()?, size: reader.u8()?.max(Span::SIZE_MIN) };
            if span.cost == 0 || port == Port::SELF {
                return Err(FrameError::Value);
            }
            Ok(MapLink { to, port, span })
        };
        let links = (0..count).map(|_| link(&mut reader)).collect::<Result<_, _>>()?;
        let locator = Locator::decode(&mut reader)?;
        let signed = &signed[..signed.len() - reader.rest().len()];
        let sig = reader.array()?;
        if !reader.is_empty() {
            return Err(FrameError::Long);
        }
        node.verify_remembering(memory, domain::MAP, signed, &sig).0.map_err(|_| FrameError::Seal)?;
        Ok((nonce, Self { node, seq, skip, total, links, locator }))
    }

    /// What stands behind the nonce, signed. As many links as fit from number `skip` on.
    pub fn sign(secret: &SecretKey, seq: u64, skip: u8, all: &[MapLink], locator: &Locator) -> Vec<u8> {
        let locator = locator.fit(MAP_LOCATOR);
        let mut room = MAP_MAX - AROUND - locator.encoded_len();
        let rest = all.get(usize::from(skip)..).unwrap_or_default();
        let mut fits = |link: &MapLink| {
            let left = room.checked_sub(10 + port_bytes(link.port).1);
            left.map(|left| room = left).is_some()
        };
        let links: Vec<&MapLink> = rest.iter().take_while(|link| fits(link)).collect();
        let mut out = Vec::with_capacity(MAP_MAX);
        out.put(secret.id().as_bytes());
        out.put_eight(seq);
        out.put_byte(skip);
        out.put_byte(u8::try_from(all.len()).unwrap_or(u8::MAX));
        out.put_byte(links.len() as u8);
        for link in links {
            out.put(link.to.as_bytes());
            out.put_port(link.port);
            out.put_byte(link.span.cost);
            out.put_byte(link.span.size);
        }
        locator.encode(&mut out);
        let sig = secret.sign(domain::MAP, &out);
        out.put(&sig);
        out
    }

    /// A MAP: what [`Self::sign`] gave, behind kind and nonce.
    pub fn body(nonce: u64, signed: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + signed.len());
        out.put_byte(MAP);
        out.put_eight(nonce);
        out.put(signed);
        out
    }
}

/// Length of a question.
pub const MAP_GET_LEN: usize = 200;
/// Longest answer: three times as long.
pub const MAP_MAX: usize = 3 * MAP_GET_LEN;
/// Of the locator as many trees as fit into this.
const MAP_LOCATOR: usize = 160;
/// Kind, nonce, key, seq, skip, total, number and signature.
const AROUND: usize = 1 + 8 + 32 + 8 + 3 + 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn links(count: u16) -> Vec<MapLink> {
        let link = |n: u16| MapLink {
            to: Sid::from_bytes([n as u8; 8]),
            port: Port(n + 1),
            span: Span { cost: 3, size: 65 },
        };
        (0..count).map(link).collect()
    }

    #[test]
    fn pages_hold_all_links_and_no_changed_byte_passes() {
        let secret = SecretKey::from_seed([3; 32]);
        let all = links(60);
        let mut told = Vec::new();
        while told.len() < all.len() {
            let signed = MapPage::sign(&secret, 9, told.len() as u8, &all, &Locator::default());
            let body = MapPage::body(7, &signed);
            assert!(body.len() <= MAP_MAX);
            let (nonce, page) = MapPage::decode(&body, None).unwrap();
            assert_eq!((nonce, page.node, page.seq, page.total), (7, secret.id(), 9, 60));
            assert!(page.links.len() >= 10);
            told.extend(page.links);
            for at in 9..body.len() {
                let mut forged = body.clone();
                forged[at] ^= 1;
                assert!(MapPage::decode(&forged, None).is_err());
            }
        }
        assert_eq!(told, all);
    }

    #[test]
    fn a_question_round_trips() {
        let question = MapGet { nonce: 5, skip: 20 };
        let mut body = Vec::new();
        question.encode(&mut body);
        assert_eq!((body.len(), MapGet::decode(&body)), (MAP_GET_LEN, Ok(question)));
        assert_eq!(super::super::tail(&body), 5u64.to_be_bytes());
        assert!(MapGet::decode(&body[..MAP_GET_LEN - 1]).is_err(), "short questions get no long answers");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(kind in 0x0cu8..0x0e, bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let body = [&[kind][..], &bytes].concat();
            let _ = (MapGet::decode(&body), MapPage::decode(&body, None));
        }
    }
}
