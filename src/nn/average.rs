//! A moving average of a model's parameters, beside the parameters themselves.

use super::embedding::EmbeddingBagCollection;
use crate::error::Result;
use crate::ops::moving_average::Update;
use crate::ops::{Backend, Extent, StepControl};

/// The moving averages of all parameters of a model.
pub(super) struct Averages<D: Backend> {
    /// The share of the average that a step keeps, in [0, 1].
    decay: f32,
    /// The averages of the parameters of the layers.
    parameters: D::Buffer<f32>,
    /// The averages of the weights of all tables.
    tables: D::Buffer<f32>,
}

impl<D: Backend> Averages<D> {
    /// Allocates averages that are equal to the parameters.
    pub(super) fn new(
        device: &D,
        decay: f32,
        parameters: &D::Buffer<f32>,
        embedding: &EmbeddingBagCollection<D>,
    ) -> Result<Self> {
        let mut averages = Self {
            decay,
            parameters: device.alloc(parameters.extent())?,
            tables: device.alloc(embedding.tables().as_ref().num_weights())?,
        };
        averages.blend(device, 0.0, parameters, embedding, StepControl::default())?;
        Ok(averages)
    }

    /// Returns the decay of step `step`: `(1 + step) / (5 + step)` until it reaches its full value,
    /// so that the initial parameters, which are random, soon lose their weight.
    pub(super) fn decay(&self, step: u64) -> f32 {
        self.decay.min((step.saturating_add(1) as f64 / step.saturating_add(5) as f64) as f32)
    }

    /// Moves the averages towards the parameters after step `step`.
    pub(super) fn update(
        &mut self,
        device: &D,
        step: u64,
        parameters: &D::Buffer<f32>,
        embedding: &EmbeddingBagCollection<D>,
        control: StepControl<'_, D>,
    ) -> Result<()> {
        self.blend(device, self.decay(step), parameters, embedding, control)
    }

    /// Exchanges the parameters with their averages.
    pub(super) fn swap(
        &mut self,
        parameters: &mut D::Buffer<f32>,
        embedding: &mut EmbeddingBagCollection<D>,
    ) -> Result<()> {
        std::mem::swap(embedding.f32_weights_mut()?, &mut self.tables);
        std::mem::swap(parameters, &mut self.parameters);
        Ok(())
    }

    fn blend(
        &mut self,
        device: &D,
        decay: f32,
        parameters: &D::Buffer<f32>,
        embedding: &EmbeddingBagCollection<D>,
        control: StepControl<'_, D>,
    ) -> Result<()> {
        for (values, average) in
            [(parameters, &mut self.parameters), (embedding.f32_weights()?, &mut self.tables)]
        {
            let (values, average) = (D::view(values), D::view_mut(average));
            Update { control, decay, values, average }.run(device)?;
        }
        Ok(())
    }
}
