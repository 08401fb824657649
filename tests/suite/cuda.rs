//! Tests of features that only the CUDA backend has: parameters of kernels, images, errors of the
//! driver, streams, graphs, memory of the caller, memory traffic.

use std::collections::BTreeSet;

use crate::common::cuda::{capture, emulator, on_every_schedule, own};
use crate::common::*;
use bagdot::backend::cuda::{Gemm, KernelInfo, driver_version, images, kernels};
use bagdot::ops::embedding_bag::{EmbeddingBagOps, Forward};
use bagdot::ops::{Bags, Device, MatrixMut, Pooling, View, ViewMut};
use bagdot::{Cpu, Cuda, Error};

/// A batch whose rows are `dim` elements long, with `length` ids in each of its bags.
fn case(dim: usize, length: usize) -> BagCase {
    let tables = [(500, dim), (300, dim)];
    let features = [feature(0, Pooling::Sum), feature(1, Pooling::Mean)];
    BagCase::new(
        format!("D = {dim}, L = {length}"),
        (&tables, &features),
        &[length; 2 * 64],
        |random, rows| random.below(rows),
    )
}

/// The pooled output on any device.
fn pool<B: EmbeddingBagOps>(device: &B, case: &BagCase) -> Vec<f32> {
    case.pool::<B, i64>(device, &case.weights::<f32>())
}

#[path = "../../build/params.rs"]
mod params;

/// A twin has the fields of its declaration, and both compilers check where they lie; text that is
/// not understood is refused.
#[test]
fn declarations_have_twins_or_are_refused() {
    let generate = |header: &str, kernel: &str| {
        let source = |text: &str| params::Source { stem: "x".into(), text: text.into() };
        params::generate(&[source(header)], &[source(kernel)])
    };
    let header = "constexpr int kLen = 2;\ntemplate <typename E>\nstruct X {\n  const E* from;\n  \
                  float to[kLen];\n  uint64_t len;\n};\n";
    let kernel = "void x_run_##E(\\\n    const __grid_constant__ X<E> p) {";
    let generated = generate(header, kernel).unwrap();
    for part in [
        "pub(crate) const LEN: usize = 2;",
        "pub(crate) struct X<E> {",
        "pub(crate) from: Ptr<E>,",
        "pub(crate) to: [f32; LEN],",
        "assert!(size_of::<X<()>>() == 24 && align_of::<X<()>>() == 8);",
        "assert!(std::mem::offset_of!(X<()>, len) == 16);",
        "const NAME: &'static str = \"x_run\";",
        "KernelInfo::of::<x::X<()>>(),",
    ] {
        assert!(generated.rust.contains(part), "{part} is not in\n{}", generated.rust);
    }
    let [(stem, checks)] = &generated.checks[..] else { panic!("one header, one check") };
    assert_eq!(stem, "x");
    assert!(checks.contains("static_assert(offsetof(XChecked, len) == 16, \"\");"), "{checks}");
    for (header, reason) in [
        (
            "struct X {\n  uint32_t f();\n};\n",
            "kernels/params/x.cuh:2: not understood: uint32_t f();",
        ),
        ("class X {\n};\n", "kernels/params/x.cuh:1: not understood: class X {"),
        ("struct X {\n  Y y;\n};\n", "kernels/params: X: a field has no known type"),
        ("constexpr int kX = 1;\n", "kernels/params declares no X, which a kernel takes"),
    ] {
        assert_eq!(generate(header, kernel).map(|_| ()), Err(reason.to_owned()));
    }
}

#[path = "../../build/ptx.rs"]
mod ptx;

