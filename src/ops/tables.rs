//! What a table-batched call is about: tables, the features that look them up, and the bags of a
//! batch.

use std::sync::Arc;

use super::{Device, Extent};
use crate::dtype::Index;
use crate::error::{Result, expect_size, invalid};
use crate::size::{product, sum};
use crate::{Cpu, Jagged};

/// How the rows of a bag become one vector. An empty bag gives zeros in every mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Pooling {
    /// The (weighted) sum.
    #[default]
    Sum,
    /// The (weighted) sum divided by the number of counted ids; padding is not counted, weights do
    /// not change the count.
    Mean,
    /// The largest value of each column; among equal ones the first counts as the source. Takes no
    /// per-sample weights.
    Max,
}

/// An embedding table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Table {
    /// The number of rows.
    pub num_embeddings: usize,
    /// The number of elements of a row (D).
    pub embedding_dim: usize,
}

/// A sparse feature: which table its ids look up, and how a bag is pooled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Feature {
    /// The table's number. Several features may share a table.
    pub table: usize,
    /// How the rows of a bag become one vector.
    pub pooling: Pooling,
    /// An id that is neither pooled nor counted nor updated.
    pub padding_idx: Option<usize>,
}

/// The tables and features of a table-batched call, with the layout of everything that is batched
/// over them.
///
/// All tables lie in one buffer of weights, table after table. The pooled vectors of a sample lie
/// side by side in the order of the features. A row is known across tables by its linear number:
/// rows are counted through all tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableBatch {
    // Shared with what ops made of them: see `SortedIndices` and `SparseGrad`.
    tables: Arc<[Table]>,
    features: Arc<[Feature]>,
    weight_offsets: Vec<usize>,
    row_offsets: Vec<usize>,
    column_offsets: Vec<usize>,
    features_by_table: Vec<usize>,
    feature_offsets: Vec<usize>,
    has_max: bool,
}

/// The largest number of tables and the largest table: the random bits of stochastic rounding are
/// keyed by both.
const MAX_TABLES: usize = 1 << 16;
const MAX_ROWS: usize = 1 << 48;
/// The largest number of elements that can be addressed, of 8 bytes at most.
const MAX_ELEMENTS: usize = isize::MAX as usize / 8;
/// The largest number of ids or bags of a call.
const MAX_BAGS: usize = u32::MAX as usize - 1;

impl TableBatch {
    /// Checks and lays out tables and features.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a table without rows or
    /// columns, a feature of a table that does not exist, a padding index outside its table, or
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

    /// One feature for each table, all pooled alike.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn one_feature_each(tables: Vec<Table>, pooling: Pooling) -> Result<Self> {
        let features =
            (0..tables.len()).map(|table| Feature { table, pooling, padding_idx: None }).collect();
        Self::new(tables, features)
    }

    /// The tables.
    pub fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// The features.
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The tables, to be compared later.
    pub(crate) fn shared_tables(&self) -> &Arc<[Table]> {
        &self.tables
    }

    /// The features, to be compared later.
    pub(crate) fn shared_features(&self) -> &Arc<[Feature]> {
        &self.features
    }

    /// The table of a feature.
    ///
    /// # Panics
    /// If there is no such feature, as indexing a slice does.
    pub fn table_of(&self, feature: usize) -> Table {
        self.tables[self.features[feature].table]
    }

    /// The features that look up a table, in rising order.
    ///
    /// # Panics
    /// If there is no such table, as indexing a slice does.
    pub fn features_of(&self, table: usize) -> &[usize] {
        &self.features_by_table[self.feature_offsets[table]..self.feature_offsets[table + 1]]
    }

    /// Where each table begins in the buffer of weights, in elements; one more entry for the end.
    pub fn weight_offsets(&self) -> &[usize] {
        &self.weight_offsets
    }

    /// The linear number of each table's first row; one more entry for the end.
    pub fn row_offsets(&self) -> &[usize] {
        &self.row_offsets
    }

    /// The first column of each feature in the pooled output; one more entry for the end.
    pub fn column_offsets(&self) -> &[usize] {
        &self.column_offsets
    }

    /// The number of elements of all tables.
    pub fn num_weights(&self) -> usize {
        self.weight_offsets[self.tables.len()]
    }

    /// The number of rows of all tables.
    pub fn num_rows(&self) -> usize {
        self.row_offsets[self.tables.len()]
    }

    /// The number of columns of the pooled output: the sum of the features' dimensions.
    pub fn width(&self) -> usize {
        self.column_offsets[self.features.len()]
    }

    /// Whether any feature is pooled by [`Pooling::Max`], so that a gradient needs the `argmax` of
    /// the forward pass.
    pub fn has_max(&self) -> bool {
        self.has_max
    }

    /// The largest dimension of any table.
    pub fn max_dim(&self) -> usize {
        self.tables.iter().map(|table| table.embedding_dim).max().unwrap_or(0)
    }

    /// The table of a linear row number; the number of tables if there is no such row.
    pub fn table_of_row(&self, row: usize) -> usize {
        self.row_offsets.partition_point(|&first| first <= row) - 1
    }

    /// Where a linear row begins in the buffer of weights.
    ///
    /// # Panics
    /// If there is no such row, as indexing a slice does.
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

