//! [`Stage`](crate::ops::Stage) on the CPU, where every op is done when it returns.

use std::convert::Infallible;

use super::Cpu;
use crate::dtype::Scalar;
use crate::error::Result;
use crate::ops::{Device, Stage};

impl Stage for Cpu {
    const RECORDS: bool = false;
    type Recording = Infallible;
    type Transfer = ();

    fn record(&self, _ops: impl FnOnce() -> Result<()>) -> Result<Option<Infallible>> {
        Ok(None)
    }

    fn replay(&self, recording: &Infallible) -> Result<()> {
        match *recording {}
    }

    fn address<T: Scalar>(slice: &&[T]) -> u64 {
        slice.as_ptr().addr() as u64
    }

    fn transfer(&self) -> Result<()> {
        Ok(())
    }

    fn begin(&self, _transfer: &mut ()) -> Result<()> {
        Ok(())
    }

    fn send<T: Scalar>(&self, _transfer: &mut (), source: &[T], target: &mut [T]) -> Result<()> {
        self.upload(source, target)
    }

    fn arrive(&self, _transfer: &mut ()) -> Result<()> {
        Ok(())
    }

    fn release(&self, _transfer: &mut ()) -> Result<()> {
        Ok(())
    }
}
