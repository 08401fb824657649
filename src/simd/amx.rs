//! AMX: eight registers called tiles, of 16 rows of 64 bytes, and an instruction that multiplies
//! two tiles of `bf16`. Products of `f32` run on it as sums of products of `bf16`.
//!
//! On a machine without AMX the same sums are computed one by one. That is slow, but so the code
//! around can be tested on every machine.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod tiles;

use std::array::from_fn;

use super::LANES;

/// The rows and columns of the output whose sums [`Tiles::multiply`] holds at once.
pub(crate) const MR: usize = 2 * LANES;
pub(crate) const NR: usize = 2 * LANES;

/// A tile: 16 rows of 16 pairs of `bf16`.
pub(crate) type Tile = [[f32; LANES]; LANES];

/// The elements of a row of a tile: a product of tiles is a step of so many along `k`.
pub(crate) const K_STEP: usize = 2 * LANES;

/// 16 or 32 rows of `bf16`, which make one or two tiles, where they lie in a matrix: `ld` elements
/// from row to row.
#[derive(Clone, Copy)]
pub(crate) struct StridedRows<'a> {
    pub(crate) elements: &'a [u16],
    pub(crate) ld: usize,
    pub(crate) tiles: usize,
}

/// The number of `bf16` that an `f32` is the sum of: each holds eight of its 24 bits.
pub(crate) const COMPONENTS_OF_F32: usize = 3;

/// The components of A and of B that are multiplied, in the order of the sum, for `f32`. The other
/// products are less than 2⁻²³ of the whole one, see [`Tiles::multiply`].
const PRODUCTS_OF_F32: [(usize, usize); 6] = [(2, 0), (1, 0), (1, 1), (0, 1), (0, 0), (0, 2)];
/// The components of A and of B that are multiplied for `bf16`, which has one.
const PRODUCTS_OF_BF16: [(usize, usize); 1] = [(0, 0)];

/// Returns whether the machine has AMX and the system lets this process use it.
pub(super) fn is_available() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    return tiles::are_available();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
    return false;
}

/// The tile registers of the thread that made it, until it is dropped.
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

    /// Multiplies a panel of A, of 16 or 32 rows, by a panel of B, of 16 or 32 columns, in `steps`
    /// steps of 32 along `k`. A step of a panel is its components, one after the other, of one or
    /// two tiles each. A tile of `a` holds the pairs of 16 rows; one of `b` those of 16 columns,
    /// transposed. Sums of rows and columns outside the panels get any value.
    ///
    /// The sum of `n` products `xᵢ yᵢ` of one component each is off by no more than `(n / 32 + 17)
    /// u Σ |xᵢ yᵢ|`, with `u = 2⁻²⁴` and `n` a multiple of 32: in a step 16 exact products are
    /// added to each of two sums, these to one another, and the result to that of the steps before.
    ///
    /// Three components `x = x₁ + x₂ + x₃`, the first two rounded to nearest, have `|x₂| ≤ 2⁻⁸ |x|`
    /// and `|x₃| ≤ 2⁻¹⁶ |x|`. The products left out, `x₂ y₃ + x₃ y₂ + x₃ y₃`, are at most `(2 +
    /// 2⁻⁸) u |x y|`. The products summed are at most `(1 + 2⁻⁸ + 2⁻¹⁶)² Σ |xᵢ yᵢ|`, less than `1 +
    /// 2⁻⁶` times the sum, and reach the result in `6 n / 32` additions. So the sum is off by no
    /// more than `(6 n / 32 + 20) u (1 + 2⁻⁶) Σ |xᵢ yᵢ|`, which is less than `n u Σ |xᵢ yᵢ|`, the
    /// bound of `n` fused products one after the other, for every `n` from 32 on.
    pub(crate) fn multiply(
        &self,
        a: &[Tile],
        b: &[Tile],
        components: usize,
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(tiles) = &self.configured {
            return tiles.multiply(a, b, components, steps, sums);
        }
        multiply_one_by_one(a, b, components, steps, sums);
    }

    /// Multiplies as [`Self::multiply`] does, with rows of `bf16` of A that are not packed.
    pub(crate) fn multiply_strided(
        &self,
        a: StridedRows<'_>,
        b: &[Tile],
        steps: usize,
        sums: &mut [[f32; NR]; MR],
    ) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if let Some(tiles) = &self.configured {
            return tiles.multiply_strided(a, b, steps, sums);
        }
        multiply_one_by_one(&a.packed(steps), b, 1, steps, sums);
    }
}

