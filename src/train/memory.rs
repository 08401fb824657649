//! Estimates the memory of training from a configuration and its data.

use std::path::Path;

use super::config::Config;
use super::error::Result;
use super::workload::optimizers;
use crate::data::{Dataset, Encoder, Splits};
use crate::nn::{MemoryNeeds, MemoryPlan};
use crate::ops::Backend;

/// Reads the data of a configuration, and returns the memory that training needs on a device; see
/// [`MemoryPlan`]. Relative paths start at `folder`. For multi-valued features, the number of ids
/// of a batch is the average.
///
/// # Errors
/// Returns an error for data that cannot be read or encoded, and for a model that does not fit
/// them.
pub fn memory_of<D: Backend>(device: &D, config: &Config, folder: &Path) -> Result<MemoryPlan> {
    let encoder = Encoder::fit(&config.data, folder, &mut |_, _| ())?;
    let splits = Splits::load(&config.data, &encoder, folder, &mut |_, _| ())?;
    plan_memory(device, config, &encoder, &splits.train)
}

pub(super) fn plan_memory<D: Backend>(
    device: &D,
    config: &Config,
    encoder: &Encoder,
    train: &Dataset,
) -> Result<MemoryPlan> {
    let settings = &config.train;
    let batch_size = settings.batch_size.min(train.len());
    let ids_per_row = train.num_ids() as f64 / train.len().max(1) as f64;
    let num_indices = (ids_per_row * batch_size as f64).ceil() as usize;
    let needs = MemoryNeeds {
        config: &config.model.dlrm(encoder, settings),
        optimizers: &optimizers(settings)?,
        has_averages: config.averaging() > 0.0,
        has_decay_scale: settings.even_decay,
        has_weights: config.bag_dropout() > 0.0
            || encoder.features().iter().any(|feature| feature.interpolated),
        batch_size,
        num_indices,
        id_bytes: size_of::<u32>(),
    };
    Ok(MemoryPlan::new(device, needs)?.of_members(settings.members))
}
