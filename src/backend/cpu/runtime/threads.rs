//! The threads of the CPU: rayon's, which stay awake from one op to the next.
//!
//! A thread of rayon falls asleep some 20 microseconds after its last work, and waking it takes up
//! to 100, on virtual machines above all: longer than many an op. So an op begins by asking the
//! other threads to look for work a while after it, and who waits for another's part of an op does
//! not fall asleep over it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, Yield};

use crate::Cpu;
use crate::dtype::Scalar;
use crate::ops::MatrixMut;

/// How long a thread without work stays awake: longer than what one thread does alone between two
/// ops of a step, and short enough to be no burden to others.
const AWAKE: Duration = Duration::from_micros(200);

/// Threads that ops share.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    threads: Arc<ThreadPool>,
    /// Of each thread, whether an op runs on it or it looks for work.
    awake: Arc<[AtomicBool]>,
}

impl Pool {
    pub(crate) fn new(threads: Arc<ThreadPool>) -> Self {
        let awake = (0..threads.current_num_threads()).map(|_| AtomicBool::new(false)).collect();
        Self { threads, awake }
    }

    pub(crate) fn num_threads(&self) -> usize {
        self.awake.len()
    }

    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// Runs an op, for parts of which the other threads are awake.
    fn run<R: Send>(&self, op: impl FnOnce() -> R + Send) -> R {
        self.install(|| {
            let Some(is_awake) =
                rayon::current_thread_index().and_then(|thread| self.awake.get(thread))
            else {
                return op();
            };
            // Of no other effect than that on the time that ops take, so that no order of memory is
            // needed.
            let was_awake = is_awake.swap(true, Ordering::Relaxed);
            self.wake();
            let result = op();
            is_awake.store(was_awake, Ordering::Relaxed);
            result
        })
    }

    fn wake(&self) {
        if self.awake.iter().all(|is_awake| is_awake.load(Ordering::Relaxed)) {
            return;
        }
        let awake = Arc::clone(&self.awake);
        self.threads.spawn_broadcast(move |thread| {
            let is_awake = &awake[thread.index()];
            if !is_awake.swap(true, Ordering::Relaxed) {
                work_until(|| false);
                is_awake.store(false, Ordering::Relaxed);
            }
        });
    }
}

/// Does what work there is for this thread, until something is done or there has been none for a
/// while.
fn work_until(is_done: impl Fn() -> bool) {
    let mut without_work = None;
    while !is_done() {
        if rayon::yield_now() == Some(Yield::Executed) {
            without_work = None;
        } else if without_work.get_or_insert_with(Instant::now).elapsed() > AWAKE {
            return;
        } else {
            std::thread::yield_now();
        }
    }
}

impl Cpu {
    /// This CPU, but with one thread for work that is not worth more.
    pub(crate) fn for_operations(&self, operations: usize) -> Self {
        const SERIAL: usize = 1 << 19;
        if operations < SERIAL { Self { pool: None, ..*self } } else { self.clone() }
    }

    /// Runs an op that uses [`Self::join`].
    pub(crate) fn run<R: Send>(&self, op: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.run(op),
            None => op(),
        }
    }

    /// Runs both, in parallel if there are threads. To be called inside [`Self::run`].
    pub(crate) fn join(&self, a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
        if self.pool.is_none() {
            a();
            return b();
        }
        let is_done = AtomicBool::new(false);
        let first = || {
            a();
            work_until(|| is_done.load(Ordering::Relaxed));
        };
        let second = || {
            b();
            is_done.store(true, Ordering::Relaxed);
        };
        rayon::join(first, second);
    }

    /// Calls `work(r, row)` for each row of a matrix, in parallel.
    pub(crate) fn for_each_row<T: Scalar>(
        &self,
        matrix: MatrixMut<'_, Self, T>,
        work: impl Fn(usize, &mut [T]) + Send + Sync,
    ) {
        let MatrixMut { data, rows, cols, ld } = matrix;
        if cols > 0 {
            self.for_each_rows(data, rows, self.rows_per_task(rows), ld, |first, part| {
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

    /// As [`Self::for_each_rows`], with the same rows of two matrices.
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

    /// Halves two slices, until there are pieces of so many elements, the first of which is the
    /// `k`-th.
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

    /// Enough tasks to even out their differences, without drowning in them.
    pub(crate) fn rows_per_task(&self, rows: usize) -> usize {
        rows.div_ceil(4 * self.num_threads()).max(1)
    }
}

/// The part of a buffer that a matrix reaches over: it may be longer, and the last row need not be
/// followed by its gap.
fn only_rows<T>(data: &mut [T], rows: usize, ld: usize) -> &mut [T] {
    let len = data.len().min(rows.saturating_mul(ld));
    &mut data[..len]
}
