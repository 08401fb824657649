//! The encoding of categories as rows of embedding tables.

use serde::{Deserialize, Serialize};

use super::bytes::trimmed;
use super::config::{Categorical, Unknown};
use super::coverage::Tally;
use super::dictionary::{Counts, Dictionary};
use super::error::{DataError, Result};
use super::hash::{EMPTY, HashWords, hash64};
use crate::simd::Dispatch;

/// The number of words of a column that are looked up together: enough to bring the column's table
/// into the cache, and enough independent lookups to overlap their cache misses.
pub(crate) const WORDS_AT_A_TIME: usize = 128;

/// The high byte of a word that holds a row instead of a text. Words of texts are smaller.
const ROW: u64 = 0xff << 56;

/// The mapping from values to rows of a table. Row 0 stands for missing and unknown values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum CategoricalEncoding {
    /// Row `k + 1` for text number `k`.
    Dictionary(Dictionary),
    /// Row `1 + hash64(value) % rows`.
    Hash(u32),
}

impl CategoricalEncoding {
    /// Returns the number of rows of the table.
    pub(crate) fn num_embeddings(&self) -> usize {
        1 + match self {
            Self::Dictionary(dictionary) => dictionary.len(),
            Self::Hash(rows) => *rows as usize,
        }
    }

    /// Appends the rows of a single-valued column. Each word is that of the text
    /// ([`word_of`](super::hash::word_of)) or the result of [`Self::row_as_word`].
    pub(crate) fn rows_of_words(&self, words: &[u64], rows: &mut Vec<u32>) {
        let row_or = |word: u64, row: u32| match word {
            EMPTY => 0,
            ROW.. => word as u32,
            _ => row,
        };
        match self {
            Self::Dictionary(dictionary) => {
                let row = |word| dictionary.get_word(word).map_or(0, |number| number + 1);
                rows.extend(words.iter().map(|&word| row_or(word, row(word))));
            }
            Self::Hash(count) => {
                let remainder = Remainder::new(*count);
                let mut hashes = [0; WORDS_AT_A_TIME];
                for words in words.chunks(WORDS_AT_A_TIME) {
                    Dispatch::default()
                        .run(HashWords { words, hashes: &mut hashes[..words.len()] });
                    let row = |(&word, &hash)| row_or(word, 1 + remainder.of(hash));
                    rows.extend(words.iter().zip(&hashes).map(row));
                }
            }
        }
    }

    /// Returns the row of a text without a word, marked so that it can stand among words.
    pub(crate) fn row_as_word(&self, text: &str) -> u64 {
        ROW | u64::from(self.row(text))
    }

    /// Returns the row of a value of a single-valued column.
    #[inline]
    pub(crate) fn row(&self, text: &str) -> u32 {
        if text.is_empty() { 0 } else { self.known_row(text).unwrap_or(0) }
    }

    /// Appends the rows of a multi-valued column's values, and counts these values in `tally`.
    /// `trim` is as in [`values`].
    pub(crate) fn rows(
        &self,
        config: &Categorical,
        text: &str,
        trim: bool,
        rows: &mut Vec<u32>,
        tally: &mut Tally,
    ) {
        let keep = config.unknown == Some(Unknown::Row);
        rows.extend(values(config, text, trim).filter_map(|value| {
            let row = self.known_row(value);
            tally.add(value, row.is_some());
            row.or(keep.then_some(0))
        }));
    }

    #[inline]
    fn known_row(&self, value: &str) -> Option<u32> {
        match self {
            Self::Dictionary(dictionary) => dictionary.get(value).map(|number| number + 1),
            Self::Hash(rows) => {
                Some(1 + (hash64(value.as_bytes()) % u64::from((*rows).max(1))) as u32)
            }
        }
    }

    /// Checks that [`CategoricalFit`] could have made this encoding for `config`.
    pub(crate) fn check(&self, config: &Categorical) -> Result<(), &'static str> {
        match (self, config.hash) {
            (Self::Hash(rows), Some(expected)) if *rows == expected => Ok(()),
            (Self::Dictionary(_), None) => Ok(()),
            _ => Err("the encoding is not the one of the settings"),
        }
    }
}

/// Computes remainders by one divisor with a multiplication: a division would take longer than the
/// rest of the encoding of a hashed value.
struct Remainder {
    divisor: u64,
    reciprocal: u64,
}

impl Remainder {
    fn new(divisor: u32) -> Self {
        let divisor = u64::from(divisor.max(1));
        Self { divisor, reciprocal: u64::MAX / divisor }
    }

