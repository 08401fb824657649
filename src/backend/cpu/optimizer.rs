//! One step of an optimizer on a run of columns, shared by table rows and dense parameters.

use std::ops::Range;

use super::vector::{load_vector, store_vector, sum_lanes};
use crate::dtype::Element;
use crate::ops::{Optimizer, UpdateRule};
use crate::philox::philox4x32;
use crate::simd::{LANES, Lanes};

/// An [`UpdateRule`] with what is the same for all elements worked out.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub(super) optimizer: Optimizer,
    learning_rate: f32,
    /// Added to the gradient, times the weight.
    l2: f32,
    /// The weight is multiplied by it.
    shrink: f32,
    /// `1 / (1 - βᵗ)` for both moments of Adam.
    corrections: (f32, f32),
}

/// What the optimizer remembers of a run of columns.
pub(super) enum StateRun<'a> {
    None,
    /// One sum of squares for each element.
    Elementwise(&'a mut [f32]),
    /// The learning rate of the whole row, by its sum of squares.
    Rowwise(f32),
    Moments(&'a mut [f32], &'a mut [f32]),
}

impl Step {
    pub(super) fn new(rule: &UpdateRule) -> Self {
        let (l2, shrink) = rule.decay_factors();
        let corrections = rule.bias_corrections();
        Self { optimizer: rule.optimizer, learning_rate: rule.learning_rate, l2, shrink, corrections }
    }

    /// The same step with the weight decay multiplied by `scale`.
    pub(super) fn with_decay_scaled(self, scale: f32) -> Self {
        Self { l2: self.l2 * scale, shrink: 1.0 - (1.0 - self.shrink) * scale, ..self }
    }

    /// The learning rate of a row with this sum of squares.
    pub(super) fn rate_of_row(&self, sum: f32) -> f32 {
        match self.optimizer {
            Optimizer::RowwiseAdagrad { eps } | Optimizer::Adagrad { eps } => self.learning_rate / (sum.sqrt() + eps),
            Optimizer::Sgd | Optimizer::Adam { .. } => self.learning_rate,
        }
    }

    /// The sum of the squared gradients of a row, before the division by their number: see [`Optimizer`] for the order.
    #[inline(always)]
    pub(super) fn sum_of_squares<V: Lanes, E: Element>(&self, lanes: V, sum: f32, grad: &[f32], weights: &[E]) -> f32 {
        let mut total = sum;
        for (grad, weights) in grad.chunks(2 * LANES).zip(weights.chunks(2 * LANES)) {
            let low = LANES.min(grad.len());
            let mut squares = self.squares(lanes, &grad[..low], &weights[..low]);
            if low < grad.len() {
                squares = lanes.add(squares, self.squares(lanes, &grad[low..], &weights[low..]));
            }
            total += sum_lanes(lanes.to_array(squares));
        }
        total
    }

    /// Those of at most a vector of columns.
    #[inline(always)]
    fn squares<V: Lanes, E: Element>(&self, lanes: V, grad: &[f32], weights: &[E]) -> V::F32 {
        let g = self.regularised(lanes, load_vector(lanes, grad), load_vector(lanes, weights));
        lanes.mul(g, g)
    }

    #[inline(always)]
    fn regularised<V: Lanes>(&self, lanes: V, grad: V::F32, weights: V::F32) -> V::F32 {
        lanes.add(grad, lanes.mul(lanes.splat(self.l2), weights))
    }

    /// Brings weights and state up to date; `random` gives the bits for the rounding of a column where it is stochastic.
    #[inline(always)]
    pub(super) fn update<V: Lanes, E: Element>(
        &self,
        lanes: V,
        grad: &[f32],
        weights: &mut [E],
        mut state: StateRun<'_>,
        mut random: Option<&mut RandomBits>,
    ) {
        for (k, (grad, weights)) in grad.chunks(LANES).zip(weights.chunks_mut(LANES)).enumerate() {
            let columns = k * LANES..k * LANES + grad.len();
            let updated = self.update_vector(lanes, columns.clone(), grad, weights, &mut state);
            match &mut random {
                None => store_vector(lanes, updated, weights),
                Some(random) => {
                    for ((weight, value), column) in weights.iter_mut().zip(lanes.to_array(updated)).zip(columns) {
                        *weight = E::from_f32_stochastic(value, random.at(column));
                    }
                }
            }
        }
    }

