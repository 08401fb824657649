//! Tests of tables in memory of their own: results are the bits of tables in one buffer, and the
//! gaps between rows stay as they are.

use crate::common::updates::{Backward, State, rules, state_values};
use crate::common::*;
use bagdot::ops::pooled_interaction::{self, Interact};
use bagdot::ops::sparse_update::{Apply, Reduce, SparseGrad, Update};
use bagdot::ops::{
    Backend, Interaction, Matrix, MatrixMut, Optimizer, OptimizerStateMut, Pooling, Rounding,
    SeparateTables, SeparateTablesMut, TableStateMut, TableValues, TableValuesMut, UpdateRule,
    embedding_bag,
};
use bagdot::{Element, bf16, f16};

backend_suite!(cuda:
    lookups_give_the_same_bits,
    fused_lookups_give_the_same_bits,
    updates_give_the_same_bits,
    updates_with_random_bits_give_the_same_bits,
    wrong_matrices_are_refused,
);

/// The gaps between rows, in elements: none, one that keeps rows from vectors, one that does not.
const GAPS: [usize; 3] = [0, 1, 8];

/// Values of all tables, each in a buffer of its own.
struct Apart<B: Backend, T: Poison>(Vec<(Grid<T>, B::Buffer<T>)>);

impl<B: Backend, T: Poison> Apart<B, T> {
    /// Cuts values that follow each other into those of tables with so many rows and columns.
    fn new(device: &B, shapes: &[(usize, usize)], gap: usize, mut values: &[T]) -> Self {
        let table = |&(rows, cols): &(usize, usize)| {
            let (first, rest) = values.split_at(rows * cols);
            values = rest;
            let grid = Grid::new(rows, cols, gap, first);
            let buffer = grid.upload(device);
            (grid, buffer)
        };
        Self(shapes.iter().map(table).collect())
    }

    fn views(&self) -> Vec<Matrix<'_, B, T>> {
        self.0.iter().map(|(grid, buffer)| grid.view(buffer)).collect()
    }

    fn views_mut(&mut self) -> Vec<MatrixMut<'_, B, T>> {
        self.0.iter_mut().map(|(grid, buffer)| grid.view_mut(buffer)).collect()
    }

    /// Returns the values one after another. Fails unless the gaps are still poisoned.
    fn download(&self, device: &B) -> Vec<T> {
        self.0.iter().flat_map(|(grid, buffer)| grid.download(device, buffer)).collect()
    }
}

/// Returns the rows and columns of each table.
fn shapes(case: &BagCase) -> Vec<(usize, usize)> {
    case.tables.iter().map(|table| (table.num_embeddings, table.embedding_dim)).collect()
}

/// Cases with one and several tables, narrow and wide rows, rows that vectors fit and others.
fn cases(pooling: Pooling) -> Vec<BagCase> {
    let wide = BagCase::new(
        "wide",
        (&[(50, 64), (40, 8), (30, 128)], &[0, 1, 2, 1].map(|table| feature(table, pooling))),
        &[3; 4 * 33],
        uniform,
    );
    vec![BagCase::mixed(pooling), wide]
}

/// Returns the pooled output of a case, and the gradient of its per-sample weights unless a feature
/// is pooled by max.
fn look_up<B: Backend, E: Element>(
    device: &B,
    case: &BagCase,
    weights: &TableValues<'_, B, E>,
) -> (Vec<f32>, Vec<f32>) {
    let bags = case.upload::<B, i64>(device);
    let (rows, width) = (case.batch_size, case.width());
    let mut pooled = upload(device, &poisoned::<f32>(rows * width));
    let output = MatrixMut::contiguous(B::view_mut(&mut pooled), rows, width);
    embedding_bag::Forward::new(&bags.tables, weights.clone(), bags.view(), output)
        .run(device)
        .unwrap();
    let mut grads = upload(device, &poisoned::<f32>(case.indices.len()));
    if !case.layout().has_max() {
        let grad = upload(device, &case.grad_output());
        let grad = Matrix::contiguous(B::view(&grad), rows, width);
        let grads = B::view_mut(&mut grads);
        embedding_bag::WeightGrad::new(&bags.tables, weights.clone(), bags.view(), grad, grads)
            .run(device)
            .unwrap();
    }
    device.synchronize().unwrap();
    (download(device, &pooled), download(device, &grads))
}

