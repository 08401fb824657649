//! Matrix products, `C = A B`, in packed panels (GEMM as in BLIS).
//!
//! `A` is `m × k`, `B` is `k × n`. The product is cut into blocks, one for each level of the memory
//! hierarchy:
//!
//! | block | is | stays in | size for `f32`, AVX-512 |
//! |---|---|---|---|
//! | MR × NR | a tile of C | registers, along KC of `k` | 14 × 32, 1.75 KiB |
//! | MR × KC | a panel of A | L1 cache, while panels of B pass by | 14 × 512, 28 KiB |
//! | KC × NR | a panel of B | L2 cache, streamed through L1 | 512 × 32, 64 KiB |
//! | MC × KC | a block of A: panels | L2 cache, beside that of B | 56 × 512, 112 KiB |
//! | KC × NC | a block of B: panels | L2 cache, while rows of A pass by | 512 × 512, 1 MiB |
//!
//! - MR × NR is 2 × 16 for the baseline of the target, 6 × 16 for AVX2, 14 × 32 for AVX-512 and
//!   32 × 32 for AMX.
//! - KC is at most 512, or 1024 where pairs of `bf16` are multiplied. It is all of `k` if C is
//!   stored in 16 bits, in which a partial sum would be rounded.
//! - MC is about 60, and at least 4 MR.
//! - NC is about 2¹⁸ packed elements divided by those of KC.
//!
//! ```text
//! for each thread: some rows of C              gemm, split
//!   for each NC columns of B                   multiply_stripe
//!     for each KC of k: pack the block of B
//!       for each MC rows of A: pack them       multiply_block, the macro-kernel
//!         for each MR of these rows
//!           for each NR columns: C tile        micro-kernel, then epilogue
//! ```
//!
//! BLIS keeps the block of A in the L2 cache and that of B, shared by all threads, in the L3 cache.
//! Here each thread packs B for itself, into its own L2 cache: to read what another core has just
//! packed would take longer.
//!
//! A packed element is what one lane multiplies: an `f32`, or a pair of `bf16` where the machine
//! multiplies these, see [`PackFormat`]. Panels of A are packed unless the micro-kernel can read
//! their rows where they lie. Products of few rows or columns are not packed at all, see [`dot`].
//!
//! A sum runs over the blocks of `k`, and in each block in the order of `k`, whatever the other
//! blocks and the number of threads are: its bits depend on the sizes of the product alone.

mod amx_pack;
mod blocking;
mod dot;
mod epilogue;
mod macrokernel;
mod microkernel;
mod pack;
mod product;
mod row_sums;

use super::super::runtime::scratch::{PACKED_B, Scratch, TASK};
use crate::Cpu;
use crate::dtype::Element;
use crate::ops::MatrixMut;
use crate::size;
use blocking::{BlockOfB, Blocking};
use dot::gemm_by_dots;
use macrokernel::{PackedBlock, Plan, Stripe, multiply_block, pack_panels};
use microkernel::reads_strided_a;
use pack::PackFormat;
pub(crate) use pack::{load_packed, multiplies_pairs};
pub(crate) use product::{Epilogue, Operand, Product};

/// The largest number of rows of A for which packing B costs more than it saves.
const MAX_ROWS_OF_DOTS: usize = 32;
/// The largest number of columns of B that would leave most of a vector of a tile empty.
const MAX_COLS_OF_DOTS: usize = 3;

/// Computes a product. `out` is of `f32` or of the type of the operands.
pub(crate) fn gemm<E: Element, O: Element>(
    cpu: &Cpu,
    mut product: Product<'_, E>,
    mut out: MatrixMut<'_, Cpu, O>,
) {
    let (m, n, k) = product.shape;
    if m == 0 || (n == 0 && product.row_sums.is_none()) {
        return;
    }
    if k == 0 {
        // Operands without elements may have no data at the places that the strides lead to.
        (product.a, product.b) = (Operand::row_major(&[], 0), Operand::row_major(&[], 0));
    }
    let cpu = &cpu.for_operations(size::product([2, m, n, k]));
    let is_row_major = product.a.k_stride == 1 && product.b.k_stride == 1;
    let has_few = m <= MAX_ROWS_OF_DOTS || n <= MAX_COLS_OF_DOTS;
    if is_row_major && product.row_sums.is_none() && has_few {
        return gemm_by_dots(cpu, &product, out);
    }
    let blocking = Blocking::new::<E, O>(cpu, n, k);
    let Product { a, b, packed_b, epilogue, row_sums, .. } = product;
    // Micro-kernels that can read A where it lies do so: packing would cost more than it saves. AMX
    // is the exception if B has to be packed as well.
    let packs_a = a.k_stride != 1
        || row_sums.is_some()
        || !reads_strided_a::<E>(blocking.format, k)
        || (matches!(blocking.format, PackFormat::AmxTiles { .. }) && packed_b.is_none());
    let plan = Plan { blocking, a, b, packed_b, epilogue, packs_a };
    let len = out.data.len().min(m * out.ld);
    let stripe = Stripe { first_row: 0, rows: m, out: &mut out.data[..len], ld: out.ld, row_sums };
    let threads = cpu.num_threads().min(m.div_ceil(blocking.mr));
    cpu.run(|| split(cpu, &plan, threads, stripe));
}

