//! The parameters, gradients, averages and optimizer state of a model as named tensors: to save
//! them, to load them, to inspect them.

use std::ops::Range;

use super::config::DlrmConfig;
use super::dlrm::{Dlrm, untrained};
use super::embedding::table_name;
use super::mlp::Layer;
use super::tensors::{NamedTensor, Prefixed, TensorSource, read};
use crate::dtype::DType;
use crate::error::Result;
use crate::ops::Backend;
use crate::size::{sum, with_room};

/// The prefix of the names of averages.
const AVERAGE: &str = "average.";

impl<D: Backend> Dlrm<D> {
    /// Downloads all parameters: `bottom_mlp.K.weight` (`[outputs, inputs]`) and `.bias`
    /// (`[outputs]`), `top_mlp.K.…`, and `tables.T.weight` (`[num_embeddings, embedding_dim]`).
    ///
    /// # Errors
    /// Propagates errors of [`Device::download`](crate::ops::Device::download).
    pub fn tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = self.layer_tensors(&self.parameters, 1.0)?;
        self.embedding.export(&self.device, &mut tensors)?;
        Ok(tensors)
    }

    /// Downloads the gradients of the layers that the last [`Self::loss_and_grad`] left, without
    /// the loss scale, named as the parameters.
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] has not been called. Propagates errors of
    /// [`Device::download`](crate::ops::Device::download).
    pub fn layer_grads(&self) -> Result<Vec<NamedTensor>> {
        match &self.training {
            Some(training) => self
                .layer_tensors(&training.grad_parameters, 1.0 / self.config.precision.loss_scale()),
            None => Err(untrained()),
        }
    }

    /// Downloads the state of the optimizers: `optimizer.dense.first` and `.second`,
    /// `optimizer.tables.…`, each of one dimension. There are none before
    /// [`Self::optimize_with`].
    ///
    /// # Errors
    /// Propagates errors of [`Device::download`](crate::ops::Device::download).
    pub fn optimizer_tensors(&self) -> Result<Vec<NamedTensor>> {
        let mut tensors = Vec::new();
        if let Some(training) = &self.training {
            training.dense_state.export(&self.device, "dense", &mut tensors)?;
            self.embedding.export_state(&self.device, &mut tensors)?;
        }
        Ok(tensors)
    }

    /// Downloads the averages of all parameters, named as these with the prefix `average.`. There
    /// are none without [`Self::average_with`].
    ///
    /// # Errors
    /// Propagates errors of [`Device::download`](crate::ops::Device::download).
    pub fn average_tensors(&mut self) -> Result<Vec<NamedTensor>> {
        if self.averages.is_none() {
            return Ok(Vec::new());
        }
        self.swap_averages()?;
        let tensors = self.tensors();
        self.swap_averages()?;
        let named = |tensor: NamedTensor| NamedTensor {
            name: format!("{AVERAGE}{}", tensor.name),
            ..tensor
        };
        Ok(tensors?.into_iter().map(named).collect())
    }

    /// Loads the averages. Does nothing without [`Self::average_with`].
    ///
    /// # Errors
    /// Returns the errors of [`Self::load`].
    pub fn load_averages(&mut self, source: &(impl TensorSource + ?Sized)) -> Result<()> {
        if self.averages.is_none() {
            return Ok(());
        }
        self.swap_averages()?;
        let loaded = self.load(&Prefixed { source, prefix: AVERAGE });
        self.swap_averages()?;
        loaded
    }

    /// Loads all parameters.
    ///
    /// # Errors
    /// Returns [`Error::TensorMissing`](crate::Error::TensorMissing) for a tensor that the source
    /// does not have, and [`Error::TensorShape`](crate::Error::TensorShape) or
    /// [`Error::DTypeMismatch`](crate::Error::DTypeMismatch) for one of another shape or element
    /// type. Propagates errors of [`Device::upload`](crate::ops::Device::upload).
    pub fn load(&mut self, source: &(impl TensorSource + ?Sized)) -> Result<()> {
        let mut values = self.device.to_vec(&self.parameters)?;
        for LayerTensor { name, shape, rows } in self.layer_layout() {
            let given = read::<f32>(source, &name, &shape)?;
            let mut rest = &given[..];
            for row in rows {
                let (of_row, behind) = rest.split_at(row.len());
                values[row].copy_from_slice(of_row);
                rest = behind;
            }
        }
        self.device.upload(&values, D::view_mut(&mut self.parameters))?;
        self.buffers.layers.refresh(&self.device, &self.parameters)?;
        self.embedding.import(&self.device, source)
    }

    /// Loads the state of the optimizers, and sets the number of steps taken to `step`.
    ///
    /// # Errors
    /// Returns an error if [`Self::optimize_with`] has not been called, and the errors of
    /// [`Self::load`].
    pub fn load_optimizers(
        &mut self,
        source: &(impl TensorSource + ?Sized),
        step: u64,
    ) -> Result<()> {
        let training = self.training.as_mut().ok_or_else(untrained)?;
        training.dense_state.import(&self.device, "dense", source)?;
        training.step = step;
        self.embedding.import_state(&self.device, source)
    }

    /// Returns the tensors of the parameters of the layers with the values of `buffer` times
    /// `factor`, a power of two.
    fn layer_tensors(&self, buffer: &D::Buffer<f32>, factor: f32) -> Result<Vec<NamedTensor>> {
        let mut values = self.device.to_vec(buffer)?;
        values.iter_mut().for_each(|value| *value *= factor);
        let tensor = |LayerTensor { name, shape, rows }| {
            let mut of_rows = with_room(sum(rows.iter().map(Range::len)))?;
            rows.into_iter().for_each(|row| of_rows.extend_from_slice(&values[row]));
            NamedTensor::try_new(name, shape, &of_rows)
        };
        self.layer_layout().map(tensor).collect()
    }

    /// Returns the tensors of the parameters of all layers, without their values.
    fn layer_layout(&self) -> impl Iterator<Item = LayerTensor> {
        self.mlps.layers().flat_map(|(mlp, k, layer)| {
            let [weight, bias] = layer_shapes(mlp, k, layer);
            let tensor = |(name, shape), rows| LayerTensor { name, shape, rows };
            [tensor(weight, layer.weight_rows().collect()), tensor(bias, vec![layer.bias.clone()])]
        })
    }
}

