//! The interaction of the features of a sample: their pairwise dot products, or just all of them
//! side by side.
//!
//! The `F` features `x₀ … x_{F-1}` of a sample are the dense vector, if there is one, and the
//! pooled vectors, all of dimension `D`. The output is the dense vector followed by `<xᵢ, xⱼ>` for
//! all pairs, in one of two orders that exist in the world:
//!
//! - [`PairOrder::LowerTriangle`]: (1,0), (2,0), (2,1), … (facebookresearch/dlrm, NVIDIA, HugeCTR);
//! - [`PairOrder::UpperTriangle`]: (0,1), (0,2), …, (1,2), … (TorchRec);
//!
//! with (i,i) in its place if `include_self`; then, if `append_sparse`, all features but the dense
//! vector as they are; then zeros up to a multiple of `pad_to` columns. [`Interaction::Cat`] gives
//! `x₀ … x_{F-1}` side by side.
//!
//! Backward, with `g` the gradient of the output: `dL/dxᵢ = Σⱼ gᵢⱼ xⱼ` over the other member of
//! each pair of `i` (twice `gᵢᵢ xᵢ` for (i,i)), and for vectors that stand in the output themselves
//! their own columns of `g` besides.
//!
//! **Numerics.** Features, output and their gradients are of one type, `f32`, `f16` or `bf16`;
//! products and sums are of `f32`, and a result is rounded to that type once. The error of a dot
//! product before that is at most `γ_D Σ|xᵢ xⱼ|`, that of a gradient element at most `γ_{F+1}`
//! times the sum of the absolute terms, in any order of summation. With [`Precision::Tf32`] each
//! factor may be off by 2⁻¹¹ of itself besides. Tensor cores do not round sums, but cut them off:
//! where they are used (on a GPU, unless elements are `f32` and the precision is
//! [`Precision::Full`]) `γ` is that of 2⁻²³ instead of 2⁻²⁴.
//!
//! Backends may take `gᵢᵢ` as zero where there is no pair (i,i), and multiply by it: a feature that
//! is not finite then makes its own gradient NaN, too.

use super::device::Device;
use super::matrix::{Matrix, MatrixMut, matrix_name};
use super::precision::Precision;
use crate::dtype::Element;
use crate::error::{Result, invalid};
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

/// How the features of a sample meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Interaction {
    /// All pairwise dot products.
    Dot {
        /// The order of the pairs.
        #[cfg_attr(feature = "serde", serde(default))]
        order: PairOrder,
        /// Whether each feature also meets itself.
        #[cfg_attr(feature = "serde", serde(default))]
        include_self: bool,
        /// Whether the features but the dense vector also follow the pairs as they are.
        #[cfg_attr(feature = "serde", serde(default))]
        append_sparse: bool,
        /// The output is padded with zeros to a multiple of this many columns; 1 for none.
        #[cfg_attr(feature = "serde", serde(default = "one"))]
        pad_to: usize,
    },
    /// All features side by side.
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

/// `1 + 2 + … + n`, of which half a product of two neighbours is as large.
fn triangle(n: usize) -> usize {
    if n.is_multiple_of(2) { product([n / 2, n + 1]) } else { product([n, n / 2 + 1]) }
}

impl Interaction {
    /// The number of pairs among `num_features` features; 0 for [`Self::Cat`]. What is more than
    /// the largest number is that number.
    pub fn num_pairs(&self, num_features: usize) -> usize {
        match self {
            Self::Dot { include_self: true, .. } => triangle(num_features),
            Self::Dot { include_self: false, .. } => triangle(num_features.saturating_sub(1)),
            Self::Cat => 0,
        }
    }

    /// The number of columns of the output for `num_sparse` pooled vectors of dimension `dim`, with
    /// or without a dense vector. What is more than the largest number is that number.
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

    /// The position among the pairs of the pair of features `i` and `j`, in either order;
    /// meaningless for a pair that is not there.
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

