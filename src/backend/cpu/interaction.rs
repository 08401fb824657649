//! [`interaction`](crate::ops::interaction) on the CPU: samples are split over threads. Products of
//! `f32` are exact at any precision.

mod pairs;

use std::ops::Range;

use super::Cpu;
use super::runtime::scratch::{Scratch, TASK};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::Interaction;
use crate::ops::interaction::{Backward, Features, FeaturesMut, Forward, InteractionOps};
use crate::simd::prefetch_row;
use pairs::{Dots, Grads, Pairs, dots_len, weights_len};

impl InteractionOps for Cpu {
    fn interaction_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let cpu = self.for_operations(args.flops());
        let Forward { interaction, dim, precision: _, features, output } = args;
        let last = output.rows.saturating_sub(1);
        cpu.for_each_row(output, |sample, row| {
            let samples = [sample, last.min(sample + 1)].map(|k| Sample::of(&features, k, dim));
            cpu.forward_sample(interaction, samples, row);
        });
        Ok(())
    }

    fn interaction_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let cpu = self.for_operations(args.flops());
        let Backward { interaction, dim, precision: _, features, grad_output, grad_features } =
            args;
        let last = grad_output.rows.saturating_sub(1);
        let backward = |sample: usize, head: &mut [E], tail: &mut [E]| {
            let samples = [sample, last.min(sample + 1)].map(|k| Sample::of(&features, k, dim));
            cpu.backward_sample(interaction, samples, grad_output.row(sample), head, tail);
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
                let parts = ((dense.data, heads.1), (sparse.data, tails.1));
                let run = cpu.rows_per_task(dense.rows);
                cpu.for_each_rows_of_both(
                    parts.0,
                    parts.1,
                    dense.rows,
                    run,
                    |first, dense, sparse| {
                        for (k, (head, tail)) in
                            dense.chunks_mut(heads.1).zip(sparse.chunks_mut(tails.1)).enumerate()
                        {
                            backward(first + k, &mut head[..heads.0], &mut tail[..tails.0]);
                        }
                    },
                );
            }
        }
        Ok(())
    }
}

/// The features of one sample: the first ones, and those that follow.
#[derive(Clone, Copy)]
pub(super) struct Sample<'a, E> {
    pub(super) head: &'a [E],
    pub(super) tail: &'a [E],
    pub(super) has_dense: bool,
    pub(super) dim: usize,
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

    #[inline(always)]
    fn num_features(&self) -> usize {
        (self.head.len() + self.tail.len()) / self.dim
    }

    #[inline(always)]
    fn feature(&self, i: usize) -> &'a [E] {
        match i {
            0 => self.head,
            _ => &self.tail[(i - 1) * self.dim..][..self.dim],
        }
    }

    /// Asks for some features ahead of their use.
    #[inline(always)]
    fn prefetch(&self, features: Range<usize>) {
        for i in features {
            prefetch_row(self.feature(i), 0, self.dim);
        }
    }
}

impl Cpu {
    /// One sample, and the one whose turn it is next.
    pub(super) fn forward_sample<E: Element>(
        &self,
        interaction: Interaction,
        [sample, ahead]: [Sample<'_, E>; 2],
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
        TASK.lend(dots_len(num_features, sample.dim), |scratch| {
            self.dispatch.run(Dots { pairs, sample, ahead, dots, scratch });
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

    fn backward_sample<E: Element>(
        &self,
        interaction: Interaction,
        [sample, ahead]: [Sample<'_, E>; 2],
        grad_output: &[E],
        head: &mut [E],
        tail: &mut [E],
    ) {
        let Interaction::Dot { append_sparse, .. } = interaction else {
            let (of_head, of_tail) = grad_output.split_at(head.len());
            head.copy_from_slice(of_head);
            tail.copy_from_slice(of_tail);
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
        TASK.lend(weights_len(num_features), |weights| {
            self.dispatch.run(Grads {
                pairs,
                sample,
                ahead,
                grad_dots,
                direct,
                head,
                tail,
                weights,
            });
        });
    }
}
