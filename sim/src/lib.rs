//! The topology simulator: the real router under a virtual clock.
//!
//! Simulated: the time a frame takes over a link (`link.rs`), links that lose, connections that come and go, nodes that
//! start, crash and come back (`world.rs`). Real: everything else, byte for byte ([`router::Router`] as a node runs it,
//! its cryptography included). Not simulated: the time a node computes, other traffic in a host, clocks that disagree.
//!
//! The same seed and the same code give the same run, byte for byte: [`World::digest`] is a hash over every frame that
//! arrived, when and where.
//!
//! - `topology/`: who is linked to whom; `event.rs`: what goes wrong; `adversary.rs`: nodes that are not honest; `workload.rs`:
//!   who sends to whom
//! - `scenario/`: what to run, as a value or a file, and one run from cold start to report
//! - `check/`: what must hold, asked at quiet points and at every frame
//! - `report.rs`: figures, as text and JSON; `html.rs`: plots; `table.rs`: all scenarios of a folder;
//!   `shrink.rs`: a failing run made small; `cli.rs`: the `sim` subcommand

pub mod adversary;
pub mod check;
pub mod cli;
pub mod event;
pub mod html;
pub mod link;
pub mod report;
pub mod scenario;
pub mod shrink;
mod signatures;
pub mod table;
pub mod topology;
pub mod trace;
pub mod workload;
pub mod world;

pub use link::Shape;
pub use report::Report;
pub use scenario::{Scenario, Violation};
pub use topology::Topology;
pub use world::World;