/// Splits the rows of a stripe evenly between threads.
fn split<E: Element, O: Element>(
    cpu: &Cpu,
    plan: &Plan<'_, E>,
    threads: usize,
    stripe: Stripe<'_, O>,
) {
    if threads <= 1 {
        return multiply_stripe(cpu, plan, stripe);
    }
    let half = threads / 2;
    let rows = stripe.rows * half / threads;
    let (upper, lower) = stripe.split_at(rows);
    cpu.join(|| split(cpu, plan, half, upper), || split(cpu, plan, threads - half, lower));
}

/// Computes a stripe of the output, block of B after block of B.
fn multiply_stripe<E: Element, O: Element>(
    cpu: &Cpu,
    plan: &Plan<'_, E>,
    mut stripe: Stripe<'_, O>,
) {
    let Plan { blocking, b, packed_b, epilogue, packs_a, .. } = *plan;
    let Blocking { k, kc, format, .. } = blocking;
    let mc = blocking.mc();
    let may_pack_a = packs_a || matches!(format, PackFormat::AmxTiles { .. });
    let packed_rows = if may_pack_a { format.panel_rows(mc.min(stripe.rows)) } else { 0 };
    let packed_b_len = if packed_b.is_some() { 0 } else { blocking.packed_block_len() };
    PACKED_B.lend(packed_b_len, |scratch_b| {
        TASK.lend(format.packed_len(kc.min(k)) * packed_rows, |scratch_a| {
            for BlockOfB { cols, ks, packed } in blocking.blocks_of_b() {
                let panels = match packed_b {
                    Some(packed_b) => &packed_b[packed],
                    None => {
                        let to = &mut scratch_b[..packed.len()];
                        pack_panels(cpu, blocking.panels_of_b(b, &cols, &ks), format, false, to);
                        &*to
                    }
                };
                let epilogue = match epilogue {
                    Epilogue::Bias { .. } if ks.end < k => Epilogue::Replace,
                    epilogue => epilogue,
                };
                let block = PackedBlock {
                    first_col: cols.start,
                    nc: cols.len(),
                    first_k: ks.start,
                    kc: ks.len(),
                    continues: ks.start > 0,
                    epilogue,
                    panels,
                };
                for row in (0..stripe.rows).step_by(mc) {
                    let rows = stripe.part(row, mc.min(stripe.rows - row));
                    multiply_block(cpu, plan, &block, rows, scratch_a);
                }
            }
        });
    });
}

/// Returns the number of packed elements of a whole B, `k × n`, for an output of the type of its
/// elements.
pub(crate) fn packed_b_len<E: Element>(cpu: &Cpu, n: usize, k: usize) -> usize {
    Blocking::new::<E, E>(cpu, n, k).packed_b_len()
}

/// Packs a whole B, given as its transpose, for an output of the type of its elements.
pub(crate) fn pack_b<E: Element>(
    cpu: &Cpu,
    b: Operand<'_, E>,
    (n, k): (usize, usize),
    to: &mut [f32],
) {
    let blocking = Blocking::new::<E, E>(cpu, n, k);
    for BlockOfB { cols, ks, packed } in blocking.blocks_of_b() {
        let panels = blocking.panels_of_b(b, &cols, &ks);
        pack_panels(cpu, panels, blocking.format, false, &mut to[packed]);
    }
}

#[cfg(test)]
mod tests {
    use super::blocking::MAX_KC;
    use super::*;
    use crate::dtype::{bf16, f16};
    use crate::simd::{Dispatch, Simd};

    /// Returns `rows` times `cols` small numbers, with `ld` elements from row to row; the elements
    /// between the rows are NaN.
    fn draw<E: Element>((rows, cols): (usize, usize), ld: usize, seed: u32) -> Vec<E> {
        let value = |k: usize| {
            let bits = (k as u32 + seed).wrapping_mul(2_654_435_769) >> 8;
            E::from_f32(bits as f32 / (1 << 23) as f32 - 1.0)
        };
        let of_row = |k: usize| if k % ld < cols { value(k) } else { E::from_f32(f32::NAN) };
        (0..rows * ld).map(of_row).collect()
    }

