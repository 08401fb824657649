//! The interaction of the features of a sample: their pairwise dot products, or their
//! concatenation.
//!
//! The `F` features `x₀ … x_{F-1}` of a sample are the dense vector, if there is one, and the
//! pooled vectors, all of dimension `D`. The output is the dense vector followed by `<xᵢ, xⱼ>` for
//! all pairs, in one of two orders in use:
//!
//! - [`PairOrder::LowerTriangle`]: (1,0), (2,0), (2,1), … (facebookresearch/dlrm, NVIDIA, HugeCTR);
//! - [`PairOrder::UpperTriangle`]: (0,1), (0,2), …, (1,2), … (TorchRec);
//!
//! with (i,i) in its place if `include_self`; then, if `append_sparse`, all features but the dense
//! vector unchanged; then zeros up to a multiple of `pad_to` columns. [`Interaction::Cat`]
//! concatenates `x₀ … x_{F-1}`.
//!
//! Backward, with `g` the gradient of the output: `dL/dxᵢ = Σⱼ gᵢⱼ xⱼ` over the other member of
//! each pair of `i` (twice `gᵢᵢ xᵢ` for (i,i)). A vector that the output contains unchanged also
//! receives its own columns of `g`.
//!
//! **Numerics.** Features, output and their gradients are of one type, `f32`, `f16` or `bf16`;
//! products and sums are of `f32`, and a result is rounded to that type once. The error of a dot
//! product before that is at most `γ_D Σ|xᵢ xⱼ|`, that of a gradient element at most `γ_{F+1}`
//! times the sum of the absolute terms, in any order of summation. With [`Precision::Tf32`] each
//! factor has an additional relative error of up to 2⁻¹¹. Tensor cores truncate sums instead of
//! rounding them: where they are used (on a GPU, unless elements are `f32` and the precision is
//! [`Precision::Full`]) `γ` is that of 2⁻²³ instead of 2⁻²⁴.
//!
//! If there is no pair (i,i), backends may set `gᵢᵢ` to zero and multiply by it: a feature that is
//! not finite then makes its own gradient NaN, too.
//!
//! # Example
//!
//! The sample has a dense vector `x0` and two pooled vectors `x1` and `x2`, all of dimension 2.
//!
//! ```
//! use bagdot::ops::interaction::{Backward, Features, FeaturesMut, Forward};
//! use bagdot::ops::{Interaction, Matrix, MatrixMut};
//!
//! let cpu = bagdot::Cpu::on_current_thread();
//! let interaction = Interaction::default(); // dot products in the order of `LowerTriangle`
//! let x = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0];
//! let features = Features::Joined { block: Matrix::contiguous(&x, 1, 6), has_dense: true };
//!
//! let width = interaction.width(true, 2, 2);
//! let mut output = vec![0.0_f32; width];
//! let output_view = MatrixMut::contiguous(&mut output, 1, width);
//! Forward::new(interaction, 2, features, output_view).run(&cpu)?;
//! // The dense vector, then <x1, x0>, <x2, x0> and <x2, x1>.
//! assert_eq!(output, [1.0, 2.0, 11.0, 17.0, 39.0]);
//!
//! let (grad_output, mut grad) = ([1.0_f32, 0.0, 1.0, 0.0, 2.0], [0.0_f32; 6]);
//! let grad_output = Matrix::contiguous(&grad_output, 1, width);
//! let grad_features = FeaturesMut::Joined { block: MatrixMut::contiguous(&mut grad, 1, 6) };
//! Backward::new(interaction, 2, features, grad_output, grad_features).run(&cpu)?;
//! // [1, 0] + 1 x1 + 0 x2, then 1 x0 + 2 x2, and 0 x0 + 2 x1.
//! assert_eq!(grad, [4.0, 4.0, 11.0, 14.0, 6.0, 8.0]);
//! # Ok::<(), bagdot::Error>(())
//! ```

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::precision::Precision;
use super::views::ViewMut;
use crate::dtype::Element;
use crate::error::{Result, expect_size, invalid};
use crate::size::{next_multiple, product, sum};

/// The order of the pairs in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum PairOrder {
    /// (1,0), (2,0), (2,1), …: facebookresearch/dlrm, NVIDIA, HugeCTR.
    #[default]
    LowerTriangle,
    /// (0,1), (0,2), …, (1,2), …: TorchRec.
    UpperTriangle,
}

