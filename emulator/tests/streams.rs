//! Streams, events and captures of the stand-in driver, through cudarc.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bagdot_emulator::Config;
use common::cuda::{DOUBLE, Doubler, context, emulator, fails};
use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUevent_flags, CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::nvrtc::Ptx;

const GLOBAL: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

#[test]
fn streams_and_events() {
    let emulator = emulator();
    let (mut too_early, mut seen) = (0, 0);
    for seed in 0..40 {
        emulator.reset();
        emulator.configure(Config { seed, ..Config::default() });
        let context = context();
        let doubler = Doubler::new(&context);
        let (a, b) = (&doubler.stream, context.new_stream_with_priority(-1).unwrap());
        let mut data = a.clone_htod(&[1u32; 64]).unwrap();
        a.synchronize().unwrap();
        doubler.run(&mut data).unwrap();
        let event = a.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        // Without the wait, the second stream may run first.
        if seed % 2 == 0 {
            seen += u32::from(event.is_complete());
            // The event of `join` is destroyed while the stream waits for it.
            if seed % 4 == 0 { b.wait(&event).unwrap() } else { b.join(a).unwrap() }
        }
        // SAFETY: all bits are a valid u32.
        let mut copy = unsafe { b.alloc::<u32>(64) }.unwrap();
        b.memcpy_dtod(&data, &mut copy).unwrap();
        let got = b.clone_dtoh(&copy).unwrap();
        if seed % 2 == 0 {
            assert_eq!(got, [2; 64]);
        } else {
            too_early += u32::from(got == [1; 64]);
        }
        event.synchronize().unwrap();
        let end = a.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).unwrap();
        a.synchronize().unwrap();
        assert!(event.elapsed_ms(&end).unwrap() > 0.0);
        // By default cudarc makes events without timing.
        let untimed = a.record_event(None).unwrap();
        a.synchronize().unwrap();
        fails(event.elapsed_ms(&untimed), CUresult::CUDA_ERROR_INVALID_HANDLE);
        // SAFETY: all bits are a valid u32.
        let mut pinned = unsafe { context.alloc_pinned::<u32>(64) }.unwrap();
        a.memcpy_dtoh(&data, &mut pinned).unwrap();
        // Without event tracking, only the program waits for a copy to pinned memory.
        a.synchronize().unwrap();
        assert_eq!(pinned.as_slice().unwrap(), [2; 64]);
    }
    assert!(too_early > 0 && seen > 0 && seen < 20, "{too_early} {seen}");
}

#[test]
fn capture_and_replay() {
    let emulator = emulator();
    for seed in 0..10 {
        emulator.reset();
        emulator.configure(Config { seed, ..Config::default() });
        let context = context();
        let doubler = Doubler::new(&context);
        let (a, b) = (&doubler.stream, context.new_stream().unwrap());
        let mut left = a.clone_htod(&[1u32; 64]).unwrap();
        let mut right = a.clone_htod(&[10u32; 64]).unwrap();
        let mut sum = a.alloc_zeros::<u32>(64).unwrap();
        a.synchronize().unwrap();
        a.begin_capture(GLOBAL).unwrap();
        // The capture forks, does work on both streams, and joins them.
        b.join(a).unwrap();
        doubler.run(&mut left).unwrap();
        doubler.run_on(&b, &mut right).unwrap();
        doubler.run_on(&b, &mut right).unwrap();
        a.join(&b).unwrap();
        a.memset_zeros(&mut sum).unwrap();
        a.memcpy_dtod(&right, &mut sum).unwrap();
        doubler.run(&mut sum).unwrap();
        let graph = a.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
        // Captured work has not been done yet.
        assert_eq!(a.clone_dtoh(&left).unwrap(), [1; 64]);
        for _ in 0..3 {
            graph.launch().unwrap();
        }
        assert_eq!(a.clone_dtoh(&left).unwrap(), [8; 64]);
        assert_eq!(a.clone_dtoh(&sum).unwrap(), [2 * 640; 64]);
        assert_eq!(emulator.counters()[0].launches, 12);
    }
}

