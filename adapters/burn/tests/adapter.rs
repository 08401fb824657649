//! The adapter against the same in burn alone, and against bagdot's ops.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;

use bagdot_burn::bagdot::backend::cpu::Buffer;
use bagdot_burn::bagdot::ops::embedding_bag::Forward;
use bagdot_burn::bagdot::ops::sparse_update::{self, Scratch};
use bagdot_burn::bagdot::ops::{
    Bags, Device as _, Feature, Interaction, MatrixMut, Optimizer, OptimizerState, PairOrder,
    Pooling, Rounding, StateOf, Table, TableBatch, UpdateRule, WeightDecay,
};
use bagdot_burn::bagdot::{Cpu, Error, OffsetRule, Philox, Result};
use bagdot_burn::{EmbeddingBagCollection, interaction};
use burn::backend::{Autodiff, Flex, GradientCheckpointingStrategy};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// The unit roundoff of `f32`.
const U: f32 = 1.0 / (1 << 24) as f32;
const DIM: usize = 4;
const ROWS: [usize; 2] = [7, 5];
const SAMPLES: usize = 3;
/// Duplicates within a bag and across bags, an empty bag, the first and the last row of each table.
/// Feature 1 shares table 0 with feature 0.
const IDS: [i64; 12] = [6, 0, 6, 3, 3, 6, 1, 0, 4, 4, 2, 0];
const OFFSETS: [i64; 10] = [0, 3, 3, 5, 6, 7, 8, 9, 10, 12];
const SGD: UpdateRule = UpdateRule {
    optimizer: Optimizer::Sgd,
    learning_rate: 0.5,
    step: 0,
    weight_decay: WeightDecay::None,
    rounding: Rounding::Nearest,
};

fn optimizers() -> [Optimizer; 4] {
    [
        Optimizer::Sgd,
        Optimizer::Adagrad { eps: 1e-8 },
        Optimizer::RowwiseAdagrad { eps: 1e-8 },
        Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
    ]
}

fn tables() -> TableBatch {
    let table = |num_embeddings| Table { num_embeddings, embedding_dim: DIM };
    let feature = |table, pooling| Feature { table, pooling, padding_idx: None };
    TableBatch::new(
        ROWS.map(table).to_vec(),
        vec![feature(0, Pooling::Sum), feature(0, Pooling::Mean), feature(1, Pooling::Mean)],
    )
    .unwrap()
}

fn collection(rule: UpdateRule) -> EmbeddingBagCollection {
    EmbeddingBagCollection::new(tables(), rule, 42).unwrap()
}

fn autodiff() -> Device {
    Device::flex().autodiff()
}

fn ints(values: &[i64], dtype: DType, device: &Device) -> Tensor<1, Int> {
    let data = TensorData::new(values.to_vec(), [values.len()]).convert_dtype(dtype);
    Tensor::from_data(data, (device, dtype))
}

/// The batch that most tests use.
fn batch(device: &Device) -> (Tensor<1, Int>, Tensor<1, Int>) {
    (ints(&IDS, DType::I64, device), ints(&OFFSETS, DType::I64, device))
}

fn drawn<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut random = Philox::new(seed, 0);
    let values: Vec<f32> =
        (0..shape.iter().product()).map(|_| random.uniform() as f32 - 0.5).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

/// The weights of all tables.
fn weights(collection: &EmbeddingBagCollection) -> Vec<f32> {
    (0..2).flat_map(|table| values(collection.table(table).unwrap())).collect()
}

fn expect_close<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>, bound: Tensor<D>) {
    let (got, want, bound) = (values(got), values(want), values(bound));
    assert_eq!(got.len(), want.len(), "{what}");
    for (k, ((got, want), bound)) in got.iter().zip(&want).zip(&bound).enumerate() {
        let error = (got - want).abs();
        assert!(
            error <= *bound,
            "{what}[{k}]: {got} and {want} are {error:e} apart, not {bound:e}"
        );
    }
}

