//! CUDA devices for tests: a real one where there is one, else the emulator.
//!
//! On the emulator a test runs once for each of several schedules, with all checks on: bounds,
//! alignment, uninitialised memory, races, barriers.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bagdot::backend::cuda::{Gemm, images};
use bagdot::{Cuda, Error};
use bagdot_emulator::{Config, Emulator, Schedule};
use cudarc::driver::{result, sys};

/// Returns the emulator, unless a real device is to be used (`BAGDOT_REQUIRE_CUDA=1` makes a
/// missing one a failure).
pub fn emulator() -> Option<&'static Emulator> {
    bagdot_emulator::install().unwrap()
}

/// Runs a test on a device: on the emulator with warps in two random orders, and with lanes that
/// run independently. The second order is that of a device of 8.0, which runs the PTX that ships;
/// the others run the PTX of which the machine code for 9.0 is made.
pub fn on_every_schedule(test: impl Fn(&Cuda)) {
    run(Config::default(), test);
}

/// Runs a test as [`on_every_schedule`] does, but without the check for races: for tests that pass
/// offsets by which bags overlap. Threads then write to one place in either order; nobody may use
/// the value, since the call reports an error.
pub fn on_every_schedule_with_overlaps(test: impl Fn(&Cuda)) {
    run(Config { races: false, ..Config::default() }, test);
}

/// Returns a device on which bagdot's own kernels compute everything.
pub fn own() -> Cuda {
    Cuda::with_gemm(0, Gemm::Own).unwrap()
}

/// Returns a device on which cuBLASLt computes the products of layers, unless this machine has a
/// real device and no cuBLASLt.
pub fn with_cublaslt() -> Option<Cuda> {
    if !kernels_are_built() {
        return None;
    }
    match Cuda::with_gemm(0, Gemm::CublasLt) {
        Err(Error::NoCublasLt { .. }) if emulator().is_none() => None,
        made => Some(made.unwrap()),
    }
}

/// Returns whether there are kernels to test. Without nvcc there are none: the first test that asks
/// fails and says what to run, and the others are left out, since all of them would fail alike.
fn kernels_are_built() -> bool {
    static ARE_BUILT: LazyLock<bool> = LazyLock::new(|| !images().is_empty());
    static HAS_FAILED: AtomicBool = AtomicBool::new(false);
    if !*ARE_BUILT && !HAS_FAILED.swap(true, Ordering::Relaxed) {
        panic!(
            "the CUDA backend was built without kernels, so that its tests are left out: run \
             scripts/nvcc.sh, which installs nvcc into .cuda/, then run the tests again"
        );
    }
    *ARE_BUILT
}

fn run(config: Config, test: impl Fn(&Cuda)) {
    if !kernels_are_built() {
        return;
    }
    let Some(emulator) = emulator() else {
        return test(&own());
    };
    let schedules =
        [(1, Schedule::Lockstep, 90), (2, Schedule::Lockstep, 80), (3, Schedule::Independent, 90)];
    for (seed, schedule, capability) in schedules {
        let alone = emulator.exclusive();
        alone.configure(Config { seed, schedule, ..config });
        alone.set_capability(capability);
        test(&own());
        assert_eq!(alone.report(), "", "what the emulator found with seed {seed}, {schedule:?}");
    }
}

/// A CUDA graph of captured ops.
pub struct Graph {
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
    stream: sys::CUstream,
}

/// Captures the launches of `ops` on the backend's stream. The buffers to which they refer must
/// outlive the graph.
pub fn capture(cuda: &Cuda, ops: impl FnOnce()) -> Graph {
    let stream: sys::CUstream = cuda.stream().cast();
    let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    // SAFETY: the stream is the backend's; graph and executable are destroyed once, by `drop`.
    unsafe {
        result::stream::begin_capture(stream, mode).unwrap();
        ops();
        let graph = result::stream::end_capture(stream).unwrap();
        Graph { graph, executable: result::graph::instantiate(graph, flags).unwrap(), stream }
    }
}

impl Graph {
    pub fn replay(&self) {
        // SAFETY: the executable has been instantiated, and the buffers to which it refers exist,
        // as `capture` demands of its caller.
        unsafe { result::graph::launch(self.executable, self.stream).unwrap() };
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: both were made by `capture`, and are destroyed nowhere else.
        unsafe {
            result::graph::exec_destroy(self.executable).unwrap();
            result::graph::destroy(self.graph).unwrap();
        }
    }
}
