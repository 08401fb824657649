//! Tests of `sparse_update::step`, sort and update in one call, and of gradients on the host.

use crate::common::updates::{Backward, rules};
use crate::common::*;
use bagdot::ops::sparse_update::{self, RowGrad, Scratch, SparseGrad};
use bagdot::ops::{
    Backend, Bags, Optimizer, OptimizerState, Pooling, Rounding, Table, TableBatch, UpdateRule,
};
use bagdot::{Error, Jagged};

backend_suite!(cuda:
    steps_are_sorts_and_updates,
    steps_are_counted,
    steps_without_a_number_are_refused,
    max_pooling_needs_the_explicit_form,
    states_of_other_optimizers_are_refused,
    bad_ids_are_reported,
    gradients_come_to_the_host,
    jagged_batches_go_to_a_device,
);

const ADAM: Optimizer = Optimizer::Adam { beta1: 0.9, beta2: 0.999, eps: 1e-8 };

/// Returns a small and a large batch of the same tables, in the order of their steps: the scratch
/// grows for the second, and has room to spare for the third.
fn batches() -> [BagCase; 3] {
    let large = BagCase::mixed(Pooling::Sum);
    let small = |name: &str| {
        let mut case = large.clone();
        case.name = name.into();
        case.batch_size = 2;
        let bags = case.features.len() * 2;
        case.offsets = (0..=bags).collect();
        case.indices = (0..bags as i64).map(|k| k % 7 + 1).collect();
        case
    };
    [small("small"), large.clone(), small("small again")]
}

/// Compares the weights after each step with those of [`Backward::update`], to the bit.
fn steps_are_sorts_and_updates<B: Backend>(device: &B) {
    for rule in rules() {
        let cases = batches();
        let layout = cases[0].layout();
        let tables = device.tables(layout.clone()).unwrap();
        let mut weights = upload(device, &cases[0].weights::<f32>());
        let mut state = OptimizerState::of_tables(device, rule.optimizer, &layout).unwrap();
        let mut scratch = Scratch::new(device).unwrap();
        let mut want_weights = download(device, &weights);
        let mut want_state =
            rule.optimizer.state_len(layout.num_rows(), layout.num_weights()).map(|n| vec![0.0; n]);
        for (case, number) in cases.iter().zip(1..) {
            let bags = case.upload::<B, i64>(device);
            let grad = upload(device, &case.grad_output());
            sparse_update::step(
                device,
                &tables,
                bags.view(),
                B::view(&grad),
                rule.at_step(0),
                B::view_mut(&mut weights),
                &mut state,
                &mut scratch,
            )
            .unwrap();
            device.synchronize().unwrap();
            let backward = Backward::<B, i64>::new(device, case, &case.grad_output(), None);
            let rule = rule.at_step(number);
            (want_weights, want_state) =
                backward.update(device, case, rule, &want_weights, &want_state);
            let what = format!("{}, {rule:?}", case.name);
            assert_same_bits(&what, &download(device, &weights), &want_weights);
        }
        assert_eq!(state.steps(), 3);
    }
}

/// Two tables of two rows of one column, and a batch of two samples: the bags [0] and [1], [1] and
/// [1].
struct Small<B: Backend> {
    tables: B::Tables,
    weights: B::Buffer<f32>,
    grad: B::Buffer<f32>,
    ids: B::Buffer<i64>,
    state: OptimizerState<B>,
    scratch: Scratch<B>,
}

impl<B: Backend> Small<B> {
    fn new(device: &B, pooling: Pooling, optimizer: Optimizer) -> Self {
        let table = Table { num_embeddings: 2, embedding_dim: 1 };
        let layout = TableBatch::one_feature_each(vec![table; 2], pooling).unwrap();
        Self {
            state: OptimizerState::of_tables(device, optimizer, &layout).unwrap(),
            tables: device.tables(layout).unwrap(),
            weights: device.to_device(&[1.0; 4]).unwrap(),
            grad: device.to_device(&[0.5, 0.25, 0.125, 1.0]).unwrap(),
            ids: device.to_device(&[0, 1, 1, 1]).unwrap(),
            scratch: Scratch::new(device).unwrap(),
        }
    }

    fn step(&mut self, device: &B, rule: UpdateRule) -> bagdot::Result<()> {
        let Self { tables, weights, grad, ids, state, scratch } = self;
        let bags = Bags::of_length(2, B::view(ids), 1);
        let (grad, weights) = (B::view(grad), B::view_mut(weights));
        let result = sparse_update::step(device, tables, bags, grad, rule, weights, state, scratch);
        outcome(device, result)
    }
}

