//! Tests of `sparse_update`: each wrong argument gives an error that names it, and nothing is
//! written.

use crate::common::updates::{Backward, merge, poisoned_grad};
use crate::common::*;
use bagdot::Error;
use bagdot::ops::index_sort::{IndexSortOps, Sort, SortedIndices};
use bagdot::ops::sparse_update::{
    Apply, Merge, PooledGrad, Reduce, SparseGrad, SparseUpdateOps, Update,
};
use bagdot::ops::{Optimizer, OptimizerStateMut, Pooling, Rounding, UpdateRule, WeightDecay};

backend_suite!(
    cuda:
    reduce_names_what_is_wrong,
    merge_names_what_is_wrong,
    apply_and_update_name_what_is_wrong,
    gradients_of_other_tables_are_refused,
    a_failed_sort_leaves_no_order,
);

type Spoil<B> = for<'a> fn(&mut PooledGrad<'a, B, i64>, &'a Spare<B>);

/// The orders and values that spoilt arguments view.
struct Spare<B: IndexSortOps + SparseUpdateOps> {
    /// An order of which nothing has been sorted.
    sorted: SortedIndices<B>,
    /// The order of a batch with one id less.
    fewer: SortedIndices<B>,
    /// The order of the same ids for a feature without padding.
    other: SortedIndices<B>,
    values: B::Buffer<f32>,
}

impl<B: IndexSortOps + SparseUpdateOps> Spare<B> {
    fn new(device: &B, case: &BagCase) -> Self {
        let order = |case: &BagCase| {
            Backward::<B, i64>::new(device, case, &case.grad_output(), None).sorted
        };
        let (mut fewer, mut other) = (case.clone(), case.clone());
        fewer.indices.pop();
        *fewer.offsets.last_mut().unwrap() -= 1;
        other.features[1].padding_idx = None;
        Self {
            sorted: SortedIndices::new(device, case.indices.len(), 165).unwrap(),
            fewer: order(&fewer),
            other: order(&other),
            values: device.alloc(10_000).unwrap(),
        }
    }
}

#[track_caller]
fn assert_poisoned<B: IndexSortOps + SparseUpdateOps>(device: &B, grad: &SparseGrad<B>) {
    assert!(download_view(device, grad.rows()).iter().all(|&x| x == u64::POISON));
    assert!(download_view(device, grad.starts()).iter().all(|&x| x == u64::POISON));
    assert!(
        download_view(device, grad.values()).iter().all(|&x| x.to_bits() == f32::POISON.to_bits())
    );
    assert_eq!(download_view(device, grad.counts()), [0]);
}

/// Returns functions that spoil the source of a gradient, each with the start of its error.
fn spoilt_sources<B: IndexSortOps + SparseUpdateOps>(n: usize) -> Vec<(Spoil<B>, String)> {
    vec![
        (
            |s, _| s.argmax = None,
            "argmax: needed, since a feature is pooled by max: `embedding_bag::Forward::argmax`"
                .into(),
        ),
        (|s, _| s.argmax.as_mut().unwrap().rows = 32, "argmax.rows is 32, but must be 33".into()),
        (|s, _| s.grad_output.rows = 34, "grad_output.rows is 34, but must be 33".into()),
        (|s, _| s.grad_output.ld = 3, "grad_output.ld: 3 is less than the 160 columns".into()),
        (
            |s, g| s.grad_output.data = B::slice(&g.values, 0..9),
            "grad_output.data holds 9 elements".into(),
        ),
        (|s, _| s.max_gradient = Some(f32::NAN), "max_gradient: NaN, but must be 0 or more".into()),
        (
            |s, _| s.loss_scale = 3.0,
            "loss_scale: 3, but must be a power of two from 2^-126 to 2^126".into(),
        ),
        (
            |s, _| s.bags.batch_size = 32,
            "bags.offsets: 166 of them, but 5 features x 32 samples need 161 offsets, one more \
             than bags"
                .into(),
        ),
        (|s, g| s.sorted = &g.sorted, "sorted: nothing has been sorted".into()),
        (
            |s, g| s.sorted = &g.fewer,
            format!(
                "sorted: the order of {} ids of 33 samples, but the batch has {n} of 33",
                n - 1
            ),
        ),
        (|s, g| s.sorted = &g.other, "sorted: the order of ids of other tables or features".into()),
    ]
}

