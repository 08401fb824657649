//! One step of an optimizer on a run of columns, shared by table rows and dense parameters.

use super::vector::sum_lanes;
use crate::dtype::Element;
use crate::ops::{Optimizer, UpdateRule};
use crate::philox::philox4x32;

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
    /// The sum of squares of the whole row, already brought up to date.
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

    /// `sum` and the squared gradient of these columns, before the division by their number: see [`Optimizer`] for the order.
    pub(super) fn add_squares<E: Element>(&self, mut sum: f32, grad: &[f32], weights: &[E]) -> f32 {
        const RUN: usize = 32;
        for (grad, weights) in grad.chunks(RUN).zip(weights.chunks(RUN)) {
            let mut squares = [0f32; RUN];
            for (square, (g, w)) in squares.iter_mut().zip(grad.iter().zip(weights)) {
                let g = g + self.l2 * w.to_f32();
                *square = g * g;
            }
            sum += sum_lanes(squares);
        }
        sum
    }

    /// Brings weights and state up to date; `round(column, value)` makes a stored weight.
    pub(super) fn update<E: Element>(
        &self,
        grad: &[f32],
        weights: &mut [E],
        state: StateRun<'_>,
        mut round: impl FnMut(usize, f32) -> E,
    ) {
        let lr = self.learning_rate;
        // Kept apart from the loops, so that each of them is straight-line code.
        let columns = grad.iter().zip(weights.iter_mut()).enumerate();
        let (l2, shrink) = (self.l2, self.shrink);
        let regularised = |g: f32, w: f32| g + l2 * w;
        match (state, self.optimizer) {
            (StateRun::Elementwise(sums), Optimizer::Adagrad { eps } | Optimizer::RowwiseAdagrad { eps }) => {
                for ((k, (g, w)), sum) in columns.zip(sums) {
                    let old = w.to_f32();
                    let g = regularised(*g, old);
                    *sum += g * g;
                    *w = round(k, old * shrink - lr * g / (sum.sqrt() + eps));
                }
            }
            (StateRun::Rowwise(sum), Optimizer::RowwiseAdagrad { eps } | Optimizer::Adagrad { eps }) => {
                let rate = lr / (sum.sqrt() + eps);
                for (k, (g, w)) in columns {
                    let old = w.to_f32();
                    *w = round(k, old * shrink - rate * regularised(*g, old));
                }
            }
            (StateRun::Moments(first, second), Optimizer::Adam { beta1, beta2, eps }) => {
                let (first_correction, second_correction) = self.corrections;
                for (((k, (g, w)), m), v) in columns.zip(first).zip(second) {
                    let old = w.to_f32();
                    let g = regularised(*g, old);
                    *m = beta1 * *m + (1.0 - beta1) * g;
                    *v = beta2 * *v + (1.0 - beta2) * (g * g);
                    let root = (*v * second_correction).sqrt() + eps;
                    *w = round(k, old * shrink - lr * (*m * first_correction) / root);
                }
            }
            // Validation lets only matching state through: what is left is SGD.
            _ => {
                for (k, (g, w)) in columns {
                    let old = w.to_f32();
                    *w = round(k, old * shrink - lr * regularised(*g, old));
                }
            }
        }
    }
}

/// The random bits of stochastic rounding, see [`Rounding::Stochastic`](crate::ops::Rounding::Stochastic).
pub(super) struct RandomBits {
    key: [u32; 2],
    row: [u32; 2],
    step: u32,
    block: Option<(u32, [u32; 4])>,
}

impl RandomBits {
    pub(super) fn new(seed: u64, step: u64, table: usize, row: usize) -> Self {
        let row = row as u64;
        Self {
            key: [seed as u32, (seed >> 32) as u32 ^ (step >> 32) as u32],
            row: [row as u32, (row >> 32) as u32 | (table as u32) << 16],
            step: step as u32,
            block: None,
        }
    }

    #[inline]
    pub(super) fn at(&mut self, column: usize) -> u32 {
        let block = (column / 4) as u32;
        let bits = match self.block {
            Some((known, bits)) if known == block => bits,
            _ => philox4x32(self.key, [block, self.row[0], self.row[1], self.step]),
        };
        self.block = Some((block, bits));
        bits[column % 4]
    }
}
