//! Embedding tables that burn's backward pass updates.

use std::fmt::{Debug, Formatter};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bagdot::backend::cpu::Buffer;
use bagdot::ops::embedding_bag::{Forward, WeightGrad};
use bagdot::ops::pooled_interaction::{self, Interact};
use bagdot::ops::sparse_update::{self, Scratch};
use bagdot::ops::{
    Bags, Device, Interaction, OptimizerState, OptimizerStateMut, TableBatch, UpdateRule,
};
use bagdot::{Cpu, Error, Index, Philox, Result};
use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Element, Int, Tensor, TensorData};

use crate::interaction::{Inputs, record, width};
use crate::tensors::{
    Graph, Node, Output, dims, float, ints, invalid, join, matrix, output, slice, without_gaps,
};

const OP: &str = "burn.embedding_bag";

/// A batch of embedding tables with the state of their optimizer.
///
/// They are no parameters of a burn module: mark the field with `#[module(skip)]`. Clones share the
/// tables. A forward pass whose ids are on an autodiff device adds a step to the graph; burn's
/// backward pass takes it, on every row that was looked up, before it returns. Ids in no graph are
/// only looked up.
///
/// Threads may share a collection. Lookups run side by side, a step runs alone.
#[derive(Clone)]
pub struct EmbeddingBagCollection {
    shared: Arc<Shared>,
}

struct Shared {
    cpu: Cpu,
    tables: TableBatch,
    rows: RwLock<Rows>,
    /// The first error of a backward pass that no call has returned yet.
    failure: Mutex<Option<Error>>,
}

/// The part of a collection that a step changes.
struct Rows {
    weights: Buffer<f32>,
    state: OptimizerState<Cpu>,
    scratch: Scratch<Cpu>,
    /// The rule of all steps. The state counts them.
    rule: UpdateRule,
}

impl EmbeddingBagCollection {
    /// Makes tables of `f32` whose weights are drawn from `seed`, uniformly in ±√(1 / rows) as
    /// facebookresearch/dlrm does. `rule` is that of every step; it needs no number.
    ///
    /// # Errors
    /// Returns an error for features that are pooled by max, and if there is not enough memory.
    pub fn new(tables: TableBatch, rule: UpdateRule, seed: u64) -> Result<Self> {
        if tables.has_max() {
            return Err(invalid(
                OP,
                "tables",
                "a feature is pooled by max, but must be by sum or mean".into(),
            ));
        }
        // burn's flex, and gemm below it, run on rayon's global pool, too.
        let cpu = Cpu::on_global_pool()?;
        let mut weights = cpu.alloc::<f32>(tables.num_weights())?;
        for (t, table) in tables.tables().iter().enumerate() {
            let mut random = Philox::new(seed, t as u64);
            let scale = (table.num_embeddings as f64).sqrt();
            let range = tables.weight_offsets()[t]..tables.weight_offsets()[t + 1];
            weights[range].fill_with(|| ((2.0 * random.uniform() - 1.0) / scale) as f32);
        }
        let mut state = OptimizerState::of_tables(&cpu, rule.optimizer, &tables)?;
        state.set_steps(rule.step.saturating_sub(1));
        let (scratch, rule) = (Scratch::new(&cpu)?, rule.at_step(0));
        let rows = RwLock::new(Rows { weights, state, scratch, rule });
        Ok(Self { shared: Arc::new(Shared { cpu, tables, rows, failure: Mutex::default() }) })
    }

    /// Looks up a batch and returns its pooled vectors, `[batch_size, width]`.
    ///
    /// `ids` are bag after bag, and feature after feature; `offsets`,
    /// `[features * batch_size + 1]`, are the bounds of the bags ([`Bags::new`]). Both are of
    /// `i32`, `i64` or `u32`, and are not converted.
    ///
    /// # Errors
    /// Returns [`Error::IndexOutOfRange`] for a bad id, with its table, bag, position and value,
    /// and an error for bad offsets, and for tensors that are not of flex. Nothing is added to the
    /// graph then. Returns the error of an earlier backward pass, as [`Self::check`] does.
    pub fn forward(&self, ids: Tensor<1, Int>, offsets: Tensor<1, Int>) -> Result<Tensor<2>> {
        let (batch, graph) = self.batch(ids, offsets)?;
        let pooled = batch.pool()?;
        Ok(output(batch.record(None, pooled, graph), graph))
    }