/// The interaction of the features of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Interaction {
    /// All pairwise dot products.
    Dot {
        /// The order of the pairs.
        #[cfg_attr(feature = "serde", serde(default))]
        order: PairOrder,
        /// True if the pairs (i,i) are among the pairs.
        #[cfg_attr(feature = "serde", serde(default))]
        include_self: bool,
        /// True if all features but the dense vector follow the pairs, unchanged.
        #[cfg_attr(feature = "serde", serde(default))]
        append_sparse: bool,
        /// The number of columns of which the output's width is a multiple, by zeros at the end; 1
        /// for no padding.
        #[cfg_attr(feature = "serde", serde(default = "one"))]
        pad_to: usize,
    },
    /// The concatenation of all features.
    Cat,
}

#[cfg(feature = "serde")]
fn one() -> usize {
    1
}

impl Default for Interaction {
    fn default() -> Self {
        Self::Dot {
            order: PairOrder::default(),
            include_self: false,
            append_sparse: false,
            pad_to: 1,
        }
    }
}

/// Returns `1 + 2 + … + n`, which is `n (n + 1) / 2`.
fn triangle(n: usize) -> usize {
    if n.is_multiple_of(2) { product([n / 2, n + 1]) } else { product([n, n / 2 + 1]) }
}

impl Interaction {
    /// Returns the number of pairs among `num_features` features; 0 for [`Self::Cat`]. Saturates at
    /// the largest number.
    pub fn num_pairs(&self, num_features: usize) -> usize {
        match self {
            Self::Dot { include_self: true, .. } => triangle(num_features),
            Self::Dot { include_self: false, .. } => triangle(num_features.saturating_sub(1)),
            Self::Cat => 0,
        }
    }

    /// Returns the number of columns of the output for `num_sparse` pooled vectors of dimension
    /// `dim`, with or without a dense vector. Saturates at the largest number.
    pub fn width(&self, has_dense: bool, num_sparse: usize, dim: usize) -> usize {
        let num_features = sum([num_sparse, usize::from(has_dense)]);
        match self {
            Self::Dot { append_sparse, pad_to, .. } => {
                let copied = if *append_sparse { num_features } else { usize::from(has_dense) };
                next_multiple(
                    sum([product([copied, dim]), self.num_pairs(num_features)]),
                    (*pad_to).max(1),
                )
            }
            Self::Cat => product([num_features, dim]),
        }
    }

    /// Returns the position among the pairs of the pair of features `i` and `j`, in either order.
    /// The result is meaningless if there is no such pair.
    #[inline]
    pub(crate) fn pair_position(&self, num_features: usize, i: usize, j: usize) -> usize {
        let Self::Dot { order, include_self, .. } = *self else { return 0 };
        let (low, high, diagonal) = (i.min(j), i.max(j), usize::from(include_self));
        match order {
            // The rows above have 0 + diagonal, 1 + diagonal, … entries.
            PairOrder::LowerTriangle => high * (high + 2 * diagonal).wrapping_sub(1) / 2 + low,
            // The rows above have F - 1 + diagonal, F - 2 + diagonal, … entries.
            PairOrder::UpperTriangle => {
                low * (2 * (num_features + diagonal) - low - 1) / 2 + high + diagonal - low - 1
            }
        }
    }

    /// Returns the pairs `(i, j)` among `num_features` features in the order of the output; none
    /// for [`Self::Cat`].
    pub fn pairs(&self, num_features: usize) -> impl Iterator<Item = (usize, usize)> {
        let (order, include_self, rows) = match *self {
            Self::Dot { order, include_self, .. } => (order, include_self, num_features),
            Self::Cat => (PairOrder::LowerTriangle, false, 0),
        };
        let diagonal = usize::from(include_self);
        (0..rows).flat_map(move |i| {
            let others = match order {
                PairOrder::LowerTriangle => 0..i + diagonal,
                PairOrder::UpperTriangle => i + 1 - diagonal..rows,
            };
            others.map(move |j| (i, j))
        })
    }
}

/// The backend's side of the op. Call it through [`Forward::run`] and [`Backward::run`], which
/// validate the arguments.
pub trait InteractionOps: Device {
    /// Runs [`Forward`] with arguments that are valid.
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()>;
    /// Runs [`Backward`] with arguments that are valid.
    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()>;
}

