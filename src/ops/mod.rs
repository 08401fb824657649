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
//! Buffers are seen through [`Device::Slice`] and [`Device::SliceMut`]: on the CPU these are plain
//! Rust slices.

pub mod cast;
pub mod dense_update;
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
pub mod sparse_update;
mod stage;
mod tables;

pub use interaction::{Interaction, PairOrder};
pub use linear::Activation;
pub use loss::Loss;
pub use matrix::{Matrix, MatrixMut};
pub use optimizer::{
    Optimizer, OptimizerStateMut, Rounding, StepControl, StepValues, UpdateRule, WeightDecay,
};
pub use stage::Stage;
pub(crate) use stage::StagingOnly;
pub use tables::{Bags, Feature, Pooling, Table, TableBatch};

use crate::dtype::Scalar;
use crate::error::{Error, Result};
use crate::size::filled;

/// The number of elements that a view or buffer holds.
pub trait Extent {
    /// The number of elements.
    fn extent(&self) -> usize;
}

impl<T> Extent for [T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for &[T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for &mut [T] {
    fn extent(&self) -> usize {
        self.len()
    }
}
impl<T> Extent for Vec<T> {
    fn extent(&self) -> usize {
        self.len()
    }
}

/// Memory of a device, and the views through which ops see it.
///
/// A buffer is used with the device that allocated it, or with a clone of that device. Other
/// devices may refuse it ([`Error::OtherBackend`]), as CUDA backends do.
pub trait Device: Clone + Send + Sync {
    /// Owned memory.
    type Buffer<T: Scalar>: Extent + Send + Sync;
    /// A shared view.
    type Slice<'a, T: Scalar>: Extent + Copy + Send + Sync;
    /// An exclusive view.
    type SliceMut<'a, T: Scalar>: Extent + Send;
    /// A [`TableBatch`] where the device can read it.
    type Tables: AsRef<TableBatch> + Send + Sync;

    /// Memory for `len` elements, all bits zero.
    fn alloc<T: Scalar>(&self, len: usize) -> Result<Self::Buffer<T>>;
    /// Copies `source` into `target`, which is as long.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn upload<T: Scalar>(&self, source: &[T], target: Self::SliceMut<'_, T>) -> Result<()>;
    /// Copies `source` into `target`, which is as long; waits until the values are there.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn download<T: Scalar>(&self, source: Self::Slice<'_, T>, target: &mut [T]) -> Result<()>;
    /// Copies `source` into `target`, which is as long, behind the ops that were called before.
    ///
    /// # Errors
    /// Lengths that differ; what the backend reports.
    fn copy<T: Scalar>(
        &self,
        source: Self::Slice<'_, T>,
        target: Self::SliceMut<'_, T>,
    ) -> Result<()>;
    /// The bytes that the device can still give, as far as it can tell. Models that need more are
    /// refused before anything is asked for.
    fn free_memory(&self) -> Option<usize> {
        None
    }
    /// Waits for all ops and reports what they found, such as an [`Error::IndexOutOfRange`].
    fn synchronize(&self) -> Result<()>;
    /// Puts the description of a batch of tables where ops can read it.
    fn tables(&self, tables: TableBatch) -> Result<Self::Tables>;
    /// Views a range of a buffer.
    ///
    /// # Panics
    /// If the range is not within the buffer, as indexing a slice does.
    fn slice<T: Scalar>(
        buffer: &Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> Self::Slice<'_, T>;
    /// Views a range of a buffer, for writing.
    ///
    /// # Panics
    /// If the range is not within the buffer, as indexing a slice does.
    fn slice_mut<T: Scalar>(
        buffer: &mut Self::Buffer<T>,
        range: std::ops::Range<usize>,
    ) -> Self::SliceMut<'_, T>;
    /// Views two ranges of a buffer, the first before the second, for writing.
    ///
    /// # Panics
    /// If the ranges are not within the buffer, or the first is not before the second.
    fn split_mut<T: Scalar>(
        buffer: &mut Self::Buffer<T>,
        first: std::ops::Range<usize>,
        second: std::ops::Range<usize>,
    ) -> (Self::SliceMut<'_, T>, Self::SliceMut<'_, T>);
    /// The same view, borrowed for a shorter time. Structs over views are invariant in their
    /// lifetime; this gets around it.
    fn reborrow<'a, T: Scalar>(slice: &'a Self::Slice<'_, T>) -> Self::Slice<'a, T>;
    /// As [`Self::reborrow`], for writing.
    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut Self::SliceMut<'_, T>) -> Self::SliceMut<'a, T>;
    /// What is being written, for reading.
    fn as_slice<'a, T: Scalar>(slice: &'a Self::SliceMut<'_, T>) -> Self::Slice<'a, T>;
    /// Views a whole buffer.
    fn view<T: Scalar>(buffer: &Self::Buffer<T>) -> Self::Slice<'_, T> {
        Self::slice(buffer, 0..buffer.extent())
    }
    /// Views a whole buffer, for writing.
    fn view_mut<T: Scalar>(buffer: &mut Self::Buffer<T>) -> Self::SliceMut<'_, T> {
        let all = 0..buffer.extent();
        Self::slice_mut(buffer, all)
    }
    /// A whole buffer, on the host.
    fn to_vec<T: Scalar>(&self, buffer: &Self::Buffer<T>) -> Result<Vec<T>> {
        let mut values = filled(buffer.extent(), T::default())?;
        self.download(Self::view(buffer), &mut values)?;
        Ok(values)
    }
    /// Checks that the device can still give so many bytes, if it can tell.
    ///
    /// # Errors
    /// [`Error::NotEnoughMemory`].
    fn expect_free_memory(&self, needed: usize) -> Result<()> {
        match self.free_memory() {
            Some(free) if free < needed => Err(Error::NotEnoughMemory { needed, free }),
            _ => Ok(()),
        }
    }
}

/// Everything that the engine needs: one trait per op family.
pub trait Backend:
    Device
    + embedding_bag::EmbeddingBagOps
    + index_sort::IndexSortOps
    + sparse_update::SparseUpdateOps
    + interaction::InteractionOps
    + pooled_interaction::PooledInteractionOps
    + linear::LinearOps
    + loss::LossOps
    + dense_update::DenseUpdateOps
    + cast::CastOps
    + moving_average::MovingAverageOps
    + finite_check::FiniteCheckOps
    + Stage
{
}

impl<D> Backend for D where
    D: Device
        + embedding_bag::EmbeddingBagOps
        + index_sort::IndexSortOps
        + sparse_update::SparseUpdateOps
        + interaction::InteractionOps
        + pooled_interaction::PooledInteractionOps
        + linear::LinearOps
        + loss::LossOps
        + dense_update::DenseUpdateOps
        + cast::CastOps
        + moving_average::MovingAverageOps
        + finite_check::FiniteCheckOps
        + Stage
{
}

/// What happens to the values that an output holds before the op.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Accum {
    /// They are overwritten, even if they are not numbers.
    #[default]
    Replace,
    /// The result is added to them.
    Add,
}

/// How products of `f32` factors may be computed. Factors of 16 bits are always taken as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// Exact products, of all 24 bits of each factor.
    #[default]
    Full,
    /// Factors may first be rounded to the 11 bits of tf32 where that is faster, as it is on the
    /// tensor cores of a GPU; sums are of `f32` all the same.
    Tf32,
}

#[cfg(feature = "cuda")]
impl Precision {
    /// Whether products of elements of `E` are to be computed as exact ones of `f32`, and not on
    /// tensor cores.
    pub(crate) fn is_exact<E: crate::Element>(self) -> bool {
        E::DTYPE == crate::DType::F32 && self == Self::Full
    }
}
