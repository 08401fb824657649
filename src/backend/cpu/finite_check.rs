//! [`finite_check`](crate::ops::finite_check) on the CPU.

use rayon::prelude::*;

use super::Cpu;
use crate::error::Result;
use crate::ops::finite_check::{Check, FiniteCheckOps, NonFinite};
use crate::simd::{Lanes, Loop};

/// Elements that are looked at between two questions whether another thread has found something.
const RUN: usize = 1 << 14;

impl FiniteCheckOps for Cpu {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        let Check { policy, step, values, loss, grads, verdict } = args;
        // What wrong ids and offsets there are, other ops have reported themselves.
        let is_finite = |run: &[f32]| self.dispatch.run(AllFinite(run));
        let all_finite = |grad: &[f32]| match &self.pool {
            Some(pool) => pool.install(|| grad.par_chunks(RUN).all(is_finite)),
            None => grad.chunks(RUN).all(is_finite),
        };
        let step = values.map_or(step, |values| values[0].step);
        let [gate, steps, first, last, _] = verdict else { return Ok(()) };
        let stays_shut = policy == NonFinite::Error && *steps > 0;
        let is_bad = !loss[0].is_finite() || !grads.into_iter().all(all_finite);
        if is_bad {
            *steps += 1;
            *first = if *first == 0 { step } else { *first };
            *last = step;
        }
        *gate = u64::from(is_bad || stays_shut);
        Ok(())
    }
}

/// Whether a run of numbers has neither infinities nor NaNs.
struct AllFinite<'a>(&'a [f32]);

impl Loop for AllFinite<'_> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> bool {
        // Without a branch for each element. Without their signs, bits rise with the number, and those of infinity and NaNs are behind all others.
        let mut largest = 0;
        for x in self.0 {
            largest = (x.to_bits() & !(1 << 31)).max(largest);
        }
        largest < f32::INFINITY.to_bits()
    }
}
