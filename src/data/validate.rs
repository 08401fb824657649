//! Checks a [`DataConfig`] as far as that needs no file.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::columns::sources;
use super::config::{Categorical, DataConfig, Dense, Format, Missing, Split, Transform, Unknown};
use super::delimited::MAX_ROW_BYTES;
use super::derive::compile;
use super::error::{DataError, Result};
use super::number::{MAX_NUMBER, Notation};
use super::patterns::{Block, is_rest};
use crate::ops::Pooling;

/// The largest number of knots of a column. Positions among so many are exact to 2⁻¹⁴ in `f32`.
const MAX_KNOTS: usize = 1000;
/// The largest number of quantile bins, and of rows of a hashed feature.
const MAX_BINS: usize = 1 << 16;
const MAX_HASH: u32 = u32::MAX - 1;

impl DataConfig {
    /// Checks the settings as far as that needs no file.
    ///
    /// # Errors
    /// Returns [`DataError::Config`], which names the setting: nothing to read, no label,
    /// contradictions, numbers out of range, an invalid regular expression.
    pub fn validate(&self) -> Result<()> {
        validate(self)
    }
}

fn validate(config: &DataConfig) -> Result<()> {
    files(config)?;
    split(&config.split)?;
    let config = config.with_defaults();
    let label = config.label()?;
    joins_and_derives(&config)?;
    columns(&config)?;
    for (k, dense) in config.dense.iter().enumerate() {
        self::dense(dense).map_err(|reason| DataError::config(format!("dense[{k}]"), reason))?;
    }
    for (k, categorical) in config.categorical.iter().enumerate() {
        self::categorical(categorical)
            .map_err(|reason| DataError::config(format!("categorical[{k}]"), reason))?;
    }
    let has_max = config.categorical.iter().any(|column| column.pooling == Pooling::Max);
    if let Some(k) = config.dense.iter().position(|dense| has_max && dense.knots > 0) {
        let reason = "knots: their ids have factors, which have no meaning with max pooling: use \
                      `bins`, or another pooling";
        return Err(DataError::config(format!("dense[{k}]"), reason));
    }
    if config.dense.is_empty() && config.categorical.is_empty() {
        return Err(DataError::config(
            "dense",
            "nothing to read: name at least one [[data.dense]] or [[data.categorical]] column",
        ));
    }
    // The negated comparison refuses a NaN.
    if config.max_unknown.is_some_and(|limit| !(0.0..=1.0).contains(&limit)) {
        return Err(DataError::config(
            "max_unknown",
            "must be a share between 0 and 1, such as 0.5",
        ));
    }
    label_is_no_feature(&config, &label.column)
}

/// Refuses features from which the model could read off the label.
fn label_is_no_feature(config: &DataConfig, label: &str) -> Result<()> {
    if let Split::Time { column, .. } = &config.split
        && sources(config, column).contains(label)
    {
        let reason = format!(
            "column {column:?} is made of the label {label:?}: the parts would differ mainly in \
             their labels"
        );
        return Err(DataError::config("split.column", reason));
    }
    if let Some(k) = config.join.iter().position(|join| join.on.left() == label) {
        let reason = format!(
            "column {label:?} is the label, so that every joined column would reveal the answer: \
             use another key"
        );
        return Err(DataError::config(format!("join[{k}].on"), reason));
    }
    let made_of_label = sources(config, label);
    for (list, k, column) in named(&config.dense).chain(named(&config.categorical)) {
        let reason = if column == label {
            format!(
                "column {column:?} is the label, so that the model could read off its answer: \
                 remove one of them"
            )
        } else if sources(config, column).contains(label) {
            format!(
                "column {column:?} is derived from the label {label:?}, so that the model could \
                 read off its answer: remove it"
            )
        } else if made_of_label.contains(column) {
            format!(
                "the label {label:?} is derived from column {column:?}, so that the model could \
                 read off its answer: remove it"
            )
        } else {
            continue;
        };
        return Err(DataError::config(format!("{list}[{k}].column"), reason));
    }
    Ok(())
}

/// Returns the columns that the blocks of a list name, with the name of the list and the number of
/// the block.
fn named<B: Block>(blocks: &[B]) -> impl Iterator<Item = (&'static str, usize, &str)> {
    let blocks = blocks.iter().enumerate();
    blocks.flat_map(|(k, block)| block.names().map(move |name| (B::LIST, k, name)))
}

