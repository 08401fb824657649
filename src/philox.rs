//! Philox 4x32-10, the counter-based random generator of Salmon et al., *Parallel random numbers:
//! as easy as 1, 2, 3* (SC'11).
//!
//! A value is a pure function of a key and a counter, so that any thread, on any device, draws the
//! same one.

/// Returns four uniform 32-bit values: the block of Philox 4x32-10 for `counter` under `key`.
#[inline]
pub fn philox4x32(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    let ([mut k0, mut k1], mut c) = (key, counter);
    for _ in 0..10 {
        let p0 = u64::from(c[0]) * 0xD251_1F53;
        let p1 = u64::from(c[2]) * 0xCD9E_8D57;
        c = [(p1 >> 32) as u32 ^ c[1] ^ k0, p1 as u32, (p0 >> 32) as u32 ^ c[3] ^ k1, p0 as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    c
}

/// A stream of random numbers, drawn from [`philox4x32`].
///
/// The generator is counter-based: it has no state but a position. A value depends on three numbers
/// alone, so that any part of a stream can be drawn anywhere, in any order, with the same result.
///
/// - The **seed** is the key, 64 bits. One seed drives a whole experiment.
/// - The **stream** is the upper half of the counter, 64 bits. Streams of one seed never overlap:
///   give one to each table, thread or epoch.
/// - The **position** counts the 32-bit values drawn so far. A stream has 2⁶⁶ of them, and
///   [`Self::set_position`] reaches the first 2⁶⁴. The value at position `p` is
///   `philox4x32([seed, seed >> 32], [p / 4, (p / 4) >> 32, stream, stream >> 32])[p % 4]`, each
///   cut to 32 bits.
///
/// ```
/// use bagdot::{Philox, philox4x32};
///
/// let mut random = Philox::new(42, 3);
/// random.set_position(1001);
/// assert_eq!(random.next_u32(), philox4x32([42, 0], [250, 0, 3, 0])[1]);
/// ```
///
/// # Distributions
///
/// The generator implements `Rng` and `SeedableRng` of the crate `rand_core`, and so samples every
/// distribution of `rand` and `rand_distr`:
///
/// ```
/// use bagdot::Philox;
/// use rand_distr::{Distribution, Zipf};
///
/// // Ids of a table of 1000 rows, some far more frequent than others.
/// let zipf = Zipf::new(1000.0, 1.05)?;
/// let ids: Vec<f64> = zipf.sample_iter(Philox::new(7, 0)).take(5000).collect();
/// assert!(ids.iter().all(|&id| (1.0..=1000.0).contains(&id)));
/// let share = |id| ids.iter().filter(|&&other| other == id).count() as f64 / 5000.0;
/// // Probabilities of 0.156 and 0.075. The standard errors are below 0.006.
/// assert!((share(1.0) - 0.156).abs() < 0.03 && (share(2.0) - 0.075).abs() < 0.03);
/// # Ok::<(), rand_distr::ZipfError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Philox {
    key: [u32; 2],
    stream: u64,
    /// The number of the block after the one in `buffer`.
    block: u64,
    buffer: [u32; 4],
    /// The number of values of `buffer` that have been drawn.
    used: usize,
}

impl Philox {
    /// Returns stream `stream` of the generator with this seed, at position 0.
    pub fn new(seed: u64, stream: u64) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], stream, block: 0, buffer: [0; 4], used: 4 }
    }

    /// Returns the number of 32-bit values drawn so far, modulo 2⁶⁴.
    pub fn position(&self) -> u64 {
        self.block.wrapping_mul(4).wrapping_add(self.used as u64).wrapping_sub(4)
    }

    /// Moves to a position of the stream, forwards or backwards, in constant time.
    pub fn set_position(&mut self, position: u64) {
        self.block = position / 4;
        self.used = 4;
        for _ in 0..position % 4 {
            self.next_u32();
        }
    }

    /// Draws a value that is uniform in all 32-bit values.
    pub fn next_u32(&mut self) -> u32 {
        if self.used == 4 {
            let counter = [
                self.block as u32,
                (self.block >> 32) as u32,
                self.stream as u32,
                (self.stream >> 32) as u32,
            ];
            self.buffer = philox4x32(self.key, counter);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// Draws a value that is uniform in all 64-bit values: two 32-bit values, the upper half first.
    pub fn next_u64(&mut self) -> u64 {
        u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
    }

    /// Draws a multiple of 2⁻⁵³ that is uniform in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * 2f64.powi(-53)
    }

    /// Draws a standard normal value by the Box-Muller transform.
    pub fn normal(&mut self) -> f64 {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let (u, v) = (1.0 - self.uniform(), self.uniform());
        (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
    }

    /// Draws an integer that is uniform in `0..bound`, without bias. `bound` is at least 1.
    pub fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0);
        // Values past the largest multiple of `bound` are drawn again.
        let limit = u64::MAX - u64::MAX % bound;
        loop {
            let value = self.next_u64();
            if value < limit {
                return value % bound;
            }
        }
    }

    /// Shuffles the slice, every order equally likely (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