    /// Looks up a batch as [`Self::forward`] does, with a factor of every id, `[num_ids]`. The
    /// factors receive a gradient, which is that of the rows before the step.
    ///
    /// # Errors
    /// Returns the errors of [`Self::forward`].
    pub fn forward_weighted(
        &self,
        ids: Tensor<1, Int>,
        offsets: Tensor<1, Int>,
        per_sample_weights: Tensor<1>,
    ) -> Result<Tensor<2>> {
        let (mut batch, graph) = self.batch(ids, offsets)?;
        let (factors, other) = float(OP, "per_sample_weights", per_sample_weights)?;
        let graph = join(OP, graph, other)?;
        batch.factors = Some(without_gaps(factors.primitive().clone()));
        let pooled = batch.pool()?;
        Ok(output(batch.record(Some(factors), pooled, graph), graph))
    }

    /// Looks up a batch as [`Self::forward`] does, and computes the interaction with the dense
    /// vectors while the pooled ones are in the cache. The result is, to the bit, that of
    /// [`interaction`](crate::interaction()) of `dense` and the pooled vectors.
    ///
    /// # Errors
    /// Returns the errors of both.
    pub fn pooled_interaction(
        &self,
        interaction: Interaction,
        dense: Tensor<2>,
        ids: Tensor<1, Int>,
        offsets: Tensor<1, Int>,
    ) -> Result<Tensor<2>> {
        let (batch, graph) = self.batch(ids, offsets)?;
        let (dense, other) = float("burn.pooled_interaction", "dense", dense)?;
        let graph = join("burn.pooled_interaction", graph, other)?;
        let (pooled, result) = batch.pool_and_interact(interaction, &dense, graph)?;
        let pooled = batch.record(None, pooled, graph);
        let inputs = Inputs::new(interaction, &dense, &pooled);
        Ok(output(record(inputs, [dense, pooled], result, graph), graph))
    }

    /// Returns the first error of a backward pass that no call has returned yet. A backward pass
    /// can return none itself. Its step has changed no row, and the other steps were taken.
    ///
    /// # Errors
    /// Returns that error, once.
    pub fn check(&self) -> Result<()> {
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take().map_or(Ok(()), Err)
    }

    /// Returns the tables and features.
    pub fn tables(&self) -> &TableBatch {
        &self.shared.tables
    }

    /// Copies the weights of a table, `[rows, dim]`, to a tensor that is in no graph.
    ///
    /// # Errors
    /// Returns an error if there is no such table, and that of an earlier backward pass.
    pub fn table(&self, table: usize) -> Result<Tensor<2>> {
        self.check()?;
        let (range, shape) = self.place(table)?;
        let values = self.read().weights[range].to_vec();
        let tensor = FlexTensor::from_data(TensorData::new(values, shape));
        Ok(output(Node::new(tensor), Graph::Disabled))
    }

    /// Replaces the weights of a table, `[rows, dim]`. The state of the optimizer stays.
    ///
    /// # Errors
    /// Returns an error if there is no such table, and for another shape.
    pub fn set_table(&self, table: usize, weights: Tensor<2>) -> Result<()> {
        let (range, shape) = self.place(table)?;
        let (weights, _) = float(OP, "weights", weights)?;
        let weights = without_gaps(weights.into_primitive());
        if dims(&weights) != shape {
            let (name, got) = (format!("tables.{table}.weight"), dims(&weights).to_vec());
            return Err(Error::TensorShape { name, expected: shape.to_vec(), got });
        }
        self.write().weights[range].copy_from_slice(slice::<f32>(&weights)?);
        Ok(())
    }

    /// Returns the learning rate of the next step.
    pub fn learning_rate(&self) -> f32 {
        self.read().rule.learning_rate
    }

