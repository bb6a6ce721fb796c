//! Source routes: how a node knows ways to another, and which one a packet takes.
//!
//! - [`chords`]: what a hop adds to a reply that passes it.
//! - [`view`]: the graph that replies and records give, and the best, diverse paths through it.
//! - [`choose`]: the ways to one correspondent: measured, watched, and which one a packet takes.
//! - [`gauge`]: what is measured of one of them.
//! - [`feedback`]: what came by the other end's ways, told back in the sealed header.
//!
//! # What may be believed
//!
//! The lists that hops write are not sealed. Of a reply that comes back, the node knows the ports that it really took
//! (`rev`), hop by hop; only what agrees with them is used. An honest hop empties a list in which it does not stand as it
//! wrote itself, and takes away what others wrote for it or for hops before it. So whatever a liar invents stands behind
//! it: ways made from it lead through the liar, who could have dropped the packets anyway. A way is measured before it
//! carries anything, and what counts from then on is the measurement, not the announcement.
pub mod choose;
pub mod chords;
pub mod feedback;
pub mod gauge;
pub mod view;
