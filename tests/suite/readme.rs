//! Tests that the README agrees with the code: its table of ops, and its example in Rust.

use std::collections::BTreeSet;

use bagdot::backend::cuda::images;
use bagdot::ops::{Activation, Loss, Optimizer, Pooling, Rounding, WeightDecay};

const README: &str = include_str!("../../README.md");
const CRATE: &str = include_str!("../../src/lib.rs");
const OPS: &str = include_str!("../../src/ops/backend.rs");

/// A row of the table.
struct Row {
    op: &'static str,
    types: &'static str,
    options: &'static str,
}

fn table() -> Vec<Row> {
    let rows =
        README.lines().skip_while(|line| !line.starts_with("| op | element types |")).skip(2);
    let row = |line: &'static str| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
        ["", op, types, options, ""] => Row { op: op.trim_matches('`'), types, options },
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

/// Compares the types of elements and ids with those in the names of kernels: the README says that
/// every op runs on CUDA. Types of keys and counts are internal.
#[test]
fn kernels_have_the_types_of_the_table() {
    const TYPES: [&str; 6] = ["f32", "f16", "bf16", "f64", "i32", "i64"];
    for Row { op, types, .. } in table() {
        let ptx = ptx(op);
        let in_code: BTreeSet<_> =
            entries(&ptx).flat_map(words_of_name).filter(|word| TYPES.contains(word)).collect();
        assert!(!in_code.is_empty(), "{op} does not run on CUDA");
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
fn no_op_has_atomic_sums() {
    for Row { op, .. } in table() {
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
    assert_eq!(list(row("dense_update").options), optimizers.map(optimizer));
    assert_eq!(before(options, "; "), "optimizers below");
    let decays = before(options.split_once("decay (").unwrap().1, ")");
    assert_eq!(list(decays), [WeightDecay::L2(0.0), WeightDecay::Decoupled(0.0)].map(decay));
    assert!(options.contains(rounding(Rounding::Stochastic { seed: 0 })));
    let losses =
        [Loss::BceWithLogits, Loss::WeightedBce { negative: 1.0, positive: 1.0 }, Loss::Mse];
    assert_eq!(list(before(row("loss").options, "; ")), losses.map(loss));
    assert_eq!(list(row("linear").options)[0], activation(Activation::Relu));
}

/// Returns the Rust examples of a Markdown text.
fn examples(markdown: &str, fence: &str) -> Vec<String> {
    let example = |part: &str| part.split_once("\n```").map(|(example, _)| example.to_owned());
    markdown.split(fence).skip(1).filter_map(example).collect()
}

/// Compares the README's example with the first one of the crate documentation, which doctests run:
/// they differ in hidden lines alone.
#[test]
fn the_example_is_that_of_the_crate_documentation() {
    let lines = CRATE.lines().map_while(|line| line.strip_prefix("//!"));
    let documentation: Vec<_> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    let tested = examples(&documentation.join("\n"), "# An op in ten lines\n\n```\n");
    let is_shown = |line: &&str| !line.starts_with("# ");
    let shown: Vec<_> = tested[0].lines().filter(is_shown).collect();
    assert_eq!(examples(README, "```rust\n"), [shown.join("\n")]);
}
