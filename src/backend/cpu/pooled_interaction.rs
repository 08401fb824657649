//! [`pooled_interaction`](crate::ops::pooled_interaction) on the CPU: samples are split over
//! threads, which take some at a time through both ops.

use super::Cpu;
use super::embedding_bag::{Gather, Pool};
use super::interaction::Sample;
use crate::dtype::{Element, Index};
use crate::error::Result;
use crate::ops::pooled_interaction::{Forward, Interact, PooledInteractionOps};

/// Bytes of pooled vectors that go from one op to the other: they stay in the second-level cache.
const BYTES_AT_ONCE: usize = 1 << 19;

impl PooledInteractionOps for Cpu {
    fn pooled_interaction_forward<E: Element, I: Index>(
        &self,
        args: Forward<'_, Self, E, I>,
    ) -> Result<()> {
        let Forward { lookup, interact } = &args;
        // Three outputs, or one of them without columns.
        if lookup.argmax.is_some() || lookup.output.cols == 0 || interact.output.cols == 0 {
            return args.run_in_turn(self);
        }
        let Forward {
            lookup,
            interact: Interact { keeps_pooled, interaction, dim, dense, output, .. },
        } = args;
        let gather = Gather::new(lookup.tables, lookup.weights, lookup.bags)?;
        let (pooled_cols, pooled_ld) = (lookup.output.cols, lookup.output.ld);
        let (cols, ld, rows) = (output.cols, output.ld, output.rows);
        let run = rows.div_ceil(self.num_threads());
        let at_once = (BYTES_AT_ONCE / (size_of::<f32>() * pooled_ld)).clamp(1, run.max(1));
        let both = ((lookup.output.data, pooled_ld), (output.data, ld));
        self.for_each_rows_of_both(both.0, both.1, rows, run, |first, pooled, output| {
            for (k, output) in output.chunks_mut(at_once * ld).enumerate() {
                let (done, samples) = (k * at_once, output.len().div_ceil(ld));
                let pooled = &mut pooled[if keeps_pooled { done * pooled_ld } else { 0 }..];
                let end = pooled.len().min(samples * pooled_ld);
                let (pooled, first) = (&mut pooled[..end], first + done);
                let pool = Pool {
                    gather: &gather,
                    first,
                    output: &mut *pooled,
                    ld: pooled_ld,
                    argmax: None,
                };
                self.dispatch.run(pool);
                let sample = |k: usize| {
                    let tail = &pooled[k * pooled_ld..][..pooled_cols];
                    Sample { head: dense.row(first + k), tail, has_dense: true, dim }
                };
                for (k, row) in output.chunks_mut(ld).enumerate() {
                    let samples = [k, (k + 1).min(samples - 1)].map(sample);
                    self.forward_sample(interaction, samples, &mut row[..cols]);
                }
            }
        });
        gather.into_result()
    }
}
