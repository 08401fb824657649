//! Older drivers run the same ops: without the functions of later ones, and with images that they
//! can load.

use std::collections::BTreeSet;
use std::process::Command;

use crate::common::cuda::{emulator, own};
use crate::engine_cuda::trains_as_on_the_cpu;
use bagdot::backend::cuda::{DeviceInfo, Gemm, devices, driver_version, image_for, images};
use bagdot::ops::Device;
use bagdot::{Cuda, Error};
use cudarc::driver::sys;

/// The oldest driver, and the oldest one that loads machine code.
const VERSIONS: [u32; 2] = [11_040, 12_000];
/// The documentation with the list of all functions that are called.
const DOCS: &str = include_str!("../../src/backend/cuda/runtime/driver.rs");

/// Tests that look up, update, and replay captured steps.
const TESTS: [&str; 5] = [
    "cuda::an_op_can_be_captured_and_replayed",
    "embedding_bag::cuda::weight_grads",
    "older_drivers_cuda::steps_call_the_functions_of_the_list",
    "older_drivers_cuda::the_driver_is_that_of_the_variable",
    "sparse_update_cuda::a_captured_sort_and_step_is_replayed",
];

/// The stand-in driver of these processes lacks the symbols of later drivers, so that the bindings
/// panic where they need one.
#[test]
fn older_drivers_run_lookups_updates_and_captured_steps() {
    if emulator().is_none() || std::env::var_os("BAGDOT_EMULATE_DRIVER").is_some() {
        return;
    }
    for version in VERSIONS {
        let mut program = Command::new(std::env::current_exe().unwrap());
        program.arg("--exact").args(TESTS).env("BAGDOT_EMULATE_DRIVER", version.to_string());
        let output = program.env("BAGDOT_EMULATE", "1").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        let passed = format!("{} passed", TESTS.len());
        assert!(output.status.success() && said.contains(&passed), "driver {version}:\n{said}");
    }
}

/// Returns whether the loader finds a function in the driver that is loaded.
fn has(function: &str) -> bool {
    // SAFETY: the driver is loaded by now.
    let driver = unsafe { libloading::Library::new("libcuda.so") }.unwrap();
    // SAFETY: nothing calls the function by this type.
    unsafe { driver.get::<extern "C" fn()>(function.as_bytes()) }.is_ok()
}

#[test]
fn the_driver_is_that_of_the_variable() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let asked = std::env::var("BAGDOT_EMULATE_DRIVER").ok().and_then(|text| text.parse().ok());
    let version = asked.unwrap_or(13_000);
    assert_eq!(driver_version(), Ok(version));
    assert_eq!(has("cuEventElapsedTime_v2"), version >= 12_080);
    assert_eq!(has("cuLaunchKernelEx"), version >= 11_080);
    assert!(has("cuGraphInstantiateWithFlags"));
    assert_eq!(alone.report(), "");
}

/// Trains on both drivers in this process, too, where the stand-in driver reports calls of later
/// functions.
#[test]
fn steps_call_the_functions_of_the_list() {
    let Some(emulator) = emulator() else { return };
    let documented: BTreeSet<_> = DOCS
        .lines()
        .filter(|line| line.starts_with("//!"))
        .flat_map(|line| line.split('`'))
        .filter(|word| word.starts_with("cu"))
        .collect();
    for version in VERSIONS {
        let alone = emulator.exclusive();
        alone.set_driver_version(version);
        let cuda = own();
        trains_as_on_the_cpu(&cuda);
        cuda.poll().unwrap();
        cuda.free_memory().unwrap();
        let calls = alone.calls();
        let others: Vec<_> =
            calls.keys().filter(|name| !documented.contains(name.as_str())).collect();
        assert!(others.is_empty(), "the list in driver.rs lacks {others:?}");
        assert!(calls["cuGraphLaunch"] > 0, "{calls:?}");
        drop(cuda);
        assert_eq!(alone.report(), "", "driver {version}");
    }
}

