//! What was sent arrives.

use crate::workload::Outcome;

/// Who was not heard, although a way was there all the time.
pub fn missing(outcome: &Outcome) -> Option<String> {
    let (from, to) = outcome.missing.first()?;
    Some(format!(
        "{} of {} probes never arrived, the first from node {from} to node {to}",
        outcome.missing.len(),
        outcome.sent
    ))
}
