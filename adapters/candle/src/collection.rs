//! Embedding tables that candle's backward pass trains.

use std::sync::{Arc, RwLock};

use bagdot::ops::embedding_bag::{self, WeightGrad};
use bagdot::ops::pooled_interaction::{self, Interact};
use bagdot::ops::sparse_update::{self, Scratch};
use bagdot::ops::{
    Bags, Interaction, Matrix, MatrixMut, OptimizerState, OptimizerStateMut, TableBatch,
    UpdateRule, ViewMut,
};
use candle_core::{DType, Device, Shape, Storage, Tensor, Var};

use crate::device::TensorBackend;
use crate::ops::{AnyBackend, Computed, Ops, interaction_width, tensor};
use crate::{Error, Result};

/// Embedding tables, their features and the state of their optimizer, outside of candle's
/// variables. A clone is a handle of the same tables.
///
/// candle's own gradient of a table is as large as the table, and so is the step of its optimizers.
/// Here, the backward pass of a lookup takes the step of the optimizer on the rows that were looked
/// up, by bagdot's sparse update. No gradient of the tables is made, and no `Var` holds them. So a
/// graph is differentiated once. A lookup whose output does not reach the loss takes no step: for
/// evaluation, do not call `backward`.
///
/// Ids and offsets are tensors of `u32`, `i64` or `i32`; the two may differ. The ids of a batch
/// lie feature after feature, and within one bag after bag; bag `(feature, sample)` is
/// `offsets[k] .. offsets[k + 1]` for `k = feature * batch_size + sample`.
///
/// ```
/// use bagdot_candle::bagdot::ops::{Optimizer, Pooling, UpdateRule};
/// use bagdot_candle::{EmbeddingBagCollection, Ops};
/// use candle_core::{Device, Tensor};
///
/// let ops = Ops::new(&Device::Cpu)?;
/// let table = Tensor::new(&[[1_f32, 2.], [3., 4.], [5., 6.]], &Device::Cpu)?;
/// let rule = UpdateRule::new(Optimizer::Sgd, 0.5);
/// let bags = EmbeddingBagCollection::from_tables(&ops, &[table], Pooling::Sum, rule)?;
///
/// // One feature, two samples: the bags [0, 2] and [2].
/// let ids = Tensor::new(&[0_u32, 2, 2], &Device::Cpu)?;
/// let pooled = bags.forward(&ids, &Tensor::new(&[0_u32, 2, 3], &Device::Cpu)?)?;
/// assert_eq!(pooled.to_vec2::<f32>()?, [[6., 8.], [5., 6.]]);
///
/// pooled.sum_all()?.backward()?;
/// // Row 2 occurs twice, and row 1 does not occur.
/// assert_eq!(bags.table(0)?.to_vec2::<f32>()?, [[0.5, 1.5], [3., 4.], [4., 5.]]);
/// # Ok::<(), bagdot_candle::Error>(())
/// ```
#[derive(Clone)]
pub struct EmbeddingBagCollection {
    ops: Ops,
    /// A variable that stands for the tables in the graph, so that candle calls the backward pass.
    handle: Tensor,
    rows: AnyRows,
}

/// The tables on a device of any kind.
#[derive(Clone)]
enum AnyRows {
    Cpu(Arc<RwLock<Rows<bagdot::Cpu>>>),
    #[cfg(feature = "cuda")]
    Cuda(Arc<RwLock<Rows<bagdot::Cuda>>>),
}

/// Evaluates an expression for the tables on a device of any kind.
macro_rules! with_rows {
    ($of:expr, $rows:ident => $body:expr) => {
        match $of {
            AnyRows::Cpu($rows) => $body,
            #[cfg(feature = "cuda")]
            AnyRows::Cuda($rows) => $body,
        }
    };
}

/// Evaluates an expression with `$rows` borrowed for reading.
macro_rules! read_rows {
    ($of:expr, $rows:ident => $body:expr) => {
        with_rows!($of, lock => {
            let $rows = &*lock.read().map_err(|_| Error::Poisoned)?;
            $body
        })
    };
}

/// Evaluates an expression with `$rows` borrowed for writing.
macro_rules! write_rows {
    ($of:expr, $rows:ident => $body:expr) => {
        with_rows!($of, lock => {
            let $rows = &mut *lock.write().map_err(|_| Error::Poisoned)?;
            $body
        })
    };
}

/// The values of the optimizer's state, by which a resumed run continues.
#[derive(Clone, Debug)]
pub struct State {
    /// The number of steps taken.
    pub steps: u64,
    /// One vector of the sums of squares of Adagrad, two of the moments of Adam, none of SGD.
    pub values: Vec<Tensor>,
}

