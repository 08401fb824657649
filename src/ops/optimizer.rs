//! Update rules, shared by table rows ([`sparse_update`](super::sparse_update)) and dense
//! parameters ([`dense_update`](super::dense_update)).

use super::device::Device;
use super::table_values::{Per, TableValuesMut};
use super::tables::TableBatch;
use super::views::{View, ViewMut};
use crate::error::{Error, Result, expect_size, invalid};

/// An optimizer. Let `g` be the gradient, `w` the parameter, `lr` the learning rate, and `t` the
/// number of the step, from 1.
///
/// | optimizer | state | step |
/// |---|---|---|
/// | `Sgd` | none | `w -= lr g` |
/// | `Adagrad` | `s`, one per element | `s += g²; w -= lr g / (√s + eps)` |
/// | `RowwiseAdagrad` | `s`, one per row | `s += mean(g²); w -= lr g / (√s + eps)` |
/// | `Adam` | `m` and `v`, one per element | `w -= lr m̂ / (√v̂ + eps)` |
///
/// In Adam, `m = β₁m + (1-β₁)g`, `v = β₂v + (1-β₂)g²`, `m̂ = m / (1 - β₁ᵗ)` and
/// `v̂ = v / (1 - β₂ᵗ)`.
///
/// The formulas are those of FBGEMM (`codegen/genscript/optimizers.py`).
///
/// - `eps` has no default, since libraries differ: FBGEMM takes 1e-8; PyTorch, TorchRec and
///   facebookresearch/dlrm take 1e-10 for Adagrad; PyTorch takes 1e-8 for Adam. All of them add it
///   outside the root. With `eps = 0`, a parameter that has never had a gradient does not change:
///   ops raise `eps` to a tiny number, which avoids 0/0 and makes no difference beside a root that
///   is not 0.
/// - Adam is lazy on tables: rows that the batch does not look up keep `m`, `v` and `w`, and `t`
///   counts steps, not the row's updates.
/// - The squares of a row are summed by a reduction tree for each 32 columns, and the sums of these
///   blocks are added in order. The error of a row's mean is at most `γₖ mean(g²)`, `k = ⌈D / 32⌉ +
///   7`.
/// - For dense parameters `RowwiseAdagrad` means `Adagrad`, as in facebookresearch/dlrm.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Optimizer {
    /// Stochastic gradient descent.
    Sgd,
    /// Adagrad (Duchi et al., 2011).
    Adagrad {
        /// The term that is added to the root.
        eps: f32,
    },
    /// Adagrad with one accumulator for a whole row of a table.
    RowwiseAdagrad {
        /// The term that is added to the root.
        eps: f32,
    },
    /// Adam (Kingma & Ba, 2015).
    Adam {
        /// The decay of the mean of the gradients, in [0, 1).
        beta1: f32,
        /// The decay of the mean of their squares, in [0, 1).
        beta2: f32,
        /// The term that is added to the root.
        eps: f32,
    },
}

/// The least `eps` of row-wise Adagrad, 2⁻¹⁰⁰. In a row that has never had a gradient, the op
/// divides the learning rate by it, and the quotient must be finite. The least root that is not 0
/// is 2⁻⁷⁴·⁵, to which adding it makes no difference.
const MIN_ROWWISE_EPS: f32 = f32::from_bits((127 - 100) << 23);

/// The kind and rate of weight decay, which pulls parameters towards zero.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum WeightDecay {
    /// No weight decay.
    #[default]
    None,
    /// The rate `wd` of L2 regularisation: `wd * w` is added to the gradient before the optimizer's
    /// step.
    L2(f32),
    /// The rate `wd` of decoupled weight decay: `w` shrinks by `lr * wd * w` besides the
    /// optimizer's step.
    Decoupled(f32),
}

