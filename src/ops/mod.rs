//! The ops, each defined once: the maths, the arguments, their validation, the bytes and flops they
//! must cost.
//!
//! An op is a struct of arguments over a backend's views; `run` validates it and hands it to the
//! backend, which may take valid arguments for granted, so that every backend reports the same
//! errors. Ops never allocate, never synchronise, and write only where the arguments say: outputs
//! are the caller's, and so is the workspace, whose size `workspace_len` tells (in 8-byte words).
//!
//! # Mistakes that do not compile
//!
//! Views are borrowed as the op uses them, so this copies two samples:
//!
//! ```
//! # use bagdot::{Cpu, ops::{Interaction, Matrix, MatrixMut, Precision, interaction::{Features, Forward}}};
//! let (input, mut output) = (vec![1.0_f32; 6], vec![0.0_f32; 6]);
//! let features = Features::Joined { block: Matrix::contiguous(&input[..], 2, 3), has_dense: true };
//! let output = MatrixMut::contiguous(&mut output[..], 2, 3);
//! Forward { interaction: Interaction::Cat, dim: 3, precision: Precision::Full, features, output }.run(&Cpu::single_threaded())?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! but nothing can be read while it is written:
//!
//! ```compile_fail,E0502
//! # use bagdot::{Cpu, ops::{Interaction, Matrix, MatrixMut, Precision, interaction::{Features, Forward}}};
//! let mut buffer = vec![1.0_f32; 6];
//! let features = Features::Joined { block: Matrix::contiguous(&buffer[..], 2, 3), has_dense: true };
//! let output = MatrixMut::contiguous(&mut buffer[..], 2, 3);
//! Forward { interaction: Interaction::Cat, dim: 3, precision: Precision::Full, features, output }.run(&Cpu::single_threaded())?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! and what is written cannot be shared:
//!
//! ```compile_fail,E0308
//! # use bagdot::{Cpu, ops::MatrixMut};
//! let buffer = vec![0.0_f32; 6];
//! let output: MatrixMut<'_, Cpu, f32> = MatrixMut::contiguous(&buffer[..], 2, 3);
//! ```
//!
//! and what an op leaves for another one cannot be exchanged:
//!
//! ```compile_fail,E0616
//! # use bagdot::{Cpu, ops::{Device, index_sort::SortedIndices}};
//! let cpu = Cpu::single_threaded();
//! let mut sorted = SortedIndices::new(&cpu, 3, 3)?;
//! sorted.positions = cpu.alloc(0)?;
//! # Ok::<(), bagdot::Error>(())
//! ```
//!
//! # Views
//!
//! Buffers are seen through [`Views::Slice`] and [`Views::SliceMut`]: on the CPU these are plain
//! Rust slices.

mod backend;
mod bags;
pub mod cast;
pub mod dense_update;
pub(crate) mod device;
pub mod embedding_bag;
pub mod finite_check;
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
mod tables;
mod views;

pub use backend::Backend;
pub use bags::Bags;
pub use device::Device;
pub use interaction::{Interaction, PairOrder};
pub use linear::{Accum, Activation};
pub use loss::Loss;
pub use matrix::{Matrix, MatrixMut};
pub use optimizer::{
    Optimizer, OptimizerStateMut, Rounding, StepControl, StepValues, UpdateRule, WeightDecay,
};
pub use precision::Precision;
pub use stage::Stage;
pub(crate) use stage::StagingOnly;
pub use tables::{Feature, Pooling, Table, TableBatch};
pub use views::{Extent, Host, Views};
