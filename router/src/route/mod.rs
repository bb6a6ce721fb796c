//! Source routes: record.rs (RECORD and PATH_REPLY), view.rs (the paths known to a destination, Dijkstra), choose.rs
//! (which of them a packet takes), feedback.rs (what the other end says of them). Not built yet; what they need on the
//! wire is laid out: DATA_S and `rev`, the flags of DATA_T in [`crate::wire::data`], the route fields of the sealed
//! header in [`crate::wire::body`].