/// The lookup in burn alone: `pooled = A W[ids]` for each feature, where `A` has the factor of each
/// id in the row of its sample, divided by the length of the bag for a mean.
fn pool_in_burn(tables: &[Tensor<2>; 2], factors: Option<Tensor<1>>) -> Tensor<2> {
    let device = tables[0].device();
    let features = [(0, false), (0, true), (1, true)].into_iter().enumerate();
    let pooled = features.map(|(f, (table, is_mean))| {
        let bounds = &OFFSETS[f * SAMPLES..=(f + 1) * SAMPLES];
        let (first, last) = (bounds[0] as usize, bounds[SAMPLES] as usize);
        let mut shares = vec![0.0_f32; SAMPLES * (last - first)];
        for sample in 0..SAMPLES {
            let (start, end) = (bounds[sample] as usize, bounds[sample + 1] as usize);
            for id in start..end {
                let share = if is_mean { 1.0 / (end - start) as f32 } else { 1.0 };
                shares[sample * (last - first) + id - first] = share;
            }
        }
        let shares = TensorData::new(shares, [SAMPLES, last - first]);
        let mut shares = Tensor::<2>::from_data(shares, &device);
        if let Some(factors) = &factors {
            shares = shares * factors.clone().slice(first..last).unsqueeze::<2>();
        }
        let ids = ints(&IDS[first..last], DType::I64, &device);
        shares.matmul(tables[table].clone().select(0, ids))
    });
    Tensor::cat(pooled.collect(), 1)
}

/// The interaction in burn alone.
fn interact_in_burn(kind: Interaction, dense: Tensor<2>, pooled: Tensor<2>) -> Tensor<2> {
    let all = Tensor::cat(vec![dense.clone(), pooled], 1);
    let [samples, width] = all.dims();
    let Interaction::Dot { .. } = kind else { return all };
    let features = width / DIM;
    let vectors: Tensor<3> = all.reshape([samples, features, DIM]);
    let products = vectors.clone().matmul(vectors.swap_dims(1, 2));
    let pairs: Vec<i64> = kind.pairs(features).map(|(i, j)| (i * features + j) as i64).collect();
    let pairs = ints(&pairs, DType::I64, &dense.device());
    let flat: Tensor<2> = products.reshape([samples, features * features]);
    Tensor::cat(vec![dense, flat.select(1, pairs)], 1)
}

/// The same tables, updated by bagdot's ops.
struct Direct {
    weights: Buffer<f32>,
    state: OptimizerState<Cpu>,
    scratch: Scratch<Cpu>,
    cpu: Cpu,
}

impl Direct {
    fn of(collection: &EmbeddingBagCollection, optimizer: Optimizer) -> Self {
        let cpu = Cpu::on_current_thread();
        Self {
            weights: cpu.to_device(&weights(collection)).unwrap(),
            state: OptimizerState::of_tables(&cpu, optimizer, &tables()).unwrap(),
            scratch: Scratch::new(&cpu).unwrap(),
            cpu,
        }
    }

    fn pool(&self) -> Vec<f32> {
        let (tables, mut pooled) = (tables(), vec![0.0; SAMPLES * 3 * DIM]);
        let output = MatrixMut::contiguous(&mut pooled, SAMPLES, 3 * DIM);
        let bags = Bags::new(SAMPLES, &IDS, &OFFSETS);
        Forward::new(&tables, &self.weights, bags, output).run(&self.cpu).unwrap();
        pooled
    }

    fn step(&mut self, grad: &[f32], rule: UpdateRule, factors: Option<&[f32]>) {
        let Self { weights, state, scratch, cpu } = self;
        let mut bags = Bags::new(SAMPLES, &IDS, &OFFSETS);
        if let Some(factors) = factors {
            bags = bags.weighted(factors);
        }
        sparse_update::step(cpu, &tables(), bags, grad, rule, weights, state, scratch).unwrap();
    }
}

#[test]
fn pooled_vectors_are_those_of_burn() -> Result<()> {
    let ours = collection(SGD);
    let tables = [ours.table(0)?, ours.table(1)?];
    let device = Device::flex();
    let want = pool_in_burn(&tables, None);
    // Either sum of n <= 3 products has an error of at most γₙ₊₁ Σ|product|; burn's mean has one
    // rounding more, that of the share. The sums of absolute products are those of burn, of which
    // the doubled bound covers the error.
    let bound = pool_in_burn(&tables.map(Tensor::abs), None) * (2.0 * 2.0 * 5.0 * U);
    let direct = Direct::of(&ours, Optimizer::Sgd).pool();
    for ids in [DType::I32, DType::I64, DType::U32] {
        for offsets in [DType::I32, DType::I64, DType::U32] {
            let (ids, offsets) = (ints(&IDS, ids, &device), ints(&OFFSETS, offsets, &device));
            let pooled = ours.forward(ids, offsets)?;
            assert_eq!(values(pooled.clone()), direct);
            expect_close("pooled", pooled, want.clone(), bound.clone());
        }
    }
    Ok(())
}

