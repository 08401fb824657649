//! Tests of the CUDA backend inside of another program: its streams, its memory, its context, and
//! its graphs.

use cudarc::driver::{CudaContext, DevicePtr, result, sys};

use crate::common::cuda::{capture, emulator, on_every_schedule};
use crate::common::*;
use bagdot::backend::cuda::{Buffer, Gemm};
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::sparse_update::{PooledGrad, Update};
use bagdot::ops::{
    Backend, Bags, Device, Interaction, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Pooling,
    SeparateTablesMut, TableStateMut, UpdateRule, View, ViewMut, embedding_bag, interaction,
};
use bagdot::{Cpu, Cuda, Error};

/// Two tables of the same dimension.
fn case() -> BagCase {
    BagCase::new(
        "two tables",
        (&[(50, 16), (40, 16)], &[feature(0, Pooling::Sum), feature(1, Pooling::Mean)]),
        &[2; 2 * 24],
        uniform,
    )
}

/// Looks up `case` on a device.
fn pool(cuda: &Cuda, case: &BagCase) -> Vec<f32> {
    case.pool::<Cuda, i64>(cuda, &case.weights::<f32>())
}

/// Backends on several streams share kernels, but neither memory nor faults.
#[test]
fn one_device_on_several_streams() {
    on_every_schedule(|_| {
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        let cuda = Cuda::with_gemm(0, Gemm::Own).unwrap();
        // SAFETY: the stream is one of the device's primary context, and outlives the backend.
        let (other, new) =
            (unsafe { cuda.on(stream.cu_stream().cast()) }.unwrap(), cuda.on_new_stream().unwrap());
        assert_eq!(other.stream(), stream.cu_stream().cast());
        assert!(new.stream() != cuda.stream());
        let (good, mut bad) = (case(), case());
        bad.indices[5] = 1000;
        let want = pool(&cuda, &good);
        assert_same_bits("on a stream of the caller", &pool(&other, &good), &want);
        assert_same_bits("on a new stream", &pool(&new, &good), &want);

        let weights = upload(&other, &good.weights::<f32>());
        assert_eq!(cuda.to_vec(&weights), Err(Error::OtherBackend));
        pool_without_waiting(&other, &bad);
        assert_eq!((cuda.synchronize(), new.synchronize()), (Ok(()), Ok(())));
        assert!(matches!(other.synchronize(), Err(Error::IndexOutOfRange { value: 1000, .. })));
    });
}

/// Launches a lookup whose result nobody reads.
fn pool_without_waiting(cuda: &Cuda, case: &BagCase) {
    let bags = case.upload::<Cuda, i64>(cuda);
    let weights = upload(cuda, &case.weights::<f32>());
    let mut output = cuda.alloc::<f32>(case.batch_size * case.width()).unwrap();
    let output = MatrixMut::contiguous(&mut output, case.batch_size, case.width());
    embedding_bag::Forward::new(&bags.tables, &weights, bags.view(), output).run(cuda).unwrap();
}

/// A fault is known as soon as its kernel has run, without waiting for the stream. It stays known
/// until the device is synchronised.
#[test]
fn faults_are_polled() {
    on_every_schedule(|cuda| {
        let mut bad = case();
        bad.indices[7] = -3;
        assert_eq!(cuda.poll(), Ok(()));
        pool_without_waiting(cuda, &bad);
        // SAFETY: the stream is the backend's.
        unsafe { result::stream::synchronize(cuda.stream().cast()) }.unwrap();
        let error = cuda.poll().unwrap_err();
        let Error::IndexOutOfRange { op, position, value, count, .. } = error else {
            panic!("{error}")
        };
        assert_eq!((op, position, value, count), ("embedding_bag.forward", 7, -3, 1));
        assert_eq!(cuda.poll(), Err(error.clone()));
        let mut faults = [0_u32];
        // SAFETY: the address is that of one number, which nothing writes meanwhile.
        cuda.download(unsafe { View::from_raw(cuda.fault_count(), 1) }, &mut faults).unwrap();
        assert_eq!(faults, [1]);
        assert_eq!(cuda.synchronize(), Err(error));
        assert_eq!((cuda.poll(), cuda.synchronize()), (Ok(()), Ok(())));
    });
}

