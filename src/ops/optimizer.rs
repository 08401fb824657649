//! Update rules, shared by table rows ([`sparse_update`](super::sparse_update)) and dense
//! parameters ([`dense_update`](super::dense_update)).

use super::device::Device;
use super::views::Extent;
use crate::error::{Error, Result, expect_size, invalid};

/// An optimizer. With `g` the gradient, `w` the parameter, `lr` the learning rate, `t` the number
/// of the step, from 1:
///
/// | optimizer | state | step |
/// |---|---|---|
/// | `Sgd` | none | `w -= lr g` |
/// | `Adagrad` | `s`, one per element | `s += g²; w -= lr g / (√s + eps)` |
/// | `RowwiseAdagrad` | `s`, one per row | `s += mean(g²); w -= lr g / (√s + eps)` |
/// | `Adam` | `m`, `v`, one each per element | `m = β₁m + (1-β₁)g; v = β₂v + (1-β₂)g²; w -= lr m̂ / (√v̂ + eps)`, `m̂ = m/(1-β₁ᵗ)`, `v̂ = v/(1-β₂ᵗ)` |
///
/// `eps` has no default, since the world does not agree on one: FBGEMM takes 1e-8, PyTorch,
/// TorchRec and facebookresearch/dlrm take 1e-10 for Adagrad, PyTorch takes 1e-8 for Adam. It
/// stands outside the root everywhere. With 0, a parameter that has never had a gradient stays as
/// it is: ops raise `eps` to a tiny number that avoids 0/0 and makes no difference beside a root
/// that is not 0. Formulas as in FBGEMM (`codegen/genscript/optimizers.py`). Adam is lazy on
/// tables: rows without a gradient keep `m`, `v` and `w`, and `t` counts steps, not the row's
/// updates. The squares of a row are summed in runs of 32 columns, each as a tree whose halves are
/// added, the runs in order: the error of a row's mean is at most `γₖ mean(g²)`, `k = ⌈D / 32⌉ +
/// 7`. For dense parameters `RowwiseAdagrad` means `Adagrad`, as in facebookresearch/dlrm.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd,
    /// Adagrad (Duchi et al., 2011).
    Adagrad {
        /// Added to the root.
        eps: f32,
    },
    /// Adagrad with one accumulator for a whole row of a table.
    RowwiseAdagrad {
        /// Added to the root.
        eps: f32,
    },
    /// Adam (Kingma & Ba, 2015).
    Adam {
        /// Decay of the mean of the gradients.
        beta1: f32,
        /// Decay of the mean of their squares.
        beta2: f32,
        /// Added to the root.
        eps: f32,
    },
}

/// The least `eps` of row-wise Adagrad, 2⁻¹⁰⁰. The learning rate itself is divided by it in a row
/// that has never had a gradient, and the quotient must be finite. The least root that is not 0 is
/// 2⁻⁷⁴·⁵, to which adding it makes no difference.
const MIN_ROWWISE_EPS: f32 = f32::from_bits((127 - 100) << 23);

/// How parameters are pulled towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum WeightDecay {
    /// Not at all.
    #[default]
    None,
    /// `wd * w` is added to the gradient, so that the optimizer sees it.
    L2(f32),
    /// `w` shrinks by `lr * wd * w` beside the optimizer's step.
    Decoupled(f32),
}

/// How an updated weight of a 16-bit table is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Rounding {
    /// To the nearest value; updates below half a step are lost.
    #[default]
    Nearest,
    /// Up or down at random so that the expectation is exact, see
    /// [`Element::from_f32_stochastic`](crate::Element::from_f32_stochastic). The bits for a weight
    /// are `philox4x32(key, counter)[column % 4]` with `key = [seed, (seed >> 32) ^ (step >> 32)]`
    /// and `counter = [column / 4, row, (row >> 32) | (table << 16), step]`, each cut to 32 bits:
    /// they depend on nothing else.
    Stochastic {
        /// The seed.
        seed: u64,
    },
}

/// One step of an optimizer: all that it needs besides gradient, parameters and state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateRule {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning rate of this step.
    pub learning_rate: f32,
    /// The number of this step, from 1.
    pub step: u64,
    /// How parameters are pulled towards zero.
    pub weight_decay: WeightDecay,
    /// How an updated weight of a 16-bit table is rounded.
    pub rounding: Rounding,
}

