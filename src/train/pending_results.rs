//! What steps of training have left on the device, until somebody looks at it: so that no step
//! waits.

use super::error::Result;
use super::metrics::Predictions;
use crate::nn::{Dlrm, sigmoid};
use crate::ops::{Backend, Extent};
use crate::size::{filled, product};

/// Losses of the last batches, and what their samples were given before they were learned from.
pub(super) struct PendingResults<D: Backend> {
    device: D,
    /// `[batches, members]`.
    losses: D::Buffer<f64>,
    /// By the first member, of all samples.
    logits: D::Buffer<f32>,
    labels: Vec<f32>,
    /// Steps that have been taken.
    steps: usize,
}

impl<D: Backend> PendingResults<D> {
    /// Batches that are waited for together.
    pub(super) const BATCHES: usize = 16;

    pub(super) fn new(device: &D) -> Result<Self> {
        let (losses, logits) = (device.alloc(0)?, device.alloc(0)?);
        Ok(Self { device: device.clone(), losses, logits, labels: Vec::new(), steps: 0 })
    }

    /// Notes the step that a member of several has just taken.
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
                // Room for as many batches of this size; what is there already is kept.
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

    /// Waits for the steps: gives the loss of each batch, the mean over the members, and adds to
    /// `predictions` what was predicted. Samples without a prediction, those of a batch that is not
    /// finite, are left out.
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