/// The rounding of an updated weight of a 16-bit table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum Rounding {
    /// Rounding to the nearest value: updates below half the gap between two values are lost.
    #[default]
    Nearest,
    /// Rounding up or down at random so that the expectation is exact; see
    /// [`Element::from_f32_stochastic`](crate::Element::from_f32_stochastic). The random bits for a
    /// weight are `philox4x32(key, counter)[column % 4]` with `key = [seed, (seed >> 32) ^ (step >>
    /// 32)]` and `counter = [column / 4, row, (row >> 32) | (table << 16), step]`, each cut to 32
    /// bits. They depend on nothing else.
    Stochastic {
        /// The seed.
        seed: u64,
    },
}

/// The rule of one step: everything that the optimizer needs except gradient, parameters and state.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UpdateRule {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning rate of this step.
    pub learning_rate: f32,
    /// The number of this step, from 1; 0 if it is not given. Adam's correction and the random
    /// bits of stochastic rounding depend on it, so that they need it.
    pub step: u64,
    /// The kind and rate of weight decay, which pulls parameters towards zero.
    pub weight_decay: WeightDecay,
    /// The rounding of an updated weight of a 16-bit table.
    pub rounding: Rounding,
}

impl UpdateRule {
    /// Makes the rule of a step of `optimizer` whose number is not given, without weight decay and
    /// with rounding to nearest.
    pub fn new(optimizer: Optimizer, learning_rate: f32) -> Self {
        Self {
            optimizer,
            learning_rate,
            step: 0,
            weight_decay: WeightDecay::None,
            rounding: Rounding::Nearest,
        }
    }

    /// Returns the rule of the step with this number, from 1.
    pub fn at_step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// Checks the values of the rule, for an op of this name.
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
        let is_stochastic = matches!(self.rounding, Rounding::Stochastic { .. });
        if self.step == 0 && (is_stochastic || matches!(self.optimizer, Optimizer::Adam { .. })) {
            let reason = "not given, but Adam and stochastic rounding need it: count steps from 1 \
                          (`at_step`)";
            return Err(invalid(op, "rule.step", reason));
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

    /// Returns the rule for table rows; see [`Optimizer::for_rows`].
    pub(crate) fn for_rows(self) -> Self {
        Self { optimizer: self.optimizer.for_rows(), ..self }
    }

    /// Returns the rule for dense parameters; see [`Optimizer::for_dense`].
    pub(crate) fn for_dense(self) -> Self {
        Self { optimizer: self.optimizer.for_dense(), ..self }
    }

    /// Returns two factors of the weight decay: the parameter times the first is added to the
    /// gradient, and the parameter is multiplied by the second.
    pub(crate) fn decay_factors(&self) -> (f32, f32) {
        match self.weight_decay {
            WeightDecay::None => (0.0, 1.0),
            WeightDecay::L2(decay) => (decay, 1.0),
            WeightDecay::Decoupled(decay) => (0.0, 1.0 - self.learning_rate * decay),
        }
    }

    /// Returns the factors `1 / (1 - β₁ᵗ)` and `1 / (1 - β₂ᵗ)` of Adam; 1 for other optimizers.
    pub(crate) fn bias_corrections(&self) -> (f32, f32) {
        let Optimizer::Adam { beta1, beta2, .. } = self.optimizer else { return (1.0, 1.0) };
        let correction = |beta: f32| (1.0 / (1.0 - f64::from(beta).powf(self.step as f64))) as f32;
        (correction(beta1), correction(beta2))
    }
}

/// The values of an [`UpdateRule`] that change from step to step. Ops read them from the device, so
/// that a recorded step can be replayed with other values.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
pub struct StepValues {
    /// The number of the step, from 1.
    pub step: u64,
    /// The learning rate.
    pub learning_rate: f32,
    /// The factor of parameters by decoupled weight decay.
    pub shrink: f32,
    /// The factor `1 / (1 - β₁ᵗ)` of Adam.
    pub first_correction: f32,
    /// The factor `1 / (1 - β₂ᵗ)` of Adam.
    pub second_correction: f32,
    /// The weight of the old average in a [`moving_average`](super::moving_average).
    pub decay: f32,
    pub(crate) reserved: u32,
}

impl StepValues {
    /// Makes the values of a rule, with the decay of a moving average.
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

/// Values that an op of a step reads from the device, one entry each, so that they may change
/// between replays of a recording.
pub struct StepControl<'a, D: Device> {
    /// The values that take the place of learning rate and number in the rule, one entry; `None`
    /// for those of the rule.
    pub values: Option<View<'a, D, StepValues>>,
    /// The gate, one word: the op does nothing unless it is 0; `None` for a gate that is open. See
    /// [`finite_check`](super::finite_check).
    pub gate: Option<View<'a, D, u64>>,
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
    /// Checks the sizes of the views, for an op of this name.
    pub(crate) fn check(&self, op: &'static str) -> Result<()> {
        self.values.map_or(Ok(()), |values| expect_size(op, "control.values", values.len(), 1))?;
        self.gate.map_or(Ok(()), |gate| expect_size(op, "control.gate", gate.len(), 1))
    }
}

impl Optimizer {
    /// Returns the number of state values of a table of `rows` rows and `elements` elements, in the
    /// first and in the second state buffer.
    pub fn state_len(&self, rows: usize, elements: usize) -> [usize; 2] {
        match self {
            Self::Sgd => [0, 0],
            Self::Adagrad { .. } => [elements, 0],
            Self::RowwiseAdagrad { .. } => [rows, 0],
            Self::Adam { .. } => [elements, elements],
        }
    }

