//! The CPU backend.
//!
//! Each op has a file of its own. `runtime` holds memory, threads and the reports of bad input,
//! `compute` the loops that several ops share; `floor` is no op, but the loop that benchmarks
//! compare lookups with. Loops are compiled once, in this library, for each type of elements and of
//! indices: see `runtime/erased.rs`.
//!
//! Results are the same bits for any number of threads: threads share rows, bags or table rows, and
//! never a sum.

mod cast;
mod compute;
mod dense_update;
mod embedding_bag;
mod finite_check;
#[doc(hidden)]
pub mod floor;
mod head;
mod index_sort;
mod interaction;
mod linear;
mod loss;
mod moving_average;
mod pooled_interaction;
mod runtime;
mod sparse_update;

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::dtype::{Index, Scalar};
use crate::error::{Error, Result, expect_size, invalid};
use crate::ops::{
    Bags, Device, Matrix, Memory, StepControl, TableBatch, UpdateRule, View, ViewMut,
};
use crate::simd::Dispatch;
pub use crate::simd::Simd;
use crate::size::product;
pub use runtime::Buffer;
use runtime::free_memory;
use runtime::threads::Threads;

/// The bytes of a buffer from which on an allocation first checks the free memory. The system
/// promises more memory than it has, and ends a process that uses what was promised.
const MIN_CHECKED_BYTES: usize = 64 << 20;

/// The CPU, with the threads that it may use.
///
/// ```
/// let cpu = bagdot::Cpu::with_threads(2)?;
/// assert_eq!(cpu.num_threads(), 2);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// The threads, or `None` if everything runs on the calling thread.
    threads: Option<Threads>,
    /// The instruction set of the loops.
    dispatch: Dispatch,
}

impl Cpu {
    /// The most threads that a pool may have, unless the machine runs more at once. Thousands of
    /// threads take seconds to start, and then wait for each other.
    pub const MAX_THREADS: usize = 1024;

