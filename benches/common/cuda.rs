//! Times on a CUDA device: events around replays of a graph, so that neither launches by the host
//! nor waits for it are counted.

use std::time::Duration;

use bagdot::Cuda;
use bagdot::backend::cuda::Gemm;
use bagdot::nn::ComputePrecision;
use bagdot::ops::Device;
use cudarc::driver::{result, sys};

use super::Timed;

impl Timed for Cuda {
    const NAME: &'static str = "cuda";
    const PRECISIONS: &'static [ComputePrecision] =
        &[ComputePrecision::F32, ComputePrecision::Tf32, ComputePrecision::BF16];

    fn with_each_gemm(&self) -> Vec<(Self, &'static str)> {
        let cublaslt = Cuda::with_gemm(0, Gemm::CublasLt).map(|cuda| (cuda, " cublaslt"));
        [(Cuda::with_gemm(0, Gemm::Own).unwrap(), "")].into_iter().chain(cublaslt).collect()
    }

    fn time(&self, iterations: u64, sets: usize, op: &mut dyn FnMut(usize)) -> Duration {
        let stream: sys::CUstream = self.stream().cast();
        let replays = iterations.div_ceil(sets as u64);
        // SAFETY: the stream is the backend's, with its context bound by the ops that are captured;
        // events, graph and executable are made here, used while they exist, and destroyed once.
        // The buffers of the graph outlive `op`.
        let milliseconds = unsafe {
            let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            result::stream::begin_capture(stream, mode).unwrap();
            (0..sets).for_each(op);
            let graph = result::stream::end_capture(stream).unwrap();
            let flags =
                sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let replay = result::graph::instantiate(graph, flags).unwrap();
            let [start, end] = [(); 2].map(|()| {
                result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT).unwrap()
            });
            result::graph::launch(replay, stream).unwrap();
            result::event::record(start, stream).unwrap();
            (0..replays).for_each(|_| result::graph::launch(replay, stream).unwrap());
            result::event::record(end, stream).unwrap();
            result::stream::synchronize(stream).unwrap();
            // `result::event::elapsed` calls a later function, which drivers before CUDA 12.8 lack.
            let mut milliseconds = 0.0;
            sys::cuEventElapsedTime(&raw mut milliseconds, start, end).result().unwrap();
            result::event::destroy(start).unwrap();
            result::event::destroy(end).unwrap();
            result::graph::exec_destroy(replay).unwrap();
            result::graph::destroy(graph).unwrap();
            milliseconds
        };
        self.synchronize().unwrap();
        Duration::from_secs_f64(f64::from(milliseconds) / 1e3)
            .mul_f64(iterations as f64 / (replays * sets as u64) as f64)
    }
}