/// The version of PTX is lowered, and what is later than it is left out; text that is not
/// understood is refused.
#[test]
fn ptx_is_lowered_or_refused() {
    let text = |version: &str, pragmas: &str, loc: &str| {
        format!(
            "// made by nvcc\n.version {version}\n.target sm_80\n.entry a(\n)\n.maxntid 8\n\
             .minnctapersm 2\n{{\n\t{loc}\n{pragmas}\tret;\n}}\n"
        )
    };
    let (unroll, mask) = ("\t.pragma \"nounroll\";\n", "\t.pragma \"used_bytes_mask 15\";\n");
    let (short, long) = (".loc 1 2 3", ".loc 1 2 3, function_name $L, inlined_at 1 5 7");
    let given = text("9.0", &[mask, unroll].concat(), long);
    assert_eq!(ptx::at_version(&given, (7, 0)), Ok(text("7.0", unroll, short)));
    assert_eq!(ptx::at_version(&given, (8, 0)), Ok(text("8.0", unroll, long)));
    assert_eq!(ptx::without_callers(&given), text("9.0", &[mask, unroll].concat(), short));
    let refused = |text: &str| ptx::at_version(text, (7, 0)).unwrap_err();
    assert_eq!(refused(".target sm_80\n"), "there are 0 lines with a version");
    let later = "\t.pragma \"later\";\n";
    assert_eq!(refused(&text("9.0", later, short)), "the pragma \"later\"; is not known");
    let limited = ptx::with_registers(&given, "a", 99);
    assert_eq!(limited, Ok(given.replace(".minnctapersm 2\n", ".maxnreg 99\n")));
    let missing = "there is no kernel b that gives its resident blocks";
    assert_eq!(ptx::with_registers(&given, "b", 99), Err(missing.into()));
}

/// The kernel of an entry, whose name may end in the types of the instance.
fn kernel_of(stem: &str, entry: &str) -> &'static KernelInfo {
    let is_it = |kernel: &&KernelInfo| {
        let types = entry.strip_prefix(kernel.name);
        kernel.stem == stem && types.is_some_and(|types| types.is_empty() || types.starts_with('_'))
    };
    kernels().iter().find(is_it).unwrap_or_else(|| panic!("no launch knows {entry} of {stem}.cu"))
}

/// Every kernel takes one struct, whose size and alignment in the PTX are those of its Rust twin.
#[test]
fn parameters_are_those_of_the_ptx() {
    let mut seen = BTreeSet::new();
    for image in images() {
        let Some(ptx) = image.ptx else { continue };
        for entry in ptx.split(".entry ").skip(1) {
            let (name, rest) = entry.split_once('(').unwrap();
            let parameters = rest.split_once(')').unwrap().0;
            let kernel = kernel_of(image.stem, name.trim());
            let layout = kernel.parameters;
            let want = format!(
                ".param .align {} .b8 {}_param_0[{}]",
                layout.align(),
                name.trim(),
                layout.size()
            );
            assert_eq!(parameters.trim(), want, "{name}");
            seen.insert(kernel.name);
        }
    }
    let declared: BTreeSet<_> = kernels().iter().map(|kernel| kernel.name).collect();
    assert_eq!(seen, declared, "all that is declared is there");
}

#[test]
fn results_are_those_of_the_cpu_to_the_bit() {
    for (dim, length) in [(64, 20), (7, 3), (128, 1), (200, 9)] {
        let case = case(dim, length);
        let want = pool(&Cpu::on_current_thread(), &case);
        on_every_schedule(|cuda| assert_same_bits(&case.name, &pool(cuda, &case), &want));
    }
}

/// Memory moves in whole sectors, and each row, id and output moves once: within 5 % of the least
/// possible.
#[test]
fn global_memory_moves_once_in_whole_sectors() {
    let Some(emulator) = emulator() else { return };
    for (dim, length) in [(64, 20), (128, 20), (256, 32), (32, 24), (16, 40)] {
        let alone = emulator.exclusive();
        let (case, cuda) = (case(dim, length), Cuda::new(0).unwrap());
        alone.reset_counters();
        pool(&cuda, &case);
        let counters = alone.counters();
        let kernel =
            counters.iter().find(|kernel| kernel.name == "embedding_bag_forward_f32_i64").unwrap();
        let total = &kernel.total;
        assert!(
            total.sectors as f64 <= 1.05 * total.ideal_sectors as f64,
            "{}: {total:?}",
            case.name
        );
        let bags = 2 * 64;
        let rows_and_outputs = bags * (length + 1) * dim * 4;
        assert_eq!(total.global_written as usize, bags * dim * 4, "{}", case.name);
        // Ids, bounds, and the description of the feature for each bag.
        let others = bags * (length * 8 + 2 * 8 + 40);
        // Each of these reads of a bag may begin within a sector.
        let begun = bags * 4 * 32;
        let bytes = total.sectors as usize * 32;
        assert!(
            bytes as f64 <= 1.05 * (rows_and_outputs + others + begun) as f64,
            "{}: {bytes} bytes, {total:?}",
            case.name
        );
    }
}

