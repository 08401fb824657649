//! Embedding tables with their optimizer state.

use super::pieces::Pieces;
use super::tensors::{NamedTensor, TensorSource, read};
use crate::dtype::{DType, Element, Index, bf16, f16};
use crate::error::{Error, Result, expect_size, invalid};
use crate::ops::pooled_interaction::{self, Interact};
use crate::ops::sparse_update::{self, PooledGrad, SparseGrad};
use crate::ops::{
    Backend, Bags, Device, MatrixMut, Optimizer, OptimizerState, OptimizerStateMut, StepControl,
    TableBatch, UpdateRule, View, ViewMut, embedding_bag,
};
use crate::philox::Philox;
use crate::size::filled;

/// A batch of embedding tables: their weights, in one buffer of one element type, and the state of
/// their optimizer.
pub struct EmbeddingBagCollection<D: Backend> {
    tables: D::Tables,
    weights: Weights<D>,
    /// The state of the optimizer, `None` until [`Self::reset_state`] is called.
    state: Option<OptimizerState<D>>,
    /// The factor of the weight decay of each row, by linear row number.
    decay_scale: Option<D::Buffer<f32>>,
}

/// The weights of all tables, in an element type that is known at run time only.
enum Weights<D: Device> {
    F32(D::Buffer<f32>),
    F16(D::Buffer<f16>),
    BF16(D::Buffer<bf16>),
}

/// Runs `$body` with `$buffer` bound to the weights, whatever their element type.
macro_rules! with_weights {
    ($weights:expr, $buffer:ident => $body:expr) => {
        match $weights {
            Weights::F32($buffer) => $body,
            Weights::F16($buffer) => $body,
            Weights::BF16($buffer) => $body,
        }
    };
}

/// The distribution of the initial weights of a table.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case", deny_unknown_fields))]
pub enum TableInit {
    /// Uniform in `±√(1 / num_embeddings)`, as facebookresearch/dlrm does.
    #[default]
    InverseRoot,
    /// Uniform in `±bound`.
    Uniform(f32),
    /// Normal with this standard deviation.
    Normal(f32),
}

impl<D: Backend> EmbeddingBagCollection<D> {
    /// Makes tables of element type `dtype` with weights drawn by `init` from `seed`. Each table
    /// has a random stream of its own.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`] and [`Device::upload`].
    pub fn new(
        device: &D,
        tables: TableBatch,
        dtype: DType,
        init: TableInit,
        seed: u64,
    ) -> Result<Self> {
        let len = tables.num_weights();
        let mut weights = match dtype {
            DType::F32 => Weights::F32(device.alloc(len)?),
            DType::F16 => Weights::F16(device.alloc(len)?),
            DType::BF16 => Weights::BF16(device.alloc(len)?),
        };
        with_weights!(&mut weights, buffer => fill(device, &tables, buffer, init, seed)?);
        Ok(Self { tables: device.tables(tables)?, weights, state: None, decay_scale: None })
    }

    /// Returns the tables and features.
    pub fn tables(&self) -> &D::Tables {
        &self.tables
    }

    /// Returns the element type of the weights.
    pub fn dtype(&self) -> DType {
        match self.weights {
            Weights::F32(_) => DType::F32,
            Weights::F16(_) => DType::F16,
            Weights::BF16(_) => DType::BF16,
        }
    }

    /// Returns the weights, or an error if they are not of `f32`, as averaging needs them.
    pub(super) fn f32_weights(&self) -> Result<&D::Buffer<f32>> {
        match &self.weights {
            Weights::F32(buffer) => Ok(buffer),
            _ => Err(self.not_f32()),
        }
    }

    /// Returns the weights as [`Self::f32_weights`] does, for writing.
    pub(super) fn f32_weights_mut(&mut self) -> Result<&mut D::Buffer<f32>> {
        let error = self.not_f32();
        match &mut self.weights {
            Weights::F32(buffer) => Ok(buffer),
            _ => Err(error),
        }
    }

    fn not_f32(&self) -> Error {
        Error::DTypeMismatch {
            tensor: "tables (to be averaged)".into(),
            expected: DType::F32,
            got: self.dtype(),
        }
    }

