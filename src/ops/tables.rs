//! The embedding tables of a table-batched call, and the features that look them up.

use std::sync::Arc;

use crate::error::{Result, invalid};
use crate::size::{product, sum};

/// The pooling of the rows of a bag into one vector. An empty bag gives zeros in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Pooling {
    /// The (weighted) sum.
    #[default]
    Sum,
    /// The (weighted) sum divided by the length of the bag, which does not count padding and does
    /// not depend on the weights.
    Mean,
    /// The largest value of each column, of which the first of equal values is the source. Takes no
    /// per-sample weights.
    Max,
}

/// An embedding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Table {
    /// The number of rows.
    pub num_embeddings: usize,
    /// The dimension: the number of elements of a row (D).
    pub embedding_dim: usize,
}

/// A sparse feature: the table that its ids look up, and the pooling of its bags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Feature {
    /// The number of its table, from 0. Several features may share a table.
    pub table: usize,
    /// The pooling of the rows of a bag.
    pub pooling: Pooling,
    /// The padding id, a row number of the table, which is neither pooled nor counted nor updated;
    /// `None` for no padding.
    pub padding_idx: Option<usize>,
}

/// The tables and features of a table-batched call, and the layout of everything batched over them.
///
/// All tables lie in one buffer of weights, table after table, each row-major and without gaps. The
/// pooled vectors of a sample lie side by side in the order of the features. Linear row numbers
/// identify rows across tables: they count the rows of all tables, table after table. Two rows of
/// dimension 3 and three rows of dimension 2 lie like this:
///
/// ```text
/// table      |          0          |           1           |
/// row        |    0     |    1     |   0   |   1   |   2   |
/// linear row |    0     |    1     |   2   |   3   |   4   |
/// weights    |  0  1  2 |  3  4  5 |  6  7 |  8  9 | 10 11 |
/// ```
///
/// ```
/// use bagdot::ops::{Pooling, Table, TableBatch};
///
/// let table = |num_embeddings, embedding_dim| Table { num_embeddings, embedding_dim };
/// let tables = TableBatch::one_feature_each(vec![table(2, 3), table(3, 2)], Pooling::Sum)?;
/// assert_eq!(tables.weight_offsets(), [0, 6, 12]);
/// assert_eq!(tables.row_offsets(), [0, 2, 5]);
/// assert_eq!(tables.column_offsets(), [0, 3, 5]); // of the pooled output
/// assert_eq!(tables.weight_offset_of_row(3), 8);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableBatch {
    // `SortedIndices` and `SparseGrad` share tables and features, to recognise them later.
    tables: Arc<[Table]>,
    features: Arc<[Feature]>,
    weight_offsets: Vec<usize>,
    row_offsets: Vec<usize>,
    column_offsets: Vec<usize>,
    features_by_table: Vec<usize>,
    feature_offsets: Vec<usize>,
    has_max: bool,
}

/// The largest number of tables, and of rows of a table: the random bits of stochastic rounding are
/// keyed by both.
const MAX_TABLES: usize = 1 << 16;
const MAX_ROWS: usize = 1 << 48;
/// The largest number of elements that can be addressed, for elements of at most 8 bytes.
const MAX_ELEMENTS: usize = isize::MAX as usize / 8;

impl TableBatch {
    /// Checks tables and features, and computes their layout.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a table without rows
    /// or columns, a feature of a table that does not exist, a padding index outside its table, or
    /// sizes that overflow.
    pub fn new(tables: Vec<Table>, features: Vec<Feature>) -> Result<Self> {
        const OP: &str = "TableBatch";
        if tables.len() > MAX_TABLES {
            return Err(invalid(
                OP,
                "tables",
                format!("{} tables, but at most {MAX_TABLES} are possible", tables.len()),
            ));
        }
        let (mut weight_offsets, mut row_offsets, mut column_offsets) =
            (vec![0usize], vec![0usize], vec![0usize]);
        let (mut elements, mut rows, mut columns) = (0usize, 0usize, 0usize);
        for (t, table) in tables.iter().enumerate() {
            let Table { num_embeddings, embedding_dim } = *table;
            if num_embeddings == 0 || embedding_dim == 0 || num_embeddings > MAX_ROWS {
                return Err(invalid(
                    OP,
                    "tables",
                    format!("table {t} has {num_embeddings} rows of {embedding_dim}"),
                ));
            }
            let size = num_embeddings
                .checked_mul(embedding_dim)
                .and_then(|size| elements.checked_add(size));
            elements = size.filter(|&size| size <= MAX_ELEMENTS).ok_or_else(|| {
                invalid(
                    OP,
                    "tables",
                    format!("table {t} does not fit into memory with those before it"),
                )
            })?;
            // There are no more rows than elements.
            rows += num_embeddings;
            weight_offsets.push(elements);
            row_offsets.push(rows);
        }
        for (f, feature) in features.iter().enumerate() {
            let table = tables.get(feature.table).ok_or_else(|| {
                invalid(
                    OP,
                    "features",
                    format!("feature {f} names table {} of {}", feature.table, tables.len()),
                )
            })?;
            if let Some(padding) =
                feature.padding_idx.filter(|&padding| padding >= table.num_embeddings)
            {
                let rows = table.num_embeddings;
                return Err(invalid(
                    OP,
                    "features",
                    format!("feature {f} has padding_idx {padding}, but its table {rows} rows"),
                ));
            }
            columns = sum([columns, table.embedding_dim]);
            if columns > MAX_ELEMENTS {
                let reason =
                    format!("the vectors of a sample do not fit into memory from feature {f} on");
                return Err(invalid(OP, "features", reason));
            }
            column_offsets.push(columns);
        }
        let has_max = features.iter().any(|feature| feature.pooling == Pooling::Max);
        let mut features_by_table: Vec<usize> = (0..features.len()).collect();
        features_by_table.sort_by_key(|&f| features[f].table);
        let before = |table| features_by_table.partition_point(|&f| features[f].table < table);
        let feature_offsets = (0..=tables.len()).map(before).collect();
        Ok(Self {
            tables: tables.into(),
            features: features.into(),
            weight_offsets,
            row_offsets,
            column_offsets,
            features_by_table,
            feature_offsets,
            has_max,
        })
    }

