//! Faults that kernels find in ids, offsets and labels. They are noted on the device and read when
//! the host waits for the device.

use std::sync::{Arc, Mutex, PoisonError};

use bytemuck::{Pod, Zeroable};
use cudarc::driver::{CudaContext, result};

use super::buffer::{Buffer, Owner};
use super::driver::check;
use crate::error::{Error, OffsetRule, Result};

/// A fault. Mirrors `Fault` in kernels/common/bags.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
struct FaultRecord {
    key: u64,
    value: i64,
    limit: u64,
    kind: u32,
    table: u32,
}

const SLOTS: usize = 64;

/// The status words. Mirrors `Status` in kernels/common/bags.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
struct Status {
    first: u64,
    count: u32,
    records: u32,
    faults: [FaultRecord; SLOTS],
}

// Buffers take any `Scalar`, which has a default; the words never begin as all zeros, though.
impl Default for Status {
    fn default() -> Self {
        Self { first: u64::MAX, count: 0, records: 0, faults: [FaultRecord::default(); SLOTS] }
    }
}

/// The status words of a backend.
#[derive(Debug)]
pub(super) struct FaultLog {
    status: Buffer<Status>,
    /// One thread at a time reads and clears.
    reader: Mutex<()>,
}

impl FaultLog {
    pub(super) fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let log = Self { status: Buffer::new(context, Owner::ANY, 1)?, reader: Mutex::new(()) };
        log.clear()?;
        Ok(log)
    }

    /// Where kernels note what they find.
    pub(super) fn pointer(&self) -> u64 {
        self.status.slice(0..1).pointer()
    }

    /// The error for what was found since the last time. To be called when the device is idle.
    pub(super) fn take(&self) -> Result<()> {
        let _reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = [Status::default()];
        // SAFETY: the buffer holds one status, all bits of which are a value. Nothing that was
        // launched is running.
        check("read the status", unsafe { result::memcpy_dtoh_sync(&mut found, self.pointer()) })?;
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
            result::memcpy_htod_sync(self.pointer(), &[Status::default()])
        })
    }
}

impl Status {
    /// The error for the lowest fault.
    fn error(&self) -> Error {
        let recorded = &self.faults[..SLOTS.min(self.records as usize)];
        let lowest = recorded.iter().min_by_key(|fault| fault.key).copied().unwrap_or_default();
        let FaultRecord { key, value, limit, kind, table } = lowest;
        let position = (key >> 32) as usize;
        let rule = match kind {
            2 => OffsetRule::FirstIsZero,
            3 => OffsetRule::NotBelow(limit as i64),
            4 => OffsetRule::LastIs(limit as usize),
            5 => {
                return Error::LabelOutOfRange {
                    position: key as u32 as usize,
                    value: f32::from_bits(value as u32),
                    count: self.count as usize,
                };
            }
            _ => {
                return Error::IndexOutOfRange {
                    table: table as usize,
                    bag: key as u32 as usize,
                    position,
                    value,
                    num_embeddings: limit as usize,
                    count: self.count as usize,
                };
            }
        };
        Error::InvalidOffsets { position, value, rule }
    }
}