fn lookups_give_the_same_bits<B: Backend>(device: &B) {
    fn check<B: Backend, E: Stored + Poison>(device: &B) {
        for case in [Pooling::Sum, Pooling::Mean, Pooling::Max].into_iter().flat_map(cases) {
            let values = case.weights::<E>();
            let joined = upload(device, &values);
            let want = look_up(device, &case, &TableValues::Joined(B::view(&joined)));
            for gap in GAPS {
                let apart = Apart::<B, E>::new(device, &shapes(&case), gap, &values);
                let tables = SeparateTables::new(device, &case.layout(), apart.views()).unwrap();
                let got = look_up(device, &case, &(&tables).into());
                let what = format!("{}, gap {gap}", case.name);
                assert_same_bits(&what, &got.0, &want.0);
                // The order of a dot product depends on the alignment of rows.
                if !case.layout().has_max() {
                    let grad_output = exact(&case.grad_output());
                    let want = reference::bag_weight_grad(&case, &exact(&values), &grad_output);
                    assert_close(&what, &got.1, &want);
                }
            }
        }
    }
    check::<B, f32>(device);
    check::<B, f16>(device);
    check::<B, bf16>(device);
}

fn fused_lookups_give_the_same_bits<B: Backend>(device: &B) {
    let case = BagCase::new(
        "fused",
        (&[(50, 16), (40, 16)], &[feature(0, Pooling::Sum), feature(1, Pooling::Mean)]),
        &[2; 2 * 17],
        uniform,
    );
    let values = case.weights::<f32>();
    let bags = case.upload::<B, i64>(device);
    let dense = upload(device, &draw(17 * 16, 5));
    let run = |weights: TableValues<'_, B, f32>| {
        let interaction = Interaction::default();
        let width = interaction.width(true, 2, 16);
        let mut pooled = upload(device, &poisoned::<f32>(17 * 32));
        let mut output = upload(device, &poisoned::<f32>(17 * width));
        let lookup = embedding_bag::Forward::new(
            &bags.tables,
            weights,
            bags.view(),
            MatrixMut::contiguous(B::view_mut(&mut pooled), 17, 32),
        );
        let dense = Matrix::contiguous(B::view(&dense), 17, 16);
        let output_view = MatrixMut::contiguous(B::view_mut(&mut output), 17, width);
        let interact = Interact::new(interaction, 16, dense, output_view);
        pooled_interaction::Forward { lookup, interact }.run(device).unwrap();
        download(device, &output)
    };
    let joined = upload(device, &values);
    let want = run(B::view(&joined).into());
    let apart = Apart::<B, f32>::new(device, &shapes(&case), 1, &values);
    let tables = SeparateTables::new(device, &case.layout(), apart.views()).unwrap();
    assert_same_bits("fused", &run((&tables).into()), &want);
}

/// The weights and both kinds of state after a step.
type Stepped<E> = (Vec<E>, [Vec<f32>; 2]);

/// Takes a step in one op, or in two with the gradient in memory, with weights and state in one
/// buffer each.
fn step_joined<B: Backend, E: Stored>(
    device: &B,
    backward: &Backward<B, i64>,
    (case, rule, in_two): (&BagCase, UpdateRule, bool),
    (weights, state): (&[E], &[Vec<f32>; 2]),
) -> Stepped<E> {
    let mut weights = upload(device, weights);
    let mut state = State::new(device, state);
    let states = state.view_mut(rule.optimizer).into();
    take_step(device, backward, (case, rule, in_two), B::view_mut(&mut weights).into(), states);
    (download(device, &weights), state.download(device))
}

