//! Learns an encoder from the training rows.

use std::path::Path;
use std::sync::Arc;

use super::categorical::CategoricalFit;
use super::columns::Needs;
use super::config::{Categorical, DataConfig, Split};
use super::dense::DenseFit;
use super::encoder::{Encoder, features_of};
use super::error::{DataError, Result};
use super::join::{SideTable, load_side_tables};
use super::label_values;
use super::note::Seen;
use super::part::Part;
use super::rows::{Records, Rows};
use super::source::{Source, check_rereadable};
use super::splitter::{Splitter, TimeCut};
use super::validate::each_file_once;

pub(super) const NO_TRAINING_ROWS: &str =
    "there are too few rows, or split gives too many of them to the other parts";

impl Encoder {
    /// Learns from the training rows of `config`. Relative paths start at `folder`.
    ///
    /// The files are streamed. Memory is needed for the distinct values of dictionaries, for the
    /// side tables, for up to a million numbers of each column with quantiles (beyond that, a fixed
    /// uniform sample of them), and with a split by time for the times. All rows are read, and
    /// their labels checked. Other values are checked where they are used.
    ///
    /// `progress` is called from time to time with the number of bytes read so far and the total,
    /// before decompression.
    ///
    /// # Errors
    /// Returns any [`DataError`]: settings that contradict themselves or the files, files that
    /// cannot be read, invalid values, no training rows.
    pub fn fit(
        config: &DataConfig,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        fit(None, config, folder, progress)
    }

    /// Learns further values from the training rows of `config`, whose columns must be those of
    /// this encoder. Values of dictionaries keep their rows, and new ones get the rows after them.
    /// The statistics of dense columns stay as they are, since layers and bins are fitted to them.
    /// Side tables are read anew, and so are the times of a split by time.
    ///
    /// # Errors
    /// Returns the errors of [`Self::fit`], and [`DataError::Config`] for other columns.
    pub fn grow(
        &self,
        config: &DataConfig,
        folder: &Path,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        fit(Some(self), config, folder, progress)
    }
}

/// Checks that rows have the same columns for a known encoder as for new settings.
fn check_columns(known: &DataConfig, config: &DataConfig) -> Result<()> {
    let column_of = |columns: &[Categorical]| -> Vec<Categorical> {
        columns.iter().map(|column| Categorical { min_count: None, ..column.clone() }).collect()
    };
    let fields = [
        ("trim", known.trims() == config.trims()),
        ("missing_values", known.missing_values == config.missing_values),
        ("decimal", known.notation() == config.notation()),
        ("derive", known.derive == config.derive),
        ("dense", known.dense == config.dense),
        ("categorical", column_of(&known.categorical) == column_of(&config.categorical)),
    ];
    match fields.into_iter().find(|(_, is_equal)| !is_equal) {
        Some((field, _)) => Err(DataError::config(
            field,
            "this is not the setting of the model that training goes on from; only `min_count` of \
             a categorical column may change",
        )),
        None => Ok(()),
    }
}

