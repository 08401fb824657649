//! Results of training steps that are still on the device. They are collected for several steps at
//! once, so that no step waits for the device.

use super::error::Result;
use super::metrics::Predictions;
use crate::nn::{Dlrm, sigmoid};
use crate::ops::{Backend, Extent};
use crate::size::{filled, product};

/// The losses of the last batches, and the predictions of their samples before they were learned.
pub(super) struct PendingResults<D: Backend> {
    device: D,
    /// The losses, `[batches, members]`.
    losses: D::Buffer<f64>,
    /// The logits of all samples, by the first member.
    logits: D::Buffer<f32>,
    labels: Vec<f32>,
    /// The number of steps so far.
    steps: usize,
}

impl<D: Backend> PendingResults<D> {
    /// The number of batches after which results are collected.
    pub(super) const BATCHES: usize = 16;

    pub(super) fn new(device: &D) -> Result<Self> {
        let (losses, logits) = (device.alloc(0)?, device.alloc(0)?);
        Ok(Self { device: device.clone(), losses, logits, labels: Vec::new(), steps: 0 })
    }

    /// Records the step that one of several members has just taken.
    pub(super) fn note(
        &mut self,
        model: &Dlrm<D>,
        (member, members): (usize, usize),
        labels: &[f32],
    ) -> Result<()> {
        if self.losses.extent() < product([Self::BATCHES, members]) {
            self.losses = self.device.alloc(product([Self::BATCHES, members]))?;
        }
        model.copy_last_loss(D::slice_mut(&mut self.losses, self.steps..self.steps + 1))?;
        self.steps += 1;
        if member == 0 {
            let (start, end) = (self.labels.len(), self.labels.len() + labels.len());
            if self.logits.extent() < end {
                // Make room for as many batches of this size, and keep the logits so far.
                let mut larger =
                    self.device.alloc(end.max(product([Self::BATCHES, labels.len()])))?;
                self.device
                    .copy(D::slice(&self.logits, 0..start), D::slice_mut(&mut larger, 0..start))?;
                self.logits = larger;
            }
            model.copy_last_logits(D::slice_mut(&mut self.logits, start..end))?;
            self.labels.extend_from_slice(labels);
        }
        Ok(())
    }

    /// Waits for the steps. Returns the loss of each batch, the mean over the members, and adds the
    /// predictions to `predictions`. Samples without a prediction are left out: those of a batch
    /// that is not finite.
    pub(super) fn collect(
        &mut self,
        members: usize,
        predictions: &mut Predictions,
    ) -> Result<Vec<f64>> {
        self.device.synchronize()?;
        let (mut losses, mut logits) = (filled(self.steps, 0.0)?, filled(self.labels.len(), 0.0)?);
        self.device.download(D::slice(&self.losses, 0..losses.len()), &mut losses)?;
        self.device.download(D::slice(&self.logits, 0..logits.len()), &mut logits)?;
        for (logit, label) in logits.iter().zip(&self.labels).filter(|(logit, _)| !logit.is_nan()) {
            predictions.extend(&[sigmoid(*logit)], &[*label]);
        }
        self.steps = 0;
        self.labels.clear();
        Ok(losses
            .chunks(members)
            .map(|batch| batch.iter().fold(0.0, |sum, loss| sum + loss / members as f64))
            .collect())
    }
}
