//! SIMD: instruction sets are detected at run time, and a loop that is written once is compiled for
//! each of them.
//!
//! The pattern is that of the crate `pulp`, with [`Dispatch`] for its `Arch`, [`Loop`] for its
//! `WithSimd`, and [`Lanes`] for its `Simd`:
//!
//! - A [`Loop`] is a struct of what a closure would capture. Its `run` is generic over [`Lanes`],
//!   and is inlined into one function for each instruction set, where the compiler vectorises it.
//! - [`Lanes`] has the operations that plain Rust does not express well: vectors in registers, and
//!   16-bit elements.
//! - [`Dispatch`] holds an instruction set that the machine has, and runs a [`Loop`] with it.
//!
//! ```ignore
//! /// Multiplies the elements of a slice.
//! struct Scale<'a> {
//!     values: &'a mut [f32],
//!     factor: f32,
//! }
//!
//! impl Loop for Scale<'_> {
//!     type Output = ();
//!
//!     #[inline(always)]
//!     fn run<V: Lanes>(self, lanes: V) {
//!         let factor = lanes.splat(self.factor);
//!         let (vectors, tail) = self.values.as_chunks_mut::<LANES>();
//!         for vector in vectors {
//!             lanes.store(lanes.mul(lanes.load(vector), factor), vector);
//!         }
//!         lanes.store_part(lanes.mul(lanes.load_part(tail), factor), tail);
//!     }
//! }
//!
//! dispatch.run(Scale { values: &mut values, factor: 0.5 });
//! ```
//!
//! The compiler neither reorders a sum nor fuses a product and a sum that are not written as
//! `mul_add`, so results are the same bits for every instruction set, except for matrix products,
//! see [`Simd::Avx512Bf16`] and [`Simd::Amx`].

pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::array::from_fn;
use std::fmt;

use crate::dtype::{DType, Element};
#[cfg(target_arch = "x86_64")]
use x86::Compiled as _;

/// An instruction set that the loops of the CPU are compiled for. Results are the same bits for all
/// of them, except for matrix products where an instruction set says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simd {
    /// The baseline of the target, which every machine has.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// [`Self::Avx512`] with dot products of pairs of `bf16`. These round their sums differently
    /// from products of widened elements, so that matrix products of `bf16` are not the same bits.
    Avx512Bf16,
    /// [`Self::Avx512Bf16`] with the tiles of AMX, which need the system's permission. Matrix
    /// products of `bf16` are summed in yet another order, and subnormal numbers among their
    /// elements and sums are taken for zeros.
    ///
    /// Matrix products of `f32` use AMX, too, unless they are small: each element is taken for the
    /// exact sum of three `bf16`, and of the nine products of these, the six that matter in `f32`
    /// are summed. The bound of the error is less than that of sums of fused `f32` products from 32
    /// products on, which is the least number for which AMX is used. However, an element that is
    /// infinite, or rounds to an infinite `bf16` (from 3.39e38 on), makes the sums that it is in
    /// NaN, and numbers below 2⁻¹¹⁰ lose bits.
    Amx,
}

impl Simd {
    /// All instruction sets, the fastest one last.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Returns whether this machine has the instruction set.
    pub fn is_available(self) -> bool {
        match self {
            Self::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => x86::has_avx2() && x86::has_avx512(),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512Bf16 => Self::Avx512.is_available() && x86::has_avx512_bf16(),
            Self::Amx => Self::Avx512Bf16.is_available() && amx::is_available(),
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 | Self::Avx512Bf16 => false,
        }
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Portable => "no vectors beyond the baseline",
            Self::Avx2 => "AVX2",
            Self::Avx512 => "AVX-512",
            Self::Avx512Bf16 => "AVX-512 with bf16",
            Self::Amx => "AVX-512 with bf16, AMX",
        })
    }
}

/// An instruction set that this machine has, to run a [`Loop`] with. By default, it is the fastest
/// one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch(Simd);

impl Default for Dispatch {
    fn default() -> Self {
        Self(Simd::ALL.into_iter().rfind(|simd| simd.is_available()).unwrap_or(Simd::Portable))
    }
}

impl Dispatch {
    /// Returns none if this machine does not have the instruction set.
    pub(crate) fn new(simd: Simd) -> Option<Self> {
        simd.is_available().then_some(Self(simd))
    }

    /// Returns [`Simd::Amx`] for tests, on machines without AMX, too: these compute the products of
    /// tiles one by one.
    #[cfg(test)]
    pub(crate) fn with_tiles() -> Option<Self> {
        Simd::Avx512Bf16.is_available().then_some(Self(Simd::Amx))
    }

