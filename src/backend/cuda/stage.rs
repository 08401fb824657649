//! [`Stage`](crate::ops::Stage) on a CUDA device: graphs, and copies on a stream of their own.

use super::recording::Recording;
use super::transfer::Transfer;
use super::{Cuda, Slice, SliceMut};
use crate::dtype::Scalar;
use crate::error::{Result, expect_size};
use crate::ops::Stage;

impl Stage for Cuda {
    const RECORDS: bool = true;
    type Recording = Recording;
    type Transfer = Transfer;

    fn record(&self, ops: impl FnOnce() -> Result<()>) -> Result<Option<Recording>> {
        Recording::new(self, ops).map(Some)
    }

    fn replay(&self, recording: &Recording) -> Result<()> {
        recording.launch(self)
    }

    fn address<T: Scalar>(slice: &Slice<'_, T>) -> u64 {
        slice.pointer()
    }

    fn transfer(&self) -> Result<Transfer> {
        Transfer::new(self)
    }

    fn begin(&self, transfer: &mut Transfer) -> Result<()> {
        transfer.begin(self)
    }

    fn send<T: Scalar>(&self, transfer: &mut Transfer, source: &[T], target: SliceMut<'_, T>) -> Result<()> {
        expect_size("send", "target", target.len(), source.len())?;
        transfer.send(self, source, &target)
    }

    fn arrive(&self, transfer: &mut Transfer) -> Result<()> {
        transfer.arrive(self)
    }

    fn release(&self, transfer: &mut Transfer) -> Result<()> {
        transfer.release(self)
    }
}
