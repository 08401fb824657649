//! [`dense_update`](crate::ops::dense_update) on the CPU.

use std::ops::Range;

use super::Cpu;
use super::compute::optimizer::{PreparedRule, StateRun};
use super::compute::vector::{Blocks, clamp, for_each_block, load, store};
use super::runtime::erased::{ByElement, Retype, with_elements};
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::dense_update::{DenseUpdateOps, Update};
use crate::ops::{OptimizerStateMut, ViewMut};
use crate::simd::{Lanes, Loop};
use crate::size::product;

/// The elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 14;

impl DenseUpdateOps for Cpu {
    fn dense_update<E: Element>(&self, args: Update<'_, Self, E>) -> Result<()> {
        update(self, ByElement::of(args));
        Ok(())
    }
}

/// The arguments of the op, for any type of rounded parameters.
type AnyUpdate<'a> = ByElement<Update<'a, Cpu, f32>, Update<'a, Cpu, f16>, Update<'a, Cpu, bf16>>;

impl<'a, E: Element, T: Element> Retype<E, T> for Update<'a, Cpu, E> {
    type Output = Update<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded } =
            self;
        let rounded = rounded.retype();
        Update { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded }
    }
}

/// Restores the type of the rounded parameters, and runs the op.
fn update(cpu: &Cpu, args: AnyUpdate<'_>) {
    with_elements!(args => typed_update(cpu, args));
}

fn typed_update<E: Element>(cpu: &Cpu, args: Update<'_, Cpu, E>) {
    let Update { control, rule, loss_scale, max_gradient, grad, parameters, state, rounded } = args;
    if control.is_shut() {
        return;
    }
    let rule = &PreparedRule::new(&control.rule(rule));
    let state = match state {
        OptimizerStateMut::None => StateRun::None,
        OptimizerStateMut::SumOfSquares(sums) => StateRun::Elementwise(sums.into_slice()),
        OptimizerStateMut::Moments { first, second } => {
            StateRun::Moments(first.into_slice(), second.into_slice())
        }
    };
    let (factor, grad, parameters) = (1.0 / loss_scale, grad.as_slice(), parameters.into_slice());
    let rounded = rounded.map(ViewMut::into_slice);
    let run = UpdateRun { rule, factor, max_gradient, grad, parameters, state, rounded };
    let cpu = &cpu.for_bytes(product([run.grad.len(), 3 * size_of::<f32>()]));
    cpu.run(|| update_run(cpu, run));
}

/// Updates a run of parameters, in parallel if it is longer than a task.
fn update_run<E: Element>(cpu: &Cpu, run: UpdateRun<'_, E>) {
    if run.grad.len() > ELEMENTS_PER_TASK {
        let middle = run.grad.len() / 2;
        let (left, right) = run.split_at(middle);
        return cpu.join(|| update_run(cpu, left), || update_run(cpu, right));
    }
    cpu.dispatch.run(run);
}

/// The update of a run of parameters.
struct UpdateRun<'a, E> {
    rule: &'a PreparedRule,
    /// The factor of the gradient: the reciprocal of the loss scale.
    factor: f32,
    /// The bound to which scaled gradients are clamped.
    max_gradient: Option<f32>,
    grad: &'a [f32],
    parameters: &'a mut [f32],
    /// The optimizer's state of these parameters.
    state: StateRun<'a>,
    /// The copy of the parameters that is rounded to `E`.
    rounded: Option<&'a mut [E]>,
}

impl<'a, E> UpdateRun<'a, E> {
    /// Splits the run into one of the first `middle` parameters and one of the others.
    fn split_at(self, middle: usize) -> (Self, Self) {
        let Self { rule, factor, max_gradient, grad, parameters, state, rounded } = self;
        let (grad, grad_right) = grad.split_at(middle);
        let (parameters, right) = parameters.split_at_mut(middle);
        let (state, state_right) = state.split_at(middle);
        let (rounded, rounded_right) = rounded.map(|rounded| rounded.split_at_mut(middle)).unzip();
        (
            Self { rule, factor, max_gradient, grad, parameters, state, rounded },
            Self {
                rule,
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

impl<E: Element> Loop for UpdateRun<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let len = self.grad.len();
        for_each_block::<V>(len, &mut UpdateBlocks { run: self, lanes });
    }
}

/// The update of a run, block by block.
struct UpdateBlocks<'a, V, E> {
    run: UpdateRun<'a, E>,
    lanes: V,
}

impl<V: Lanes, E: Element> Blocks for UpdateBlocks<'_, V, E> {
    #[inline(always)]
    fn block<const N: usize, const WHOLE: bool>(&mut self, columns: Range<usize>) {
        let Self {
            run: UpdateRun { rule, factor, max_gradient, grad, parameters, state, rounded },
            lanes,
        } = self;
        let lanes = *lanes;
        let mut grad = load::<V, f32, N, WHOLE>(lanes, &grad[columns.clone()]);
        for g in &mut grad {
            *g = clamp(lanes, lanes.mul(*g, lanes.splat(*factor)), *max_gradient);
        }
        let parameters = &mut parameters[columns.clone()];
        let updated =
            rule.update::<V, f32, N, WHOLE>(lanes, grad, parameters, state.part(columns.clone()));
        store::<V, f32, N, WHOLE>(lanes, updated, parameters);
        if let Some(rounded) = rounded {
            store::<V, E, N, WHOLE>(lanes, updated, &mut rounded[columns]);
        }
    }
}