/// Calls that wait are refused while the caller records a graph of its own, which goes on.
#[test]
fn calls_that_wait_are_refused_in_a_capture() {
    on_every_schedule(|cuda| {
        let case = case();
        let bags = case.upload::<Cuda, i64>(cuda);
        let weights = upload(cuda, &case.weights::<f32>());
        let mut output = upload(cuda, &poisoned::<f32>(case.batch_size * case.width()));
        let mut one = upload(cuda, &[1.0_f32]);
        let refused = |op| Err(Error::Recording { op });
        let graph = capture(cuda, || {
            assert_eq!(cuda.synchronize(), refused("synchronize"));
            assert_eq!(cuda.download(Cuda::view(&one), &mut [0.0]), refused("download"));
            assert_eq!(cuda.upload(&[2.0], Cuda::view_mut(&mut one)), refused("upload"));
            assert_eq!(cuda.alloc::<f32>(1).map(drop), refused("alloc"));
            assert_eq!(cuda.poll(), Ok(()), "this one does not wait for the stream");
            assert_eq!(cuda.alloc::<f32>(0).map(drop), Ok(()), "nothing is allocated");
            drop(cuda.on_new_stream().unwrap());
            let output = MatrixMut::contiguous(&mut output, case.batch_size, case.width());
            embedding_bag::Forward::new(&bags.tables, &weights, bags.view(), output)
                .run(cuda)
                .unwrap();
        });
        graph.replay();
        let want = case.pool::<Cpu, i64>(&Cpu::on_current_thread(), &case.weights::<f32>());
        assert_same_bits("replayed", &download(cuda, &output), &want);
        assert_eq!(download(cuda, &one), [1.0]);
    });
}

/// The context of another library is current again after each op. On the stand-in driver it is the
/// one of a second device.
#[test]
fn the_current_context_stays() {
    let alone = emulator().map(|emulator| emulator.exclusive());
    if let Some(alone) = &alone {
        alone.set_devices(2);
    }
    let mut foreign = std::ptr::null_mut();
    // SAFETY: the device exists. The context is released below.
    unsafe {
        result::init().unwrap();
        match &alone {
            Some(_) => foreign = result::primary_ctx::retain(1).unwrap(),
            None => sys::cuCtxCreate_v2(&raw mut foreign, 0, 0).result().unwrap(),
        }
        result::ctx::set_current(foreign).unwrap();
    }
    let current = || result::ctx::get_current().unwrap();
    let cuda = Cuda::with_gemm(0, Gemm::Own).unwrap();
    assert_eq!(current(), Some(foreign), "after the device has been opened");
    pool(&cuda, &case());
    assert_eq!(current(), Some(foreign), "after an op");
    cuda.synchronize().unwrap();
    assert_eq!(current(), Some(foreign), "after a synchronisation");
    drop(cuda);
    assert_eq!(current(), Some(foreign), "after the backend has been dropped");
    match &alone {
        Some(alone) => alone.set_devices(1),
        // SAFETY: the context was made above, and nothing uses it.
        None => unsafe { sys::cuCtxDestroy_v2(foreign) }.result().unwrap(),
    }
}

