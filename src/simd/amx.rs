//! AMX: registers of 16 rows of 64 bytes, the tiles, and an instruction that multiplies two of them
//! of `bf16`: also for `f32`, as sums of three of these.
//!
//! Where the machine has none, the same sums are computed one by one: slow, but so the code around
//! can be tested everywhere.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::array::from_fn;

use super::LANES;

/// Rows and columns whose products [`Tiles::sum`] sums at once.
pub(crate) const ROWS: usize = 2 * LANES;
pub(crate) const COLS: usize = 2 * LANES;

/// 16 rows of 16 words, each a pair of `bf16`.
pub(crate) type Tile = [[f32; LANES]; LANES];

/// The terms of a step: the elements of a row of a tile.
pub(crate) const TERMS_OF_STEP: usize = 2 * LANES;

/// 16 or 32 rows of `bf16`, one tile of them or two, as they lie: `ld` elements from row to row.
#[derive(Clone, Copy)]
pub(crate) struct Lines<'a> {
    pub(crate) elements: &'a [u16],
    pub(crate) ld: usize,
    pub(crate) tiles: usize,
}

/// How many `bf16` an `f32` is the sum of: of its 24 bits, each holds eight.
pub(crate) const PARTS_OF_F32: usize = 3;

/// Which parts of two `f32` are multiplied. The others are less than 2⁻²³ of the product, see
/// [`Tiles::sum`].
const PRODUCTS_OF_PARTS: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];
const PRODUCTS_OF_WHOLES: [(usize, usize); 1] = [(0, 0)];

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

    /// The sums of products of 16 or 32 rows and as many columns, in `steps` steps of 32 terms. A
    /// step of a factor is its first part, then the others if there are three, each one or two
    /// tiles: of `lhs` the words of 16 rows, of `rhs` those of 16 columns, turned over. Sums of
    /// rows and columns that are not there get any value.
    ///
    /// A sum of `n` products `xᵢ yᵢ` of one part each is off by no more than `(n / 32 + 17) u Σ |xᵢ
    /// yᵢ|`, with `u = 2⁻²⁴` and `n` a multiple of 32: in a step 16 exact products are added to
    /// each of two sums, these to one another, and the result to that of the steps before.
    ///
    /// Three parts `x = x₁ + x₂ + x₃`, the first two rounded to nearest, have `|x₂| ≤ 2⁻⁸ |x|` and
    /// `|x₃| ≤ 2⁻¹⁶ |x|`. What is left out, `x₂ y₃ + x₃ y₂ + x₃ y₃`, is at most `(2 + 2⁻⁸) u |x
    /// y|`. What is summed is at most `(1 + 2⁻⁸ + 2⁻¹⁶)² Σ |xᵢ yᵢ|`, less than `1 + 2⁻⁶` times the
    /// sum, and goes to the result in `6 n / 32` additions. So this is off by no more than `(6 n /
    /// 32 + 20) u (1 + 2⁻⁶) Σ |xᵢ yᵢ|`, which is less than `n u Σ |xᵢ yᵢ|`, the bound of `n` fused
    /// products one after the other, for every `n` from 32 on.
    pub(crate) fn sum(
        &self,
        lhs: &[Tile],
        rhs: &[Tile],
        parts: usize,
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(tiles) = &self.configured {
            return tiles.sum(lhs, rhs, parts, steps, sums);
        }
        sum_one_by_one(lhs, rhs, parts, steps, sums);
    }

    /// As [`Self::sum`], with rows of `bf16` that are not packed.
    pub(crate) fn sum_of_lines(
        &self,
        lhs: Lines<'_>,
        rhs: &[Tile],
        steps: usize,
        sums: &mut [[f32; COLS]; ROWS],
    ) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(tiles) = &self.configured {
            return tiles.sum_of_lines(lhs, rhs, steps, sums);
        }
        sum_one_by_one(&lhs.packed(steps), rhs, 1, steps, sums);
    }
}

impl Lines<'_> {
    /// The tiles that [`Tiles::sum`] would be given.
    fn packed(&self, steps: usize) -> Vec<Tile> {
        let word = |row: usize, term: usize| {
            let pair = &self.elements[row * self.ld + term..][..2];
            f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16)
        };
        let tile = |step: usize, tile: usize| {
            from_fn(|row| from_fn(|w| word(tile * LANES + row, step * TERMS_OF_STEP + 2 * w)))
        };
        (0..steps)
            .flat_map(|step| (0..self.tiles).map(move |of_step| tile(step, of_step)))
            .collect()
    }
}

