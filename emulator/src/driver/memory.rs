//! Device memory and pinned memory, copies and fills.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_uint, c_ushort, c_void};

use super::api::api;
use super::code::{Code, Result};
use super::host::{allocate, bytes_at, deallocate, put};
use super::state::{Driver, with};
use super::transit::Pinned;
use super::work::{HostPointer, Work};

fn host_pointer(pointer: *const c_void) -> HostPointer {
    HostPointer(pointer.expose_provenance())
}

impl Driver {
    /// Allocates memory of the current device.
    pub(super) fn allocate(&mut self, bytes: usize) -> Result<u64> {
        let device = self.current()?;
        if bytes == 0 {
            return Err(Code::ERROR_INVALID_VALUE);
        }
        let limit = self.settings.memory_bytes;
        if self.gpus[device].device.used().saturating_add(bytes) > limit {
            // Frees may still wait in the streams.
            self.drain_where(|s| s.device == device && s.capture.is_none())?;
        }
        if self.gpus[device].device.used().saturating_add(bytes) > limit {
            return Err(Code::ERROR_OUT_OF_MEMORY);
        }
        Ok(self.gpus[device].device.allocate(bytes))
    }

    /// Refuses a copy or fill at once whose device memory is not inside one allocation.
    fn check(&mut self, address: u64, bytes: usize) -> Result<()> {
        let device = self.current()?;
        let outcome = self.gpus[device].device.holds(address, bytes);
        outcome.map_err(|error| {
            self.say(&format!("a copy or fill: {error}"));
            Code::ERROR_INVALID_VALUE
        })
    }

    fn copy_in(&mut self, to: u64, from: *const c_void, bytes: usize, stream: u64) -> Result<()> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        self.check(to, bytes)?;
        let pointer = host_pointer(from);
        let captured = self.streams[&stream].capture.is_some();
        let pinned = self.pinned_at(pointer, bytes);
        let work = if pinned.is_some() || captured {
            Work::ToDevice { to, from: pointer, bytes, pinned }
        } else {
            Work::Bytes { to, bytes: bytes_at(from, bytes)? }
        };
        self.enqueue(stream, work)
    }

    fn copy_out(&mut self, to: *mut c_void, from: u64, bytes: usize, stream: u64) -> Result<()> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        self.check(from, bytes)?;
        let pointer = host_pointer(to);
        let pinned = self.pinned_at(pointer, bytes);
        self.enqueue(stream, Work::ToHost { to: pointer, from, bytes, pinned })?;
        // A copy into pageable memory is made before the call returns.
        if pinned.is_none() && self.streams[&stream].capture.is_none() {
            self.synchronize(stream)
        } else {
            Ok(())
        }
    }

    fn fill(&mut self, to: u64, pattern: Vec<u8>, count: usize, stream: u64) -> Result<()> {
        let stream = self.stream(stream)?;
        if !to.is_multiple_of(pattern.len() as u64) {
            return Err(Code::ERROR_INVALID_VALUE);
        }
        if count == 0 {
            return Ok(());
        }
        self.check(to, count * pattern.len())?;
        self.enqueue(stream, Work::Fill { to, pattern, count })
    }

    fn copy(&mut self, to: u64, from: u64, bytes: usize, stream: u64) -> Result<()> {
        let stream = self.stream(stream)?;
        if bytes == 0 {
            return Ok(());
        }
        self.check(to, bytes)?;
        self.check(from, bytes)?;
        self.enqueue(stream, Work::Copy { to, from, bytes })
    }

    /// Allocates pinned memory.
    fn pin(&mut self, bytes: usize) -> Result<*mut c_void> {
        let (fresh, layout) = allocate(bytes).ok_or(Code::ERROR_OUT_OF_MEMORY)?;
        let serial = self.handle();
        self.pinned.insert(fresh.expose_provenance(), Pinned { layout, serial });
        Ok(fresh)
    }

    /// Frees pinned memory, after all work that could use it.
    fn unpin(&mut self, pointer: *mut c_void) -> Result<()> {
        let start = pointer.expose_provenance();
        let layout = self.pinned.get(&start).ok_or(Code::ERROR_INVALID_VALUE)?.layout;
        self.abandon(&(start..start + layout.size()));
        let outcome = self.drain_where(|s| s.capture.is_none());
        if outcome.is_err() {
            // A device that has failed does not do the rest of its work, which must not stay
            // either.
            self.streams
                .values_mut()
                .for_each(|s| s.queue.retain(|work| matches!(work, Work::Record { .. })));
        }
        self.pinned.remove(&start);
        deallocate(pointer, layout);
        Ok(())
    }
}

