//! Owns the bytes of frames: total, any input is a frame or a [`FrameError`], never a panic.

/// Why bytes are not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It ends too early.
    #[error("it ends too early")]
    Short,
    /// A field has a value it must not have.
    #[error("a field has a value that it must not have")]
    Value,
    /// More bytes than its kind may have.
    #[error("it is longer than its kind may be")]
    Long,
    /// A frame that this side may not get in the link's present state.
    #[error("it comes at the wrong time")]
    State,
    /// The seal does not hold.
    #[error("its seal does not hold")]
    Seal,
}