/// Does what [`step_joined`] does, with a buffer for each table.
fn step_apart<B: Backend, E: Stored + Poison>(
    device: &B,
    backward: &Backward<B, i64>,
    (case, rule, in_two): (&BagCase, UpdateRule, bool),
    (weights, state): (&[E], &[Vec<f32>; 2]),
    gap: usize,
) -> Stepped<E> {
    let layout = case.layout();
    let mut weights = Apart::<B, E>::new(device, &shapes(case), gap, weights);
    let mut of_state = shapes(case);
    if let Optimizer::RowwiseAdagrad { .. } = rule.optimizer {
        of_state.iter_mut().for_each(|(_, cols)| *cols = 1);
    }
    let [first, second] = state;
    let is_there = |values: &Vec<f32>| !values.is_empty();
    let [mut first, mut second] = [first, second].map(|values| {
        let shapes = if is_there(values) { &of_state[..] } else { &[] };
        Apart::<B, f32>::new(device, shapes, gap, values)
    });
    {
        let mut weights = SeparateTablesMut::new(device, &layout, weights.views_mut()).unwrap();
        match rule.optimizer {
            Optimizer::Sgd => {
                let state = OptimizerStateMut::None.into();
                take_step(device, backward, (case, rule, in_two), (&mut weights).into(), state);
            }
            Optimizer::Adagrad { .. } | Optimizer::RowwiseAdagrad { .. } => {
                let mut sums = SeparateTablesMut::new(device, &layout, first.views_mut()).unwrap();
                let state = TableStateMut::SumOfSquares((&mut sums).into());
                take_step(device, backward, (case, rule, in_two), (&mut weights).into(), state);
            }
            Optimizer::Adam { .. } => {
                let mut first = SeparateTablesMut::new(device, &layout, first.views_mut()).unwrap();
                let mut second =
                    SeparateTablesMut::new(device, &layout, second.views_mut()).unwrap();
                let (first, second) = ((&mut first).into(), (&mut second).into());
                let state = TableStateMut::Moments { first, second };
                take_step(device, backward, (case, rule, in_two), (&mut weights).into(), state);
            }
        }
    }
    (weights.download(device), [first.download(device), second.download(device)])
}

fn take_step<B: Backend, E: Element>(
    device: &B,
    backward: &Backward<B, i64>,
    (case, rule, in_two): (&BagCase, UpdateRule, bool),
    weights: TableValuesMut<'_, B, E>,
    state: TableStateMut<'_, B>,
) {
    let (layout, n) = (case.layout(), case.indices.len());
    let words = Update::<B, E, i64>::workspace_len(device, &layout, n)
        .max(Reduce::<B, i64>::workspace_len(device, &layout, n));
    let mut workspace = upload(device, &poisoned::<u64>(words));
    let scale = upload(device, &vec![0.5_f32; layout.num_rows()]);
    if in_two {
        let mut grad = SparseGrad::new(device, &layout, n).unwrap();
        Reduce::new(backward.source(), &mut grad, B::view_mut(&mut workspace)).run(device).unwrap();
        let apply = Apply::new(&backward.bags.tables, &grad, rule, weights, state);
        apply.decay_scale(B::view(&scale)).run(device).unwrap();
    } else {
        let words = B::view_mut(&mut workspace);
        let update = Update::new(backward.source(), rule, weights, state, words);
        update.decay_scale(B::view(&scale)).run(device).unwrap();
    }
    device.synchronize().unwrap();
}

