//! Resolves states that come as lines of JSON, one answer a line: for `tests/system/test_resolution.py`, which asks
//! Synapse the same. See `room::compare`.

use std::io::{BufRead, Write};

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let answer = homeserver::room::compare::resolved(&line?);
        writeln!(out, "{}", answer.unwrap_or_else(|error| format!("\"{error}\"")))?;
    }
    Ok(())
}
