//! Graphs: instantiating and launching them.

#![allow(non_snake_case, reason = "the names of the driver API")]

use std::ffi::{c_uint, c_ulonglong};
use std::sync::Arc;

use super::api::api;
use super::code::Code;
use super::host::put;
use super::state::with;
use super::work::Work;

api! {
    fn cuStreamEndCapture(stream: u64, graph: *mut u64) {
        with(|d| {
            put(graph, 0)?;
            let stream = d.stream(stream)?;
            let captured = d.end_capture(stream)?;
            let handle = d.handle();
            d.graphs.insert(handle, Arc::new(captured));
            put(graph, handle)
        })
    }
    fn cuGraphInstantiateWithFlags(executable: *mut u64, graph: u64, _flags: c_ulonglong) {
        with(|d| {
            d.current()?;
            let graph = d.graphs.get(&graph).cloned().ok_or(Code::ERROR_INVALID_HANDLE)?;
            let handle = d.handle();
            d.executables.insert(handle, graph);
            put(executable, handle)
        })
    }
    fn cuGraphLaunch(executable: u64, stream: u64) {
        with(|d| {
            let stream = d.stream(stream)?;
            let graph = d.executables.get(&executable).cloned().ok_or(Code::ERROR_INVALID_HANDLE)?;
            d.enqueue(stream, Work::Graph(graph))
        })
    }
    fn cuGraphUpload(executable: u64, stream: u64) {
        with(|d| {
            d.stream(stream)?;
            d.executables.get(&executable).map(|_| ()).ok_or(Code::ERROR_INVALID_HANDLE)
        })
    }
    fn cuGraphDestroy(graph: u64) {
        with(|d| d.graphs.remove(&graph).map(|_| ()).ok_or(Code::ERROR_INVALID_HANDLE))
    }
    fn cuGraphExecDestroy(executable: u64) {
        with(|d| d.executables.remove(&executable).map(|_| ()).ok_or(Code::ERROR_INVALID_HANDLE))
    }
    fn cuGraphGetNodes(graph: u64, nodes: *mut u64, count: *mut usize) {
        with(|d| {
            let graph = d.graphs.get(&graph).ok_or(Code::ERROR_INVALID_HANDLE)?;
            // The nodes themselves have no handles, only their number is known.
            if !nodes.is_null() {
                return Err(Code::ERROR_NOT_SUPPORTED);
            }
            put(count, graph.nodes.len())
        })
    }
    fn cuGraphDebugDotPrint(_graph: u64, _path: *const u8, _flags: c_uint) {
        Err(Code::ERROR_NOT_SUPPORTED)
    }
}