/// Learns an encoder, or more values of a known one.
fn fit(
    known: Option<&Encoder>,
    config: &DataConfig,
    folder: &Path,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Encoder> {
    config.validate()?;
    let mut config = config.with_defaults();
    each_file_once(&config, folder)?;
    check_files(&config, folder)?;
    let files = config.files(Part::Train, folder);
    let sources = || -> Vec<Source> { files.iter().cloned().map(Source::from).collect() };
    let needs = Needs { label: true, time: matches!(config.split, Split::Time { .. }), texts: &[] };

    let mut seen = Seen::default();
    let side_tables = side_tables(&mut config, folder, sources(), needs, &mut seen)?;
    known.map_or(Ok(()), |known| check_columns(&known.config, &config))?;
    let passes = if needs.time { 2 } else { 1 };
    let time_cut = match config.split {
        Split::Time { validation, test, .. } => {
            let mut times = Vec::new();
            let mut rows = Rows::new(&config, &side_tables, sources(), needs)?;
            while rows.advance()? {
                times.push(rows.time()?);
                if rows.is_milestone() {
                    let (read, total) = rows.bytes_read();
                    progress(read, passes * total);
                }
            }
            seen.stamps.extend_from_slice(&rows.seen().stamps);
            Some(TimeCut::fit(times, validation, test))
        }
        _ => None,
    };

    let splitter = Splitter::new(&config.split, time_cut);
    let mut dense: Vec<DenseFit> = config.dense.iter().map(DenseFit::new).collect();
    let mut categorical: Vec<CategoricalFit> =
        config.categorical.iter().map(|_| CategoricalFit::new(config.trims())).collect();
    let mut rows = Rows::new(&config, &side_tables, sources(), needs)?;
    let mut any = false;
    while rows.advance()? {
        if let Err(error) = rows.label() {
            return Err(label_values::add(
                error,
                &config,
                &side_tables,
                &config.files(Part::Train, folder),
            ));
        }
        if rows.is_milestone() {
            let (read, total) = rows.bytes_read();
            progress((passes - 1) * total + read, passes * total);
        }
        if rows.part(&splitter)?.is_some_and(|part| part != Part::Train) {
            continue;
        }
        any = true;
        let row = rows.row();
        if known.is_none() {
            for (k, (config, fit)) in config.dense.iter().zip(&mut dense).enumerate() {
                fit.add(config, &row, k)?;
            }
        }
        for (k, (config, fit)) in config.categorical.iter().zip(&mut categorical).enumerate() {
            match row.categorical_word(k).filter(|_| config.separator.is_none()) {
                Some(word) => fit.add_word(config, word)?,
                None => fit.add(config, row.categorical(k, &config.column)?)?,
            }
        }
    }
    seen.stamps.extend_from_slice(&rows.seen().stamps);
    seen.check()?;
    let total = rows.bytes_read().1;
    progress(passes * total, passes * total);
    if !any {
        return Err(DataError::EmptyPart { part: Part::Train, reason: NO_TRAINING_ROWS });
    }

    let dense = match known {
        Some(known) => known.dense.clone(),
        None => {
            let fits = config.dense.iter().zip(dense).map(|(config, fit)| fit.finish(config));
            fits.collect::<Result<_>>()?
        }
    };
    let finish = |(k, fit): (usize, CategoricalFit)| match known {
        Some(known) => fit.grow(&config.categorical[k], &known.categorical[k]),
        None => fit.finish(&config.categorical[k]),
    };
    let categorical = categorical.into_iter().enumerate().map(finish);
    let (categorical, rare): (Vec<_>, _) =
        categorical.collect::<Result<Vec<_>>>()?.into_iter().unzip();
    let features = features_of(&config, &dense, &categorical);
    Ok(Encoder { config, side_tables, dense, categorical, time_cut, features, rare, seen })
}

/// Checks that files that are read several times are regular: the files of all parts, and a side
/// table that is joined twice.
fn check_files(config: &DataConfig, folder: &Path) -> Result<()> {
    for part in [Part::Train, Part::Validation, Part::Test] {
        check_rereadable(&config.files(part, folder))?;
    }
    let is_joined_twice =
        |path: &&Path| config.join.iter().filter(|join| join.path == *path).count() > 1;
    let joined_twice = config.join.iter().map(|join| join.path.as_path()).filter(is_joined_twice);
    check_rereadable(&joined_twice.map(|path| folder.join(path)).collect::<Vec<_>>())
}

/// Reads the side tables, and replaces lists and patterns of columns by columns. The header of the
/// first data file decides which columns there are, and which of a side table are needed.
fn side_tables(
    config: &mut DataConfig,
    folder: &Path,
    sources: Vec<Source>,
    needs: Needs<'_>,
    seen: &mut Seen,
) -> Result<Vec<SideTable>> {
    let Some(first) = sources.into_iter().next() else { return Ok(Vec::new()) };
    let file = first.name();
    let text = first.open(&Arc::default())?;
    let records = Records::open(config, file.clone(), text, needs)?;
    load_side_tables(config, folder, &file, records.header(), seen)
}