impl EmbeddingBagCollection {
    /// Makes tables of zeros; see [`Self::set_table`]. `rule` gives optimizer, learning rate and
    /// weight decay; its number is that of the first step, if it is not 0.
    ///
    /// # Errors
    /// Returns an error for tables that are pooled by max, and propagates errors of allocation.
    pub fn new(ops: &Ops, tables: TableBatch, rule: UpdateRule) -> Result<Self> {
        if tables.has_max() {
            let reason = "a feature is pooled by max, which has no step here".to_string();
            return Err(Error::argument("tables", reason));
        }
        let rows = match &ops.backend {
            AnyBackend::Cpu(cpu) => {
                AnyRows::Cpu(Arc::new(RwLock::new(Rows::new(cpu, tables, rule)?)))
            }
            #[cfg(feature = "cuda")]
            AnyBackend::Cuda(cuda) => {
                AnyRows::Cuda(Arc::new(RwLock::new(Rows::new(cuda, tables, rule)?)))
            }
        };
        let handle = Var::zeros(1, DType::F32, &ops.device)?;
        Ok(Self { ops: ops.clone(), handle: handle.as_tensor().clone(), rows })
    }

    /// Makes tables with a feature each, and copies their values from matrices `[rows, columns]`.
    ///
    /// # Errors
    /// Returns the errors of [`Self::new`] and of [`Self::set_table`].
    pub fn from_tables(
        ops: &Ops,
        tables: &[Tensor],
        pooling: bagdot::ops::Pooling,
        rule: UpdateRule,
    ) -> Result<Self> {
        let sizes = tables.iter().map(|table| {
            let (num_embeddings, embedding_dim) = table.dims2()?;
            Ok(bagdot::ops::Table { num_embeddings, embedding_dim })
        });
        let sizes: Vec<_> = sizes.collect::<Result<_>>()?;
        let layout = TableBatch::one_feature_each(sizes, pooling)?;
        let collection = Self::new(ops, layout, rule)?;
        for (t, table) in tables.iter().enumerate() {
            collection.set_table(t, table)?;
        }
        Ok(collection)
    }

    /// Returns the pooled vectors of a batch, `[batch_size, width]`: the columns of feature after
    /// feature. The backward pass updates the rows that were looked up.
    ///
    /// # Errors
    /// Returns an error for wrong shapes, types and devices, and on the CPU
    /// [`bagdot::Error::IndexOutOfRange`] for an id that is not in its table; see
    /// [`Ops::synchronize`] for CUDA.
    pub fn forward(&self, ids: &Tensor, offsets: &Tensor) -> Result<Tensor> {
        let batch = Batch::new(ids, offsets, None)?;
        let output = self.lookup(&batch)?;
        let this = self.clone();
        let backward = move |grad: &Tensor| this.step(&batch, grad);
        Ok(self.handle.apply_op1(Computed::of_one("bagdot.embedding_bag", output, backward))?)
    }

    /// Returns the pooled vectors of a batch whose ids have a factor each, `[number of ids]` of
    /// `f32`. Its gradient reaches the factors.
    ///
    /// # Errors
    /// Returns the errors of [`Self::forward`].
    pub fn forward_weighted(
        &self,
        ids: &Tensor,
        offsets: &Tensor,
        weights: &Tensor,
    ) -> Result<Tensor> {
        let weights = weights.contiguous()?;
        let batch = Batch::new(ids, offsets, Some(&weights))?;
        let output = self.lookup(&batch)?;
        let this = self.clone();
        let op = move |_: &Tensor, weights: &Tensor, grad: &Tensor| {
            let needed = weights.track_op();
            // The rows are those of the forward pass only before the step.
            let of_weights = needed.then(|| this.weight_grad(&batch, grad)).transpose()?;
            this.step(&batch, grad)?;
            Ok((None, of_weights))
        };
        let op = Computed::of_two("bagdot.embedding_bag", output, op);
        Ok(self.handle.apply_op2(&weights, op)?)
    }