/// Slices of cudarc are taken in safe code, whatever stream they belong to. Work on that stream
/// waits for the ops.
#[test]
fn slices_and_streams_of_cudarc() {
    on_every_schedule(|_| {
        let case = case();
        let (batch, width) = (case.batch_size, case.width());
        let context = CudaContext::new(0).unwrap();
        let (of_slices, of_ops) = (context.new_stream().unwrap(), context.new_stream().unwrap());
        // SAFETY: neither is the per-thread stream, and neither is captured.
        let first = unsafe { Cuda::on_cudarc_stream(&of_slices, Gemm::Own) }.unwrap();
        // SAFETY: as above.
        let second = unsafe { first.on_another_cudarc_stream(&of_ops) }.unwrap();
        // The backends keep the streams.
        drop(of_ops);
        let want = pool(&first, &case);
        for cuda in [&first, &second] {
            let weights = of_slices.clone_htod(&case.weights::<f32>()).unwrap();
            let ids = of_slices.clone_htod(&case.indices).unwrap();
            let offsets: Vec<i64> = case.offsets.iter().map(|&offset| offset as i64).collect();
            let offsets = of_slices.clone_htod(&offsets).unwrap();
            let mut pooled = of_slices.alloc_zeros::<f32>(batch * width).unwrap();
            let tables = cuda.tables(case.layout()).unwrap();
            {
                // SAFETY: the slices are cudarc's, and all borrows are dropped below.
                let (weights, ids, offsets, mut pooled) = unsafe {
                    (
                        cuda.borrow(&weights).unwrap(),
                        cuda.borrow(&ids).unwrap(),
                        cuda.borrow::<i64, _>(&offsets).unwrap(),
                        cuda.borrow_mut(&mut pooled).unwrap(),
                    )
                };
                let other = if std::ptr::eq(cuda, &first) { &second } else { &first };
                let view = View::<Cuda, f32>::from(&weights);
                assert_eq!(other.download(view, &mut vec![0.0; 90 * 16]), Err(Error::OtherBackend));
                let output = MatrixMut::contiguous(&mut pooled, batch, width);
                let bags = Bags::new(batch, &ids, View::<_, i64>::from(&offsets));
                embedding_bag::Forward::new(&tables, &weights, bags, output).run(cuda).unwrap();
            }
            let got = of_slices.clone_dtoh(&pooled).unwrap();
            of_slices.synchronize().unwrap();
            assert_same_bits("pooled", &got, &want);
            cuda.synchronize().unwrap();
        }
    });
}

