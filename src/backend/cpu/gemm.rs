//! The one call into the `gemm` crate, whose interface is raw pointers, and the product of matrices of other types than `f32`.

use super::Cpu;
use crate::dtype::Element;
use crate::ops::MatrixMut;

/// Rows and columns that a product of 16-bit elements computes at once.
const BLOCK: (usize, usize) = (16, 64);

/// A strided view of a matrix: element `(r, c)` lies at `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a, E = f32> {
    pub(super) data: &'a [E],
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
}

impl<'a, E: Element> Strided<'a, E> {
    /// The same matrix, if its elements are `f32`: else this panics, or the elements are of no meaning.
    pub(super) fn as_f32(self) -> Strided<'a> {
        Strided { data: bytemuck::cast_slice(self.data), row_stride: self.row_stride, col_stride: self.col_stride }
    }

    fn at(&self, row: usize, col: usize) -> f32 {
        self.data[row * self.row_stride + col * self.col_stride].to_f32()
    }
}

/// The number of elements that a strided `[rows, cols]` matrix reaches over.
fn reach(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> usize {
    if rows == 0 || cols == 0 { 0 } else { (rows - 1) * row_stride + (cols - 1) * col_stride + 1 }
}

impl Cpu {
    /// `out = lhs rhs`, or `out += lhs rhs`: `[m, k]` times `[k, n]`, with `out` row-major.
    pub(super) fn gemm(
        &self,
        (m, n, k): (usize, usize, usize),
        lhs: Strided<'_>,
        rhs: Strided<'_>,
        out: &mut [f32],
        out_ld: usize,
        accumulate: bool,
    ) {
        if m == 0 || n == 0 {
            return;
        }
        assert!(out.len() >= reach(m, n, out_ld, 1) && out_ld >= n, "validated by the op");
        assert!(lhs.data.len() >= reach(m, k, lhs.row_stride, lhs.col_stride), "validated by the op");
        assert!(rhs.data.len() >= reach(k, n, rhs.row_stride, rhs.col_stride), "validated by the op");
        if k == 0 {
            if !accumulate {
                out.chunks_mut(out_ld).take(m).for_each(|row| row[..n].fill(0.0));
            }
            return;
        }
        let threads = match self.num_threads() {
            1 => ::gemm::Parallelism::None,
            threads => ::gemm::Parallelism::Rayon(threads),
        };
        // SAFETY: the strides fit an `isize`, since they lie within slices. By the assertions above, every element that the call
        // addresses, (r, c) with r and c below the sizes that it is given, lies within its slice. `out` is borrowed exclusively, so that it
        // overlaps neither `lhs` nor `rhs`, and its rows do not overlap each other, since `out_ld >= n`. All slices hold initialised
        // values. The CPU features that the crate uses are detected by itself.
        self.install(|| unsafe {
            ::gemm::gemm(
                m,
                n,
                k,
                out.as_mut_ptr(),
                1,
                out_ld as isize,
                accumulate,
                lhs.data.as_ptr(),
                lhs.col_stride as isize,
                lhs.row_stride as isize,
                rhs.data.as_ptr(),
                rhs.col_stride as isize,
                rhs.row_stride as isize,
                1.0,
                1.0,
                false,
                false,
                false,
                threads,
            );
        });
    }

    /// Each element `out = finish(column, sum, out)`, with the sum of a product `[m, k]` times `[k, n]` in `f32`, in the order of its terms.
    pub(super) fn gemm_widened<E: Element, O: Element>(
        &self,
        (m, n, k): (usize, usize, usize),
        lhs: Strided<'_, E>,
        rhs: Strided<'_, E>,
        out: MatrixMut<'_, Self, O>,
        finish: impl Fn(usize, f32, O) -> O + Send + Sync,
    ) {
        let ld = out.ld;
        self.for_each_rows(out.data, m, ld, |first_row, rows| {
            for (block, rows) in rows.chunks_mut(BLOCK.0 * ld).enumerate() {
                let (first_row, height) = (first_row + block * BLOCK.0, rows.len().div_ceil(ld));
                for first_col in (0..n).step_by(BLOCK.1) {
                    let width = BLOCK.1.min(n - first_col);
                    let mut sums = [[0f32; BLOCK.1]; BLOCK.0];
                    let mut of_rhs = [0f32; BLOCK.1];
                    for term in 0..k {
                        let columns = of_rhs[..width].iter_mut().enumerate();
                        columns.for_each(|(c, x)| *x = rhs.at(term, first_col + c));
                        for (r, sums) in sums[..height].iter_mut().enumerate() {
                            let x = lhs.at(first_row + r, term);
                            sums.iter_mut().zip(&of_rhs).for_each(|(sum, y)| *sum += x * y);
                        }
                    }
                    for (row, sums) in rows.chunks_mut(ld).zip(&sums) {
                        let columns = row[first_col..][..width].iter_mut().zip(sums).enumerate();
                        columns.for_each(|(c, (out, sum))| *out = finish(first_col + c, *sum, *out));
                    }
                }
            }
        });
    }
}