    /// Returns the parts of a table that have a value of the state each.
    pub(crate) fn state_per(self) -> Per {
        match self {
            Self::RowwiseAdagrad { .. } => Per::Row,
            Self::Sgd | Self::Adagrad { .. } | Self::Adam { .. } => Per::Element,
        }
    }

    /// Returns the optimizer for dense parameters, which have no rows. Its `eps` is at least the
    /// smallest positive normal number. Adding that to a root that is not 0 changes nothing, and a
    /// parameter that has never had a gradient keeps its value instead of becoming 0/0.
    pub fn for_dense(self) -> Self {
        match self {
            Self::RowwiseAdagrad { eps } => Self::Adagrad { eps },
            elementwise => elementwise,
        }
        .for_rows()
    }

    /// Returns the optimizer for table rows. Its `eps` is large enough that a row, or an element of
    /// one, that has never had a gradient keeps its value instead of becoming 0/0; see
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

/// The state of an optimizer in buffers of a device, with the number of steps that it has seen.
///
/// ```
/// use bagdot::Cpu;
/// use bagdot::ops::{Optimizer, OptimizerState, Pooling, Table, TableBatch};
/// let table = Table { num_embeddings: 1000, embedding_dim: 8 };
/// let tables = TableBatch::one_feature_each(vec![table; 2], Pooling::Sum)?;
/// let optimizer = Optimizer::RowwiseAdagrad { eps: 1e-8 };
/// let state = OptimizerState::of_tables(&Cpu::on_current_thread(), optimizer, &tables)?;
/// assert_eq!(state.steps(), 0);
/// # Ok::<(), bagdot::Error>(())
/// ```
pub struct OptimizerState<D: Device> {
    optimizer: Optimizer,
    /// Adam's first moments or Adagrad's sums of squares; empty for SGD.
    pub(crate) first: D::Buffer<f32>,
    /// Adam's second moments, else empty.
    pub(crate) second: D::Buffer<f32>,
    pub(crate) steps: u64,
}

impl<D: Device> OptimizerState<D> {
    /// Allocates zeros for `elements` parameters in `rows` rows.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn new(device: &D, optimizer: Optimizer, rows: usize, elements: usize) -> Result<Self> {
        let [first, second] = optimizer.state_len(rows, elements);
        Ok(Self { optimizer, first: device.alloc(first)?, second: device.alloc(second)?, steps: 0 })
    }

