//! [`interaction`](crate::ops::interaction) on the CPU. Threads share the samples. Products of
//! `f32` are exact at any precision.

mod pairs;
mod sample;

use std::sync::atomic::{AtomicBool, Ordering};

use super::Cpu;
use super::finite_check::AllFinite;
use super::runtime::erased::{ByElement, Retype, with_elements};
use super::runtime::scratch::{Scratch, TASK};
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::Interaction;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};
use pairs::{Dots, Grads, Pairs, dots_scratch_len, grad_matrix_len};
pub(super) use sample::Sample;

impl InteractionOps for Cpu {
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        forward(self, ByElement::of(args));
        Ok(())
    }

    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        backward(self, ByElement::of(args));
        Ok(())
    }
}

/// The arguments of the forward op, for any element type.
type AnyForward<'a> =
    ByElement<Forward<'a, Cpu, f32>, Forward<'a, Cpu, f16>, Forward<'a, Cpu, bf16>>;

/// The arguments of the backward op, for any element type.
type AnyBackward<'a> =
    ByElement<Backward<'a, Cpu, f32>, Backward<'a, Cpu, f16>, Backward<'a, Cpu, bf16>>;

/// Restores the element type, and runs the forward op.
fn forward(cpu: &Cpu, args: AnyForward<'_>) {
    with_elements!(args => typed_forward(cpu, args));
}

fn typed_forward<E: Element>(cpu: &Cpu, args: Forward<'_, Cpu, E>) {
    let cpu = cpu.for_operations(args.flops());
    let Forward { interaction, dim, precision: _, features, output } = args;
    let last = output.rows.saturating_sub(1);
    cpu.for_each_row(output, |sample, row| {
        let samples = [sample, last.min(sample + 1)].map(|k| Sample::of(&features, k, dim));
        forward_sample(&cpu, interaction, samples, row);
    });
}

/// Restores the element type, and runs the backward op.
fn backward(cpu: &Cpu, args: AnyBackward<'_>) {
    with_elements!(args => typed_backward(cpu, args));
}

fn typed_backward<E: Element>(cpu: &Cpu, args: Backward<'_, Cpu, E>) {
    let cpu = cpu.for_operations(args.flops());
    let Backward { interaction, dim, precision: _, features, .. } = args;
    let Backward { grad_output, grad_features, non_finite, .. } = args;
    let last = grad_output.rows.saturating_sub(1);
    let (is_wanted, found) = (non_finite.is_some(), AtomicBool::new(false));
    let backward = |sample: usize, head: &mut [E], tail: &mut [E]| {
        let samples = [sample, last.min(sample + 1)].map(|k| Sample::of(&features, k, dim));
        backward_sample(&cpu, interaction, samples, grad_output.row(sample), head, tail);
        // The gradients are still in the cache.
        let are_finite = |values: &[E]| cpu.dispatch.run(AllFinite(values));
        if is_wanted && !(are_finite(head) && are_finite(tail)) {
            found.store(true, Ordering::Relaxed);
        }
    };
    match grad_features {
        FeaturesMut::Joined { block } => cpu.for_each_row(block, |sample, row| {
            let (head, tail) = row.split_at_mut(dim.min(row.len()));
            backward(sample, head, tail);
        }),
        FeaturesMut::Split { dense, sparse } if sparse.cols == 0 => {
            cpu.for_each_row(dense, |sample, head| backward(sample, head, &mut []));
        }
        FeaturesMut::Split { dense, sparse } if dense.cols == 0 => {
            cpu.for_each_row(sparse, |sample, tail| backward(sample, &mut [], tail));
        }
        FeaturesMut::Split { dense, sparse } => {
            let (heads, tails) = ((dense.cols, dense.ld), (sparse.cols, sparse.ld));
            let parts = ((dense.data.into_slice(), heads.1), (sparse.data.into_slice(), tails.1));
            let run = cpu.rows_per_task(dense.rows);
            cpu.for_each_rows_of_both(parts.0, parts.1, dense.rows, run, |first, dense, sparse| {
                for (k, (head, tail)) in
                    dense.chunks_mut(heads.1).zip(sparse.chunks_mut(tails.1)).enumerate()
                {
                    backward(first + k, &mut head[..heads.0], &mut tail[..tails.0]);
                }
            });
        }
    }
    if let (Some(word), true) = (non_finite, found.into_inner()) {
        word.into_slice().fill(1);
    }
}

