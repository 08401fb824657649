//! Every planted fault is found, under every seed and in both schedules, and the report names its
//! place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use bagdot_emulator::{Config, Fault, FaultKind, Grid};
use common::cuda::{context, emulator, fails};
use common::{Gpu, compile, grid, schedules};
use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaContext, CudaGraph, CudaSlice, CudaStream, DevicePtr, result};

/// A kernel with a fault, and its launch. `input` and `output` are lengths in floats.
struct Planted {
    name: &'static str,
    kind: FaultKind,
    grid: Grid,
    input: usize,
    output: usize,
}

fn planted(name: &'static str, kind: FaultKind, blocks: u32, threads: u32) -> Planted {
    let all = (blocks * threads) as usize;
    Planted { name, kind, grid: grid(blocks, threads), input: all, output: all }
}

fn check(p: &Planted, prepare: impl Fn(&mut Gpu, u64, u64) -> Vec<Vec<u8>>) {
    let ptx = compile("planted", "80");
    let source = include_str!("kernels/planted.cu");
    let marker = format!("// AT {}", p.name);
    let line = source.lines().position(|l| l.ends_with(&marker)).unwrap() + 1;
    for config in schedules(10) {
        let mut gpu = Gpu::new(&ptx, config);
        if p.kind == FaultKind::StepLimit {
            gpu.device.config.step_limit = 10_000;
        }
        let input = gpu.upload(&(0..p.input).map(|k| k as f32).collect::<Vec<_>>());
        let output = gpu.room::<f32>(p.output);
        let args = prepare(&mut gpu, input, output);
        let faults = gpu
            .launch(p.name, p.grid, &args)
            .expect_err(&format!("{} was not found, {config:?}", p.name));
        // The report of a race, or of two barriers that meet, has one side as its place and names
        // the other.
        let place = format!("planted.cu:{line}");
        let here = |f: &&Fault| {
            f.kind == p.kind && (f.source.ends_with(&place) || f.detail.ends_with(&place))
        };
        let found = faults.iter().find(here);
        let all: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let found = found
            .unwrap_or_else(|| panic!("{}: line {line} expected, {config:?}: {all:#?}", p.name));
        assert_eq!(found.kernel, p.name);
        assert!(found.ptx_line > 0 && !found.instruction.is_empty() && found.lane < 32, "{found}");
        assert_eq!(faults[0].kind, p.kind, "{all:#?}");
    }
}

fn simple(p: Planted) {
    check(&p, |_, input, output| args![input, output].to_vec());
}

#[test]
fn missing_barriers() {
    simple(planted("missing_barrier_raw", FaultKind::SharedRace, 1, 128));
    simple(planted("atomics_without_barrier", FaultKind::SharedRace, 1, 128));
    simple(planted("missing_barrier_war", FaultKind::SharedRace, 1, 128));
    simple(planted("shared_atomic_then_read", FaultKind::SharedRace, 1, 64));
}

#[test]
fn missing_warp_barriers() {
    simple(planted("missing_syncwarp", FaultKind::SharedRace, 1, 64));
    simple(planted("shuffle_is_no_fence", FaultKind::SharedRace, 1, 32));
    simple(planted("half_a_warp_synchronised", FaultKind::SharedRace, 1, 32));
}

#[test]
fn out_of_bounds() {
    let p = planted("global_out_of_bounds", FaultKind::OutOfBounds, 2, 64);
    check(&Planted { output: 100, ..p }, |_, input, output| args![input, output, 100i32].to_vec());
    simple(planted("global_before_buffer", FaultKind::OutOfBounds, 1, 64));
    let p = planted("shared_out_of_bounds", FaultKind::OutOfBounds, 1, 64);
    let grid = Grid { dynamic_shared: 256, ..p.grid };
    simple(Planted { grid, ..p });
    // The input has 61 floats, and the last thread reads up to the 64th.
    let p = planted("vector_past_the_tail", FaultKind::OutOfBounds, 1, 32);
    check(&Planted { input: 61, ..p }, |_, input, output| args![input, output, 61i32].to_vec());
    check(&planted("local_out_of_bounds", FaultKind::OutOfBounds, 1, 32), |gpu, _, output| {
        let indices =
            gpu.upload(&(0..32).map(|k| if k == 20 { 4 } else { k % 4 }).collect::<Vec<i32>>());
        args![indices, output].to_vec()
    });
}

#[test]
fn misaligned() {
    let p = planted("misaligned_vector", FaultKind::Misaligned, 1, 32);
    simple(Planted { input: 256, ..p });
    let p = planted("misaligned_matrix_row", FaultKind::Misaligned, 1, 32);
    simple(Planted { input: 320, ..p });
}

#[test]
fn asynchronous_copies() {
    let p = planted("missing_copy_wait", FaultKind::CopyPending, 1, 32);
    simple(Planted { input: 128, ..p });
    simple(planted("copy_wait_without_barrier", FaultKind::SharedRace, 1, 64));
    let p = planted("copy_group_off_by_one", FaultKind::CopyPending, 1, 32);
    simple(Planted { input: 64, ..p });
    let p = planted("copy_over_what_is_read", FaultKind::SharedRace, 1, 64);
    simple(Planted { input: 128, ..p });
}

