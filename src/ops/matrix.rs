//! Row-major matrices with a leading dimension, over a device's views.

use super::views::{Memory, View, ViewMut};
use crate::dtype::Scalar;
use crate::error::{Result, expect_at_least, expect_size, invalid};

/// A row-major matrix: element `(r, c)` lies at `data[r * ld + c]`.
pub struct Matrix<'a, M: Memory, T: Scalar> {
    /// The elements, at least `(rows - 1) * ld + cols`; none are needed without rows or columns.
    pub data: View<'a, M, T>,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub cols: usize,
    /// The leading dimension: the distance between the first elements of two rows, in elements, at
    /// least `cols`.
    pub ld: usize,
}

impl<M: Memory, T: Scalar> Clone for Matrix<'_, M, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<M: Memory, T: Scalar> Copy for Matrix<'_, M, T> {}

/// A [`Matrix`] for writing.
pub struct MatrixMut<'a, M: Memory, T: Scalar> {
    /// The elements, at least `(rows - 1) * ld + cols`; none are needed without rows or columns.
    pub data: ViewMut<'a, M, T>,
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub cols: usize,
    /// The leading dimension: the distance between the first elements of two rows, in elements, at
    /// least `cols`.
    pub ld: usize,
}

impl<'a, M: Memory, T: Scalar> Matrix<'a, M, T> {
    /// Makes a matrix `[rows, cols]` without gaps between its rows. Ops check that `data` has at
    /// least as many elements.
    pub fn contiguous(data: impl Into<View<'a, M, T>>, rows: usize, cols: usize) -> Self {
        Self { data: data.into(), rows, cols, ld: cols }
    }

    /// Checks the shape against the one that the op needs, and the data against the shape.
    pub(crate) fn check(
        &self,
        op: &'static str,
        name: MatrixName,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        name.check(op, [self.rows, self.cols, self.ld, self.data.len()], rows, cols)
    }
}

impl<'a, M: Memory, T: Scalar> MatrixMut<'a, M, T> {
    /// Makes a matrix `[rows, cols]` without gaps between its rows. Ops check that `data` has at
    /// least as many elements.
    pub fn contiguous(data: impl Into<ViewMut<'a, M, T>>, rows: usize, cols: usize) -> Self {
        Self { data: data.into(), rows, cols, ld: cols }
    }

    /// Reborrows the matrix for a shorter time.
    pub fn reborrow(&mut self) -> MatrixMut<'_, M, T> {
        MatrixMut { data: self.data.reborrow(), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// Borrows the matrix for reading.
    pub fn as_matrix(&self) -> Matrix<'_, M, T> {
        Matrix { data: self.data.as_view(), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// Checks the shape against the one that the op needs, and the data against the shape.
    pub(crate) fn check(
        &self,
        op: &'static str,
        name: MatrixName,
        rows: usize,
        cols: usize,
    ) -> Result<()> {
        name.check(op, [self.rows, self.cols, self.ld, self.data.len()], rows, cols)
    }
}

/// The names of a matrix argument and of its sizes, for error messages.
#[derive(Clone, Copy)]
pub(crate) struct MatrixName {
    pub(crate) data: &'static str,
    pub(crate) rows: &'static str,
    pub(crate) cols: &'static str,
    pub(crate) ld: &'static str,
}

/// Makes the [`MatrixName`] of an argument, as in `matrix_name!("input")`.
macro_rules! matrix_name {
    ($name:literal) => {
        $crate::ops::matrix::MatrixName {
            data: concat!($name, ".data"),
            rows: concat!($name, ".rows"),
            cols: concat!($name, ".cols"),
            ld: concat!($name, ".ld"),
        }
    };
}
pub(crate) use matrix_name;

/// The largest leading dimension: no machine has the memory for a second row. Backends compute
/// addresses up to a few thousand rows past the last one to prefetch them, which do not overflow.
const MAX_LD: usize = 1 << 48;

impl MatrixName {
    fn check(
        self,
        op: &'static str,
        [rows, cols, ld, extent]: [usize; 4],
        want_rows: usize,
        want_cols: usize,
    ) -> Result<()> {
        expect_size(op, self.rows, rows, want_rows)?;
        expect_size(op, self.cols, cols, want_cols)?;
        if ld < cols {
            return Err(invalid(op, self.ld, format!("{ld} is less than the {cols} columns")));
        }
        // Backends rely on it even if there is nothing to read: without columns, or with one row.
        let fits = ld <= MAX_LD
            && rows.checked_mul(ld).is_some_and(|elements| elements <= isize::MAX as usize);
        if !fits {
            return Err(invalid(
                op,
                self.ld,
                format!("{ld}, but no memory has room for {rows} rows so far apart"),
            ));
        }
        if rows == 0 || cols == 0 {
            return Ok(());
        }
        // The last row need not be followed by its gap.
        expect_at_least(op, self.data, extent, (rows - 1) * ld + cols)
    }
}