#[test]
fn ids_may_have_gaps() -> Result<()> {
    let ours = collection(SGD);
    let device = Device::flex();
    let backwards: Vec<i64> = IDS.iter().rev().copied().collect();
    let spread: Vec<i64> = OFFSETS.iter().flat_map(|&offset| [offset, -1]).collect();
    let flipped = ints(&backwards, DType::I32, &device).flip([0]);
    let column: Tensor<2, Int> = ints(&spread, DType::I64, &device).reshape([OFFSETS.len(), 2]);
    let (ids, offsets) = batch(&device);
    let want = values(ours.forward(ids, offsets)?);
    let got = ours.forward(flipped, column.swap_dims(0, 1).slice(0..1).flatten(0, 1))?;
    assert_eq!(values(got), want);

    // The ids lie behind an offset in their buffer.
    let longer: Vec<i64> = [-1].into_iter().chain(IDS).collect();
    let behind = ints(&longer, DType::I64, &device).slice(1..13);
    assert_eq!(values(ours.forward(behind, ints(&OFFSETS, DType::I32, &device))?), want);
    Ok(())
}

#[test]
fn an_empty_batch_steps_on_nothing() -> Result<()> {
    let ours = collection(SGD);
    let before = weights(&ours);
    let device = autodiff();
    let pooled =
        ours.forward(ints(&[], DType::I32, &device), ints(&[0; 4], DType::I32, &device))?;
    assert_eq!(values(pooled.clone()), [0.0; 3 * DIM]);
    pooled.sum().backward();
    ours.check()?;
    assert_eq!((weights(&ours), ours.steps()), (before, 1));
    // Memory that flex has made itself.
    let none = ours.forward(Tensor::zeros([0], &device), Tensor::zeros([1], &device))?;
    assert_eq!(none.dims(), [0, 3 * DIM]);
    Ok(())
}

#[test]
fn steps_are_those_of_burn() -> Result<()> {
    let ours = collection(SGD);
    let device = autodiff();
    let mut theirs = [ours.table(0)?, ours.table(1)?];
    // Each step has at most m = 9 contributions of a row, and as many products. Either sum of them
    // has an error of at most γₘ₊₃ Σ|contribution|, and the step `w - lr g` rounds twice. The sums
    // of absolute values are those of burn, of which the doubled bound covers the error.
    let mut bounds = theirs.clone().map(|table| table.zeros_like());
    for step in 0..3 {
        let scale = drawn([SAMPLES, 3 * DIM], step, &device);
        let (ids, offsets) = batch(&device);
        let loss = (ours.forward(ids, offsets)? * scale.clone()).sum();
        loss.backward();

        let gradient = |scale: Tensor<2>, tables: &[Tensor<2>; 2]| {
            let tables = tables.clone().map(|table| table.autodiff().require_grad());
            let grads = (pool_in_burn(&tables, None) * scale).sum().backward();
            tables.map(|table| table.grad(&grads).unwrap())
        };
        let grads = gradient(scale.clone(), &theirs);
        let sums = gradient(scale.abs(), &theirs);
        for (table, (grad, sums)) in grads.into_iter().zip(sums).enumerate() {
            let sums = sums * SGD.learning_rate;
            theirs[table] = theirs[table].clone() - grad * SGD.learning_rate;
            let rounded = theirs[table].clone().abs() + sums.clone();
            bounds[table] =
                bounds[table].clone() + (sums * (2.0 * 12.0 * U) + rounded * (2.0 * 2.0 * U)) * 2.0;
        }
    }
    for (table, (want, bound)) in theirs.into_iter().zip(bounds).enumerate() {
        expect_close("weights", ours.table(table)?, want, bound);
    }
    assert_eq!(ours.steps(), 3);
    Ok(())
}