    /// Returns the interaction of dense vectors `[batch_size, D]` of `f32` with the pooled vectors
    /// of a batch, in one pass over both: [`Self::forward`] and [`Ops::interaction`]. The gradient
    /// reaches the dense vectors, and the backward pass updates the rows.
    ///
    /// # Errors
    /// Returns the errors of the two.
    pub fn pooled_interaction(
        &self,
        interaction: Interaction,
        dense: &Tensor,
        ids: &Tensor,
        offsets: &Tensor,
    ) -> Result<Tensor> {
        let dense = dense.contiguous()?;
        let batch = Batch::new(ids, offsets, None)?;
        let (pooled, output) = read_rows!(&self.rows, rows => {
            rows.interact(&self.ops, interaction, &dense, &batch)?
        });
        let this = self.clone();
        let op = move |_: &Tensor, dense: &Tensor, grad: &Tensor| {
            let (of_dense, of_pooled) =
                this.ops.interact_backward(interaction, dense, &pooled, grad)?;
            this.step(&batch, &of_pooled)?;
            Ok((None, Some(of_dense)))
        };
        let op = Computed::of_two("bagdot.pooled_interaction", output, op);
        Ok(self.handle.apply_op2(&dense, op)?)
    }

    /// Sets the learning rate of the next steps.
    ///
    /// # Errors
    /// Returns an error for a rate that no step could take.
    pub fn set_learning_rate(&self, learning_rate: f32) -> Result<()> {
        if !learning_rate.is_finite() || learning_rate < 0.0 {
            let reason = format!("{learning_rate}, but must be a finite number of 0 or more");
            return Err(Error::argument("learning_rate", reason));
        }
        write_rows!(&self.rows, rows => rows.rule.learning_rate = learning_rate);
        Ok(())
    }

    /// Returns a copy of the weights of a table, `[rows, columns]`, on the device of the tables.
    ///
    /// # Errors
    /// Returns an error if there is no such table, and propagates errors of the device.
    pub fn table(&self, table: usize) -> Result<Tensor> {
        let (shape, values) = read_rows!(&self.rows, rows => rows.download(table)?);
        Ok(Tensor::from_vec(values, shape, &self.ops.device)?)
    }

    /// Copies weights `[rows, columns]` of any type and device to a table.
    ///
    /// # Errors
    /// Returns an error if there is no such table or if it has another shape, and propagates errors
    /// of the device.
    pub fn set_table(&self, table: usize, values: &Tensor) -> Result<()> {
        let shape = values.dims2()?;
        let values = to_host(values)?;
        write_rows!(&self.rows, rows => rows.upload(table, shape, &values))
    }

    /// Returns a copy of the optimizer's state.
    ///
    /// # Errors
    /// Propagates errors of the device.
    pub fn state(&self) -> Result<State> {
        let device = &self.ops.device;
        write_rows!(&self.rows, rows => {
            let Rows { backend, state, .. } = rows;
            let mut values = Vec::new();
            for view in views(state.view_mut()) {
                let mut copy = vec![0_f32; view.len()];
                bagdot::ops::Device::download(backend, view.as_view(), &mut copy)?;
                let len = copy.len();
                values.push(Tensor::from_vec(copy, len, device)?);
            }
            Ok(State { steps: state.steps(), values })
        })
    }

    /// Goes on from a state of the same optimizer and tables.
    ///
    /// # Errors
    /// Returns an error for another number of values, and propagates errors of the device.
    pub fn set_state(&self, state: &State) -> Result<()> {
        let values = state.values.iter().map(to_host).collect::<Result<Vec<_>>>()?;
        write_rows!(&self.rows, rows => {
            let Rows { backend, state: ours, .. } = rows;
            let views = views(ours.view_mut());
            let lens: Vec<_> = views.iter().map(ViewMut::len).collect();
            let given: Vec<_> = values.iter().map(Vec::len).collect();
            if lens != given {
                let reason = format!("{given:?} values, but the optimizer has {lens:?}");
                return Err(Error::argument("state", reason));
            }
            for (view, values) in views.into_iter().zip(&values) {
                bagdot::ops::Device::upload(backend, values, view)?;
            }
            ours.set_steps(state.steps);
            Ok(())
        })
    }

    fn lookup(&self, batch: &Batch) -> Result<(Storage, Shape)> {
        read_rows!(&self.rows, rows => rows.lookup(&self.ops.device, batch))
    }

    fn weight_grad(&self, batch: &Batch, grad: &Tensor) -> Result<Tensor> {
        let grad = grad.contiguous()?;
        read_rows!(&self.rows, rows => rows.weight_grad(&self.ops.device, batch, &grad))
    }

    fn step(&self, batch: &Batch, grad: &Tensor) -> Result<()> {
        let grad = grad.contiguous()?;
        write_rows!(&self.rows, rows => rows.step(batch, &grad))
    }
}

/// Copies a tensor to the host, as `f32`.
fn to_host(values: &Tensor) -> Result<Vec<f32>> {
    let values = values.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    Ok(values.flatten_all()?.to_vec1()?)
}

