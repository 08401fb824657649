//! [`cast`](crate::ops::cast) on a CUDA device: kernels/cast.cu says how.

use super::Cuda;
use super::kernels::{Cast as Kernel, Grid};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::cast::{Cast, CastOps};

/// Threads of a block, as the kernel is compiled.
const THREADS: u32 = 256;
/// Elements that a thread takes at once.
const RUN: usize = 4;

impl CastOps for Cuda {
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()> {
        let Cast { factor, from, to } = args;
        let is_packed = from.ld == from.cols && to.ld == to.cols;
        let (rows, cols) =
            if is_packed { (to.rows.min(1), to.rows * to.cols) } else { (to.rows, to.cols) };
        let of_row = Grid::looping(cols.div_ceil(RUN), THREADS, Grid::FILLING);
        let kernel = Kernel {
            from: from.data.on(self)?,
            to: to.data.on(self)?,
            from_ld: from.ld as u64,
            to_ld: to.ld as u64,
            rows: rows as u64,
            cols: cols as u64,
            factor,
        };
        let grid = Grid::new((of_row.blocks.0, rows.min(Grid::MAX_Y) as u32), THREADS);
        // SAFETY: the function is the kernel's, from `A` to `B`. The op has been validated: both
        // matrices have the rows, columns and distances that are passed, and what is written is an
        // exclusive view. Rows without gaps are one row of as many elements.
        unsafe { kernel.launch(self, self.inner.kernels.cast.of::<A, B>(), grid) }
    }
}
