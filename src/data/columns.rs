//! Finds the columns that the settings name: in the file, in a side table, or derived.

use std::collections::HashSet;

use super::config::{DataConfig, Split};
use super::error::{DataError, Result};
use super::fields::field_of;
use super::join::SideTable;
use super::source::name_of;

/// The place where a column is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The number of a field of the file.
    Field(usize),
    /// The numbers of a side table and of its column.
    Side { table: usize, column: usize },
    /// The number of a derived column.
    Derived(usize),
    /// The column is always empty.
    Absent,
}

/// The columns of one file, in the order of the settings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Binding {
    pub(crate) dense: Vec<Origin>,
    pub(crate) categorical: Vec<Origin>,
    /// The keys of the side tables.
    pub(crate) keys: Vec<Origin>,
    /// For each derived column, the columns that it is derived from.
    pub(crate) derived_from: Vec<Vec<Origin>>,
    pub(crate) label: Option<Origin>,
    pub(crate) time: Option<Origin>,
    /// The columns whose texts are kept.
    pub(crate) texts: Vec<Origin>,
}

/// The columns that a pass over the rows needs besides the features.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs<'a> {
    pub(crate) label: bool,
    pub(crate) time: bool,
    /// Further columns, whose texts are kept.
    pub(crate) texts: &'a [String],
}

impl Binding {
    /// Finds the columns of `config` in a file with this header.
    pub(crate) fn new(
        config: &DataConfig,
        tables: &[SideTable],
        file: &str,
        header: &[String],
        label: &str,
        needs: Needs<'_>,
    ) -> Result<Self> {
        let finder = Finder { config, tables, file, header };
        let all = |names: &mut dyn Iterator<Item = &String>| {
            names.map(|name| finder.find(name)).collect::<Result<Vec<_>>>()
        };
        // Columns that serve only to make a label that is not needed may be absent from the file.
        let needed = needed(config, tables, label, needs);
        let label = needs.label.then(|| finder.find(label)).transpose()?;
        let time = match &config.split {
            Split::Time { column, .. } if needs.time => Some(finder.find(column)?),
            _ => None,
        };
        // A key may come from an earlier side table, and a derived column from an earlier derived
        // column.
        let keys =
            config.join.iter().enumerate().map(|(k, join)| match needed.contains(join.on.left()) {
                true => {
                    Finder { tables: &tables[..k.min(tables.len())], ..finder }.find(join.on.left())
                }
                false => Ok(Origin::Absent),
            });
        let derived_from =
            config.derive.iter().map(|derive| match needed.contains(derive.name.as_str()) {
                true => all(&mut derive.from.iter()),
                false => Ok(vec![Origin::Absent; derive.from.len()]),
            });
        Ok(Self {
            dense: all(&mut config.dense.iter().map(|dense| &dense.column))?,
            categorical: all(&mut config
                .categorical
                .iter()
                .map(|categorical| &categorical.column))?,
            keys: keys.collect::<Result<_>>()?,
            derived_from: derived_from.collect::<Result<_>>()?,
            label,
            time,
            texts: all(&mut needs.texts.iter())?,
        })
    }
}

/// Returns the columns that a column is made of, including itself: more than one if it is derived.
pub(super) fn sources<'a>(config: &'a DataConfig, column: &'a str) -> HashSet<&'a str> {
    let mut sources = HashSet::from([column]);
    // A column is derived from columns of the file or from columns derived before it.
    for derive in config.derive.iter().rev().filter(|derive| !derive.from.is_empty()) {
        if sources.contains(derive.name.as_str()) {
            sources.extend(derive.from.iter().map(String::as_str));
        }
    }
    sources
}

/// Returns the columns that a pass over the rows reads: all sources of the features, and those of
/// the time and the label where they are needed, and of the columns whose texts are kept.
fn needed<'a>(
    config: &'a DataConfig,
    tables: &[SideTable],
    label: &'a str,
    needs: Needs<'a>,
) -> HashSet<&'a str> {
    let features = config.dense.iter().map(|dense| &dense.column);
    let features = features.chain(config.categorical.iter().map(|categorical| &categorical.column));
    let mut needed: HashSet<&str> = features.flat_map(|column| sources(config, column)).collect();
    if let Split::Time { column, .. } = &config.split
        && needs.time
    {
        needed.extend(sources(config, column));
    }
    needed.extend(needs.texts.iter().flat_map(|column| sources(config, column)));
    if needs.label {
        needed.extend(sources(config, label));
    }
    // The key of a side table may be a column of one before it.
    for (join, table) in config.join.iter().zip(tables).rev() {
        if table.columns().iter().any(|column| needed.contains(column.as_str())) {
            needed.insert(join.on.left());
        }
    }
    needed
}

#[derive(Clone, Copy)]
struct Finder<'a> {
    config: &'a DataConfig,
    tables: &'a [SideTable],
    file: &'a str,
    header: &'a [String],
}

impl Finder<'_> {
    fn find(&self, name: &str) -> Result<Origin> {
        let field = field_of(self.header, name, self.file)?;
        let side = self.tables.iter().enumerate().find_map(|(table, side)| {
            let column = side.columns().iter().position(|column| column == name)?;
            Some((table, column))
        });
        let derived = self.config.derive.iter().position(|derive| derive.name == name);
        let ambiguous = |second: &str| {
            let (column, first, second) =
                (name.to_owned(), self.file.to_owned(), second.to_owned());
            Err(DataError::AmbiguousColumn { column, first, second })
        };
        match (field, side, derived) {
            (Some(_), Some((table, _)), _) => ambiguous(
                &self.config.join.get(table).map_or(String::new(), |join| name_of(&join.path)),
            ),
            (Some(_), _, Some(_)) => ambiguous("data.derive"),
            (Some(field), None, None) => Ok(Origin::Field(field)),
            (None, Some((table, column)), _) => Ok(Origin::Side { table, column }),
            (None, None, Some(derived)) => Ok(Origin::Derived(derived)),
            (None, None, None) => {
                let sides = self.tables.iter().flat_map(SideTable::columns);
                let derived = self.config.derive.iter().map(|derive| derive.name.as_str());
                let columns = self.header.iter().chain(sides).map(String::as_str).chain(derived);
                Err(DataError::unknown_column(self.file, name, columns))
            }
        }
    }
}
