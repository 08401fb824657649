//! `bagdot generate`

use std::path::PathBuf;

use super::error::CliResult;
use super::output::Output;
use crate::data::{IdDistribution, Synthetic};

/// Write synthetic click logs, drawn from a known model, in the format of Criteo: to try `format =
/// "criteo"`, and to measure speed.
#[derive(clap::Args, Debug)]
pub(super) struct Generate {
    /// The number of rows
    rows: u64,
    /// The number of values of each of the 26 categories
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = values_range())]
    values: u64,
    /// The distribution of the values
    #[arg(long, value_enum, default_value_t = IdChoice::Zipf)]
    ids: IdChoice,
    /// The seed; the same seed gives the same rows
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write to a file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Returns the parser of `--values`. Ids have at most 8 hexadecimal digits.
fn values_range() -> impl clap::builder::TypedValueParser<Value = u64> {
    clap::value_parser!(u64).range(1..=1 << 32)
}

/// The choice of an [`IdDistribution`].
#[derive(clap::ValueEnum, Clone, Copy, Debug)]
enum IdChoice {
    /// Zipf's law: a frequency proportional to `1 / rank`, so that few values make up most rows.
    Zipf,
    /// The same frequency for all values.
    Uniform,
}

impl From<IdChoice> for IdDistribution {
    fn from(choice: IdChoice) -> Self {
        match choice {
            IdChoice::Zipf => Self::Zipf,
            IdChoice::Uniform => Self::Uniform,
        }
    }
}

impl Generate {
    pub(super) fn run(&self) -> CliResult {
        let Self { rows, values, ids, seed, ref output } = *self;
        let mut out = Output::open(output.as_deref(), &[])?;
        Synthetic { rows, values, ids: ids.into(), seed }
            .write(&mut out)
            .map_err(|error| out.fault(error))?;
        out.finish()
    }
}
