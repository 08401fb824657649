//! Encodes rows into a dataset.

use super::categorical::WORDS_AT_A_TIME;
use super::coverage::{Coverage, Tallies};
use super::dataset::{Column, Dataset};
use super::encoder::Encoder;
use super::error::Result;
use super::number;
use super::rows::Row;
use super::shown::shortened;

/// The number of counts whose encodings are precomputed: most numbers are small counts.
const KNOWN_COUNTS: usize = 256;

/// Encodes rows one after the other. Single-valued categories are encoded column by column, a few
/// rows at a time.
pub(super) struct RowEncoder<'a> {
    encoder: &'a Encoder,
    dataset: Dataset,
    /// For each dense column, the encodings of the first counts; NaN where the encoding is not
    /// finite.
    counts: Vec<[f32; KNOWN_COUNTS]>,
    /// The single-valued categorical columns, and the multi-valued ones.
    single: Vec<usize>,
    bags: Vec<usize>,
    /// The words of the single-valued columns in the last rows, which are not looked up yet.
    /// Row-major.
    words: Vec<u64>,
    column: Vec<u64>,
    tallies: Tallies,
    /// For each categorical column, the first unknown text without a word among those that are not
    /// looked up yet.
    long: Vec<Option<String>>,
}

impl<'a> RowEncoder<'a> {
    /// Makes an encoder without rows.
    pub(super) fn new(encoder: &'a Encoder) -> Self {
        let dense = encoder.dense.iter().zip(&encoder.config.dense);
        let counts = dense.map(|(encoding, config)| {
            std::array::from_fn(|n| encoding.encode_count(config, n as f64))
        });
        let has_bags = |&k: &usize| encoder.config.categorical[k].separator.is_some();
        let (bags, single) = (0..encoder.categorical.len()).partition(has_bags);
        let (dataset, counts) = (encoder.dataset(), counts.collect());
        let (tallies, long) =
            (Tallies::new(&encoder.config), vec![None; encoder.categorical.len()]);
        Self {
            encoder,
            dataset,
            counts,
            single,
            bags,
            words: Vec::new(),
            column: Vec::new(),
            tallies,
            long,
        }
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.dataset.len()
    }

    /// Appends a row. After an error the row is incomplete, and the caller must clear all rows.
    pub(super) fn push(&mut self, row: &Row<'_>, label: f32) -> Result<()> {
        let Encoder { config, dense, categorical, .. } = self.encoder;
        let trim = config.trims();
        let dataset = &mut self.dataset;
        dataset.labels.push(label);
        let num_bins = config.dense.iter().filter(|dense| dense.bins > 0).count();
        let (columns, of_numbers) = dataset.columns.split_at_mut(categorical.len());
        let (bins, knots) = of_numbers.split_at_mut(num_bins);
        let (mut bins, mut knots) = (bins.iter_mut(), knots.iter_mut());
        for (k, ((config, encoding), known)) in
            config.dense.iter().zip(dense).zip(&self.counts).enumerate()
        {
            let count = row.dense_word(k).and_then(number::parse_word);
            let known =
                count.and_then(|count| Some((Some(f64::from(count)), *known.get(count as usize)?)));
            let (number, encoded) = match known.filter(|(_, encoded)| !encoded.is_nan()) {
                Some(known) => known,
                None => encoding.encode(config, row, k)?,
            };
            dataset.dense.push(encoded);
            if config.count && number.is_some() {
                self.tallies.dense[k].add(row.dense(k, &config.column)?, number != Some(0.0));
            }
            if config.bins > 0
                && let Some(column) = bins.next()
            {
                column.push(encoding.bin(number));
            }
            if config.knots > 0
                && let Some(Column::Positions { positions, .. }) = knots.next()
            {
                positions.push(encoding.position(number));
            }
        }
        if dense.is_empty() {
            dataset.dense.push(1.0);
        }
        for &k in &self.bags {
            let config = &config.categorical[k];
            let text = row.categorical(k, &config.column)?;
            let tally = &mut self.tallies.categorical[k];
            columns[k].push_with(
                || categorical[k].row(text),
                |ids| categorical[k].rows(config, text, trim, ids, tally),
            );
        }
        for &k in &self.single {
            self.words.push(match row.categorical_word(k) {
                Some(word) => word,
                None => {
                    let text = row.categorical(k, &config.categorical[k].column)?;
                    let row = categorical[k].row_as_word(text);
                    if row as u32 == 0
                        && self.long[k].is_none()
                        && self.tallies.categorical[k].has_no_example()
                    {
                        self.long[k] = Some(shortened(text));
                    }
                    row
                }
            });
        }
        for (k, tally) in self.tallies.joins.iter_mut().enumerate() {
            if let Some((key, is_known)) = row.key(k, config.join[k].on.left())? {
                tally.add(key, is_known);
            }
        }
        if self.words.len() >= WORDS_AT_A_TIME * self.single.len() {
            self.look_up();
        }
        Ok(())
    }

    /// Looks up the collected words, column by column.
    fn look_up(&mut self) {
        for (place, &k) in self.single.iter().enumerate() {
            if let Column::Single(ids) = &mut self.dataset.columns[k] {
                self.column.clear();
                self.column
                    .extend(self.words.chunks_exact(self.single.len()).map(|row| row[place]));
                let first = ids.len();
                self.encoder.categorical[k].rows_of_words(&self.column, ids);
                let long = self.long[k].take();
                self.tallies.categorical[k].add_words(&self.column, &ids[first..], long);
            }
        }
        self.words.clear();
    }

    /// Removes all rows, but keeps their memory.
    pub(super) fn clear(&mut self) {
        self.dataset.clear();
        self.words.clear();
        self.long.fill(None);
    }

    /// Returns the rows.
    pub(super) fn dataset(&mut self) -> &Dataset {
        self.look_up();
        &self.dataset
    }

    /// Returns the coverage of all rows so far, including removed ones.
    pub(super) fn coverage(&self) -> Coverage {
        self.tallies.coverage(&self.encoder.config, &self.encoder.rare)
    }

    /// Returns the rows, with their coverage.
    pub(super) fn into_dataset(mut self) -> Dataset {
        self.dataset();
        self.dataset.coverage = self.coverage();
        self.dataset
    }
}