    pub(crate) fn simd(self) -> Simd {
        self.0
    }

    /// Runs the code of `body` that was compiled for this instruction set.
    #[inline]
    pub(crate) fn run<L: Loop>(self, body: L) -> L::Output {
        match self.0 {
            // SAFETY: a `Dispatch` is made of available instruction sets alone.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { body.run_avx2() },
            // SAFETY: the proof is that of AVX2.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { body.run_avx512() },
            // SAFETY: the proof is that of AVX2; machines with `bf16` or AMX have AVX-512.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Bf16 | Simd::Amx if !L::MULTIPLIES_PAIRS => unsafe { body.run_avx512() },
            // SAFETY: the proof is that of AVX2; a `Dispatch` with AMX is only made where
            // `Simd::Avx512Bf16` is available.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Bf16 | Simd::Amx => unsafe { body.run_avx512_bf16() },
            _ => body.run_portable(),
        }
    }
}

/// A loop that is compiled for each instruction set: a struct of what a closure would capture.
///
/// `run` and all functions that it calls in its hot part must be `#[inline(always)]`: a function
/// that is not inlined is compiled for the target's baseline.
pub(crate) trait Loop {
    type Output;
    /// Set if the loop makes use of [`Lanes::MULTIPLIES_PAIRS`]. Other loops are compiled once for
    /// AVX-512, with and without dot products of `bf16`.
    const MULTIPLIES_PAIRS: bool = false;
    fn run<V: Lanes>(self, lanes: V) -> Self::Output;

    /// Runs the loop with the baseline of the target. It is a method for the reason that
    /// [`x86::Compiled`] gives.
    #[inline(never)]
    fn run_portable(self) -> Self::Output
    where
        Self: Sized,
    {
        self.run(Portable)
    }
}

/// The number of bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// The number of elements of a vector.
pub(crate) const LANES: usize = 16;

/// The number of elements of a group; a vector is four groups.
pub(crate) const GROUP: usize = 4;

/// Operations on vectors of [`LANES`] values in registers. A value of this type proves that the
/// machine has the instructions.
pub(crate) trait Lanes: Copy + Send + Sync {
    /// A vector of `f32`.
    type F32: Copy;

    /// The register blocking of an outer product: the rows (MR), of one value each, and the vectors
    /// of columns (NR / [`LANES`]) whose sums fit the registers.
    const TILE: (usize, usize);
    /// The number of dot products, each summed in a vector, that fit the registers: 16 or 4.
    const DOTS: usize = 4;
    /// Set if the machine has [`Self::add_products_of_pairs`].
    const MULTIPLIES_PAIRS: bool = false;
    /// Set if several vectors of a row fit the registers: loops then take blocks of several
    /// vectors, and are compiled for each of the usual widths of rows, too.
    const UNROLLS_ROWS: bool = true;

