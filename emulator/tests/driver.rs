//! The stand-in driver through cudarc, as through a real driver.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::{Config, Schedule};
use common::compile;
use common::cuda::{DOUBLE, Doubler, context, emulator, fails, launch};
use cudarc::driver::sys::{CUfunction_attribute as F, CUresult};
use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

#[test]
fn a_kernel_runs_through_cudarc() {
    let emulator = emulator();
    for (seed, schedule) in
        (0..6).flat_map(|seed| [(seed, Schedule::Lockstep), (seed, Schedule::Independent)])
    {
        emulator.reset();
        emulator.configure(Config { seed, schedule, ..Config::default() });
        let context = context();
        assert_eq!(context.name().unwrap(), "bagdot emulator");
        assert_eq!(context.compute_capability().unwrap(), (9, 0));
        let doubler = Doubler::new(&context);
        let stream = &doubler.stream;
        let values: Vec<u32> = (0..100).collect();
        let mut data = stream.clone_htod(&values).unwrap();
        doubler.run(&mut data).unwrap();
        doubler.run(&mut data).unwrap();
        let copy = stream.clone_dtod(&data).unwrap();
        assert_eq!(
            stream.clone_dtoh(&copy).unwrap(),
            values.iter().map(|v| 4 * v).collect::<Vec<_>>()
        );
        let zeros = stream.alloc_zeros::<f64>(10).unwrap();
        assert_eq!(stream.clone_dtoh(&zeros).unwrap(), [0.0; 10]);
        let counters = emulator.counters();
        assert_eq!((counters[0].name.as_str(), counters[0].launches), ("double", 2));
        assert_eq!(counters[0].total.global_read, 2 * 400);
        drop((data, copy, zeros));
        stream.synchronize().unwrap();
        assert_eq!(emulator.report(), "");
    }
    emulator.reset();
    assert_eq!(emulator.used_bytes(0), 0);
}

#[test]
fn a_module_of_nvcc_runs_through_cudarc() {
    let _emulator = emulator();
    let context = context();
    let module = context.load_module(Ptx::from_src(compile("correct", "90"))).unwrap();
    let function = module.load_function("reduce_sum").unwrap();
    let stream = context.new_stream().unwrap();
    let x = stream.clone_htod(&[0.5f32; 4096]).unwrap();
    let mut out = stream.alloc_zeros::<f32>(1).unwrap();
    let mut builder = stream.launch_builder(&function);
    builder.arg(&x).arg(&mut out).arg(&1024i32);
    // SAFETY: the arguments are those of the kernel, and x has as many elements.
    unsafe { builder.launch(launch(3, 256)) }.unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [2048.0]);
}

#[test]
fn faults_come_with_the_next_wait_and_stay() {
    let emulator = emulator();
    let codes = [
        ("global_before_buffer", CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, "out of bounds"),
        ("misaligned_vector", CUresult::CUDA_ERROR_MISALIGNED_ADDRESS, "misaligned access"),
        ("missing_barrier_raw", CUresult::CUDA_ERROR_LAUNCH_FAILED, "race in shared memory"),
        ("gives_up", CUresult::CUDA_ERROR_LAUNCH_FAILED, "trap"),
    ];
    for (name, code, text) in codes {
        emulator.reset();
        let context = context();
        let module = context.load_module(Ptx::from_src(compile("planted", "80"))).unwrap();
        let function = module.load_function(name).unwrap();
        let stream = context.new_stream().unwrap();
        let x = stream.clone_htod(&vec![0f32; 1024]).unwrap();
        let mut out = stream.alloc_zeros::<f32>(128).unwrap();
        stream.synchronize().unwrap();
        let mut builder = stream.launch_builder(&function);
        builder.arg(&x).arg(&mut out);
        // SAFETY: a wrong access of the kernel is to the emulator's memory, which checks it.
        let launched = unsafe { builder.launch(launch(1, 128)) }.map(|_| ());
        fails(launched.and_then(|()| stream.synchronize()), code);
        fails(stream.clone_htod(&[1u8]), code);
        fails(context.synchronize(), code);
        let report = emulator.report();
        assert!(
            report.starts_with(text) && report.contains(name) && report.contains("planted.cu:"),
            "{report}"
        );
    }
}