impl StridedRows<'_> {
    /// Returns the rows packed, as [`Tiles::multiply`] takes them.
    fn packed(&self, steps: usize) -> Vec<Tile> {
        let packed = |row: usize, p: usize| {
            let pair = &self.elements[row * self.ld + p..][..2];
            f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16)
        };
        let tile = |step: usize, tile: usize| {
            from_fn(|row| from_fn(|pair| packed(tile * LANES + row, step * K_STEP + 2 * pair)))
        };
        (0..steps)
            .flat_map(|step| (0..self.tiles).map(move |of_step| tile(step, of_step)))
            .collect()
    }
}

/// Computes what the instruction does: for each two tiles it sums the products of the first halves
/// of the pairs and those of the second halves, each sum in order and fused; it adds both, and the
/// result to the sum of the tiles before. The instruction also takes subnormal numbers for zeros.
fn multiply_one_by_one(
    a: &[Tile],
    b: &[Tile],
    components: usize,
    steps: usize,
    sums: &mut [[f32; NR]; MR],
) {
    let halves = |pair: f32| {
        [f32::from_bits(pair.to_bits() << 16), f32::from_bits(pair.to_bits() & 0xffff_0000)]
    };
    let products =
        if components == COMPONENTS_OF_F32 { &PRODUCTS_OF_F32[..] } else { &PRODUCTS_OF_BF16 };
    *sums = [[0.0; NR]; MR];
    if steps == 0 {
        return;
    }
    for (a, b) in a.chunks(a.len() / steps).zip(b.chunks(b.len() / steps)) {
        for &(of_a, of_b) in products {
            let (a, b) = (component(a, of_a, components), component(b, of_b, components));
            for (row, a) in a.as_flattened().iter().enumerate() {
                for (col, sum) in sums[row].iter_mut().enumerate().take(b.len() * LANES) {
                    let mut sums_of_halves = [0f32; 2];
                    for (a, b) in a.iter().zip(b[col / LANES]) {
                        let (x, y) = (halves(*a), halves(b[col % LANES]));
                        sums_of_halves = [
                            x[0].mul_add(y[0], sums_of_halves[0]),
                            x[1].mul_add(y[1], sums_of_halves[1]),
                        ];
                    }
                    *sum += sums_of_halves[0] + sums_of_halves[1];
                }
            }
        }
    }
}

/// Returns the tiles of one component of a step.
fn component(step: &[Tile], component: usize, components: usize) -> &[Tile] {
    let tiles = step.len() / components;
    &step[component * tiles..][..tiles]
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
            let pair = |k: usize| {
                f32::from_bits(
                    element(2 * k as u32 + seed) | element(2 * k as u32 + 1 + seed) << 16,
                )
            };
            (0..len).map(|t| from_fn(|r| from_fn(|c| pair((t * LANES + r) * LANES + c)))).collect()
        };
        for components in [1, COMPONENTS_OF_F32] {
            for (row_tiles, col_tiles, steps) in
                [(2, 2, 0), (2, 2, 1), (1, 2, 3), (2, 1, 13), (1, 1, 2)]
            {
                let of = |tiles_per_component: usize| steps * components * tiles_per_component;
                let (a, b) = (tiles(of(row_tiles), 1), tiles(of(col_tiles), 1 << 20));
                let (mut got, mut want) = ([[0f32; NR]; MR], [[0f32; NR]; MR]);
                Tiles::new().multiply(&a, &b, components, steps, &mut got);
                multiply_one_by_one(&a, &b, components, steps, &mut want);
                for (row, (got, want)) in got.iter().zip(&want).enumerate().take(row_tiles * LANES)
                {
                    let bits =
                        |sums: &[f32; NR]| sums.map(f32::to_bits)[..col_tiles * LANES].to_vec();
                    assert_eq!(
                        bits(got),
                        bits(want),
                        "row {row}, {:?}",
                        (components, row_tiles, col_tiles, steps)
                    );
                }
                if components == 1 {
                    let ld = steps * K_STEP + 5;
                    let elements: Vec<u16> =
                        (0..row_tiles * LANES * ld).map(|k| element(k as u32) as u16).collect();
                    // The last row is followed by nothing.
                    let rows = StridedRows {
                        elements: &elements[..elements.len() - 5],
                        ld,
                        tiles: row_tiles,
                    };
                    Tiles::new().multiply_strided(rows, &b, steps, &mut got);
                    multiply_one_by_one(&rows.packed(steps), &b, 1, steps, &mut want);
                    let bits = |sums: &[[f32; NR]; MR]| {
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
