//! Goal: what the fuzzer once found stays mended. Method: the corpus of `router/fuzz` goes through its targets again, without
//! a fuzzer; and each file with single bytes changed.
#[path = "../fuzz/targets.rs"]
mod targets;

use std::path::Path;

fn replay(name: &str, changes: usize, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no corpus in {}", dir.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        target(&bytes);
        for change in 0..changes.min(bytes.len()) {
            let mut changed = bytes.clone();
            let at = change * bytes.len() / changes.min(bytes.len());
            changed[at] ^= 1 << (change % 8);
            target(&changed);
            target(&bytes[..at]);
        }
    }
}

#[test]
fn frames() {
    replay("frame", 64, targets::frame);
}

#[test]
fn control_frames() {
    replay("control", 64, targets::control);
}

#[test]
fn bodies() {
    replay("body", 64, targets::body);
}

#[test]
fn sequences_of_frames_into_a_whole_router() {
    replay("sequence", 4, targets::sequence);
}