    /// Broadcasts a value to all lanes.
    fn splat(self, value: f32) -> Self::F32;
    /// Broadcasts a group to all groups.
    #[inline(always)]
    fn splat_group(self, values: &[f32; GROUP]) -> Self::F32 {
        self.load(&from_fn(|l| values[l % GROUP]))
    }
    /// Loads elements, widened to `f32`.
    fn load<E: Element>(self, from: &[E; LANES]) -> Self::F32;
    /// Stores elements, rounded to nearest.
    fn store<E: Element>(self, vector: Self::F32, to: &mut [E; LANES]);
    /// Loads at most [`LANES`] elements; zeros follow them.
    #[inline(always)]
    fn load_part<E: Element>(self, from: &[E]) -> Self::F32 {
        let mut all = [E::default(); LANES];
        all[..from.len()].copy_from_slice(from);
        self.load(&all)
    }
    /// Stores the first lanes, at most [`LANES`], rounded to nearest.
    #[inline(always)]
    fn store_part<E: Element>(self, vector: Self::F32, to: &mut [E]) {
        let mut all = [E::default(); LANES];
        self.store(vector, &mut all);
        to.copy_from_slice(&all[..to.len()]);
    }
    /// Returns the lanes.
    fn to_array(self, vector: Self::F32) -> [f32; LANES];
    /// Returns `a + b`.
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a - b`.
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a * b`.
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a / b`.
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// Returns `a` where it is larger, else `b`: a NaN in `b` stays, one in `a` does not.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns `a` where it is smaller, else `b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Returns the square root.
    fn sqrt(self, a: Self::F32) -> Self::F32;
    /// Adds to each lane of `c` the dot product of the pairs of `bf16` in this lane of `a` and `b`.
    /// Callers check [`Self::MULTIPLIES_PAIRS`] first.
    #[inline(always)]
    fn add_products_of_pairs(self, _a: Self::F32, _b: Self::F32, c: Self::F32) -> Self::F32 {
        debug_assert!(Self::MULTIPLIES_PAIRS);
        c
    }
    /// Interleaves two slices of 16-bit elements: each lane holds the pair of elements at its place
    /// in `first` and `second`, unchanged; zeros follow slices of fewer than [`LANES`] elements.
    /// Callers check [`Self::MULTIPLIES_PAIRS`] first.
    #[inline(always)]
    fn pairs<E: Element>(self, _first: &[E], _second: &[E]) -> Self::F32 {
        debug_assert!(Self::MULTIPLIES_PAIRS);
        self.splat(0.0)
    }
    /// Loads pairs of 16-bit elements, one into each lane, unchanged. Callers check
    /// [`Self::MULTIPLIES_PAIRS`] first.
    #[inline(always)]
    fn load_pairs<E: Element>(self, _from: &[[E; 2]; LANES]) -> Self::F32 {
        debug_assert!(Self::MULTIPLIES_PAIRS);
        self.splat(0.0)
    }
    /// Splits each lane of two vectors into three `bf16` components whose sum it is, the first two
    /// rounded to nearest. Returns the pairs of the first, the second and the third components. The
    /// sum is exact for numbers from 2⁻¹¹⁰ on that round to a finite `bf16`; numbers that round to
    /// an infinite one have a component that is not finite. Callers check
    /// [`Self::MULTIPLIES_PAIRS`] first.
    #[inline(always)]
    fn split_pairs(self, _first: Self::F32, _second: Self::F32) -> [Self::F32; 3] {
        debug_assert!(Self::MULTIPLIES_PAIRS);
        [self.splat(0.0); 3]
    }
    /// Transposes a square: row `l` of the result holds lane `l` of all rows.
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES];
    /// Sums the lanes of `vectors[l]` into lane `l` of the result, by a reduction tree: the second
    /// half is added to the first one until one lane is left.
    #[inline(always)]
    fn sums(self, vectors: [Self::F32; LANES]) -> Self::F32 {
        let mut lanes = self.transpose(vectors);
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lanes[l] = self.add(lanes[l], lanes[l + half]);
            }
        }
        lanes[0]
    }
    /// Transposes a square of groups: group `g` of row `v` becomes group `v` of row `g`.
    fn transpose_groups(self, rows: [Self::F32; LANES / GROUP]) -> [Self::F32; LANES / GROUP];
    /// Sums group `g` of `vectors[v]` into lane `4 v + g` of the result, by a reduction tree: the
    /// second half of the group is added to the first one, then one lane to the other.
    fn sums_of_groups(self, vectors: [Self::F32; LANES / GROUP]) -> Self::F32;
    /// Returns the sum of the lanes of each vector, in the order of [`Self::sums`].
    #[inline(always)]
    fn sums_of_four(self, vectors: [Self::F32; 4]) -> [f32; 4] {
        vectors.map(|vector| {
            let mut lanes = self.to_array(vector);
            for half in [8, 4, 2, 1] {
                for l in 0..half {
                    lanes[l] += lanes[l + half];
                }
            }
            lanes[0]
        })
    }
}

/// Vectors as arrays, which the compiler vectorises for the target's baseline.
///
/// Operations of many instructions are functions of their own: inlined into all loops, they would
/// take a third of the time of a build. On x86-64 these are fused products, for which the baseline
/// calls the C library lane by lane, and conversions of 16-bit elements.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Portable {
    #[inline(never)]
    fn load_halves<E: Element>(from: &[E; LANES]) -> [f32; LANES] {
        from.map(E::to_f32)
    }

    #[inline(never)]
    fn store_halves<E: Element>(vector: &[f32; LANES], to: &mut [E; LANES]) {
        *to = vector.map(E::from_f32);
    }
}

impl Lanes for Portable {
    type F32 = [f32; LANES];