    /// Replaces the state of the optimizer by zeros for `optimizer`.
    ///
    /// # Errors
    /// Propagates errors of [`Device::alloc`].
    pub fn reset_state(&mut self, device: &D, optimizer: Optimizer) -> Result<()> {
        let tables = self.tables.as_ref();
        self.state = Some(OptimizerState::of_tables(device, optimizer, tables)?);
        Ok(())
    }

    /// Multiplies the weight decay of a row from now on by the entry of `scale` at its linear row
    /// number.
    ///
    /// # Errors
    /// Returns an error if `scale` has not one entry for each row, or if an entry is not a finite
    /// number of 0 or more. Propagates errors of [`Device::alloc`] and [`Device::upload`].
    pub fn scale_decay(&mut self, device: &D, scale: &[f32]) -> Result<()> {
        const OP: &str = "EmbeddingBagCollection";
        expect_size(OP, "scale", scale.len(), self.tables.as_ref().num_rows())?;
        if let Some(row) = scale.iter().position(|factor| !factor.is_finite() || *factor < 0.0) {
            let reason =
                format!("{} for row {row}, but must be a finite number of 0 or more", scale[row]);
            return Err(invalid(OP, "scale", reason));
        }
        self.decay_scale = Some(device.to_device(scale)?);
        Ok(())
    }

    /// Pools the vectors of the ids into `pooled`, `[batch_size, width]`, and lets them interact.
    /// `argmax`, of the same shape, is needed for a backward pass if any feature is pooled by max.
    ///
    /// # Errors
    /// Returns the errors of [`pooled_interaction::Forward`].
    pub fn forward_and_interact<'a, I: Index, O: Element>(
        &'a self,
        device: &D,
        bags: Bags<'a, D, I>,
        pooled: MatrixMut<'a, D, O>,
        argmax: Option<MatrixMut<'a, D, u32>>,
        interact: Interact<'a, D, O>,
    ) -> Result<()> {
        let tables = &self.tables;
        with_weights!(&self.weights, buffer => {
            let weights = D::view(buffer).into();
            let lookup = embedding_bag::Forward { tables, weights, bags, output: pooled, argmax };
            pooled_interaction::Forward { lookup, interact }.run(device)
        })
    }

    /// Borrows the tables and features for reading, and apart from them the rows for an update.
    pub fn split_mut(&mut self) -> (&D::Tables, RowsMut<'_, D>) {
        let Self { tables, weights, state, decay_scale } = self;
        let decay_scale = decay_scale.as_ref().map(D::view);
        (tables, RowsMut { tables, weights, state, decay_scale })
    }

    /// Downloads the weights of each table as a tensor named `tables.T.weight`.
    pub(super) fn export(&self, device: &D, tensors: &mut Vec<NamedTensor>) -> Result<()> {
        let tables = self.tables.as_ref();
        with_weights!(&self.weights, buffer => export_tables(device, tables, buffer, tensors))
    }

    /// Downloads the state of the optimizer, if there is one.
    pub(super) fn export_state(&self, device: &D, tensors: &mut Vec<NamedTensor>) -> Result<()> {
        match &self.state {
            Some(state) => state.export(device, "tables", tensors),
            None => Ok(()),
        }
    }

    /// Uploads the weights of each table.
    pub(super) fn import(
        &mut self,
        device: &D,
        source: &(impl TensorSource + ?Sized),
    ) -> Result<()> {
        let tables = self.tables.as_ref();
        with_weights!(&mut self.weights, buffer => import_tables(device, tables, buffer, source))
    }

    /// Uploads the state of the optimizer, if there is one.
    pub(super) fn import_state(
        &mut self,
        device: &D,
        source: &(impl TensorSource + ?Sized),
    ) -> Result<()> {
        match &mut self.state {
            Some(state) => state.import(device, "tables", source),
            None => Ok(()),
        }
    }
}

/// The rows of a collection, borrowed for an update: weights, and state of the optimizer. Without
/// state ([`EmbeddingBagCollection::reset_state`]) only SGD is possible.
pub struct RowsMut<'a, D: Backend> {
    tables: &'a D::Tables,
    weights: &'a mut Weights<D>,
    state: &'a mut Option<OptimizerState<D>>,
    decay_scale: Option<View<'a, D, f32>>,
}

