//! Optimizers of a model: one for the tables, one for the dense layers, and the schedule of their
//! learning rates.

use super::tensors::{NamedTensor, TensorSource, read};
use crate::error::{Result, invalid};
use crate::ops::optimizer::check_max_gradient;
use crate::ops::{Device, Extent, Optimizer, OptimizerState, Rounding, UpdateRule, WeightDecay};

/// A value for the tables and one for the layers.
#[derive(Clone, Copy, Default)]
pub(super) struct PerGroup<T> {
    /// The value for all tables.
    pub(super) tables: T,
    /// The value for all layers of both MLPs.
    pub(super) layers: T,
}

impl<T> PerGroup<T> {
    /// Applies `f` to both values.
    pub(super) fn map<U>(self, mut f: impl FnMut(T) -> U) -> PerGroup<U> {
        PerGroup { tables: f(self.tables), layers: f(self.layers) }
    }
}

/// An optimizer with its settings, for all tables or for all dense layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupOptimizer {
    /// The optimizer.
    pub optimizer: Optimizer,
    /// The learning rate that the [`Schedule`] scales.
    pub learning_rate: f32,
    /// The weight decay. It pulls a table row only in steps in which the row has a gradient.
    pub weight_decay: WeightDecay,
    /// The largest magnitude of a gradient: gradients are clamped to `[-max, max]`, element by
    /// element. For tables this is the gradient of the pooled output (as in FBGEMM), for dense
    /// layers the gradient of the parameter. `None` for no clamp.
    pub max_gradient: Option<f32>,
    /// The rounding of the weights of 16-bit tables.
    pub rounding: Rounding,
}

impl GroupOptimizer {
    /// Makes an optimizer without weight decay and clamp, and with rounding to nearest.
    pub fn new(optimizer: Optimizer, learning_rate: f32) -> Self {
        let (weight_decay, max_gradient, rounding) = (WeightDecay::None, None, Rounding::Nearest);
        Self { optimizer, learning_rate, weight_decay, max_gradient, rounding }
    }

    /// Returns the update rule of step `step`, from 1.
    pub(crate) fn rule(&self, step: u64, schedule: Schedule) -> UpdateRule {
        UpdateRule {
            optimizer: self.optimizer,
            learning_rate: schedule.learning_rate(self.learning_rate, step),
            step,
            weight_decay: self.weight_decay,
            rounding: self.rounding,
        }
    }
}

/// The optimizers of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Optimizers {
    /// The optimizer of the tables.
    pub tables: GroupOptimizer,
    /// The optimizer of bottom and top MLP. [`Optimizer::RowwiseAdagrad`] means Adagrad here.
    pub dense: GroupOptimizer,
    /// The schedule of both learning rates.
    pub schedule: Schedule,
}

impl Optimizers {
    /// Makes the same optimizer for tables and dense layers, with a constant learning rate.
    pub fn same(optimizer: Optimizer, learning_rate: f32) -> Self {
        let group = GroupOptimizer::new(optimizer, learning_rate);
        Self { tables: group, dense: group, schedule: Schedule::default() }
    }

    /// Checks the settings themselves and not the rates of the steps: a schedule bounds those
    /// rates, which would hide invalid settings.
    pub(super) fn check(&self, op: &'static str) -> Result<()> {
        for group in [self.tables, self.dense] {
            group.rule(1, Schedule::default()).check(op)?;
            check_max_gradient(op, group.max_gradient)?;
        }
        let Schedule { power, floor, .. } = self.schedule;
        if !(power.is_finite() && power >= 0.0) {
            return Err(invalid(
                op,
                "schedule.power",
                format!("{power}, but must be a finite number of 0 or more"),
            ));
        }
        if !(0.0..=1.0).contains(&floor) {
            return Err(invalid(op, "schedule.floor", format!("{floor}, but must be in [0, 1]")));
        }
        Ok(())
    }
}

