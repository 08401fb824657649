//! The threads of the CPU: those of rayon, kept awake from one op to the next.
//!
//! A thread of rayon falls asleep some 20 microseconds after its last work. To wake it takes up to
//! 100 microseconds, above all on virtual machines, which is longer than many ops take. Therefore
//! an op begins by telling the other threads to look for work for a while, and a thread that waits
//! for another one's part of an op stays awake.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rayon::{ThreadPool, Yield};

/// The time that a thread without work stays awake: longer than the serial work between two ops of
/// a step, and short enough to be no burden to other programs.
const AWAKE: Duration = Duration::from_micros(200);

/// The threads that ops share.
#[derive(Clone, Debug)]
pub(crate) struct Threads {
    pool: Arc<ThreadPool>,
    /// For each thread, set while an op runs on it or it looks for work.
    awake: Arc<[AtomicBool]>,
}

impl Threads {
    /// Uses the threads of a pool.
    pub(crate) fn new(pool: Arc<ThreadPool>) -> Self {
        let awake = (0..pool.current_num_threads()).map(|_| AtomicBool::new(false)).collect();
        Self { pool, awake }
    }

    /// Returns the number of threads.
    pub(crate) fn len(&self) -> usize {
        self.awake.len()
    }

    /// Runs `work` on one of the threads.
    pub(crate) fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Runs an op on one of the threads, and keeps the others awake for parts of it.
    pub(crate) fn run<R: Send>(&self, op: impl FnOnce() -> R + Send) -> R {
        self.install(|| {
            let Some(is_awake) =
                rayon::current_thread_index().and_then(|thread| self.awake.get(thread))
            else {
                return op();
            };
            // Relaxed order suffices: the flag influences only how long ops take.
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
        let awake = Arc::clone(&self.awake);
        self.pool.spawn_broadcast(move |thread| {
            let is_awake = &awake[thread.index()];
            if !is_awake.swap(true, Ordering::Relaxed) {
                work_until(|| false);
                is_awake.store(false, Ordering::Relaxed);
            }
        });
    }
}

/// Runs other work on this thread until `is_done`, or until there has been none for [`AWAKE`].
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

/// Runs `a` and `b` in parallel. It must be called on one of the threads, which runs `a` and then
/// other work until `b` is done, so that it does not fall asleep.
pub(crate) fn join(a: impl FnOnce() + Send, b: impl FnOnce() + Send) {
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
