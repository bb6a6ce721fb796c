//! Where two devices of one person meet to hand over a log-in by a QR code: a slot each of them reads and writes in turn. What
//! is in it is sealed between them; we see that somebody meets, and drop it after a minute of silence.
//!
//! spec: <https://github.com/matrix-org/matrix-spec-proposals/pull/4108>,
//! <https://github.com/matrix-org/matrix-spec-proposals/pull/4388>

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Users, token};

/// What a slot holds.
#[derive(Clone, Debug)]
pub struct Slot {
    /// The last thing written.
    pub data: String,
    /// Changes with each write.
    pub tag: String,
    /// When it was written.
    pub changed_ms: u64,
    /// When it goes if nothing is written.
    pub expires_ms: u64,
}

/// Why a slot was not written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// None of that id, or its time is over.
    #[error("this meeting is over or never was; begin anew")]
    Gone,
    /// The other side has written meanwhile.
    #[error("the other device has written meanwhile; read first")]
    Changed,
    /// More than sealed log-in messages need.
    #[error("at most {SLOT_BYTES_MAX} bytes fit")]
    TooLarge,
}

/// All slots.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<String, Slot>>);

impl Slots {
    fn lock(&self, now_ms: u64) -> MutexGuard<'_, HashMap<String, Slot>> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| slot.expires_ms > now_ms);
        slots
    }
}

impl Users {
    /// Opens a slot with something in it; gives its id.
    pub fn open_slot(&self, data: String) -> Result<(String, Slot), SlotError> {
        let now = self.clock.now_ms();
        let slot = slot(data, now)?;
        let mut slots = self.slots.lock(now);
        if slots.len() >= SLOTS_MAX
            && let Some(oldest) =
                slots.iter().min_by_key(|(_, slot)| slot.expires_ms).map(|(id, _)| id.clone())
        {
            slots.remove(&oldest);
        }
        let id = token::random();
        slots.insert(id.clone(), slot.clone());
        Ok((id, slot))
    }

    /// What a slot holds.
    pub fn slot(&self, id: &str) -> Result<Slot, SlotError> {
        self.slots.lock(self.clock.now_ms()).get(id).cloned().ok_or(SlotError::Gone)
    }

    /// Writes a slot that still has the tag which the writer read.
    pub fn write_slot(&self, id: &str, tag: &str, data: String) -> Result<Slot, SlotError> {
        let now = self.clock.now_ms();
        let mut slots = self.slots.lock(now);
        let known = slots.get_mut(id).ok_or(SlotError::Gone)?;
        if known.tag != tag {
            return Err(SlotError::Changed);
        }
        *known = slot(data, now)?;
        Ok(known.clone())
    }

    /// Closes a slot; false if there was none.
    pub fn close_slot(&self, id: &str) -> bool {
        self.slots.lock(self.clock.now_ms()).remove(id).is_some()
    }
}

fn slot(data: String, now_ms: u64) -> Result<Slot, SlotError> {
    if data.len() > SLOT_BYTES_MAX {
        return Err(SlotError::TooLarge);
    }
    Ok(Slot { data, tag: token::random(), changed_ms: now_ms, expires_ms: now_ms + SLOT_MS })
}

/// What the proposals ask for: a minute after the last write.
const SLOT_MS: u64 = 60_000;
/// What the proposals ask for.
pub const SLOT_BYTES_MAX: usize = 4_096;
/// Slots at once: 4 MB at worst. When there are more, the one that would end first goes.
const SLOTS_MAX: usize = 1_000;
