//! [`cast`](crate::ops::cast) on a CUDA device. The header of kernels/cast.cu describes the
//! algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::runtime::launch::Grid;
use super::runtime::module::{ByPair, Module};
use super::runtime::params::cast as params;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::cast::{Cast, CastOps};

/// The kernels of kernels/cast.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    cast: ByPair<params::Cast<(), ()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "cast")?;
        Ok(Self { cast: module.by_pair()?, _module: module })
    }
}

impl CastOps for Cuda {
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()> {
        let Cast { factor, from, to } = args;
        let is_packed = from.ld == from.cols && to.ld == to.cols;
        let (rows, cols) =
            if is_packed { (to.rows.min(1), to.rows * to.cols) } else { (to.rows, to.cols) };
        let of_row = Grid::looping(cols.div_ceil(params::RUN), params::THREADS, Grid::FILLING);
        let grid = Grid::new((of_row.blocks.0, rows.min(Grid::MAX_Y) as u32), params::THREADS);
        let parameters = params::Cast {
            from: from.data.on(self)?,
            to: to.data.on(self)?,
            from_ld: from.ld as u64,
            to_ld: to.ld as u64,
            rows: rows as u64,
            cols: cols as u64,
            factor,
        };
        // SAFETY: the function is the instance of the kernel from `A` to `B`. The op has been
        // validated: both matrices have the rows, columns and leading dimensions that are passed,
        // and the one that is written is an exclusive view. A matrix whose rows have no gaps is
        // passed as one row of all its elements.
        unsafe { self.inner.kernels.cast.cast.of::<A, B>().launch(self, grid, parameters) }
    }
}
