//! The keys under `[data]` in a configuration file.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::de::value::SeqAccessDeserializer;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::criteo;
use super::date::{DateOrder, DatePart};
use super::delimited::Dialect;
use super::error::{DataError, Result};
use super::label::Label;
use super::number::Notation;
use super::part::Part;
use super::wildcard::find_files;
use crate::ops::Pooling;

/// The files to read, and the meaning of their columns: `[data]`.
///
/// ```
/// # use bagdot::data::DataConfig;
/// let config: DataConfig = toml::from_str(r#"
///     train = "ratings.csv"
///     label = "rating >= 4"
///     [[join]]
///     path = "movies.csv"
///     on = "movieId"
///     [[categorical]]
///     column = "userId"
///     [[categorical]]
///     column = "genres"
///     separator = "|"
/// "#)?;
/// config.validate()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataConfig {
    /// The syntax of the files.
    pub format: Format,
    /// The files, read in this order; one path or a list. Relative paths count from the folder of
    /// the configuration file.
    #[serde(deserialize_with = "one_or_many")]
    pub train: Vec<PathBuf>,
    /// The files of the validation rows, only with `split = { by = "file" }`.
    #[serde(deserialize_with = "one_or_many")]
    pub validation: Vec<PathBuf>,
    /// The files of the test rows, only with `split = { by = "file" }`.
    #[serde(deserialize_with = "one_or_many")]
    pub test: Vec<PathBuf>,
    /// The character between the fields of a delimited file: `,` unless set.
    pub delimiter: Option<char>,
    /// If true, which is the default, blanks and tabs around the fields of a delimited file are
    /// ignored. The contents of quotes stay as they are; a quote after blanks opens a field. The
    /// values of a column with a `separator` are trimmed too, also within quotes. Names of columns
    /// and numbers are always trimmed; the other fields of a Criteo file, which have no blanks
    /// around them, never are.
    pub trim: Option<bool>,
    /// The longest field of a delimited file, in bytes, with its quotes: 1048576 unless set. A
    /// longer one is an error.
    pub max_field_bytes: Option<usize>,
    /// The names of the columns, of files that have none in their first line; they count for all
    /// files of rows, not for side tables.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub header: Vec<String>,
    /// The texts that mark a missing value in any column besides the empty text, such as `NA`.
    /// They are compared with whole fields of the files, and not with the values of a list.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub missing_values: Vec<String>,
    /// The character between the whole and the fraction of numbers: `.` unless set, or `,`.
    /// Numbers in the settings always have a point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decimal: Option<char>,
    /// The character between groups of digits of large numbers, such as `,` or a blank; none
    /// unless set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thousands: Option<char>,
    /// The label: a column that holds 0 or 1, or a condition such as `rating >= 4`, `y = yes` or `y
    /// != no`.
    ///
    /// A condition is a column, one of `>= <= > < = !=`, and a value. If the value is a number, the
    /// comparison is numeric, on decimals as they are written: exact at any size, and `007` equals
    /// `7`. A row whose column holds no number is an error then, since it belongs to neither class.
    /// `=` and `!=` also compare with a text.
    pub label: Option<String>,
    /// The assignment of rows to training, validation and test.
    pub split: Split,
    /// Side tables, whose columns become columns of every row.
    pub join: Vec<Join>,
    /// Columns made from other columns.
    pub derive: Vec<Derive>,
    /// The numbers that the bottom MLP reads.
    pub dense: Vec<Dense>,
    /// The columns that are looked up in embedding tables.
    pub categorical: Vec<Categorical>,
    /// The largest share of unknown values: values of a categorical column at evaluation and
    /// prediction that training has not seen, or keys that a side table lacks. A larger share is an
    /// error. Unless set there is no limit; unusual shares are only reported.
    pub max_unknown: Option<f64>,
    /// The encoding of the 26 categorical columns of a Criteo file, unless `categorical` is set.
    pub criteo: Option<Criteo>,
}

/// The syntax of a data file. Files compressed with gzip or zstd are recognised by their contents
/// in either format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Fields between delimiters, quoted as in RFC 4180, the names of the columns in the first
    /// line.
    #[default]
    Delimited,
    /// The Criteo click logs: no header; `label`, 13 integers `I1`..`I13` and 26 categories
    /// `C1`..`C26` between tabs.
    Criteo,
}