    /// Checks that a B that was packed before gives the same bits, whatever blocks there are.
    fn a_packed_b_changes_nothing<E: Element>() {
        let available = Simd::ALL.into_iter().filter_map(Dispatch::new);
        for dispatch in available.chain(Dispatch::with_tiles()) {
            let cpu = Cpu { dispatch, ..Cpu::with_threads(2).unwrap() };
            for (m, n, k) in [
                (33, 5, 31),
                (40, 600, 1100),
                (47, 1400, 544),
                (300, 40, 64),
                (64, 64, 0),
                (33, 3, 9),
            ] {
                let (a, b) = (draw::<E>((m, k), k + 1, 1), draw::<E>((n, k), k + 2, 1 << 20));
                let (a, b) = (Operand::row_major(&a[..], k + 1), Operand::row_major(&b[..], k + 2));
                let mut packed = vec![f32::NAN; packed_b_len::<E>(&cpu, n, k)];
                pack_b(&cpu, b, (n, k), &mut packed);
                let outputs = [None, Some(&packed[..])].map(|packed_b| {
                    let mut out = vec![E::default(); m * n];
                    let epilogue = Epilogue::Replace;
                    let product =
                        Product { shape: (m, n, k), a, b, packed_b, epilogue, row_sums: None };
                    gemm(&cpu, product, MatrixMut::contiguous(&mut out[..], m, n));
                    out.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<_>>()
                });
                assert_eq!(outputs[0], outputs[1], "{:?}, {:?}", dispatch.simd(), (m, n, k));
            }
        }
    }

    #[test]
    fn a_packed_b_is_as_long_as_its_blocks() {
        fn check<E: Element, O: Element>(cpu: &Cpu) {
            for (n, k) in [
                (0, 0),
                (0, 9),
                (1, 0),
                (5, 31),
                (16, 512),
                (600, 1100),
                (1400, 544),
                (3000, 513),
                (7, 9000),
            ] {
                let blocking = Blocking::new::<E, O>(cpu, n, k);
                let end = blocking.blocks_of_b().last().map_or(0, |block| block.packed.end);
                assert_eq!(blocking.packed_b_len(), end, "{:?}, {:?}", cpu.dispatch.simd(), (n, k));
            }
            // No machine has so much memory: the length must be large enough to be refused.
            for (n, k) in [(usize::MAX, 1), (1, usize::MAX), (1 << 40, 1 << 40)] {
                assert!(
                    Blocking::new::<E, O>(cpu, n, k).packed_b_len() > usize::MAX / 4,
                    "{:?}",
                    (n, k)
                );
            }
        }
        for dispatch in
            Simd::ALL.into_iter().filter_map(Dispatch::new).chain(Dispatch::with_tiles())
        {
            let cpu = Cpu { dispatch, ..Cpu::on_current_thread() };
            check::<f32, f32>(&cpu);
            check::<f16, f16>(&cpu);
            check::<bf16, bf16>(&cpu);
            check::<bf16, f32>(&cpu);
        }
    }

    #[test]
    fn a_packed_b_changes_nothing_for_any_type() {
        a_packed_b_changes_nothing::<f32>();
        a_packed_b_changes_nothing::<f16>();
        a_packed_b_changes_nothing::<bf16>();
    }