/// What the instruction computes: for each two tiles the products of the first halves of their
/// words and those of the second halves, each sum in order and fused; then both are added, and to
/// the sum of the tiles before. It also takes subnormal numbers for zeros.
fn sum_one_by_one(
    lhs: &[Tile],
    rhs: &[Tile],
    parts: usize,
    steps: usize,
    sums: &mut [[f32; COLS]; ROWS],
) {
    let halves = |word: f32| {
        [f32::from_bits(word.to_bits() << 16), f32::from_bits(word.to_bits() & 0xffff_0000)]
    };
    let products = if parts == PARTS_OF_F32 { &PRODUCTS_OF_PARTS[..] } else { &PRODUCTS_OF_WHOLES };
    *sums = [[0.0; COLS]; ROWS];
    if steps == 0 {
        return;
    }
    for (lhs, rhs) in lhs.chunks(lhs.len() / steps).zip(rhs.chunks(rhs.len() / steps)) {
        for &(left, right) in products {
            let (lhs, rhs) = (part_of(lhs, left, parts), part_of(rhs, right, parts));
            for (row, lhs) in lhs.as_flattened().iter().enumerate() {
                for (col, sum) in sums[row].iter_mut().enumerate().take(rhs.len() * LANES) {
                    let mut of_halves = [0f32; 2];
                    for (lhs, rhs) in lhs.iter().zip(rhs[col / LANES]) {
                        let (a, b) = (halves(*lhs), halves(rhs[col % LANES]));
                        of_halves =
                            [a[0].mul_add(b[0], of_halves[0]), a[1].mul_add(b[1], of_halves[1])];
                    }
                    *sum += of_halves[0] + of_halves[1];
                }
            }
        }
    }
}

fn part_of(step: &[Tile], part: usize, parts: usize) -> &[Tile] {
    let tiles = step.len() / parts;
    &step[part * tiles..][..tiles]
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
        // Elements from 2⁻³ to 2³ of either sign: no sum is so small that the machine takes it for
        // zero.
        let element = |k: u32| {
            let bits = k.wrapping_mul(2_654_435_769) >> 8;
            bits & 0x807f | (124 + (bits >> 16 & 0xff) % 7) << 7
        };
        let tiles = |len: usize, seed: u32| -> Vec<Tile> {
            let word = |k: usize| {
                f32::from_bits(
                    element(2 * k as u32 + seed) | element(2 * k as u32 + 1 + seed) << 16,
                )
            };
            (0..len).map(|t| from_fn(|r| from_fn(|c| word((t * LANES + r) * LANES + c)))).collect()
        };
        for parts in [1, PARTS_OF_F32] {
            for (row_tiles, col_tiles, steps) in
                [(2, 2, 0), (2, 2, 1), (1, 2, 3), (2, 1, 13), (1, 1, 2)]
            {
                let of = |tiles_of_part: usize| steps * parts * tiles_of_part;
                let (lhs, rhs) = (tiles(of(row_tiles), 1), tiles(of(col_tiles), 1 << 20));
                let (mut got, mut want) = ([[0f32; COLS]; ROWS], [[0f32; COLS]; ROWS]);
                Tiles::new().sum(&lhs, &rhs, parts, steps, &mut got);
                sum_one_by_one(&lhs, &rhs, parts, steps, &mut want);
                for (row, (got, want)) in got.iter().zip(&want).enumerate().take(row_tiles * LANES)
                {
                    let bits =
                        |sums: &[f32; COLS]| sums.map(f32::to_bits)[..col_tiles * LANES].to_vec();
                    assert_eq!(
                        bits(got),
                        bits(want),
                        "row {row}, {:?}",
                        (parts, row_tiles, col_tiles, steps)
                    );
                }
                if parts == 1 {
                    let ld = steps * TERMS_OF_STEP + 5;
                    let elements: Vec<u16> =
                        (0..row_tiles * LANES * ld).map(|k| element(k as u32) as u16).collect();
                    // The last row is followed by nothing.
                    let lines =
                        Lines { elements: &elements[..elements.len() - 5], ld, tiles: row_tiles };
                    Tiles::new().sum_of_lines(lines, &rhs, steps, &mut got);
                    sum_one_by_one(&lines.packed(steps), &rhs, 1, steps, &mut want);
                    let bits = |sums: &[[f32; COLS]; ROWS]| {
                        let rows = sums[..row_tiles * LANES].iter();
                        rows.flat_map(|sums| {
                            sums[..col_tiles * LANES].iter().map(|sum| sum.to_bits())
                        })
                        .collect::<Vec<_>>()
                    };
                    assert_eq!(bits(&got), bits(&want), "{:?}", (row_tiles, col_tiles, steps));
                }
            }
        }
    }
}