/// Writes the interaction of a sample, and prefetches the next one.
pub(super) fn forward_sample<E: Element>(
    cpu: &Cpu,
    interaction: Interaction,
    [sample, next]: [Sample<'_, E>; 2],
    output: &mut [E],
) {
    let Interaction::Dot { append_sparse, .. } = interaction else {
        output[..sample.head.len()].copy_from_slice(sample.head);
        output[sample.head.len()..].copy_from_slice(sample.tail);
        return;
    };
    let (dense, pairs) = output.split_at_mut(if sample.has_dense { sample.dim } else { 0 });
    dense.copy_from_slice(&sample.head[..dense.len()]);
    let num_features = sample.num_features();
    let (dots, mut rest) = pairs.split_at_mut(interaction.num_pairs(num_features));
    let pairs = Pairs::new(interaction, num_features);
    TASK.lend(dots_scratch_len(num_features, sample.dim), |scratch| {
        cpu.dispatch.run(Dots { pairs, sample, next, dots, scratch });
    });
    if append_sparse {
        for i in usize::from(sample.has_dense)..num_features {
            let (copy, after) = rest.split_at_mut(sample.dim);
            copy.copy_from_slice(sample.feature(i));
            rest = after;
        }
    }
    rest.fill(E::default());
}

/// Writes the gradients of a sample's features, and prefetches the next sample.
fn backward_sample<E: Element>(
    cpu: &Cpu,
    interaction: Interaction,
    [sample, next]: [Sample<'_, E>; 2],
    grad_output: &[E],
    head: &mut [E],
    tail: &mut [E],
) {
    let Interaction::Dot { append_sparse, .. } = interaction else {
        let (grad_head, grad_tail) = grad_output.split_at(head.len());
        head.copy_from_slice(grad_head);
        tail.copy_from_slice(grad_tail);
        return;
    };
    let num_features = sample.num_features();
    let (dense, rest) = grad_output.split_at(if sample.has_dense { sample.dim } else { 0 });
    let (grad_dots, rest) = rest.split_at(interaction.num_pairs(num_features));
    let direct = match (append_sparse, sample.has_dense) {
        (false, _) => (dense, &[][..]),
        (true, true) => (dense, rest),
        (true, false) => rest.split_at(sample.dim.min(rest.len())),
    };
    let pairs = Pairs::new(interaction, num_features);
    TASK.lend(grad_matrix_len(num_features), |matrix| {
        let grads = Grads { pairs, sample, next, grad_dots, direct, head, tail, matrix };
        cpu.dispatch.run(grads);
    });
}

impl<'a, E: Element, T: Element> Retype<E, T> for Forward<'a, Cpu, E> {
    type Output = Forward<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { interaction, dim, precision, features, output } = self;
        let (features, output) = (features.retype(), output.retype());
        Forward { interaction, dim, precision, features, output }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Backward<'a, Cpu, E> {
    type Output = Backward<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { interaction, dim, precision, non_finite, .. } = self;
        let Self { features, grad_output, grad_features, .. } = self;
        let (features, grad_output) = (features.retype(), grad_output.retype());
        let grad_features = grad_features.retype();
        Backward { interaction, dim, precision, features, grad_output, grad_features, non_finite }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for Features<'a, Cpu, E> {
    type Output = Features<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        match self {
            Self::Joined { block, has_dense } => {
                Features::Joined { block: block.retype(), has_dense }
            }
            Self::Split { dense, sparse } => {
                Features::Split { dense: dense.retype(), sparse: sparse.retype() }
            }
        }
    }
}

impl<'a, E: Element, T: Element> Retype<E, T> for FeaturesMut<'a, Cpu, E> {
    type Output = FeaturesMut<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        match self {
            Self::Joined { block } => FeaturesMut::Joined { block: block.retype() },
            Self::Split { dense, sparse } => {
                FeaturesMut::Split { dense: dense.retype(), sparse: sparse.retype() }
            }
        }
    }
}
