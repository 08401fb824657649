//! The threads of the CPU: those of rayon, kept awake from one op to the next.
//!
//! A thread of rayon falls asleep some 20 microseconds after its last work. To wake it takes up to
//! 100 microseconds, above all on virtual machines, which is longer than many ops take. Therefore
//! an op begins by telling the other threads to look for work for a while, and a thread that waits
//! for another one's part of an op stays awake. If no other op came in that while, the next one is
//! shorter, so that ops that come now and then take little time from other programs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, Yield};

/// The longest time that a thread without work stays awake: longer than the serial work between two
/// ops of a step, and short enough to be no burden to other programs.
const AWAKE: Duration = Duration::from_micros(200);
/// The shortest such time, to which it falls if no work comes: about that of rayon itself.
const BARELY_AWAKE: Duration = Duration::from_micros(25);

/// The longest time that a thread looks for work at once: it may belong to a pool of the caller,
/// and have interrupted its own work for this.
const LOOKING: Duration = Duration::from_millis(2);

/// The threads that ops share.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    pool: Pool,
    /// For each thread, set while an op runs on it or it looks for work.
    awake: Arc<[AtomicBool]>,
    /// The time in microseconds that threads stay awake after an op.
    patience: Arc<AtomicU64>,
}

/// A pool of rayon.
#[derive(Clone, Debug)]
enum Pool {
    Own(Arc<ThreadPool>),
    /// The pool of the calling thread, or rayon's global one if that thread is in none.
    Global,
}

impl Threads {
    /// Uses the threads of a pool.
    pub(crate) fn new(pool: Arc<ThreadPool>) -> Self {
        let threads = pool.current_num_threads();
        Self::of(Pool::Own(pool), threads)
    }

    /// Uses the threads of rayon's global pool, which exists.
    pub(crate) fn global() -> Self {
        Self::of(Pool::Global, rayon::current_num_threads())
    }

    fn of(pool: Pool, threads: usize) -> Self {
        let awake = (0..threads).map(|_| AtomicBool::new(false)).collect();
        Self { pool, awake, patience: Arc::new(AtomicU64::new(AWAKE.as_micros() as u64)) }
    }

    /// Returns the number of threads.
    pub(crate) fn len(&self) -> usize {
        self.awake.len()
    }

    /// Runs `work` on one of the threads.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Pool::Own(pool) => pool.install(work),
            Pool::Global => rayon::scope(|_| work()),
        }
    }

    /// Runs an op on one of the threads, and keeps the others awake for parts of it.
    pub(crate) fn run<R: Send>(&self, op: impl FnOnce() -> R + Send) -> R {
        self.install(|| {
            let Some(is_awake) =
                rayon::current_thread_index().and_then(|thread| self.awake.get(thread))
            else {
                return op();
            };
            // Relaxed order suffices: the flags influence only how long ops take.
            let was_awake = is_awake.swap(true, Ordering::Relaxed);
            self.wake();
            let result = op();
            is_awake.store(was_awake, Ordering::Relaxed);
            result
        })
    }

    /// Lets all threads that sleep look for work.
    fn wake(&self) {
        if self.awake.iter().all(|is_awake| is_awake.load(Ordering::Relaxed)) {
            return;
        }
        let (awake, patience) = (Arc::clone(&self.awake), Arc::clone(&self.patience));
        // The calling thread is one of the pool's.
        rayon::spawn_broadcast(move |thread| {
            let Some(is_awake) = awake.get(thread.index()) else { return };
            if !is_awake.swap(true, Ordering::Relaxed) {
                look_for_work(&patience);
                is_awake.store(false, Ordering::Relaxed);
            }
        });
    }
}

/// Runs work until there has been none for the time of `patience`, which it sets for the next time:
/// the longest one after an op that came late, else half of this one.
fn look_for_work(patience: &AtomicU64) {
    let while_awake = Duration::from_micros(patience.load(Ordering::Relaxed));
    // The op that woke this thread gives it work at once; only work after a pause is of a later op.
    let mut pauses = 0;
    let begun = Instant::now();
    work_until(|| begun.elapsed() > LOOKING, while_awake, || pauses += 1);
    let next = if pauses > 1 { AWAKE } else { (while_awake / 2).max(BARELY_AWAKE) };
    patience.store(next.as_micros() as u64, Ordering::Relaxed);
}

/// Runs other work on this thread until `is_done`, or until there has been none for the time
/// `while_awake`. Calls `pause` when there is none after some work.
fn work_until(is_done: impl Fn() -> bool, while_awake: Duration, mut pause: impl FnMut()) {
    let mut without_work = None;
    while !is_done() {
        if rayon::yield_now() == Some(Yield::Executed) {
            without_work = None;
            continue;
        }
        let since = *without_work.get_or_insert_with(|| {
            pause();
            Instant::now()
        });
        if since.elapsed() > while_awake {
            return;
        }
        std::thread::yield_now();
    }
}

/// Runs `a` and `b` in parallel. It must be called on one of the threads, which runs `a` and then
/// other work until `b` is done, so that it does not fall asleep.
pub(crate) fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
    let is_done = AtomicBool::new(false);
    let first = || {
        a();
        work_until(|| is_done.load(Ordering::Relaxed), AWAKE, || {});
    };
    let second = || {
        b();
        is_done.store(true, Ordering::Relaxed);
    };
    rayon::join(first, second);
}