#[test]
fn divergence() {
    simple(planted("divergent_barrier", FaultKind::DivergentBarrier, 1, 256));
    simple(planted("diverged_shuffle", FaultKind::DivergedCollective, 1, 64));
    simple(planted("vote_in_a_branch", FaultKind::DivergedCollective, 1, 32));
    simple(planted("named_barrier_too_wide", FaultKind::DivergentBarrier, 1, 128));
    simple(planted("not_in_own_mask", FaultKind::DivergedCollective, 1, 32));
}

#[test]
fn a_barrier_and_a_shuffle_that_wait_for_each_other() {
    // The report is about the shuffle, and names the barrier where the missing lanes are.
    let ptx = compile("planted", "80");
    for config in schedules(10) {
        let mut gpu = Gpu::new(&ptx, config);
        let (input, output) = (gpu.upload(&[1.0f32; 64]), gpu.room::<f32>(64));
        let faults =
            gpu.launch("barrier_in_half_a_warp", grid(1, 64), &args![input, output]).unwrap_err();
        assert_eq!(faults[0].kind, FaultKind::DivergedCollective, "{}", faults[0]);
        assert!(faults[0].detail.contains("are at the barrier"), "{}", faults[0]);
    }
}

#[test]
fn global_races() {
    simple(planted("two_blocks_one_row", FaultKind::GlobalRace, 4, 32));
    simple(planted("warps_one_row", FaultKind::GlobalRace, 1, 64));
    simple(planted("lanes_one_word", FaultKind::GlobalRace, 1, 32));
    check(&planted("plain_beside_atomic", FaultKind::GlobalRace, 2, 32), |gpu, input, _| {
        let sum = gpu.upload(&[0f32]);
        args![input, sum].to_vec()
    });
    let p = planted("grid_barrier_without_fence", FaultKind::GlobalRace, 4, 32);
    let resident = Grid { cooperative: true, ..p.grid };
    check(&Planted { grid: resident, ..p }, |gpu, input, output| {
        let (room, arrived) = (gpu.room::<f32>(128), gpu.upload(&[0u32]));
        args![input, room, arrived, output].to_vec()
    });
    check(&planted("missing_fence", FaultKind::GlobalRace, 8, 32), |gpu, input, output| {
        let (partial, done) = (gpu.room::<f32>(8), gpu.upload(&[0u32]));
        args![input, partial, done, output].to_vec()
    });
    let p = planted("read_only_alias", FaultKind::ReadOnlyWritten, 1, 64);
    check(&Planted { output: 128, ..p }, |_, _, output| args![output, output].to_vec());
}

#[test]
fn freed_and_unwritten_memory() {
    check(&planted("read_through_freed", FaultKind::UseAfterFree, 1, 32), |gpu, input, output| {
        assert!(gpu.device.free(input) && !gpu.device.free(input));
        // No later allocation has the address that was freed.
        gpu.room::<f32>(32);
        args![input, output].to_vec()
    });
    check(
        &planted("uninitialised_global", FaultKind::Uninitialised, 1, 32),
        |gpu, input, output| {
            let unwritten = gpu.room::<f32>(33);
            gpu.device.copy(unwritten, input, 128).unwrap();
            args![unwritten, output].to_vec()
        },
    );
    simple(planted("uninitialised_shared", FaultKind::Uninitialised, 1, 64));
    simple(planted("left_by_another_block", FaultKind::Uninitialised, 3, 32));
    let p = planted("uninitialised_byte", FaultKind::Uninitialised, 1, 32);
    simple(Planted { grid: Grid { dynamic_shared: 32, ..p.grid }, ..p });
}

#[test]
fn kernels_that_do_not_end() {
    simple(planted("endless_loop", FaultKind::StepLimit, 2, 32));
    simple(planted("gives_up", FaultKind::Trap, 1, 64));
}

/// Four numbers in pinned memory, and memory for them on the device.
struct Way {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    host: *mut u32,
    device: CudaSlice<u32>,
}

impl Way {
    fn new() -> Self {
        let context = context();
        let stream = context.new_stream().unwrap();
        let device = stream.alloc_zeros(4).unwrap();
        // SAFETY: the memory is written below, and freed by each test.
        let host = unsafe { result::malloc_host(16, 0) }.unwrap().cast();
        let way = Self { context, stream, host, device };
        way.write(1);
        way
    }

    fn write(&self, value: u32) {
        // SAFETY: the memory holds four numbers, and the emulator reads it only in calls of this
        // thread. The tests are about copies that have not been made yet.
        unsafe { std::slice::from_raw_parts_mut(self.host, 4) }.fill(value);
    }

    fn send(&self) {
        let (address, _sync) = self.device.device_ptr(&self.stream);
        // SAFETY: as above. The emulator reports memory that is freed too early.
        let source = unsafe { std::slice::from_raw_parts(self.host, 4) };
        // SAFETY: as above.
        unsafe { result::memcpy_htod_async(address, source, self.stream.cu_stream()) }.unwrap();
    }