/// The assignment of rows to training, validation and test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", deny_unknown_fields)]
pub enum Split {
    /// A split by a hash of the row's number, counted from 0 through the training files: with seed
    /// 0, row `i` has `u = (i * 0x9E3779B97F4A7C15 mod 2^64) / 2^64` and is a test row if
    /// `u < test`, else a validation row if `u < test + validation`.
    Hash {
        /// The seed of the hash; each seed gives another split.
        #[serde(default)]
        seed: u64,
        /// The share of the validation rows.
        #[serde(default = "one_sixteenth")]
        validation: f64,
        /// The share of the test rows.
        #[serde(default = "three_sixteenths")]
        test: f64,
    },
    /// A split by time: the latest rows are test rows, those before them validation rows. Rows of
    /// the same time stay together, in the later part.
    Time {
        /// The column that holds the time, as a number.
        column: String,
        /// The share of the validation rows.
        #[serde(default = "one_tenth")]
        validation: f64,
        /// The share of the test rows.
        #[serde(default = "one_tenth")]
        test: f64,
    },
    /// A split by file, as the settings `train`, `validation` and `test` say.
    File {},
}

/// A side table. Its columns become columns of every row that has the same key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The path of the side table, a delimited file with a header.
    pub path: PathBuf,
    /// The key: a column of both tables, or one column of each. If the side table lacks a row's
    /// key, the joined columns are empty.
    pub on: JoinOn,
    /// The character between the fields of the side table; that of the data files unless set.
    pub delimiter: Option<char>,
}

/// The key of a [`Join`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    deny_unknown_fields,
    expecting = "a column, or { left = \"column here\", right = \"column there\" }"
)]
pub enum JoinOn {
    /// The name of the key column in both tables.
    Same(String),
    /// The two names of the key column.
    Pair {
        /// The name in the rows; it may be a column of an earlier join.
        left: String,
        /// The name in the side table.
        right: String,
    },
}

impl JoinOn {
    /// Returns the name of the key column in the rows.
    pub fn left(&self) -> &str {
        match self {
            Self::Same(column) | Self::Pair { left: column, .. } => column,
        }
    }

    /// Returns the name of the key column in the side table.
    pub fn right(&self) -> &str {
        match self {
            Self::Same(column) | Self::Pair { right: column, .. } => column,
        }
    }
}

/// A new column: the text that a regular expression captures in another column, or the combination
/// of several columns. It is empty in rows that the expression does not match.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derive {
    /// The name of the new column.
    pub name: String,
    /// The source: a column of the file, of a side table, or derived before this one; or a list of
    /// columns, whose texts are joined by a space.
    #[serde(deserialize_with = "one_or_many")]
    pub from: Vec<String>,
    /// A regular expression. The text of its first group becomes the value; without a group, the
    /// whole match. Default: the whole text.
    #[serde(default = "whole_text")]
    pub pattern: String,
    /// The part of a date or time. If set, the text must be one, and the value is this part of it,
    /// a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date: Option<DatePart>,
    /// The order of year, month and day in the text, with `date`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub date_order: Option<DateOrder>,
    /// The size of buckets. If set, the text, or the part of the date, must be a number, and is
    /// rounded down to a multiple of it.
    pub bucket: Option<f64>,
}

/// A number that the bottom MLP reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dense {
    /// The name of the column.
    pub column: String,
    /// Several columns with the same settings, in place of `column`: names, and patterns in which
    /// `*` stands for any text. A pattern takes the columns that the list does not name; `"*"`
    /// alone takes all columns that no other setting names or matches.
    #[serde(deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The transforms of the number, one or several, in the order of their application. Only the
    /// last may be fitted to the data. Default: `["signed_log1p", "zscore"]`, which suits amounts
    /// and counts of any magnitude, and times. `"none"` applies no transform.
    #[serde(deserialize_with = "one_or_many")]
    pub transform: Vec<Transform>,
    /// The substitute for a missing number.
    pub missing: Missing,
    /// The number of quantile bins; 0 for none. If set, the categorical feature `column.bins` holds
    /// the quantile of the training rows in which the number lies, before the transforms. Row 0 of
    /// its table stands for a missing number, row 1 for the first quantile.
    pub bins: usize,
    /// The number of knots, which lie at quantiles of the training rows; 0 for none. If set, the
    /// feature `column.knots` embeds the number before the transforms, as a function that is linear
    /// between knots: its vector is `(1 - f) v + f w`, with the vectors `v` and `w` of the knots
    /// beside the number, and the share `f` of the way from one to the other. Numbers outside are
    /// moved to the first or the last knot. Row 0 of the table stands for a missing number. After
    /// the piecewise linear encoding of Gorishniy et al. (2022), arXiv:2203.05556.
    pub knots: usize,
    /// Set if the number is the count of training rows with the same text, instead of the text's
    /// own number.
    pub count: bool,
}

