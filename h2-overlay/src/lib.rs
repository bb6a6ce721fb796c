//! HTTP/2 between nodes of the overlay, addressed by key.
