//! The encoding of dense columns: what is learned about them, and how their values are encoded.

use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::config::{Dense, Missing, Transform};
use super::dictionary::Counts;
use super::error::{DataError, Result};
use super::number::{self, MAX_NUMBER, NOT_A_NUMBER};
use super::rows::Row;
use super::statistics::{Statistics, quantile, quantiles, rank};

/// The largest number of quantiles that are stored for a column.
const MAX_QUANTILES: usize = 1000;

/// The fitted parameters of a transform.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Fitted {
    Nothing,
    Zscore { mean: f64, std: f64 },
    Quantile { quantiles: Vec<f64> },
}

impl Fitted {
    #[inline]
    fn apply(&self, x: f64) -> f64 {
        match self {
            Self::Nothing => x,
            Self::Zscore { std: 0.0, .. } => 0.0,
            Self::Zscore { mean, std } => (x - mean) / (std + 1e-8),
            Self::Quantile { quantiles } => rank(quantiles, x),
        }
    }
}

/// Everything that has been learned about a dense column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DenseEncoding {
    fitted: Fitted,
    /// The encoding of a missing number.
    missing: f32,
    /// The lower bounds of all quantile bins but the first.
    bins: Vec<f64>,
    /// The knots, each above the one before.
    #[serde(default)]
    knots: Vec<f64>,
    /// The count of each text, if the column's numbers are counts.
    counts: Option<Counts>,
}

impl DenseEncoding {
    /// Returns the number of `row` in dense column `k` before the transforms, and its encoding. The
    /// number is `None` if it is missing.
    #[inline]
    pub(crate) fn encode(
        &self,
        config: &Dense,
        row: &Row<'_>,
        k: usize,
    ) -> Result<(Option<f64>, f32)> {
        let Some(number) = raw_number(config, self.counts.as_ref(), row, k)? else {
            return Ok((None, self.missing));
        };
        let encoded = self.fitted.apply(stateless(config, number, row, k)?) as f32;
        if !encoded.is_finite() {
            const REASON: &str = "which the transforms turn into a number beyond the range of f32: \
                 correct it, or use another transform";
            return Err(row.place().number(&config.column, row.dense(k, &config.column)?, REASON));
        }
        Ok((Some(number), encoded))
    }

    /// Returns the encoding of a number that a column holds. Returns NaN if it is not finite, or if
    /// the number is not enough to know it.
    pub(crate) fn encode_count(&self, config: &Dense, number: f64) -> f32 {
        let stateless =
            apply_stateless(&config.transform, number).filter(|_| self.counts.is_none());
        stateless.map(|x| self.fitted.apply(x) as f32).filter(|x| x.is_finite()).unwrap_or(f32::NAN)
    }

    /// Returns the bin of a number, as a row of the table.
    pub(crate) fn bin(&self, number: Option<f64>) -> u32 {
        number.map_or(0, |x| 1 + self.bins.partition_point(|&bound| bound <= x) as u32)
    }

    /// Returns the number of rows of the bins' table.
    pub(crate) fn num_bin_rows(&self) -> usize {
        self.bins.len() + 2
    }

    /// Returns the position of a number among the rows of the knots' table: the row of the knot at
    /// or below it, and the share of the way to the next one.
    pub(crate) fn position(&self, number: Option<f64>) -> f32 {
        let (Some(x), [first, .., last]) = (number, &self.knots[..]) else {
            return if number.is_some() { 1.0 } else { 0.0 };
        };
        let x = x.clamp(*first, *last);
        let above = self.knots.partition_point(|&knot| knot <= x).min(self.knots.len() - 1);
        let (low, high) = (self.knots[above - 1], self.knots[above]);
        (above as f64 + (x - low) / (high - low)) as f32
    }

    /// Returns the number of rows of the knots' table: at least two, those of one missing number
    /// and of one knot.
    pub(crate) fn num_knot_rows(&self) -> usize {
        self.knots.len().max(1) + 1
    }

