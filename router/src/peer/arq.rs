//! Owns the small repetition scheme for control frames on links that lose them.
//!
//! Each such frame has a number; the other side delivers it once, at once (control frames do not depend on their
//! order: the newest seq wins), and answers with what it has. What is not confirmed goes again.
use crate::time::{Duration, Instant};
use std::collections::{BTreeMap, VecDeque};

/// Both directions of one link.
#[derive(Debug, Default)]
pub struct Arq {
    next: u32,
    waiting: VecDeque<Vec<u8>>,
    flying: BTreeMap<u32, Flying>,
    /// Everything before it has come.
    received: u32,
    /// Bit `i`: `received + 1 + i` has come.
    received_more: u32,
}

#[derive(Debug)]
struct Flying {
    frame: Vec<u8>,
    sent: Instant,
    tries: u32,
}

impl Arq {
    /// A frame that must arrive. Those that [`Self::poll`] gives are to be sent.
    pub fn push(&mut self, frame: Vec<u8>) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(frame);
        }
    }

    /// Can more be taken without loss?
    pub fn has_room(&self) -> bool {
        self.waiting.len() < WAITING_MAX / 2
    }

    /// The next frame to send, for the first time or again.
    pub fn poll(&mut self, rtt: Duration, now: Instant) -> Option<(u32, Vec<u8>)> {
        let first = self.flying.keys().next().copied();
        if first.is_none_or(|first| self.next - first < WINDOW)
            && let Some(frame) = self.waiting.pop_front()
        {
            let seq = self.next;
            self.next += 1;
            self.flying.insert(seq, Flying { frame: frame.clone(), sent: now, tries: 1 });
            return Some((seq, frame));
        }
        let due = |flying: &Flying| now >= flying.sent + timeout(rtt, flying.tries);
        let (&seq, flying) = self.flying.iter_mut().find(|(_, flying)| due(flying))?;
        flying.sent = now;
        flying.tries += 1;
        Some((seq, flying.frame.clone()))
    }

    /// When [`Self::poll`] has something again.
    pub fn deadline(&self, rtt: Duration) -> Option<Instant> {
        self.flying.values().map(|flying| flying.sent + timeout(rtt, flying.tries)).min()
    }

    /// Their numbered frame has come: is it the first time? Either way [`Self::ack`] is to be sent.
    pub fn on_frame(&mut self, seq: u32) -> bool {
        let Some(ahead) = seq.checked_sub(self.received) else { return false };
        if ahead == 0 {
            self.received += 1;
            while self.received_more & 1 != 0 {
                self.received += 1;
                self.received_more >>= 1;
            }
            self.received_more >>= 1;
            return true;
        }
        // A sender keeps within the window; beyond it we could not remember.
        let Some(bit) = 1u32.checked_shl(ahead - 1) else { return false };
        let first = self.received_more & bit == 0;
        self.received_more |= bit;
        first
    }

    /// What has come so far.
    pub const fn ack(&self) -> (u32, u32) {
        (self.received, self.received_more)
    }

    /// What they have.
    pub fn on_ack(&mut self, next: u32, more: u32) {
        self.flying.retain(|&seq, _| match seq.checked_sub(next) {
            None => false,
            Some(0) => true,
            Some(ahead) => 1u32.checked_shl(ahead - 1).is_none_or(|bit| more & bit == 0),
        });
    }
}

fn timeout(rtt: Duration, tries: u32) -> Duration {
    (2 * rtt).max(TIMEOUT_MIN) * (1 << tries.min(4).saturating_sub(1))
}

/// Frames on their way; the receiver remembers 32 beyond the first that is missing.
const WINDOW: u32 = 32;
/// Frames that wait for the window: beyond it RESYNC has to mend what is lost.
const WAITING_MAX: usize = 256;
/// Below it repetitions would mostly meet answers that are merely late.
const TIMEOUT_MIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RTT: Duration = Duration::from_millis(10);

    proptest! {
        #[test]
        fn every_frame_arrives_once(losses in proptest::collection::vec(any::<u8>(), 4000), count in 1u32..200) {
            let (mut a, mut b, mut now) = (Arq::default(), Arq::default(), Instant::ZERO);
            for n in 0..count {
                a.push(n.to_be_bytes().to_vec());
            }
            let mut got = Vec::new();
            let mut losses = losses.into_iter().cycle();
            for _ in 0..20_000 {
                while let Some((seq, frame)) = a.poll(RTT, now) {
                    if losses.next().unwrap() < 100 { continue; }
                    if b.on_frame(seq) { got.push(frame); }
                    let (next, more) = b.ack();
                    if losses.next().unwrap() >= 100 { a.on_ack(next, more); }
                }
                match a.deadline(RTT) {
                    Some(deadline) => now = now.max(deadline),
                    None => break,
                }
            }
            got.sort();
            prop_assert_eq!(got, (0..count).map(|n| n.to_be_bytes().to_vec()).collect::<Vec<_>>());
        }

        #[test]
        fn nonsense_is_harmless(frames in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..50)) {
            let mut arq = Arq::default();
            arq.push(vec![1]);
            arq.poll(RTT, Instant::ZERO);
            for (a, b) in frames {
                arq.on_frame(a % 70);
                arq.on_frame(a);
                arq.on_ack(a, b);
            }
        }
    }
}
