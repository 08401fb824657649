//! The settings of optimizers and learning rates in a configuration file.

use serde::{Deserialize, Serialize};

use crate::nn::{GroupOptimizer, Schedule};
use crate::ops::{Optimizer, Rounding, WeightDecay};

/// The schedule of the learning rates: linear warm-up, then constant, then polynomial decay; see
/// [`Schedule`].
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// The number of steps of the warm-up.
    pub warmup_steps: u64,
    /// The step at which decay begins.
    pub decay_start: u64,
    /// The number of steps of the decay; 0 to use `decay_epochs`.
    pub decay_steps: u64,
    /// The number of epochs of the decay, if `decay_steps` is 0; 0 for no decay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_epochs: Option<f64>,
    /// The exponent of the decay.
    pub power: f32,
    /// The share of the base rate that is left at the end.
    pub floor: f32,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            warmup_steps: 0,
            decay_start: 0,
            decay_steps: 0,
            decay_epochs: Some(15.0),
            power: 1.0,
            floor: 0.3,
        }
    }
}

impl ScheduleConfig {
    pub(super) fn resolve(self, steps_per_epoch: u64) -> Schedule {
        let Self { warmup_steps, decay_start, decay_steps, decay_epochs, power, floor } = self;
        let in_epochs = (decay_epochs.unwrap_or(0.0) * steps_per_epoch as f64).round() as u64;
        let decay_steps = if decay_steps > 0 { decay_steps } else { in_epochs };
        Schedule { warmup_steps, decay_start, decay_steps, power, floor }
    }
}

/// The settings of an optimizer. Missing settings come from `[train.optimizer]`, and then from the
/// defaults below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GroupConfig {
    /// The kind: `sgd`, `adagrad`, `rowwise_adagrad` or `adam` (the default).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The base learning rate. Default: 0.01 for tables, 0.002 for layers, which suit Adam.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f32>,
    /// The number added to the root. Default for Adam: 1e-8. Adagrad has no default, since
    /// implementations differ: 1e-8 (FBGEMM), 1e-10 (PyTorch).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eps: Option<f32>,
    /// The decay of Adam's mean of the gradients. Default: 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f32>,
    /// The decay of Adam's mean of their squares. Default: 0.999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f32>,
    /// The weight decay: `"none"`, `{ l2 = 1e-5 }` or `{ decoupled = 1e-2 }`. Default: `{ l2 =
    /// 0.002 }` for tables, none for layers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<WeightDecay>,
    /// The bound to which gradients are clamped, `[-max, max]`, element by element. Default: no
    /// clamp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_gradient: Option<f32>,
    /// The rounding of weights in 16-bit tables: `"nearest"`, or `{ stochastic = { seed = 1 } }`.
    /// Default: nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rounding: Option<Rounding>,
}

/// The kind of an optimizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Stochastic gradient descent.
    Sgd,
    /// Adagrad.
    Adagrad,
    /// Adagrad with one accumulator for each row of a table; plain Adagrad for the layers.
    RowwiseAdagrad,
    /// Adam.
    Adam,
}

/// The defaults of each group.
pub(super) const TABLES: GroupConfig = GroupConfig {
    learning_rate: Some(0.01),
    weight_decay: Some(WeightDecay::L2(0.002)),
    ..GroupConfig::ADAM
};
pub(super) const DENSE: GroupConfig = GroupConfig {
    learning_rate: Some(0.002),
    weight_decay: Some(WeightDecay::None),
    ..GroupConfig::ADAM
};

impl GroupConfig {
    const ADAM: Self = Self {
        kind: Some(Kind::Adam),
        learning_rate: None,
        eps: None,
        beta1: Some(0.9),
        beta2: Some(0.999),
        weight_decay: None,
        max_gradient: None,
        rounding: Some(Rounding::Nearest),
    };

    pub(super) fn or(self, other: Self) -> Self {
        Self {
            kind: self.kind.or(other.kind),
            learning_rate: self.learning_rate.or(other.learning_rate),
            eps: self.eps.or(other.eps),
            beta1: self.beta1.or(other.beta1),
            beta2: self.beta2.or(other.beta2),
            weight_decay: self.weight_decay.or(other.weight_decay),
            max_gradient: self.max_gradient.or(other.max_gradient),
            rounding: self.rounding.or(other.rounding),
        }
    }

    /// Makes the optimizer, with `defaults` for missing settings.
    pub(super) fn resolve(self, defaults: Self) -> Result<GroupOptimizer, String> {
        let group = self.or(defaults);
        let eps = |name| {
            group.eps.ok_or_else(|| {
                format!("{name} needs `eps`: 1e-8 as in FBGEMM, 1e-10 as in PyTorch")
            })
        };
        let optimizer = match group.kind.unwrap_or(Kind::Adam) {
            Kind::Sgd => Optimizer::Sgd,
            Kind::Adagrad => Optimizer::Adagrad { eps: eps("adagrad")? },
            Kind::RowwiseAdagrad => Optimizer::RowwiseAdagrad { eps: eps("rowwise_adagrad")? },
            Kind::Adam => Optimizer::Adam {
                beta1: group.beta1.unwrap_or(0.9),
                beta2: group.beta2.unwrap_or(0.999),
                eps: group.eps.unwrap_or(1e-8),
            },
        };
        Ok(GroupOptimizer {
            optimizer,
            learning_rate: group.learning_rate.unwrap_or(0.001),
            weight_decay: group.weight_decay.unwrap_or_default(),
            max_gradient: group.max_gradient,
            rounding: group.rounding.unwrap_or_default(),
        })
    }
}