impl UpdateRule {
    /// The first step of `optimizer` with no decay, and rounding to nearest.
    pub fn new(optimizer: Optimizer, learning_rate: f32) -> Self {
        Self {
            optimizer,
            learning_rate,
            step: 1,
            weight_decay: WeightDecay::None,
            rounding: Rounding::Nearest,
        }
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        let finite = |argument, value: f32| match value.is_finite() && value >= 0.0 {
            true => Ok(()),
            false => Err(invalid(
                op,
                argument,
                format!("{value}, but must be a finite number of 0 or more"),
            )),
        };
        finite("rule.learning_rate", self.learning_rate)?;
        if self.step == 0 {
            return Err(invalid(op, "rule.step", "0, but steps count from 1"));
        }
        match self.weight_decay {
            WeightDecay::None => {}
            WeightDecay::L2(decay) | WeightDecay::Decoupled(decay) => {
                finite("rule.weight_decay", decay)?
            }
        }
        match self.optimizer {
            Optimizer::Sgd => Ok(()),
            Optimizer::Adagrad { eps } | Optimizer::RowwiseAdagrad { eps } => {
                finite("rule.optimizer.eps", eps)
            }
            Optimizer::Adam { beta1, beta2, eps } => {
                finite("rule.optimizer.eps", eps)?;
                for beta in [beta1, beta2] {
                    if !(0.0..1.0).contains(&beta) {
                        return Err(invalid(
                            op,
                            "rule.optimizer.beta",
                            format!("{beta}, but must be in [0, 1)"),
                        ));
                    }
                }
                Ok(())
            }
        }
    }

    /// The same step on table rows, see [`Optimizer::for_rows`].
    pub(crate) fn for_rows(self) -> Self {
        Self { optimizer: self.optimizer.for_rows(), ..self }
    }

    /// The same step on dense parameters, see [`Optimizer::for_dense`].
    pub(crate) fn for_dense(self) -> Self {
        Self { optimizer: self.optimizer.for_dense(), ..self }
    }

    /// What the weight decay comes to: a factor of the parameter that is added to the gradient, and
    /// one that the parameter is multiplied by.
    pub(crate) fn decay_factors(&self) -> (f32, f32) {
        match self.weight_decay {
            WeightDecay::None => (0.0, 1.0),
            WeightDecay::L2(decay) => (decay, 1.0),
            WeightDecay::Decoupled(decay) => (0.0, 1.0 - self.learning_rate * decay),
        }
    }

    /// The factors `1 / (1 - β₁ᵗ)` and `1 / (1 - β₂ᵗ)`; of no meaning for the other optimizers.
    pub(crate) fn bias_corrections(&self) -> (f32, f32) {
        let Optimizer::Adam { beta1, beta2, .. } = self.optimizer else { return (1.0, 1.0) };
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(self.step as f64))) as f32;
        (correction(beta1), correction(beta2))
    }
}

/// What of an [`UpdateRule`] changes from step to step, where ops can read it: a recorded step is
/// replayed with other values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepValues {
    /// The number of the step, from 1.
    pub step: u64,
    /// The learning rate.
    pub learning_rate: f32,
    /// What parameters are multiplied by beside the step.
    pub shrink: f32,
    /// `1 / (1 - β₁ᵗ)`.
    pub first_correction: f32,
    /// `1 / (1 - β₂ᵗ)`.
    pub second_correction: f32,
    /// How much of a moving average stays; see [`moving_average`](super::moving_average).
    pub decay: f32,
    pub(crate) reserved: u32,
}

impl StepValues {
    /// Those of a rule, and the decay of a moving average.
    pub fn new(rule: &UpdateRule, decay: f32) -> Self {
        let (first_correction, second_correction) = rule.bias_corrections();
        let (step, learning_rate, shrink) = (rule.step, rule.learning_rate, rule.decay_factors().1);
        Self {
            step,
            learning_rate,
            shrink,
            first_correction,
            second_correction,
            decay,
            reserved: 0,
        }
    }
}

/// Where an op finds what its arguments leave open, one entry each.
pub struct StepControl<'a, D: Device> {
    /// They take the place of learning rate and number in the rule.
    pub values: Option<D::Slice<'a, StepValues>>,
    /// Unless it is 0 the op does nothing; see [`finite_check`](super::finite_check).
    pub gate: Option<D::Slice<'a, u64>>,
}

impl<D: Device> Clone for StepControl<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device> Copy for StepControl<'_, D> {}

impl<D: Device> Default for StepControl<'_, D> {
    fn default() -> Self {
        Self { values: None, gate: None }
    }
}

