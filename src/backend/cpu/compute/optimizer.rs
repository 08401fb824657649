//! One step of an optimizer on a run of columns, shared by table rows and dense parameters.

use std::ops::Range;

use super::vector::{load, store, sum_lanes};
use crate::dtype::Element;
use crate::ops::{Optimizer, UpdateRule};
use crate::philox::philox4x32;
use crate::simd::Lanes;

/// An [`UpdateRule`] with what is the same for all elements worked out.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    pub(crate) optimizer: Optimizer,
    learning_rate: f32,
    /// Added to the gradient, times the weight.
    l2: f32,
    /// The weight is multiplied by it.
    shrink: f32,
    /// `1 / (1 - βᵗ)` for both moments of Adam.
    corrections: (f32, f32),
}

/// What the optimizer remembers of a run of columns.
pub(crate) enum StateRun<'a> {
    None,
    /// One sum of squares for each element.
    Elementwise(&'a mut [f32]),
    /// The learning rate of the whole row, by its sum of squares.
    Rowwise(f32),
    Moments(&'a mut [f32], &'a mut [f32]),
}

impl<'a> StateRun<'a> {
    /// That of some columns.
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

    /// The state of the first `middle` columns, and of the others.
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

impl Step {
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

    /// The same step with the weight decay multiplied by `scale`.
    pub(crate) fn with_decay_scaled(self, scale: f32) -> Self {
        Self { l2: self.l2 * scale, shrink: 1.0 - (1.0 - self.shrink) * scale, ..self }
    }

    /// The learning rate of a row with this sum of squares.
    pub(crate) fn rate_of_row(&self, sum: f32) -> f32 {
        match self.optimizer {
            Optimizer::RowwiseAdagrad { eps } | Optimizer::Adagrad { eps } => {
                self.learning_rate / (sum.sqrt() + eps)
            }
            Optimizer::Sgd | Optimizer::Adam { .. } => self.learning_rate,
        }
    }

    /// Adds the squared gradients of a block of columns to those of the columns before it, before
    /// the division by their number: see [`Optimizer`] for the order. A block of more than one
    /// vector begins at a multiple of 32 columns; of those of one vector two go together.
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

    #[inline(always)]
    fn regularised<V: Lanes>(&self, lanes: V, grad: V::F32, weights: V::F32) -> V::F32 {
        lanes.add(grad, lanes.mul(lanes.splat(self.l2), weights))
    }

    /// Brings the state of a block of columns up to date, and gives their new weights, not rounded
    /// yet.
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
            // Validation lets only matching state through: what is left is SGD.
            _ => {
                for (w, g) in weights.iter_mut().zip(grad) {
                    *w = lanes.sub(*w, lanes.mul(lr, g));
                }
            }
        }
        weights
    }
}

/// The sum of the squared gradients of a row: of 32 columns the two vectors are added, then the
/// lanes of these, then the sums.
pub(crate) struct Squares<V: Lanes> {
    total: f32,
    /// The first half of the last 32 columns.
    half: Option<V::F32>,
}

impl<V: Lanes> Default for Squares<V> {
    fn default() -> Self {
        Self { total: 0.0, half: None }
    }
}

impl<V: Lanes> Squares<V> {
    #[inline(always)]
    fn add(&mut self, lanes: V, squares: V::F32) {
        match self.half.take() {
            None => self.half = Some(squares),
            Some(half) => self.total += sum_lanes(lanes.to_array(lanes.add(half, squares))),
        }
    }

    #[inline(always)]
    pub(crate) fn total(self, lanes: V) -> f32 {
        self.half.map_or(self.total, |half| self.total + sum_lanes(lanes.to_array(half)))
    }
}

/// The decaying mean with a new value.
#[inline(always)]
fn decayed<V: Lanes>(lanes: V, mean: V::F32, beta: f32, new: V::F32) -> V::F32 {
    lanes.add(lanes.mul(lanes.splat(beta), mean), lanes.mul(lanes.splat(1.0 - beta), new))
}

/// The random bits of stochastic rounding, see
/// [`Rounding::Stochastic`](crate::ops::Rounding::Stochastic).
pub(crate) struct RandomBits {
    key: [u32; 2],
    row: [u32; 2],
    step: u32,
    block: Option<(u32, [u32; 4])>,
}

impl RandomBits {
    pub(crate) fn new(seed: u64, step: u64, table: usize, row: usize) -> Self {
        let row = row as u64;
        Self {
            key: [seed as u32, (seed >> 32) as u32 ^ (step >> 32) as u32],
            row: [row as u32, (row >> 32) as u32 | (table as u32) << 16],
            step: step as u32,
            block: None,
        }
    }

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