fn reduce_names_what_is_wrong<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Max);
    let n = case.indices.len();
    let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
    let spare = Spare::new(device, &case);
    let words = Reduce::<B, i64>::workspace_len(device, &case.layout(), n);
    for (spoil, want) in spoilt_sources::<B>(n) {
        let mut grad = poisoned_grad(device, &case, n);
        let mut source = backward.source();
        spoil(&mut source, &spare);
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let reduce = Reduce::new(source, &mut grad, B::view_mut(&mut workspace));
        let text = message(reduce.run(device));
        assert!(text.starts_with(&format!("sparse_update.reduce: {want}")), "{text}");
        assert_poisoned(device, &grad);
    }
    if words > 0 {
        let mut grad = poisoned_grad(device, &case, n);
        let mut workspace = upload(device, &poisoned::<u64>(words - 1));
        let (source, workspace) = (backward.source(), B::view_mut(&mut workspace));
        let text = message(Reduce::new(source, &mut grad, workspace).run(device));
        assert!(text.starts_with("sparse_update.reduce: workspace holds"), "{text}");
        assert_poisoned(device, &grad);
    }
    // There are 239 rows and more ids: a gradient needs room for 239.
    let mut grad = poisoned_grad(device, &case, 238);
    let text = message(backward.reduce(device, &mut grad));
    assert_eq!(text, "sparse_update.reduce: grad.capacity holds 238 elements, but 239 are needed");
    assert_poisoned(device, &grad);
    let layout = case.layout();
    for (starts, values, want) in
        [(3, 5, "values holds 5 elements"), (2, 258, "starts holds 2 elements")]
    {
        let [rows, starts] = [2, starts].map(|len| device.alloc(len).unwrap());
        let (values, counts) = (device.alloc(values).unwrap(), device.alloc(1).unwrap());
        let made = SparseGrad::with_buffers(device, &layout, rows, starts, values, counts);
        let text = message(made.map(|_| ()));
        assert!(text.starts_with(&format!("SparseGrad: {want}")), "{text}");
    }
}

/// Checks gradients with enough room, but of tables of other sizes.
fn gradients_of_other_tables_are_refused<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let (case, mut other) = (BagCase::mixed(Pooling::Sum), BagCase::mixed(Pooling::Sum));
    other.tables.swap(0, 1);
    other.tables.iter_mut().for_each(|table| table.num_embeddings = 200);
    let n = case.indices.len();
    let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
    let grad = |case: &BagCase| SparseGrad::new(device, &case.layout(), 2 * n).unwrap();
    let (mut good, mut bad, mut out) = (grad(&case), grad(&other), grad(&case));
    assert_eq!(
        message(backward.reduce(device, &mut bad)),
        "sparse_update.reduce: grad: made for other tables"
    );
    backward.reduce(device, &mut good).unwrap();
    let tables = &backward.bags.tables;
    for (pair, want) in [((&good, &bad), "b"), ((&bad, &good), "a")] {
        let text = message(merge(device, tables, pair, &mut out));
        assert_eq!(text, format!("sparse_update.merge: {want}: made for other tables"));
    }
    let text = message(merge(device, tables, (&good, &good), &mut bad));
    assert_eq!(text, "sparse_update.merge: grad: made for other tables");
    let mut weights = upload(device, &poisoned::<f32>(case.num_weights()));
    let apply = Apply::new(
        tables,
        &bad,
        UpdateRule::new(Optimizer::Sgd, 0.1),
        B::view_mut(&mut weights),
        OptimizerStateMut::None,
    );
    assert_eq!(message(apply.run(device)), "sparse_update.apply: grad: made for other tables");
    assert_same_bits("weights", &download(device, &weights), &poisoned(case.num_weights()));
}

fn merge_names_what_is_wrong<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Sum);
    let tables = device.tables(case.layout()).unwrap();
    let [a, b] =
        [20, 30].map(|capacity| SparseGrad::new(device, &case.layout(), capacity).unwrap());
    let mut out = poisoned_grad(device, &case, 49);
    let text = message(merge(device, &tables, (&a, &b), &mut out));
    assert_eq!(text, "sparse_update.merge: grad.capacity holds 49 elements, but 50 are needed");
    assert_poisoned(device, &out);
    let words = Merge::workspace_len(device, &case.layout(), 50);
    if words > 0 {
        let mut out = poisoned_grad(device, &case, 50);
        let mut workspace = upload(device, &poisoned::<u64>(words - 1));
        let merge = Merge::new(&tables, &a, &b, &mut out, B::view_mut(&mut workspace));
        assert!(message(merge.run(device)).starts_with("sparse_update.merge: workspace holds"));
        assert_poisoned(device, &out);
    }
}

fn sgd_update<'a, B: IndexSortOps + SparseUpdateOps>(
    source: PooledGrad<'a, B, i64>,
    weights: &'a mut B::Buffer<f32>,
    workspace: &'a mut B::Buffer<u64>,
) -> Update<'a, B, f32, i64> {
    Update::new(
        source,
        UpdateRule::new(Optimizer::Sgd, 0.1),
        B::view_mut(weights),
        OptimizerStateMut::None,
        B::view_mut(workspace),
    )
}