api! {
    fn cuMemAlloc_v2(address: *mut u64, bytes: usize) {
        with(|d| {
            d.current()?;
            d.refuse_unsafe()?;
            let fresh = d.allocate(bytes)?;
            put(address, fresh)
        })
    }
    fn cuMemAllocAsync(address: *mut u64, bytes: usize, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            let fresh = d.allocate(bytes)?;
            d.enqueue(stream, Work::Nothing)?;
            put(address, fresh)
        })
    }
    fn cuMemFree_v2(address: u64) {
        with(|d| {
            let device = d.current()?;
            d.refuse_unsafe()?;
            if address == 0 {
                return Ok(());
            }
            // No work that may still use the memory is left after this.
            d.drain_where(|s| s.device == device && s.capture.is_none())?;
            d.settle_device(device);
            let is_freed = d.gpus[device].device.free(address);
            if is_freed { Ok(()) } else { Err(Code::ERROR_INVALID_VALUE) }
        })
    }
    fn cuMemFreeAsync(address: u64, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            if address == 0 {
                return Ok(());
            }
            let device = d.current()?;
            if d.gpus[device].device.size_of(address).is_none() {
                return Err(Code::ERROR_INVALID_VALUE);
            }
            let captured = d.streams[&stream].capture.is_some();
            d.enqueue(stream, if captured { Work::Nothing } else { Work::Free(address) })
        })
    }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        with(|d| {
            let device = d.current()?;
            put(total, d.settings.memory_bytes)?;
            put(free, d.settings.memory_bytes.saturating_sub(d.gpus[device].device.used()))
        })
    }
    fn cuMemHostAlloc(pointer: *mut *mut c_void, bytes: usize, _flags: c_uint) {
        with(|d| {
            d.current()?;
            d.refuse_unsafe()?;
            let fresh = d.pin(bytes)?;
            put(pointer, fresh)
        })
    }
    fn cuMemAllocHost_v2(pointer: *mut *mut c_void, bytes: usize) {
        Code::of(cuMemHostAlloc(pointer, bytes, 0))
    }
    fn cuMemFreeHost(pointer: *mut c_void) {
        with(|d| {
            d.refuse_unsafe()?;
            d.unpin(pointer)
        })
    }
    fn cuMemcpyHtoD_v2(to: u64, from: *const c_void, bytes: usize) {
        with(|d| d.copy_in(to, from, bytes, 0))
    }
    fn cuMemcpyHtoDAsync_v2(to: u64, from: *const c_void, bytes: usize, stream: u64) {
        with(|d| d.copy_in(to, from, bytes, stream))
    }
    fn cuMemcpyDtoH_v2(to: *mut c_void, from: u64, bytes: usize) {
        with(|d| d.copy_out(to, from, bytes, 0))
    }
    fn cuMemcpyDtoHAsync_v2(to: *mut c_void, from: u64, bytes: usize, stream: u64) {
        with(|d| d.copy_out(to, from, bytes, stream))
    }
    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) {
        with(|d| d.copy(to, from, bytes, 0))
    }
    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) {
        with(|d| d.copy(to, from, bytes, stream))
    }
    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: u64,
        from: u64,
        from_context: u64,
        bytes: usize,
        stream: u64,
    ) {
        with(|d| {
            if to_context != from_context || d.device_of(to_context).is_none() {
                return Err(Code::ERROR_NOT_SUPPORTED);
            }
            d.copy(to, from, bytes, stream)
        })
    }
    fn cuMemsetD8_v2(to: u64, value: u8, count: usize) {
        with(|d| d.fill(to, vec![value], count, 0))
    }
    fn cuMemsetD8Async(to: u64, value: u8, count: usize, stream: u64) {
        with(|d| d.fill(to, vec![value], count, stream))
    }
    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: u64) {
        with(|d| d.fill(to, value.to_le_bytes().to_vec(), count, stream))
    }
    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: u64) {
        with(|d| d.fill(to, value.to_le_bytes().to_vec(), count, stream))
    }
}