/// Checks the columns that the blocks name.
fn columns(config: &DataConfig) -> Result<()> {
    let rests = rests(&config.dense)? + rests(&config.categorical)?;
    if rests > 1 {
        let reason = "\"*\" stands twice, but the columns that nothing else names can be taken \
            only once: name columns, or write a pattern such as \"x*\"";
        return Err(DataError::config("categorical", reason));
    }
    Ok(())
}

/// Checks the columns of a list, and returns how many entries are `*`.
fn rests<B: Block>(blocks: &[B]) -> Result<usize> {
    for (k, block) in blocks.iter().enumerate() {
        let reason = match (block.column(), block.columns()) {
            ("", []) => "name a column, or a list of columns: column = \"x\", columns = [\"x*\"]",
            ("", columns) if columns.iter().any(String::is_empty) => {
                "columns: \"\" is no column: name one, or remove it"
            }
            (column, [_, ..]) if !column.is_empty() => {
                "column and columns contradict each other: remove one of them"
            }
            _ => continue,
        };
        return Err(DataError::config(format!("{}[{k}]", B::LIST), reason));
    }
    let entries = blocks.iter().flat_map(|block| block.columns());
    Ok(entries.filter(|entry| is_rest(entry)).count())
}

fn files(config: &DataConfig) -> Result<()> {
    if config.train.is_empty() {
        return Err(DataError::config("train", "missing: name at least one file"));
    }
    for (field, paths) in
        [("train", &config.train), ("validation", &config.validation), ("test", &config.test)]
    {
        if paths.iter().any(|path| path.as_os_str().is_empty()) {
            return Err(DataError::config(field, "\"\" is no file: name one, or remove it"));
        }
    }
    let by_file = matches!(config.split, Split::File {});
    for (field, paths) in [("validation", &config.validation), ("test", &config.test)] {
        if !by_file && !paths.is_empty() {
            return Err(DataError::config(
                field,
                "only has a meaning with split = { by = \"file\" }: remove one of them",
            ));
        }
    }
    if by_file && config.validation.is_empty() {
        return Err(DataError::config(
            "validation",
            "missing: split = { by = \"file\" } needs the file of the validation rows",
        ));
    }
    match (config.format, config.delimiter) {
        (Format::Criteo, Some(c)) if c != '\t' => {
            return Err(DataError::config(
                "delimiter",
                "the fields of a Criteo file stand between tabs: remove it",
            ));
        }
        _ => delimiter("delimiter", config.delimiter)?,
    }
    header(config)?;
    notation(config)?;
    if config.max_field_bytes.is_some_and(|limit| limit == 0 || limit > MAX_ROW_BYTES) {
        return Err(DataError::config(
            "max_field_bytes",
            format!("must be between 1 and {MAX_ROW_BYTES}"),
        ));
    }
    if config.criteo.is_some()
        && (config.format != Format::Criteo || !config.categorical.is_empty())
    {
        let reason = "only has a meaning with format = \"criteo\" and without \
            [[data.categorical]]: remove it";
        return Err(DataError::config("criteo", reason));
    }
    Ok(())
}

fn header(config: &DataConfig) -> Result<()> {
    let header = &config.header;
    if config.format == Format::Criteo && !header.is_empty() {
        let reason = "the columns of a Criteo file have names: remove it";
        return Err(DataError::config("header", reason));
    }
    let mut seen = HashSet::new();
    match header.iter().find(|name| name.is_empty() || !seen.insert(*name)) {
        Some(name) if name.is_empty() => {
            Err(DataError::config("header", "\"\" is no name of a column: name every column"))
        }
        Some(name) => Err(DataError::config("header", format!("{name:?} stands twice"))),
        None => Ok(()),
    }
}

fn notation(config: &DataConfig) -> Result<()> {
    let Notation { decimal, thousands } = config.notation();
    if !matches!(decimal, '.' | ',') {
        return Err(DataError::config("decimal", format!("{decimal:?}: must be \".\" or \",\"")));
    }
    let stands_between =
        |c| matches!(c, '.' | ',' | ' ' | '\'' | '’' | '_' | '\u{a0}' | '\u{202f}');
    match thousands {
        Some(c) if c == decimal => Err(DataError::config(
            "thousands",
            format!("{c:?} is the decimal character, too: set decimal"),
        )),
        Some(c) if !stands_between(c) => Err(DataError::config(
            "thousands",
            format!("{c:?}: must be one of \".\", \",\", \"_\", an apostrophe or a blank"),
        )),
        _ => Ok(()),
    }
}