/// Compares steps on tables apart with those on tables in one buffer.
fn compare_steps<B: Backend, E: Stored + Poison>(
    device: &B,
    case: &BagCase,
    rule: UpdateRule,
    gaps: &[usize],
) {
    let backward = Backward::<B, i64>::new(device, case, &case.grad_output(), None);
    let values = case.weights::<E>();
    let state = state_values(rule.optimizer, case.num_rows(), case.num_weights());
    for in_two in [false, true] {
        let how = (case, rule, in_two);
        let want = step_joined(device, &backward, how, (&values, &state));
        assert!(want.0 != values, "the step changes weights");
        for &gap in gaps {
            let got = step_apart(device, &backward, how, (&values, &state), gap);
            let what = format!("{}, {rule:?}, gap {gap}, in two {in_two}", case.name);
            assert_same_bits(&what, &got.0, &want.0);
            assert_same_bits(&what, &got.1[0], &want.1[0]);
            assert_same_bits(&what, &got.1[1], &want.1[1]);
        }
    }
}

fn updates_give_the_same_bits<B: Backend>(device: &B) {
    for case in [Pooling::Mean, Pooling::Max].into_iter().flat_map(cases) {
        for rule in rules().into_iter().step_by(2) {
            compare_steps::<B, f32>(device, &case, rule, &GAPS);
        }
    }
}

fn updates_with_random_bits_give_the_same_bits<B: Backend>(device: &B) {
    let adagrad = Optimizer::RowwiseAdagrad { eps: 0.25 };
    let rule = UpdateRule::new(adagrad, 0.1).at_step(3);
    let rule = UpdateRule { rounding: Rounding::Stochastic { seed: 9 }, ..rule };
    for case in cases(Pooling::Sum) {
        compare_steps::<B, bf16>(device, &case, rule, &GAPS[..2]);
        compare_steps::<B, f16>(device, &case, rule, &GAPS[..2]);
    }
}

fn wrong_matrices_are_refused<B: Backend>(device: &B) {
    let case = cases(Pooling::Sum).pop().unwrap();
    let apart = Apart::<B, f32>::new(device, &shapes(&case), 0, &case.weights());
    let layout = case.layout();
    let refused = |values| SeparateTables::new(device, &layout, values).err().unwrap().to_string();
    let mut views = apart.views();
    views.pop();
    assert_eq!(refused(views), "SeparateTables: values is 2, but must be 3");
    let mut views = apart.views();
    views[1].rows = 39;
    let text = refused(views);
    assert!(text.contains("values: table 1: SeparateTables: values.rows is 39"), "{text}");
    let mut views = apart.views();
    views[2].ld = 130;
    let text = refused(views);
    assert!(text.contains("table 2: SeparateTables: values.data holds 3840 elements"), "{text}");

    // Ops refuse tables that were made for others, and state where weights are wanted.
    let bags = case.upload::<B, i64>(device);
    let mut pooled = upload(device, &poisoned::<f32>(case.batch_size * case.width()));
    let mut look_up = |weights: TableValues<'_, B, f32>| {
        let pooled = B::view_mut(&mut pooled);
        let output = MatrixMut::contiguous(pooled, case.batch_size, case.width());
        message(embedding_bag::Forward::new(&bags.tables, weights, bags.view(), output).run(device))
    };
    let other = BagCase::mixed(Pooling::Sum);
    let others = Apart::<B, f32>::new(device, &shapes(&other), 0, &other.weights());
    let others = SeparateTables::new(device, &other.layout(), others.views()).unwrap();
    assert_eq!(look_up((&others).into()), "embedding_bag.forward: weights: made for other tables");
    let mut swapped = case.clone();
    swapped.features.swap(0, 1);
    let swapped = SeparateTables::new(device, &swapped.layout(), apart.views()).unwrap();
    assert_eq!(
        look_up((&swapped).into()),
        "embedding_bag.forward: weights: made for features of other tables"
    );
    let rows = shapes(&case).iter().map(|&(rows, _)| (rows, 1)).collect::<Vec<_>>();
    let sums = Apart::<B, f32>::new(device, &rows, 0, &draw(case.num_rows(), 3));
    let sums = SeparateTables::new(device, &layout, sums.views()).unwrap();
    assert_eq!(
        look_up((&sums).into()),
        "embedding_bag.forward: weights: table 0 has 1 columns, but must have 64"
    );
}
