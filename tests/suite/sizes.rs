//! Tests of absurd sizes: nothing overflows, and a size that no memory holds is refused before
//! anything is allocated.

use crate::common::*;
use bagdot::nn::{BatchView, Dlrm, DlrmConfig, MemoryNeeds, MemoryPlan, Optimizers, TableInit};
use bagdot::ops::cast::Cast;
use bagdot::ops::index_sort::{Sort, SortedIndices};
use bagdot::ops::interaction::{self, Features};
use bagdot::ops::linear::{self, Activation};
use bagdot::ops::sparse_update::{Merge, SparseGrad, Update};
use bagdot::ops::{
    Accum, Backend, Bags, Interaction, Matrix, MatrixMut, Optimizer, PairOrder, Pooling, Table,
    TableBatch, embedding_bag, loss,
};
use bagdot::{Cpu, DType, Error, Philox, bf16, f16};

backend_suite!(
    cuda:
    numbers_of_bags_do_not_wrap,
    rows_that_are_too_far_apart_are_refused,
    a_single_row_may_have_any_leading_dimension,
    layers_without_elements_are_done_at_once,
    sizes_saturate,
    models_that_do_not_fit_are_refused,
    batches_without_values_take_no_memory,
    parameters_are_known_before_there_is_a_model,
);

const MAX: usize = usize::MAX;

fn table(num_embeddings: usize, embedding_dim: usize) -> Table {
    Table { num_embeddings, embedding_dim }
}

/// Returns the configuration of a small model.
fn small() -> DlrmConfig {
    DlrmConfig {
        num_dense: 3,
        bottom_mlp: vec![5, 4],
        tables: vec![table(7, 4), table(9, 4)],
        features: vec![feature(0, Pooling::Sum), feature(1, Pooling::Sum)],
        top_mlp: vec![6, 1],
        ..DlrmConfig::default()
    }
}

fn bags<'a, B: Backend>(
    batch_size: usize,
    indices: &'a B::Buffer<i64>,
    offsets: &'a B::Buffer<i64>,
) -> Bags<'a, B, i64> {
    let (indices, offsets) = (B::view(indices), B::view(offsets));
    Bags::new(batch_size, indices, offsets)
}

/// Checks products that wrap around: two features times a batch size of 2⁶³ or 2⁶³ + 1 would wrap
/// to 0 or 2 bags, for which there are offsets.
fn numbers_of_bags_do_not_wrap<B: Backend>(device: &B) {
    let tables = TableBatch::new(vec![table(3, 2)], vec![feature(0, Pooling::Sum); 2]).unwrap();
    let (tables, weights) = (device.tables(tables).unwrap(), upload(device, &[0.5f32; 6]));
    let (mut workspace, mut output) =
        (device.alloc::<u64>(100_000).unwrap(), device.alloc::<f32>(64).unwrap());
    for batch_size in [1 << 63, (1 << 63) + 1, MAX, 1 << 31, (1 << 32) + 1] {
        for offsets in [&[0i64][..], &[0, 0, 0], &[0, 1, 1]] {
            let indices = upload(device, &[0i64; 1][..*offsets.last().unwrap() as usize]);
            let (offsets, mut sorted) =
                (upload(device, offsets), SortedIndices::new(device, 8, 8).unwrap());
            let bags = || bags::<B>(batch_size, &indices, &offsets);
            let (sorted, workspace) = (&mut sorted, B::view_mut(&mut workspace));
            let sort = Sort::new(&tables, bags(), sorted, workspace);
            let output =
                MatrixMut { data: B::view_mut(&mut output), rows: batch_size, cols: 4, ld: 4 };
            let weights = B::view(&weights);
            let forward = embedding_bag::Forward::new(&tables, weights, bags(), output);
            for error in [sort.run(device).unwrap_err(), forward.run(device).unwrap_err()] {
                assert!(
                    error.to_string().ends_with("more than 2^32 - 2 ids or bags: split the batch"),
                    "{error}"
                );
            }
        }
    }
}

fn rows_that_are_too_far_apart_are_refused<B: Backend>(device: &B) {
    let (from, mut to) = (upload(device, &[1f32; 64]), device.alloc::<f16>(64).unwrap());
    for (rows, cols, ld) in [
        (1, 4, MAX),
        (1, 4, (1 << 48) + 1),
        (0, 4, MAX),
        (2, 0, MAX),
        (1 << 40, 0, 1 << 40),
        (MAX, 0, 1),
        (3, 4, MAX),
    ] {
        let from = Matrix { data: B::view(&from), rows, cols, ld };
        let to = MatrixMut { data: B::view_mut(&mut to), rows, cols, ld: cols };
        let error = Cast { factor: 1.0, from, to }.run(device).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("cast: from.ld: {ld}, but no memory has room for {rows} rows so far apart")
        );
    }
}