/// A function that is applied to a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transform {
    /// The identity: the model reads the number as it is.
    None,
    /// `ln(1 + x)`, for numbers above -1.
    Log1p,
    /// `sign(x) ln(1 + |x|)`.
    SignedLog1p,
    /// `(x - mean) / (std + 1e-8)` with the mean and the population standard deviation of the
    /// training rows; 0 if that is 0.
    Zscore,
    /// The share of the training rows with a smaller number: between 0 and 1.
    Quantile,
}

impl fmt::Display for Transform {
    /// Writes the transform's name in configurations.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Log1p => "log1p",
            Self::SignedLog1p => "signed_log1p",
            Self::Zscore => "zscore",
            Self::Quantile => "quantile",
        })
    }
}

/// The substitute for a missing number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", expecting = "\"mean\", \"zero\", \"error\" or a number")]
pub enum Missing {
    /// The mean of the training rows, after the transforms.
    #[default]
    Mean,
    /// 0, after the transforms.
    Zero,
    /// No substitute: a missing number is an error.
    Error,
    /// The given number, before the transforms.
    #[serde(untagged)]
    Value(f64),
}

/// A column whose values select rows of an embedding table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Categorical {
    /// The name of the column.
    #[serde(default)]
    pub column: String,
    /// Several columns with the same settings, as in [`Dense::columns`].
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub columns: Vec<String>,
    /// The text between the values of a multi-valued column, whose values make a bag. Without it
    /// the column has one value.
    pub separator: Option<String>,
    /// The number of training rows in which a value must occur to have a row of its own: 1 unless
    /// set.
    pub min_count: Option<u32>,
    /// The number of rows of a hashed column. If set, there is no dictionary: a value whose
    /// [`hash64`](super::hash64) is `h` has row `1 + h % hash`.
    pub hash: Option<u32>,
    /// The function that reduces the rows of a bag to one vector.
    #[serde(default)]
    pub pooling: Pooling,
    /// The treatment of a value without a row: `row` unless set, `drop` if there is a separator.
    pub unknown: Option<Unknown>,
}

impl Categorical {
    fn of(column: String, min_count: Option<u32>, hash: Option<u32>) -> Self {
        Self {
            column,
            columns: Vec::new(),
            separator: None,
            min_count,
            hash,
            pooling: Pooling::Sum,
            unknown: None,
        }
    }
}

/// The treatment of a value without a row of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// The value is left out of the bag.
    Drop,
    /// The value becomes row 0.
    Row,
}

/// The encoding of the categorical columns of a Criteo file: `[data.criteo]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Criteo {
    /// Like [`Categorical::min_count`], but 10 unless set.
    pub min_count: Option<u32>,
    /// Like [`Categorical::hash`].
    pub hash: Option<u32>,
}

impl Default for Split {
    fn default() -> Self {
        Self::Hash { seed: 0, validation: one_sixteenth(), test: three_sixteenths() }
    }
}

fn whole_text() -> String {
    "(?s).+".into()
}
fn one_sixteenth() -> f64 {
    0.0625
}
fn three_sixteenths() -> f64 {
    0.1875
}
fn one_tenth() -> f64 {
    0.1
}

impl DataConfig {
    /// Returns the files that hold the rows of a part: its own files with a split by file, else the
    /// files of `train`.
    pub fn files(&self, part: Part, folder: &Path) -> Vec<PathBuf> {
        let paths = match (&self.split, part) {
            (Split::File {}, Part::Validation) => &self.validation,
            (Split::File {}, Part::Test) => &self.test,
            _ => &self.train,
        };
        paths.iter().map(|path| folder.join(path)).collect()
    }