    /// Makes a batch with one feature for each table and one kind of pooling.
    ///
    /// # Errors
    /// Propagates errors of [`Self::new`].
    pub fn one_feature_each(tables: Vec<Table>, pooling: Pooling) -> Result<Self> {
        let features =
            (0..tables.len()).map(|table| Feature { table, pooling, padding_idx: None }).collect();
        Self::new(tables, features)
    }

    /// Returns the tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Returns the features.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// Returns the tables, for later comparison.
    pub(crate) fn shared_tables(&self) -> &Arc<[Table]> {
        &self.tables
    }

    /// Returns the features, for later comparison.
    pub(crate) fn shared_features(&self) -> &Arc<[Feature]> {
        &self.features
    }

    /// Returns the table of a feature.
    ///
    /// # Panics
    /// Panics if there is no such feature, as indexing a slice does.
    pub fn table_of(&self, feature: usize) -> Table {
        self.tables[self.features[feature].table]
    }

    /// Returns the numbers of the features that look up a table, in increasing order.
    ///
    /// # Panics
    /// Panics if there is no such table, as indexing a slice does.
    pub fn features_of(&self, table: usize) -> &[usize] {
        &self.features_by_table[self.feature_offsets[table]..self.feature_offsets[table + 1]]
    }

    /// Returns the position of the first element of each table in the buffer of weights, and one
    /// more entry for the end.
    pub fn weight_offsets(&self) -> &[usize] {
        &self.weight_offsets
    }

    /// Returns the linear number of each table's first row, and one more entry for the end.
    pub fn row_offsets(&self) -> &[usize] {
        &self.row_offsets
    }

    /// Returns the first column of each feature in the pooled output, and one more entry for the
    /// end.
    pub fn column_offsets(&self) -> &[usize] {
        &self.column_offsets
    }

    /// Returns the number of elements of all tables.
    pub fn num_weights(&self) -> usize {
        self.weight_offsets[self.tables.len()]
    }

    /// Returns the number of rows of all tables.
    pub fn num_rows(&self) -> usize {
        self.row_offsets[self.tables.len()]
    }

    /// Returns the number of columns of the pooled output: the sum of the features' dimensions.
    pub fn width(&self) -> usize {
        self.column_offsets[self.features.len()]
    }

    /// Returns the number of elements of `rows` rows that are spread evenly over the features.
    pub(crate) fn elements_of_rows(&self, rows: usize) -> usize {
        product([rows, self.width()]).checked_div(self.features.len()).unwrap_or(0)
    }

    /// Returns whether any feature is pooled by [`Pooling::Max`]: a gradient then needs the
    /// `argmax` of the forward pass.
    pub fn has_max(&self) -> bool {
        self.has_max
    }

    /// Returns the largest dimension of all tables; 0 without tables.
    pub fn max_dim(&self) -> usize {
        self.tables.iter().map(|table| table.embedding_dim).max().unwrap_or(0)
    }

    /// Returns the number of the table of a linear row number, or the number of tables if there is
    /// no such row.
    pub fn table_of_row(&self, row: usize) -> usize {
        self.row_offsets.partition_point(|&first| first <= row) - 1
    }

    /// Returns the position of the first element of a linear row in the buffer of weights.
    ///
    /// # Panics
    /// Panics if there is no such row, as indexing a slice does.
    pub fn weight_offset_of_row(&self, row: usize) -> usize {
        assert!(row < self.num_rows(), "row {row} of {}", self.num_rows());
        let table = self.table_of_row(row);
        self.weight_offsets[table]
            + (row - self.row_offsets[table]) * self.tables[table].embedding_dim
    }
}

impl AsRef<TableBatch> for TableBatch {
    fn as_ref(&self) -> &TableBatch {
        self
    }
}
