//! AMX: registers of 16 rows of 64 bytes, the tiles, and an instruction that multiplies two of them of `bf16`.
//!
//! Where the machine has none, the same sums are computed one by one: slow, but so the code around can be tested everywhere.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use super::LANES;

/// Rows and columns whose products [`Tiles::sum`] sums at once.
pub(crate) const ROWS: usize = 2 * LANES;
pub(crate) const COLS: usize = 2 * LANES;

/// Whether the machine has them, and the system lets this process use them.
pub(super) fn is_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return tiles::are_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

/// The tiles of the thread that made it, until it is dropped.
pub(crate) struct Tiles {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    configured: Option<tiles::Configured>,
}

impl Tiles {
    pub(crate) fn new() -> Self {
        Self {
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            configured: tiles::Configured::new(),
        }
    }

    /// The sums of products of 16 or 32 rows and as many columns. `lhs` holds the words of one row after the other, `rhs` for each word that of all columns;
    /// a word is a pair of `bf16`, and there are whole tiles of `num_words` of them. Sums of rows and columns that are not there get any value.
    pub(crate) fn sum(&self, lhs: &[f32], rhs: &[f32], num_words: usize, sums: &mut [[f32; COLS]; ROWS]) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(tiles) = &self.configured {
            return tiles.sum(lhs, rhs, num_words, sums);
        }
        sum_one_by_one(lhs, rhs, num_words, sums);
    }
}

/// What the instruction computes: for each tile of words the products of their first halves and those of their second halves, each sum in order and
/// fused; then both are added, and to the sum of the tiles before. It also takes subnormal numbers for zeros.
fn sum_one_by_one(lhs: &[f32], rhs: &[f32], num_words: usize, sums: &mut [[f32; COLS]; ROWS]) {
    let halves = |word: f32| [f32::from_bits(word.to_bits() << 16), f32::from_bits(word.to_bits() & 0xffff_0000)];
    let cols = rhs.len().checked_div(num_words).unwrap_or(COLS);
    *sums = [[0.0; COLS]; ROWS];
    for (lhs, sums) in lhs.chunks_exact(num_words.max(1)).zip(sums) {
        for (first, lhs) in (0..num_words).step_by(LANES).zip(lhs.chunks(LANES)) {
            for (col, sum) in sums.iter_mut().enumerate().take(cols) {
                let mut of_halves = [0f32; 2];
                for (w, lhs) in lhs.iter().enumerate() {
                    let (a, b) = (halves(*lhs), halves(rhs[(first + w) * cols + col]));
                    of_halves = [a[0].mul_add(b[0], of_halves[0]), a[1].mul_add(b[1], of_halves[1])];
                }
                *sum += of_halves[0] + of_halves[1];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_and_single_sums_are_the_same_bits() {
        if !is_available() {
            eprintln!("no AMX on this machine");
            return;
        }
        // Elements from 2⁻³ to 2³ of either sign: no sum is so small that the machine takes it for zero.
        let element = |k: u32| {
            let bits = k.wrapping_mul(2_654_435_769) >> 8;
            bits & 0x807f | (124 + (bits >> 16 & 0xff) % 7) << 7
        };
        let words = |len: usize, seed: u32| -> Vec<f32> {
            let word = |k: u32| f32::from_bits(element(2 * k) | element(2 * k + 1) << 16);
            (0..len as u32).map(|k| word(k + seed)).collect()
        };
        for (rows, cols, num_words) in [(32, 32, 0), (32, 32, 16), (16, 32, 48), (32, 16, 208), (16, 16, 32)] {
            let (lhs, rhs) = (words(rows * num_words, 1), words(cols * num_words, 1 << 20));
            let (mut got, mut want) = ([[0f32; COLS]; ROWS], [[0f32; COLS]; ROWS]);
            Tiles::new().sum(&lhs, &rhs, num_words, &mut got);
            sum_one_by_one(&lhs, &rhs, num_words, &mut want);
            for (row, (got, want)) in got.iter().zip(&want).enumerate().take(rows) {
                let bits = |sums: &[f32; COLS]| sums.map(f32::to_bits)[..cols].to_vec();
                assert_eq!(bits(got), bits(want), "row {row} of {rows}, {cols} columns, {num_words} words");
            }
        }
    }
}