    const TILE: (usize, usize) = (2, 1);
    const UNROLLS_ROWS: bool = false;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> Self::F32 {
        match E::DTYPE {
            DType::F32 => from.map(E::to_f32),
            DType::F16 | DType::BF16 => Self::load_halves(from),
        }
    }
    #[inline(always)]
    fn store<E: Element>(self, vector: Self::F32, to: &mut [E; LANES]) {
        match E::DTYPE {
            DType::F32 => *to = vector.map(E::from_f32),
            DType::F16 | DType::BF16 => Self::store_halves(&vector, to),
        }
    }
    #[inline(always)]
    fn to_array(self, vector: Self::F32) -> [f32; LANES] {
        vector
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| a[l] + b[l])
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| a[l] - b[l])
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| a[l] * b[l])
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| a[l] / b[l])
    }
    #[cfg_attr(target_arch = "x86_64", inline(never))]
    #[cfg_attr(not(target_arch = "x86_64"), inline(always))]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        from_fn(|l| a[l].mul_add(b[l], c[l]))
    }
    #[inline(always)]
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| if a[l] > b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        from_fn(|l| if a[l] < b[l] { a[l] } else { b[l] })
    }
    #[inline(always)]
    fn sqrt(self, a: Self::F32) -> Self::F32 {
        a.map(f32::sqrt)
    }
    #[inline(never)]
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES] {
        from_fn(|l| from_fn(|k| rows[k][l]))
    }
    #[inline(never)]
    fn transpose_groups(self, rows: [Self::F32; LANES / GROUP]) -> [Self::F32; LANES / GROUP] {
        from_fn(|g| from_fn(|l| rows[l / GROUP][g * GROUP + l % GROUP]))
    }
    #[inline(never)]
    fn sums_of_groups(self, vectors: [Self::F32; LANES / GROUP]) -> Self::F32 {
        from_fn(|k| {
            let group = &vectors[k / GROUP][k % GROUP * GROUP..];
            (group[0] + group[2]) + (group[1] + group[3])
        })
    }
}

/// Prefetches the cache lines of elements `first..first + len` into the L2 cache, which can have
/// more lines on their way than the L1 cache. Elements outside the slice are no error.
#[inline(always)]
pub(crate) fn prefetch_row<T>(of: &[T], first: usize, len: usize) {
    prefetch_lines::<T, false>(of, first, len);
}

/// Prefetches elements that will be overwritten, as [`prefetch_row`] does; no other core keeps
/// their lines.
#[inline(always)]
pub(crate) fn prefetch_output<T>(of: &[T], first: usize, len: usize) {
    prefetch_lines::<T, true>(of, first, len);
}