/// The stand-in driver reports images that are later than the driver: `Cuda::new` offers none. It
/// refuses cubins, so that all of a device are offered.
#[test]
fn no_driver_is_offered_an_image_that_it_cannot_load() {
    let Some(emulator) = emulator() else { return };
    for version in [11_040, 11_080, 12_000, 12_080, 12_090, 13_000, 13_010] {
        for capability in [80, 86, 90, 100, 120] {
            let alone = emulator.exclusive();
            alone.set_driver_version(version);
            alone.set_capability(capability);
            drop(own());
            assert_eq!(alone.report(), "", "driver {version}, capability {capability}");
        }
    }
    let alone = emulator.exclusive();
    alone.set_driver_version(12_090);
    let _cuda = own();
    let late = images().into_iter().find(|image| image.driver == (13, 0)).unwrap();
    let mut module = std::ptr::null_mut();
    // SAFETY: the image is a whole cubin, and the call writes one handle.
    let code = unsafe { sys::cuModuleLoadData(&raw mut module, late.contents.as_ptr().cast()) };
    assert_eq!(code, sys::CUresult::CUDA_ERROR_INVALID_IMAGE);
    assert_eq!(alone.report(), "a cubin of CUDA 13 is newer than the driver, of CUDA 12");
}

/// A GPU loads every image for it that its driver may be offered, not only the best one. The
/// stand-in driver takes the PTX and refuses cubins.
#[test]
fn every_image_of_a_device_loads() {
    let alone = emulator().map(|emulator| emulator.exclusive());
    let _cuda = own();
    let (major, minor) = devices().unwrap()[0].capability;
    let exact = format!("{major}{minor}a");
    let targets = [format!("sm_{major}0"), format!("sm_{exact}"), format!("ptx_{exact}")];
    let driver = u32::try_from(driver_version().unwrap()).unwrap();
    let all = images();
    let loadable = all.iter().filter(|image| {
        (image.target == "ptx" || targets.contains(&image.target))
            && image.driver <= (driver / 1000, driver % 1000 / 10)
    });
    for image in loadable {
        let contents = [image.contents, &[0]].concat();
        let mut module = std::ptr::null_mut();
        // SAFETY: the image is whole, and the call writes one handle.
        let code = unsafe { sys::cuModuleLoadData(&raw mut module, contents.as_ptr().cast()) };
        let expected = match alone.is_some() && image.ptx.is_none() {
            true => sys::CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU,
            false => sys::CUresult::CUDA_SUCCESS,
        };
        assert_eq!(code, expected, "{} for {image}", image.stem);
    }
}

/// The stand-in driver has a cuBLASLt of CUDA 13.
#[test]
fn a_cublaslt_that_is_later_than_the_driver_is_left_out() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    alone.set_driver_version(12_080);
    let Err(Error::NoCublasLt { reason }) = Cuda::with_gemm(0, Gemm::CublasLt) else {
        panic!("a driver of CUDA 12 does not run it")
    };
    let late = "libcublasLt.so.13 is of CUDA 13, later than the driver, of CUDA 12";
    assert!(reason.contains(late), "{reason}");
    alone.reset_counters();
    drop(Cuda::with_gemm(0, Gemm::Auto).unwrap());
    assert!(!alone.calls().contains_key("cublasLtCreate"));
    alone.set_driver_version(13_000);
    drop(Cuda::with_gemm(0, Gemm::CublasLt).unwrap());
    assert_eq!(alone.report(), "");
}

#[test]
fn the_image_of_a_device_is_named() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let named = |version, capability| {
        alone.set_driver_version(version);
        alone.set_capability(capability);
        let found: Vec<DeviceInfo> = devices().unwrap();
        image_for(&found[0]).map_or_else(|error| error.to_string(), |image| image.to_string())
    };
    assert_eq!(named(13_000, 90), "sm_90a, CUDA 13.0");
    assert_eq!(named(12_020, 90), "sm_90, CUDA 12.0");
    assert_eq!(named(12_020, 89), "sm_80, CUDA 12.0");
    assert_eq!(named(12_080, 120), "ptx, CUDA 11.0");
    assert_eq!(named(11_080, 90), "ptx, CUDA 11.0");
    assert_eq!(
        named(13_000, 75),
        "GPUs of compute capability 7.5 are not supported: 8.0 is the least; use the CPU"
    );
}