/// Returns the views of a state.
fn views<D: bagdot::ops::Device>(state: OptimizerStateMut<'_, D>) -> Vec<ViewMut<'_, D, f32>> {
    match state {
        OptimizerStateMut::None => Vec::new(),
        OptimizerStateMut::SumOfSquares(values) => vec![values],
        OptimizerStateMut::Moments { first, second } => vec![first, second],
    }
}

/// The ids of a batch: contiguous tensors.
struct Batch {
    ids: Tensor,
    offsets: Tensor,
    weights: Option<Tensor>,
}

impl Batch {
    fn new(ids: &Tensor, offsets: &Tensor, weights: Option<&Tensor>) -> Result<Self> {
        ids.dims1()?;
        offsets.dims1()?;
        if let Some(weights) = weights {
            weights.dims1()?;
        }
        // The factors keep no graph alive.
        let weights = weights.map(Tensor::detach);
        Ok(Self { ids: ids.contiguous()?, offsets: offsets.contiguous()?, weights })
    }

    /// Returns the number of samples.
    fn size(&self, tables: &TableBatch) -> Result<usize> {
        let (offsets, features) = (self.offsets.elem_count(), tables.features().len());
        let size = offsets.checked_sub(1).filter(|bags| bags.is_multiple_of(features.max(1)));
        size.map(|bags| bags / features.max(1)).ok_or_else(|| {
            let reason = format!(
                "{offsets} of them, but there must be one more than a multiple of {features} \
                 features"
            );
            Error::argument("offsets", reason)
        })
    }
}

/// Evaluates an expression with the bags of a batch, whatever the types of ids and offsets.
macro_rules! with_bags {
    ($D:ty, $backend:expr, $tables:expr, $batch:expr, $bags:ident => $body:expr) => {{
        let (backend, batch): (&$D, &Batch) = ($backend, $batch);
        let size = batch.size($tables)?;
        let (ids, ids_layout) = batch.ids.storage_and_layout();
        let (offsets, offsets_layout) = batch.offsets.storage_and_layout();
        let weights = batch.weights.as_ref().map(Tensor::storage_and_layout);
        let weights = match &weights {
            Some((storage, layout)) => Some(backend.input::<f32>(storage, layout)?),
            None => None,
        };
        macro_rules! of_types {
            ($I:ty, $O:ty) => {{
                let ids = backend.input::<$I>(&ids, ids_layout)?;
                let offsets = backend.input::<$O>(&offsets, offsets_layout)?;
                let (ids, offsets) = (<$D>::view_of(&ids), <$D>::view_of(&offsets));
                let mut $bags = Bags::new(size, ids, offsets);
                $bags.per_sample_weights = weights.as_ref().map(|weights| <$D>::view_of(weights));
                $body
            }};
        }
        macro_rules! of_ids {
            ($I:ty) => {
                match batch.offsets.dtype() {
                    DType::U32 => of_types!($I, u32),
                    DType::I32 => of_types!($I, i32),
                    DType::I64 => of_types!($I, i64),
                    dtype => Err(Error::Type { argument: "offsets", dtype }),
                }
            };
        }
        match batch.ids.dtype() {
            DType::U32 => of_ids!(u32),
            DType::I32 => of_ids!(i32),
            DType::I64 => of_ids!(i64),
            dtype => Err(Error::Type { argument: "ids", dtype }),
        }
    }};
}

/// The tables on a device.
struct Rows<D: TensorBackend> {
    backend: D,
    tables: D::Tables,
    weights: D::Buffer<f32>,
    state: OptimizerState<D>,
    scratch: Scratch<D>,
    /// The rule of all steps. The state counts them.
    rule: UpdateRule,
}

impl<D: TensorBackend> Rows<D> {
    fn new(backend: &D, tables: TableBatch, rule: UpdateRule) -> Result<Self> {
        let mut state = OptimizerState::of_tables(backend, rule.optimizer, &tables)?;
        state.set_steps(rule.step.saturating_sub(1));
        Ok(Self {
            weights: backend.alloc(tables.num_weights())?,
            state,
            scratch: Scratch::new(backend)?,
            tables: backend.tables(tables)?,
            backend: backend.clone(),
            rule: rule.at_step(0),
        })
    }

    fn lookup(&self, device: &Device, batch: &Batch) -> Result<(Storage, Shape)> {
        let Self { backend, tables, weights, .. } = self;
        with_bags!(D, backend, tables.as_ref(), batch, bags => {
            let (rows, width) = (bags.batch_size, tables.as_ref().width());
            let (storage, ()) = backend.output::<f32, _>(device, rows * width, |output| {
                let output = MatrixMut::contiguous(output, rows, width);
                let op = embedding_bag::Forward::new(tables, D::view(weights), bags, output);
                Ok(op.run(backend)?)
            })?;
            Ok((storage, (rows, width).into()))
        })
    }

    /// Returns the pooled vectors and the output of the interaction.
    fn interact(
        &self,
        ops: &Ops,
        interaction: Interaction,
        dense: &Tensor,
        batch: &Batch,
    ) -> Result<(Tensor, (Storage, Shape))> {
        let Self { backend, tables, weights, .. } = self;
        let (x, x_layout) = dense.storage_and_layout();
        let (x, (dense_rows, dim)) = (backend.input::<f32>(&x, x_layout)?, dense.dims2()?);
        with_bags!(D, backend, tables.as_ref(), batch, bags => {
            let (rows, columns) = (bags.batch_size, tables.as_ref().width());
            let width = interaction_width(interaction, dim, columns);
            let (pooled, output) = backend.output::<f32, _>(&ops.device, rows * columns, |pooled| {
                let (output, ()) = backend.output::<f32, _>(&ops.device, rows * width, |output| {
                    let pooled = MatrixMut::contiguous(pooled, rows, columns);
                    let output = MatrixMut::contiguous(output, rows, width);
                    let dense = Matrix::contiguous(D::view_of(&x), dense_rows, dim);
                    let interact = Interact::new(interaction, dim, dense, output)
                        .precision(ops.precision)
                        .keeps_pooled(true);
                    let weights = D::view(weights);
                    let lookup = embedding_bag::Forward::new(tables, weights, bags, pooled);
                    Ok(pooled_interaction::Forward { lookup, interact }.run(backend)?)
                })?;
                Ok(output)
            })?;
            Ok((tensor(pooled, (rows, columns)), (output, (rows, width).into())))
        })
    }

    fn weight_grad(&self, device: &Device, batch: &Batch, grad: &Tensor) -> Result<Tensor> {
        let Self { backend, tables, weights, .. } = self;
        let (g, g_layout) = grad.storage_and_layout();
        let g = backend.input::<f32>(&g, g_layout)?;
        with_bags!(D, backend, tables.as_ref(), batch, bags => {
            let (rows, ids) = (bags.batch_size, bags.num_indices());
            let (storage, ()) = backend.output::<f32, _>(device, ids, |output| {
                let grad = Matrix::contiguous(D::view_of(&g), rows, tables.as_ref().width());
                let op = WeightGrad::new(tables, D::view(weights), bags, grad, output);
                Ok(op.run(backend)?)
            })?;
            Ok(tensor(storage, ids))
        })
    }

    fn step(&mut self, batch: &Batch, grad: &Tensor) -> Result<()> {
        let Self { backend, tables, weights, state, scratch, rule } = self;
        let (g, g_layout) = grad.storage_and_layout();
        let g = backend.input::<f32>(&g, g_layout)?;
        with_bags!(D, backend, tables.as_ref(), batch, bags => {
            let (grad, weights) = (D::view_of(&g), D::view_mut(weights));
            sparse_update::step(backend, tables, bags, grad, *rule, weights, state, scratch)?;
            Ok(())
        })
    }

    /// Returns the elements of a table, and its rows and columns.
    fn range(&self, table: usize) -> Result<(std::ops::Range<usize>, (usize, usize))> {
        let tables = self.tables.as_ref();
        let sizes = tables.tables().get(table).ok_or_else(|| {
            let reason = format!("{table}, but there are {} tables", tables.tables().len());
            Error::argument("table", reason)
        })?;
        let offsets = tables.weight_offsets();
        Ok((offsets[table]..offsets[table + 1], (sizes.num_embeddings, sizes.embedding_dim)))
    }

    fn download(&self, table: usize) -> Result<((usize, usize), Vec<f32>)> {
        let (range, shape) = self.range(table)?;
        let mut values = vec![0.0; range.len()];
        self.backend.download(D::slice(&self.weights, range), &mut values)?;
        Ok((shape, values))
    }

    fn upload(&mut self, table: usize, shape: (usize, usize), values: &[f32]) -> Result<()> {
        let (range, expected) = self.range(table)?;
        if shape != expected {
            let ((rows, cols), (num_embeddings, embedding_dim)) = (shape, expected);
            let reason =
                format!("{rows} x {cols}, but table {table} is {num_embeddings} x {embedding_dim}");
            return Err(Error::argument("values", reason));
        }
        Ok(self.backend.upload(values, D::slice_mut(&mut self.weights, range))?)
    }
}