impl<D: Device> StepControl<'_, D> {
    /// The same, borrowed for a shorter time.
    pub fn reborrow(&self) -> StepControl<'_, D> {
        StepControl {
            values: self.values.as_ref().map(D::reborrow),
            gate: self.gate.as_ref().map(D::reborrow),
        }
    }

    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        self.values
            .map_or(Ok(()), |values| expect_size(op, "control.values", values.extent(), 1))?;
        self.gate.map_or(Ok(()), |gate| expect_size(op, "control.gate", gate.extent(), 1))
    }
}

impl Optimizer {
    /// How many state values a table of `rows` rows with `elements` elements has, in the first and
    /// in the second state buffer.
    pub fn state_len(&self, rows: usize, elements: usize) -> [usize; 2] {
        match self {
            Self::Sgd => [0, 0],
            Self::Adagrad { .. } => [elements, 0],
            Self::RowwiseAdagrad { .. } => [rows, 0],
            Self::Adam { .. } => [elements, elements],
        }
    }

    /// The optimizer for dense parameters, which have no rows. Its `eps` is at least the smallest
    /// positive normal number: added to the root of whatever is not zero that changes nothing, and
    /// a parameter that has never had a gradient stays where it is, in place of becoming 0/0.
    pub fn for_dense(self) -> Self {
        match self {
            Self::RowwiseAdagrad { eps } => Self::Adagrad { eps },
            elementwise => elementwise,
        }
        .for_rows()
    }

    /// The optimizer for table rows. Its `eps` is large enough that a row, or an element of one,
    /// that has never had a gradient stays as it is, in place of becoming 0/0; see
    /// [`Self::for_dense`].
    pub(crate) fn for_rows(self) -> Self {
        let least = |eps: f32| eps.max(f32::MIN_POSITIVE);
        match self {
            Self::Sgd => Self::Sgd,
            Self::Adagrad { eps } => Self::Adagrad { eps: least(eps) },
            Self::RowwiseAdagrad { eps } => Self::RowwiseAdagrad { eps: eps.max(MIN_ROWWISE_EPS) },
            Self::Adam { beta1, beta2, eps } => Self::Adam { beta1, beta2, eps: least(eps) },
        }
    }
}

/// What an optimizer remembers. All zeros before the first step.
pub enum OptimizerStateMut<'a, D: Device> {
    /// For [`Optimizer::Sgd`].
    None,
    /// For [`Optimizer::Adagrad`] (one per element) and [`Optimizer::RowwiseAdagrad`] (one per
    /// row).
    SumOfSquares(D::SliceMut<'a, f32>),
    /// For [`Optimizer::Adam`], one each per element.
    Moments {
        /// The decaying mean of the gradients.
        first: D::SliceMut<'a, f32>,
        /// The decaying mean of their squares.
        second: D::SliceMut<'a, f32>,
    },
}

impl<D: Device> OptimizerStateMut<'_, D> {
    pub(crate) fn check(
        &self,
        op: &'static str,
        optimizer: Optimizer,
        rows: usize,
        elements: usize,
    ) -> Result<()> {
        let [first_len, second_len] = optimizer.state_len(rows, elements);
        match (self, optimizer) {
            (Self::None, Optimizer::Sgd) => Ok(()),
            (
                Self::SumOfSquares(sum),
                Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. },
            ) => expect_size(op, "state.sum_of_squares", sum.extent(), first_len),
            (Self::Moments { first, second }, Optimizer::Adam { .. }) => {
                expect_size(op, "state.first", first.extent(), first_len)?;
                expect_size(op, "state.second", second.extent(), second_len)
            }
            _ => Err(Error::InvalidArgument {
                op,
                argument: "state",
                reason: format!("it is not the state of {optimizer:?}"),
            }),
        }
    }
}

/// Checks a bound for gradient clamping.
pub(crate) fn check_max_gradient(op: &'static str, max_gradient: Option<f32>) -> Result<()> {
    match max_gradient {
        Some(max) if max.is_nan() || max < 0.0 => {
            Err(invalid(op, "max_gradient", format!("{max}, but must be 0 or more")))
        }
        _ => Ok(()),
    }
}

/// `x` clamped to `[-max, max]`; a NaN stays one.
#[inline(always)]
pub(crate) fn clamp_gradient(x: f32, max_gradient: Option<f32>) -> f32 {
    max_gradient.map_or(x, |max| x.clamp(-max, max))
}