#[test]
fn steps_are_those_of_bagdot() -> Result<()> {
    for optimizer in optimizers() {
        let rule = UpdateRule::new(optimizer, 0.1);
        let ours = collection(rule);
        let mut direct = Direct::of(&ours, optimizer);
        let (device, before) = (autodiff(), weights(&ours));
        for step in 1..=3 {
            let learning_rate = 0.1 / step as f32;
            ours.set_learning_rate(learning_rate);
            assert_eq!(ours.learning_rate(), learning_rate);
            let scale = drawn([SAMPLES, 3 * DIM], step, &device);
            let (ids, offsets) = batch(&device);
            let pooled = ours.forward(ids, offsets)?;
            assert_eq!(values(pooled.clone()), direct.pool(), "{optimizer:?}");
            (pooled * scale.clone()).sum().backward();
            ours.check()?;
            direct.step(&values(scale), UpdateRule { learning_rate, ..rule }, None);
            assert_eq!(weights(&ours)[..], direct.weights[..], "{optimizer:?}, step {step}");
            assert_eq!(ours.steps(), step);
        }
        // Rows 2, 4 and 5 of the first table and rows 1 and 3 of the second are in no bag.
        for (row, (old, new)) in before.chunks(DIM).zip(weights(&ours).chunks(DIM)).enumerate() {
            assert_eq!(old == new, [2, 4, 5, 8, 10].contains(&row), "{optimizer:?}, row {row}");
        }
    }
    Ok(())
}

#[test]
fn clones_share_the_tables() -> Result<()> {
    let ours = collection(SGD);
    let (ids, offsets) = batch(&autodiff());
    ours.clone().forward(ids, offsets)?.sum().backward();
    assert_eq!(ours.steps(), 1);
    assert_ne!(weights(&ours), weights(&collection(SGD)));
    Ok(())
}

#[test]
fn a_lookup_in_no_graph_steps_on_nothing() -> Result<()> {
    let ours = collection(SGD);
    let (before, device) = (weights(&ours), autodiff());
    let (ids, offsets) = batch(&Device::flex());
    assert!(!ours.forward(ids.clone(), offsets.clone())?.is_autodiff());
    // The same without autodiff, beside a layer that learns.
    let dense = drawn([SAMPLES, DIM], 1, &device).require_grad();
    let kind = Interaction::default();
    let output = ours.pooled_interaction(kind, dense.clone(), ids, offsets)?;
    assert!(dense.grad(&output.sum().backward()).is_some());
    // A graph whose backward pass never comes.
    let (ids, offsets) = batch(&device);
    assert!(ours.forward(ids, offsets)?.is_autodiff());
    assert_eq!((weights(&ours), ours.steps()), (before, 0));
    Ok(())
}

#[test]
fn two_lookups_in_a_graph_take_two_steps() -> Result<()> {
    let optimizer = Optimizer::Adagrad { eps: 1e-8 };
    let rule = UpdateRule::new(optimizer, 0.1);
    let (device, ours) = (autodiff(), collection(rule));
    let mut direct = Direct::of(&ours, optimizer);
    let [first, second] = [1, 2].map(|seed| drawn([SAMPLES, 3 * DIM], seed, &device));
    let (ids, offsets) = batch(&device);
    let a = ours.forward(ids.clone(), offsets.clone())?;
    let b = ours.forward(ids, offsets)?;
    assert_eq!(values(a.clone()), values(b.clone()));
    ((a * first.clone()).sum() + (b * second.clone()).sum()).backward();
    ours.check()?;
    // burn walks from the loss to the last input of each op first.
    direct.step(&values(second), rule, None);
    direct.step(&values(first), rule, None);
    assert_eq!(weights(&ours)[..], direct.weights[..]);
    assert_eq!(ours.steps(), 2);
    Ok(())
}

#[test]
fn pooled_vectors_that_are_used_twice_take_one_step() -> Result<()> {
    let optimizer = Optimizer::Adagrad { eps: 1e-8 };
    let rule = UpdateRule::new(optimizer, 0.1);
    let (device, ours) = (autodiff(), collection(rule));
    let mut direct = Direct::of(&ours, optimizer);
    let scale = drawn([SAMPLES, 3 * DIM], 1, &device);
    let (ids, offsets) = batch(&device);
    let pooled = ours.forward(ids, offsets)?;
    ((pooled.clone() * scale.clone()).sum() + (pooled * scale.clone()).sum()).backward();
    direct.step(&values(scale * 2.0), rule, None);
    assert_eq!(weights(&ours)[..], direct.weights[..]);
    assert_eq!(ours.steps(), 1);
    Ok(())
}