/// Checks that a single row may have any leading dimension, and that the address of a prefetch does
/// not overflow.
fn a_single_row_may_have_any_leading_dimension<B: Backend>(device: &B) {
    const LD: usize = 1 << 48;
    let (x, w) = (draw(64, 1), draw(64 * 64, 2));
    let (input, weight, bias) =
        (upload(device, &x), upload(device, &w), upload(device, &[0f32; 64]));
    let run = |ld: usize| {
        let mut outputs = [(); 4].map(|()| device.alloc::<f32>(64).unwrap());
        let [linear, interacted, pooled, cast] = &mut outputs;
        fn row<'a, B: Backend>(
            buffer: &'a B::Buffer<f32>,
            cols: usize,
            ld: usize,
        ) -> Matrix<'a, B, f32> {
            Matrix { data: B::view(buffer), rows: 1, cols, ld }
        }
        fn row_mut<'a, B: Backend>(
            buffer: &'a mut B::Buffer<f32>,
            cols: usize,
            ld: usize,
        ) -> MatrixMut<'a, B, f32> {
            MatrixMut { data: B::view_mut(buffer), rows: 1, cols, ld }
        }
        let op = linear::Forward::new(
            row::<B>(&input, 64, ld),
            Matrix::contiguous(B::view(&weight), 64, 64),
            B::view(&bias),
            row_mut::<B>(linear, 64, ld),
        )
        .activation(Activation::Relu);
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        let op = interaction::Forward::new(
            Interaction::default(),
            16,
            Features::Joined { block: row::<B>(&input, 64, ld), has_dense: true },
            row_mut::<B>(interacted, 22, ld),
        );
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        let tables = TableBatch::one_feature_each(vec![table(64, 64)], Pooling::Sum).unwrap();
        let (tables, indices, offsets) =
            (device.tables(tables).unwrap(), upload(device, &[3i64]), upload(device, &[0, 1]));
        let (weights, bags) = (B::view(&weight), bags::<B>(1, &indices, &offsets));
        let op = embedding_bag::Forward::new(&tables, weights, bags, row_mut::<B>(pooled, 64, ld));
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        let op =
            Cast { factor: 1.0, from: row::<B>(&input, 64, ld), to: row_mut::<B>(cast, 64, ld) };
        assert_eq!(outcome(device, op.run(device)), Ok(()));
        outputs.map(|output| download(device, &output))
    };
    // Both leading dimensions are multiples of the width of a vectorised load.
    assert_eq!(run(LD), run(64));
}

/// Checks that matrices without elements may have any number of rows or columns.
fn layers_without_elements_are_done_at_once<B: Backend>(device: &B) {
    let [x, w, mut y, mut dy, mut dx, mut dw, mut db] =
        [(); 7].map(|()| device.alloc::<f32>(0).unwrap());
    for (m, n, k) in [(MAX, 0, 0), (0, 0, 1 << 48), (0, 0, 0)] {
        let op = linear::Forward::new(
            Matrix::contiguous(B::view(&x), m, k),
            Matrix::contiguous(B::view(&w), n, k),
            B::view(&db),
            MatrixMut::contiguous(B::view_mut(&mut y), m, n),
        )
        .activation(Activation::Relu);
        assert_eq!(outcome(device, op.run(device)), Ok(()), "{m}, {n}, {k}");
        let words = linear::Backward::<B, f32>::workspace_len(device, m, n, k);
        let mut workspace = device.alloc(words).unwrap();
        let op = linear::Backward::new(
            Matrix::contiguous(B::view(&x), m, k),
            Matrix::contiguous(B::view(&w), n, k),
            Matrix::contiguous(B::view(&y), m, n),
            MatrixMut::contiguous(B::view_mut(&mut dy), m, n),
            MatrixMut::contiguous(B::view_mut(&mut dw), n, k),
            B::view_mut(&mut db),
            B::view_mut(&mut workspace),
        )
        .activation(Activation::Relu)
        .grad_input(MatrixMut::contiguous(B::view_mut(&mut dx), m, k));
        assert_eq!(outcome(device, op.run(device)), Ok(()), "{m}, {n}, {k}");
    }
}

