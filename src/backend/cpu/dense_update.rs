//! [`dense_update`](crate::ops::dense_update) on the CPU.

use super::Cpu;
use super::optimizer::{StateRun, Step};
use super::simd::{Lanes, Loop};
use crate::error::Result;
use crate::ops::dense_update::{DenseUpdateOps, Update};
use crate::ops::{OptimizerStateMut, UpdateRule};

/// Elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 14;

impl DenseUpdateOps for Cpu {
    fn dense_update(&self, args: Update<'_, Self>) -> Result<()> {
        let Update { control, rule, max_gradient, grad, parameters, state } = args;
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
        self.install(|| self.step_run(&step, max_gradient, grad, parameters, state));
        Ok(())
    }
}

impl Cpu {
    fn step_run(&self, step: &Step, max: Option<f32>, grad: &[f32], parameters: &mut [f32], state: StateRun<'_>) {
        if grad.len() > ELEMENTS_PER_TASK {
            let middle = grad.len() / 2;
            let (grad_left, grad_right) = grad.split_at(middle);
            let (left, right) = parameters.split_at_mut(middle);
            let (state_left, state_right) = state.split_at(middle);
            return self.join(
                || self.step_run(step, max, grad_left, left, state_left),
                || self.step_run(step, max, grad_right, right, state_right),
            );
        }
        self.dispatch.run(StepRun { step, max, grad, parameters, state });
    }
}

/// A step on a run of parameters.
struct StepRun<'a> {
    step: &'a Step,
    max: Option<f32>,
    grad: &'a [f32],
    parameters: &'a mut [f32],
    state: StateRun<'a>,
}

impl Loop for StepRun<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let Self { step, max, grad, parameters, mut state } = self;
        let Some(max) = max else { return step.update(lanes, grad, parameters, state, None) };
        const BLOCK: usize = 64;
        for (grad, parameters) in grad.chunks(BLOCK).zip(parameters.chunks_mut(BLOCK)) {
            let mut clamped = [0f32; BLOCK];
            clamped.iter_mut().zip(grad).for_each(|(c, g)| *c = g.clamp(-max, max));
            let (here, rest) = state.split_at(grad.len());
            state = rest;
            step.update(lanes, &clamped[..grad.len()], parameters, here, None);
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