/// The features of a batch, so that neither layout that trainers use needs a copy.
pub enum Features<'a, D: Device, E: Element> {
    /// `[batch_size, F * D]`: all features of a sample side by side; the first is the dense vector
    /// if `has_dense`.
    Joined {
        /// The features, `[batch_size, F * D]`.
        block: Matrix<'a, D, E>,
        /// True if the first one is the dense vector, which the output contains unchanged.
        has_dense: bool,
    },
    /// The dense vector `[batch_size, D]` and the pooled vectors `[batch_size, T * D]`.
    Split {
        /// The dense vectors, `[batch_size, D]`: the output of the bottom MLP.
        dense: Matrix<'a, D, E>,
        /// The pooled vectors, `[batch_size, T * D]`.
        sparse: Matrix<'a, D, E>,
    },
}

impl<D: Device, E: Element> Clone for Features<'_, D, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device, E: Element> Copy for Features<'_, D, E> {}

/// The gradient of the features, for writing, in the layout of [`Features`].
pub enum FeaturesMut<'a, D: Device, E: Element> {
    /// The layout of [`Features::Joined`].
    Joined {
        /// The gradient of all features, `[batch_size, F * D]`.
        block: MatrixMut<'a, D, E>,
    },
    /// The layout of [`Features::Split`].
    Split {
        /// The gradient of the dense vectors, `[batch_size, D]`.
        dense: MatrixMut<'a, D, E>,
        /// The gradient of the pooled vectors, `[batch_size, T * D]`.
        sparse: MatrixMut<'a, D, E>,
    },
}

/// The sizes of an interaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) batch_size: usize,
    pub(crate) has_dense: bool,
    /// The number of features, the dense vector among them (F).
    pub(crate) num_features: usize,
    pub(crate) dim: usize,
}

impl<D: Device, E: Element> Features<'_, D, E> {
    /// Returns the sizes. Checks the matrices against each other, and that samples and columns are
    /// at most 2³¹ - 1. [`Interaction::Cat`] takes vectors of any dimensions.
    pub(crate) fn sizes(
        &self,
        op: &'static str,
        interaction: Interaction,
        dim: usize,
    ) -> Result<Sizes> {
        let count = |argument, columns: usize| match (interaction, dim) {
            (Interaction::Cat, _) => Ok(0),
            (_, 0) => Err(invalid(op, "dim", "0, but must be 1 or more")),
            _ if !columns.is_multiple_of(dim) => Err(invalid(
                op,
                argument,
                format!("{columns} is no multiple of the dimension {dim}"),
            )),
            _ => Ok(columns / dim),
        };
        let small = |argument, size| match i32::try_from(size) {
            Ok(_) => Ok(()),
            Err(_) => Err(invalid(op, argument, format!("{size} is more than 2^31 - 1"))),
        };
        match self {
            Self::Joined { block, has_dense } => {
                small("features.block.rows", block.rows)?;
                small("features.block.cols", block.cols)?;
                let num_features = count("features.block.cols", block.cols)?;
                block.check(op, matrix_name!("features.block"), block.rows, block.cols)?;
                if *has_dense && block.cols == 0 {
                    return Err(invalid(
                        op,
                        "features.block.cols",
                        "0, but there is a dense vector",
                    ));
                }
                Ok(Sizes { batch_size: block.rows, has_dense: *has_dense, num_features, dim })
            }
            Self::Split { dense, sparse } => {
                small("features.dense.rows", dense.rows)?;
                small("features.dense.cols", dense.cols)?;
                small("features.sparse.cols", sparse.cols)?;
                let num_sparse = count("features.sparse.cols", sparse.cols)?;
                let dense_cols = if interaction == Interaction::Cat { dense.cols } else { dim };
                dense.check(op, matrix_name!("features.dense"), dense.rows, dense_cols)?;
                sparse.check(op, matrix_name!("features.sparse"), dense.rows, sparse.cols)?;
                Ok(Sizes {
                    batch_size: dense.rows,
                    has_dense: true,
                    num_features: num_sparse + 1,
                    dim,
                })
            }
        }
    }

    fn columns(&self) -> usize {
        match self {
            Self::Joined { block, .. } => block.cols,
            Self::Split { dense, sparse } => sum([dense.cols, sparse.cols]),
        }
    }

    fn width(&self, interaction: Interaction, sizes: Sizes) -> usize {
        match interaction {
            Interaction::Cat => self.columns(),
            Interaction::Dot { .. } => interaction.width(
                sizes.has_dense,
                sizes.num_features - usize::from(sizes.has_dense),
                sizes.dim,
            ),
        }
    }
}

