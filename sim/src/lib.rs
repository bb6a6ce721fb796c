//! The topology simulator: the real router under a virtual clock.
