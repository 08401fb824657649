//! Side tables, whose columns become columns of every row with the same key.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::config::{DataConfig, Join, Split};
use super::delimited::{Delimited, Dialect};
use super::dictionary::Dictionary;
use super::error::{DataError, Result};
use super::fields::{field_of, text_of};
use super::meter::Meter;
use super::note::Seen;
use super::patterns::expand;
use super::shown::shortened;
use super::source::Source;

/// The columns of a side table that are used.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SideTable {
    columns: Vec<String>,
    keys: Dictionary,
    /// The texts, row-major, one row for each key.
    values: Vec<String>,
}

impl SideTable {
    /// Returns the names of the columns.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// Returns the row with this key.
    pub(crate) fn find(&self, key: &str) -> Option<u32> {
        self.keys.get(key)
    }

    /// Returns the text in a row and column; empty if there is no such row.
    pub(crate) fn value(&self, row: Option<u32>, column: usize) -> &str {
        row.and_then(|row| self.values.get(row as usize * self.columns.len() + column))
            .map_or("", String::as_str)
    }

    /// Returns whether the sizes of its parts agree.
    pub(crate) fn is_consistent(&self) -> bool {
        self.keys.len().checked_mul(self.columns.len()) == Some(self.values.len())
            && self.columns.iter().collect::<HashSet<_>>().len() == self.columns.len()
    }

    fn load(rows: &mut Delimited, file: &str, key: &str, columns: Vec<String>) -> Result<Self> {
        let field = |name: &str| {
            let unknown =
                || DataError::unknown_column(file, name, rows.header().iter().map(String::as_str));
            field_of(rows.header(), name, file)?.ok_or_else(unknown)
        };
        let key_field = field(key)?;
        let fields = columns.iter().map(|column| field(column)).collect::<Result<Vec<_>>>()?;
        let mut table = Self { columns, ..Self::default() };
        while rows.advance()? {
            let text = text_of(rows.field(key_field), rows.place(), key)?;
            let known = table.keys.len();
            let number = table
                .keys
                .insert(text)
                .ok_or_else(|| DataError::TooManyValues { column: key.to_owned() })?;
            if (number as usize) < known {
                let (file, line) = (file.to_owned(), rows.line());
                return Err(DataError::DuplicateKey {
                    file,
                    line,
                    column: key.to_owned(),
                    key: shortened(text),
                });
            }
            for (&field, column) in fields.iter().zip(&table.columns) {
                table.values.push(text_of(rows.field(field), rows.place(), column)?.to_owned());
            }
        }
        Ok(table)
    }
}

/// Reads the side tables of `config`: of each table, the columns that are used and that the data
/// files lack. Lists and patterns of columns in `config` are replaced by columns.
///
/// `header` is the header of the data file `file`. Notes on the tables' files are added to `seen`.
pub(crate) fn load_side_tables(
    config: &mut DataConfig,
    folder: &Path,
    file: &str,
    header: &[String],
    seen: &mut Seen,
) -> Result<Vec<SideTable>> {
    let sides = open_side_tables(config, folder)?;
    let derived: Vec<String> = config.derive.iter().map(|derive| derive.name.clone()).collect();
    let in_sides = sides.iter().flat_map(|(_, side, _)| side.header());
    let columns = header.iter().chain(in_sides).chain(&derived).map(String::as_str);
    expand(config, &columns.collect::<Vec<_>>())?;
    let config = &*config;
    let mut wanted = vec![Vec::new(); sides.len()];
    let has = |k: usize, name: &str| sides[k].1.header().iter().any(|column| column == name);
    let is_key = |k: usize, name: &str| config.join[k].on.right() == name;
    for name in &used_columns(config)? {
        let in_file = header.iter().any(|column| column == name);
        let derived = config.derive.iter().any(|derive| derive.name == *name);
        // A key column only repeats what the rows have; it is taken only if no other table has the
        // column.
        let mut holders: Vec<usize> =
            (0..sides.len()).filter(|&k| has(k, name) && !is_key(k, name)).collect();
        let mut places: Vec<&str> = holders.iter().map(|&k| sides[k].0.as_str()).collect();
        places.extend(in_file.then_some(file));
        places.extend(derived.then_some("data.derive"));
        if let [first, second, ..] = places[..] {
            let (column, first, second) = (name.clone(), first.to_owned(), second.to_owned());
            return Err(DataError::AmbiguousColumn { column, first, second });
        }
        if in_file || derived {
            continue;
        }
        if holders.is_empty() {
            holders.extend((0..sides.len()).find(|&k| has(k, name)));
        }
        match holders.first() {
            Some(&k) => wanted[k].push(name.clone()),
            None => {
                let columns =
                    header.iter().chain(sides.iter().flat_map(|(_, side, _)| side.header()));
                let derived = config.derive.iter().map(|derive| derive.name.as_str());
                return Err(DataError::unknown_column(
                    file,
                    name,
                    columns.map(String::as_str).chain(derived),
                ));
            }
        }
    }
    let mut tables = Vec::with_capacity(sides.len());
    for ((join, (name, mut rows, meter)), columns) in config.join.iter().zip(sides).zip(wanted) {
        tables.push(SideTable::load(&mut rows, &name, join.on.right(), columns)?);
        seen.end_of_file(&name, rows.multiline_fields(), &meter);
    }
    Ok(tables)
}

/// Opens the side tables, and returns their names, rows and meters.
fn open_side_tables(
    config: &DataConfig,
    folder: &Path,
) -> Result<Vec<(String, Delimited, Arc<Meter>)>> {
    let open = |join: &Join| {
        let source = Source::File(folder.join(&join.path));
        let (name, meter) = (source.name(), Arc::new(Meter::default()));
        let dialect = config.dialect();
        let delimiter =
            join.delimiter.and_then(|c| u8::try_from(c).ok()).unwrap_or(dialect.delimiter);
        let rows = Delimited::open(
            name.clone(),
            source.open(&meter)?,
            Dialect { delimiter, ..dialect },
            None,
        )?;
        Ok((name, rows, meter))
    };
    config.join.iter().map(open).collect()
}

/// Returns the names of all columns that the settings name, each once.
fn used_columns(config: &DataConfig) -> Result<Vec<String>> {
    let mut names = vec![config.label()?.column];
    if let Split::Time { column, .. } = &config.split {
        names.push(column.clone());
    }
    names.extend(config.join.iter().map(|join| join.on.left().to_owned()));
    names.extend(
        config.derive.iter().flat_map(|derive| derive.from.iter().chain([&derive.name]).cloned()),
    );
    names.extend(config.dense.iter().map(|dense| dense.column.clone()));
    names.extend(config.categorical.iter().map(|categorical| categorical.column.clone()));
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
}
