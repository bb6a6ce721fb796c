//! A test of the code itself: cores have no clock, socket or generator of their own, and the README's map is true.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Rust files below a folder, but for those below one of the `without` folders.
fn sources(folder: &str, without: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).unwrap_or_else(|error| panic!("{}: {error}", next.display())) {
            let path = entry.unwrap().path();
            if without.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// The code of a file: without its tests at the end, and without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let before_tests = text.split("#[cfg(test)]\nmod tests").next().unwrap();
    before_tests.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn cores_have_no_clock_socket_thread_or_generator() {
    let never = [
        "std::time::Instant",
        "SystemTime",
        "tokio::",
        "std::net::Tcp",
        "std::net::Udp",
        "std::thread",
        "getrandom",
        "Mutex",
    ];
    let mut cores = sources("router/src", &["net", "testing.rs"]);
    cores.extend(sources("homeserver/src/room/core", &[]));
    for path in cores {
        let code = code(&path);
        for word in never {
            assert!(!code.contains(word), "{} is a core and uses {word}", path.display());
        }
    }
}

#[test]
fn sql_stays_in_the_store() {
    // Tests look beneath the tables on purpose.
    for path in sources("homeserver/src", &["store", "tests"]) {
        let code = code(&path);
        for word in ["SELECT ", "INSERT INTO", "DELETE FROM", "prepare_cached"] {
            assert!(
                !code.contains(word),
                "{} has SQL ({word}); it belongs into homeserver/src/store",
                path.display()
            );
        }
    }
}

/// What stands in for signatures is the simulator's: nothing that a node runs names it, and of the simulator a node's
/// program knows the `sim` subcommand alone.
#[test]
fn no_node_can_run_without_its_signatures() {
    let mut paths = sources("homeserver/src", &[]);
    paths.extend(sources("h2-overlay/src", &[]));
    paths.extend(sources("router/src/net", &[]));
    for path in paths {
        let code = code(&path);
        for word in ["with_stand_in", "StandIn", "SignatureMemory", "quick_keys", "checked: Some"] {
            assert!(!code.contains(word), "{} names {word}", path.display());
        }
        let sim = code.lines().filter(|line| line.contains("sim::"));
        assert!(
            sim.clone().all(|line| line.contains("sim::cli")),
            "{}: {:?}",
            path.display(),
            sim.collect::<Vec<_>>()
        );
    }
}

#[test]
fn the_readme_names_only_what_exists() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let quoted = readme.split('`').skip(1).step_by(2);
    let folders = ["", "router/src", "homeserver/src", "h2-overlay/src", "sim/src", "tests", "docs"];
    for name in quoted.filter(|name| name.ends_with(".rs") || name.ends_with(".md") || name.ends_with('/')) {
        if name.contains('*') || name == "target/" {
            continue;
        }
        assert!(
            folders.iter().any(|folder| root().join(folder).join(name).exists()),
            "README.md names {name}, which does not exist"
        );
    }
}

#[test]
fn every_module_says_what_it_owns() {
    for folder in ["router/src", "h2-overlay/src", "homeserver/src", "sim/src", "tests/src"] {
        for path in sources(folder, &[]) {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//!"), "{} does not begin with what it owns (//!)", path.display());
        }
    }
}
