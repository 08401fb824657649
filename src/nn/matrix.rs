//! Matrices that have a row for each sample of a batch.

use crate::dtype::Scalar;
use crate::error::Result;
use crate::ops::{Device, Matrix, MatrixMut};
use crate::size::{next_multiple, product};

/// Rows of activations are padded to a multiple of this many elements, so that they begin at
/// multiples of 16 bytes in every element type: with rows of 479 elements, for example, products
/// on tensor cores take five times as long as with rows of 480.
const ROW_ALIGN: usize = 8;

/// Returns the leading dimension of padded rows of `cols` elements. The padding holds zeros.
pub(super) fn padded(cols: usize) -> usize {
    next_multiple(cols, ROW_ALIGN)
}

/// A row-major matrix in a buffer of its own, with room for the rows of the largest batch.
pub(super) struct BatchMatrix<D: Device, T: Scalar> {
    buffer: D::Buffer<T>,
    cols: usize,
    /// The distance between the beginnings of two rows, at least `cols`. The padding holds zeros.
    ld: usize,
}

impl<D: Device, T: Scalar> BatchMatrix<D, T> {
    /// Allocates zeros for `batch_size` rows of `cols` columns without padding.
    pub(super) fn new(device: &D, batch_size: usize, cols: usize) -> Result<Self> {
        Self::with_ld(device, batch_size, cols, cols)
    }

    /// Allocates zeros for `batch_size` rows of `cols` columns with the leading dimension `ld`.
    pub(super) fn with_ld(device: &D, batch_size: usize, cols: usize, ld: usize) -> Result<Self> {
        Ok(Self { buffer: device.alloc(product([batch_size, ld]))?, cols, ld })
    }

    /// Views the first `rows` rows.
    pub(super) fn matrix(&self, rows: usize) -> Matrix<'_, D, T> {
        Matrix { cols: self.cols, ..self.padded_matrix(rows) }
    }

    /// Views the first `rows` rows, for writing.
    pub(super) fn matrix_mut(&mut self, rows: usize) -> MatrixMut<'_, D, T> {
        MatrixMut { cols: self.cols, ..self.padded_matrix_mut(rows) }
    }

    /// Views the first `rows` rows with their padding as further columns.
    pub(super) fn padded_matrix(&self, rows: usize) -> Matrix<'_, D, T> {
        Matrix::contiguous(D::slice(&self.buffer, 0..rows * self.ld), rows, self.ld)
    }

    /// Views the first `rows` rows with their padding as further columns, for writing.
    pub(super) fn padded_matrix_mut(&mut self, rows: usize) -> MatrixMut<'_, D, T> {
        MatrixMut::contiguous(D::slice_mut(&mut self.buffer, 0..rows * self.ld), rows, self.ld)
    }
}