#[test]
fn checkpointed_graphs_take_the_same_step() -> Result<()> {
    let (ours, other) = (collection(SGD), collection(SGD));
    let (ids, offsets) = batch(&autodiff());
    let balanced = GradientCheckpointingStrategy::Balanced;
    let checkpointed = ids.clone().with_gradient_checkpointing_strategy(balanced);
    // Offsets in no graph are constants to the ids.
    let pooled = ours.forward(checkpointed.clone(), offsets.clone().without_autodiff())?;
    pooled.exp().sum().backward();
    other.forward(ids, offsets.clone())?.exp().sum().backward();
    assert_eq!(ours.steps(), 1);
    assert_eq!(weights(&ours), weights(&other));
    let error = ours.forward(checkpointed, offsets).unwrap_err();
    assert!(error.to_string().contains("checkpointing"), "{error}");
    Ok(())
}

#[test]
fn a_bad_id_is_an_error_with_its_place() -> Result<()> {
    let ours = collection(SGD);
    let (before, device) = (weights(&ours), autodiff());
    for bad in [5, -1] {
        let mut ids = IDS;
        // The second id of the bag of sample 2 of feature 2, which looks up table 1 of 5 rows.
        ids[11] = bad;
        let (ids, offsets) = (ints(&ids, DType::I64, &device), ints(&OFFSETS, DType::I64, &device));
        let dense = drawn([SAMPLES, DIM], 1, &device);
        let kind = Interaction::default();
        for error in [
            ours.forward(ids.clone(), offsets.clone()).unwrap_err(),
            ours.pooled_interaction(kind, dense, ids, offsets).unwrap_err(),
        ] {
            let Error::IndexOutOfRange { table, bag, position, value, num_embeddings, .. } = error
            else {
                panic!("{error}")
            };
            assert_eq!((table, bag, position, value, num_embeddings), (1, 8, 11, bad, 5));
        }
    }
    assert_eq!(weights(&ours), before);
    Ok(())
}

#[test]
fn wrong_arguments_are_errors() -> Result<()> {
    let ours = collection(SGD);
    let device = autodiff();
    let (ids, offsets) = batch(&device);
    let mut late = OFFSETS;
    late[9] = 13;
    let error = ours.forward(ids.clone(), ints(&late, DType::I64, &device)).unwrap_err();
    assert!(
        matches!(
            error,
            Error::InvalidOffsets { position: 9, value: 13, rule: OffsetRule::LastIs(12), .. }
        ),
        "{error}"
    );
    let message = |result: Result<Tensor<2>>| result.unwrap_err().to_string();
    let short = message(ours.forward(ids.clone(), offsets.clone().slice(0..9)));
    assert!(short.contains("3 features x 2 samples need 7 offsets"), "{short}");
    let none = message(ours.forward(ids.clone(), ints(&[], DType::I64, &device)));
    assert!(none.contains("need 1 offsets"), "{none}");
    let bytes = message(ours.forward(ids.clone().cast(DType::U8), offsets.clone()));
    assert!(bytes.contains("ids: of U8, but must be of I32, I64 or U32"), "{bytes}");
    let factors = Tensor::<1>::ones([11], &device);
    let factors = message(ours.forward_weighted(ids.clone(), offsets.clone(), factors));
    assert!(factors.contains("per_sample_weights is 11, but must be 12"), "{factors}");

    let (dense, kind) = (drawn([SAMPLES, DIM], 1, &device), Interaction::default());
    let doubles = dense.clone().cast(DType::F64);
    let doubles = message(interaction(kind, doubles, dense.clone()));
    assert!(doubles.contains("dense: of F64, but must be of F32"), "{doubles}");
    let rows = message(interaction(kind, dense.clone(), dense.clone().slice(0..2)));
    assert!(rows.contains("features.sparse.rows is 2, but must be 3"), "{rows}");
    let columns = message(interaction(kind, dense.clone(), drawn([SAMPLES, 6], 1, &device)));
    assert!(columns.contains("6 is no multiple of the dimension 4"), "{columns}");
    let wide = Interaction::Dot {
        order: PairOrder::default(),
        include_self: false,
        append_sparse: false,
        pad_to: 1 << 61,
    };
    let wide = interaction(wide, dense.clone(), dense.clone()).unwrap_err();
    assert!(matches!(wide, Error::OutOfMemory { .. }), "{wide}");
    let samples = message(ours.pooled_interaction(kind, dense.slice(0..2), ids, offsets));
    assert!(samples.contains("is 3, but must be 2"), "{samples}");

    let table = message(ours.table(2));
    assert!(table.contains("table: 2, but there are 2"), "{table}");
    let shape = ours.set_table(1, drawn([7, DIM], 1, &device)).unwrap_err();
    assert!(shape.to_string().contains("shape [7, 4], not [5, 4]"), "{shape}");
    let table = Table { num_embeddings: 3, embedding_dim: 2 };
    let max = TableBatch::one_feature_each(vec![table], Pooling::Max)?;
    let max = EmbeddingBagCollection::new(max, SGD, 1).unwrap_err();
    assert!(max.to_string().contains("pooled by max"), "{max}");
    Ok(())
}