    /// Checks that [`DenseFit`] could have made this encoding for `config`.
    pub(crate) fn check(&self, config: &Dense) -> Result<(), &'static str> {
        let plausible = |x: f64| x.abs() <= MAX_NUMBER;
        let sorted = |numbers: &[f64]| numbers.iter().all(|&x| plausible(x)) && numbers.is_sorted();
        let fitted = match (config.transform.last(), &self.fitted) {
            (Some(Transform::Zscore), Fitted::Zscore { mean, std }) => {
                plausible(*mean) && plausible(*std) && *std >= 0.0
            }
            (Some(Transform::Quantile), Fitted::Quantile { quantiles }) => {
                quantiles.len() <= MAX_QUANTILES && sorted(quantiles)
            }
            (Some(Transform::Zscore | Transform::Quantile), _) => false,
            (_, fitted) => *fitted == Fitted::Nothing,
        };
        let counted = self
            .counts
            .as_ref()
            .map_or(!config.count, |counts| config.count && counts.is_consistent());
        match () {
            () if !fitted => Err("the transform does not fit the settings"),
            () if !self.missing.is_finite() => Err("the missing value is not finite"),
            () if self.bins.len() >= config.bins.max(1) || !sorted(&self.bins) => {
                Err("the bins do not fit the settings")
            }
            () if self.knots.len() > config.knots
                || !sorted(&self.knots)
                || self.knots.windows(2).any(|pair| pair[0] == pair[1]) =>
            {
                Err("the knots do not fit the settings")
            }
            () if !counted => Err("the counts do not fit the settings"),
            () => Ok(()),
        }
    }
}

/// Returns the number of a row before the transforms; `None` if it is missing.
#[inline]
fn raw_number(
    config: &Dense,
    counts: Option<&Counts>,
    row: &Row<'_>,
    k: usize,
) -> Result<Option<f64>> {
    // Most numbers are integers with a word, and need no check for UTF-8.
    if counts.is_none()
        && let Some(integer) = row.dense_word(k).and_then(number::parse_word)
    {
        return Ok(Some(integer.into()));
    }
    let text = row.dense(k, &config.column)?;
    if text.trim_ascii().is_empty() {
        return match config.missing {
            Missing::Error => Err(row.place().missing(
                &config.column,
                "set missing = \"mean\", \"zero\" or a number to fill it in",
            )),
            _ => Ok(None),
        };
    }
    if let Some(counts) = counts {
        return Ok(Some(counts.get(text) as f64));
    }
    row.plain_number(text)
        .and_then(|number| number::parse(&number))
        .map(Some)
        .ok_or_else(|| row.place().number(&config.column, text, NOT_A_NUMBER))
}

/// Applies the transforms that learn nothing; they precede the one that may learn.
#[inline]
fn stateless(config: &Dense, number: f64, row: &Row<'_>, k: usize) -> Result<f64> {
    const REASON: &str = "of which there is no log1p: use signed_log1p, or correct it";
    match apply_stateless(&config.transform, number) {
        Some(x) => Ok(x),
        None => Err(row.place().number(&config.column, row.dense(k, &config.column)?, REASON)),
    }
}

#[inline]
fn apply_stateless(transforms: &[Transform], number: f64) -> Option<f64> {
    transforms.iter().try_fold(number, |x, transform| match transform {
        Transform::Log1p if x <= -1.0 => None,
        Transform::Log1p => Some(ln_1p(x)),
        Transform::SignedLog1p => Some(ln_1p(x.abs()).copysign(x)),
        Transform::None | Transform::Zscore | Transform::Quantile => Some(x),
    })
}

/// Returns `ln(1 + x)`, from a table for small counts, which are the most frequent numbers.
#[inline]
fn ln_1p(x: f64) -> f64 {
    static OF_COUNTS: LazyLock<[f64; 1024]> =
        LazyLock::new(|| std::array::from_fn(|count| (count as f64).ln_1p()));
    let count = x as usize;
    match OF_COUNTS.get(count) {
        // The comparison of bits excludes -0, which stays negative.
        Some(&known) if (count as f64).to_bits() == x.to_bits() => known,
        _ => x.ln_1p(),
    }
}

/// Learns a dense column from the training rows. Missing numbers do not count.
pub(crate) struct DenseFit {
    counts: Option<Counts>,
    raw: Statistics,
    transformed: Statistics,
}

impl DenseFit {
    pub(crate) fn new(config: &Dense) -> Self {
        let ranks = config.transform.last() == Some(&Transform::Quantile);
        let counts = config.count.then(Counts::default);
        Self {
            counts,
            raw: Statistics::new(keeps_raw(config)),
            transformed: Statistics::new(ranks),
        }
    }

