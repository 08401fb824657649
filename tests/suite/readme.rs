//! Tests that the README's table of ops agrees with the code.

use std::collections::BTreeSet;

use bagdot::backend::cuda::images;
use bagdot::ops::{Activation, Loss, Optimizer, Pooling, Rounding, WeightDecay};

const README: &str = include_str!("../../README.md");
const OPS: &str = include_str!("../../src/ops/backend.rs");

/// A row of the table.
struct Row {
    op: &'static str,
    on: &'static str,
    types: &'static str,
    options: &'static str,
    same_bits: &'static str,
}

fn table() -> Vec<Row> {
    let rows = README.lines().skip_while(|line| !line.starts_with("| op | on |")).skip(2);
    let row = |line: &'static str| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
        ["", op, on, _, types, options, same_bits, ""] => {
            Row { op: op.trim_matches('`'), on, types, options, same_bits }
        }
        _ => panic!("no row of the table: {line}"),
    };
    rows.take_while(|line| line.starts_with('|')).map(row).collect()
}

fn row(op: &str) -> Row {
    table()
        .into_iter()
        .find(|row| row.op == op)
        .unwrap_or_else(|| panic!("{op} is not in the table"))
}

/// Returns the words and numbers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

/// Returns the PTX of an op's kernels.
fn ptx(op: &str) -> String {
    images()
        .iter()
        .filter(|image| image.stem.starts_with(op))
        .filter_map(|image| image.ptx)
        .collect()
}

fn entries(ptx: &str) -> impl Iterator<Item = &str> {
    ptx.split(".entry ").skip(1).map(|entry| entry.split_once('(').unwrap().0)
}

#[test]
fn the_table_has_every_op() {
    let of_backend = |line: &'static str| {
        let (op, ops) = line.strip_prefix("use super::")?.split_once("::")?;
        ops.ends_with("Ops;").then_some(op)
    };
    let in_code: BTreeSet<_> = OPS.lines().filter_map(of_backend).collect();
    let in_table: Vec<_> = table().iter().map(|row| row.op).collect();
    assert_eq!(in_table.iter().copied().collect::<BTreeSet<_>>(), in_code);
    assert_eq!(in_table.len(), in_code.len(), "each op once");
}

/// The ops that have no kernels and run others.
const OF_OTHERS: [&str; 1] = ["pooled_interaction"];

/// Compares the types of elements and ids with those in the names of kernels. Types of keys and
/// counts are internal.
#[test]
fn kernels_have_the_types_of_the_table() {
    const TYPES: [&str; 6] = ["f32", "f16", "bf16", "f64", "i32", "i64"];
    for Row { op, on, types, .. } in table() {
        let ptx = ptx(op);
        let in_code: BTreeSet<_> =
            entries(&ptx).flat_map(words_of_name).filter(|word| TYPES.contains(word)).collect();
        let is_on_cuda = !in_code.is_empty() || OF_OTHERS.contains(&op);
        assert_eq!(on, if is_on_cuda { "CPU, CUDA" } else { "CPU" }, "{op}: on");
        let in_table: BTreeSet<_> = words(types).filter(|word| TYPES.contains(word)).collect();
        assert_eq!(in_table, in_code, "{op}: types");
    }
    for op in ["interaction", "linear"] {
        assert!(words(row(op).types).any(|word| word == "tf32"), "{op}: types");
    }
}

fn words_of_name(name: &str) -> impl Iterator<Item = &str> {
    name.trim().split('_')
}

/// Checks that no kernel adds floats by atomics, so that results cannot depend on the order of
/// threads.
#[test]
fn ops_with_the_same_bits_have_no_atomic_sums() {
    for Row { op, same_bits, .. } in table() {
        assert!(same_bits.starts_with("yes"), "{op}");
        let ptx = ptx(op);
        let mut opcodes = ptx
            .split_whitespace()
            .filter(|word| word.starts_with("atom.") || word.starts_with("red."));
        let is_of_floats = |opcode: &&str| {
            opcode.split('.').any(|part| ["f32", "f64", "f16", "bf16"].contains(&part))
        };
        assert_eq!(opcodes.find(is_of_floats), None, "{op}");
    }
}

/// Compares the kinds of the code with those in the table. A new kind does not compile until it has
/// a name here, and fails until the table has it.
#[test]
fn the_table_has_every_kind_and_no_other() {
    let pooling = |pooling| match pooling {
        Pooling::Sum => "sum",
        Pooling::Mean => "mean",
        Pooling::Max => "max",
    };
    let optimizer = |optimizer| match optimizer {
        Optimizer::Sgd => "SGD",
        Optimizer::Adagrad { .. } => "Adagrad",
        Optimizer::RowwiseAdagrad { .. } => "row-wise Adagrad",
        Optimizer::Adam { .. } => "Adam",
    };
    let decay = |decay| match decay {
        WeightDecay::None => "",
        WeightDecay::L2(_) => "L2",
        WeightDecay::Decoupled(_) => "decoupled",
    };
    let rounding = |rounding| match rounding {
        Rounding::Nearest => "",
        Rounding::Stochastic { .. } => "stochastic rounding",
    };
    let loss = |loss| match loss {
        Loss::BceWithLogits => "BCE with logits",
        Loss::WeightedBce { .. } => "weighted BCE",
        Loss::Mse => "MSE",
    };
    let activation = |activation| match activation {
        Activation::None => "",
        Activation::Relu => "ReLU",
    };
    let list = |text: &'static str| text.split(", ").collect::<Vec<_>>();
    let before = |text: &'static str, end| text.split_once(end).unwrap().0;

    let options = row("embedding_bag").options;
    assert_eq!(
        list(before(options, "; ")),
        [Pooling::Sum, Pooling::Mean, Pooling::Max].map(pooling)
    );
    let options = row("sparse_update").options;
    let (eps, beta1, beta2) = (0.0, 0.0, 0.0);
    let optimizers = [
        Optimizer::Sgd,
        Optimizer::Adagrad { eps },
        Optimizer::RowwiseAdagrad { eps },
        Optimizer::Adam { beta1, beta2, eps },
    ];
    assert_eq!(list(before(options, "; ")), optimizers.map(optimizer));
    let decays = before(options.split_once("weight decay (").unwrap().1, ")");
    assert_eq!(list(decays), [WeightDecay::L2(0.0), WeightDecay::Decoupled(0.0)].map(decay));
    assert!(options.contains(rounding(Rounding::Stochastic { seed: 0 })));
    assert_eq!(row("dense_update").options, "the optimizers above");
    let losses =
        [Loss::BceWithLogits, Loss::WeightedBce { negative: 1.0, positive: 1.0 }, Loss::Mse];
    assert_eq!(list(before(row("loss").options, "; ")), losses.map(loss));
    assert_eq!(list(row("linear").options)[0], activation(Activation::Relu));
}
