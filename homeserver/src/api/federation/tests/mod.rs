//! Several whole servers in one process, joined by a network in memory: what one says, the other takes or refuses.

mod asked;
mod auth;
mod edus;
mod harness;
mod hostile;
mod moderation;
mod nonsense;
mod overlay;
mod partial;
mod patience;
mod policy;
mod rooms;
