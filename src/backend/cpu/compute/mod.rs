//! The building blocks that several ops of the CPU share: matrix products, blocks of columns in
//! registers, gradients of rows, and optimizer steps.

pub(super) mod column_sums;
pub(super) mod gemm;
pub(super) mod optimizer;
pub(super) mod row_gradient;
pub(super) mod vector;
