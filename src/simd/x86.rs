//! AVX2 and AVX-512: their detection, one function for each in which a [`Loop`] is compiled, and
//! prefetches.

mod avx2;
mod avx512;

use std::arch::asm;
use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};

use super::Loop;
use avx2::Avx2;
use avx512::Avx512;

/// Returns whether the machine has AVX2, FMA and F16C.
pub(super) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
}

/// Returns whether the machine has AVX-512 F, BW, DQ and VL.
pub(super) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Returns whether the machine has dot products of pairs of `bf16`.
pub(super) fn has_avx512_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

/// A loop as it is compiled for each instruction set of x86-64.
///
/// These are methods of the loop, since the compiler puts a method into the code generation unit of
/// its type's module. As functions of this module they would all be in one unit, which one thread
/// compiles, and again whenever any loop changes.
pub(super) trait Compiled: Loop + Sized {
    /// Runs the loop with AVX2, FMA and F16C.
    ///
    /// # Safety
    /// The machine must have these instructions, see [`has_avx2`].
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn run_avx2(self) -> Self::Output {
        self.run(Avx2(()))
    }

    /// Runs the loop with AVX-512.
    ///
    /// # Safety
    /// The machine must have these instructions, see [`has_avx2`] and [`has_avx512`].
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run_avx512(self) -> Self::Output {
        self.run(Avx512::<false>(()))
    }

    /// Runs the loop with AVX-512 and dot products of `bf16`.
    ///
    /// # Safety
    /// The machine must have these instructions, see [`has_avx512_bf16`] and [`Self::run_avx512`].
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
    unsafe fn run_avx512_bf16(self) -> Self::Output {
        self.run(Avx512::<true>(()))
    }
}

impl<L: Loop> Compiled for L {}

/// Calls an intrinsic in a method of [`Avx2`] or [`Avx512`].
macro_rules! intrinsic {
    ($call:expr) => {
        // SAFETY: `self` proves that the machine has the instructions. Pointers are to whole arrays
        // of the type that is read or written, or, with a mask, to slices with as many elements as
        // the mask has ones; no alignment is needed. Arrays and vectors that are transmuted are of
        // the same size, and every bit pattern is a value of both.
        unsafe { $call }
    };
}
use intrinsic;

/// Prefetches a cache line into the L2 cache.
#[inline(always)]
pub(super) fn prefetch<T>(of: *const T) {
    // SAFETY: a prefetch neither reads nor faults, whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(of.cast()) }
}

/// Prefetches a cache line that will be written, and takes it from other cores.
#[inline(always)]
pub(super) fn prefetch_for_writing<T>(of: *const T) {
    // SAFETY: a prefetch neither reads nor faults, whatever the address is. A machine without this
    // instruction takes it for one that does nothing.
    unsafe { asm!("prefetchw [{}]", in(reg) of, options(nostack, preserves_flags, readonly)) }
}
