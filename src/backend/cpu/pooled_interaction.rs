//! [`pooled_interaction`](crate::ops::pooled_interaction) on the CPU. Threads share the samples,
//! and each takes a few samples at a time through both ops.

use super::Cpu;
use super::embedding_bag::{Gather, Pool};
use super::interaction::{Sample, forward_sample};
use super::runtime::erased::{
    AnyBags, AnyTables, ByElement, ByIndex, Retype, with_elements, with_indices,
};
use crate::dtype::{Element, Index, bf16, f16};
use crate::error::Result;
use crate::ops::pooled_interaction::{Forward, Interact, PooledInteractionOps};
use crate::ops::{MatrixMut, TableBatch, embedding_bag};
use crate::size::{product, sum};

/// The bytes of pooled vectors that one op leaves for the other: few enough to stay in the
/// second-level cache.
const BYTES_AT_ONCE: usize = 1 << 19;

impl PooledInteractionOps for Cpu {
    fn pooled_interaction_forward<E: Element, I: Index, O: Element>(
        &self,
        args: Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        let Forward { lookup, interact } = &args;
        // The loop below writes two outputs, which must have columns.
        if lookup.argmax.is_some() || lookup.output.cols == 0 || interact.output.cols == 0 {
            return args.run_in_turn(self);
        }
        let Forward { lookup, interact } = args;
        // Both are counted in bytes: a thread multiplies about as fast as it loads from memory.
        let output_bytes = product([interact.output.rows, interact.output.ld, size_of::<O>()]);
        let cpu = &self.for_bytes(sum([lookup.bytes_moved(), output_bytes]));
        let embedding_bag::Forward { tables, weights, bags, output, argmax: _ } = lookup;
        let (weights, bags) = (ByElement::of(weights), ByIndex::of(bags));
        forward(cpu, tables, weights, bags, ByElement::of((output, interact)))
    }
}

/// The pooled vectors and the interaction of them, of one type.
type Pooled<'a, O> = (MatrixMut<'a, Cpu, O>, Interact<'a, Cpu, O>);

/// Restores the types of the arguments, and runs the op.
fn forward<'a>(
    cpu: &Cpu,
    tables: &'a TableBatch,
    weights: AnyTables<'a>,
    bags: AnyBags<'a>,
    pooled: ByElement<Pooled<'a, f32>, Pooled<'a, f16>, Pooled<'a, bf16>>,
) -> Result<()> {
    with_elements!(weights => with_indices!(bags => {
        let gather = Gather::new(tables, weights, bags, embedding_bag::FORWARD)?;
        with_elements!(pooled => pool_and_interact(cpu, &gather, pooled));
        gather.into_result()
    }))
}

/// Pools and interacts a few samples at a time.
fn pool_and_interact<E: Element, I: Index, O: Element>(
    cpu: &Cpu,
    gather: &Gather<'_, E, I>,
    (pooled, interact): Pooled<'_, O>,
) {
    let Interact { keeps_pooled, interaction, dim, dense, output, .. } = interact;
    let (pooled_cols, pooled_ld) = (pooled.cols, pooled.ld);
    let (cols, ld, rows) = (output.cols, output.ld, output.rows);
    let run = rows.div_ceil(cpu.num_threads());
    let at_once = (BYTES_AT_ONCE / (size_of::<O>() * pooled_ld)).clamp(1, run.max(1));
    let both = ((pooled.data.into_slice(), pooled_ld), (output.data.into_slice(), ld));
    cpu.for_each_rows_of_both(both.0, both.1, rows, run, |first, pooled, output| {
        for (k, output) in output.chunks_mut(at_once * ld).enumerate() {
            let (done, samples) = (k * at_once, output.len().div_ceil(ld));
            let pooled = &mut pooled[if keeps_pooled { done * pooled_ld } else { 0 }..];
            let end = pooled.len().min(samples * pooled_ld);
            let (pooled, first) = (&mut pooled[..end], first + done);
            let vectors = ByElement::of(&mut *pooled);
            let pool = Pool { gather, first, output: vectors, ld: pooled_ld, argmax: None };
            cpu.dispatch.run(pool);
            let sample = |k: usize| {
                let tail = &pooled[k * pooled_ld..][..pooled_cols];
                Sample { head: dense.row(first + k), tail, has_dense: true, dim }
            };
            for (k, row) in output.chunks_mut(ld).enumerate() {
                let samples = [k, (k + 1).min(samples - 1)].map(sample);
                forward_sample(cpu, interaction, samples, &mut row[..cols]);
            }
        }
    });
}

impl<'a, E: Element, T: Element> Retype<E, T> for Interact<'a, Cpu, E> {
    type Output = Interact<'a, Cpu, T>;

    #[inline]
    fn retype(self) -> Self::Output {
        let Self { keeps_pooled, interaction, dim, precision, dense, output } = self;
        let (dense, output) = (dense.retype(), output.retype());
        Interact { keeps_pooled, interaction, dim, precision, dense, output }
    }
}