impl Sizes {
    fn flops(&self, interaction: Interaction) -> usize {
        product([2, self.batch_size, interaction.num_pairs(self.num_features), self.dim])
    }
}

/// The arguments of the forward pass.
#[non_exhaustive]
pub struct Forward<'a, D: Device, E: Element> {
    /// The kind of interaction.
    pub interaction: Interaction,
    /// The dimension: the number of elements of a feature (D); ignored for [`Interaction::Cat`].
    pub dim: usize,
    /// The precision of products of `f32`; ignored for other elements.
    pub precision: Precision,
    /// The features, `[batch_size, F * D]` in one block or in two.
    pub features: Features<'a, D, E>,
    /// The output, `[batch_size, width]`; see [`Interaction::width`].
    pub output: MatrixMut<'a, D, E>,
}

impl<'a, D: Device, E: Element> Forward<'a, D, E> {
    /// Makes the arguments of a forward pass with products in full precision. `dim` is the number
    /// of elements of a feature; [`Interaction::Cat`] ignores it.
    pub fn new(
        interaction: Interaction,
        dim: usize,
        features: Features<'a, D, E>,
        output: MatrixMut<'a, D, E>,
    ) -> Self {
        Self { interaction, dim, features, output, precision: Precision::Full }
    }

    /// Chooses the precision of products of `f32`; the default is [`Precision::Full`].
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

impl<D: InteractionOps, E: Element> Forward<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.interaction_forward(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "interaction.forward";
        let sizes = self.features.sizes(OP, self.interaction, self.dim)?;
        self.output.check(
            OP,
            matrix_name!("output"),
            sizes.batch_size,
            self.features.width(self.interaction, sizes),
        )
    }

    /// Returns the least number of bytes moved: features are read once, the output is written once.
    pub fn bytes_moved(&self) -> usize {
        let features = self.features.columns();
        product([self.output.rows, sum([features, self.output.cols]), size_of::<E>()])
    }

    /// Returns the number of additions and multiplications.
    pub(crate) fn flops(&self) -> usize {
        self.features
            .sizes("interaction.forward", self.interaction, self.dim)
            .map_or(0, |sizes| sizes.flops(self.interaction))
    }
}

/// The arguments of the backward pass.
#[non_exhaustive]
pub struct Backward<'a, D: Device, E: Element> {
    /// The kind of interaction.
    pub interaction: Interaction,
    /// The dimension: the number of elements of a feature (D); ignored for [`Interaction::Cat`].
    pub dim: usize,
    /// The precision of products of `f32`; ignored for other elements.
    pub precision: Precision,
    /// The features, as in the forward pass: `[batch_size, F * D]` in one block or in two.
    pub features: Features<'a, D, E>,
    /// The gradient of the output, `[batch_size, width]`; columns of padding are not read.
    pub grad_output: Matrix<'a, D, E>,
    /// The gradient of the features, in the same layout; overwritten.
    pub grad_features: FeaturesMut<'a, D, E>,
    /// One word that the op sets to 1 if a value of the gradient is infinite or not a number, and
    /// leaves as it is otherwise.
    pub non_finite: Option<ViewMut<'a, D, u64>>,
}

impl<'a, D: Device, E: Element> Backward<'a, D, E> {
    /// Makes the arguments of a backward pass with products in full precision. The first three are
    /// those of the forward pass, and `grad_features` is the output.
    pub fn new(
        interaction: Interaction,
        dim: usize,
        features: Features<'a, D, E>,
        grad_output: Matrix<'a, D, E>,
        grad_features: FeaturesMut<'a, D, E>,
    ) -> Self {
        let precision = Precision::Full;
        let non_finite = None;
        Self { interaction, dim, features, grad_output, grad_features, precision, non_finite }
    }

    /// Lets the op say whether the gradient has a value that is not finite, in one word that it
    /// sets to 1 then, such as [`Verdict::FOUND`](super::finite_check::Verdict::FOUND).
    pub fn non_finite(self, word: impl Into<ViewMut<'a, D, u64>>) -> Self {
        Self { non_finite: Some(word.into()), ..self }
    }

    /// Chooses the precision of products of `f32`; the default is [`Precision::Full`].
    pub fn precision(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }
}

