//! Goal: lookup in small networks. Method: nodes in memory.