    /// Replaces folders and patterns among the files of rows by the files that they stand for now,
    /// in the order of their names: `"clicks/"` by the files in that folder, `"2024-*.csv"` by
    /// those that match. Relative paths start at `folder`, and stay relative.
    ///
    /// # Errors
    /// Returns [`DataError::Io`] if nothing matches, or a folder cannot be read.
    pub fn find_files(&mut self, folder: &Path) -> Result<()> {
        for paths in [&mut self.train, &mut self.validation, &mut self.test] {
            let mut files = Vec::new();
            for path in paths.iter() {
                let here = folder.join(path);
                let found = find_files(&here)?;
                if found == [here] {
                    files.push(path.clone());
                    continue;
                }
                let relative = |file: PathBuf| match file.strip_prefix(folder) {
                    Ok(relative) if path.is_relative() => relative.to_owned(),
                    _ => file,
                };
                files.extend(found.into_iter().map(relative));
            }
            *paths = files;
        }
        Ok(())
    }

    /// Returns all files that are read, side tables included.
    pub fn inputs(&self, folder: &Path) -> Vec<PathBuf> {
        let rows = self.train.iter().chain(&self.validation).chain(&self.test);
        rows.chain(self.join.iter().map(|join| &join.path)).map(|path| folder.join(path)).collect()
    }

    /// Returns the settings with all defaults filled in, including those of a Criteo file. A model
    /// is stored with these settings, so that an empty list of transforms in a stored column means
    /// none.
    pub(crate) fn with_defaults(&self) -> Self {
        let mut config = self.clone();
        if config.format == Format::Criteo {
            config.label.get_or_insert_with(|| criteo::LABEL.to_owned());
            if config.dense.is_empty() {
                let dense = |column| Dense { column, ..Dense::default() };
                config.dense = criteo::integer_columns().map(dense).collect();
            }
            if config.categorical.is_empty() {
                let Criteo { min_count, hash } = config.criteo.take().unwrap_or_default();
                let min_count = min_count.or(if hash.is_none() { Some(10) } else { None });
                let categorical = |column| Categorical::of(column, min_count, hash);
                config.categorical = criteo::category_columns().map(categorical).collect();
            }
        }
        for dense in config.dense.iter_mut().filter(|dense| dense.transform.is_empty()) {
            // Numbers may be negative, such as I2 of Criteo, where a plain log1p has no value.
            dense.transform = vec![Transform::SignedLog1p, Transform::Zscore];
        }
        config
    }

    pub(crate) fn label(&self) -> Result<Label> {
        let text = self
            .label
            .as_deref()
            .ok_or_else(|| DataError::config("label", "missing: name the column to predict"))?;
        let label = Label::parse(text)?.reading(self.notation());
        Ok(if self.trims() { label.trimmed() } else { label })
    }

    /// Returns the dialect of the data files. [`Self::validate`] has checked that the delimiter is
    /// a byte.
    pub(crate) fn dialect(&self) -> Dialect {
        Dialect {
            delimiter: self.delimiter.and_then(|c| u8::try_from(c).ok()).unwrap_or(b','),
            trim: self.trims(),
            max_field_bytes: self.max_field_bytes.unwrap_or(1 << 20),
        }
    }

    /// Returns the notation of numbers in the data files.
    pub(crate) fn notation(&self) -> Notation {
        Notation { decimal: self.decimal.unwrap_or('.'), thousands: self.thousands }
    }

    /// Returns whether blanks and tabs around texts are ignored.
    pub(crate) fn trims(&self) -> bool {
        self.trim.unwrap_or(true)
    }
}

/// Reads one value or a list of values.
fn one_or_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct OneOrMany<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for OneOrMany<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string or a list of strings")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<Vec<T>, E> {
            Ok(vec![T::deserialize(text.into_deserializer())?])
        }
        fn visit_seq<A: de::SeqAccess<'de>>(self, sequence: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(sequence))
        }
    }
    deserializer.deserialize_any(OneOrMany(PhantomData))
}