impl<'a, D: Backend> RowsMut<'a, D> {
    /// Updates the rows that were looked up with the gradient of the pooled output.
    /// `workspace` has [`sparse_update::Update::workspace_len`] words.
    ///
    /// # Errors
    /// Returns the errors of [`sparse_update::Update`].
    pub fn update<I: Index, G: Element>(
        self,
        device: &D,
        source: PooledGrad<'a, D, I, G>,
        rule: UpdateRule,
        control: StepControl<'a, D>,
        workspace: ViewMut<'a, D, u64>,
    ) -> Result<()> {
        let Self { tables: _, weights, state, decay_scale } = self;
        let state = view_state(state).into();
        with_weights!(weights, buffer => {
            let weights = D::view_mut(buffer).into();
            let op = sparse_update::Update {
                source, control, rule, decay_scale, weights, state, workspace,
            };
            op.run(device)
        })
    }

    /// Updates the rows of `grad`.
    ///
    /// # Errors
    /// Returns the errors of [`sparse_update::Apply`].
    pub fn apply(self, device: &D, grad: &'a SparseGrad<D>, rule: UpdateRule) -> Result<()> {
        let Self { tables, weights, state, decay_scale } = self;
        let state = view_state(state).into();
        with_weights!(weights, buffer => {
            let weights = D::view_mut(buffer).into();
            sparse_update::Apply { tables, grad, rule, decay_scale, weights, state }.run(device)
        })
    }
}

fn view_state<D: Device>(state: &mut Option<OptimizerState<D>>) -> OptimizerStateMut<'_, D> {
    state.as_mut().map_or(OptimizerStateMut::None, OptimizerState::view_mut)
}

/// Returns the range of the weights of a table among all weights.
fn range_of(tables: &TableBatch, table: usize) -> std::ops::Range<usize> {
    tables.weight_offsets()[table]..tables.weight_offsets()[table + 1]
}

fn fill<D: Device, E: Element>(
    device: &D,
    tables: &TableBatch,
    buffer: &mut D::Buffer<E>,
    init: TableInit,
    seed: u64,
) -> Result<()> {
    let mut pieces = Pieces::of(device, buffer)?;
    for (t, table) in tables.tables().iter().enumerate() {
        // The stream of the layers comes after those of all possible tables.
        let mut random = Philox::new(seed, t as u64);
        let mut draw = || match init {
            TableInit::InverseRoot => {
                (2.0 * random.uniform() - 1.0) / (table.num_embeddings as f64).sqrt()
            }
            TableInit::Uniform(bound) => (2.0 * random.uniform() - 1.0) * f64::from(bound),
            TableInit::Normal(std) => random.normal() * f64::from(std),
        };
        pieces.fill(range_of(tables, t), || E::from_f32(draw() as f32))?;
    }
    pieces.finish()
}

/// Returns the name of the tensor of a table.
pub(super) fn table_name(table: usize) -> String {
    format!("tables.{table}.weight")
}

fn export_tables<D: Device, E: Element>(
    device: &D,
    tables: &TableBatch,
    buffer: &D::Buffer<E>,
    tensors: &mut Vec<NamedTensor>,
) -> Result<()> {
    for (t, table) in tables.tables().iter().enumerate() {
        let range = range_of(tables, t);
        let mut values = filled(range.len(), E::default())?;
        device.download(D::slice(buffer, range), &mut values)?;
        tensors.push(NamedTensor::try_new(
            table_name(t),
            vec![table.num_embeddings, table.embedding_dim],
            &values,
        )?);
    }
    Ok(())
}

fn import_tables<D: Device, E: Element>(
    device: &D,
    tables: &TableBatch,
    buffer: &mut D::Buffer<E>,
    source: &(impl TensorSource + ?Sized),
) -> Result<()> {
    for (t, table) in tables.tables().iter().enumerate() {
        let values: Vec<E> =
            read(source, &table_name(t), &[table.num_embeddings, table.embedding_dim])?;
        device.upload(&values, D::slice_mut(buffer, range_of(tables, t)))?;
    }
    Ok(())
}
