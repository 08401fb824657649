//! Replaces lists and patterns of columns by the columns of the files.

use std::collections::HashSet;

use super::columns::sources;
use super::config::{Categorical, DataConfig, Dense, Split};
use super::error::{DataError, Result};
use super::shown::{Shown, shortened};
use super::wildcard::matches;

/// A block of `[[data.dense]]` or `[[data.categorical]]`.
pub(super) trait Block: Clone {
    /// The name of the list under `[data]`.
    const LIST: &'static str;

    fn column(&self) -> &str;
    fn columns(&self) -> &[String];
    /// Returns the same settings for one column.
    fn of(&self, column: String) -> Self;

    /// Returns the columns that the block names, without its patterns.
    fn names(&self) -> impl Iterator<Item = &str> {
        let named = self.columns().iter().map(String::as_str).filter(|entry| !is_pattern(entry));
        Some(self.column()).filter(|column| !column.is_empty()).into_iter().chain(named)
    }
}

impl Block for Dense {
    const LIST: &'static str = "dense";

    fn column(&self) -> &str {
        &self.column
    }
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn of(&self, column: String) -> Self {
        Self { column, columns: Vec::new(), ..self.clone() }
    }
}

impl Block for Categorical {
    const LIST: &'static str = "categorical";

    fn column(&self) -> &str {
        &self.column
    }
    fn columns(&self) -> &[String] {
        &self.columns
    }
    fn of(&self, column: String) -> Self {
        Self { column, columns: Vec::new(), ..self.clone() }
    }
}

fn is_pattern(entry: &str) -> bool {
    entry.contains('*')
}

/// Returns whether a pattern stands for every column that nothing else names.
pub(super) fn is_rest(entry: &str) -> bool {
    !entry.is_empty() && entry.bytes().all(|byte| byte == b'*')
}

/// Replaces the lists of columns in `config` by one block for each column. `columns` are those of
/// the file, of the side tables, and the derived ones, in their order.
pub(super) fn expand(config: &mut DataConfig, columns: &[&str]) -> Result<()> {
    let has_lists = config.dense.iter().any(|block| !block.columns.is_empty())
        || config.categorical.iter().any(|block| !block.columns.is_empty());
    if !has_lists {
        return Ok(());
    }
    let mut columns: Vec<&str> =
        columns.iter().copied().filter(|column| !column.is_empty()).collect();
    let mut seen = HashSet::new();
    columns.retain(|column| seen.insert(*column));
    // No pattern takes the label, what it is made of, or what is made of it.
    let label = config.label()?.column;
    let of_label = sources(config, &label);
    let is_open =
        |column: &&str| !of_label.contains(column) && !sources(config, column).contains(&*label);
    let open: Vec<&str> = columns.iter().copied().filter(is_open).collect();
    let finder = Finder { columns: &columns, open: &open };

    let (dense, dense_taken) = finder.specific(&config.dense)?;
    let (categorical, categorical_taken) = finder.specific(&config.categorical)?;
    let elsewhere = elsewhere(config);
    let is_left = |column: &&str| {
        !elsewhere.contains(column)
            && !dense_taken.contains(*column)
            && !categorical_taken.contains(*column)
    };
    let rest: Vec<String> = open.iter().copied().filter(is_left).map(str::to_owned).collect();
    let (dense, categorical) = (
        finder.complete(&config.dense, dense, &rest)?,
        finder.complete(&config.categorical, categorical, &rest)?,
    );
    (config.dense, config.categorical) = (dense, categorical);
    Ok(())
}

/// Returns the columns that settings other than features name.
fn elsewhere(config: &DataConfig) -> HashSet<&str> {
    let mut names = HashSet::new();
    if let Split::Time { column, .. } = &config.split {
        names.insert(column.as_str());
    }
    for join in &config.join {
        names.extend([join.on.left(), join.on.right()]);
    }
    names.extend(config.derive.iter().flat_map(|derive| &derive.from).map(String::as_str));
    names
}

/// The columns of a list: for each block and each of its entries.
type Found = Vec<Vec<Vec<String>>>;

struct Finder<'a> {
    columns: &'a [&'a str],
    /// The columns that patterns may take.
    open: &'a [&'a str],
}

impl Finder<'_> {
    /// Finds the columns of all entries but `*`, and returns them with the set of all. A column
    /// belongs to the entry that names it, else to the first pattern that matches it.
    fn specific<B: Block>(&self, blocks: &[B]) -> Result<(Found, HashSet<String>)> {
        let names = blocks.iter().flat_map(Block::names).map(str::to_owned);
        let mut taken: HashSet<String> = names.collect();
        let mut found = Found::new();
        for (k, block) in blocks.iter().enumerate() {
            let mut of_block = Vec::new();
            for entry in entries(block) {
                of_block.push(match entry {
                    entry if is_rest(entry) => Vec::new(),
                    entry if is_pattern(entry) && block.column().is_empty() => {
                        let matching =
                            self.open.iter().filter(|column| matches(entry, column)).copied();
                        let matching: Vec<&str> = matching.collect();
                        if matching.is_empty() {
                            return Err(
                                self.nothing::<B>(k, &format!("no column matches {entry:?}"))
                            );
                        }
                        let is_new = |column: &&str| taken.insert((*column).to_owned());
                        matching.into_iter().filter(is_new).map(str::to_owned).collect()
                    }
                    name => vec![name.to_owned()],
                });
            }
            found.push(of_block);
        }
        Ok((found, taken))
    }

    /// Gives the remaining columns to `*`, and returns a block for each column.
    fn complete<B: Block>(&self, blocks: &[B], found: Found, rest: &[String]) -> Result<Vec<B>> {
        let mut all = Vec::new();
        for (k, (block, found)) in blocks.iter().zip(found).enumerate() {
            for (entry, columns) in entries(block).zip(found) {
                let columns = match block.column().is_empty() && is_rest(entry) {
                    true if rest.is_empty() => {
                        return Err(self.nothing::<B>(k, "no column is left for \"*\""));
                    }
                    true => rest.to_vec(),
                    false => columns,
                };
                all.extend(columns.into_iter().map(|column| block.of(column)));
            }
        }
        Ok(all)
    }

    fn nothing<B: Block>(&self, k: usize, reason: &str) -> DataError {
        const SHOWN: usize = 40;
        let shown = |column: &&str| Shown(&shortened(column)).to_string();
        let mut columns: Vec<String> = self.columns.iter().take(SHOWN).map(shown).collect();
        if self.columns.len() > SHOWN {
            columns.push(format!("{} more", self.columns.len() - SHOWN));
        }
        DataError::config(
            format!("{}[{k}].columns", B::LIST),
            format!("{reason}; the columns are {}", columns.join(", ")),
        )
    }
}

/// Returns the entries of a block: its one column, or its list.
fn entries<B: Block>(block: &B) -> impl Iterator<Item = &str> {
    let one = Some(block.column()).filter(|column| !column.is_empty());
    one.into_iter().chain(block.columns().iter().map(String::as_str))
}
