//! Occupancy: the number of blocks that fit on a multiprocessor.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_int, c_uint, c_void};

use super::api::api;
use super::code::Code;
use super::host::{put, size};
use super::state::with;
use crate::device::MAX_THREADS;
use crate::exec::SM_COUNT;

api! {
    fn cuOccupancyMaxActiveBlocksPerMultiprocessor(
        blocks: *mut c_int,
        function: u64,
        threads: c_int,
        shared: usize,
    ) {
        with(|d| {
            let shared = shared + d.kernel(function)?.static_shared;
            put(blocks, d.limits().resident_blocks(size(threads), shared) as i32)
        })
    }
    fn cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(
        blocks: *mut c_int,
        function: u64,
        threads: c_int,
        shared: usize,
        _flags: c_uint,
    ) {
        Code::of(cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared))
    }
    fn cuOccupancyMaxPotentialBlockSize(
        grid: *mut c_int,
        block: *mut c_int,
        function: u64,
        of_threads: Option<extern "C" fn(c_int) -> usize>,
        shared: usize,
        limit: c_int,
    ) {
        let (kernel, limits) = with(|d| d.kernel(function).map(|kernel| (kernel, d.limits())))?;
        let most = kernel.max_threads.unwrap_or(MAX_THREADS as usize);
        let most = if limit > 0 { most.min(size(limit)) } else { most };
        // The block size with the most resident threads, and the largest of these.
        let mut best = (0, 0, 0);
        for threads in (32..=most).step_by(32) {
            let dynamic = of_threads.map_or(shared, |of| of(threads as c_int));
            let blocks = limits.resident_blocks(threads, dynamic + kernel.static_shared);
            best = best.max((blocks * threads, threads, blocks));
        }
        put(block, best.1 as i32)?;
        put(grid, SM_COUNT as i32 * best.2 as i32)
    }
    fn cuOccupancyMaxPotentialBlockSizeWithFlags(
        grid: *mut c_int,
        block: *mut c_int,
        function: u64,
        of_threads: Option<extern "C" fn(c_int) -> usize>,
        shared: usize,
        limit: c_int,
        _flags: c_uint,
    ) {
        Code::of(cuOccupancyMaxPotentialBlockSize(grid, block, function, of_threads, shared, limit))
    }
    fn cuOccupancyAvailableDynamicSMemPerBlock(
        bytes: *mut usize,
        function: u64,
        blocks: c_int,
        threads: c_int,
    ) {
        with(|d| {
            let fixed = d.kernel(function)?.static_shared;
            let limits = d.limits();
            let fits = |&dynamic: &usize| {
                limits.resident_blocks(size(threads), dynamic + fixed) >= size(blocks)
            };
            let most = (0..=limits.block_shared / 256).map(|n| 256 * n).rev().find(fits);
            most.ok_or(Code::ERROR_INVALID_VALUE).and_then(|most| put(bytes, most))
        })
    }
    fn cuOccupancyMaxActiveClusters(
        _clusters: *mut c_int,
        _function: u64,
        _config: *const c_void,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
    fn cuOccupancyMaxPotentialClusterSize(
        _size: *mut c_int,
        _function: u64,
        _config: *const c_void,
    ) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
}