/// Refuses a file that is named twice, by whatever paths: its rows would count twice, or the model
/// would be measured on rows that it has learned. Missing files are reported when they are opened.
pub(super) fn each_file_once(config: &DataConfig, folder: &Path) -> Result<()> {
    let mut seen: HashMap<FileIdentity, (String, PathBuf)> = HashMap::new();
    for (field, paths) in
        [("train", &config.train), ("validation", &config.validation), ("test", &config.test)]
    {
        for path in paths {
            let Some(identity) = identity(&folder.join(path)) else { continue };
            if let Some((first, other)) = seen.insert(identity, (field.to_owned(), path.clone())) {
                let reason = format!(
                    "{} is the same file as {} of data.{first}, so that its rows would count \
                     twice: remove one of them",
                    path.display(),
                    other.display()
                );
                return Err(DataError::config(field, reason));
            }
        }
    }
    Ok(())
}

#[cfg(unix)]
type FileIdentity = (u64, u64);
#[cfg(not(unix))]
type FileIdentity = PathBuf;

/// Returns an identity that all paths to the same file share, or `None` if there is no such file.
fn identity(path: &Path) -> Option<FileIdentity> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        path.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }
    #[cfg(not(unix))]
    path.canonicalize().ok()
}

fn delimiter(field: &str, delimiter: Option<char>) -> Result<()> {
    match delimiter {
        Some(c) if !c.is_ascii() || matches!(c, '"' | '\n' | '\r' | '\0') => {
            Err(DataError::config(
                field,
                format!(
                    "{c:?} cannot delimit fields: use one ASCII character such as \",\" or \"\\t\""
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn split(split: &Split) -> Result<()> {
    let (Split::Hash { validation, test, .. } | Split::Time { validation, test, .. }) = split
    else {
        return Ok(());
    };
    if let Split::Time { column, .. } = split
        && column.is_empty()
    {
        return Err(DataError::config("split.column", "name the column that holds the time"));
    }
    // The negated comparison refuses a NaN.
    let share = |x: f64| (0.0..1.0).contains(&x);
    if !(share(*validation) && share(*test) && validation + test < 1.0) {
        let reason = format!(
            "validation = {validation} and test = {test} must be 0 or more, and below 1 together"
        );
        return Err(DataError::config("split", reason));
    }
    Ok(())
}

fn joins_and_derives(config: &DataConfig) -> Result<()> {
    for (k, join) in config.join.iter().enumerate() {
        if join.on.left().is_empty() || join.on.right().is_empty() {
            return Err(DataError::config(
                format!("join[{k}].on"),
                "name the column that holds the key",
            ));
        }
        delimiter(&format!("join[{k}].delimiter"), join.delimiter)?;
    }
    let mut names = HashSet::new();
    for (k, derive) in config.derive.iter().enumerate() {
        if !names.insert(&derive.name) {
            return Err(DataError::config(
                format!("derive[{k}].name"),
                format!("{:?} is derived twice", derive.name),
            ));
        }
        if derive.name.is_empty() {
            return Err(DataError::config(format!("derive[{k}].name"), "name the new column"));
        }
        if derive.from.is_empty() || derive.from.iter().any(String::is_empty) {
            return Err(DataError::config(
                format!("derive[{k}].from"),
                "name a column, or a list of them",
            ));
        }
        if let Some(later) =
            config.derive[k..].iter().find(|other| derive.from.contains(&other.name))
        {
            let reason =
                format!("{:?} is not derived before this column: reorder them", later.name);
            return Err(DataError::config(format!("derive[{k}].from"), reason));
        }
        if config.join.iter().any(|join| join.on.left() == derive.name) {
            return Err(DataError::config(
                format!("derive[{k}].name"),
                "a derived column cannot be the key of a join",
            ));
        }
        if derive.bucket.is_some_and(|bucket| !(bucket.is_finite() && bucket > 0.0)) {
            return Err(DataError::config(
                format!("derive[{k}].bucket"),
                "must be a number above 0",
            ));
        }
        if derive.date_order.is_some() && derive.date.is_none() {
            return Err(DataError::config(
                format!("derive[{k}].date_order"),
                "only has a meaning with date: set it, or remove date_order",
            ));
        }
        compile(&derive.pattern)
            .map_err(|reason| DataError::config(format!("derive[{k}].pattern"), reason))?;
    }
    Ok(())
}

fn dense(dense: &Dense) -> Result<(), String> {
    let last = dense.transform.len().saturating_sub(1);
    let fitted = |&(k, transform): &(usize, &Transform)| {
        k < last && matches!(transform, Transform::Zscore | Transform::Quantile)
    };
    if let Some((_, transform)) = dense.transform.iter().enumerate().find(fitted) {
        return Err(format!(
            "transform: {transform} is fitted to the data, so that it must come last"
        ));
    }
    if matches!(dense.missing, Missing::Value(x) if !x.is_finite() || x.abs() > MAX_NUMBER) {
        return Err("missing: must be a finite number".into());
    }
    if dense.bins == 1 || dense.bins > MAX_BINS {
        return Err(format!("bins = {}: must be 0 (none) or between 2 and {MAX_BINS}", dense.bins));
    }
    if dense.knots == 1 || dense.knots > MAX_KNOTS {
        let knots = dense.knots;
        return Err(format!("knots = {knots}: must be 0 (none) or between 2 and {MAX_KNOTS}"));
    }
    Ok(())
}

fn categorical(categorical: &Categorical) -> Result<(), String> {
    if categorical.separator.as_ref().is_some_and(String::is_empty) {
        return Err("separator: must not be empty; leave it out for a column with one value".into());
    }
    if categorical.separator.is_none() && categorical.unknown == Some(Unknown::Drop) {
        return Err(
            "unknown = \"drop\" needs a separator: a column with one value always has a row".into(),
        );
    }
    match (categorical.hash, categorical.min_count) {
        (Some(_), Some(_)) => {
            Err("hash and min_count contradict each other: a hashed column has no dictionary"
                .into())
        }
        (Some(rows), None) if rows == 0 || rows > MAX_HASH => {
            Err(format!("hash = {rows}: must be between 1 and {MAX_HASH}"))
        }
        (None, Some(0)) => Err("min_count: must be at least 1".into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(toml: &str) -> DataConfig {
        toml::from_str(toml).unwrap()
    }

    #[test]
    fn settings_are_checked() {
        let fault = |toml: &str| {
            config(&format!("train = 'f.csv'\n{toml}")).validate().unwrap_err().to_string()
        };
        for (toml, expected) in [
            ("", "data.label: missing"),
            ("label = 'y'", "data.dense: nothing to read"),
            (
                "label = 'y > 1'\ndense = [{ column = 'y' }]",
                "data.dense[0].column: column \"y\" is the label",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }, { column = 'y' }]",
                "data.categorical[1].column: column \"y\" is",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'd' }]\nderive = [{ name = 'd', from = \
                 'y' }]",
                "data.categorical[0].column: column \"d\" is derived from the label \"y\"",
            ),
            (
                "label = 'y > 2'\ndense = [{ column = 'e' }]\nderive = [{ name = 'd', from = \
                 ['x', 'y'] }, { name = 'e', from = 'd' }]",
                "data.dense[0].column: column \"e\" is derived from the label \"y\"",
            ),
            (
                "label = 'd'\ndense = [{ column = 'x' }]\nderive = [{ name = 'd', from = 'x', \
                 pattern = '[01]' }]",
                "data.dense[0].column: the label \"d\" is derived from column \"x\"",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }]\njoin = [{ path = 'm', on = 'y' }]",
                "data.join[0].on: column \"y\"",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }]\njoin = [{ path = 'm', on = { \
                 left = 'y', right = 'k' } }]",
                "data.join[0].on: column \"y\" is the label",
            ),
            (
                "label = 'y'\nsplit = { by = 'time', column = 'y' }\ncategorical = [{ column = \
                 'c' }]",
                "data.split.column: ",
            ),
            (
                "label = 'y'\nsplit = { by = 'time', column = 'd' }\nderive = [{ name = 'd', \
                 from = 'y' }]\ncategorical = [{ column = 'c' }]",
                "data.split.column: column \"d\" is made of the label \"y\"",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }]\nmax_unknown = nan",
                "data.max_unknown: must be a share",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }]\nmax_unknown = -0.1",
                "data.max_unknown: must be a share",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c' }]\nmax_unknown = 1.5",
                "data.max_unknown: must be a share",
            ),
            (
                "label = 'y'\nderive = [{ name = '', from = 'c' }]",
                "data.derive[0].name: name the new column",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = [] }]",
                "data.derive[0].from: name a column",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = ['c', ''] }]",
                "data.derive[0].from: name a column",
            ),
            ("label = 'y'\njoin = [{ path = 'm', on = '' }]", "data.join[0].on: name the column"),
            ("split = { by = 'hash', validation = -0.1 }", "data.split: "),
            ("split = { by = 'hash', test = inf }", "data.split: "),
            ("split = { by = 'time', column = '' }", "data.split.column: "),
            (
                "validation = 'g'\nlabel = 'y'",
                "data.validation: only has a meaning with split = { by = \"file\" }",
            ),
            ("split = { by = 'file' }", "data.validation: missing"),
            (
                "split = { by = 'hash', test = 0.5, validation = 0.5 }",
                "data.split: validation = 0.5 and test = 0.5 must be",
            ),
            ("split = { by = 'time', column = 't', test = nan }", "data.split: "),
            ("delimiter = 'é'", "data.delimiter: 'é' cannot delimit fields"),
            ("max_field_bytes = 0", "data.max_field_bytes: must be between 1 and"),
            ("max_field_bytes = 1000000000", "data.max_field_bytes: must be between 1 and"),
            ("criteo = { hash = 3 }", "data.criteo: only has a meaning"),
            ("format = 'criteo'\ndelimiter = ','", "data.delimiter: "),
            (
                "label = 'y'\ndense = [{ column = 'x' }, { column = 'z', bins = 1 }]",
                "data.dense[1]: bins = 1",
            ),
            ("label = 'y'\ndense = [{ column = 'x', knots = 1 }]", "data.dense[0]: knots = 1"),
            (
                "label = 'y'\ndense = [{ column = 'x', knots = 8 }]\n\
                 categorical = [{ column = 'z', pooling = 'max' }]",
                "data.dense[0]: knots: their ids have factors",
            ),
            (
                "label = 'y'\ndense = [{ column = 'x', transform = ['zscore', 'log1p'] }]",
                "data.dense[0]: transform: zscore",
            ),
            ("label = 'y'\ndense = [{ column = 'x', missing = inf }]", "data.dense[0]: missing"),
            (
                "label = 'y'\ncategorical = [{ column = 'c', hash = 5, min_count = 2 }]",
                "data.categorical[0]: hash and min_count",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c', separator = '' }]",
                "data.categorical[0]: separator",
            ),
            (
                "label = 'y'\ncategorical = [{ column = 'c', unknown = 'drop' }]",
                "data.categorical[0]: unknown",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = 'c', pattern = '(' }]",
                "data.derive[0].pattern: ",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = 'd', pattern = 'x' }]",
                "data.derive[0].from: \"d\" is not derived before",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = 'c', date_order = 'day-month-year' }]",
                "data.derive[0].date_order: only has a meaning with date",
            ),
            (
                "label = 'y'\nderive = [{ name = 'd', from = 'c', pattern = 'x', bucket = 0 }]",
                "data.derive[0].bucket: ",
            ),
        ] {
            let message = fault(toml);
            assert!(message.starts_with(expected), "{toml}: {message}");
        }
        let nameless =
            config("train = ['f.csv', '']\nlabel = 'y'").validate().unwrap_err().to_string();
        assert!(nameless.starts_with("data.train: \"\" is no file"), "{nameless}");
        let unread = |toml: &str| toml::from_str::<DataConfig>(toml).unwrap_err().to_string();
        assert!(unread("trian = 'f.csv'").contains("unknown field `trian`"));
        assert!(unread("split = { by = 'file', seed = 1 }").contains("unknown field `seed`"));
        assert!(unread("split = { by = 'hash', column = 't' }").contains("unknown field `column`"));
        assert!(
            unread("dense = [{ column = 'x', transform = 'zscor' }]")
                .contains("unknown variant `zscor`, expected one of")
        );
        assert!(
            unread("dense = [{ column = 'x', missing = 'median' }]")
                .contains("\"mean\", \"zero\", \"error\" or a number")
        );
        assert!(
            unread("join = [{ path = 'm', on = { left = 'a' } }]")
                .contains("a column, or { left =")
        );
    }
}
