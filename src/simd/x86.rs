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

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run_avx2<L: Loop>(body: L) -> L::Output {
    body.run(Avx2(()))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run_avx512<L: Loop>(body: L) -> L::Output {
    body.run(Avx512::<false>(()))
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
pub(super) fn run_avx512_bf16<L: Loop>(body: L) -> L::Output {
    body.run(Avx512::<true>(()))
}

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
