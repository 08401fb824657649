//! What lets steps follow each other without waiting: ops that are recorded once and replayed, and batches that travel while others are computed.

use super::Device;
use crate::dtype::Scalar;
use crate::error::Result;

/// What a backend provides. A backend whose ops are done when they return has nothing to record, and copies at once.
pub trait Stage: Device {
    /// Whether ops can be recorded.
    const RECORDS: bool;
    /// Ops that have been recorded, with all their arguments.
    type Recording: Send + Sync;
    /// A way from the host to buffers of the device.
    type Transfer: Send;

    /// Records the ops that `ops` calls, without running them; no other thread may call ops of the backend meanwhile. `None`, and `ops` is not
    /// called, if the backend does not record.
    ///
    /// # Errors
    /// What `ops` returns.
    fn record(&self, ops: impl FnOnce() -> Result<()>) -> Result<Option<Self::Recording>>;
    /// Runs what was recorded, on what the same buffers hold now. Buffers that it names stay until it is dropped, whoever drops them before.
    fn replay(&self, recording: &Self::Recording) -> Result<()>;
    /// Where a view begins, to tell whether a recording is about it.
    fn address<T: Scalar>(slice: &Self::Slice<'_, T>) -> u64;

    /// A way from the host to this device.
    fn transfer(&self) -> Result<Self::Transfer>;
    /// Begins to send a batch: waits until the one before has left the host, and lets this one wait for the ops that read it.
    fn begin(&self, transfer: &mut Self::Transfer) -> Result<()>;
    /// Sends `source` on its way into `target`, which is as long.
    fn send<T: Scalar>(&self, transfer: &mut Self::Transfer, source: &[T], target: Self::SliceMut<'_, T>)
    -> Result<()>;
    /// Lets ops that are called from here on wait for what was sent.
    fn arrive(&self, transfer: &mut Self::Transfer) -> Result<()>;
    /// The ops that read what was sent have been called.
    fn release(&self, transfer: &mut Self::Transfer) -> Result<()>;
}
