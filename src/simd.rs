//! Instruction sets: found at run time, and one way to run a loop that is compiled for each of
//! them.
//!
//! A [`Loop`] is plain Rust, inlined into one function for each instruction set, where the compiler
//! makes vector code of it. What plain Rust does not say well, rows held in registers and 16-bit
//! elements, it says by [`Lanes`]. Neither reorders a sum nor fuses what is not written as
//! `mul_add`, so results are the same bits for every instruction set, but for products of matrices,
//! see [`Simd::Avx512Bf16`] and [`Simd::Amx`].

pub(crate) mod amx;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::array::from_fn;
use std::fmt;

use crate::dtype::Element;

/// An instruction set that loops on the CPU are compiled for. Results are the same bits for all of
/// them, but for products of matrices where it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Simd {
    /// What every machine of the target has.
    Portable,
    /// AVX2 with FMA and F16C.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
    /// The same with products of pairs of `bf16`. Their sums are rounded otherwise than those of
    /// widened factors, so that products of matrices of `bf16` are not the same bits.
    Avx512Bf16,
    /// The same with tiles of AMX, for which the system is asked. Products of matrices of `bf16`
    /// are summed in yet another order, and subnormal numbers among their factors and sums are
    /// taken for zeros.
    ///
    /// Products of matrices of `f32` run there too, unless they are small: each factor is taken for
    /// the exact sum of three `bf16`, and six of the nine products of these are summed, those that
    /// matter in `f32`. The bound of the error is less than that of sums of fused `f32` products
    /// from 32 terms on, which is where this begins. But what is infinite, or rounds to an infinite
    /// `bf16` (from 3.39e38 on), becomes a NaN in the sums that it is in, and numbers below 2⁻¹¹⁰
    /// lose bits.
    Amx,
}

impl Simd {
    /// All of them, the fastest one last.
    pub const ALL: [Self; 5] =
        [Self::Portable, Self::Avx2, Self::Avx512, Self::Avx512Bf16, Self::Amx];

    /// Whether this machine has it.
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

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dispatch(Simd);

impl Default for Dispatch {
    fn default() -> Self {
        Self(Simd::ALL.into_iter().rfind(|simd| simd.is_available()).unwrap_or(Simd::Portable))
    }
}

impl Dispatch {
    pub(crate) fn new(simd: Simd) -> Option<Self> {
        simd.is_available().then_some(Self(simd))
    }

    /// Tiles that this machine does not have are computed in another way.
    #[cfg(test)]
    pub(crate) fn with_tiles() -> Option<Self> {
        Simd::Avx512Bf16.is_available().then_some(Self(Simd::Amx))
    }

    pub(crate) fn simd(self) -> Simd {
        self.0
    }

    /// Runs what was compiled for this instruction set.
    #[inline]
    pub(crate) fn run<L: Loop>(self, body: L) -> L::Output {
        match self.0 {
            // SAFETY: a `Dispatch` is only made of an instruction set that is available.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => unsafe { x86::run_avx2(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => unsafe { x86::run_avx512(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512Bf16 | Simd::Amx => unsafe { x86::run_avx512_bf16(body) },
            _ => body.run(Portable),
        }
    }
}

/// A loop to be compiled for each instruction set: a struct of what a closure would capture.
///
/// `run`, and what it calls in its hot part, must be `#[inline(always)]`: a function that stays one
/// is compiled for the target's baseline.
pub(crate) trait Loop {
    type Output;
    fn run<V: Lanes>(self, lanes: V) -> Self::Output;
}

/// The bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const CACHE_LINE: usize = 64;

/// The elements of a vector.
pub(crate) const LANES: usize = 16;

/// The elements of a group: a vector has four of them.
pub(crate) const GROUP: usize = 4;

/// Vectors of [`LANES`] values in registers. A value of this type shows that the machine has the
/// instructions.
pub(crate) trait Lanes: Copy + Send + Sync {
    type F32: Copy;