#[test]
fn a_bad_id_leaves_the_context_usable() {
    on_every_schedule(|cuda| {
        let good = case(16, 4);
        let mut bad = good.clone();
        bad.indices[37] = 1 << 40;
        bad.indices[99] = -1;
        let bags = bad.upload::<Cuda, i64>(cuda);
        let weights = upload(cuda, &bad.weights::<f32>());
        let mut output = upload(cuda, &poisoned::<f32>(bad.batch_size * bad.width()));
        let output =
            MatrixMut::contiguous(Cuda::view_mut(&mut output), bad.batch_size, bad.width());
        let forward = Forward::new(&bags.tables, Cuda::view(&weights), bags.view(), output);
        assert_eq!(forward.run(cuda), Ok(()), "nothing waits for the device in a launch");
        let error = cuda.synchronize().unwrap_err();
        let (table, bag, position, value, num_embeddings, count) = (0, 9, 37, 1 << 40, 500, 2);
        let op = "embedding_bag.forward";
        assert_eq!(
            error,
            Error::IndexOutOfRange { op, table, bag, position, value, num_embeddings, count }
        );
        assert_eq!(cuda.synchronize(), Ok(()));
        assert_same_bits("afterwards", &pool(cuda, &good), &pool(&Cpu::on_current_thread(), &good));
    });
}

/// An op is a launch and nothing else: it can be captured into a graph, and replayed on other ids
/// and weights in the same places.
#[test]
fn an_op_can_be_captured_and_replayed() {
    on_every_schedule(|cuda| {
        let (first, mut second) = (case(16, 4), case(16, 4));
        second.indices.reverse();
        second.seed += 1;
        // Ids of the first table are valid for the second only below its size.
        second.indices.iter_mut().for_each(|id| *id %= 300);
        let mut bags = first.upload::<Cuda, i64>(cuda);
        let mut weights = upload(cuda, &first.weights::<f32>());
        let mut output = upload(cuda, &poisoned::<f32>(first.batch_size * first.width()));
        let graph = capture(cuda, || {
            let output =
                MatrixMut::contiguous(Cuda::view_mut(&mut output), first.batch_size, first.width());
            let forward = Forward::new(&bags.tables, Cuda::view(&weights), bags.view(), output);
            forward.run(cuda).unwrap();
        });
        for case in [&first, &second] {
            cuda.upload(&case.indices, Cuda::view_mut(&mut bags.indices)).unwrap();
            cuda.upload(&case.weights::<f32>(), Cuda::view_mut(&mut weights)).unwrap();
            cuda.upload(
                &poisoned::<f32>(case.batch_size * case.width()),
                Cuda::view_mut(&mut output),
            )
            .unwrap();
            graph.replay();
            cuda.synchronize().unwrap();
            assert_same_bits(
                "replayed",
                &download(cuda, &output),
                &pool(&Cpu::on_current_thread(), case),
            );
        }
    });
}