fn apply_and_update_name_what_is_wrong<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Max);
    let (n, rows, elements) = (case.indices.len(), case.num_rows(), case.num_weights());
    let backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
    let mut grad = SparseGrad::new(device, &case.layout(), n).unwrap();
    backward.reduce(device, &mut grad).unwrap();
    let words = Update::<B, f32, i64>::workspace_len(device, &case.layout(), n);
    let adagrad = UpdateRule::new(Optimizer::Adagrad { eps: 1e-10 }, 0.1);
    let rowwise = UpdateRule::new(Optimizer::RowwiseAdagrad { eps: 1e-10 }, 0.1);
    let sgd = UpdateRule::new(Optimizer::Sgd, 0.1);
    let decayed = UpdateRule { weight_decay: WeightDecay::Decoupled(-1.0), ..adagrad };
    let number = "but must be a finite number of 0 or more";
    for (rule, weights_len, state_len, want) in [
        (
            adagrad,
            elements - 1,
            elements,
            format!("weights is {}, but must be {elements}", elements - 1),
        ),
        (
            adagrad,
            elements,
            rows,
            format!("state.sum_of_squares is {rows}, but must be {elements}"),
        ),
        (
            rowwise,
            elements,
            elements,
            format!("state.sum_of_squares is {elements}, but must be {rows}"),
        ),
        (sgd, elements, elements, "state: it is not the state of Sgd".into()),
        (decayed, elements, elements, format!("rule.weight_decay: -1, {number}")),
        (
            UpdateRule { rounding: Rounding::Stochastic { seed: 1 }, ..adagrad },
            elements,
            elements,
            "rule.step: not given, but Adam and stochastic rounding need it: count steps from 1 \
             (`at_step`)"
                .into(),
        ),
    ] {
        let mut weights = upload(device, &poisoned::<f32>(weights_len));
        let mut state = upload(device, &poisoned::<f32>(state_len));
        let tables = &backward.bags.tables;
        let apply = Apply::new(
            tables,
            &grad,
            rule,
            B::view_mut(&mut weights),
            OptimizerStateMut::SumOfSquares(B::view_mut(&mut state)),
        );
        assert_eq!(message(apply.run(device)), format!("sparse_update.apply: {want}"));
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let update = Update::new(
            backward.source(),
            rule,
            B::view_mut(&mut weights),
            OptimizerStateMut::SumOfSquares(B::view_mut(&mut state)),
            B::view_mut(&mut workspace),
        );
        assert_eq!(message(update.run(device)), format!("sparse_update.update: {want}"));
        assert_same_bits("weights", &download(device, &weights), &poisoned(weights_len));
        assert_same_bits("state", &download(device, &state), &poisoned(state_len));
    }

    let spare = Spare::new(device, &case);
    let mut weights = upload(device, &poisoned::<f32>(elements));
    for (spoil, want) in spoilt_sources::<B>(n) {
        let mut workspace = upload(device, &poisoned::<u64>(words));
        let mut source = backward.source();
        spoil(&mut source, &spare);
        let text = message(sgd_update(source, &mut weights, &mut workspace).run(device));
        assert!(text.starts_with(&format!("sparse_update.update: {want}")), "{text}");
    }
    if words > 0 {
        let mut workspace = upload(device, &poisoned::<u64>(words - 1));
        let text = message(sgd_update(backward.source(), &mut weights, &mut workspace).run(device));
        assert!(text.starts_with("sparse_update.update: workspace holds"), "{text}");
    }
    assert_same_bits("weights", &download(device, &weights), &poisoned(elements));
}

/// Checks that a sort with wrong offsets leaves no order, not even that of the batch before.
fn a_failed_sort_leaves_no_order<B: IndexSortOps + SparseUpdateOps>(device: &B) {
    let case = BagCase::mixed(Pooling::Sum);
    let mut backward = Backward::<B, i64>::new(device, &case, &case.grad_output(), None);
    let offsets = vec![1_i64; case.offsets.len()];
    device.upload(&offsets, B::view_mut(&mut backward.bags.offsets)).unwrap();
    let words = Sort::<B, i64>::workspace_len(device, &case.layout(), case.indices.len());
    let mut workspace = upload(device, &poisoned::<u64>(words));
    let Backward { bags, sorted, .. } = &mut backward;
    let sort = Sort::new(&bags.tables, bags.view(), sorted, B::view_mut(&mut workspace));
    let result = sort.run(device);
    let is_known = result.is_err();
    assert!(matches!(
        outcome(device, result),
        Err(Error::InvalidOffsets { position: 0, value: 1, .. })
    ));
    let mut grad = poisoned_grad(device, &case, case.indices.len());
    let reduced = backward.reduce(device, &mut grad);
    if is_known {
        assert!(
            message(reduced).starts_with("sparse_update.reduce: sorted: nothing has been sorted")
        );
    }
}
