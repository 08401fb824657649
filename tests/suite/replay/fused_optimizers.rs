//! Replays FBGEMM's table-batched embeddings with exact optimizers: a few fused steps on tables of
//! several dimensions.
//!
//! The reference carries the error bound from step to step. It does so twice: for us, and for
//! FBGEMM, which computes Adam's bias correction from powers in `f32`.

use bagdot::Cpu;
use bagdot::ops::embedding_bag::EmbeddingBagOps;
use bagdot::ops::index_sort::IndexSortOps;
use bagdot::ops::sparse_update::SparseUpdateOps;
use bagdot::ops::{Optimizer, Pooling, UpdateRule, WeightDecay};

use super::Case;
use crate::common::reference::Betas;
use crate::common::updates::Backward;
use crate::common::{
    Approx, BagCase, assert_close, assert_close_within, exact, feature, reference,
};

pub(crate) fn replay(case: &Case<'_>) {
    replay_on(&Cpu::with_threads(2).unwrap(), case);
    #[cfg(feature = "cuda")]
    crate::common::cuda::on_every_schedule(|cuda| replay_on(cuda, case));
}

fn replay_on<B: EmbeddingBagOps + IndexSortOps + SparseUpdateOps>(device: &B, case: &Case<'_>) {
    case.must_begin("layout", "table-major indices/offsets, out = concat over tables per sample");
    case.must_be_off(&["max_norm", "gradient_clipping", "max_gradient", "stochastic_rounding"]);
    let (tables, batch_size, steps) =
        (case.pairs("tables"), case.count("batch"), case.count("steps"));
    let pooling = match case.text("pooling").as_str() {
        "SUM" => Pooling::Sum,
        "MEAN" => Pooling::Mean,
        _ => case.unknown("pooling"),
    };
    let (weighted, rule) = (case.flag("weighted"), rule(case));
    let features: Vec<_> = (0..tables.len()).map(|table| feature(table, pooling)).collect();
    let empty = BagCase::new(case.name(), (&tables, &features), &[], |_, _| 0);

    let per_table = |name: &str| -> Vec<f32> {
        let table = |(t, &(rows, dim)): (usize, &(usize, usize))| {
            case.floats(&format!("{name}{t}"), &[rows, dim])
        };
        tables.iter().enumerate().flat_map(table).collect()
    };
    let mut weights = per_table("init");
    let [first_len, second_len] = rule.optimizer.state_len(empty.num_rows(), empty.num_weights());
    let mut state = [vec![0f32; first_len], vec![0f32; second_len]];
    let start =
        Expected { weights: exact(&weights), state: state.each_ref().map(|values| exact(values)) };
    let mut want = [(Betas::Exact, start.clone()), (Betas::Rounded, start)];

    let width = empty.width();
    for step in 0..steps {
        let bags = bags_of_step(case, &empty, (step, batch_size), weighted);
        let what = format!("{}, step {step}", case.name());
        let pooled =
            want.each_ref().map(|(_, want)| reference::embedding_bag(&bags, &want.weights).0);
        let output = bags.pool::<B, i64>(device, &weights);
        let theirs = case.floats(&format!("s{step}.out"), &[batch_size, width]);
        assert_each_close(&what, (&output, &pooled[0]), (&theirs, &pooled[1]));

        let grad_output = case.floats(&format!("s{step}.grad_out"), &[batch_size, width]);
        let backward = Backward::<B, i64>::new(device, &bags, &grad_output, None);
        let rule = UpdateRule { step: step as u64 + 1, ..rule };
        for (betas, want) in &mut want {
            let [first, second] = &mut want.state;
            reference::apply_rows(
                &bags,
                (&rule, *betas),
                &backward.expected,
                &mut want.weights,
                first,
                second,
            );
        }
        (weights, state) = backward.update(device, &bags, rule, &weights, &state);
    }
    let [(_, ours), (_, theirs)] = &want;
    let what = format!("{}, final", case.name());
    assert_each_close(&what, (&weights, &ours.weights), (&per_table("final"), &theirs.weights));
    for (k, got) in state.iter().enumerate() {
        let (what, golden) =
            (format!("{}, state {k}", case.name()), their_state(case, rule, &tables, k));
        assert_each_close(&what, (got, &ours.state[k]), (&golden, &theirs.state[k]));
    }
}

