//! The arguments of a product: its operands and its epilogue.

use crate::dtype::Element;

/// The product `C = A B`, `m × k` times `k × n`, followed by an [`Epilogue`].
pub(crate) struct Product<'a, E> {
    /// `(m, n, k)`.
    pub(crate) shape: (usize, usize, usize),
    /// A, `m × k`.
    pub(crate) a: Operand<'a, E>,
    /// The transpose of B, `n × k`.
    pub(crate) b: Operand<'a, E>,
    /// B as packed by [`pack_b`](super::pack_b) for such an output, if it was packed before.
    pub(crate) packed_b: Option<&'a [f32]>,
    pub(crate) epilogue: Epilogue<'a>,
    /// The sum of each row of A, `[m]`, if it is wanted: overwritten or added to, as C is.
    pub(crate) row_sums: Option<&'a mut [f32]>,
}

/// An operand of a product: A (`m × k`) or the transpose of B (`n × k`), so that a row of an
/// operand is a row of A or a column of B, and packing is the same for both.
///
/// Element `(row, p)` lies at `data[row * row_stride + p * k_stride]`, and one of the strides is 1.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a, E> {
    pub(crate) data: &'a [E],
    pub(crate) row_stride: usize,
    pub(crate) k_stride: usize,
}

impl<'a, E: Element> Operand<'a, E> {
    /// Makes an operand of which each row is contiguous, with `ld` elements from row to row.
    pub(crate) fn row_major(data: &'a [E], ld: usize) -> Self {
        Self { data, row_stride: ld, k_stride: 1 }
    }

    /// Makes an operand of which each column is contiguous, with `ld` elements from column to
    /// column.
    pub(crate) fn col_major(data: &'a [E], ld: usize) -> Self {
        Self { data, row_stride: 1, k_stride: ld }
    }

    /// Returns columns `first_k..first_k + kc` of a row of a row-major operand.
    #[inline(always)]
    pub(super) fn row(&self, row: usize, first_k: usize, kc: usize) -> &'a [E] {
        &self.data[row * self.row_stride + first_k..][..kc]
    }
}

/// The operation between a sum and the output.
#[derive(Clone, Copy)]
pub(crate) enum Epilogue<'a> {
    /// The sum overwrites the output.
    Replace,
    /// The sum is added to the output.
    Add,
    /// The bias of the column is added to the sum, ReLU is applied if `relu`, and the result
    /// overwrites the output.
    Bias { bias: &'a [f32], relu: bool },
}
