//! The update of a run of columns by an optimizer, for table rows and dense parameters.

use std::ops::Range;

use super::vector::{load, store, sum_lanes};
use crate::dtype::Element;
use crate::ops::{Optimizer, UpdateRule};
use crate::philox::philox4x32;
use crate::simd::Lanes;

/// An [`UpdateRule`] with the factors that all elements share.
#[derive(Clone, Copy)]
pub(crate) struct PreparedRule {
    optimizer: Optimizer,
    learning_rate: f32,
    /// The L2 factor: the gradient grows by `l2` times the weight.
    l2: f32,
    /// The factor of the weight, from decoupled weight decay.
    shrink: f32,
    /// `1 / (1 - βᵗ)` for both moments of Adam.
    corrections: (f32, f32),
}

/// The optimizer state of a run of columns.
pub(crate) enum StateRun<'a> {
    None,
    /// One sum of squares for each element.
    Elementwise(&'a mut [f32]),
    /// The learning rate of the whole row, which its sum of squares gives.
    Rowwise(f32),
    /// The first and the second moment of each element.
    Moments(&'a mut [f32], &'a mut [f32]),
}

impl<'a> StateRun<'a> {
    /// Returns the state of some columns.
    #[inline(always)]
    pub(crate) fn part(&mut self, columns: Range<usize>) -> StateRun<'_> {
        match self {
            Self::None => StateRun::None,
            Self::Rowwise(rate) => StateRun::Rowwise(*rate),
            Self::Elementwise(sums) => StateRun::Elementwise(&mut sums[columns]),
            Self::Moments(first, second) => {
                StateRun::Moments(&mut first[columns.clone()], &mut second[columns])
            }
        }
    }

    /// Splits the state into that of the first `middle` columns and that of the others.
    pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
        match self {
            Self::None => (Self::None, Self::None),
            Self::Rowwise(sum) => (Self::Rowwise(sum), Self::Rowwise(sum)),
            Self::Elementwise(sums) => {
                let (left, right) = sums.split_at_mut(middle);
                (Self::Elementwise(left), Self::Elementwise(right))
            }
            Self::Moments(first, second) => {
                let (first_left, first_right) = first.split_at_mut(middle);
                let (second_left, second_right) = second.split_at_mut(middle);
                (Self::Moments(first_left, second_left), Self::Moments(first_right, second_right))
            }
        }
    }
}

impl PreparedRule {
    /// Computes the factors of a rule.
    pub(crate) fn new(rule: &UpdateRule) -> Self {
        let (l2, shrink) = rule.decay_factors();
        let corrections = rule.bias_corrections();
        Self {
            optimizer: rule.optimizer,
            learning_rate: rule.learning_rate,
            l2,
            shrink,
            corrections,
        }
    }

    /// Returns this rule with the weight decay multiplied by `scale`.
    pub(crate) fn with_decay_scaled(self, scale: f32) -> Self {
        Self { l2: self.l2 * scale, shrink: 1.0 - (1.0 - self.shrink) * scale, ..self }
    }

    /// Returns the learning rate of a row with this sum of squares.
    pub(crate) fn rate_of_row(&self, sum: f32) -> f32 {
        match self.optimizer {
            Optimizer::RowwiseAdagrad { eps } | Optimizer::Adagrad { eps } => {
                self.learning_rate / (sum.sqrt() + eps)
            }
            Optimizer::Sgd | Optimizer::Adam { .. } => self.learning_rate,
        }
    }

