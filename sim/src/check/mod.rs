//! What must hold. Each oracle looks at a whole world and says what is wrong with it, if anything.

pub mod convergence;
pub mod loops;
pub mod state_size;
