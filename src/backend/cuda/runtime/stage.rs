//! [`Stage`](crate::ops::Stage) on a CUDA device: graph capture and replay, and copies on a
//! separate stream.

use std::sync::Arc;

use super::super::Cuda;
use super::driver::is_recording;
use super::recording::Recording;
use super::transfer::Transfer;
use crate::dtype::Scalar;
use crate::error::{Result, expect_size};
use crate::ops::{Stage, StagingOnly, View, ViewMut};

impl Stage for Cuda {
    const RECORDS: bool = true;
    type Recording = Recording;
    type Transfer = Transfer;

    fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    fn record(&self, ops: impl FnOnce() -> Result<()>) -> Result<Option<Recording>> {
        Recording::new(self, ops).map(Some)
    }

    fn replay(&self, recording: &Recording) -> Result<()> {
        recording.launch(self)
    }

    fn address<T: Scalar>(view: &View<'_, Cuda, T>) -> u64 {
        view.pointer()
    }

    fn fork(&self, _staging: StagingOnly) -> Result<Self> {
        let branch = {
            let _bound = self.bind()?;
            // Outside of a recording the host would take longer for the events of a small step than
            // the device gains.
            if !is_recording(self.raw_stream())? {
                return Ok(self.clone());
            }
            self.branch()?.clone()
        };
        branch.follow(self)?;
        Ok(branch)
    }

    fn join(&self, branch: &Self, _staging: StagingOnly) -> Result<()> {
        self.follow(branch)
    }

    fn transfer(&self, _staging: StagingOnly) -> Result<Transfer> {
        Transfer::new(self)
    }

    fn begin(transfer: &mut Transfer) -> Result<()> {
        transfer.begin()
    }

    fn send<T: Scalar>(
        transfer: &mut Transfer,
        source: &[T],
        target: ViewMut<'_, Cuda, T>,
    ) -> Result<()> {
        expect_size("send", "target", target.len(), source.len())?;
        transfer.send(source, &target)
    }

    fn arrive(transfer: &mut Transfer) -> Result<()> {
        transfer.arrive()
    }

    fn release(transfer: &mut Transfer) -> Result<()> {
        transfer.release()
    }
}
