//! Asynchronous steps: ops that are recorded once and replayed, and transfers of batches that
//! overlap with computation.

use super::device::Device;
use super::views::{View, ViewMut};
use crate::dtype::Scalar;
use crate::error::Result;

/// The backend's side of recordings and transfers. A backend whose ops are complete when they
/// return records nothing, and copies synchronously.
///
/// Only [`nn::Staging`](crate::nn::Staging) can make a transfer. It keeps the order that transfers
/// need: nothing is sent to memory that earlier ops still read, and no op reads data that has not
/// arrived. Other code cannot violate this order, because it cannot make a transfer:
///
/// ```compile_fail,E0061
/// # use bagdot::{Cpu, ops::Stage};
/// Cpu::on_current_thread().transfer();
/// ```
pub trait Stage: Device {
    /// True if ops can be recorded.
    const RECORDS: bool;
    /// A recording of ops with all their arguments, such as a CUDA graph.
    type Recording: Send + Sync;
    /// A transfer from the host to buffers of the backend that made it. Dropping it waits until the
    /// host's memory is no longer read.
    type Transfer: Send;

    /// Returns whether the ops of both backends run in one order, as those of clones do.
    fn is_same(&self, other: &Self) -> bool;

    /// Records the ops that `ops` calls, without running them. No other thread may call ops of the
    /// backend meanwhile. If the backend does not record, returns `None` without calling `ops`.
    ///
    /// # Errors
    /// Propagates errors of `ops`, in which sending a batch is refused with
    /// [`Error::Recording`](crate::Error::Recording).
    fn record(&self, ops: impl FnOnce() -> Result<()>) -> Result<Option<Self::Recording>>;
    /// Runs the recorded ops on the current contents of the same buffers. The recording keeps their
    /// memory allocated until it is dropped itself.
    ///
    /// # Errors
    /// Propagates errors of the driver, and refuses a recording of another backend.
    fn replay(&self, recording: &Self::Recording) -> Result<()>;
    /// Returns the address of a view, to identify the buffers of a recording.
    fn address<T: Scalar>(view: &View<'_, Self, T>) -> u64;

    /// Begins a branch: returns a backend on the same memory, whose ops run after those that have
    /// been called, and beside those that are called from here on until [`Self::join`]. Only the
    /// engine, which knows what its ops read and write, can begin one. A backend that has no
    /// branches, or none outside of a recording, returns itself.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn fork(&self, _staging: StagingOnly) -> Result<Self> {
        Ok(self.clone())
    }
    /// Orders the ops that are called from here on after those of a branch.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn join(&self, _branch: &Self, _staging: StagingOnly) -> Result<()> {
        Ok(())
    }

    /// Makes a transfer from the host to this backend, for [`nn::Staging`](crate::nn::Staging)
    /// alone.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn transfer(&self, staging: StagingOnly) -> Result<Self::Transfer>;
    /// Begins to send a batch. Waits until the previous batch has left the host, and orders this
    /// transfer after the ops that read the previous batch.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn begin(transfer: &mut Self::Transfer) -> Result<()>;
    /// Starts a copy of `source` to `target`, which has the same length.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn send<T: Scalar>(
        transfer: &mut Self::Transfer,
        source: &[T],
        target: ViewMut<'_, Self, T>,
    ) -> Result<()>;
    /// Orders the ops that are called from here on after the transfer.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn arrive(transfer: &mut Self::Transfer) -> Result<()>;
    /// Notes that all ops that read the batch have been called.
    ///
    /// # Errors
    /// Propagates errors of the driver.
    fn release(transfer: &mut Self::Transfer) -> Result<()>;
}

/// A token for making a transfer or a branch. It has no name outside this crate, so that no other
/// crate can implement [`Stage`] or make either.
pub struct StagingOnly(());

impl StagingOnly {
    pub(crate) fn new() -> Self {
        Self(())
    }
}
