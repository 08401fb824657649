//! Parallel loops over rows, and the choice of their tasks.

use super::threads;
use crate::Cpu;
use crate::dtype::Scalar;
use crate::ops::MatrixMut;

impl Cpu {
    /// Returns this CPU, with a single thread if so few operations are not worth more threads.
    pub(crate) fn for_operations(&self, operations: usize) -> Self {
        const MIN_PARALLEL: usize = 1 << 19;
        if operations < MIN_PARALLEL { Self { threads: None, ..*self } } else { self.clone() }
    }

    /// Returns this CPU, with a single thread if an op that waits for memory moves too few bytes to
    /// be worth more threads: an op that is called from outside of the pool takes 6 to 19
    /// microseconds to get there, in which one thread looks up some 100 kilobytes.
    pub(crate) fn for_bytes(&self, bytes: usize) -> Self {
        const MIN_PARALLEL: usize = 1 << 18;
        if bytes < MIN_PARALLEL { Self { threads: None, ..*self } } else { self.clone() }
    }

    /// Runs an op that uses [`Self::join`].
    pub(crate) fn run<R: Send>(&self, op: impl FnOnce() -> R + Send) -> R {
        match &self.threads {
            Some(threads) => threads.run(op),
            None => op(),
        }
    }

    /// Runs `a` and `b`, in parallel if there are threads. It must be called inside [`Self::run`].
    pub(crate) fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        match &self.threads {
            Some(_) => threads::join(a, b),
            None => {
                a();
                b();
            }
        }
    }

    /// Calls `work(r, row)` for each row of a matrix, in parallel.
    pub(crate) fn for_each_row<T: Scalar>(
        &self,
        matrix: MatrixMut<'_, Self, T>,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let MatrixMut { mut data, rows, cols, ld } = matrix;
        if cols > 0 {
            self.for_each_rows(&mut data, rows, self.rows_per_task(rows), ld, |first, part| {
                part.chunks_mut(ld)
                    .enumerate()
                    .for_each(|(k, row)| work(first + k, &mut row[..cols]));
            });
        }
    }

    /// Cuts `rows` rows of `ld` elements into runs of `run` rows, and calls `work(first_row, run)`
    /// for each, in parallel.
    pub(crate) fn for_each_rows<T: Send>(
        &self,
        data: &mut [T],
        rows: usize,
        run: usize,
        ld: usize,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        if rows > 0 && ld > 0 {
            self.for_each_chunk(only_rows(data, rows, ld), run * ld, |k, part| work(k * run, part));
        }
    }

    /// Does what [`Self::for_each_rows`] does, with the same rows of two matrices.
    pub(crate) fn for_each_rows_of_both<T: Send, U: Send>(
        &self,
        (a, a_ld): (&mut [T], usize),
        (b, b_ld): (&mut [U], usize),
        rows: usize,
        run: usize,
        work: impl Fn(usize, &mut [T], &mut [U]) + Send + Sync,
    ) {
        if rows > 0 && a_ld > 0 && b_ld > 0 {
            let (a, b) = (only_rows(a, rows, a_ld), only_rows(b, rows, b_ld));
            self.run(|| {
                self.halve((a, run * a_ld), (b, run * b_ld), 0, &|k, a, b| work(k * run, a, b))
            });
        }
    }

    /// Cuts a slice into pieces of `len` elements, and calls `work(k, piece)` for each, in
    /// parallel.
    pub(crate) fn for_each_chunk<T: Send>(
        &self,
        data: &mut [T],
        len: usize,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let nothing = &mut vec![(); data.len().div_ceil(len.max(1))][..];
        self.run(|| self.halve((data, len), (nothing, 1), 0, &|k, piece, _| work(k, piece)));
    }

    /// Halves two slices of pieces with `a_len` and `b_len` elements, in parallel, until one piece
    /// is left. The first piece of the slices has the number `k`.
    fn halve<T: Send, U: Send>(
        &self,
        (a, a_len): (&mut [T], usize),
        (b, b_len): (&mut [U], usize),
        k: usize,
        work: &(impl Fn(usize, &mut [T], &mut [U]) + Sync),
    ) {
        let pieces = a.len().div_ceil(a_len.max(1));
        if pieces <= 1 {
            return work(k, a, b);
        }
        let half = pieces / 2;
        let (a, a_rest) = a.split_at_mut(half * a_len);
        let (b, b_rest) = b.split_at_mut(half * b_len);
        self.join(
            || self.halve((a, a_len), (b, b_len), k, work),
            || self.halve((a_rest, a_len), (b_rest, b_len), k + half, work),
        );
    }

    /// Returns the rows of a task: four tasks for each thread even out their differences without
    /// much overhead.
    pub(crate) fn rows_per_task(&self, rows: usize) -> usize {
        rows.div_ceil(4 * self.num_threads()).max(1)
    }
}

/// Returns the part of a buffer that a matrix covers. The buffer may be longer, or end with the
/// last row's columns before the leading dimension is full.
fn only_rows<T>(data: &mut [T], rows: usize, ld: usize) -> &mut [T] {
    let len = data.len().min(rows.saturating_mul(ld));
    &mut data[..len]
}
