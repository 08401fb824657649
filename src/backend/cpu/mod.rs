//! The CPU backend.
//!
//! Results are the same bits for any number of threads: work is split by rows, bags or table rows, never inside a sum.

mod buffer;
mod cast;
mod dense_update;
mod embedding_bag;
mod fault;
mod finite_check;
mod gemm;
mod huge_pages;
mod index_sort;
mod interaction;
mod linear;
mod loss;
mod moving_average;
mod optimizer;
mod row_gradient;
mod scratch;
mod sparse_update;
mod stage;
mod vector;

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use crate::dtype::{Index, Scalar};
use crate::error::{Error, Result, expect_size, invalid};
use crate::ops::{Bags, Device, Matrix, MatrixMut, StepControl, TableBatch, UpdateRule};
use crate::simd::Dispatch;
pub use crate::simd::Simd;
pub use buffer::Buffer;

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
    pool: Option<Arc<rayon::ThreadPool>>,
    dispatch: Dispatch,
}

impl Cpu {
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
    /// [`Error::ThreadPool`] if the system does not start them, or for 0 threads.
    pub fn with_threads(threads: usize) -> Result<Self> {
        let failed = |reason: String| Error::ThreadPool { threads, reason };
        match threads {
            0 => Err(failed("at least one thread is needed".into())),
            1 => Ok(Self::single_threaded()),
            _ => {
                let name = |k| format!("bagdot-{k}");
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(name).build();
                Ok(Self::with_pool(Arc::new(pool.map_err(|error| failed(error.to_string()))?)))
            }
        }
    }

    /// The caller's pool.
    pub fn with_pool(pool: Arc<rayon::ThreadPool>) -> Self {
        Self { pool: Some(pool), ..Self::default() }
    }

    /// The same threads with another instruction set than the best one of this machine. Results stay the same bits, unless [`Simd`] says otherwise.
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
        self.pool.as_ref().map_or(1, |pool| pool.current_num_threads())
    }

    /// This CPU, but with one thread for work that is not worth more: to wake others takes as long as some 10⁶ additions and multiplications.
    fn for_operations(&self, operations: usize) -> Self {
        const SERIAL: usize = 1 << 21;
        if operations < SERIAL { Self { pool: None, ..*self } } else { self.clone() }
    }

    /// Runs `work` on a thread of the pool, if there is one. Ops that are called there need not wake that thread and wait for it, each anew, which
    /// takes longer than many an op of a small model.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }

    /// Calls `work(r, row)` for each row of a matrix, in parallel.
    fn for_each_row<T: Scalar>(&self, matrix: MatrixMut<'_, Self, T>, work: impl Fn(usize, &mut [T]) + Send + Sync) {
        let MatrixMut { data, rows, cols, ld } = matrix;
        if cols > 0 {
            self.for_each_rows(data, rows, self.rows_per_task(rows), ld, |first, part| {
                part.chunks_mut(ld).enumerate().for_each(|(k, row)| work(first + k, &mut row[..cols]));
            });
        }
    }

    /// Cuts `rows` rows of `ld` elements into runs of `run` rows, and calls `work(first_row, run)` for each, in parallel.
    fn for_each_rows<T: Send>(
        &self,
        data: &mut [T],
        rows: usize,
        run: usize,
        ld: usize,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        if rows == 0 || ld == 0 {
            return;
        }
        let data = only_rows(data, rows, ld);
        match &self.pool {
            Some(pool) => pool.install(|| {
                let runs = data.par_chunks_mut(run * ld).take(rows.div_ceil(run));
                runs.enumerate().for_each(|(k, part)| work(k * run, part));
            }),
            None => work(0, data),
        }
    }

    /// As [`Self::for_each_rows`], with the same rows of two matrices.
    fn for_each_rows_of_both<T: Send, U: Send>(
        &self,
        (a, a_ld): (&mut [T], usize),
        (b, b_ld): (&mut [U], usize),
        rows: usize,
        run: usize,
        work: impl Fn(usize, &mut [T], &mut [U]) + Send + Sync,
    ) {
        if rows == 0 || a_ld == 0 || b_ld == 0 {
            return;
        }
        let (a, b) = (only_rows(a, rows, a_ld), only_rows(b, rows, b_ld));
        match &self.pool {
            Some(pool) => pool.install(|| {
                let runs = a.par_chunks_mut(run * a_ld).zip(b.par_chunks_mut(run * b_ld)).take(rows.div_ceil(run));
                runs.enumerate().for_each(|(k, (a, b))| work(k * run, a, b));
            }),
            None => work(0, a, b),
        }
    }

    /// Cuts a slice into pieces of `len` elements, and calls `work(k, piece)` for each, in parallel.
    fn for_each_chunk<T: Send>(&self, data: &mut [T], len: usize, work: impl Fn(usize, &mut [T]) + Send + Sync) {
        match &self.pool {
            Some(pool) => pool.install(|| data.par_chunks_mut(len).enumerate().for_each(|(k, piece)| work(k, piece))),
            None => data.chunks_mut(len).enumerate().for_each(|(k, piece)| work(k, piece)),
        }
    }

    /// Enough tasks to even out their differences, without drowning in them.
    fn rows_per_task(&self, rows: usize) -> usize {
        rows.div_ceil(4 * self.num_threads()).max(1)
    }

    /// Runs both, in parallel if there are threads. To be called inside [`Self::install`].
    fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        if self.pool.is_some() {
            rayon::join(a, b);
        } else {
            a();
            b();
        }
    }
}

/// The part of a buffer that a matrix reaches over: it may be longer, and the last row need not be followed by its gap.
fn only_rows<T>(data: &mut [T], rows: usize, ld: usize) -> &mut [T] {
    let len = data.len().min(rows.saturating_mul(ld));
    &mut data[..len]
}

impl Device for Cpu {
    type Buffer<T: Scalar> = Buffer<T>;
    type Slice<'a, T: Scalar> = &'a [T];
    type SliceMut<'a, T: Scalar> = &'a mut [T];
    type Tables = TableBatch;

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Buffer<T>> {
        Buffer::zeroed(len)
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

    fn reborrow<'a, T: Scalar>(slice: &'a &[T]) -> &'a [T] {
        slice
    }

    fn reborrow_mut<'a, T: Scalar>(slice: &'a mut &mut [T]) -> &'a mut [T] {
        slice
    }

    fn split_mut<T: Scalar>(buffer: &mut Buffer<T>, first: Range<usize>, second: Range<usize>) -> (&mut [T], &mut [T]) {
        let (left, right) = buffer.split_at_mut(second.start);
        (&mut left[first], &mut right[..second.end - second.start])
    }
}

impl<I: Index> Bags<'_, Cpu, I> {
    /// The same bags without spare room. Where the last offset names no place, nothing is cut off, so that whoever checks it can say so.
    fn without_spare(self) -> Self {
        let end = self.offsets.last().and_then(|end| end.to_row()).unwrap_or(usize::MAX);
        if !self.has_spare || end > self.indices.len() {
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
            Some(values) => UpdateRule { step: values[0].step, learning_rate: values[0].learning_rate, ..rule },
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
