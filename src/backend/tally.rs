//! A backend that computes nothing: it notes the least work of every op that is called.
//!
//! Its buffers have a length but no memory, so that the step of any model can be tallied on any
//! machine.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use crate::dtype::{Element, Index, Scalar};
use crate::error::Result;
use crate::ops::cast::{Cast, CastOps};
use crate::ops::dense_update::{self, DenseUpdateOps};
use crate::ops::embedding_bag::{self, EmbeddingBagOps};
use crate::ops::finite_check::{Check, FiniteCheckOps};
use crate::ops::head::{self, HeadOps};
use crate::ops::index_sort::{IndexSortOps, Sort};
use crate::ops::interaction::{self, InteractionOps};
use crate::ops::linear::{self, LinearOps};
use crate::ops::loss::{self, LossOps};
use crate::ops::moving_average::{self, MovingAverageOps};
use crate::ops::pooled_interaction::{self, PooledInteractionOps};
use crate::ops::sparse_update::{self, SparseUpdateOps};
use crate::ops::{
    Device, Extent, Matrix, Memory, Precision, Stage, StagingOnly, TableBatch, View, ViewMut,
};
use crate::size::{product, sum};

/// The unit that executes the multiplications of an op.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// The `f32` cores.
    F32,
    /// The tensor cores, with factors of tf32.
    Tf32,
    /// The tensor cores, with factors of 16 bits.
    SixteenBit,
}

impl Unit {
    fn of<E: Element>(precision: Precision) -> Self {
        match (size_of::<E>(), precision) {
            (2, _) => Self::SixteenBit,
            (_, Precision::Tf32) => Self::Tf32,
            _ => Self::F32,
        }
    }
}

/// The least work of one op: what no implementation can go below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Work {
    /// The op, which is the prefix of the names of its kernels.
    pub op: &'static str,
    /// The bytes that move between memory and the device if its cache forgets nothing within the
    /// op and everything between ops.
    pub bytes: usize,
    /// The number of additions and multiplications.
    pub flops: usize,
    /// The unit that executes them.
    pub unit: Unit,
}

/// A backend that notes the work of ops. Clones share their notes.
#[derive(Clone)]
pub(crate) struct Tally {
    work: Arc<Mutex<Vec<Work>>>,
    /// The number of distinct rows that the ids of a batch name.
    distinct_rows: usize,
}

/// The address of memory that does not exist.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nowhere;

/// The length of a buffer without memory.
pub(crate) struct Length(usize);

impl Tally {
    pub(crate) fn new(distinct_rows: usize) -> Self {
        Self { work: Arc::default(), distinct_rows }
    }

    /// Takes the notes of the ops that have been called since the last time.
    pub(crate) fn take(&self) -> Vec<Work> {
        std::mem::take(&mut *self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Views `len` elements that do not exist.
    pub(crate) fn nothing<'a, T>(len: usize) -> View<'a, Self, T> {
        View::of_device(Nowhere, len)
    }

    /// Notes an op that only moves bytes.
    fn moves(&self, op: &'static str, bytes: usize) -> Result<()> {
        self.computes(op, bytes, 0, Unit::F32)
    }

    /// Notes the gradient of an activation with `m` rows and `n` columns, and of the bias.
    fn activation_grad<E: Element>(&self, m: usize, n: usize) -> Result<()> {
        let bytes = sum([product([3, m, n, size_of::<E>()]), product([n, 4])]);
        self.moves("linear_activation_grad", bytes)
    }

    fn computes(&self, op: &'static str, bytes: usize, flops: usize, unit: Unit) -> Result<()> {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        work.push(Work { op, bytes, flops, unit });
        Ok(())
    }
}

impl Memory for Tally {
    type Address = Nowhere;
}

impl Extent for Length {
    fn extent(&self) -> usize {
        self.0
    }
}

impl Device for Tally {
    type Buffer<T: Scalar> = Length;
    type Tables = TableBatch;
    type TablePlaces = ();

    fn alloc<T: Scalar>(&self, len: usize) -> Result<Length> {
        Ok(Length(len))
    }

    fn upload<T: Scalar>(&self, _: &[T], _: ViewMut<'_, Self, T>) -> Result<()> {
        Ok(())
    }

    fn download<T: Scalar>(&self, _: View<'_, Self, T>, _: &mut [T]) -> Result<()> {
        Ok(())
    }

    fn copy<T: Scalar>(&self, _: View<'_, Self, T>, _: ViewMut<'_, Self, T>) -> Result<()> {
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn tables(&self, tables: TableBatch) -> Result<TableBatch> {
        Ok(tables)
    }

    fn place_tables<T: Scalar>(&self, _: &TableBatch, _: &[Matrix<'_, Self, T>]) -> Result<()> {
        Ok(())
    }

    fn slice<T: Scalar>(_: &Length, range: Range<usize>) -> View<'_, Self, T> {
        Self::nothing(range.len())
    }

    fn slice_mut<T: Scalar>(_: &mut Length, range: Range<usize>) -> ViewMut<'_, Self, T> {
        ViewMut::of_device(Nowhere, range.len())
    }

    fn split_mut<T: Scalar, const N: usize>(
        _: &mut Length,
        ranges: [Range<usize>; N],
    ) -> [ViewMut<'_, Self, T>; N] {
        ranges.map(|range| ViewMut::of_device(Nowhere, range.len()))
    }
}

impl Stage for Tally {
    const RECORDS: bool = false;
    type Recording = ();
    type Transfer = ();

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.work, &other.work)
    }

