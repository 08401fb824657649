//! What lets steps follow each other without waiting: ops that are recorded once and replayed, and
//! batches that travel while others are computed.

use super::device::Device;
use crate::dtype::Scalar;
use crate::error::Result;

/// What a backend provides. A backend whose ops are done when they return has nothing to record,
/// and copies at once.
///
/// Batches travel by [`nn::Staging`](crate::nn::Staging), which keeps the order that transfers
/// need: nothing is sent into memory that ops called before still read, and no op reads what has
/// not arrived. Nobody else can make a transfer, so that no other order can be written down:
///
/// ```compile_fail,E0061
/// # use bagdot::{Cpu, ops::Stage};
/// Cpu::single_threaded().transfer();
/// ```
pub trait Stage: Device {
    /// Whether ops can be recorded.
    const RECORDS: bool;
    /// Ops that have been recorded, with all their arguments.
    type Recording: Send + Sync;
    /// A way from the host to buffers of the backend that made it. Dropping it waits until the
    /// host's memory is not read any more.
    type Transfer: Send;

    /// Returns whether the ops of both run in one order, as those of clones of one backend do.
    fn is_same(&self, other: &Self) -> bool;

    /// Records the ops that `ops` calls, without running them; no other thread may call ops of the
    /// backend meanwhile. `None`, and `ops` is not called, if the backend does not record.
    ///
    /// # Errors
    /// Returns the error of `ops`. Sending a batch in `ops` is refused with
    /// [`Error::Recording`](crate::Error::Recording).
    fn record(&self, ops: impl FnOnce() -> Result<()>) -> Result<Option<Self::Recording>>;
    /// Runs what was recorded, on what the same buffers hold now. Buffers that it names stay until
    /// it is dropped, whoever drops them before.
    fn replay(&self, recording: &Self::Recording) -> Result<()>;
    /// Where a view begins, to tell whether a recording is about it.
    fn address<T: Scalar>(slice: &Self::Slice<'_, T>) -> u64;

    /// A way from the host to this backend, for [`nn::Staging`](crate::nn::Staging) alone.
    fn transfer(&self, staging: StagingOnly) -> Result<Self::Transfer>;
    /// Begins to send a batch: waits until the one before has left the host, and lets this one wait
    /// for the ops that read it.
    fn begin(transfer: &mut Self::Transfer) -> Result<()>;
    /// Sends `source` on its way into `target`, which is as long.
    fn send<T: Scalar>(
        transfer: &mut Self::Transfer,
        source: &[T],
        target: Self::SliceMut<'_, T>,
    ) -> Result<()>;
    /// Lets ops that are called from here on wait for what was sent.
    fn arrive(transfer: &mut Self::Transfer) -> Result<()>;
    /// The ops that read what was sent have been called.
    fn release(transfer: &mut Self::Transfer) -> Result<()>;
}

/// The right to make a transfer. It has no name outside this crate, so that [`Stage`] has no
/// implementations there either.
pub struct StagingOnly(());

impl StagingOnly {
    pub(crate) fn new() -> Self {
        Self(())
    }
}
