//! [`interaction`](crate::ops::interaction) on the CPU: samples are split over threads. Products are exact at any precision.

use super::Cpu;
use super::vector::{add_row, add_scaled_row, dot};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::Interaction;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};

/// Columns of a gradient that are summed in `f32` before they are rounded.
const RUN: usize = 64;

impl InteractionOps for Cpu {
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { interaction, dim, precision: _, features, output } = args;
        self.for_each_row(output, |sample, row| forward_sample(interaction, Sample::of(&features, sample, dim), row));
        Ok(())
    }

    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward { interaction, dim, precision: _, features, grad_output, grad_features } = args;
        let backward = |sample: usize, part: Part, grads: &mut [E]| {
            backward_sample(interaction, Sample::of(&features, sample, dim), grad_output.row(sample), part, grads);
        };
        match grad_features {
            FeaturesMut::Joined { block } => self.for_each_row(block, |sample, row| backward(sample, Part::All, row)),
            FeaturesMut::Split { dense, sparse } => {
                self.for_each_row(dense, |sample, row| backward(sample, Part::Dense, row));
                self.for_each_row(sparse, |sample, row| backward(sample, Part::Sparse, row));
            }
        }
        Ok(())
    }
}

/// The features of one sample: the first ones, and those that follow.
#[derive(Clone, Copy)]
struct Sample<'a, E> {
    head: &'a [E],
    tail: &'a [E],
    has_dense: bool,
    dim: usize,
}

/// Which features' gradients are asked for.
#[derive(Clone, Copy)]
enum Part {
    All,
    Dense,
    Sparse,
}

impl<'a, E: Element> Sample<'a, E> {
    fn of(features: &Features<'a, Cpu, E>, sample: usize, dim: usize) -> Self {
        match features {
            Features::Joined { block, has_dense } => {
                let row = block.row(sample);
                let (head, tail) = row.split_at(dim.min(row.len()));
                Self { head, tail, has_dense: *has_dense, dim }
            }
            Features::Split { dense, sparse } => {
                Self { head: dense.row(sample), tail: sparse.row(sample), has_dense: true, dim }
            }
        }
    }

    fn num_features(&self) -> usize {
        (self.head.len() + self.tail.len()) / self.dim
    }

    fn feature(&self, i: usize) -> &'a [E] {
        match i {
            0 => self.head,
            _ => &self.tail[(i - 1) * self.dim..][..self.dim],
        }
    }
}

fn forward_sample<E: Element>(interaction: Interaction, sample: Sample<'_, E>, output: &mut [E]) {
    let Interaction::Dot { append_sparse, .. } = interaction else {
        output[..sample.head.len()].copy_from_slice(sample.head);
        output[sample.head.len()..].copy_from_slice(sample.tail);
        return;
    };
    let (dense, pairs) = output.split_at_mut(if sample.has_dense { sample.dim } else { 0 });
    dense.copy_from_slice(&sample.head[..dense.len()]);
    let num_features = sample.num_features();
    let (dots, mut rest) = pairs.split_at_mut(interaction.num_pairs(num_features));
    for (out, (i, j)) in dots.iter_mut().zip(interaction.pairs(num_features)) {
        *out = E::from_f32(dot(sample.feature(i), sample.feature(j)));
    }
    if append_sparse {
        for i in usize::from(sample.has_dense)..num_features {
            let (copy, after) = rest.split_at_mut(sample.dim);
            copy.copy_from_slice(sample.feature(i));
            rest = after;
        }
    }
    rest.fill(E::default());
}

fn backward_sample<E: Element>(
    interaction: Interaction,
    sample: Sample<'_, E>,
    grad_output: &[E],
    part: Part,
    grads: &mut [E],
) {
    let Interaction::Dot { include_self, append_sparse, .. } = interaction else {
        grads.copy_from_slice(match part {
            Part::All => grad_output,
            Part::Dense => &grad_output[..sample.head.len()],
            Part::Sparse => &grad_output[sample.head.len()..],
        });
        return;
    };
    let (num_features, dim) = (sample.num_features(), sample.dim);
    let wanted = match part {
        Part::All => 0..num_features,
        Part::Dense => 0..1,
        Part::Sparse => 1..num_features,
    };
    let (direct, pairs) = grad_output.split_at(if sample.has_dense { dim } else { 0 });
    let appended = &pairs[interaction.num_pairs(num_features)..];
    for (i, grad) in wanted.zip(grads.chunks_exact_mut(dim)) {
        let direct = match i {
            0 if sample.has_dense => direct,
            _ if append_sparse => &appended[(i - usize::from(sample.has_dense)) * dim..][..dim],
            _ => &[],
        };
        for (run, grad) in grad.chunks_mut(RUN).enumerate() {
            let columns = run * RUN..run * RUN + grad.len();
            let sums = &mut [0.0; RUN][..grad.len()];
            if !direct.is_empty() {
                add_row(sums, &direct[columns.clone()]);
            }
            for j in 0..num_features {
                if i != j || include_self {
                    let times = if i == j { 2.0 } else { 1.0 };
                    let pair = pairs[interaction.pair_position(num_features, i, j)].to_f32();
                    add_scaled_row(sums, times * pair, &sample.feature(j)[columns.clone()]);
                }
            }
            grad.iter_mut().zip(sums).for_each(|(grad, sum)| *grad = E::from_f32(*sum));
        }
    }
}