#[test]
fn an_error_of_the_backward_pass_is_returned_by_the_next_call() -> Result<()> {
    let ours = collection(SGD);
    let (before, device) = (weights(&ours), autodiff());
    let (ids, offsets) = batch(&device);
    let fail = || -> Result<()> {
        ours.set_learning_rate(f32::NAN);
        ours.forward(ids.clone(), offsets.clone())?.sum().backward();
        ours.set_learning_rate(0.5);
        Ok(())
    };
    let is_named = |error: Error| {
        assert!(error.to_string().contains("rule.learning_rate: NaN"), "{error}");
    };
    fail()?;
    is_named(ours.forward(ids.clone(), offsets.clone()).unwrap_err());
    assert_eq!((weights(&ours), ours.steps()), (before, 0));
    fail()?;
    is_named(ours.table(0).unwrap_err());
    fail()?;
    is_named(ours.check().unwrap_err());
    ours.check()?;
    ours.forward(ids.clone(), offsets.clone())?.sum().backward();
    assert_eq!(ours.steps(), 1);
    Ok(())
}

#[test]
fn factors_have_a_gradient() -> Result<()> {
    let (ours, device) = (collection(SGD), autodiff());
    let mut direct = Direct::of(&ours, Optimizer::Sgd);
    let tables = [ours.table(0)?, ours.table(1)?];
    let factors = drawn([IDS.len()], 5, &device).require_grad();
    let scale = drawn([SAMPLES, 3 * DIM], 6, &device);
    let (ids, offsets) = batch(&device);
    // A layer before the factors: their gradient must go on.
    let pooled = ours.forward_weighted(ids, offsets, factors.clone() * 2.0)?;
    let grads = (pooled.clone() * scale.clone()).sum().backward();
    ours.check()?;

    let in_burn = |factors: Tensor<1>, scale: Tensor<2>, tables: [Tensor<2>; 2]| {
        let factors = factors.detach().require_grad();
        let pooled = pool_in_burn(&tables.map(Tensor::autodiff), Some(factors.clone() * 2.0));
        let grads = (pooled.clone() * scale).sum().backward();
        (pooled.inner(), factors.grad(&grads).unwrap())
    };
    let (want, grad) = in_burn(factors.clone(), scale.clone(), tables.clone());
    let (sums, grad_sums) =
        in_burn(factors.clone().abs(), scale.clone().abs(), tables.map(Tensor::abs));
    // A sum of at most 3 products of a share, a factor and a weight, and one of DIM products with
    // the share. Each has an error of at most γₖ Σ|product| for k = 3 + 3 and DIM + 3; sums of
    // absolute values are burn's, of which the doubled bound covers the error.
    expect_close("pooled", pooled.inner(), want, sums * (2.0 * 2.0 * 6.0 * U));
    let got = factors.grad(&grads).unwrap();
    expect_close("factors", got, grad, grad_sums * (2.0 * 2.0 * 7.0 * U));
    let doubled = values(factors * 2.0);
    direct.step(&values(scale), SGD, Some(&doubled));
    assert_eq!(weights(&ours)[..], direct.weights[..]);
    Ok(())
}