    fn record(&self, _: impl FnOnce() -> Result<()>) -> Result<Option<()>> {
        Ok(None)
    }

    fn replay(&self, (): &()) -> Result<()> {
        Ok(())
    }

    fn address<T: Scalar>(_: &View<'_, Self, T>) -> u64 {
        0
    }

    fn transfer(&self, _: StagingOnly) -> Result<()> {
        Ok(())
    }

    fn begin((): &mut ()) -> Result<()> {
        Ok(())
    }

    fn send<T: Scalar>((): &mut (), _: &[T], _: ViewMut<'_, Self, T>) -> Result<()> {
        Ok(())
    }

    fn arrive((): &mut ()) -> Result<()> {
        Ok(())
    }

    fn release((): &mut ()) -> Result<()> {
        Ok(())
    }
}

impl EmbeddingBagOps for Tally {
    fn embedding_bag_forward<E: Element, I: Index, O: Element>(
        &self,
        args: embedding_bag::Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        self.moves("embedding_bag_forward", args.least_bytes(self.distinct_rows))
    }

    fn embedding_bag_weight_grad<E: Element, I: Index, G: Element>(
        &self,
        args: embedding_bag::WeightGrad<'_, Self, E, I, G>,
    ) -> Result<()> {
        self.moves("embedding_bag_weight_grad", args.bytes_moved())
    }
}

impl IndexSortOps for Tally {
    fn index_sort<I: Index>(&self, args: Sort<'_, Self, I>) -> Result<()> {
        self.moves("index_sort", args.bytes_moved())
    }

    fn index_sort_workspace_len(&self, _: &TableBatch, _: usize) -> usize {
        0
    }
}

impl SparseUpdateOps for Tally {
    fn sparse_update_reduce<I: Index, G: Element>(
        &self,
        _: sparse_update::Reduce<'_, Self, I, G>,
    ) -> Result<()> {
        Ok(())
    }

    fn sparse_update_merge(&self, _: sparse_update::Merge<'_, Self>) -> Result<()> {
        Ok(())
    }

    fn sparse_update_apply<E: Element>(&self, _: sparse_update::Apply<'_, Self, E>) -> Result<()> {
        Ok(())
    }

    fn sparse_update_update<E: Element, I: Index, G: Element>(
        &self,
        args: sparse_update::Update<'_, Self, E, I, G>,
    ) -> Result<()> {
        self.moves("sparse_update", args.least_bytes(self.distinct_rows))
    }

    fn sparse_update_workspace_len(&self, _: &TableBatch, _: usize) -> usize {
        0
    }

    fn sparse_update_merge_workspace_len(&self, _: &TableBatch, _: usize) -> usize {
        0
    }
}

impl InteractionOps for Tally {
    fn interaction_forward<E: Element>(
        &self,
        args: interaction::Forward<'_, Self, E>,
    ) -> Result<()> {
        let unit = Unit::of::<E>(args.precision);
        self.computes("interaction_forward", args.bytes_moved(), args.flops(), unit)
    }

