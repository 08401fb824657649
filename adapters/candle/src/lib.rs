#![doc = include_str!("../../../docs/candle.md")]

mod collection;
#[cfg(feature = "cuda")]
mod cuda;
mod device;
mod error;
mod ops;

/// The crate whose ops these are, for its types of tables, optimizers and interactions.
pub use bagdot;
pub use collection::{EmbeddingBagCollection, State};
pub use error::{Error, Result};
pub use ops::Ops;
