//! bagdot's tables and interaction as ops of [burn], on its CPU backend flex.
//!
//! An [`EmbeddingBagCollection`] looks up bags of ids. In the backward pass it updates the rows
//! that were looked up, with an optimizer of its own, and no gradient of a table is ever made.
//! [`interaction()`] is the dot interaction of a DLRM;
//! [`pooled_interaction`](EmbeddingBagCollection::pooled_interaction) is both in one op.
//!
//! ```
//! use bagdot_burn::EmbeddingBagCollection;
//! use bagdot_burn::bagdot::ops::{Optimizer, Pooling, Table, TableBatch, UpdateRule};
//! use burn::tensor::{Device, Int, Tensor};
//!
//! let device = Device::flex().autodiff();
//! let table = Table { num_embeddings: 10, embedding_dim: 4 };
//! let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
//! let embeddings =
//!     EmbeddingBagCollection::new(tables, UpdateRule::new(Optimizer::Sgd, 0.1), 42)?;
//!
//! // Two samples, key-major: the bags [7, 9] and [] of the first table, [7] and [3] of the second.
//! let ids = Tensor::<1, Int>::from_data([7, 9, 7, 3], &device);
//! let offsets = Tensor::<1, Int>::from_data([0, 2, 2, 3, 4], &device);
//! let before = embeddings.table(1)?;
//! let pooled = embeddings.forward(ids, offsets)?;
//! assert_eq!(pooled.dims(), [2, 8]);
//!
//! // The gradient of every pooled element is 1, and row 3 of the second table moves by -0.1.
//! pooled.sum().backward();
//! let moved = (embeddings.table(1)? - before).slice(3..4);
//! let moved = moved.into_data().try_to_vec::<f32>().expect("a tensor of f32");
//! assert!(moved.iter().all(|step| (step + 0.1).abs() < 1e-6));
//! # Ok::<(), bagdot_burn::bagdot::Error>(())
//! ```
//!
//! `docs/burn.md` compares the calls with those of burn, and says what holds.

#![forbid(unsafe_code)]

mod collection;
mod interaction;
mod tensors;

pub use bagdot;
pub use collection::EmbeddingBagCollection;
pub use interaction::interaction;

/// The page, whose code runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/burn.md")]
struct Page;
