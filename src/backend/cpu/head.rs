//! [`head`](crate::ops::head) on the CPU: the logits of rows, then the losses as
//! [`loss`](super::loss) computes them, then the gradients. The input is read twice, by rows for
//! its gradient and by columns for that of the weight, so that no sum is split between threads.

use super::Cpu;
use super::cast::Convert;
use super::compute::column_sums::column_sums;
use super::compute::vector::dot_row;
use super::linear::relu_grad;
use super::loss;
use super::runtime::erased::{ByElement, Retype, with_elements};
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::head::{Forward, Grads, HeadOps, LossAndGrads, OP};
use crate::ops::{Accum, Matrix, ViewMut};
use crate::simd::{Lanes, Loop};
use crate::size::product;

impl HeadOps for Cpu {
    fn head_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        forward(self, ByElement::of::<E, _>(args));
        Ok(())
    }

    fn head_loss_and_grads<E: Element>(&self, args: LossAndGrads<'_, Self, E>) -> Result<()> {
        loss_and_grads(self, ByElement::of::<E, _>(args))
    }

    fn head_workspace_len<E: Element>(&self, _batch_size: usize, _inputs: usize) -> usize {
        0
    }
}

/// [`Forward`] with elements of any type.
type AnyForward<'a> =
    ByElement<Forward<'a, Cpu, f32>, Forward<'a, Cpu, f16>, Forward<'a, Cpu, bf16>>;

/// [`LossAndGrads`] with elements of any type.
type AnyLossAndGrads<'a> =
    ByElement<LossAndGrads<'a, Cpu, f32>, LossAndGrads<'a, Cpu, f16>, LossAndGrads<'a, Cpu, bf16>>;

#[inline(never)]
fn forward(cpu: &Cpu, args: AnyForward<'_>) {
    with_elements!(args => {
        let Forward { input, weight, bias, mut logits } = args;
        compute_logits(cpu, input, &weight, bias[0], &mut logits);
    });
}

#[inline(never)]
fn loss_and_grads(cpu: &Cpu, args: AnyLossAndGrads<'_>) -> Result<()> {
    with_elements!(args => typed_loss_and_grads(cpu, args))
}

fn compute_logits<E: Element>(
    cpu: &Cpu,
    input: Matrix<'_, Cpu, E>,
    weight: &[f32],
    bias: f32,
    logits: &mut [f32],
) {
    let cpu = cpu.for_operations(product([2, input.rows, input.cols]));
    let rows = cpu.rows_per_task(logits.len());
    cpu.for_each_chunk(logits, rows, |k, logits| {
        cpu.dispatch.run(Logits { input, first: k * rows, weight, bias, logits });
    });
}

fn typed_loss_and_grads<E: Element>(cpu: &Cpu, args: LossAndGrads<'_, Cpu, E>) -> Result<()> {
    let LossAndGrads { forward, loss, threshold, loss_scale, labels, mean, grads, accum, .. } =
        args;
    let Forward { input, weight, bias, mut logits } = forward;
    let Grads { logits: mut grad_logits, input: mut grad_input, weight: mut grad_weight, .. } =
        grads;
    compute_logits(cpu, input, &weight, bias[0], &mut logits);
    let of_loss = crate::ops::loss::Forward {
        loss,
        threshold,
        loss_scale,
        logits: logits.as_view(),
        labels,
        mean,
        grad_logits: Some(grad_logits.reborrow()),
        workspace: ViewMut::from(&mut [][..]),
    };
    // A bad label is reported when all is done.
    let result = loss::forward(OP, of_loss);
    let grad_logits = &*grad_logits;
    // A load and a store of an element take as long as several operations.
    let few = cpu.for_operations(product([8, input.rows, input.cols]));
    few.for_each_row(grad_input.reborrow(), |r, grad| {
        few.dispatch.run(Convert { factor: grad_logits[r], from: &weight, to: grad });
    });
    if let Some(mut sums) = grads.bias_before {
        relu_grad(cpu, input, grad_input.reborrow());
        column_sums(cpu, grad_input.as_matrix(), None, &mut sums, accum);
    }
    column_sums(cpu, input, Some(grad_logits), &mut grad_weight, accum);
    let mut grad_bias = grads.bias;
    let sum: f32 = grad_logits.iter().sum();
    grad_bias[0] = match accum {
        Accum::Replace => sum,
        Accum::Add => grad_bias[0] + sum,
    };
    result
}

/// Computes the logits of the rows from `first` on.
struct Logits<'a, E: Element> {
    input: Matrix<'a, Cpu, E>,
    first: usize,
    weight: &'a [f32],
    bias: f32,
    logits: &'a mut [f32],
}

impl<E: Element> Loop for Logits<'_, E> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        for (k, logit) in self.logits.iter_mut().enumerate() {
            *logit = dot_row(lanes, self.weight, self.input.row(self.first + k)) + self.bias;
        }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Forward<'a, Cpu, E> {
    type Output = Forward<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        let Self { input, weight, bias, logits } = self;
        Forward { input: input.retype(), weight, bias, logits }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for LossAndGrads<'a, Cpu, E> {
    type Output = LossAndGrads<'a, Cpu, T>;

    fn retype(self) -> Self::Output {
        let Self { forward, loss, threshold, loss_scale, labels, mean, .. } = self;
        let Grads { logits, input, weight, bias, bias_before } = self.grads;
        let grads = Grads { logits, input: input.retype(), weight, bias, bias_before };
        let (accum, workspace) = (self.accum, self.workspace);
        LossAndGrads {
            forward: forward.retype(),
            loss,
            threshold,
            loss_scale,
            labels,
            mean,
            grads,
            accum,
            workspace,
        }
    }
}
