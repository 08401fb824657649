//! Branches of a step, whose ops run beside others.

use crate::error::Result;
use crate::ops::{Backend, StagingOnly};

/// A branch of a step. Dropping it joins it, so that after an error no op of it runs beside those
/// of the next step.
pub(super) struct Branch<D: Backend> {
    device: D,
    branch: Option<D>,
}

impl<D: Backend> Branch<D> {
    /// Begins a branch.
    pub(super) fn new(device: &D) -> Result<Self> {
        let branch = device.fork(StagingOnly::new())?;
        Ok(Self { device: device.clone(), branch: Some(branch) })
    }

    /// Returns the backend whose ops are the branch.
    pub(super) fn device(&self) -> &D {
        self.branch.as_ref().unwrap_or(&self.device)
    }

    /// Orders the ops that are called from here on after those of the branch.
    pub(super) fn join(mut self) -> Result<()> {
        let Some(branch) = self.branch.take() else { return Ok(()) };
        self.device.join(&branch, StagingOnly::new())
    }
}

impl<D: Backend> Drop for Branch<D> {
    fn drop(&mut self) {
        if let Some(branch) = self.branch.take() {
            // This happens only after an error, which the caller gets instead of this one.
            let _ = self.device.join(&branch, StagingOnly::new());
        }
    }
}