    /// Checks products by AMX, of operands in any order, with row sums, against sums in `f64`. They
    /// are off by at most `units(k)` units of `2⁻²⁴`, by one more for each block and for what a sum
    /// is added to, and by `rounding` where the sum is stored as `bf16`.
    fn products_in_tiles_are_right<E: Element, O: Element>(
        add: bool,
        units: fn(usize) -> f64,
        rounding: f64,
    ) {
        let Some(dispatch) = Dispatch::with_tiles() else { return };
        for (m, n, k) in [
            (33, 5, 1),
            (40, 33, 31),
            (96, 64, 64),
            (150, 70, 415),
            (47, 130, 1100),
            (33, 560, 512),
            (64, 512, 0),
        ] {
            for (a_in_rows, b_in_rows) in
                [(true, true), (true, false), (false, true), (false, false)]
            {
                let shape =
                    |rows: usize, in_rows: bool| if in_rows { (rows, k) } else { (k, rows) };
                let (a_shape, b_shape) = (shape(m, a_in_rows), shape(n, b_in_rows));
                let (a_ld, b_ld) = (a_shape.1 + 3, b_shape.1 + 1);
                let (a, b) = (draw::<E>(a_shape, a_ld, 1), draw::<E>(b_shape, b_ld, 1 << 20));
                let operand = |data, ld, in_rows| {
                    if in_rows {
                        Operand::row_major(data, ld)
                    } else {
                        Operand::col_major(data, ld)
                    }
                };
                let (a, b) = (operand(&a[..], a_ld, a_in_rows), operand(&b[..], b_ld, b_in_rows));
                let (mut row_sums, mut out) = (vec![2f32; m], vec![O::from_f32(3.0); m * n]);
                let epilogue = if add { Epilogue::Add } else { Epilogue::Replace };
                let product = Product {
                    shape: (m, n, k),
                    a,
                    b,
                    packed_b: None,
                    epilogue,
                    row_sums: Some(&mut row_sums),
                };
                let cpu = Cpu { dispatch, ..Cpu::with_threads(2).unwrap() };
                gemm(&cpu, product, MatrixMut::contiguous(&mut out[..], m, n));

                let at = |of: &Operand<'_, E>, row: usize, p: usize| {
                    f64::from(of.data[row * of.row_stride + p * of.k_stride].to_f32())
                };
                let unit = 2f64.powi(-24) * (units(k) + (k / MAX_KC + 4) as f64);
                let check = |got: f32,
                             products: &mut dyn Iterator<Item = f64>,
                             before: f64,
                             rounding: f64| {
                    let (sum, size) =
                        products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                    let (sum, size) = if add { (sum + before, size + before) } else { (sum, size) };
                    let error = (f64::from(got) - sum).abs();
                    assert!(
                        error <= unit * size + rounding * sum.abs(),
                        "{got} for {sum}, {:?}",
                        (m, n, k)
                    );
                };
                for row in 0..m {
                    check(row_sums[row], &mut (0..k).map(|p| at(&a, row, p)), 2.0, 0.0);
                    for col in 0..n {
                        let products = &mut (0..k).map(|p| at(&a, row, p) * at(&b, col, p));
                        check(out[row * n + col].to_f32(), products, 3.0, rounding);
                    }
                }
            }
        }
    }

    /// Products of `bf16` are exact, and a sum has at most `k` roundings.
    #[test]
    fn products_in_tiles_of_bf16_are_right() {
        products_in_tiles_are_right::<bf16, f32>(true, |k| k as f64, 0.0);
        products_in_tiles_are_right::<bf16, f32>(false, |k| k as f64, 0.0);
        products_in_tiles_are_right::<bf16, bf16>(false, |k| k as f64, 2f64.powi(-8));
    }

    /// The bound is that of [`multiply`](crate::simd::amx::Tiles::multiply), with a step more for
    /// each block; where `k` is too small for AMX, vectors have fewer roundings.
    #[test]
    fn products_in_tiles_of_f32_are_right() {
        let of_tiles =
            |k: usize| (6.0 * (k.div_ceil(32) + k / MAX_KC) as f64 + 20.0) * (1.0 + 2f64.powi(-6));
        products_in_tiles_are_right::<f32, f32>(true, of_tiles, 0.0);
        products_in_tiles_are_right::<f32, f32>(false, of_tiles, 0.0);
    }

    /// Only one product of each sum is not zero, so that no component and no product of components
    /// can hide behind the bound of a long sum: five additions of six exact products, and the
    /// products left out, see [`Tiles::multiply`](crate::simd::amx::Tiles::multiply). A value that
    /// is not finite is not lost.
    #[test]
    fn single_products_of_f32_in_tiles_are_right() {
        const K: usize = 64;
        let Some(dispatch) = Dispatch::with_tiles() else { return };
        let cpu = Cpu { dispatch, ..Cpu::on_current_thread() };
        let b_elements = draw::<f32>((K, 32), 32, 1);
        for p in 0..K {
            let values = draw::<f32>((64, 1), 1, 1 + 64 * p as u32);
            let mut a = vec![0f32; 64 * K];
            (0..64).for_each(|row| a[row * K + p] = values[row]);
            a[63 * K + p] = f32::INFINITY;
            let mut out = vec![0f32; 64 * 32];
            let (a, b) = (Operand::row_major(&a[..], K), Operand::col_major(&b_elements[..], 32));
            let product = Product {
                shape: (64, 32, K),
                a,
                b,
                packed_b: None,
                epilogue: Epilogue::Replace,
                row_sums: None,
            };
            gemm(&cpu, product, MatrixMut::contiguous(&mut out[..], 64, 32));
            for (row, out) in out.chunks(32).enumerate() {
                for (got, y) in out.iter().zip(&b_elements[p * 32..]) {
                    let want = f64::from(values[row]) * f64::from(*y);
                    let bound = 8.0 * 2f64.powi(-24) * want.abs();
                    match row {
                        63 => assert!(got.is_nan(), "{got}"),
                        _ => assert!(
                            (f64::from(*got) - want).abs() <= bound,
                            "{got} for {want}, {:?}",
                            (row, p)
                        ),
                    }
                }
            }
        }
    }
}