    /// Learns from dense column `k` of a row.
    #[inline]
    pub(crate) fn add(&mut self, config: &Dense, row: &Row<'_>, k: usize) -> Result<()> {
        let Some(counts) = &mut self.counts else {
            if let Some(number) = raw_number(config, None, row, k)? {
                let transformed = stateless(config, number, row, k)?;
                self.add_number(config, number, transformed);
            }
            return Ok(());
        };
        // The counts are known only after the last row.
        let text = row.dense(k, &config.column)?;
        if text.trim_ascii().is_empty() {
            return raw_number(config, None, row, k).map(|_| ());
        }
        counts.add(text).ok_or_else(|| DataError::TooManyValues { column: config.column.clone() })
    }

    #[inline]
    fn add_number(&mut self, config: &Dense, number: f64, transformed: f64) {
        if keeps_raw(config) {
            self.raw.add(number);
        }
        self.transformed.add(transformed);
    }

    pub(crate) fn finish(mut self, config: &Dense) -> Result<DenseEncoding> {
        let counts = self.counts.take();
        for &count in counts.as_ref().map(Counts::counts).unwrap_or_default() {
            let number = count as f64;
            // A text that occurs n times contributes the number n as often; counts are not
            // negative.
            (0..count).for_each(|_| {
                self.add_number(
                    config,
                    number,
                    apply_stateless(&config.transform, number).unwrap_or(0.0),
                )
            });
        }
        let (mean, std) = (self.transformed.mean(), self.transformed.std());
        let sorted = self.transformed.into_sorted();
        let (fitted, mean_encoded) = match config.transform.last() {
            Some(Transform::Zscore) => (Fitted::Zscore { mean, std }, 0.0),
            Some(Transform::Quantile) => {
                let quantiles = quantiles(&sorted, MAX_QUANTILES);
                let sum: f64 = sorted.iter().map(|&x| rank(&quantiles, x)).sum();
                (Fitted::Quantile { quantiles }, sum / sorted.len().max(1) as f64)
            }
            _ => (Fitted::Nothing, mean),
        };
        let missing = match config.missing {
            Missing::Mean => mean_encoded,
            Missing::Zero | Missing::Error => 0.0,
            Missing::Value(number) => {
                let unfit = || {
                    DataError::config(
                        "dense",
                        format!("missing = {number}: there is no log1p of this number"),
                    )
                };
                fitted.apply(apply_stateless(&config.transform, number).ok_or_else(unfit)?)
            }
        } as f32;
        if !missing.is_finite() {
            return Err(DataError::config(
                "dense",
                format!("missing: the transforms of {:?} exceed the range of f32", config.column),
            ));
        }
        let raw = self.raw.into_sorted();
        let mut knots = quantiles(&raw, config.knots);
        knots.dedup();
        Ok(DenseEncoding { fitted, missing, bins: bounds(&raw, config.bins), knots, counts })
    }
}

/// Returns whether the quantiles of the numbers before the transforms are needed.
fn keeps_raw(config: &Dense) -> bool {
    config.bins > 0 || config.knots > 0
}