#[test]
fn interactions_are_those_of_burn() -> Result<()> {
    let device = autodiff();
    let dot = |order, include_self| Interaction::Dot {
        order,
        include_self,
        append_sparse: false,
        pad_to: 1,
    };
    for kind in [
        Interaction::Cat,
        dot(PairOrder::LowerTriangle, false),
        dot(PairOrder::LowerTriangle, true),
        dot(PairOrder::UpperTriangle, false),
        dot(PairOrder::UpperTriangle, true),
    ] {
        let dense = drawn([SAMPLES, DIM], 1, &device);
        let pooled = drawn([SAMPLES, 3 * DIM], 2, &device);
        let width = if kind == Interaction::Cat { 4 * DIM } else { kind.width(true, 3, DIM) };
        let scale = drawn([SAMPLES, width], 3, &device);
        let run = |of: &dyn Fn(Tensor<2>, Tensor<2>) -> Tensor<2>,
                   inputs: [Tensor<2>; 2],
                   scale: Tensor<2>| {
            let [dense, pooled] = inputs.map(|input| input.detach().require_grad());
            let output = of(dense.clone(), pooled.clone());
            let grads = (output.clone() * scale).sum().backward();
            [output.inner(), dense.grad(&grads).unwrap(), pooled.grad(&grads).unwrap()]
        };
        let inputs = [dense, pooled];
        let got = run(
            &|dense, pooled| interaction(kind, dense, pooled).unwrap(),
            inputs.clone(),
            scale.clone(),
        );
        let in_burn = |dense, pooled| interact_in_burn(kind, dense, pooled);
        let want = run(&in_burn, inputs.clone(), scale.clone());
        let sums = run(&in_burn, inputs.map(Tensor::abs), scale.abs());
        // A dot product has an error of at most γ_D Σ|term|, an element of a gradient one of at
        // most γ_{F+1} Σ|term|, here with D = 4 and F = 4, and in burn with one term more for each
        // of the two uses of a vector. Sums of absolute terms are burn's, of which the doubled
        // bound covers the error.
        let bounds = sums.map(|sums| sums * (2.0 * 2.0 * 7.0 * U));
        let names = ["output", "gradient of dense", "gradient of pooled"];
        for (((name, got), want), bound) in names.iter().zip(got).zip(want).zip(bounds) {
            expect_close(&format!("{kind:?}: {name}"), got, want, bound);
        }
    }
    Ok(())
}

#[test]
fn the_fused_op_gives_the_bits_of_both() -> Result<()> {
    let device = autodiff();
    let kind = Interaction::Dot {
        order: PairOrder::LowerTriangle,
        include_self: true,
        append_sparse: true,
        pad_to: 8,
    };
    let rule = UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 1e-8 }, 0.1);
    let run = |is_fused: bool, learns: bool| -> Result<[Vec<f32>; 3]> {
        let ours = collection(rule);
        let dense = drawn([SAMPLES, DIM], 1, &device).require_grad();
        let (ids, offsets) = batch(&if learns { device.clone() } else { Device::flex() });
        let output = match is_fused {
            true => ours.pooled_interaction(kind, dense.clone(), ids, offsets)?,
            false => interaction(kind, dense.clone(), ours.forward(ids, offsets)?)?,
        };
        let grads = output.clone().exp().sum().backward();
        ours.check()?;
        assert_eq!(ours.steps(), u64::from(learns));
        Ok([values(output.inner()), values(dense.grad(&grads).unwrap()), weights(&ours)])
    };
    for learns in [true, false] {
        assert_eq!(run(true, learns)?, run(false, learns)?);
    }
    // In no graph at all.
    let (ours, plain) = (collection(rule), Device::flex());
    let (dense, (ids, offsets)) = (drawn([SAMPLES, DIM], 1, &plain), batch(&plain));
    let output = ours.pooled_interaction(kind, dense, ids, offsets)?;
    assert!(!output.is_autodiff());
    assert_eq!(values(output), run(false, false)?[0]);
    Ok(())
}

