//! Adds the values of the label column to errors about labels, so that a user can choose among
//! them.

use std::path::PathBuf;

use super::columns::Needs;
use super::config::DataConfig;
use super::dictionary::Counts;
use super::error::{DataError, Result};
use super::join::SideTable;
use super::rows::Rows;
use super::shown::shortened;
use super::source::Source;

/// The largest number of distinct values that are counted: a column of numbers may have as many as
/// there are rows.
const MAX_DISTINCT: usize = 10_000;

/// Adds the values in the files to an error about labels; returns other errors unchanged.
pub(super) fn add(
    mut error: DataError,
    config: &DataConfig,
    tables: &[SideTable],
    files: &[PathBuf],
) -> DataError {
    if let DataError::Label { values, .. } | DataError::OneClass { values, .. } = &mut error {
        let mut counts = Counts::default();
        let sources = files.iter().cloned().map(Source::from).collect();
        // A fault in a later row is not the subject of this error: the values counted before it
        // suffice.
        let _ = count(config, tables, sources, &mut counts);
        *values = shares(&counts);
    }
    error
}

fn count(
    config: &DataConfig,
    tables: &[SideTable],
    sources: Vec<Source>,
    counts: &mut Counts,
) -> Result<()> {
    let mut rows =
        Rows::new(config, tables, sources, Needs { label: true, time: false, texts: &[] })?;
    while rows.advance()? && counts.counts().len() < MAX_DISTINCT {
        let _ = counts.add(rows.label_text()?);
    }
    Ok(())
}

/// Returns the values with their shares, the most frequent first. Equally frequent values keep
/// their order.
fn shares(counts: &Counts) -> Vec<(String, f64)> {
    let total = counts.counts().iter().sum::<u64>() as f64;
    let mut values: Vec<(&str, u64)> = counts.iter().collect();
    values.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    values.into_iter().map(|(value, count)| (shortened(value), count as f64 / total)).collect()
}
