//! [`Stage`](crate::ops::Stage) on the CPU, where every op has finished when it returns.

use std::convert::Infallible;

use crate::Cpu;
use crate::dtype::Scalar;
use crate::error::Result;
use crate::ops::{Device, Stage, StagingOnly, View, ViewMut};

impl Stage for Cpu {
    const RECORDS: bool = false;
    type Recording = Infallible;
    type Transfer = Self;

    /// Returns true: ops of any two CPU backends have finished when they return, so they are in one
    /// order.
    fn is_same(&self, _other: &Self) -> bool {
        true
    }

    fn record(&self, _ops: impl FnOnce() -> Result<()>) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn replay(&self, recording: &Infallible) -> Result<()> {
        match *recording {}
    }

    fn address<T: Scalar>(view: &View<'_, Self, T>) -> u64 {
        view.as_ptr().addr() as u64
    }

    fn transfer(&self, _staging: StagingOnly) -> Result<Self> {
        Ok(self.clone())
    }

    fn begin(_transfer: &mut Self) -> Result<()> {
        Ok(())
    }

    fn send<T: Scalar>(
        transfer: &mut Self,
        source: &[T],
        target: ViewMut<'_, Self, T>,
    ) -> Result<()> {
        transfer.upload(source, target)
    }

    fn arrive(_transfer: &mut Self) -> Result<()> {
        Ok(())
    }

    fn release(_transfer: &mut Self) -> Result<()> {
        Ok(())
    }
}