/// Checks functions that take sizes before validation: they saturate at the largest number, and
/// allocations of such sizes fail.
fn sizes_saturate<B: Backend>(device: &B) {
    let tables =
        TableBatch::one_feature_each(vec![table(1 << 40, 1 << 10), table(3, 1)], Pooling::Sum)
            .unwrap();
    assert!(
        Sort::<B, i64>::workspace_len(device, &tables, MAX)
            >= Sort::<B, i64>::workspace_len(device, &tables, 1 << 40)
    );
    Update::<B, f32, i64>::workspace_len(device, &tables, MAX);
    Merge::<B>::workspace_len(device, &tables, MAX);
    loss::Forward::<B>::workspace_len(device, MAX);
    for (m, n, k) in [
        (MAX, MAX, MAX),
        (MAX, 1, 1),
        (1, MAX, MAX),
        (0, MAX, MAX),
        (MAX, 0, MAX),
        (1 << 40, 1 << 40, 1 << 40),
    ] {
        linear::Backward::<B, f32>::workspace_len(device, m, n, k);
        linear::Backward::<B, bf16>::workspace_len(device, m, n, k);
        linear::Pack::<B, f32>::len(device, n, k);
        linear::Pack::<B, bf16>::len(device, n, k);
    }
    let (from, mut to) = (upload(device, &[1f32; 4]), device.alloc::<f32>(4).unwrap());
    let from = Matrix { data: B::view(&from), rows: MAX, cols: MAX, ld: MAX };
    let op = interaction::Forward::<B, f32>::new(
        Interaction::Cat,
        2,
        Features::Joined { block: from, has_dense: false },
        MatrixMut { data: B::view_mut(&mut to), rows: MAX, cols: 2, ld: MAX },
    );
    assert_eq!(op.bytes_moved(), MAX);
    for capacity in [MAX, 1 << 50] {
        assert!(
            SortedIndices::new(device, capacity, 1).is_err()
                && SortedIndices::new(device, 1, capacity).is_err()
        );
        assert!(SparseGrad::new(device, &tables, capacity).is_err());
    }
}

/// Checks models with an absurd size, and with sizes that are absurd only together.
fn models_that_do_not_fit_are_refused<B: Backend>(device: &B) {
    let with = |change: &dyn Fn(&mut DlrmConfig)| {
        let mut config = small();
        change(&mut config);
        config
    };
    let of_dim = |dim: usize| {
        move |config: &mut DlrmConfig| {
            config.bottom_mlp = vec![4, dim];
            config.tables.iter_mut().for_each(|table| table.embedding_dim = dim);
        }
    };
    let tables = vec![table(MAX >> 16, 1); 60_000];
    let absurd = [
        with(&of_dim(1 << 45)),
        with(&of_dim(MAX / 9)),
        with(&|config| config.bottom_mlp = vec![MAX, 4]),
        with(&|config| config.num_dense = MAX),
        with(&|config| config.top_mlp = vec![MAX >> 1, 1]),
        with(&|config| config.top_mlp = vec![1 << 33, 1 << 33, 1]),
        with(&|config| config.top_mlp = [&[1 << 30; 64][..], &[1]].concat()),
        with(&|config| config.tables[1].num_embeddings = 1 << 46),
        with(&|config| {
            let (order, include_self, append_sparse) = (PairOrder::LowerTriangle, true, true);
            config.interaction =
                Interaction::Dot { order, include_self, append_sparse, pad_to: MAX };
        }),
        with(&|config| (config.interaction, config.tables) = (Interaction::Cat, tables.clone())),
    ];
    for mut config in absurd {
        for dtype in [DType::F32, DType::F16] {
            config.table_dtype = dtype;
            match Dlrm::new(device.clone(), config.clone(), 1).map(|_| ()) {
                Err(Error::NotEnoughMemory { needed, free }) => {
                    assert!(needed > free && needed > 1 << 40, "{needed}, {free}")
                }
                Err(Error::InvalidArgument { op: "TableBatch", .. }) => (),
                other => panic!("{other:?} of {:?} and {:?}", config.bottom_mlp, config.top_mlp),
            }
            if config.parameter_shapes().is_ok() {
                let plan = MemoryPlan::for_predictions(&config, 3).unwrap();
                assert!(matches!(plan.check(device), Err(Error::NotEnoughMemory { .. })));
            }
        }
    }
    let needs = |batch_size, num_indices| {
        let (optimizers, config) = (&Optimizers::same(Optimizer::Sgd, 0.1), &small());
        let (has_averages, has_decay_scale, has_weights) = (true, true, true);
        let needs = MemoryNeeds {
            config,
            optimizers,
            has_averages,
            has_decay_scale,
            has_weights,
            batch_size,
            num_indices,
            id_bytes: 8,
        };
        MemoryPlan::new(device, needs).unwrap()
    };
    assert_eq!(needs(MAX, 5).total(), MAX);
    assert_eq!(needs(5, MAX).total(), MAX);
    assert!(
        needs(5, MAX).to_string().ends_with("2^64 or more bytes 17592186044416.0 MiB"),
        "{}",
        needs(5, MAX)
    );
    let [one, many] = [1, 1 << 40].map(|members| needs(8, 16).of_members(members).total());
    assert!(one < 1 << 20 && many > one << 39);
    assert_eq!(needs(8, 16).of_members(MAX).total(), MAX);
}

