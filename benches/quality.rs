//! Measures the gain of each ingredient of the default recipe:
//!
//! ```sh
//! cargo bench --bench quality -- examples/clothing.toml
//! ```
//!
//! It trains each variant with several seeds and prints the means: AUC and log-loss on the
//! validation rows, by which settings are chosen, and on the test rows, which no choice sees.

use std::error::Error;
use std::path::PathBuf;

use bagdot::Cpu;
use bagdot::nn::TableInit;
use bagdot::ops::WeightDecay;
use bagdot::train::{Config, Metrics, Observer, PrecisionKind, RunDir, Trainer};

const SEEDS: u64 = 5;

struct Silent;
impl Observer for Silent {}

/// A name, and a change of the configuration.
type Variant = (&'static str, fn(&mut Config));

const VARIANTS: &[Variant] = &[
    ("the example's recipe", |_| ()),
    ("one member", |config| config.train.members = 1),
    ("without crosses", |config| {
        let crosses = config.data.derive.iter().filter(|derive| derive.from.len() > 1);
        let names: Vec<String> = crosses.map(|derive| derive.name.clone()).collect();
        config.data.categorical.retain(|column| !names.contains(&column.column));
    }),
    ("without a minimum count", |config| {
        config
            .data
            .categorical
            .iter_mut()
            .filter(|column| column.separator.is_none())
            .for_each(|column| column.min_count = None);
    }),
    ("without bins", |config| config.data.dense.iter_mut().for_each(|column| column.bins = 0)),
    ("without knots", |config| config.data.dense.iter_mut().for_each(|column| column.knots = 0)),
    ("without appended vectors", |config| config.model.append_sparse = false),
    ("without decay of the tables", |config| {
        config.train.tables.weight_decay = Some(WeightDecay::None)
    }),
    ("decay not evened out", |config| config.train.even_decay = false),
    ("without averaging", |config| config.train.averaging = Some(0.0)),
    ("without dropout of ids", |config| config.train.bag_dropout = Some(0.0)),
    ("constant learning rate", |config| config.train.schedule.decay_epochs = None),
    ("tables learn at 0.002", |config| config.train.tables.learning_rate = Some(0.002)),
    ("tables drawn as in dlrm", |config| config.model.table_init = TableInit::InverseRoot),
    ("plain: none of these", plain),
];

/// The precisions below f32, to be compared with "one member".
const PRECISIONS: &[Variant] = &[
    ("one member, bf16", |config| one_member_in(config, PrecisionKind::BF16)),
    ("one member, f16", |config| one_member_in(config, PrecisionKind::F16)),
];

fn one_member_in(config: &mut Config, precision: PrecisionKind) {
    config.train.members = 1;
    config.model.precision = precision;
}

/// Makes the model a DLRM as facebookresearch/dlrm builds it, trained with Adam.
fn plain(config: &mut Config) {
    for (_, change) in &VARIANTS[1..VARIANTS.len() - 1] {
        change(config);
    }
}

fn run(config: &Config, folder: &std::path::Path) -> Result<[Metrics; 2], Box<dyn Error>> {
    let target = tempfile::tempdir()?;
    let (dir, _) = RunDir::create(&target.path().join("model"))?;
    let outcome =
        Trainer::new(Cpu::new()?, config.clone(), folder, dir, &mut Silent)?.run(&mut Silent)?;
    Ok([outcome.validation.ok_or("no validation rows")?, outcome.test.ok_or("no test rows")?])
}

fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / values.len() as f64).sqrt())
}

fn main() -> Result<(), Box<dyn Error>> {
    // `cargo bench` passes `--bench` to every benchmark.
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--bench");
    for path in arguments.map(PathBuf::from) {
        let (config, folder) = Config::load(&path)?;
        println!("\n{} (means of {SEEDS} seeds, ± their standard deviation)\n", path.display());
        println!("| | validation AUC | log-loss | test AUC | log-loss |\n|---|---|---|---|---|");
        for (name, change) in VARIANTS.iter().chain(PRECISIONS) {
            let runs: Vec<[Metrics; 2]> = (1..=SEEDS)
                .map(|seed| {
                    let mut config = config.clone();
                    change(&mut config);
                    config.train.seed = seed;
                    run(&config, &folder)
                })
                .collect::<Result<_, _>>()?;
            let cell = |part: usize| {
                let (auc, spread) = mean_and_deviation(
                    &runs.iter().filter_map(|run| run[part].auc).collect::<Vec<_>>(),
                );
                let (logloss, _) = mean_and_deviation(
                    &runs.iter().map(|run| run[part].logloss).collect::<Vec<_>>(),
                );
                format!("{auc:.4} ± {spread:.4} | {logloss:.4}")
            };
            println!("| {name} | {} | {} |", cell(0), cell(1));
        }
    }
    Ok(())
}
