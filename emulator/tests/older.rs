//! An old driver lacks the functions of later ones. This is a test program of its own, since a
//! process has one stand-in driver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;

use bagdot_emulator::install;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUresult};
use libloading::os::unix::Library;

const VARIABLE: &str = "BAGDOT_EMULATE_DRIVER";

/// Returns whether the loader finds a function in the driver.
fn has(function: &str) -> bool {
    // SAFETY: the stand-in driver is loaded, and has no initialisers.
    let driver = unsafe { Library::new("libcuda.so") }.unwrap();
    // SAFETY: nothing calls the function by this type.
    unsafe { driver.get::<extern "C" fn()>(function.as_bytes()) }.is_ok()
}

/// Runs a test of this program by itself on a driver of a version.
fn on_driver(version: &str, test: &str) {
    let mut program = Command::new(std::env::current_exe().unwrap());
    let output = program.args([test, "--exact", "--ignored"]).env(VARIABLE, version).output();
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{version}: {said}");
}

#[test]
fn symbols_of_later_drivers_are_missing() {
    for version in ["11030", "12000", "12080"] {
        on_driver(version, "symbols_are_those_of_the_driver");
    }
}

#[test]
#[ignore = "run by the test above, on a driver of its choice"]
fn symbols_are_those_of_the_driver() {
    let version: i32 = std::env::var(VARIABLE).unwrap().parse().unwrap();
    let alone = install().unwrap().expect("the emulator").exclusive();
    assert!(has("cuInit") && has("cuEventElapsedTime"));
    assert_eq!(has("cuGraphInstantiateWithFlags"), version >= 11_040);
    assert_eq!(has("cuCtxSetFlags"), version >= 12_010);
    assert_eq!(has("cuEventElapsedTime_v2"), version >= 12_080);
    let context = CudaContext::new(0).unwrap();
    let mut reported = 0;
    // SAFETY: the call writes one integer.
    unsafe { sys::cuDriverGetVersion(&mut reported) }.result().unwrap();
    assert_eq!(reported, version);
    context.new_stream().unwrap().synchronize().unwrap();
    assert_eq!(alone.report(), "");
}

/// In a process whose bindings know a function by now, an old driver refuses to be called.
#[test]
fn calls_of_later_functions_are_reported() {
    let alone = install().unwrap().expect("the emulator").exclusive();
    let context = CudaContext::new(0).unwrap();
    context.set_flags(sys::CUctx_flags::CU_CTX_SCHED_AUTO).unwrap();
    alone.set_driver_version(12_000);
    let refused = context.set_flags(sys::CUctx_flags::CU_CTX_SCHED_AUTO).unwrap_err();
    assert_eq!(refused.0, CUresult::CUDA_ERROR_NOT_FOUND);
    assert_eq!(alone.report(), "cuCtxSetFlags is called, which the driver of version 12000 lacks");
}

/// The headers of cubins: the ABI of CUDA 13, and that of earlier ones with their release.
#[test]
fn cubins_of_later_toolkits_are_reported() {
    let alone = install().unwrap().expect("the emulator").exclusive();
    let _context = CudaContext::new(0).unwrap();
    let load = |abi: u8, release: u8| {
        let mut image = [0u8; 64];
        image[..4].copy_from_slice(b"\x7fELF");
        (image[8], image[20]) = (abi, release);
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is a whole ELF header, and the call writes one handle.
        unsafe { sys::cuModuleLoadData(&raw mut module, image.as_ptr().cast()) }
    };
    for (driver, abi, release, fits) in [
        (13_000, 8, 1, true),
        (12_090, 8, 1, false),
        (12_000, 7, 120, true),
        (11_080, 7, 120, false),
    ] {
        alone.reset();
        alone.set_driver_version(driver);
        let _context = CudaContext::new(0).unwrap();
        let (code, reports) = match fits {
            true => (CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU, 0),
            false => (CUresult::CUDA_ERROR_INVALID_IMAGE, 1),
        };
        assert_eq!(load(abi, release), code, "{driver}");
        assert_eq!(alone.report().matches("is newer than the driver").count(), reports);
    }
}
