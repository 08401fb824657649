//! Access to the stand-in driver through cudarc.

use std::sync::Arc;

use bagdot_emulator::{Exclusive, install};
use cudarc::driver::sys::CUresult;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;

/// Returns an emulator for this test alone, in its initial state.
pub(crate) fn emulator() -> Exclusive {
    install()
        .unwrap()
        .expect("these tests are about the emulator: set BAGDOT_EMULATE=1")
        .exclusive()
}

pub(crate) fn context() -> Arc<CudaContext> {
    let context = CudaContext::new(0).unwrap();
    // SAFETY: every test orders its streams itself.
    unsafe { context.disable_event_tracking() };
    context
}

pub(crate) fn launch(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

#[track_caller]
pub(crate) fn fails<T>(result: Result<T, DriverError>, code: CUresult) {
    match result {
        Ok(_) => panic!("{code:?} expected"),
        Err(DriverError(got)) => assert_eq!(got, code),
    }
}

/// A kernel that doubles an array of u32.
pub(crate) const DOUBLE: &str = "
.version 9.0
.target sm_80
.address_size 64
.global .align 4 .u32 launches = 7;
.visible .entry double(.param .u64 p, .param .u32 n)
{
    .reg .pred %p<2>;
    .reg .b32 %r<6>;
    .reg .b64 %d<3>;
    ld.param.u32 %r1, [n];
    mov.u32 %r2, %ctaid.x;
    mov.u32 %r3, %ntid.x;
    mov.u32 %r4, %tid.x;
    mad.lo.s32 %r2, %r2, %r3, %r4;
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra DONE;
    ld.param.u64 %d1, [p];
    mul.wide.u32 %d2, %r2, 4;
    add.s64 %d1, %d1, %d2;
    ld.global.u32 %r5, [%d1];
    add.s32 %r5, %r5, %r5;
    st.global.u32 [%d1], %r5;
DONE:
    ret;
}";

pub(crate) struct Doubler {
    pub(crate) stream: Arc<CudaStream>,
    pub(crate) function: CudaFunction,
}

impl Doubler {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Self {
        let module = context.load_module(Ptx::from_src(DOUBLE)).unwrap();
        Self {
            stream: context.new_stream().unwrap(),
            function: module.load_function("double").unwrap(),
        }
    }

    pub(crate) fn run_on(
        &self,
        stream: &Arc<CudaStream>,
        data: &mut CudaSlice<u32>,
    ) -> Result<(), DriverError> {
        let n = data.len() as u32;
        let mut builder = stream.launch_builder(&self.function);
        builder.arg(data).arg(&n);
        // SAFETY: the arguments are those of the kernel, and it checks its index.
        unsafe { builder.launch(launch(n.div_ceil(64), 64)) }.map(|_| ())
    }

    pub(crate) fn run(&self, data: &mut CudaSlice<u32>) -> Result<(), DriverError> {
        self.run_on(&self.stream, data)
    }
}