impl DlrmConfig {
    /// Returns the name, element type and shape of every parameter of such a model, as
    /// [`Dlrm::tensors`] returns them and [`Dlrm::load`] takes them. A file can be checked with it
    /// before there is a model.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for sizes that do not fit
    /// together.
    pub fn parameter_shapes(&self) -> Result<Vec<(String, DType, Vec<usize>)>> {
        self.check()?;
        let (mlps, _) = self.mlps();
        let layers = mlps.layers().flat_map(|(mlp, k, layer)| layer_shapes(mlp, k, layer));
        let layers = layers.map(|(name, shape)| (name, DType::F32, shape));
        let tables = self.tables.iter().enumerate().map(|(t, table)| {
            (table_name(t), self.table_dtype, vec![table.num_embeddings, table.embedding_dim])
        });
        Ok(layers.chain(tables).collect())
    }
}

/// Returns names and shapes of the weight and the bias of layer `k` of an MLP.
fn layer_shapes(mlp: &str, k: usize, layer: &Layer) -> [(String, Vec<usize>); 2] {
    let name = |what| format!("{mlp}.{k}.{what}");
    [(name("weight"), vec![layer.outputs, layer.inputs]), (name("bias"), vec![layer.outputs])]
}

/// A parameter of a layer, and the ranges of its rows in the buffer of all of them.
struct LayerTensor {
    name: String,
    shape: Vec<usize>,
    rows: Vec<Range<usize>>,
}
