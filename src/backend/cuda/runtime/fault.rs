//! Faults that kernels find in ids, offsets and labels. Kernels note them on the device, and the
//! host reads them when it synchronises.

use std::mem::offset_of;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, result};

use super::buffer::{Buffer, Owner};
use super::driver::{Quiet, check};
use super::params::bags::{FAULT_SLOTS, Fault, FaultKind, FaultyOp, Status};
use super::pointer::PtrMut;
use crate::error::{Error, OffsetRule, Result};
use crate::ops::{embedding_bag, head, index_sort, loss};

// `Buffer` requires a `Scalar`, which has a default. The default is the cleared state, whose bits
// are not all zero.
impl Default for Status {
    fn default() -> Self {
        Self { first: u64::MAX, count: 0, records: 0, faults: [Fault::default(); FAULT_SLOTS] }
    }
}

/// The status words of a backend, in device memory.
#[derive(Debug)]
pub(crate) struct FaultLog {
    status: Buffer<Status>,
    /// The stream of [`Self::poll`], which waits for no other one.
    poll_stream: Quiet<Arc<CudaStream>>,
    /// The lock that one thread at a time holds to read and clear the status.
    reader: Mutex<()>,
}

impl FaultLog {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let log = Self {
            status: Buffer::new(context, Owner::ANY, 1)?,
            poll_stream: Quiet::new(check("create a stream", context.new_stream())?),
            reader: Mutex::new(()),
        };
        log.clear()?;
        Ok(log)
    }

    /// Returns the address of the status, in which kernels note faults.
    pub(crate) fn pointer(&self) -> PtrMut<Status> {
        PtrMut::at(self.status.slice(0..1).pointer())
    }

    /// Returns the error for the faults since the last call, and clears them. The device must be
    /// idle.
    pub(crate) fn take(&self) -> Result<()> {
        let _reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = [Status::default()];
        // SAFETY: the buffer holds one status, and any bits are a value of it. Nothing that was
        // launched is running.
        check("read the status", unsafe {
            result::memcpy_dtoh_sync(&mut found, self.pointer().address())
        })?;
        let [status] = found;
        let Some(error) = status.error() else { return Ok(()) };
        self.clear()?;
        Err(error)
    }

    /// Returns the address of the number of faults.
    pub(crate) fn count_pointer(&self) -> u64 {
        self.pointer().address() + offset_of!(Status, count) as u64
    }

    /// Returns the error for the faults that are known by now, and keeps them. Kernels may be
    /// running. The context must be bound.
    pub(crate) fn poll(&self) -> Result<()> {
        let _reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.read()?;
        let mut status = self.read()?;
        // A copy has no order of its own: it may read the kind of a record after, and the rest of
        // it before, a kernel has written both. A record that was complete in one copy is whole in
        // the next.
        for (fault, was) in status.faults.iter_mut().zip(&before.faults) {
            if was.kind == 0 || was.key != fault.key {
                fault.kind = 0;
            }
        }
        status.error().map_or(Ok(()), Err)
    }

    /// Copies the status, without waiting for ops.
    fn read(&self) -> Result<Status> {
        let mut found = [Status::default()];
        // SAFETY: the buffer holds one status, and any bits are a value of it. The target stays
        // borrowed until the copy has completed, for which this function waits.
        check("read the status", unsafe {
            let stream = self.poll_stream.cu_stream();
            result::memcpy_dtoh_async(&mut found, self.pointer().address(), stream)
        })?;
        self.wait()?;
        let [status] = found;
        Ok(status)
    }

    fn clear(&self) -> Result<()> {
        let cleared = [Status::default()];
        // SAFETY: the buffer holds one status. The source outlives the copy, for which this
        // function waits.
        check("clear the status", unsafe {
            let stream = self.poll_stream.cu_stream();
            result::memcpy_htod_async(self.pointer().address(), &cleared, stream)
        })?;
        self.wait()
    }

    fn wait(&self) -> Result<()> {
        // SAFETY: the stream lives as long as this value.
        let waited = unsafe { result::stream::synchronize(self.poll_stream.cu_stream()) };
        check("wait for the stream", waited)
    }
}

impl Status {
    /// Returns the error for the lowest fault, if there is one with a complete record.
    fn error(&self) -> Option<Error> {
        let recorded = &self.faults[..FAULT_SLOTS.min(self.records as usize)];
        let complete = recorded.iter().filter(|fault| fault.kind != 0);
        let &Fault { key, value, limit, kind, table, op, reserved: _ } =
            complete.min_by_key(|fault| fault.key)?;
        let op = match op {
            op if op == FaultyOp::EmbeddingBagForward as u32 => embedding_bag::FORWARD,
            op if op == FaultyOp::EmbeddingBagWeightGrad as u32 => embedding_bag::WEIGHT_GRAD,
            op if op == FaultyOp::Loss as u32 => loss::OP,
            op if op == FaultyOp::Head as u32 => head::OP,
            _ => index_sort::OP,
        };
        let (position, count) = ((key >> 32) as usize, self.count as usize);
        let offset = |rule| Error::InvalidOffsets { op, position, value, rule };
        let is = |fault: FaultKind| kind == fault as u32;
        Some(if is(FaultKind::FirstNotZero) {
            offset(OffsetRule::FirstIsZero)
        } else if is(FaultKind::Decreasing) {
            offset(OffsetRule::NotBelow(limit as i64))
        } else if is(FaultKind::LastNotEnd) {
            offset(OffsetRule::LastIs(limit as usize))
        } else if is(FaultKind::BadLabel) {
            let value = f32::from_bits(value as u32);
            Error::LabelOutOfRange { op, position: key as u32 as usize, value, count }
        } else {
            let (table, num_embeddings) = (table as usize, limit as usize);
            let bag = key as u32 as usize;
            Error::IndexOutOfRange { op, table, bag, position, value, num_embeddings, count }
        })
    }
}