    fn interaction_backward<E: Element>(
        &self,
        args: interaction::Backward<'_, Self, E>,
    ) -> Result<()> {
        let unit = Unit::of::<E>(args.precision);
        self.computes("interaction_backward", args.bytes_moved(), args.flops(), unit)
    }
}

impl PooledInteractionOps for Tally {
    fn pooled_interaction_forward<E: Element, I: Index, O: Element>(
        &self,
        mut args: pooled_interaction::Forward<'_, Self, E, I, O>,
    ) -> Result<()> {
        let bytes = args.least_bytes(self.distinct_rows);
        let unit = Unit::of::<O>(args.interact.precision);
        let flops = args.as_interaction().flops();
        self.computes("pooled_interaction", bytes, flops, unit)
    }
}

impl LinearOps for Tally {
    fn linear_forward<E: Element>(&self, args: linear::Forward<'_, Self, E>) -> Result<()> {
        let (m, n, k) = (args.output.rows, args.weight.rows, args.weight.cols);
        let unit = Unit::of::<E>(args.precision);
        self.computes("linear_forward", args.bytes_moved(), product([2, m, n, k]), unit)
    }

    /// Notes two products, which no kernel computes together: each reads the gradient.
    fn linear_backward<E: Element>(&self, args: linear::Backward<'_, Self, E>) -> Result<()> {
        let (m, n, k) = (args.grad_output.rows, args.weight.rows, args.weight.cols);
        let (flops, unit) = (product([2, m, n, k]), Unit::of::<E>(args.precision));
        let [x, w, y] = [[m, k], [n, k], [m, n]].map(product);
        let of = |elements: usize, words: usize| {
            sum([product([elements, size_of::<E>()]), product([words, 4])])
        };
        if args.grad_bias.is_some() {
            self.activation_grad::<E>(m, n)?;
        }
        if args.grad_input.is_some() {
            // ReLU's gradient of the layer before reads that layer's output.
            let (masks, biases) = if args.grad_bias_before.is_some() { (x, k) } else { (0, 0) };
            self.computes("linear_input_grad", of(sum([y, w, x, masks]), biases), flops, unit)?;
        }
        self.computes("linear_weight_grad", of(sum([x, y]), w), flops, unit)
    }

    fn linear_activation_grad<E: Element>(
        &self,
        args: linear::ActivationGrad<'_, Self, E>,
    ) -> Result<()> {
        self.activation_grad::<E>(args.output.rows, args.output.cols)
    }

    fn linear_backward_workspace_len<E: Element>(&self, _: usize, _: usize, _: usize) -> usize {
        0
    }
}

impl LossOps for Tally {
    fn loss_forward(&self, args: loss::Forward<'_, Self>) -> Result<()> {
        let columns = if args.grad_logits.is_some() { 3 } else { 2 };
        self.moves("loss_forward", product([columns, args.logits.len(), 4]))
    }

    fn loss_workspace_len(&self, _: usize) -> usize {
        0
    }
}

impl HeadOps for Tally {
    fn head_forward<E: Element>(&self, args: head::Forward<'_, Self, E>) -> Result<()> {
        self.moves("head", args.bytes_moved())
    }

    fn head_loss_and_grads<E: Element>(&self, args: head::LossAndGrads<'_, Self, E>) -> Result<()> {
        self.moves("head", args.bytes_moved())
    }

    fn head_workspace_len<E: Element>(&self, _: usize, _: usize) -> usize {
        0
    }
}

impl DenseUpdateOps for Tally {
    fn dense_update<E: Element>(&self, args: dense_update::Update<'_, Self, E>) -> Result<()> {
        self.moves("dense_update", args.bytes_moved())
    }
}

impl CastOps for Tally {
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()> {
        self.moves("cast", args.bytes_moved())
    }
}

impl MovingAverageOps for Tally {
    fn moving_average(&self, args: moving_average::Update<'_, Self>) -> Result<()> {
        self.moves("moving_average", args.bytes_moved())
    }
}

impl FiniteCheckOps for Tally {
    fn finite_check(&self, args: Check<'_, Self>) -> Result<()> {
        self.moves("finite_check", args.bytes_moved())
    }
}