mod rand_traits {
    use std::convert::Infallible;

    use rand_core::{SeedableRng, TryRng, utils};

    use super::Philox;

    /// A generator that never fails, so that `rand_core::Rng` is implemented, too.
    impl TryRng for Philox {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            Ok(self.next_u32())
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            Ok(self.next_u64())
        }

        fn try_fill_bytes(&mut self, target: &mut [u8]) -> Result<(), Infallible> {
            utils::fill_bytes_via_next_word(target, || self.try_next_u32())
        }
    }

    impl SeedableRng for Philox {
        /// The seed and the stream, both in little-endian order.
        type Seed = [u8; 16];

        fn from_seed(seed: [u8; 16]) -> Self {
            let bits = u128::from_le_bytes(seed);
            Self::new(bits as u64, (bits >> 64) as u64)
        }

        /// Returns stream 0 of the generator with this seed: neighbouring seeds need no mixing.
        fn seed_from_u64(seed: u64) -> Self {
            Self::new(seed, 0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that the authors of Philox publish with their code (Random123,
    /// `kat_vectors`, philox4x32 10).
    #[test]
    fn known_answers() {
        assert_eq!(
            philox4x32([0; 2], [0; 4]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let (key, counter) =
            ([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]);
        assert_eq!(philox4x32(key, counter), [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn moments() {
        let mut random = Philox::new(7, 1);
        let n = 200_000;
        let (mut sum, mut squares) = (0.0, 0.0);
        for _ in 0..n {
            let x = random.normal();
            sum += x;
            squares += x * x;
        }
        // Standard errors: 1/sqrt(n) = 0.0022 and sqrt(2/n) = 0.0032; five of them never happen by
        // chance.
        assert!((sum / f64::from(n)).abs() < 0.011 && (squares / f64::from(n) - 1.0).abs() < 0.016);
    }

    #[test]
    fn shuffles_are_permutations_and_differ() {
        let order = |stream| {
            let mut items: Vec<usize> = (0..100).collect();
            Philox::new(1, stream).shuffle(&mut items);
            items
        };
        let mut sorted = order(1);
        assert_ne!(sorted, order(2));
        sorted.sort_unstable();
        assert!(sorted.iter().copied().eq(0..100));
    }

    #[test]
    fn positions_count_values() {
        let mut random = Philox::new(u64::MAX - 1, 1 << 40 | 5);
        let values: Vec<u32> = (0..11).map(|_| random.next_u32()).collect();
        assert_eq!(random.position(), 11);
        for position in [7, 4, 0, 10, 9] {
            random.set_position(position as u64);
            assert_eq!(random.position(), position as u64);
            assert_eq!(random.next_u32(), values[position]);
        }
        random.set_position(6 << 40 | 3);
        let block = 6_u64 << 38;
        let counter = [block as u32, (block >> 32) as u32, 5, 1 << 8];
        assert_eq!(random.next_u32(), philox4x32([u32::MAX - 1, u32::MAX], counter)[3]);
    }

    #[test]
    fn the_traits_of_rand_draw_the_same_values() {
        use rand_core::{Rng, SeedableRng};
        let seed = (u128::from(u64::MAX - 6) << 64 | 0x0123_4567_89ab_cdef).to_le_bytes();
        let mut values = Philox::new(0x0123_4567_89ab_cdef, u64::MAX - 6);
        let mut random = Philox::from_seed(seed);
        assert_eq!(Rng::next_u32(&mut random), values.next_u32());
        assert_eq!(Rng::next_u64(&mut random), values.next_u64());
        let mut bytes = [0; 7];
        random.fill_bytes(&mut bytes);
        let [first, second] = [values.next_u32().to_le_bytes(), values.next_u32().to_le_bytes()];
        assert_eq!((&bytes[..4], &bytes[4..]), (&first[..], &second[..3]));
        assert_eq!(Philox::seed_from_u64(9).next_u64(), Philox::new(9, 0).next_u64());
    }
}