#[test]
fn what_is_refused_at_once() {
    let emulator = emulator();
    let context = context();
    let doubler = Doubler::new(&context);
    let mut data = doubler.stream.clone_htod(&[1u32; 64]).unwrap();
    for config in [launch(0, 64), launch(1, 0), launch(1, 2048)] {
        let mut builder = doubler.stream.launch_builder(&doubler.function);
        builder.arg(&mut data).arg(&64u32);
        // SAFETY: the arguments are those of the kernel.
        fails(unsafe { builder.launch(config) }, CUresult::CUDA_ERROR_INVALID_VALUE);
    }
    // More shared memory than a kernel may have without opting in.
    let large = LaunchConfig { shared_mem_bytes: 60 << 10, ..launch(1, 64) };
    for allowed in [false, true] {
        if allowed {
            let attribute = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            doubler.function.set_attribute(attribute, 60 << 10).unwrap();
        }
        let mut builder = doubler.stream.launch_builder(&doubler.function);
        builder.arg(&mut data).arg(&64u32);
        // SAFETY: the arguments are those of the kernel.
        let launched = unsafe { builder.launch(large) }.map(|_| ());
        if allowed {
            launched.unwrap()
        } else {
            fails(launched, CUresult::CUDA_ERROR_INVALID_VALUE)
        }
    }
    let bounded = context.load_module(Ptx::from_src(compile("correct", "80"))).unwrap();
    let bounded = bounded.load_function("interact_bf16").unwrap();
    let mut builder = doubler.stream.launch_builder(&bounded);
    builder.arg(&data).arg(&data).arg(&4i32).arg(&16i32);
    // SAFETY: the launch is refused, since 256 threads are more than the bounds of the kernel.
    fails(unsafe { builder.launch(launch(1, 256)) }, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    // A refusal leaves the context usable.
    doubler.run(&mut data).unwrap();
    assert_eq!(doubler.stream.clone_dtoh(&data).unwrap(), [4; 64]);
    assert!(emulator.report().contains("without cuFuncSetAttribute"));
    let (blocks, threads) = (
        doubler.function.occupancy_max_active_blocks_per_multiprocessor(256, 0, None).unwrap(),
        bounded.occupancy_max_active_blocks_per_multiprocessor(128, 100 << 10, None).unwrap(),
    );
    assert_eq!((blocks, threads), (8, 2));
}

#[test]
fn images_that_do_not_fit() {
    let emulator = emulator();
    let context = context();
    let load = |text: &str| context.load_module(Ptx::from_src(text)).map(|_| ());
    fails(load("\u{7f}ELF is machine code"), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    fails(load("no PTX"), CUresult::CUDA_ERROR_INVALID_IMAGE);
    fails(
        load(&DOUBLE.replace("ld.param.u32 %r1", "ld.param.u32 %r77")),
        CUresult::CUDA_ERROR_INVALID_PTX,
    );
    assert!(
        emulator.report().contains("PTX line 11: ld.param.u32 %r77, [n]: unknown register %r77"),
        "{}",
        emulator.report()
    );
    fails(load(&DOUBLE.replace("sm_80", "sm_120")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    for (driver, newest, refused) in [
        (12_040, "8.4", "9.0"),
        (12_080, "8.7", "8.8"),
        (12_050, "8.5", "8.6"),
        (11_040, "7.4", "7.5"),
    ] {
        emulator.reset();
        emulator.set_driver_version(driver);
        let context = self::context();
        let load = |version: &str| {
            let text = DOUBLE.replace(".version 9.0", &format!(".version {version}"));
            context.load_module(Ptx::from_src(text)).map(|_| ())
        };
        fails(load(refused), CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
        let said = format!("PTX {refused} is newer than {newest}, the newest of the driver");
        assert_eq!(emulator.report(), said);
        load(newest).unwrap();
    }
    emulator.reset();
    emulator.set_driver_version(13_000);
    let context = self::context();
    emulator.set_capability(120);
    load(&DOUBLE.replace("sm_80", "sm_120")).unwrap();
    // PTX for 9.0a is for 9.0 alone.
    fails(load(&DOUBLE.replace("sm_80", "sm_90a")), CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
    assert_eq!(emulator.report(), "PTX for sm_90a does not run on sm_120");
    let module = context.load_module(Ptx::from_src(DOUBLE)).unwrap();
    fails(module.load_function("triple"), CUresult::CUDA_ERROR_NOT_FOUND);
    // An unknown opcode is an error of the kernel that executes it.
    let odd = DOUBLE.replace("add.s32 %r5, %r5, %r5;", "tcgen05.frobnicate.b32 %r5, %r5;");
    let module = context.load_module(Ptx::from_src(odd)).unwrap();
    let stream = context.new_stream().unwrap();
    let mut data = stream.clone_htod(&[1u32; 4]).unwrap();
    let function = module.load_function("double").unwrap();
    let mut builder = stream.launch_builder(&function);
    builder.arg(&mut data).arg(&4u32);
    // SAFETY: the arguments are those of the kernel.
    let launched = unsafe { builder.launch(launch(1, 32)) }.map(|_| ());
    fails(launched.and_then(|()| stream.synchronize()), CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION);
    assert!(
        emulator.report().contains("does not know tcgen05.frobnicate.b32"),
        "{}",
        emulator.report()
    );
}

#[test]
fn devices_and_memory_run_out() {
    let emulator = emulator();
    emulator.set_devices(0);
    fails(CudaContext::new(0), CUresult::CUDA_ERROR_NO_DEVICE);
    emulator.set_devices(2);
    assert_eq!(CudaContext::device_count().unwrap(), 2);
    fails(CudaContext::new(2), CUresult::CUDA_ERROR_INVALID_DEVICE);
    let second = CudaContext::new(1).unwrap();
    let stream = second.new_stream().unwrap();
    let data = stream.clone_htod(&[3u8; 16]).unwrap();
    assert_eq!(
        (stream.clone_dtoh(&data).unwrap(), emulator.used_bytes(0), emulator.used_bytes(1)),
        (vec![3; 16], 0, 16)
    );
    drop(data);

    emulator.set_devices(1);
    emulator.set_memory(1 << 20);
    let context = context();
    let stream = context.new_stream().unwrap();
    assert_eq!(context.mem_get_info().unwrap(), (1 << 20, 1 << 20));
    let most = stream.alloc_zeros::<u8>(1 << 20).unwrap();
    fails(stream.alloc_zeros::<u8>(1), CUresult::CUDA_ERROR_OUT_OF_MEMORY);
    // Allocating succeeds after a free, although the free still waits in the stream.
    drop(most);
    stream.alloc_zeros::<u8>(1 << 19).unwrap();
    stream.synchronize().unwrap();
    assert_eq!(emulator.used_bytes(0), 0);
}

#[test]
fn host_misuse_is_reported() {
    let emulator = emulator();
    let context = context();
    let stream = context.new_stream().unwrap();
    let data = stream.clone_htod(&[1u32; 4]).unwrap();
    let (address, _sync) = cudarc::driver::DevicePtr::device_ptr(&data, &stream);
    let mut bytes = [0u8; 32];
    // SAFETY: the emulator refuses the copy before it touches the slice.
    let copied = unsafe { cudarc::driver::result::memcpy_dtoh_sync(&mut bytes, address) };
    fails(copied, CUresult::CUDA_ERROR_INVALID_VALUE);
    assert!(
        emulator.report().contains("32 bytes at offset 0 of an allocation of 16 bytes"),
        "{}",
        emulator.report()
    );
}

#[test]
fn every_function_that_cudarc_calls_is_there() {
    // cudarc panics at a missing symbol, even if the caller handles errors.
    let names = include_str!("common/functions_of_cudarc.txt");
    let library = bagdot_emulator::library_path();
    let bytes = std::fs::read(library).unwrap();
    let missing = |name: &&str| {
        let entry = [b"\0", name.as_bytes(), b"\0"].concat();
        !bytes.windows(entry.len()).any(|window| window == entry)
    };
    assert_eq!(names.lines().filter(missing).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(names.lines().count() > 80);
}

#[test]
fn limits_are_those_of_the_device() {
    let emulator = emulator();
    for (capability, most, threads) in
        [(80, 163 << 10, 2048), (90, 227 << 10, 2048), (120, 99 << 10, 1536)]
    {
        emulator.reset();
        emulator.set_capability(capability);
        let context = context();
        let doubler = Doubler::new(&context);
        use cudarc::driver::sys::CUdevice_attribute as A;
        let attribute = |which| context.attribute(which).unwrap();
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN), most);
        assert_eq!(attribute(A::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR), threads);
        let f = &doubler.function;
        let dynamic = F::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        f.set_attribute(dynamic, most).unwrap();
        fails(f.set_attribute(dynamic, most + 1), CUresult::CUDA_ERROR_INVALID_VALUE);
        let resident = |threads, shared| {
            f.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None).unwrap()
        };
        assert_eq!(resident(512, 0), threads as u32 / 512);
        assert_eq!((resident(32, most as usize), resident(32, most as usize + 1)), (1, 0));
        let left = f.occupancy_available_dynamic_smem_per_block(2, 64).unwrap();
        assert_eq!((resident(64, left), resident(64, left + 256)), (2, 1));
        extern "C" fn none(_threads: i32) -> usize {
            0
        }
        let (_, block) = f.occupancy_max_potential_block_size(none, 0, 0, None).unwrap();
        assert_eq!(block, if threads == 1536 { 768 } else { 1024 });
    }
}

#[test]
fn an_error_stays_with_its_device() {
    let emulator = emulator();
    emulator.set_devices(2);
    for seed in 0..10 {
        emulator.reset();
        emulator.configure(Config { seed, ..Config::default() });
        let contexts = [0, 1].map(|ordinal| CudaContext::new(ordinal).unwrap());
        let doublers = contexts.each_ref().map(Doubler::new);
        let mut bad = doublers[0].stream.clone_htod(&[1u32; 8]).unwrap();
        let mut good = doublers[1].stream.clone_htod(&[1u32; 8]).unwrap();
        contexts[0].bind_to_thread().unwrap();
        let mut builder = doublers[0].stream.launch_builder(&doublers[0].function);
        builder.arg(&mut bad).arg(&9u32);
        // SAFETY: the kernel accesses one element too many, which the emulator reports.
        let launched = unsafe { builder.launch(launch(1, 32)) }.map(|_| ());
        for _ in 0..4 {
            doublers[1].run(&mut good).unwrap();
        }
        assert_eq!(doublers[1].stream.clone_dtoh(&good).unwrap(), [16; 8]);
        fails(
            launched.and_then(|()| doublers[0].stream.synchronize()),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        );
        assert_eq!(doublers[1].stream.clone_dtoh(&good).unwrap(), [16; 8]);
    }
}

#[test]
fn each_test_has_its_own() {
    let outer = emulator();
    outer.set_memory(1 << 20);
    let ended = context();
    let other = std::thread::spawn(|| {
        let inner = emulator();
        assert_eq!(context().mem_get_info().unwrap().1, 16 << 30);
        let doubler = Doubler::new(&context());
        let mut data = doubler.stream.clone_htod(&[1u32; 8]).unwrap();
        let mut builder = doubler.stream.launch_builder(&doubler.function);
        builder.arg(&mut data).arg(&9u32);
        // SAFETY: the kernel accesses one element too many, which the emulator reports.
        let launched = unsafe { builder.launch(launch(1, 32)) }.map(|_| ());
        fails(
            launched.and_then(|()| doubler.stream.synchronize()),
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
        );
        assert!(inner.report().contains("out of bounds"));
    });
    other.join().unwrap();
    // The other test has left no trace here, and a thread that is given a context belongs to the
    // test of the context.
    assert_eq!((outer.report().as_str(), ended.mem_get_info().unwrap().1), ("", 1 << 20));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            ended.bind_to_thread().unwrap();
            assert_eq!(ended.mem_get_info().unwrap().1, 1 << 20);
        });
    });
    drop(outer);
    fails(ended.bind_to_thread(), CUresult::CUDA_ERROR_INVALID_CONTEXT);
}