#[test]
fn the_fused_op_keeps_the_pooled_vectors_of_a_large_batch() -> Result<()> {
    // More than a thread pools at once.
    let (samples, device) = (40_000, autodiff());
    let ids: Vec<i64> = (0..3 * samples).map(|k| (k * k % 5) as i64).collect();
    let offsets: Vec<i64> = (0..=3 * samples as i64).collect();
    let run = |is_fused: bool| -> Result<[Vec<f32>; 2]> {
        let (kind, ours) = (Interaction::default(), collection(SGD));
        let dense = drawn([samples, DIM], 1, &device).require_grad();
        let ids = ints(&ids, DType::I64, &device);
        let offsets = ints(&offsets, DType::I64, &device);
        let output = match is_fused {
            true => ours.pooled_interaction(kind, dense.clone(), ids, offsets)?,
            false => interaction(kind, dense.clone(), ours.forward(ids, offsets)?)?,
        };
        let grads = output.mean().backward();
        Ok([values(dense.grad(&grads).unwrap()), weights(&ours)])
    };
    assert!(run(true)? == run(false)?);
    Ok(())
}

#[test]
fn a_checkpoint_continues_with_the_same_bits() -> Result<()> {
    let optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let (rule, device) = (UpdateRule::new(optimizer, 0.1), autodiff());
    let train = |ours: &EmbeddingBagCollection, steps: std::ops::Range<u64>| -> Result<()> {
        for step in steps {
            let (ids, offsets) = batch(&device);
            let scale = drawn([SAMPLES, 3 * DIM], step, &device);
            (ours.forward(ids, offsets)? * scale).sum().backward();
        }
        ours.check()
    };
    let ours = collection(rule);
    train(&ours, 0..2)?;
    let other = EmbeddingBagCollection::new(tables(), rule, 7)?;
    for table in 0..2 {
        // A transposed tensor, whose rows are not in order.
        let weights = ours.table(table)?.swap_dims(0, 1);
        let weights: Tensor<2> = Tensor::from_data(weights.into_data(), &device);
        other.set_table(table, weights.swap_dims(0, 1))?;
    }
    let moments = ours.with_state(|state| match state {
        StateOf::Moments { first, second } => [first.to_vec(), second.to_vec()],
        _ => panic!("not the state of Adam"),
    });
    other.with_state(|state| match state {
        StateOf::Moments { mut first, mut second } => {
            first.copy_from_slice(&moments[0]);
            second.copy_from_slice(&moments[1]);
        }
        _ => panic!("not the state of Adam"),
    });
    other.set_steps(ours.steps());
    assert_eq!(other.steps(), 2);
    train(&ours, 2..5)?;
    train(&other, 2..5)?;
    assert_eq!(weights(&ours), weights(&other));
    assert_eq!((ours.steps(), other.steps()), (5, 5));
    Ok(())
}

#[test]
fn a_graph_without_a_backward_pass_lets_go_of_its_ids() -> Result<()> {
    let (ours, device) = (collection(SGD), autodiff());
    let (ids, offsets) = batch(&device);
    let holders = || {
        let ids = ids.clone().try_into_primitive::<Autodiff<Flex>>().unwrap();
        Arc::strong_count(&ids.data_arc())
    };
    let before = holders();
    drop(ours.forward(ids.clone(), offsets)?);
    assert_eq!(holders(), before + 1);
    // burn sweeps what has no tensor any more after each backward pass, unless a thread uses it.
    for _ in 0..100 {
        Tensor::<1>::ones([1], &device).require_grad().backward();
    }
    assert_eq!(holders(), before);
    Ok(())
}

#[test]
fn threads_may_share_a_collection() -> Result<()> {
    let ours = collection(SGD);
    let (ids, offsets) = batch(&Device::flex());
    let want = values(ours.forward(ids.clone(), offsets.clone())?);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    let pooled = ours.forward(ids.clone(), offsets.clone()).unwrap();
                    assert_eq!(values(pooled), want);
                }
            });
        }
    });
    let (ids, offsets) = batch(&autodiff());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let pooled = ours.forward(ids.clone(), offsets.clone()).unwrap();
                    pooled.sum().backward();
                }
            });
        }
    });
    ours.check()?;
    assert_eq!(ours.steps(), 100);
    Ok(())
}