    fn receive(&self) {
        let (address, _sync) = self.device.device_ptr(&self.stream);
        // SAFETY: as above.
        let target = unsafe { std::slice::from_raw_parts_mut(self.host, 4) };
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(target, address, self.stream.cu_stream()) }.unwrap();
    }

    fn free(&self) {
        // SAFETY: `new` allocated the memory, and the tests no longer use it.
        unsafe { result::free_host(self.host.cast()) }.unwrap();
    }

    /// Returns a graph of the copy to the device.
    fn record(&self) -> CudaGraph {
        self.stream
            .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            .unwrap();
        self.send();
        self.stream.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap()
    }
}

/// Runs a test of pinned memory under many orders of work, and also with copies that are made by
/// the call that enqueues them: even then the host has not waited for them. Returns the reports.
fn on_the_way(test: impl Fn(&Way)) -> Vec<String> {
    let emulator = emulator();
    let run = |seed: u64| {
        emulator.reset_all();
        emulator.configure(Config { seed, ..Config::default() });
        emulator.set_deferred(!seed.is_multiple_of(5));
        test(&Way::new());
        emulator.report()
    };
    (0..20).map(run).collect()
}

fn found_on_the_way(kind: FaultKind, text: &str, test: impl Fn(&Way)) {
    for report in on_the_way(test) {
        let is_it =
            report.starts_with(kind.name()) && report.contains(text) && report.lines().count() == 1;
        assert!(is_it, "{} with {text:?} expected: {report}", kind.name());
    }
}

#[test]
fn pinned_memory_that_is_written_under_a_copy() {
    let found = |test: fn(&Way)| {
        found_on_the_way(FaultKind::CopyPending, "a copy of 16 bytes from 0x", test)
    };
    found(|way| {
        way.send();
        way.write(2);
        way.stream.synchronize().unwrap();
        way.free();
    });
    // The next batch is written without a wait for the one before.
    found(|way| {
        way.send();
        way.write(2);
        way.send();
        way.context.synchronize().unwrap();
        way.free();
    });
    // An event that was recorded before the copy does not wait for it.
    found(|way| {
        let event = way.stream.record_event(None).unwrap();
        way.send();
        event.synchronize().unwrap();
        way.write(2);
        way.context.synchronize().unwrap();
        way.free();
    });
    found(|way| {
        let graph = way.record();
        graph.launch().unwrap();
        way.write(2);
        way.stream.synchronize().unwrap();
        way.free();
    });
}

#[test]
fn pinned_memory_that_is_freed_under_a_copy() {
    let found = |test: fn(&Way)| {
        found_on_the_way(FaultKind::CopyPending, "is freed while a copy of 16 bytes", test)
    };
    found(|way| {
        way.send();
        way.free();
    });
    found(|way| {
        let graph = way.record();
        graph.launch().unwrap();
        way.free();
    });
    // The memory is the destination of a copy to the host.
    found(|way| {
        way.receive();
        way.free();
    });
}

#[test]
fn pinned_memory_that_a_graph_reads_after_its_end() {
    found_on_the_way(FaultKind::UseAfterFree, "a copy uses pinned memory at 0x", |way| {
        let graph = way.record();
        graph.launch().unwrap();
        way.stream.synchronize().unwrap();
        way.free();
        // Memory that is allocated next may have the same address.
        // SAFETY: nobody uses the memory.
        unsafe { result::malloc_host(16, 0) }.unwrap();
        _ = graph.launch();
        fails(way.stream.synchronize(), CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    });
}

#[test]
fn pinned_memory_that_is_waited_for() {
    let waits: [fn(&Way); 5] = [
        |way| way.stream.synchronize().unwrap(),
        |way| way.context.synchronize().unwrap(),
        |way| way.stream.record_event(None).unwrap().synchronize().unwrap(),
        |way| while !way.stream.record_event(None).unwrap().is_complete() {},
        // The event belongs to another stream, which has waited for this one.
        |way| {
            let other = way.context.new_stream().unwrap();
            other.join(&way.stream).unwrap();
            other.synchronize().unwrap();
        },
    ];
    for wait in waits {
        let reports = on_the_way(|way| {
            let graph = way.record();
            for value in 2..5 {
                way.send();
                graph.launch().unwrap();
                wait(way);
                way.write(value);
            }
            way.send();
            assert_eq!(way.stream.clone_dtoh(&way.device).unwrap(), [4; 4]);
            // A copy from the device also changes the memory, but it is not a write by the host.
            way.write(5);
            way.send();
            let (address, _sync) = way.device.device_ptr(&way.stream);
            // SAFETY: the memory is as long as the copy, and belongs to the test.
            unsafe { result::memset_d8_async(address, 0, 16, way.stream.cu_stream()) }.unwrap();
            way.receive();
            way.stream.synchronize().unwrap();
            way.free();
        });
        assert!(reports.iter().all(String::is_empty), "{reports:?}");
    }
}