    /// The pairs `(i, j)` among `num_features` features in the order of the output; none for
    /// [`Self::Cat`].
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

/// What a backend provides; call it through [`Forward::run`] and [`Backward::run`], which validate.
pub trait InteractionOps: Device {
    /// See [`Forward`].
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()>;
    /// See [`Backward`].
    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()>;
}

/// The features of a batch, so that neither layout that trainers use needs a copy.
pub enum Features<'a, D: Device, E: Element> {
    /// `[batch_size, F * D]`: all features of a sample side by side; the first is the dense vector
    /// if `has_dense`.
    Joined {
        /// The features.
        block: Matrix<'a, D, E>,
        /// Whether the first one goes to the output as it is.
        has_dense: bool,
    },
    /// The dense vector `[batch_size, D]` and the pooled vectors `[batch_size, T * D]`.
    Split {
        /// The output of the bottom MLP.
        dense: Matrix<'a, D, E>,
        /// The pooled vectors.
        sparse: Matrix<'a, D, E>,
    },
}

impl<D: Device, E: Element> Clone for Features<'_, D, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device, E: Element> Copy for Features<'_, D, E> {}

/// As [`Features`], for writing: the gradient of the features.
pub enum FeaturesMut<'a, D: Device, E: Element> {
    /// See [`Features::Joined`].
    Joined {
        /// The features.
        block: MatrixMut<'a, D, E>,
    },
    /// See [`Features::Split`].
    Split {
        /// The output of the bottom MLP.
        dense: MatrixMut<'a, D, E>,
        /// The pooled vectors.
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
    /// Checks the matrices against each other, and that 31 bits count samples and columns.
    /// [`Interaction::Cat`] takes vectors of any dimensions.
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

/// Features to output.
pub struct Forward<'a, D: Device, E: Element> {
    /// How features meet.
    pub interaction: Interaction,
    /// The dimension of a feature (D); of no meaning for [`Interaction::Cat`].
    pub dim: usize,
    /// How products of `f32` may be computed; of no meaning for other elements.
    pub precision: Precision,
    /// The features.
    pub features: Features<'a, D, E>,
    /// `[batch_size, width]`, see [`Interaction::width`].
    pub output: MatrixMut<'a, D, E>,
}

impl<D: InteractionOps, E: Element> Forward<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.interaction_forward(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
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

    /// The least number of bytes: features read once, output written once.
    pub fn bytes_moved(&self) -> usize {
        let features = self.features.columns();
        product([self.output.rows, sum([features, self.output.cols]), size_of::<E>()])
    }

    /// Additions and multiplications.
    pub(crate) fn flops(&self) -> usize {
        self.features
            .sizes("interaction.forward", self.interaction, self.dim)
            .map_or(0, |sizes| sizes.flops(self.interaction))
    }
}

/// Gradient of the output to gradient of the features.
pub struct Backward<'a, D: Device, E: Element> {
    /// How features meet.
    pub interaction: Interaction,
    /// The dimension of a feature (D); of no meaning for [`Interaction::Cat`].
    pub dim: usize,
    /// How products of `f32` may be computed; of no meaning for other elements.
    pub precision: Precision,
    /// The features, as in the forward pass.
    pub features: Features<'a, D, E>,
    /// `[batch_size, width]`; columns of padding are not read.
    pub grad_output: Matrix<'a, D, E>,
    /// The gradient of the features, in the same layout; overwritten.
    pub grad_features: FeaturesMut<'a, D, E>,
}

impl<D: InteractionOps, E: Element> Backward<'_, D, E> {
    /// Validates and runs.
    ///
    /// # Errors
    /// Wrong shapes, before anything is written.
    pub fn run(self, backend: &D) -> Result<()> {
        self.validate()?;
        backend.interaction_backward(self)
    }

    /// Checks shapes; see [`Self::run`].
    ///
    /// # Errors
    /// Wrong shapes.
    pub fn validate(&self) -> Result<()> {
        const OP: &str = "interaction.backward";
        let sizes = self.features.sizes(OP, self.interaction, self.dim)?;
        self.grad_output.check(
            OP,
            matrix_name!("grad_output"),
            sizes.batch_size,
            self.features.width(self.interaction, sizes),
        )?;
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

    /// The least number of bytes: features and gradient read once, gradient of the features written
    /// once.
    pub fn bytes_moved(&self) -> usize {
        let columns = sum([product([2, self.features.columns()]), self.grad_output.cols]);
        product([self.grad_output.rows, columns, size_of::<E>()])
    }

    /// Additions and multiplications.
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
