//! The one call into the `gemm` crate, whose interface is raw pointers.

use super::Cpu;

/// A strided view of a matrix: element `(r, c)` lies at `data[r * row_stride + c * col_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Strided<'a> {
    pub(super) data: &'a [f32],
    pub(super) row_stride: usize,
    pub(super) col_stride: usize,
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
}