/// A step of a model on memory and a stream of the caller, captured into a graph of the caller and
/// replayed on other ids: lookup, interaction, its gradient, sort and update. Each table, its state
/// and the order of the ids lie in memory of their own.
#[test]
fn a_step_on_foreign_memory_is_captured_and_replayed() {
    on_every_schedule(|_| {
        let (first, mut second) = (case(), case());
        second.indices.reverse();
        second.indices.iter_mut().for_each(|id| *id %= 40);
        let context = CudaContext::new(0).unwrap();
        let stream = context.new_stream().unwrap();
        // SAFETY: the stream is one of the device's primary context, and outlives the backend.
        let cuda = unsafe { Cuda::on_stream(0, stream.cu_stream().cast(), Gemm::Own) }.unwrap();
        let (layout, batch, width) = (first.layout(), first.batch_size, first.width());
        let values = first.weights::<f32>();
        let interaction = Interaction::default();
        let (columns, n) = (interaction.width(true, 2, 16), first.indices.len());

        // Memory of the caller, as another allocator gives it.
        let users = stream.clone_htod(&values[..50 * 16]).unwrap();
        let items = stream.clone_htod(&values[50 * 16..]).unwrap();
        let user_sums = stream.alloc_zeros::<f32>(50).unwrap();
        let item_sums = stream.alloc_zeros::<f32>(40).unwrap();
        let ids = stream.clone_htod(&first.indices).unwrap();
        let offsets: Vec<i64> = first.offsets.iter().map(|&offset| offset as i64).collect();
        let offsets = stream.clone_htod(&offsets).unwrap();
        let dense = stream.clone_htod(&draw(batch * 16, 5)).unwrap();
        let pooled = stream.alloc_zeros::<f32>(batch * width).unwrap();
        let output = stream.alloc_zeros::<f32>(batch * columns).unwrap();
        let grad_output = stream.clone_htod(&draw(batch * columns, 6)).unwrap();
        let grad_dense = stream.alloc_zeros::<f32>(batch * 16).unwrap();
        let grad_pooled = stream.alloc_zeros::<f32>(batch * width).unwrap();
        let rows = stream.alloc_zeros::<u64>(n).unwrap();
        let segments = stream.alloc_zeros::<u32>(n + 1).unwrap();
        let of_ids = [0; 2].map(|_| stream.alloc_zeros::<u32>(n).unwrap());
        let lengths = stream.alloc_zeros::<u32>(2 * batch).unwrap();
        let counts = stream.alloc_zeros::<u32>(2).unwrap();
        let words = Sort::<Cuda, i64>::workspace_len(&cuda, &layout, n)
            .max(Update::<Cuda, f32, i64>::workspace_len(&cuda, &layout, n));
        let workspace = stream.alloc_zeros::<u64>(words).unwrap();
        /// Returns the address of a slice. Cudarc lets the stream wait for events here, which must
        /// come before the capture.
        fn at<T>(slice: &cudarc::driver::CudaSlice<T>) -> u64 {
            slice.device_ptr(slice.stream()).0
        }
        let [users_at, items_at, user_sums_at, item_sums_at] =
            [&users, &items, &user_sums, &item_sums].map(at);
        let [dense_at, pooled_at, output_at, grad_output_at, grad_dense_at, grad_pooled_at] =
            [&dense, &pooled, &output, &grad_output, &grad_dense, &grad_pooled].map(at);
        let (ids_at, offsets_at, workspace_at) = (at(&ids), at(&offsets), at(&workspace));
        stream.synchronize().unwrap();

        // SAFETY: here and below, each pointer is to as many elements, which live until the end of
        // this test and are used by the ops of one stream alone.
        let mut sorted = unsafe {
            let [positions, bags] = of_ids.each_ref().map(|s| Buffer::from_raw(&cuda, at(s), n));
            let lengths = Buffer::from_raw(&cuda, at(&lengths), 2 * batch);
            let rows = Buffer::from_raw(&cuda, at(&rows), n);
            let segments = Buffer::from_raw(&cuda, at(&segments), n + 1);
            let counts = Buffer::from_raw(&cuda, at(&counts), 2);
            SortedIndices::with_buffers(&cuda, rows, segments, [positions, bags, lengths], counts)
                .unwrap()
        };
        let matrix = |pointer, rows, cols| {
            // SAFETY: as above.
            MatrixMut::contiguous(unsafe { ViewMut::from_raw(pointer, rows * cols) }, rows, cols)
        };
        let shared = |pointer, rows, cols| {
            // SAFETY: as above.
            Matrix::contiguous(unsafe { View::from_raw(pointer, rows * cols) }, rows, cols)
        };
        let tables = cuda.tables(layout.clone()).unwrap();
        let matrices = vec![matrix(users_at, 50, 16), matrix(items_at, 40, 16)];
        let mut weights = SeparateTablesMut::new(&cuda, &layout, matrices).unwrap();
        let matrices = vec![matrix(user_sums_at, 50, 1), matrix(item_sums_at, 40, 1)];
        let mut sums = SeparateTablesMut::new(&cuda, &layout, matrices).unwrap();
        let rule = UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 1e-3 }, 0.1);
        let graph = capture(&cuda, || {
            // SAFETY: as above.
            let bags = unsafe {
                let offsets = View::<_, i64>::from_raw(offsets_at, 2 * batch + 1);
                Bags::<Cuda, i64>::new(batch, View::from_raw(ids_at, n), offsets)
            };
            let pooled_matrix = matrix(pooled_at, batch, width);
            embedding_bag::Forward::new(&tables, &weights, bags, pooled_matrix).run(&cuda).unwrap();
            let features = || interaction::Features::Split {
                dense: shared(dense_at, batch, 16),
                sparse: shared(pooled_at, batch, width),
            };
            let z = matrix(output_at, batch, columns);
            interaction::Forward::new(interaction, 16, features(), z).run(&cuda).unwrap();
            let grads = interaction::FeaturesMut::Split {
                dense: matrix(grad_dense_at, batch, 16),
                sparse: matrix(grad_pooled_at, batch, width),
            };
            let grad_z = shared(grad_output_at, batch, columns);
            interaction::Backward::new(interaction, 16, features(), grad_z, grads)
                .run(&cuda)
                .unwrap();
            // SAFETY: as above.
            let words = || unsafe { ViewMut::from_raw(workspace_at, words) };
            Sort::new(&tables, bags, &mut sorted, words()).run(&cuda).unwrap();
            let grad = shared(grad_pooled_at, batch, width);
            let source = PooledGrad::new(&tables, bags, &sorted, grad);
            let state = TableStateMut::SumOfSquares((&mut sums).into());
            Update::new(source, rule, &mut weights, state, words()).run(&cuda).unwrap();
        });

        // The same two steps op by op.
        let (mut want, mut want_sums) = (values.clone(), vec![0.0; 90]);
        let mut want_output = vec![];
        for case in [&first, &second] {
            cuda.upload(&case.indices, matrix_of_ids(ids_at, n)).unwrap();
            graph.replay();
            want_output = step(&cuda, case, rule, (&mut want, &mut want_sums));
        }
        cuda.synchronize().unwrap();
        let [users, items, user_sums, item_sums, output] =
            [&users, &items, &user_sums, &item_sums, &output]
                .map(|slice| stream.clone_dtoh(slice).unwrap());
        stream.synchronize().unwrap();
        assert_same_bits("weights", &[users, items].concat(), &want);
        assert_same_bits("state", &[user_sums, item_sums].concat(), &want_sums);
        assert_same_bits("interaction", &output, &want_output);
    });
}

