//! [`finite_check`](crate::ops::finite_check) on the CPU.

use std::sync::atomic::{AtomicBool, Ordering};

use super::Cpu;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::finite_check::{Check, FiniteCheckOps, NonFinite};
use crate::simd::{Lanes, Loop};
use crate::size::product;

/// The elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 16;

impl FiniteCheckOps for Cpu {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        let Check { policy, step, values, loss, grads, verdict } = args;
        // Wrong ids, offsets and labels shut no gate here: the ops that found them returned errors.
        let step = values.map_or(step, |values| values[0].step);
        let [gate, steps, first, last, other] = verdict.into_slice() else { return Ok(()) };
        let stays_shut = policy == NonFinite::Error && *steps > 0;
        let found = AtomicBool::new(!loss[0].is_finite() || *other != 0);
        for grad in grads {
            let cpu = &self.for_bytes(product([grad.len(), size_of::<f32>()]));
            cpu.run(|| find_non_finite(cpu, &grad, &found));
        }
        let is_bad = found.into_inner();
        if is_bad {
            *steps += 1;
            *first = if *first == 0 { step } else { *first };
            *last = step;
        }
        *other = 0;
        *gate = u64::from(is_bad || stays_shut);
        Ok(())
    }
}

/// Sets `found` if one of the values is infinite or a NaN.
fn find_non_finite(cpu: &Cpu, values: &[f32], found: &AtomicBool) {
    if values.len() > ELEMENTS_PER_TASK {
        let (left, right) = values.split_at(values.len() / 2);
        return cpu
            .join(|| find_non_finite(cpu, left, found), || find_non_finite(cpu, right, found));
    }
    if !found.load(Ordering::Relaxed) && !cpu.dispatch.run(AllFinite(values)) {
        found.store(true, Ordering::Relaxed);
    }
}

/// Returns whether all of these numbers are finite.
pub(super) struct AllFinite<'a, E>(pub(super) &'a [E]);

impl<E: Element> Loop for AllFinite<'_, E> {
    type Output = bool;

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) -> bool {
        // The loop has no branches, so that the compiler can vectorise it. Without the sign bit,
        // the bits of a number rise with its magnitude; infinity and NaNs come after all others.
        let mut largest = 0;
        for x in self.0 {
            largest = (x.to_f32().to_bits() & !(1 << 31)).max(largest);
        }
        largest < f32::INFINITY.to_bits()
    }
}
