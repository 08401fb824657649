//! Reference for one step of every optimizer.

use std::ops::Range;

use crate::ops::{Optimizer, UpdateRule, WeightDecay};

use super::bags::RowGradients;
use crate::testing::cases::BagCase;
use crate::testing::tolerance::{Approx, U};

/// The accuracy of `β₁`, `β₂` and their powers in the result that is checked.
#[derive(Clone, Copy, PartialEq)]
pub enum Betas {
    /// The `f32` values of the rule, with powers that are as good as exact.
    Exact,
    /// Values within one unit roundoff, and powers within two. FBGEMM calls `powf`, others have
    /// `β` in `f64`; both matter, since `1 - β₂ᵗ` is small.
    Rounded,
}

impl Betas {
    /// Returns `β`.
    fn beta(self, beta: f32) -> Approx {
        let value = f64::from(beta);
        Approx { value, error: if self == Self::Exact { 0.0 } else { U * value } }
    }

    /// Returns `1 / (1 - βᵗ)`, rounded to `f32`.
    fn correction(self, beta: f32, step: u64) -> Approx {
        let power = f64::from(beta).powf(step as f64);
        match self {
            Self::Exact => Approx::exact(1.0 / (1.0 - power)).once_rounded(),
            Self::Rounded => {
                Approx::exact(1.0)
                    / (Approx::exact(1.0) - Approx { value: power, error: 2.0 * U * power })
            }
        }
    }
}

/// Takes one step on the parameters of a row, or on all dense ones. `first` and `second` are the
/// state, with as many values as the optimizer has: one for each parameter, one for the row, or
/// none. Weights are not yet rounded to their storage type.
pub fn optimize(
    rule: &UpdateRule,
    betas: Betas,
    grad: &[Approx],
    weights: &mut [Approx],
    first: &mut [Approx],
    second: &mut [Approx],
) {
    let one = Approx::exact(1.0);
    let lr = Approx::exact(rule.learning_rate);
    let decay = |wd: f32| Approx::exact(wd);
    let grad: Vec<Approx> = (grad.iter().zip(weights.iter()))
        .map(|(&g, &w)| match rule.weight_decay {
            WeightDecay::L2(wd) => g + decay(wd) * w,
            _ => g,
        })
        .collect();
    if let Optimizer::RowwiseAdagrad { .. } = rule.optimizer {
        let squares: Vec<Approx> = grad.iter().map(|&g| g * g).collect();
        first[0] = first[0] + Approx::sum(&squares) / Approx::exact(squares.len() as f64);
    }
    for (k, (&g, w)) in grad.iter().zip(weights.iter_mut()).enumerate() {
        let step = match rule.optimizer {
            Optimizer::Sgd => lr * g,
            Optimizer::Adagrad { eps } => {
                first[k] = first[k] + g * g;
                lr * g / (first[k].sqrt() + Approx::exact(eps))
            }
            // An implementation may round the quotient before it multiplies.
            Optimizer::RowwiseAdagrad { eps } => lr / (first[0].sqrt() + Approx::exact(eps)) * g,
            Optimizer::Adam { beta1, beta2, eps } => {
                let (b1, b2) = (betas.beta(beta1), betas.beta(beta2));
                first[k] = b1 * first[k] + (one - b1) * g;
                second[k] = b2 * second[k] + (one - b2) * (g * g);
                let [mean, square] = [beta1, beta2].map(|beta| betas.correction(beta, rule.step));
                lr * (first[k] * mean) / ((second[k] * square).sqrt() + Approx::exact(eps))
            }
        };
        *w = match rule.weight_decay {
            WeightDecay::Decoupled(wd) => *w * (one - lr * decay(wd)) - step,
            _ => *w - step,
        };
    }
}

/// Takes one step on each row that has a gradient. Weights and state hold all tables, one after
/// another.
pub fn apply_rows(
    case: &BagCase,
    (rule, betas): (&UpdateRule, Betas),
    grads: &RowGradients,
    weights: &mut [Approx],
    first: &mut [Approx],
    second: &mut [Approx],
) {
    for (&(table, row), grad) in grads {
        let before = |size: fn(&crate::ops::Table) -> usize| {
            case.tables[..table].iter().map(size).sum::<usize>()
        };
        let dim = grad.len();
        let start = before(|t| t.num_embeddings * t.embedding_dim) + row * dim;
        let elements = start..start + dim;
        let of_row = before(|t| t.num_embeddings) + row;
        let (of_first, of_second): (Range<usize>, Range<usize>) = match rule.optimizer {
            Optimizer::Sgd => (0..0, 0..0),
            Optimizer::Adagrad { .. } => (elements.clone(), 0..0),
            Optimizer::RowwiseAdagrad { .. } => (of_row..of_row + 1, 0..0),
            Optimizer::Adam { .. } => (elements.clone(), elements.clone()),
        };
        optimize(
            rule,
            betas,
            grad,
            &mut weights[elements],
            &mut first[of_first],
            &mut second[of_second],
        );
    }
}