    /// Sets the learning rate from the next step on.
    pub fn set_learning_rate(&self, learning_rate: f32) {
        self.write().rule.learning_rate = learning_rate;
    }

    /// Returns the number of steps that have been taken.
    pub fn steps(&self) -> u64 {
        self.read().state.steps()
    }

    /// Sets the number of steps that have been taken, to continue from a checkpoint: Adam depends
    /// on it.
    pub fn set_steps(&self, steps: u64) {
        self.write().state.set_steps(steps);
    }

    /// Runs `work` on the state of the optimizer, to write a checkpoint or to read one. `work` must
    /// not call the collection.
    pub fn with_state<R>(&self, work: impl FnOnce(OptimizerStateMut<'_, Cpu>) -> R) -> R {
        work(self.write().state.view_mut())
    }

    /// Returns the place of a table in the weights, and its shape.
    fn place(&self, table: usize) -> Result<(std::ops::Range<usize>, [usize; 2])> {
        let tables = self.tables();
        let Some(shape) = tables.tables().get(table) else {
            let reason = format!("{table}, but there are {}", tables.tables().len());
            return Err(invalid(OP, "table", reason));
        };
        let offsets = tables.weight_offsets();
        let shape = [shape.num_embeddings, shape.embedding_dim];
        Ok((offsets[table]..offsets[table + 1], shape))
    }

    /// Makes a batch without factors, and returns its graph.
    fn batch(&self, ids: Tensor<1, Int>, offsets: Tensor<1, Int>) -> Result<(Batch, Graph)> {
        self.check()?;
        let (ids, graph) = ints(OP, "ids", ids)?;
        let (offsets, other) = ints(OP, "offsets", offsets)?;
        let bags = offsets.layout().num_elements().saturating_sub(1);
        let batch_size = bags.checked_div(self.tables().features().len()).unwrap_or(0);
        let graph = join(OP, graph, other)?;
        let (collection, learns) = (self.clone(), graph != Graph::Disabled);
        Ok((Batch { collection, ids, offsets, factors: None, batch_size, learns }, graph))
    }

    fn read(&self) -> RwLockReadGuard<'_, Rows> {
        self.shared.rows.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Rows> {
        self.shared.rows.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps an error of a backward pass, unless there is one already.
    fn keep(&self, error: Error) {
        let mut failure = self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }
}

impl Debug for EmbeddingBagCollection {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddingBagCollection")
            .field("tables", &self.tables().tables())
            .field("rule", &self.read().rule)
            .finish_non_exhaustive()
    }
}

/// The ids of a forward pass, which its step needs again.
#[derive(Clone, Debug)]
struct Batch {
    collection: EmbeddingBagCollection,
    ids: FlexTensor,
    offsets: FlexTensor,
    factors: Option<FlexTensor>,
    batch_size: usize,
    /// True if the backward pass takes a step.
    learns: bool,
}

/// Runs `$body` with `$bags` bound to the bags of a batch, whatever the type of its ids.
macro_rules! with_bags {
    ($batch:expr, $bags:ident => $body:expr) => {
        match $batch.ids.dtype() {
            DType::I32 => $batch.bags::<i32>().and_then(|$bags| $body),
            DType::I64 => $batch.bags::<i64>().and_then(|$bags| $body),
            _ => $batch.bags::<u32>().and_then(|$bags| $body),
        }
    };
}

impl Batch {
    fn bags<I: Index + Element>(&self) -> Result<Bags<'_, Cpu, I>> {
        let (samples, ids) = (self.batch_size, slice::<I>(&self.ids)?);
        let bags = match self.offsets.dtype() {
            DType::I32 => Bags::new(samples, ids, slice::<i32>(&self.offsets)?),
            DType::I64 => Bags::new(samples, ids, slice::<i64>(&self.offsets)?),
            _ => Bags::new(samples, ids, slice::<u32>(&self.offsets)?),
        };
        Ok(match &self.factors {
            Some(factors) => bags.weighted(slice::<f32>(factors)?),
            None => bags,
        })
    }