fn matrix_of_ids(pointer: u64, len: usize) -> ViewMut<'static, Cuda, i64> {
    // SAFETY: the caller's memory has as many elements, and nothing else uses them.
    unsafe { ViewMut::from_raw(pointer, len) }
}

/// Takes the same step op by op, with the tables in one buffer, and returns the interaction.
fn step<B: Backend>(
    device: &B,
    case: &BagCase,
    rule: UpdateRule,
    (weights, sums): (&mut Vec<f32>, &mut Vec<f32>),
) -> Vec<f32> {
    let (layout, batch, width) = (case.layout(), case.batch_size, case.width());
    let interaction = Interaction::default();
    let (columns, n) = (interaction.width(true, 2, 16), case.indices.len());
    let bags = case.upload::<B, i64>(device);
    let (tables, bags) = (&bags.tables, bags.view());
    let (mut of_weights, mut of_sums) = (upload(device, &weights[..]), upload(device, &sums[..]));
    let dense = upload(device, &draw(batch * 16, 5));
    let grad_z = upload(device, &draw(batch * columns, 6));
    let alloc = |len| device.alloc::<f32>(len).unwrap();
    let (mut pooled, mut output) = (alloc(batch * width), alloc(batch * columns));
    let (mut grad_dense, mut grad_pooled) = (alloc(batch * 16), alloc(batch * width));
    let pooled_matrix = MatrixMut::contiguous(B::view_mut(&mut pooled), batch, width);
    embedding_bag::Forward::new(tables, B::view(&of_weights), bags, pooled_matrix)
        .run(device)
        .unwrap();
    let dense = Matrix::contiguous(B::view(&dense), batch, 16);
    let sparse = Matrix::contiguous(B::view(&pooled), batch, width);
    let features = interaction::Features::Split { dense, sparse };
    let z = MatrixMut::contiguous(B::view_mut(&mut output), batch, columns);
    interaction::Forward::new(interaction, 16, features, z).run(device).unwrap();
    let grads = interaction::FeaturesMut::Split {
        dense: MatrixMut::contiguous(B::view_mut(&mut grad_dense), batch, 16),
        sparse: MatrixMut::contiguous(B::view_mut(&mut grad_pooled), batch, width),
    };
    let grad_z = Matrix::contiguous(B::view(&grad_z), batch, columns);
    interaction::Backward::new(interaction, 16, features, grad_z, grads).run(device).unwrap();
    let words = Sort::<B, i64>::workspace_len(device, &layout, n)
        .max(Update::<B, f32, i64>::workspace_len(device, &layout, n));
    let mut workspace = device.alloc::<u64>(words).unwrap();
    let mut sorted = SortedIndices::new(device, n, 2 * batch).unwrap();
    Sort::new(tables, bags, &mut sorted, B::view_mut(&mut workspace)).run(device).unwrap();
    let grad = Matrix::contiguous(B::view(&grad_pooled), batch, width);
    let source = PooledGrad::new(tables, bags, &sorted, grad);
    let state = OptimizerStateMut::SumOfSquares(B::view_mut(&mut of_sums));
    let words = B::view_mut(&mut workspace);
    Update::new(source, rule, B::view_mut(&mut of_weights), state, words).run(device).unwrap();
    (*weights, *sums) = (download(device, &of_weights), download(device, &of_sums));
    download(device, &output)
}
