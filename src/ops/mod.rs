//! The ops, each defined once: the maths, the arguments, and their validation.
//!
//! An op is a struct of arguments, which are views of a device's memory. Its `new` takes the
//! arguments that have no default; a setter with the name of the field takes each of the others.
//! Its method `run` validates the arguments and passes them to the backend, so that every backend
//! reports the same errors. Ops never allocate and never synchronise. The caller owns outputs and
//! workspace; `workspace_len` returns the size of the latter in words of 8 bytes.
//!
//! Each op has a module with its arguments and a trait for backends, such as [`linear::LinearOps`].
//! [`Backend`] is the sum of these traits and [`Device`].
//!
//! # Mistakes that do not compile
//!
//! The types of arguments borrow as the op accesses memory. This copies two samples:
//!
//! ```
//! # use bagdot::Cpu;
//! # use bagdot::ops::interaction::{Features, Forward};
//! # use bagdot::ops::{Interaction, Matrix, MatrixMut};
//! let (input, mut copied) = (vec![1.0_f32; 6], vec![0.0_f32; 6]);
//! let block = Matrix::contiguous(&input, 2, 3);
//! let features = Features::Joined { block, has_dense: true };
//! let output = MatrixMut::contiguous(&mut copied, 2, 3);
//! Forward::new(Interaction::Cat, 3, features, output).run(&Cpu::on_current_thread())?;
//! assert_eq!(copied, input);
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! An input must not overlap an output:
//!
//! ```compile_fail,E0502
//! # use bagdot::Cpu;
//! # use bagdot::ops::interaction::{Features, Forward};
//! # use bagdot::ops::{Interaction, Matrix, MatrixMut};
//! let mut buffer = vec![1.0_f32; 6];
//! let block = Matrix::contiguous(&buffer, 2, 3);
//! let features = Features::Joined { block, has_dense: true };
//! let output = MatrixMut::contiguous(&mut buffer, 2, 3);
//! Forward::new(Interaction::Cat, 3, features, output).run(&Cpu::on_current_thread())?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! An output must not be shared: nothing makes a [`ViewMut`] of a shared reference.
//!
//! ```compile_fail,E0277
//! # use bagdot::{Cpu, ops::MatrixMut};
//! let buffer = vec![0.0_f32; 6];
//! let output: MatrixMut<'_, Cpu, f32> = MatrixMut::contiguous(&buffer, 2, 3);
//! ```
//!
//! Buffers that one op writes and another relies on cannot be exchanged in between:
//!
//! ```compile_fail,E0616
//! # use bagdot::{Cpu, ops::{Device, index_sort::SortedIndices}};
//! let cpu = Cpu::on_current_thread();
//! let mut sorted = SortedIndices::new(&cpu, 3, 3)?;
//! sorted.positions = cpu.alloc(0)?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! Memory must outlive its views:
//!
//! ```compile_fail,E0505
//! # use bagdot::{Cpu, ops::{Bags, MatrixMut, Pooling, Table, TableBatch, embedding_bag}};
//! # let table = Table { num_embeddings: 3, embedding_dim: 1 };
//! # let tables = TableBatch::one_feature_each(vec![table], Pooling::Sum)?;
//! # let (weights, mut output) = ([1.0_f32, 2.0, 3.0], [0.0_f32; 2]);
//! let ids = vec![0_i64, 2];
//! let bags = Bags::of_length(2, &ids, 1);
//! drop(ids);
//! let output = MatrixMut::contiguous(&mut output, 2, 1);
//! embedding_bag::Forward::new(&tables, &weights, bags, output).run(&Cpu::on_current_thread())?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! Types that no op takes are refused:
//!
//! ```compile_fail,E0277
//! # use bagdot::ops::Bags;
//! let bags: Bags<'_, bagdot::Cpu, _> = Bags::of_length(2, &[0.0_f32, 2.0], 1);
//! ```
//!
//! Two outputs cannot be one table, as where each has memory of its own:
//!
//! ```compile_fail,E0499
//! # use bagdot::{Cpu, ops::{MatrixMut, Pooling, SeparateTablesMut, Table, TableBatch}};
//! # let table = Table { num_embeddings: 3, embedding_dim: 1 };
//! # let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
//! let mut users = vec![0.0_f32; 3];
//! let both =
//!     vec![MatrixMut::contiguous(&mut users, 3, 1), MatrixMut::contiguous(&mut users, 3, 1)];
//! SeparateTablesMut::new(&Cpu::on_current_thread(), &tables, both)?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! # Views
//!
//! Ops take views of memory, [`View`] and [`ViewMut`], or views with a shape, [`Matrix`] and
//! [`MatrixMut`]. Constructors and setters make them of references. On the CPU, `&values` is enough
//! for a `Vec`, an array or a buffer to be read, `&mut values` for one to be written, and a slice
//! is taken as it is: `&values[..n]`. On CUDA, the same holds for buffers of the device;
//! [`Device::slice`] views a part of one. [`Host`] is the marker for memory of the host that
//! belongs to no device, such as a batch to be sent to one.

mod backend;
pub(crate) mod bags;
pub mod cast;
pub mod dense_update;
pub(crate) mod device;
pub mod embedding_bag;
pub mod finite_check;
pub mod guide;
pub mod head;
pub mod index_sort;
pub mod interaction;
pub mod linear;
pub mod loss;
pub(crate) mod matrix;
pub mod moving_average;
pub(crate) mod optimizer;
pub mod pooled_interaction;
mod precision;
pub mod sparse_update;
mod stage;
pub(crate) mod table_values;
mod tables;
mod views;

pub use backend::Backend;
pub use bags::{Bags, Offsets, OwnedBags};
pub use device::Device;
pub use interaction::{Interaction, PairOrder};
pub use linear::{Accum, Activation};
pub use loss::Loss;
pub use matrix::{Matrix, MatrixMut};
pub use optimizer::{
    Optimizer, OptimizerState, OptimizerStateMut, Rounding, StateOf, StepControl, StepValues,
    TableStateMut, UpdateRule, WeightDecay,
};
pub use precision::Precision;
pub use stage::Stage;
pub(crate) use stage::StagingOnly;
pub use table_values::{SeparateTables, SeparateTablesMut, TableValues, TableValuesMut};
pub use tables::{Feature, Pooling, Table, TableBatch};
pub use views::{Extent, Host, Memory, View, ViewMut};
