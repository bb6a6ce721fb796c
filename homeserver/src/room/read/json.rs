//! Owns how stored objects become what clients and servers get: bytes put together, nothing parsed.

use ruma::DeviceId;

use crate::{
    room::{ClientEvent, PduJson},
    store::{Nid, ReadTx, StoreError, schema::events::EventRow},
};

/// For whom an event is put together.
#[derive(Clone, Copy, Debug)]
pub struct Viewer<'a> {
    /// Number of the local user, for `unsigned.transaction_id` and `unsigned.membership`.
    pub user: Nid,
    /// Their device.
    pub device: Option<&'a DeviceId>,
    /// With `room_id` (not inside `/sync`).
    pub room_id: bool,
    /// Now, for `unsigned.age`.
    pub now_ms: u64,
}

/// The event as a client sees it.
pub fn client_event(
    tx: &ReadTx<'_>,
    event: &EventRow,
    viewer: &Viewer<'_>,
) -> Result<ClientEvent, StoreError> {
    let _ = (tx, event, viewer);
    unimplemented!()
}

/// The event as servers exchange it.
pub fn pdu(tx: &ReadTx<'_>, event: &EventRow) -> Result<PduJson, StoreError> {
    let _ = (tx, event);
    unimplemented!()
}