#[inline(always)]
fn prefetch_lines<T, const TO_WRITE: bool>(of: &[T], first: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        let prefetch = |element: usize| {
            let line = of.as_ptr().wrapping_add(first.wrapping_add(element));
            if TO_WRITE { x86::prefetch_for_writing(line) } else { x86::prefetch(line) }
        };
        (0..len).step_by(CACHE_LINE / size_of::<T>()).for_each(prefetch);
        // A row that begins within a line ends in one more.
        if !of.as_ptr().wrapping_add(first).addr().is_multiple_of(CACHE_LINE) && len > 0 {
            prefetch(len - 1);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (of, first, len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{bf16, f16};

    /// Applies all operations to vectors of all elements, whole and in parts, and returns the bits
    /// of the results.
    struct Everything<'a, E>(&'a [E], &'a [E]);

    impl<E: Element> Loop for Everything<'_, E> {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) -> Vec<u32> {
            let mut bits = vec![];
            for (k, (a, b)) in self.0.as_chunks().0.iter().zip(self.1.as_chunks().0).enumerate() {
                let part = k % (LANES + 1);
                let (a, c, b) = (lanes.load(a), lanes.load_part(&a[..part]), lanes.load(b));
                let results = [
                    c,
                    lanes.add(a, b),
                    lanes.sub(a, b),
                    lanes.mul(a, b),
                    lanes.div(a, b),
                    lanes.mul_add(a, b, c),
                    lanes.max(a, b),
                    lanes.min(a, b),
                    lanes.sqrt(a),
                ];
                for result in results {
                    let (mut stored, mut stored_part) =
                        ([E::default(); LANES], [E::default(); LANES]);
                    lanes.store(result, &mut stored);
                    lanes.store_part(result, &mut stored_part[..part]);
                    bits.extend(stored.iter().chain(&stored_part).map(|x| canonical(x.to_f32())));
                    bits.extend(lanes.to_array(result).map(canonical));
                }
            }
            bits
        }
    }

    /// Transposes and sums squares of 16 vectors, and returns the bits of the results.
    struct Squares<'a>(&'a [f32]);

    impl Loop for Squares<'_> {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) -> Vec<u32> {
            let mut bits = vec![];
            for square in self.0.as_chunks::<LANES>().0.as_chunks::<LANES>().0 {
                let rows = from_fn(|k| lanes.load(&square[k]));
                let four = from_fn(|k| rows[k]);
                for row in lanes.transpose(rows).into_iter().chain(lanes.transpose_groups(four)) {
                    bits.extend(lanes.to_array(row).map(canonical));
                }
                bits.extend(lanes.to_array(lanes.sums(rows)).map(canonical));
                bits.extend(lanes.sums_of_four(four).map(canonical));
                bits.extend(lanes.to_array(lanes.sums_of_groups(four)).map(canonical));
                bits.extend(
                    lanes.to_array(lanes.splat_group(&from_fn(|k| square[0][k]))).map(canonical),
                );
            }
            bits
        }
    }

    #[test]
    fn squares_are_transposed_and_summed_alike() {
        // Values of every size and sign, so that another order of summation gives other bits.
        let values: Vec<f32> = (0..1u32 << 14)
            .map(|k| f32::from_bits(k.wrapping_mul(2_654_435_769) & 0xbfff_ffff))
            .collect();
        let want = Squares(&values).run(Portable);
        for dispatch in Simd::ALL.into_iter().filter_map(Dispatch::new) {
            assert!(dispatch.run(Squares(&values)) == want, "{:?}", dispatch.simd());
        }
    }

    /// Returns the bits, the same ones for each NaN: machines differ in the NaN that they give.
    fn canonical(x: f32) -> u32 {
        if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
    }

    fn compare<E: Element>(element: impl Fn(u32) -> E) {
        let mixed = |factor: u32| {
            (0..1u32 << 14).map(|k| element(k.wrapping_mul(factor))).collect::<Vec<E>>()
        };
        let (mut a, mut b) = (mixed(2_654_435_769), mixed(3_266_489_917));
        let special = [
            0.0,
            -0.0,
            1.0,
            -1.0,
            65504.0,
            65520.0,
            6e-8,
            2e-8,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
        ];
        for (x, y) in special.iter().flat_map(|x| special.iter().map(move |y| (*x, *y))) {
            a.push(E::from_f32(x));
            b.push(E::from_f32(y));
        }
        let want = Everything(&a, &b).run(Portable);
        for dispatch in Simd::ALL.into_iter().filter_map(Dispatch::new) {
            assert!(
                dispatch.run(Everything(&a, &b)) == want,
                "{:?}, {}",
                dispatch.simd(),
                E::DTYPE
            );
        }
    }

    /// Splits two vectors, and returns the pairs of all three components, lane by lane.
    struct Components<'a>(&'a [f32; LANES], &'a [f32; LANES]);

    impl Loop for Components<'_> {
        type Output = Option<[[f32; LANES]; 3]>;
        const MULTIPLIES_PAIRS: bool = true;

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) -> Self::Output {
            V::MULTIPLIES_PAIRS.then(|| {
                lanes
                    .split_pairs(lanes.load(self.0), lanes.load(self.1))
                    .map(|pairs| lanes.to_array(pairs))
            })
        }
    }

    #[test]
    fn an_f32_is_the_sum_of_its_components() {
        // Values of either sign and every mantissa, from 2⁻¹¹⁰ to 2¹²⁷.
        let value = |k: u32| {
            let bits = k.wrapping_mul(2_654_435_769);
            f32::from_bits(bits & 0x807f_ffff | (17 + k % 237) << 23)
        };
        let values: Vec<f32> = (0..1 << 16).map(value).collect();
        for dispatch in Simd::ALL.into_iter().filter_map(Dispatch::new) {
            for pair in values.as_chunks::<LANES>().0.as_chunks::<2>().0 {
                let Some(components) = dispatch.run(Components(&pair[0], &pair[1])) else {
                    break;
                };
                for l in 0..LANES {
                    let halves = components
                        .map(|pairs| [pairs[l].to_bits() << 16, pairs[l].to_bits() & 0xffff_0000]);
                    for (of_pair, half) in pair.iter().zip([0, 1]) {
                        let [first, second, third] =
                            halves.map(|halves| f64::from(f32::from_bits(halves[half])));
                        let x = f64::from(of_pair[l]);
                        assert_eq!(first + second + third, x);
                        assert!(
                            second.abs() <= x.abs() / 256.0 && third.abs() <= x.abs() / 65536.0,
                            "{x}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn instruction_sets_give_the_same_bits() {
        compare(f32::from_bits);
        compare(|bits| f16::from_bits((bits >> 16) as u16));
        compare(|bits| bf16::from_bits((bits >> 16) as u16));
    }
}
