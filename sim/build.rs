//! Tells the simulator which commit it is built from, so that a report can say which code ran.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=MANGROVE_COMMIT");
    let git = |arguments: &[&str]| {
        let output =
            Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    let commit = std::env::var("MANGROVE_COMMIT").ok().or_else(|| git(&["rev-parse", "--short=12", "HEAD"]));
    if let Some(commit) = commit {
        println!("cargo::rustc-env=MANGROVE_COMMIT={commit}");
    }
}
