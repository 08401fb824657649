//! Seeds of randomised tests: the same in every run, or new ones for `BAGDOT_FUZZ_SECONDS` seconds
//! if that variable is set.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the seeds `0..count`. If `BAGDOT_FUZZ_SECONDS` is set, returns seeds for so many seconds
/// instead, which count from the time in nanoseconds.
pub fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let seconds =
        std::env::var("BAGDOT_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    let nanoseconds = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let (end, first) = match seconds {
        Some(seconds) => (Some(Instant::now() + Duration::from_secs(seconds)), nanoseconds()),
        None => (None, 0),
    };
    (0..)
        .take_while(move |&k| end.map_or(k < count, |end| Instant::now() < end))
        .map(move |k| first.wrapping_add(k))
}