/// A schedule of the learning rate: linear warm-up, then constant, then polynomial decay. It is the
/// `LRPolicyScheduler` of facebookresearch/dlrm with the power as a setting, except that the rate
/// between warm-up and decay is the base rate.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct Schedule {
    /// The number of steps of warm-up: step `t` before this one has the rate
    /// `base t / warmup_steps`.
    pub warmup_steps: u64,
    /// The number of the step at which decay begins.
    pub decay_start: u64,
    /// The number of steps of decay, 0 for no decay. `k` steps after `decay_start` the rate is
    /// `base (floor + (1 - floor) (1 - k / decay_steps)^power)`; after `decay_steps` it stays.
    pub decay_steps: u64,
    /// The power of the decay, at least 0: 1 for a linear one.
    pub power: f32,
    /// The share of the base rate that is left at the end, in [0, 1].
    pub floor: f32,
}

impl Schedule {
    /// The least rate that decay leads to, unless the base rate is less.
    pub const MIN: f32 = 1e-7;

    /// Returns the learning rate of step `step`, from 1, for the base rate `base`.
    pub fn learning_rate(&self, base: f32, step: u64) -> f32 {
        if step < self.warmup_steps {
            return base * (step as f64 / self.warmup_steps as f64) as f32;
        }
        if self.decay_steps == 0 || step < self.decay_start {
            return base;
        }
        let left = self.decay_steps.saturating_sub(step - self.decay_start) as f64
            / self.decay_steps as f64;
        let floor = f64::from(self.floor);
        let share = floor + (1.0 - floor) * left.powf(f64::from(self.power));
        let (rate, least) = (base * share as f32, Self::MIN.min(base));
        // This keeps a NaN, so that the rule with this rate is refused.
        if rate < least { least } else { rate }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self { warmup_steps: 0, decay_start: 0, decay_steps: 0, power: 2.0, floor: 0.0 }
    }
}

impl<D: Device> OptimizerState<D> {
    /// Downloads the state as tensors named `optimizer.GROUP.first` and `.second`.
    pub(super) fn export(
        &self,
        device: &D,
        group: &str,
        tensors: &mut Vec<NamedTensor>,
    ) -> Result<()> {
        for (name, buffer) in [("first", &self.first), ("second", &self.second)] {
            let values = device.to_vec(buffer)?;
            tensors.push(NamedTensor::try_new(
                format!("optimizer.{group}.{name}"),
                vec![values.len()],
                &values,
            )?);
        }
        Ok(())
    }

    /// Uploads the state from the tensors that [`Self::export`] names.
    pub(super) fn import(
        &mut self,
        device: &D,
        group: &str,
        source: &(impl TensorSource + ?Sized),
    ) -> Result<()> {
        for (name, buffer) in [("first", &mut self.first), ("second", &mut self.second)] {
            let values: Vec<f32> =
                read(source, &format!("optimizer.{group}.{name}"), &[buffer.extent()])?;
            device.upload(&values, D::view_mut(buffer))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_a_schedule_would_hide_are_refused() {
        let good = Optimizers::same(Optimizer::Sgd, 0.1);
        assert_eq!(good.check("op"), Ok(()));
        let rate = |learning_rate| Optimizers::same(Optimizer::Sgd, learning_rate);
        let schedule = |power, floor| Optimizers {
            schedule: Schedule { power, floor, ..good.schedule },
            ..good
        };
        for bad in [
            rate(f32::NAN),
            rate(-1.0),
            schedule(f32::NAN, 0.0),
            schedule(-1.0, 0.0),
            schedule(1.0, f32::NAN),
        ] {
            assert!(bad.check("op").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn schedule_warms_up_holds_and_decays() {
        let schedule =
            Schedule { warmup_steps: 4, decay_start: 10, decay_steps: 10, power: 2.0, floor: 0.0 };
        let rates = |schedule: Schedule| {
            [1, 3, 4, 9, 10, 15, 20, 99].map(|step| schedule.learning_rate(0.8, step))
        };
        assert_eq!(rates(schedule), [0.2, 0.6, 0.8, 0.8, 0.8, 0.2, Schedule::MIN, Schedule::MIN]);
        assert_eq!(
            rates(Schedule { floor: 0.5, power: 1.0, ..schedule })[4..],
            [0.8, 0.6, 0.4, 0.4]
        );
        assert_eq!(Schedule::default().learning_rate(0.5, 1_000_000), 0.5);
    }
}
