//! Faults that kernels find in ids, offsets and labels. Kernels note them on the device, and the
//! host reads them when it synchronises.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{CudaContext, result};

use super::buffer::{Buffer, Owner};
use super::driver::check;
use super::params::bags::{FAULT_SLOTS, Fault, FaultKind, Status};
use super::pointer::PtrMut;
use crate::error::{Error, OffsetRule, Result};

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
    /// The lock that one thread at a time holds to read and clear the status.
    reader: Mutex<()>,
}

impl FaultLog {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let log = Self { status: Buffer::new(context, Owner::ANY, 1)?, reader: Mutex::new(()) };
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
        if status.count == 0 {
            return Ok(());
        }
        self.clear()?;
        Err(status.error())
    }

    fn clear(&self) -> Result<()> {
        // SAFETY: the buffer holds one status.
        check("clear the status", unsafe {
            result::memcpy_htod_sync(self.pointer().address(), &[Status::default()])
        })
    }
}

impl Status {
    /// Returns the error for the lowest fault.
    fn error(&self) -> Error {
        let recorded = &self.faults[..FAULT_SLOTS.min(self.records as usize)];
        let lowest = recorded.iter().min_by_key(|fault| fault.key).copied().unwrap_or_default();
        let Fault { key, value, limit, kind, table } = lowest;
        let position = (key >> 32) as usize;
        let is = |fault: FaultKind| kind == fault as u32;
        let rule = if is(FaultKind::FirstNotZero) {
            OffsetRule::FirstIsZero
        } else if is(FaultKind::Decreasing) {
            OffsetRule::NotBelow(limit as i64)
        } else if is(FaultKind::LastNotEnd) {
            OffsetRule::LastIs(limit as usize)
        } else if is(FaultKind::BadLabel) {
            return Error::LabelOutOfRange {
                position: key as u32 as usize,
                value: f32::from_bits(value as u32),
                count: self.count as usize,
            };
        } else {
            return Error::IndexOutOfRange {
                table: table as usize,
                bag: key as u32 as usize,
                position,
                value,
                num_embeddings: limit as usize,
                count: self.count as usize,
            };
        };
        Error::InvalidOffsets { position, value, rule }
    }
}