/// Runs ops as an embedder does: memory and stream are its own, and bagdot is given addresses.
#[test]
fn foreign_memory_on_a_foreign_stream() {
    use cudarc::driver::{CudaContext, DevicePtr, DevicePtrMut};
    on_every_schedule(|_| {
        let case = case(24, 5);
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: the stream is one of the device's primary context, and outlives the backend.
        let cuda = unsafe { Cuda::on_stream(0, stream.cu_stream().cast(), Gemm::Auto) }.unwrap();
        assert_eq!(cuda.stream(), stream.cu_stream().cast());
        let offsets: Vec<i64> = case.offsets.iter().map(|&offset| offset as i64).collect();
        let weights = stream.clone_htod(&case.weights::<f32>()).unwrap();
        let (indices, offsets) =
            (stream.clone_htod(&case.indices).unwrap(), stream.clone_htod(&offsets).unwrap());
        let mut output =
            stream.clone_htod(&poisoned::<f32>(case.batch_size * case.width())).unwrap();
        let tables = cuda.tables(case.layout()).unwrap();
        {
            let (weights, _keep_weights) = weights.device_ptr(&stream);
            let (indices, _keep_indices) = indices.device_ptr(&stream);
            let (offsets, _keep_offsets) = offsets.device_ptr(&stream);
            let (output, _keep_output) = output.device_ptr_mut(&stream);
            // SAFETY: each pointer is to as many elements, alive until the stream has been waited
            // for, and the output is nobody else's.
            let (weights, bags, output) = unsafe {
                let bags = Bags::<Cuda, i64>::new(
                    case.batch_size,
                    View::from_raw(indices, case.indices.len()),
                    View::<_, i64>::from_raw(offsets, case.offsets.len()),
                );
                let output = ViewMut::<_, f32>::from_raw(output, case.batch_size * case.width());
                (View::<Cuda, f32>::from_raw(weights, case.num_weights()), bags, output)
            };
            let output = MatrixMut::contiguous(output, case.batch_size, case.width());
            Forward::new(&tables, weights, bags, output).run(&cuda).unwrap();
            cuda.synchronize().unwrap();
        }
        let got = stream.clone_dtoh(&output).unwrap();
        stream.synchronize().unwrap();
        assert_same_bits("the output", &got, &pool(&Cpu::on_current_thread(), &case));
    });
}

/// Every way in which a device can be missing is an error that says so.
#[test]
fn missing_devices_and_drivers_are_errors() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    assert!(driver_version().unwrap() >= 11_040);
    let message = |device| Cuda::new(device).unwrap_err().to_string();
    assert_eq!(message(5), "no CUDA device 5: there are 1");
    alone.set_devices(0);
    assert_eq!(message(0), "no CUDA device 0: there are 0");
    alone.reset_all();
    alone.set_driver_version(11_030);
    assert_eq!(
        message(0),
        "the CUDA driver supports CUDA 11.3, but 11.4 is needed: update it, or use the CPU"
    );
    assert_eq!(alone.report(), "");
    alone.reset_all();
    alone.set_capability(75);
    assert_eq!(
        message(0),
        "GPUs of compute capability 7.5 are not supported: 8.0 is the least; use the CPU"
    );
    alone.reset_all();
    let cuda = own();
    alone.set_memory(1 << 20);
    let cuda_small = own();
    assert_eq!(
        cuda_small.alloc::<f32>(1 << 20).map(|_| ()),
        Err(Error::OutOfMemory { bytes: 4 << 20 })
    );
    assert!(cuda_small.alloc::<f32>(1 << 10).is_ok(), "the context is usable");
    assert!(cuda_small.alloc::<f32>(usize::MAX / 2).is_err());
    drop((cuda, cuda_small));
}

#[test]
fn buffers_are_cleared_copied_and_freed() {
    let Some(emulator) = emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = Cuda::new(0).unwrap();
    let before = alone.used_bytes(0);
    let buffer = cuda.alloc::<u32>(1000).unwrap();
    assert_eq!(download(&cuda, &buffer), [0; 1000]);
    assert!(alone.used_bytes(0) >= before + 4000);
    drop(buffer);
    assert_eq!(alone.used_bytes(0), before);
    let empty = cuda.alloc::<u32>(0).unwrap();
    assert!(download(&cuda, &empty).is_empty());
    let mut two = upload(&cuda, &[1.0_f32, 2.0, 3.0, 4.0]);
    let [mut left, right] = Cuda::split_mut(&mut two, [0..1, 2..4]);
    assert_eq!((left.len(), right.len()), (1, 2));
    let text = cuda.upload(&[0.0; 2], left.reborrow()).unwrap_err().to_string();
    assert_eq!(text, "upload: target is 1, but must be 2");
}