/// Checks that a batch of more samples than there are values is refused before buffers are made for
/// it.
fn batches_without_values_take_no_memory<B: Backend>(device: &B) {
    let mut model = Dlrm::new(device.clone(), small(), 1).unwrap();
    model.optimize_with(Optimizers::same(Optimizer::Sgd, 0.1)).unwrap();
    let (dense, indices) = (upload(device, &[0.5f32; 9]), upload(device, &[1i64; 6]));
    let offsets = upload(device, &[0i64, 1, 2, 3, 4, 5, 6]);
    let labels = upload(device, &[1f32; 3]);
    let mut train = |rows: usize, cols: usize| {
        let dense = Matrix { data: B::view(&dense), rows, cols, ld: cols };
        let batch =
            BatchView::new(dense, bags::<B>(rows, &indices, &offsets)).labels(B::view(&labels));
        model.loss_and_grad(batch, Accum::Replace)?;
        model.last_loss()
    };
    let right = train(3, 3).unwrap();
    for rows in [MAX, 1 << 62, 1 << 60, 1 << 33, 4] {
        let error = train(rows, 3).unwrap_err().to_string();
        assert!(error.starts_with("Dlrm: batch.dense."), "{error}");
        assert_eq!(train(3, 3).unwrap(), right);
    }
    assert_eq!(train(3, 2).unwrap_err().to_string(), "Dlrm: batch.dense.cols is 2, but must be 3");
}

fn parameters_are_known_before_there_is_a_model<B: Backend>(device: &B) {
    for table_dtype in [DType::F32, DType::BF16] {
        let config = DlrmConfig { table_dtype, ..small() };
        let tensors = Dlrm::new(device.clone(), config.clone(), 1).unwrap().tensors().unwrap();
        let expected =
            tensors.into_iter().map(|tensor| (tensor.name, tensor.dtype, tensor.shape)).collect();
        assert_eq!(config.parameter_shapes(), Ok(expected));
    }
}

/// Checks the initial parameters, which are drawn and uploaded in pieces: they are one stream of
/// random values.
#[test]
fn pieces_are_drawn_in_order() {
    // The first table and the layers are larger than a piece.
    let config = DlrmConfig {
        tables: vec![table(300_000, 4), table(11, 4)],
        table_init: TableInit::Uniform(0.5),
        top_mlp: vec![1030, 1025, 1],
        ..small()
    };
    let model = Dlrm::new(Cpu::on_current_thread(), config.clone(), 9).unwrap();
    let tensors = model.tensors().unwrap();
    let values = |name: &str| tensors.iter().find(|tensor| tensor.name == name).unwrap().to_f32();
    for t in 0..2 {
        let mut random = Philox::new(9, t);
        let expected: Vec<f32> = values(&format!("tables.{t}.weight"))
            .iter()
            .map(|_| ((2.0 * random.uniform() - 1.0) * f64::from(0.5f32)) as f32)
            .collect();
        assert_eq!(values(&format!("tables.{t}.weight")), expected);
    }
    let mut random = Philox::new(9, 1 << 32);
    let width = config.interaction_width();
    let sizes = [("bottom_mlp", [3, 5, 4].to_vec()), ("top_mlp", vec![width, 1030, 1025, 1])];
    for (mlp, sizes) in sizes {
        for (k, pair) in sizes.windows(2).enumerate() {
            let (inputs, outputs) = (pair[0] as f64, pair[1] as f64);
            let mut draw = |name: String, std: f64| {
                let values = values(&name);
                let expected: Vec<f32> =
                    values.iter().map(|_| (random.normal() * std) as f32).collect();
                assert_eq!(values, expected, "{name}");
            };
            draw(format!("{mlp}.{k}.weight"), (2.0 / (inputs + outputs)).sqrt());
            draw(format!("{mlp}.{k}.bias"), (1.0 / outputs).sqrt());
        }
    }
}

