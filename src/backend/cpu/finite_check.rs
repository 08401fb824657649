//! [`finite_check`](crate::ops::finite_check) on the CPU.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Cpu;
use crate::error::Result;
use crate::ops::finite_check::{Check, FiniteCheckOps, NonFinite};
use crate::simd::{Lanes, Loop};

/// Elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 16;

impl FiniteCheckOps for Cpu {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        let Check { policy, step, values, loss, grads, verdict } = args;
        // What wrong ids and offsets there are, other ops have reported themselves.
        let step = values.map_or(step, |values| values[0].step);
        let [gate, steps, first, last, _] = verdict else { return Ok(()) };
        let stays_shut = policy == NonFinite::Error && *steps > 0;
        let found = AtomicBool::new(!loss[0].is_finite());
        grads.into_iter().for_each(|grad| self.run(|| self.look_for_non_finite(grad, &found)));
        let is_bad = found.into_inner();
        if is_bad {
            *steps += 1;
            *first = if *first == 0 { step } else { *first };
            *last = step;
        }
        *gate = u64::from(is_bad || stays_shut);
        Ok(())
    }
}

impl Cpu {
    /// Sets `found` if there is an infinity or a NaN.
    fn look_for_non_finite(&self, values: &[f32], found: &AtomicBool) {
        if values.len() > ELEMENTS_PER_TASK {
            let (left, right) = values.split_at(values.len() / 2);
            return self.join(
                || self.look_for_non_finite(left, found),
                || self.look_for_non_finite(right, found),
            );
        }
        if !found.load(Ordering::Relaxed) && !self.dispatch.run(AllFinite(values)) {
            found.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether a run of numbers has neither infinities nor NaNs.
struct AllFinite<'a>(&'a [f32]);

impl Loop for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> bool {
        // Without a branch for each element. Without their signs, bits rise with the number, and
        // those of infinity and NaNs are behind all others.
        let mut largest = 0;
        for x in self.0 {
            largest = (x.to_bits() & !(1 << 31)).max(largest);
        }
        largest < f32::INFINITY.to_bits()
    }
}