    /// The new weights of at most a vector of columns, not rounded yet.
    #[inline(always)]
    fn update_vector<V: Lanes, E: Element>(
        &self,
        lanes: V,
        columns: Range<usize>,
        grad: &[f32],
        weights: &[E],
        state: &mut StateRun<'_>,
    ) -> V::F32 {
        let lr = lanes.splat(self.learning_rate);
        let old = load_vector(lanes, weights);
        let g = self.regularised(lanes, load_vector(lanes, grad), old);
        let shrunk = lanes.mul(old, lanes.splat(self.shrink));
        match (state, self.optimizer) {
            (StateRun::Elementwise(sums), Optimizer::Adagrad { eps } | Optimizer::RowwiseAdagrad { eps }) => {
                let sums = &mut sums[columns];
                let sum = lanes.add(load_vector(lanes, sums), lanes.mul(g, g));
                store_vector(lanes, sum, sums);
                let root = lanes.add(lanes.sqrt(sum), lanes.splat(eps));
                lanes.sub(shrunk, lanes.div(lanes.mul(lr, g), root))
            }
            (StateRun::Rowwise(rate), _) => lanes.sub(shrunk, lanes.mul(lanes.splat(*rate), g)),
            (StateRun::Moments(first, second), Optimizer::Adam { beta1, beta2, eps }) => {
                let (first_correction, second_correction) = self.corrections;
                let (first, second) = (&mut first[columns.clone()], &mut second[columns]);
                let m = decayed(lanes, load_vector(lanes, first), beta1, g);
                let v = decayed(lanes, load_vector(lanes, second), beta2, lanes.mul(g, g));
                store_vector(lanes, m, first);
                store_vector(lanes, v, second);
                let root = lanes.add(lanes.sqrt(lanes.mul(v, lanes.splat(second_correction))), lanes.splat(eps));
                let m = lanes.mul(m, lanes.splat(first_correction));
                lanes.sub(shrunk, lanes.div(lanes.mul(lr, m), root))
            }
            // Validation lets only matching state through: what is left is SGD.
            _ => lanes.sub(shrunk, lanes.mul(lr, g)),
        }
    }
}

/// The decaying mean with a new value.
#[inline(always)]
fn decayed<V: Lanes>(lanes: V, mean: V::F32, beta: f32, new: V::F32) -> V::F32 {
    lanes.add(lanes.mul(lanes.splat(beta), mean), lanes.mul(lanes.splat(1.0 - beta), new))
}

/// The random bits of stochastic rounding, see [`Rounding::Stochastic`](crate::ops::Rounding::Stochastic).
pub(super) struct RandomBits {
    key: [u32; 2],
    row: [u32; 2],
    step: u32,
    block: Option<(u32, [u32; 4])>,
    /// The column that is called 0.
    first: usize,
}

impl RandomBits {
    pub(super) fn new(seed: u64, step: u64, table: usize, row: usize) -> Self {
        let row = row as u64;
        Self {
            key: [seed as u32, (seed >> 32) as u32 ^ (step >> 32) as u32],
            row: [row as u32, (row >> 32) as u32 | (table as u32) << 16],
            step: step as u32,
            block: None,
            first: 0,
        }
    }

    /// The same, with columns counted from `first` on.
    pub(super) fn from(&mut self, first: usize) -> &mut Self {
        self.first = first;
        self
    }

    #[inline]
    fn at(&mut self, column: usize) -> u32 {
        let column = self.first + column;
        let block = (column / 4) as u32;
        let bits = match self.block {
            Some((known, bits)) if known == block => bits,
            _ => philox4x32(self.key, [block, self.row[0], self.row[1], self.step]),
        };
        self.block = Some((block, bits));
        bits[column % 4]
    }
}