    #[inline]
    fn of(&self, number: u64) -> u32 {
        // The reciprocal is above 2^64 / divisor - 1 and not above 2^64 / divisor, so the quotient
        // is right or 1 too small.
        let quotient = ((u128::from(number) * u128::from(self.reciprocal)) >> 64) as u64;
        let remainder = number - quotient * self.divisor;
        // A minimum instead of a branch, which the processor could not predict.
        remainder.min(remainder.wrapping_sub(self.divisor)) as u32
    }
}

/// Returns the values of a column: one, or several if the column has a separator. With `trim`,
/// blanks around each of several values are removed. Empty values are skipped.
fn values<'a>(config: &'a Categorical, text: &'a str, trim: bool) -> impl Iterator<Item = &'a str> {
    // A column without a separator has one value, the whole text.
    let mut rest = Some(text);
    let separator = config.separator.as_deref();
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let Some((value, after)) = separator.and_then(|separator| text.split_once(separator))
        else {
            return Some(text);
        };
        rest = Some(after);
        Some(value)
    })
    .map(move |value| if trim && separator.is_some() { trimmed(value) } else { value })
    .filter(|value| !value.is_empty())
}

/// Learns a categorical column from the training rows.
pub(crate) struct CategoricalFit {
    counts: Counts,
    /// The words of texts that are not counted yet.
    words: Vec<u64>,
    trim: bool,
}

impl CategoricalFit {
    /// Makes a fit that has seen no rows; `trim` is as in [`values`].
    pub(crate) fn new(trim: bool) -> Self {
        Self { counts: Counts::default(), words: Vec::with_capacity(WORDS_AT_A_TIME), trim }
    }

    /// Adds the text of a row.
    pub(crate) fn add(&mut self, config: &Categorical, text: &str) -> Result<()> {
        if config.hash.is_none() {
            self.count_words(config)?;
            for value in values(config, text, self.trim) {
                self.counts.add(value).ok_or_else(|| too_many_values(config))?;
            }
        }
        Ok(())
    }

    /// Adds the text of a row, given as its word, in a single-valued column.
    #[inline]
    pub(crate) fn add_word(&mut self, config: &Categorical, word: u64) -> Result<()> {
        if config.hash.is_none() && word != EMPTY {
            self.words.push(word);
            if self.words.len() == WORDS_AT_A_TIME {
                self.count_words(config)?;
            }
        }
        Ok(())
    }

    fn count_words(&mut self, config: &Categorical) -> Result<()> {
        self.counts.add_words(&self.words).ok_or_else(|| too_many_values(config))?;
        self.words.clear();
        Ok(())
    }

    /// Returns a known encoding with a row for each further value that is frequent enough, and the
    /// share of the values that have no row. Known values keep their rows.
    pub(crate) fn grow(
        mut self,
        config: &Categorical,
        known: &CategoricalEncoding,
    ) -> Result<(CategoricalEncoding, f64)> {
        let CategoricalEncoding::Dictionary(known) = known else { return Ok((known.clone(), 0.0)) };
        self.count_words(config)?;
        let min_count = config.min_count.unwrap_or(1).into();
        let (mut grown, mut all, mut rare) = (known.clone(), 0, 0);
        for (text, count) in self.counts.iter() {
            all += count;
            if known.get(text).is_some() {
                continue;
            }
            if count >= min_count {
                grown.insert(text).ok_or_else(|| too_many_values(config))?;
            } else {
                rare += count;
            }
        }
        let share = if rare == 0 { 0.0 } else { rare as f64 / all as f64 };
        Ok((CategoricalEncoding::Dictionary(grown), share))
    }

    /// Returns the encoding, and the share of the values that are too rare to have a row.
    pub(crate) fn finish(mut self, config: &Categorical) -> Result<(CategoricalEncoding, f64)> {
        self.count_words(config)?;
        let min_count = config.min_count.unwrap_or(1).into();
        let counts = self.counts.counts();
        let (all, rare): (u64, u64) =
            (counts.iter().sum(), counts.iter().filter(|&&count| count < min_count).sum());
        let encoding = match config.hash {
            Some(rows) => CategoricalEncoding::Hash(rows),
            None => CategoricalEncoding::Dictionary(self.counts.frequent(min_count)),
        };
        Ok((encoding, if rare == 0 { 0.0 } else { rare as f64 / all as f64 }))
    }
}