impl<D: InteractionOps, E: Element> Backward<'_, D, E> {
    /// Validates the arguments and runs the op.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.interaction_backward(self)
    }

    /// Checks the shapes, as [`Self::run`] does.
    ///
    /// # Errors
    /// Returns an error for wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "interaction.backward";
        let sizes = self.features.sizes(OP, self.interaction, self.dim)?;
        self.grad_output.check(
            OP,
            matrix_name!("grad_output"),
            sizes.batch_size,
            self.features.width(self.interaction, sizes),
        )?;
        if let Some(word) = &self.non_finite {
            expect_size(OP, "non_finite", word.len(), 1)?;
        }
        match (&self.features, &self.grad_features) {
            (Features::Joined { block, .. }, FeaturesMut::Joined { block: grad }) => {
                grad.check(OP, matrix_name!("grad_features.block"), block.rows, block.cols)
            }
            (
                Features::Split { dense, sparse },
                FeaturesMut::Split { dense: grad_dense, sparse: grad_sparse },
            ) => {
                grad_dense.check(
                    OP,
                    matrix_name!("grad_features.dense"),
                    sizes.batch_size,
                    dense.cols,
                )?;
                grad_sparse.check(
                    OP,
                    matrix_name!("grad_features.sparse"),
                    sizes.batch_size,
                    sparse.cols,
                )
            }
            _ => Err(invalid(OP, "grad_features", "it must have the same layout as the features")),
        }
    }

    /// Returns the least number of bytes moved: features and gradient are read once, the gradient
    /// of the features is written once.
    pub fn bytes_moved(&self) -> usize {
        let columns = sum([product([2, self.features.columns()]), self.grad_output.cols]);
        product([self.grad_output.rows, columns, size_of::<E>()])
    }

    /// Returns the number of additions and multiplications.
    pub(crate) fn flops(&self) -> usize {
        self.features
            .sizes("interaction.backward", self.interaction, self.dim)
            .map_or(0, |sizes| product([2, sizes.flops(self.interaction)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pair_orders() {
        let pairs = |order, include_self| {
            Interaction::Dot { order, include_self, append_sparse: false, pad_to: 1 }
                .pairs(3)
                .collect::<Vec<_>>()
        };
        assert_eq!(pairs(PairOrder::LowerTriangle, false), [(1, 0), (2, 0), (2, 1)]);
        assert_eq!(
            pairs(PairOrder::LowerTriangle, true),
            [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)]
        );
        assert_eq!(pairs(PairOrder::UpperTriangle, false), [(0, 1), (0, 2), (1, 2)]);
        assert_eq!(
            pairs(PairOrder::UpperTriangle, true),
            [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)]
        );
        assert_eq!(Interaction::Cat.pairs(3).count(), 0);
    }

    #[test]
    fn positions_are_those_of_the_pairs() {
        for (order, include_self) in [PairOrder::LowerTriangle, PairOrder::UpperTriangle]
            .into_iter()
            .flat_map(|o| [(o, false), (o, true)])
        {
            let interaction =
                Interaction::Dot { order, include_self, append_sparse: false, pad_to: 1 };
            for (position, (i, j)) in interaction.pairs(9).enumerate() {
                assert_eq!(
                    interaction.pair_position(9, i, j),
                    position,
                    "{interaction:?} ({i}, {j})"
                );
                assert_eq!(
                    interaction.pair_position(9, j, i),
                    position,
                    "{interaction:?} ({j}, {i})"
                );
            }
        }
    }

    #[test]
    fn widths() {
        let order = PairOrder::LowerTriangle;
        let dot = |include_self, pad_to| Interaction::Dot {
            order,
            include_self,
            append_sparse: false,
            pad_to,
        };
        assert_eq!(dot(false, 1).width(true, 26, 64), 415);
        assert_eq!(dot(false, 8).width(true, 26, 128), 480);
        assert_eq!(dot(true, 1).width(true, 26, 64), 442);
        assert_eq!(dot(false, 1).width(false, 1, 64), 0);
        let appended =
            Interaction::Dot { order, include_self: false, append_sparse: true, pad_to: 4 };
        assert_eq!((appended.width(true, 2, 5), appended.width(false, 2, 5)), (20, 12));
        assert_eq!(Interaction::Cat.width(true, 6, 16), 112);
    }
}