    /// Makes a CPU with as many threads as the system says that this process can use.
    ///
    /// # Errors
    /// Propagates errors of [`Self::with_threads`].
    pub fn new() -> Result<Self> {
        Self::with_threads(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// Makes a CPU that uses only the thread that calls an op. It starts no thread.
    pub fn on_current_thread() -> Self {
        Self::default()
    }

    /// Makes a CPU with its own pool of `threads` threads; 1 means [`Self::on_current_thread`].
    ///
    /// # Errors
    /// Returns [`Error::ThreadPool`] if the system does not start the threads, for 0 threads, and
    /// for more than [`Self::MAX_THREADS`] unless the machine has as many.
    pub fn with_threads(threads: usize) -> Result<Self> {
        let failed = |reason: String| Error::ThreadPool { threads, reason };
        let most =
            std::thread::available_parallelism().map_or(1, usize::from).max(Self::MAX_THREADS);
        match threads {
            0 => Err(failed("at least one thread is needed".into())),
            1 => Ok(Self::on_current_thread()),
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

    /// Makes a CPU with rayon's global pool, which this starts unless it runs: that of candle,
    /// burn, polars and most other crates. Two pools side by side have more busy threads than the
    /// machine has cores, and take time from each other; with one pool, a thread that waits for a
    /// part of an op does other work of the pool. If the calling thread belongs to another pool of
    /// rayon, ops run in that one.
    ///
    /// ```
    /// let cpu = bagdot::Cpu::on_global_pool()?;
    /// assert_eq!(cpu.num_threads(), rayon::current_num_threads());
    /// # Ok::<(), bagdot::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns [`Error::ThreadPool`] if the system does not start the threads.
    pub fn on_global_pool() -> Result<Self> {
        // rayon tries once. An error without a source says that the pool has been started before.
        static FAILURE: LazyLock<Option<String>> = LazyLock::new(|| {
            let error = rayon::ThreadPoolBuilder::new().build_global().err()?;
            std::error::Error::source(&error).map(ToString::to_string)
        });
        if let Some(reason) = &*FAILURE {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            return Err(Error::ThreadPool { threads, reason: reason.clone() });
        }
        Ok(Self { threads: Some(Threads::global()), ..Self::default() })
    }

    /// Makes a CPU with the caller's pool. For at most 200 microseconds after an op, its threads
    /// look for work of any kind before they fall asleep; the time is shorter if none came lately.
    pub fn with_pool(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { threads: Some(Threads::new(pool)), ..Self::default() }
    }

    /// Selects another instruction set than the best one of this machine. Results stay the same
    /// bits, unless [`Simd`] says otherwise.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`] if the machine does not have the instruction set.
    pub fn with_simd(self, simd: Simd) -> Result<Self> {
        let missing = || invalid("Cpu", "simd", format!("this machine does not have {simd:?}"));
        Ok(Self { dispatch: Dispatch::new(simd).ok_or_else(missing)?, ..self })
    }

    /// Returns the instruction set that the loops use.
    pub fn simd(&self) -> Simd {
        self.dispatch.simd()
    }

    /// Returns the number of threads that ops may use.
    pub fn num_threads(&self) -> usize {
        self.threads.as_ref().map_or(1, Threads::len)
    }

    /// Runs `work` on a thread of the pool, if there is one. Ops that `work` calls run on that
    /// thread at once. An op that is called from outside first wakes a thread and waits for it,
    /// which takes longer than many an op of a small model.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) => threads.install(work),
            None => work(),
        }
    }
}

impl Memory for Cpu {
    type Address = ();
}

impl Device for Cpu {
    type Buffer<T: Scalar> = Buffer<T>;
    type Tables = TableBatch;
    type TablePlaces = ();

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Buffer<T>> {
        let bytes = product([len, size_of::<T>()]);
        if bytes >= MIN_CHECKED_BYTES {
            self.expect_free_memory(bytes)?;
        }
        Buffer::zeroed(len)
    }

    fn free_memory(&self) -> Option<usize> {
        free_memory::free_memory()
    }

    fn upload<T: Scalar>(&self, source: &[T], mut target: ViewMut<'_, Self, T>) -> Result<()> {
        expect_size("upload", "target", target.len(), source.len())?;
        target.copy_from_slice(source);
        Ok(())
    }

    fn download<T: Scalar>(&self, source: View<'_, Self, T>, target: &mut [T]) -> Result<()> {
        expect_size("download", "target", target.len(), source.len())?;
        target.copy_from_slice(&source);
        Ok(())
    }

    fn copy<T: Scalar>(
        &self,
        source: View<'_, Self, T>,
        mut target: ViewMut<'_, Self, T>,
    ) -> Result<()> {
        expect_size("copy", "target", target.len(), source.len())?;
        target.copy_from_slice(&source);
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn tables(&self, tables: TableBatch) -> Result<TableBatch> {
        Ok(tables)
    }

    fn place_tables<T: Scalar>(&self, _: &TableBatch, _: &[Matrix<'_, Self, T>]) -> Result<()> {
        Ok(())
    }

    fn slice<T: Scalar>(buffer: &Buffer<T>, range: Range<usize>) -> View<'_, Self, T> {
        View::from(&buffer[range])
    }

    fn slice_mut<T: Scalar>(buffer: &mut Buffer<T>, range: Range<usize>) -> ViewMut<'_, Self, T> {
        ViewMut::from(&mut buffer[range])
    }

    fn split_mut<T: Scalar, const N: usize>(
        buffer: &mut Buffer<T>,
        ranges: [Range<usize>; N],
    ) -> [ViewMut<'_, Self, T>; N] {
        let (mut rest, mut start) = (&mut buffer[..], 0);
        ranges.map(|range| {
            let (_, from_here) = std::mem::take(&mut rest).split_at_mut(range.start - start);
            let (view, behind) = from_here.split_at_mut(range.len());
            (rest, start) = (behind, range.end);
            ViewMut::from(view)
        })
    }
}

impl<'a, I: Index> Bags<'a, Cpu, I> {
    /// Returns these bags without the slack behind the last one. An invalid last offset cuts
    /// nothing off, so that the check of the offsets can report it.
    fn without_slack(self, num_bags: usize) -> Self {
        let ids = self.num_indices();
        let end = self.offsets.end(num_bags, ids).unwrap_or(usize::MAX);
        if !self.has_slack || end > ids {
            return self;
        }
        let first = |weights: View<'a, Cpu, f32>| View::from(&weights.as_slice()[..end]);
        let per_sample_weights = self.per_sample_weights.map(first);
        Self { indices: View::from(&self.indices.as_slice()[..end]), per_sample_weights, ..self }
    }
}

impl StepControl<'_, Cpu> {
    /// Returns whether the gate keeps the op from doing anything.
    fn is_shut(&self) -> bool {
        self.gate.is_some_and(|gate| gate[0] != 0)
    }

    /// Returns `rule` with the step and the learning rate of the values, if there are any.
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
    /// Returns row `r`. A matrix without columns may have no data at all.
    fn row(&self, r: usize) -> &'a [T] {
        if self.cols == 0 { &[] } else { &self.data.as_slice()[r * self.ld..][..self.cols] }
    }
}