    /// Adds the squared gradients of a block of columns to those of the columns before it. The
    /// caller divides the sum by the number of columns; see [`Optimizer`] for the order. A block of
    /// more than one vector begins at a multiple of 32 columns; blocks of one vector are added in
    /// pairs.
    #[inline(always)]
    pub(crate) fn add_squares<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        squares: &mut Squares<V>,
        grad: [V::F32; N],
        weights: &[E],
    ) {
        for (g, old) in grad.into_iter().zip(load::<V, E, N, WHOLE>(lanes, weights)) {
            let g = self.regularised(lanes, g, old);
            squares.add(lanes, lanes.mul(g, g));
        }
    }

    /// Adds the gradient of the L2 penalty.
    #[inline(always)]
    fn regularised<V: Lanes>(&self, lanes: V, grad: V::F32, weights: V::F32) -> V::F32 {
        lanes.add(grad, lanes.mul(lanes.splat(self.l2), weights))
    }

    /// Updates the state of a block of columns, and returns their new weights before rounding.
    #[inline(always)]
    pub(crate) fn update<V: Lanes, E: Element, const N: usize, const WHOLE: bool>(
        &self,
        lanes: V,
        mut grad: [V::F32; N],
        weights: &[E],
        state: StateRun<'_>,
    ) -> [V::F32; N] {
        let lr = lanes.splat(self.learning_rate);
        let mut weights = load::<V, E, N, WHOLE>(lanes, weights);
        for (g, w) in grad.iter_mut().zip(&mut weights) {
            *g = self.regularised(lanes, *g, *w);
            *w = lanes.mul(*w, lanes.splat(self.shrink));
        }
        match (state, self.optimizer) {
            (
                StateRun::Elementwise(sums),
                Optimizer::Adagrad { eps } | Optimizer::RowwiseAdagrad { eps },
            ) => {
                let mut sum = load::<V, f32, N, WHOLE>(lanes, sums);
                for ((w, g), sum) in weights.iter_mut().zip(grad).zip(&mut sum) {
                    *sum = lanes.add(*sum, lanes.mul(g, g));
                    let root = lanes.add(lanes.sqrt(*sum), lanes.splat(eps));
                    *w = lanes.sub(*w, lanes.div(lanes.mul(lr, g), root));
                }
                store::<V, f32, N, WHOLE>(lanes, sum, sums);
            }
            (StateRun::Rowwise(rate), _) => {
                for (w, g) in weights.iter_mut().zip(grad) {
                    *w = lanes.sub(*w, lanes.mul(lanes.splat(rate), g));
                }
            }
            (StateRun::Moments(first, second), Optimizer::Adam { beta1, beta2, eps }) => {
                let (first_correction, second_correction) = self.corrections;
                let mut m = load::<V, f32, N, WHOLE>(lanes, first);
                let mut v = load::<V, f32, N, WHOLE>(lanes, second);
                for ((w, g), (m, v)) in weights.iter_mut().zip(grad).zip(m.iter_mut().zip(&mut v)) {
                    *m = decayed(lanes, *m, beta1, g);
                    *v = decayed(lanes, *v, beta2, lanes.mul(g, g));
                    let root = lanes.sqrt(lanes.mul(*v, lanes.splat(second_correction)));
                    let root = lanes.add(root, lanes.splat(eps));
                    let m = lanes.mul(*m, lanes.splat(first_correction));
                    *w = lanes.sub(*w, lanes.div(lanes.mul(lr, m), root));
                }
                store::<V, f32, N, WHOLE>(lanes, m, first);
                store::<V, f32, N, WHOLE>(lanes, v, second);
            }
            // SGD: validation has refused any other pair that does not match.
            _ => {
                for (w, g) in weights.iter_mut().zip(grad) {
                    *w = lanes.sub(*w, lanes.mul(lr, g));
                }
            }
        }
        weights
    }
}

/// The sum of the squared gradients of a row. The two vectors of each 32 columns are added, then
/// the lanes of that vector, then the results for all columns.
pub(crate) struct Squares<V: Lanes> {
    total: f32,
    /// The first vector of 32 columns whose second one has not come yet.
    half: Option<V::F32>,
}

impl<V: Lanes> Default for Squares<V> {
    fn default() -> Self {
        Self { total: 0.0, half: None }
    }
}

impl<V: Lanes> Squares<V> {
    /// Adds the squares of the next 16 columns.
    #[inline(always)]
    fn add(&mut self, lanes: V, squares: V::F32) {
        match self.half.take() {
            None => self.half = Some(squares),
            Some(half) => self.total += sum_lanes(lanes.to_array(lanes.add(half, squares))),
        }
    }

    /// Returns the sum over the whole row.
    #[inline(always)]
    pub(crate) fn total(self, lanes: V) -> f32 {
        self.half.map_or(self.total, |half| self.total + sum_lanes(lanes.to_array(half)))
    }
}

/// Returns the exponentially decaying mean `beta * mean + (1 - beta) * new`.
#[inline(always)]
fn decayed<V: Lanes>(lanes: V, mean: V::F32, beta: f32, new: V::F32) -> V::F32 {
    lanes.add(lanes.mul(lanes.splat(beta), mean), lanes.mul(lanes.splat(1.0 - beta), new))
}

/// The random bits of stochastic rounding in one row, see
/// [`Rounding::Stochastic`](crate::ops::Rounding::Stochastic).
pub(crate) struct RandomBits {
    /// The Philox key.
    key: [u32; 2],
    /// The words of the Philox counter that name the row.
    row: [u32; 2],
    /// The word of the Philox counter that names the step.
    step: u32,
    /// The last block of four columns, and its bits.
    block: Option<(u32, [u32; 4])>,
}

impl RandomBits {
    /// Returns the bits of a row of a table in a step.
    pub(crate) fn new(seed: u64, step: u64, table: usize, row: usize) -> Self {
        let row = row as u64;
        Self {
            key: [seed as u32, (seed >> 32) as u32 ^ (step >> 32) as u32],
            row: [row as u32, (row >> 32) as u32 | (table as u32) << 16],
            step: step as u32,
            block: None,
        }
    }

    /// Returns the bits of a column.
    #[inline]
    pub(crate) fn at(&mut self, column: usize) -> u32 {
        let block = (column / 4) as u32;
        let bits = match self.block {
            Some((known, bits)) if known == block => bits,
            _ => philox4x32(self.key, [block, self.row[0], self.row[1], self.step]),
        };
        self.block = Some((block, bits));
        bits[column % 4]
    }
}
