//! [`dense_update`](crate::ops::dense_update) on the CPU.

use super::Cpu;
use super::cast::Convert;
use super::optimizer::{StateRun, Step};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::dense_update::{DenseUpdateOps, Update};
use crate::ops::optimizer::clamp_gradient;
use crate::ops::{OptimizerStateMut, UpdateRule};
use crate::simd::{Lanes, Loop};

/// Elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 14;

impl DenseUpdateOps for Cpu {
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()> {
        let Update { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded } = args;
        if control.is_shut() {
            return Ok(());
        }
        let rule = control.rule(rule);
        let step = Step::new(&UpdateRule { optimizer: rule.optimizer.for_dense(), ..rule });
        let state = match state {
            OptimizerStateMut::None => StateRun::None,
            OptimizerStateMut::SumOfSquares(sums) => StateRun::Elementwise(sums),
            OptimizerStateMut::Moments { first, second } => StateRun::Moments(first, second),
        };
        let factor = 1.0 / loss_scale;
        self.install(|| self.step_run(StepRun { step: &step, factor, max_gradient, grad, parameters, state, rounded }));
        Ok(())
    }
}

impl Cpu {
    fn step_run<E: Element>(&self, run: StepRun<'_, E>) {
        if run.grad.len() > ELEMENTS_PER_TASK {
            let middle = run.grad.len() / 2;
            let (left, right) = run.split_at(middle);
            return self.join(|| self.step_run(left), || self.step_run(right));
        }
        self.dispatch.run(run);
    }
}

/// A step on a run of parameters.
struct StepRun<'a, E> {
    step: &'a Step,
    /// What the gradient is multiplied by.
    factor: f32,
    max_gradient: Option<f32>,
    grad: &'a [f32],
    parameters: &'a mut [f32],
    state: StateRun<'a>,
    rounded: Option<&'a mut [E]>,
}

impl<'a, E> StepRun<'a, E> {
    /// The step on the first `middle` parameters, and on the others.
    fn split_at(self, middle: usize) -> (Self, Self) {
        let Self { step, factor, max_gradient, grad, parameters, state, rounded } = self;
        let (grad, grad_right) = grad.split_at(middle);
        let (parameters, right) = parameters.split_at_mut(middle);
        let (state, state_right) = state.split_at(middle);
        let (rounded, rounded_right) = rounded.map(|rounded| rounded.split_at_mut(middle)).unzip();
        (
            Self { step, factor, max_gradient, grad, parameters, state, rounded },
            Self {
                step,
                factor,
                max_gradient,
                grad: grad_right,
                parameters: right,
                state: state_right,
                rounded: rounded_right,
            },
        )
    }
}

impl<E: Element> Loop for StepRun<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        /// Parameters that are still in the first-level cache when they are rounded.
        const BLOCK: usize = 256;
        let mut rest = self;
        while !rest.grad.is_empty() {
            let len = BLOCK.min(rest.grad.len());
            let (block, after) = rest.split_at(len);
            rest = after;
            let StepRun { step, factor, max_gradient, grad, parameters, state, rounded } = block;
            if factor == 1.0 && max_gradient.is_none() {
                step.update(lanes, grad, parameters, state, None);
            } else {
                let mut ready = [0f32; BLOCK];
                let ready = &mut ready[..grad.len()];
                ready.iter_mut().zip(grad).for_each(|(g, x)| *g = clamp_gradient(x * factor, max_gradient));
                step.update(lanes, ready, parameters, state, None);
            }
            if let Some(rounded) = rounded {
                Convert { factor: 1.0, from: parameters, to: rounded }.run(lanes);
            }
        }
    }
}

impl<'a> StateRun<'a> {
    /// The state of the first `middle` columns, and of the others.
    pub(super) fn split_at(self, middle: usize) -> (Self, Self) {
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
