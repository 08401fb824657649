//! The CPU backend.
//!
//! Results are the same bits for any number of threads: work is split by rows, bags or table rows,
//! never inside a sum.

mod cast;
mod compute;
mod dense_update;
mod embedding_bag;
mod finite_check;
mod index_sort;
mod interaction;
mod linear;
mod loss;
mod moving_average;
mod pooled_interaction;
mod runtime;
mod sparse_update;

use std::ops::Range;
use std::sync::Arc;

use crate::dtype::{Index, Scalar};
use crate::error::{Error, Result, expect_size, invalid};
use crate::ops::{Bags, Device, Matrix, StepControl, TableBatch, UpdateRule, Views};
use crate::simd::Dispatch;
pub use crate::simd::Simd;
use crate::size::product;
pub use runtime::Buffer;
use runtime::free_memory;
use runtime::threads::Pool;

/// The bytes of a buffer that are worth asking the system first: it promises more than it has, and
/// ends a process that takes it at its word.
const MUCH: usize = 64 << 20;

/// The CPU, with the threads that it may use.
///
/// ```
/// let cpu = bagdot::Cpu::with_threads(2)?;
/// assert_eq!(cpu.num_threads(), 2);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// None: everything runs on the calling thread.
    pool: Option<Pool>,
    dispatch: Dispatch,
}

impl Cpu {
    /// The most threads that a pool may have, unless the machine runs more at once: thousands take
    /// seconds to start, and then wait for each other.
    pub const MAX_THREADS: usize = 1024;

    /// As many threads as the system says that this process can use.
    ///
    /// # Errors
    /// As [`Self::with_threads`].
    pub fn new() -> Result<Self> {
        Self::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Only the thread that calls an op. Nothing is started.
    pub fn single_threaded() -> Self {
        Self::default()
    }

    /// A pool of its own, of `threads` threads; 1 is [`Self::single_threaded`].
    ///
    /// # Errors
    /// [`Error::ThreadPool`] if the system does not start them, for 0 threads, or for more than
    /// [`Self::MAX_THREADS`] unless the machine has as many.
    pub fn with_threads(threads: usize) -> Result<Self> {
        let failed = |reason: String| Error::ThreadPool { threads, reason };
        let most =
            std::thread::available_parallelism().map_or(1, usize::from).max(Self::MAX_THREADS);
        match threads {
            0 => Err(failed("at least one thread is needed".into())),
            1 => Ok(Self::single_threaded()),
            _ if threads > most => {
                Err(failed(format!("at most {most} are possible on this machine")))
            }
            _ => {
                let name = |k| format!("bagdot-{k}");
                let pool =
                    rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
                Ok(Self::with_pool(Arc::new(pool.map_err(|error| failed(error.to_string()))?)))
            }
        }
    }

    /// The caller's pool. For some 200 microseconds after an op, its threads look for work, of
    /// whatever kind, before they fall asleep.
    pub fn with_pool(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { pool: Some(Pool::new(pool)), ..Self::default() }
    }

    /// The same threads with another instruction set than the best one of this machine. Results
    /// stay the same bits, unless [`Simd`] says otherwise.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the machine does not have it.
    pub fn with_simd(self, simd: Simd) -> Result<Self> {
        let missing = || invalid("Cpu", "simd", format!("this machine does not have {simd:?}"));
        Ok(Self { dispatch: Dispatch::new(simd).ok_or_else(missing)?, ..self })
    }

    /// The instruction set that the loops use.
    pub fn simd(&self) -> Simd {
        self.dispatch.simd()
    }

    /// The number of threads that ops may use.
    pub fn num_threads(&self) -> usize {
        self.pool.as_ref().map_or(1, Pool::num_threads)
    }

    /// Runs `work` on a thread of the pool, if there is one. Ops that are called there need not
    /// wake that thread and wait for it, each anew, which takes longer than many an op of a small
    /// model.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Views for Cpu {
    type Slice<'a, T: Scalar> = &'a [T];
    type SliceMut<'a, T: Scalar> = &'a mut [T];

    fn reborrow<'a, T: Scalar>(slice: &'a &[T]) -> &'a [T] {
        slice
    }

    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut &mut [T]) -> &'a mut [T] {
        slice
    }

    fn as_slice<'a, T: Scalar>(slice: &'a &mut [T]) -> &'a [T] {
        slice
    }
}

impl Device for Cpu {
    type Buffer<T: Scalar> = Buffer<T>;
    type Tables = TableBatch;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = product([len, size_of::<T>()]);
        if bytes >= MUCH {
            self.expect_free_memory(bytes)?;
        }
        Buffer::zeroed(len)
    }

    fn free_memory(&self) -> Option<usize> {
        free_memory::free_memory()
    }

    fn upload<T: Scalar>(&self, source: &[T], target: &mut [T]) -> Result<()> {
        expect_size("upload", "target", target.len(), source.len())?;
        target.copy_from_slice(source);
        Ok(())
    }

    fn download<T: Scalar>(&self, source: &[T], target: &mut [T]) -> Result<()> {
        expect_size("download", "target", target.len(), source.len())?;
        target.copy_from_slice(source);
        Ok(())
    }

    fn copy<T: Scalar>(&self, source: &[T], target: &mut [T]) -> Result<()> {
        expect_size("copy", "target", target.len(), source.len())?;
        target.copy_from_slice(source);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn tables(&self, tables: TableBatch) -> Result<TableBatch> {
        Ok(tables)
    }

    fn slice<T: Scalar>(buffer: &Buffer<T>, range: Range<usize>) -> &[T] {
        &buffer[range]
    }

    fn slice_mut<T: Scalar>(buffer: &mut Buffer<T>, range: Range<usize>) -> &mut [T] {
        &mut buffer[range]
    }

    fn split_mut<T: Scalar>(
        buffer: &mut Buffer<T>,
        first: Range<usize>,
        second: Range<usize>,
    ) -> (&mut [T], &mut [T]) {
        let (left, right) = buffer.split_at_mut(second.start);
        (&mut left[first], &mut right[..second.end - second.start])
    }
}

impl<I: Index> Bags<'_, Cpu, I> {
    /// The same bags without slack. Where the last offset names no place, nothing is cut off,
    /// so that whoever checks it can say so.
    fn without_slack(self) -> Self {
        let end = self.offsets.last().and_then(|end| end.to_row()).unwrap_or(usize::MAX);
        if !self.has_slack || end > self.indices.len() {
            return self;
        }
        let per_sample_weights = self.per_sample_weights.map(|weights| &weights[..end]);
        Self { indices: &self.indices[..end], per_sample_weights, ..self }
    }
}

impl StepControl<'_, Cpu> {
    fn is_shut(&self) -> bool {
        self.gate.is_some_and(|gate| gate[0] != 0)
    }

    /// The rule of this step.
    fn rule(&self, rule: UpdateRule) -> UpdateRule {
        match self.values {
            Some(values) => {
                UpdateRule { step: values[0].step, learning_rate: values[0].learning_rate, ..rule }
            }
            None => rule,
        }
    }
}

impl<'a, T: Scalar> Matrix<'a, Cpu, T> {
    /// Row `r`. A matrix without columns may have no data at all.
    fn row(&self, r: usize) -> &'a [T] {
        if self.cols == 0 { &[] } else { &self.data[r * self.ld..][..self.cols] }
    }
}