fn too_many_values(config: &Categorical) -> DataError {
    DataError::TooManyValues { column: config.column.clone() }
}

#[cfg(test)]
mod tests {
    use super::super::hash::word_of;
    use super::*;

    fn config(toml: &str) -> Categorical {
        toml::from_str(&format!("column = \"c\"\n{toml}")).unwrap()
    }

    #[test]
    fn bags_keep_duplicates_and_drop_what_is_empty() {
        let config = config("separator = \"||\"\nmin_count = 2");
        assert!(values(&config, "||a||||b||a", true).eq(["a", "b", "a"]));
        assert_eq!(
            (values(&config, "", true).count(), values(&config, "||", true).count()),
            (0, 0)
        );
        let mut fit = CategoricalFit::new(true);
        ["b||a||c", "a||b", "b"].iter().for_each(|text| fit.add(&config, text).unwrap());
        let (encoding, rare) = fit.finish(&config).unwrap();
        assert_eq!(rare, 1.0 / 6.0, "c occurs once");
        let rows = |unknown: Option<Unknown>| {
            let mut rows = vec![];
            let config = Categorical { unknown, ..config.clone() };
            encoding.rows(&config, "a||c||x||b||a", true, &mut rows, &mut Tally::default());
            rows
        };
        assert_eq!(encoding.num_embeddings(), 3);
        assert_eq!(rows(None), [2, 1, 2]);
        assert_eq!(rows(Some(Unknown::Drop)), [2, 1, 2]);
        assert_eq!(rows(Some(Unknown::Row)), [2, 0, 0, 1, 2]);
    }

    #[test]
    fn values_of_a_list_are_trimmed() {
        let list = config("separator = \",\"");
        assert!(values(&list, " a, b c ,\t,d\t,  ", true).eq(["a", "b c", "d"]));
        assert!(values(&list, " a, ", false).eq([" a", " "]));
        // Only the reader trims a text without a separator; blanks inside quotes stay.
        assert!(values(&config(""), " a, b ", true).eq([" a, b "]));
    }

    #[test]
    fn remainders_are_those_of_a_division() {
        for divisor in [1, 2, 3, 7, 641, 100_000, 1 << 31, u32::MAX - 1, u32::MAX] {
            let remainder = Remainder::new(divisor);
            let wide = u64::from(divisor);
            let near =
                [wide - 1, wide, wide + 1, wide * wide - 1, wide * wide, u64::MAX / wide * wide];
            for number in
                near.into_iter().flat_map(|n| [n, n.wrapping_sub(1)]).chain([0, 1 << 63, u64::MAX])
            {
                assert_eq!(u64::from(remainder.of(number)), number % wide, "{number} % {divisor}");
            }
        }
    }

    #[test]
    fn words_have_the_rows_of_their_texts() {
        let texts = [
            "",
            "a",
            "01234567",
            "0123456\0",
            "x",
            "\0",
            "7654321",
            "00000000",
            "no word",
            "89abcdef",
            "b",
        ];
        let mut dictionary = Dictionary::default();
        texts.iter().skip(2).step_by(2).for_each(|text| assert!(dictionary.insert(text).is_some()));
        for encoding in
            [CategoricalEncoding::Dictionary(dictionary), CategoricalEncoding::Hash(1009)]
        {
            let texts: Vec<String> =
                texts.iter().map(|&text| text.into()).chain(["a long text".into()]).collect();
            // Groups with and without short texts, and a rest.
            for texts in [&texts[..], &vec![texts[2].clone(); 5], &texts[6..]] {
                let word = |text: &String| {
                    word_of(text.as_bytes()).unwrap_or_else(|| encoding.row_as_word(text))
                };
                let mut rows = vec![];
                encoding.rows_of_words(&texts.iter().map(word).collect::<Vec<_>>(), &mut rows);
                assert!(
                    rows.iter().copied().eq(texts.iter().map(|text| encoding.row(text))),
                    "{texts:?}: {rows:?}"
                );
            }
        }
    }

    #[test]
    fn hashed_values_need_no_dictionary() {
        let config = config("hash = 7");
        let mut fit = CategoricalFit::new(true);
        fit.add(&config, "a").unwrap();
        let (encoding, _) = fit.finish(&config).unwrap();
        assert_eq!((encoding.num_embeddings(), encoding.row("")), (8, 0));
        for text in ["a", "b", "never seen"] {
            assert_eq!(u64::from(encoding.row(text)), 1 + hash64(text.as_bytes()) % 7);
        }
    }
}