    /// Returns the pooled vectors.
    fn pool(&self) -> Result<FlexTensor> {
        let Shared { cpu, tables, .. } = &*self.collection.shared;
        let mut pooled = Output::zeros(self.batch_size, tables.width())?;
        let rows = self.collection.read();
        with_bags!(self, bags => {
            Forward::new(tables, &rows.weights, bags, pooled.view()).run(cpu)
        })?;
        Ok(pooled.into_tensor())
    }

    /// Returns the pooled vectors, and their interaction with the dense ones. In no graph nothing
    /// needs the pooled vectors, and they are unspecified.
    fn pool_and_interact(
        &self,
        interaction: Interaction,
        dense: &Node,
        graph: Graph,
    ) -> Result<(FlexTensor, FlexTensor)> {
        let Shared { cpu, tables, .. } = &*self.collection.shared;
        let dense = without_gaps(dense.primitive().clone());
        let dim = dims(&dense)[1];
        let mut pooled = Output::zeros(self.batch_size, tables.width())?;
        let mut result = Output::zeros(self.batch_size, width(interaction, dim, tables.width()))?;
        let rows = self.collection.read();
        with_bags!(self, bags => {
            let lookup = Forward::new(tables, &rows.weights, bags, pooled.view());
            let interact = Interact::new(interaction, dim, matrix(&dense)?, result.view())
                .keeps_pooled(graph != Graph::Disabled);
            pooled_interaction::Forward { lookup, interact }.run(cpu)
        })?;
        Ok((pooled.into_tensor(), result.into_tensor()))
    }

    /// Adds the step to the graph, if there is one.
    fn record(self, factors: Option<Node>, pooled: FlexTensor, graph: Graph) -> Node {
        if graph == Graph::Disabled {
            return Node::new(pooled);
        }
        let nothing = || Node::new(FlexTensor::zeros([0].into(), DType::F32));
        // burn calls backward only for nodes with an input that wants a gradient. This one gets
        // none.
        let rows = if self.learns { nothing().require_grad() } else { nothing() };
        let factors = factors.unwrap_or_else(nothing);
        let guards = [rows.node(), factors.node()];
        match Step.prepare::<NoCheckpointing>(guards).compute_bound().stateful() {
            OpsKind::Tracked(op) => op.finish(self, pooled),
            OpsKind::UnTracked(op) => op.finish(pooled),
        }
    }

    /// Writes the gradient of the factors.
    fn grad_factors(&self, grad: &FlexTensor, result: &mut [f32]) -> Result<()> {
        let Shared { cpu, tables, .. } = &*self.collection.shared;
        let rows = self.collection.read();
        with_bags!(self, bags => {
            WeightGrad::new(tables, &rows.weights, bags, matrix(grad)?, result).run(cpu)
        })
    }

    /// Takes a step on the rows of the batch.
    fn step(&self, grad: &FlexTensor) -> Result<()> {
        let Shared { cpu, tables, .. } = &*self.collection.shared;
        let grad = slice::<f32>(grad)?;
        let Rows { weights, state, scratch, rule } = &mut *self.collection.write();
        with_bags!(self, bags => {
            sparse_update::step(cpu, tables, bags, grad, *rule, weights, state, scratch)
        })
    }
}

/// The backward pass of a lookup.
#[derive(Debug)]
struct Step;

impl Backward<Flex, 2> for Step {
    type State = Batch;

    fn backward(self, ops: Ops<Batch, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let Ops { parents: [rows, factors], node, state: batch } = ops;
        let grad = without_gaps(grads.consume::<Flex>(&node));
        if let Some(factors) = factors {
            // The gradient is zero if there is an error: burn expects one.
            let mut result = vec![0.0; batch.ids.layout().num_elements()];
            if let Err(error) = batch.grad_factors(&grad, &mut result) {
                batch.collection.keep(error);
            }
            let len = [result.len()];
            let result = FlexTensor::from_data(TensorData::new(result, len));
            grads.register::<Flex>(factors.id, result);
        }
        let result = if rows.is_some() { batch.step(&grad) } else { Ok(()) };
        if let Err(error) = result {
            batch.collection.keep(error);
        }
    }
}