/// Returns the lower bounds of at most `bins` quantile bins, without the first bound. None of the
/// bins is empty.
fn bounds(sorted: &[f64], bins: usize) -> Vec<f64> {
    let Some(&least) = sorted.first() else { return Vec::new() };
    let mut bounds: Vec<f64> =
        (1..bins).map(|k| quantile(sorted, k as f64 / bins as f64)).collect();
    bounds.retain(|&bound| bound > least);
    bounds.dedup();
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transforms() {
        let apply = |transforms: &[Transform], x| apply_stateless(transforms, x);
        assert!((apply(&[Transform::Log1p], 1.0).unwrap() - 2f64.ln()).abs() < 1e-15);
        assert_eq!(
            (apply(&[Transform::Log1p], -1.0), apply(&[Transform::Log1p], -3.0)),
            (None, None)
        );
        assert!((apply(&[Transform::SignedLog1p], -3.0).unwrap() + 4f64.ln()).abs() < 1e-15);
        let twice = apply(&[Transform::None, Transform::Log1p, Transform::Log1p], 2.0).unwrap();
        assert!((twice - (1.0 + 3f64.ln()).ln()).abs() < 1e-15);
        assert_eq!(Fitted::Zscore { mean: 1.0, std: 0.0 }.apply(1e30), 0.0);
        assert_eq!(Fitted::Zscore { mean: 1.0, std: 2.0 }.apply(4.0), 3.0 / (2.0 + 1e-8));
    }

    #[test]
    fn known_logarithms_are_those_that_are_not() {
        for x in (0..2000).map(f64::from).chain([-0.0, 0.5, 1023.5, -0.5, 1e300, f64::MIN_POSITIVE])
        {
            assert_eq!(ln_1p(x).to_bits(), x.ln_1p().to_bits(), "{x}");
        }
    }

    #[test]
    fn counts_are_encoded_as_all_numbers_are() {
        let config: Dense =
            toml::from_str("column = 'a'\ntransform = ['log1p', 'zscore']").unwrap();
        let fitted = Fitted::Zscore { mean: 1.0, std: 2.0 };
        let (bins, knots) = (vec![], vec![]);
        let encoding = DenseEncoding { fitted, missing: 0.0, bins, knots, counts: None };
        assert_eq!(
            encoding.encode_count(&config, 3.0),
            ((3f64.ln_1p() - 1.0) / (2.0 + 1e-8)) as f32
        );
        let beyond_f32 =
            DenseEncoding { fitted: Fitted::Zscore { mean: 1e300, std: 0.5 }, ..encoding.clone() };
        let of_texts = DenseEncoding { counts: Some(Counts::default()), ..encoding };
        assert!(
            beyond_f32.encode_count(&config, 3.0).is_nan()
                && of_texts.encode_count(&config, 3.0).is_nan()
        );
    }

    #[test]
    fn bins_are_not_empty() {
        assert_eq!(bounds(&[1.0, 2.0, 3.0, 4.0, 5.0], 4), [2.0, 3.0, 4.0]);
        assert_eq!(bounds(&[0.0, 0.0, 0.0, 0.0, 7.0], 4), [] as [f64; 0]);
        assert_eq!(bounds(&[0.0, 0.0, 7.0, 7.0, 7.0], 4), [7.0]);
        assert!(bounds(&[], 4).is_empty() && bounds(&[1.0], 4).is_empty());
        let encoding = DenseEncoding {
            fitted: Fitted::Nothing,
            missing: 0.0,
            bins: vec![2.0, 3.0],
            knots: vec![],
            counts: None,
        };
        let rows =
            [None, Some(1.0), Some(2.0), Some(2.5), Some(3.0), Some(9.0)].map(|x| encoding.bin(x));
        assert_eq!((rows, encoding.num_bin_rows()), ([0, 1, 2, 2, 3, 3], 4));
    }

    #[test]
    fn positions_are_linear_between_knots() {
        let encoding = |knots: &[f64]| DenseEncoding {
            fitted: Fitted::Nothing,
            missing: 0.0,
            bins: vec![],
            knots: knots.to_vec(),
            counts: None,
        };
        let three = encoding(&[-2.0, 0.0, 8.0]);
        let at = |x: f64| three.position(Some(x));
        assert_eq!(
            [-3.0, -2.0, -1.5, 0.0, 2.0, 8.0, 1e300].map(at),
            [1.0, 1.0, 1.25, 2.0, 2.25, 3.0, 3.0]
        );
        assert_eq!((three.position(None), three.num_knot_rows()), (0.0, 4));
        for alone in [&[][..], &[5.0]] {
            let alone = encoding(alone);
            assert_eq!((alone.position(Some(7.0)), alone.position(None)), (1.0, 0.0));
            assert_eq!(alone.num_knot_rows(), 2);
        }
        // Knots far apart do not overflow.
        assert_eq!(encoding(&[-MAX_NUMBER, MAX_NUMBER]).position(Some(0.0)), 1.5);
        let config: Dense = toml::from_str("column = 'a'\nknots = 3").unwrap();
        let mut fit = DenseFit::new(&config);
        [0.0, 1.0, 2.0, 2.0, 9.0].iter().for_each(|&x| fit.add_number(&config, x, x));
        assert_eq!(fit.finish(&config).unwrap().knots, [0.0, 2.0, 9.0]);
    }
}
