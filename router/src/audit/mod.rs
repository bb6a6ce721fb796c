//! Droppers: probe.rs (the neighbour audit), suspect.rs (who is passed over), locate.rs (the sender's search), map.rs
//! (the verified map). Not built yet; the kinds PEERS, MAP_GET and MAP are kept for them.