/// Checks that Adam corrects its moments by the number of the step: the second step of a constant
/// gradient is as long as the first, and both are as long as the learning rate.
fn steps_are_counted<B: Backend>(device: &B) {
    let mut small = Small::new(device, Pooling::Sum, ADAM);
    let rule = UpdateRule::new(ADAM, 0.25);
    for steps in 1..=2 {
        assert_eq!(small.step(device, rule), Ok(()));
        assert_eq!(small.state.steps(), steps);
        // The gradient is 0.125 at least, so that `eps` shortens a step by a factor of at most
        // 1 - 8e-8; moments and their corrections round a few times.
        let want = 1.0 - 0.25 * steps as f32;
        let got = download(device, &small.weights);
        // The batch looks up every row but the first of the second table.
        let off = |(weight, want): (&f32, f32)| (weight - want).abs();
        let most = got.iter().zip([want, want, 1.0, want]).map(off).fold(0.0, f32::max);
        assert!(most < 1e-5, "{got:?}");
    }
    // A rule that has a number says which step it is.
    assert_eq!(small.step(device, rule.at_step(10)), Ok(()));
    assert_eq!(small.state.steps(), 10);
}

fn steps_without_a_number_are_refused<B: Backend>(device: &B) {
    let case = BagCase::mixed(Pooling::Sum);
    let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
    let layout = case.layout();
    for rule in [
        UpdateRule::new(ADAM, 0.1),
        UpdateRule {
            rounding: Rounding::Stochastic { seed: 1 },
            ..UpdateRule::new(Optimizer::Sgd, 0.1)
        },
    ] {
        let mut state = OptimizerState::of_tables(device, rule.optimizer, &layout).unwrap();
        let mut weights = upload(device, &case.weights::<f32>());
        let words = sparse_update::Update::<B, f32, i64>::workspace_len(
            device,
            &layout,
            case.indices.len(),
        );
        let mut workspace = device.alloc(words).unwrap();
        let update = sparse_update::Update::new(
            backward.source(),
            rule,
            B::view_mut(&mut weights),
            state.view_mut(),
            B::view_mut(&mut workspace),
        );
        let text = message(update.run(device));
        assert!(text.starts_with("sparse_update.update: rule.step: not given"), "{text}");
    }
}

fn max_pooling_needs_the_explicit_form<B: Backend>(device: &B) {
    let mut small = Small::new(device, Pooling::Max, Optimizer::Sgd);
    let text = message(small.step(device, UpdateRule::new(Optimizer::Sgd, 0.5)));
    assert!(text.contains("tables: a feature is pooled by max: use `Sort`"), "{text}");
    assert_eq!((download(device, &small.weights), small.state.steps()), (vec![1.0; 4], 0));
}

/// Checks that the state of one optimizer is not taken for that of another.
fn states_of_other_optimizers_are_refused<B: Backend>(device: &B) {
    let adagrad = Optimizer::Adagrad { eps: 1e-8 };
    for (of, optimizer) in [(ADAM, adagrad), (adagrad, ADAM), (ADAM, Optimizer::Sgd)] {
        let mut small = Small::new(device, Pooling::Sum, of);
        let text = message(small.step(device, UpdateRule::new(optimizer, 0.5)));
        assert!(text.contains("state: it is not the state of"), "{text}");
        assert_eq!((download(device, &small.weights), small.state.steps()), (vec![1.0; 4], 0));
    }
}

fn bad_ids_are_reported<B: Backend>(device: &B) {
    let mut small = Small::new(device, Pooling::Sum, Optimizer::Sgd);
    small.ids = device.to_device(&[0, 1, 5, 1]).unwrap();
    match small.step(device, UpdateRule::new(Optimizer::Sgd, 0.5)) {
        Err(Error::IndexOutOfRange {
            table: 1, bag: 2, position: 2, value: 5, count: 1, ..
        }) => {}
        other => panic!("{other:?}"),
    }
}

/// Checks the rows of a gradient that has been copied to the host, against the reference.
fn gradients_come_to_the_host<B: Backend>(device: &B) {
    for case in [BagCase::mixed(Pooling::Sum), batches()[0].clone()] {
        let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
        let mut grad = SparseGrad::new(device, &case.layout(), case.indices.len()).unwrap();
        assert!(grad.to_host(device).unwrap().is_empty(), "nothing has been summed");
        backward.reduce(device, &mut grad).unwrap();
        let rows = grad.to_host(device).unwrap();
        assert_eq!(rows.len(), backward.expected.len());
        for (RowGrad { table, row, values }, (want, sums)) in rows.iter().zip(&backward.expected) {
            assert_eq!((table, row), *want, "{}", case.name);
            assert_close(&case.name, values, sums);
        }
    }
}

fn jagged_batches_go_to_a_device<B: Backend>(device: &B) {
    let jagged = Jagged::from_lengths(vec![7_i32, 9, 7], &[2, 0, 1], 3).unwrap();
    let jagged = jagged.with_per_sample_weights(vec![0.5, 1.0, 2.0]).unwrap();
    let owned = jagged.to_device(device).unwrap();
    let bags = owned.view();
    assert_eq!((bags.batch_size, bags.has_slack), (3, false));
    assert_eq!(download_view(device, bags.indices), [7, 9, 7]);
    assert_eq!(download_view(device, bags.per_sample_weights.unwrap()), [0.5, 1.0, 2.0]);
}