#[test]
fn columns_of_a_sample_are_added_up() {
    let batch = |dims: &[usize], times: usize| {
        let features =
            (0..dims.len()).flat_map(|t| vec![feature(t, Pooling::Sum); times]).collect();
        TableBatch::new(dims.iter().map(|&dim| table(1, dim)).collect(), features)
            .map(|tables| tables.width())
    };
    // 64 times 2^59 is 2^65.
    for (dims, times) in [
        (&[1 << 59][..], 64),
        (&[1 << 59], 2),
        (&[1 << 59, (1 << 59) - 1], 2),
        (&[7, 1 << 58], 1 << 6),
    ] {
        let error = batch(dims, times).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "TableBatch: features: the vectors of a sample do not fit into memory"
            ),
            "{error}"
        );
    }
    assert_eq!(batch(&[1 << 59, (1 << 59) - 1], 1), Ok((1 << 60) - 1));
    let rows = TableBatch::one_feature_each(vec![table(1 << 48, 1); 60_000], Pooling::Sum)
        .unwrap_err()
        .to_string();
    assert!(rows.contains("does not fit into memory with those before it"), "{rows}");
}

#[test]
fn widths_saturate() {
    for (include_self, pairs) in [(true, [0, 1, 15, MAX]), (false, [0, 0, 10, MAX])] {
        let (order, append_sparse) = (PairOrder::LowerTriangle, true);
        let dot = |pad_to| Interaction::Dot { order, include_self, append_sparse, pad_to };
        assert_eq!([0, 1, 5, MAX].map(|features| dot(1).num_pairs(features)), pairs);
        // The product of the neighbours does not fit into `usize`, and half of it does.
        let large = (1usize << 32) + 1;
        let exact = large as u128 * if include_self { large + 1 } else { large - 1 } as u128 / 2;
        assert_eq!(dot(1).num_pairs(large) as u128, exact);
        for (features, dim, pad_to) in [
            (MAX, 1, 1),
            (3, MAX, 1),
            (1 << 33, 1, 1),
            (3, 4, MAX - 1),
            (MAX, MAX, MAX),
            (1, MAX - 3, 8),
        ] {
            assert!(
                dot(pad_to).width(true, features, dim) >= MAX - 1,
                "{features}, {dim}, {pad_to}"
            );
        }
    }
    assert_eq!(
        [Interaction::Cat.width(true, MAX, 0), Interaction::Cat.width(true, MAX, 2)],
        [0, MAX]
    );
}

#[test]
fn more_threads_than_make_sense_are_refused_at_once() {
    let started = std::time::Instant::now();
    for threads in [16_000, MAX] {
        let error = Cpu::with_threads(threads).map(|_| ()).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot start {threads} worker threads: at most ")),
            "{error}"
        );
    }
    assert!(started.elapsed().as_secs_f64() < 1.0);
    assert_eq!(Cpu::with_threads(40).unwrap().num_threads(), 40);
}

/// Checks that tables with more columns than kernels can count, which do so in 32 bits, are
/// refused.
#[cfg(feature = "cuda")]
#[test]
fn tables_that_are_too_wide_for_kernels_are_refused() {
    use bagdot::ops::Device;
    crate::common::cuda::on_every_schedule(|cuda| {
        let most = i32::MAX as usize;
        let tables = |dim: usize, features: usize| {
            let tables =
                TableBatch::new(vec![table(1, dim)], vec![feature(0, Pooling::Sum); features])
                    .unwrap();
            cuda.tables(tables).map(|_| ())
        };
        assert_eq!(tables(most, 1), Ok(()));
        for (dim, features) in
            [(most + 1, 1), (1 << 32, 0), ((1 << 32) + 4, 1), (most / 2 + 1, 2), (1 << 59, 1)]
        {
            let error = tables(dim, features).unwrap_err().to_string();
            assert!(
                error.starts_with("Cuda: tables: ")
                    && error.ends_with("at most 2147483647 are possible"),
                "{error}"
            );
        }
    });
}

/// Checks that the free memory of a device is queried before anything is allocated on it.
#[cfg(feature = "cuda")]
#[test]
fn a_full_device_refuses_models() {
    use bagdot::ops::Device;
    let Some(emulator) = crate::common::cuda::emulator() else { return };
    let alone = emulator.exclusive();
    let cuda = crate::common::cuda::own();
    let used = alone.used_bytes(0);
    alone.set_memory(used + 500);
    assert_eq!(cuda.free_memory(), Some(500));
    let needed = MemoryPlan::for_predictions(&small(), 1).unwrap().total();
    let error = Dlrm::new(cuda.clone(), small(), 1).map(|_| ()).unwrap_err();
    assert_eq!(error, Error::NotEnoughMemory { needed, free: 500 });
    assert_eq!(alone.used_bytes(0), used);
    alone.set_memory(used + 100_000);
    assert!(Dlrm::new(cuda.clone(), small(), 1).is_ok());
}