    /// Rows of one value each, and vectors of columns, whose products registers can sum at once.
    const TILE: (usize, usize);
    /// How many sums of products of two lines, each a vector, registers can hold at once: 16 or 4.
    const DOTS: usize = 4;
    /// Whether [`Self::add_products_of_pairs`] is there.
    const MULTIPLIES_PAIRS: bool = false;

    fn splat(self, value: f32) -> Self::F32;
    /// The same values in each group.
    #[inline(always)]
    fn splat_group(self, values: &[f32; GROUP]) -> Self::F32 {
        self.load(&from_fn(|l| values[l % GROUP]))
    }
    /// Stored elements, widened.
    fn load<E: Element>(self, from: &[E; LANES]) -> Self::F32;
    /// Rounded to the nearest stored element.
    fn store<E: Element>(self, vector: Self::F32, to: &mut [E; LANES]);
    /// At most [`LANES`] elements; zeros behind them.
    #[inline(always)]
    fn load_part<E: Element>(self, from: &[E]) -> Self::F32 {
        let mut all = [E::default(); LANES];
        all[..from.len()].copy_from_slice(from);
        self.load(&all)
    }
    /// The first elements, at most [`LANES`].
    #[inline(always)]
    fn store_part<E: Element>(self, vector: Self::F32, to: &mut [E]) {
        let mut all = [E::default(); LANES];
        self.store(vector, &mut all);
        to.copy_from_slice(&all[..to.len()]);
    }
    fn to_array(self, vector: Self::F32) -> [f32; LANES];
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a` where it is larger, else `b`: so a NaN in `b` stays, one in `a` does not.
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a` where it is smaller, else `b`.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sqrt(self, a: Self::F32) -> Self::F32;
    /// Each lane of `c`, and the products of the two `bf16` that this lane of `a` and `b` holds.
    /// Only where [`Self::MULTIPLIES_PAIRS`].
    #[inline(always)]
    fn add_products_of_pairs(self, _a: Self::F32, _b: Self::F32, c: Self::F32) -> Self::F32 {
        c
    }
    /// Pairs of 16-bit elements, as they are, one of each slice in each lane, the first ones of
    /// these; zeros where they have fewer than [`LANES`]. Only where [`Self::MULTIPLIES_PAIRS`].
    #[inline(always)]
    fn pairs<E: Element>(self, _first: &[E], _second: &[E]) -> Self::F32 {
        self.splat(0.0)
    }
    /// Pairs of 16-bit elements, one in each lane, as they are. Only where
    /// [`Self::MULTIPLIES_PAIRS`].
    #[inline(always)]
    fn load_pairs<E: Element>(self, _from: &[[E; 2]; LANES]) -> Self::F32 {
        self.splat(0.0)
    }
    /// Each lane of two vectors as the sum of three `bf16`, the first two rounded to nearest: pairs
    /// of the first, the second and the third ones. The sum is exact for numbers from 2⁻¹¹⁰ on that
    /// round to finite ones; others have a part that is not finite. Only where
    /// [`Self::MULTIPLIES_PAIRS`].
    #[inline(always)]
    fn split_pairs(self, _first: Self::F32, _second: Self::F32) -> [Self::F32; 3] {
        [self.splat(0.0); 3]
    }
    /// Row `l` of the result holds lane `l` of all rows.
    #[inline(always)]
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES] {
        let rows = rows.map(|row| self.to_array(row));
        from_fn(|l| self.load(&from_fn(|k| rows[k][l])))
    }
    /// Lane `l` of the result is the sum of the lanes of `vectors[l]`: the second half is added to
    /// the first one until one lane is left.
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
    /// Group `g` of row `v` becomes group `v` of row `g`.
    #[inline(always)]
    fn transpose_groups(self, rows: [Self::F32; LANES / GROUP]) -> [Self::F32; LANES / GROUP] {
        let rows = rows.map(|row| self.to_array(row));
        from_fn(|g| self.load(&from_fn(|l| rows[l / GROUP][g * GROUP + l % GROUP])))
    }
    /// Lane `4 v + g` of the result is the sum of group `g` of `vectors[v]`: its second half is
    /// added to the first one, then one lane to the other.
    #[inline(always)]
    fn sums_of_groups(self, vectors: [Self::F32; LANES / GROUP]) -> Self::F32 {
        let vectors = vectors.map(|vector| self.to_array(vector));
        self.load(&from_fn(|k| {
            let group = &vectors[k / GROUP][k % GROUP * GROUP..];
            (group[0] + group[2]) + (group[1] + group[3])
        }))
    }
    /// The sum of the lanes of each vector, as in [`Self::sums`].
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

/// No more than the target's baseline.
#[derive(Clone, Copy)]
pub(crate) struct Portable;

impl Lanes for Portable {
    type F32 = [f32; LANES];