/// The expected weights and state.
#[derive(Clone)]
struct Expected {
    weights: Vec<Approx>,
    state: [Vec<Approx>; 2],
}

/// Does what [`assert_both_close`](super::embedding_bag::assert_both_close) does, with a bound for
/// each side.
fn assert_each_close(
    what: &str,
    (ours, our_bound): (&[f32], &[Approx]),
    (theirs, their_bound): (&[f32], &[Approx]),
) {
    assert_close(&format!("{what}: bagdot"), ours, our_bound);
    assert_close_within(&format!("{what}: the golden vector"), theirs, their_bound, 2.0);
}

/// Returns their state of all tables: a value for each row, for each element, or none.
fn their_state(
    case: &Case<'_>,
    rule: UpdateRule,
    tables: &[(usize, usize)],
    which: usize,
) -> Vec<f32> {
    let of_table = |(t, &(rows, dim)): (usize, &(usize, usize))| match rule
        .optimizer
        .state_len(rows, rows * dim)[which]
    {
        0 => vec![],
        len if len == rows && matches!(rule.optimizer, Optimizer::RowwiseAdagrad { .. }) => {
            case.floats(&format!("state{t}_{which}"), &[rows])
        }
        _ => case.floats(&format!("state{t}_{which}"), &[rows, dim]),
    };
    tables.iter().enumerate().flat_map(of_table).collect()
}

/// Returns the optimizer by its name in FBGEMM, with its kind of decay. Adam has decoupled decay.
/// Row-wise Adagrad has the decay of `weight_decay_mode`, or none without it. The other optimizers
/// have no decay (codegen/genscript/optimizers.py).
fn rule(case: &Case<'_>) -> UpdateRule {
    let (eps, beta1, beta2) = (case.number("eps"), case.number("beta1"), case.number("beta2"));
    let decay = case.number("weight_decay");
    let mode =
        case.optional("weight_decay_mode").map(|mode| mode.as_str().unwrap_or("").to_uppercase());
    let name = case.text("optimizer").to_uppercase();
    let (optimizer, weight_decay) = match name.strip_prefix("EXACT_").unwrap_or(&name) {
        "SGD" => (Optimizer::Sgd, WeightDecay::None),
        "ADAGRAD" => (Optimizer::Adagrad { eps }, WeightDecay::None),
        "ADAM" => (Optimizer::Adam { beta1, beta2, eps }, WeightDecay::Decoupled(decay)),
        "ROWWISE_ADAGRAD" => {
            let weight_decay = match mode.as_deref() {
                None | Some("NONE") => WeightDecay::None,
                Some("L2") => WeightDecay::L2(decay),
                Some("DECOUPLE") => WeightDecay::Decoupled(decay),
                _ => case.unknown("weight_decay_mode"),
            };
            (Optimizer::RowwiseAdagrad { eps }, weight_decay)
        }
        _ => case.unknown("optimizer"),
    };
    UpdateRule { weight_decay, ..UpdateRule::new(optimizer, case.number("lr")) }
}

fn bags_of_step(
    case: &Case<'_>,
    empty: &BagCase,
    (step, batch_size): (usize, usize),
    weighted: bool,
) -> BagCase {
    let (indices, _) = case.integers(&format!("s{step}.indices"));
    let (offsets, _) = case.integers(&format!("s{step}.offsets"));
    assert_eq!(offsets.len(), empty.tables.len() * batch_size + 1, "{}: offsets", case.name());
    BagCase {
        batch_size,
        per_sample_weights: weighted
            .then(|| case.floats(&format!("s{step}.per_sample_weights"), &[indices.len()])),
        indices,
        offsets: offsets.iter().map(|&offset| offset as usize).collect(),
        ..empty.clone()
    }
}
