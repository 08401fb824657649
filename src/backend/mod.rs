//! The backends, on which ops run.

pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
pub(crate) mod tally;