    const TILE: (usize, usize) = (2, 1);

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn load<E: Element>(self, from: &[E; LANES]) -> Self::F32 {
        from.map(E::to_f32)
    }
    #[inline(always)]
    fn store<E: Element>(self, vector: Self::F32, to: &mut [E; LANES]) {
        *to = vector.map(E::from_f32);
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
    #[inline(always)]
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
}

/// Asks for the cache lines of some elements, ahead of their use, into the second-level cache: more
/// of them can be on their way there than to the first one. Elements that are not there are no
/// error.
#[inline(always)]
pub(crate) fn prefetch_row<T>(of: &[T], first: usize, len: usize) {
    prefetch_lines::<T, false>(of, first, len);
}

/// The same for elements that will be overwritten: no other core keeps them.
#[inline(always)]
pub(crate) fn prefetch_output<T>(of: &[T], first: usize, len: usize) {
    prefetch_lines::<T, true>(of, first, len);
}

#[inline(always)]
fn prefetch_lines<T, const TO_WRITE: bool>(of: &[T], first: usize, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for element in (0..len).step_by(CACHE_LINE / size_of::<T>()) {
        let line = of.as_ptr().wrapping_add(first.wrapping_add(element));
        if TO_WRITE { x86::prefetch_for_writing(line) } else { x86::prefetch(line) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (of, first, len);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::{bf16, f16};

    /// All operations on vectors of all elements, whole and in parts: the bits of the results.
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

    /// Turned over and summed, 16 vectors after the other 16: the bits of the results.
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
    fn squares_are_turned_over_and_summed_alike() {
        // Of every size and sign, so that another order of summation gives other bits.
        let values: Vec<f32> = (0..1u32 << 14)
            .map(|k| f32::from_bits(k.wrapping_mul(2_654_435_769) & 0xbfff_ffff))
            .collect();
        let want = Squares(&values).run(Portable);
        for dispatch in Simd::ALL.into_iter().filter_map(Dispatch::new) {
            assert!(dispatch.run(Squares(&values)) == want, "{:?}", dispatch.simd());
        }
    }

    /// Which NaN an operation on numbers gives is the machine's business.
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

    /// The words of all three parts, lane by lane.
    struct Parts<'a>(&'a [f32; LANES], &'a [f32; LANES]);

    impl Loop for Parts<'_> {
        type Output = Option<[[f32; LANES]; 3]>;

        #[inline(always)]
        fn run<V: Lanes>(self, lanes: V) -> Self::Output {
            let parts = lanes.split_pairs(lanes.load(self.0), lanes.load(self.1));
            V::MULTIPLIES_PAIRS.then(|| parts.map(|words| lanes.to_array(words)))
        }
    }

    #[test]
    fn an_f32_is_the_sum_of_its_parts() {
        // Of either sign and every mantissa, from 2⁻¹¹⁰ to 2¹²⁷.
        let value = |k: u32| {
            let bits = k.wrapping_mul(2_654_435_769);
            f32::from_bits(bits & 0x807f_ffff | (17 + k % 237) << 23)
        };
        let values: Vec<f32> = (0..1 << 16).map(value).collect();
        for dispatch in Simd::ALL.into_iter().filter_map(Dispatch::new) {
            for pair in values.as_chunks::<LANES>().0.as_chunks::<2>().0 {
                let Some(parts) = dispatch.run(Parts(&pair[0], &pair[1])) else { break };
                for l in 0..LANES {
                    let halves = parts
                        .map(|words| [words[l].to_bits() << 16, words[l].to_bits() & 0xffff_0000]);
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