/// The ids of a batch on a device: see [`Jagged`](crate::Jagged) for the layout.
///
/// The contents are checked where they are read: wrong offsets are an error, a bad id is skipped
/// and reported.
pub struct Bags<'a, D: Device, I: Index> {
    /// The number of samples.
    pub batch_size: usize,
    /// All ids, bag after bag.
    pub indices: D::Slice<'a, I>,
    /// Whether there may be room behind the last bag in `indices` and `per_sample_weights`, which
    /// then is not read: so that batches with more or fewer ids can be of the same sizes, as the
    /// ops of a recorded step are.
    pub has_slack: bool,
    /// The bounds of the bags, one more than there are bags.
    pub offsets: D::Slice<'a, I>,
    /// A factor for every id.
    pub per_sample_weights: Option<D::Slice<'a, f32>>,
}

impl<D: Device, I: Index> Clone for Bags<'_, D, I> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D: Device, I: Index> Copy for Bags<'_, D, I> {}

/// On the CPU, the bags of a checked batch are used where they lie.
impl<'a, I: Index> From<&'a Jagged<I>> for Bags<'a, Cpu, I> {
    fn from(bags: &'a Jagged<I>) -> Self {
        Self {
            batch_size: bags.batch_size(),
            indices: bags.indices(),
            has_slack: false,
            offsets: bags.offsets(),
            per_sample_weights: bags.per_sample_weights(),
        }
    }
}

impl<D: Device, I: Index> Bags<'_, D, I> {
    /// The same bags, borrowed for a shorter time.
    pub fn reborrow(&self) -> Bags<'_, D, I> {
        Bags {
            batch_size: self.batch_size,
            indices: D::reborrow(&self.indices),
            has_slack: self.has_slack,
            offsets: D::reborrow(&self.offsets),
            per_sample_weights: self.per_sample_weights.as_ref().map(D::reborrow),
        }
    }

    /// The number of ids, slack included.
    pub fn num_indices(&self) -> usize {
        self.indices.extent()
    }

    /// The number of bags of all features.
    pub(crate) fn num_bags(&self, tables: &TableBatch) -> usize {
        product([tables.features.len(), self.batch_size])
    }

    pub(crate) fn check(&self, op: &'static str, tables: &TableBatch) -> Result<()> {
        let bags = self.num_bags(tables);
        if self.num_indices() > MAX_BAGS || bags > MAX_BAGS {
            return Err(invalid(op, "bags", "more than 2^32 - 2 ids or bags: split the batch"));
        }
        expect_size(op, "bags.offsets", self.offsets.extent(), bags + 1)?;
        if let Some(weights) = self.per_sample_weights {
            expect_size(op, "bags.per_sample_weights", weights.extent(), self.num_indices())?;
            if tables.has_max {
                return Err(invalid(op, "bags.per_sample_weights", "max pooling takes no weights"));
            }
        }
        Ok(())
    }
}