    /// Allocates zeros for all rows of some tables.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn of_tables(device: &D, optimizer: Optimizer, tables: &TableBatch) -> Result<Self> {
        Self::new(device, optimizer, tables.num_rows(), tables.num_weights())
    }

    /// Returns the number of the last step that [`sparse_update::step`](super::sparse_update::step)
    /// took with this state, 0 before the first. A rule that has a number sets it, by which a
    /// resumed run continues. Other ops count no steps.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Sets the number of the last step, to continue from a checkpoint.
    pub fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// Views the state as the ops take it.
    pub fn view_mut(&mut self) -> OptimizerStateMut<'_, D> {
        match self.optimizer {
            Optimizer::Sgd => OptimizerStateMut::None,
            Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. } => {
                OptimizerStateMut::SumOfSquares(D::view_mut(&mut self.first))
            }
            Optimizer::Adam { .. } => OptimizerStateMut::Moments {
                first: D::view_mut(&mut self.first),
                second: D::view_mut(&mut self.second),
            },
        }
    }
}

/// The state of an optimizer in values of type `V`: all zeros before the first step.
pub enum StateOf<V> {
    /// No state, for [`Optimizer::Sgd`].
    None,
    /// The sums of squares of [`Optimizer::Adagrad`], one for each element, or of
    /// [`Optimizer::RowwiseAdagrad`], one for each row by linear row number.
    SumOfSquares(V),
    /// The moments of [`Optimizer::Adam`], one each for each element.
    Moments {
        /// The decaying mean of the gradients, one for each element.
        first: V,
        /// The decaying mean of their squares, one for each element.
        second: V,
    },
}

/// The state of an optimizer in one view for all parameters.
pub type OptimizerStateMut<'a, D> = StateOf<ViewMut<'a, D, f32>>;

/// The state of an optimizer of tables: in one view for all tables, or in memory of each table's
/// own. An [`OptimizerStateMut`] becomes one where an op takes it.
pub type TableStateMut<'a, D> = StateOf<TableValuesMut<'a, D, f32>>;

impl<'a, D: Device> From<OptimizerStateMut<'a, D>> for TableStateMut<'a, D> {
    fn from(state: OptimizerStateMut<'a, D>) -> Self {
        match state {
            StateOf::None => Self::None,
            StateOf::SumOfSquares(sums) => Self::SumOfSquares(sums.into()),
            StateOf::Moments { first, second } => {
                Self::Moments { first: first.into(), second: second.into() }
            }
        }
    }
}

impl<V> StateOf<V> {
    /// Checks that this is state of the optimizer. `check` checks the size of values, given their
    /// name.
    pub(crate) fn check(
        &self,
        op: &'static str,
        optimizer: Optimizer,
        check: impl Fn(&V, &'static str) -> Result<()>,
    ) -> Result<()> {
        match (self, optimizer) {
            (Self::None, Optimizer::Sgd) => Ok(()),
            (
                Self::SumOfSquares(sums),
                Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. },
            ) => check(sums, "state.sum_of_squares"),
            (Self::Moments { first, second }, Optimizer::Adam { .. }) => {
                check(first, "state.first")?;
                check(second, "state.second")
            }
            _ => Err(Error::InvalidArgument {
                op,
                argument: "state",
                reason: format!("it is not the state of {optimizer:?}"),
            }),
        }
    }
}

/// Checks a bound for gradient clamping: it must not be negative or NaN.
pub(crate) fn check_max_gradient(op: &'static str, max_gradient: Option<f32>) -> Result<()> {
    match max_gradient {
        Some(max) if max.is_nan() || max < 0.0 => {
            Err(invalid(op, "max_gradient", format!("{max}, but must be 0 or more")))
        }
        _ => Ok(()),
    }
}

/// Clamps `x` to `[-max, max]`. Returns NaN for NaN.
#[inline(always)]
pub(crate) fn clamp_gradient(x: f32, max_gradient: Option<f32>) -> f32 {
    max_gradient.map_or(x, |max| x.clamp(-max, max))
}