#[test]
fn branches_of_a_graph_that_race() {
    let emulator = emulator();
    for seed in 0..10 {
        for is_joined in [true, false] {
            emulator.reset();
            emulator.configure(Config { seed, ..Config::default() });
            let context = context();
            let doubler = Doubler::new(&context);
            let (a, b) = (&doubler.stream, context.new_stream().unwrap());
            let mut data = a.clone_htod(&[1u32; 64]).unwrap();
            a.synchronize().unwrap();
            a.begin_capture(GLOBAL).unwrap();
            b.join(a).unwrap();
            doubler.run_on(&b, &mut data).unwrap();
            // The missing join is planted.
            if is_joined {
                a.join(&b).unwrap();
            }
            doubler.run(&mut data).unwrap();
            a.join(&b).unwrap();
            let graph = a.end_capture(CUgraphInstantiate_flags(0)).unwrap().unwrap();
            let launched = graph.launch();
            if is_joined {
                launched.unwrap();
                assert_eq!(a.clone_dtoh(&data).unwrap(), [4; 64], "seed {seed}");
            } else {
                // The call that launches the graph may find the race, or a later one.
                let found = launched.and_then(|()| a.synchronize());
                fails(found, CUresult::CUDA_ERROR_LAUNCH_FAILED);
            }
        }
    }
}

#[test]
fn what_a_capture_refuses() {
    let emulator = emulator();
    let unsupported = CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    let invalidated = CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    let context = context();
    let doubler = Doubler::new(&context);
    let (a, b) = (&doubler.stream, context.new_stream().unwrap());
    let mut data = a.clone_htod(&[1u32; 64]).unwrap();
    let outside = b.record_event(None).unwrap();
    context.synchronize().unwrap();
    fails(context.default_stream().begin_capture(GLOBAL), unsupported);

    // Each of these calls makes the capture invalid, and all later work in the stream is refused.
    type Attempt<'a> = &'a dyn Fn() -> Result<(), DriverError>;
    let attempts: [(&str, CUresult, Attempt<'_>); 6] = [
        ("synchronize", unsupported, &|| a.synchronize()),
        ("context", unsupported, &|| context.synchronize()),
        ("cuMemAlloc", unsupported, &|| {
            // SAFETY: the allocation is refused.
            unsafe { cudarc::driver::result::malloc_sync(64) }.map(|_| ())
        }),
        // SAFETY: the allocation is refused.
        ("pinned", unsupported, &|| unsafe { context.alloc_pinned::<u8>(64) }.map(|_| ())),
        ("module", unsupported, &|| context.load_module(Ptx::from_src(DOUBLE)).map(|_| ())),
        ("foreign event", CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION, &|| a.wait(&outside)),
    ];
    for (what, code, attempt) in attempts {
        a.begin_capture(GLOBAL).unwrap();
        doubler.run(&mut data).unwrap();
        let got = attempt().expect_err(what).0;
        assert_eq!(got, code, "{what}");
        fails(doubler.run(&mut data), invalidated);
        fails(a.end_capture(CUgraphInstantiate_flags(0)), invalidated);
    }
    // The relaxed mode allows memory to be allocated.
    a.begin_capture(RELAXED).unwrap();
    // SAFETY: freed below, and never read.
    let address = unsafe { cudarc::driver::result::malloc_sync(64) }.unwrap();
    // The host cannot wait for an event of the capture.
    let inside = a.record_event(None).unwrap();
    fails(inside.synchronize(), CUresult::CUDA_ERROR_CAPTURED_EVENT);
    a.end_capture(CUgraphInstantiate_flags(0)).unwrap();
    // SAFETY: it was allocated above.
    unsafe { cudarc::driver::result::free_sync(address) }.unwrap();

    // A stream that was drawn into a capture must be joined again.
    a.begin_capture(GLOBAL).unwrap();
    b.join(a).unwrap();
    doubler.run_on(&b, &mut data).unwrap();
    fails(a.end_capture(CUgraphInstantiate_flags(0)), CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED);
    // A capture must end in the stream where it began.
    a.begin_capture(GLOBAL).unwrap();
    b.join(a).unwrap();
    fails(
        b.end_capture(CUgraphInstantiate_flags(0)),
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
    );
    fails(a.end_capture(CUgraphInstantiate_flags(0)), invalidated);

    // The legacy stream would wait for all blocking streams, and cannot wait for a captured one.
    let kind = cudarc::driver::result::stream::StreamKind::Default;
    let raw = cudarc::driver::result::stream::create(kind).unwrap();
    // SAFETY: the stream lives until the end of the test.
    unsafe { cudarc::driver::result::stream::begin_capture(raw, GLOBAL) }.unwrap();
    let legacy = context.default_stream();
    fails(doubler.run_on(&legacy, &mut data), CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    // SAFETY: as above.
    fails(unsafe { cudarc::driver::result::stream::end_capture(raw) }, invalidated);

    // The context is still usable after all of this.
    doubler.run(&mut data).unwrap();
    assert_eq!(a.clone_dtoh(&data).unwrap(), [2; 64]);
    assert_eq!(emulator.report(), "");
}
