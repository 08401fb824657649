//! The descriptions of tables and bags for kernels.

use super::super::Cuda;
use super::buffer::Buffer;
use super::params::bags::{
    self, FaultyOp, Feature, NO_PADDING, OffsetType, Table, TableRows, WIDE_COLUMNS,
};
use super::pointer::{Ptr, PtrMut};
use crate::dtype::{Index, Scalar};
use crate::error::{Result, invalid};
use crate::ops::bags::OffsetsOf;
use crate::ops::table_values::Per;
use crate::ops::{
    Bags, Device, Matrix, Pooling, SeparateTables, SeparateTablesMut, TableBatch, TableValues,
    TableValuesMut,
};

/// The most columns that kernels can count in 32 bits, with room for the steps that they take
/// beyond the last column.
const MAX_COLUMNS: usize = i32::MAX as usize;

/// A [`TableBatch`] with its description in the memory of a device, made by [`Device::tables`].
/// [`AsRef`] gives the batch.
#[derive(Debug)]
pub struct Tables {
    host: TableBatch,
    features: Buffer<Feature>,
    tables: Buffer<Table>,
    /// The numbers of the features, by table, and behind them the number of features of all tables
    /// before each table, with one more entry.
    features_by_table: Buffer<u32>,
    /// The rows of weights, and of state for each element, that lie in one buffer.
    elements: TablePlaces,
    /// The rows of state for each row that lie in one buffer.
    rows: TablePlaces,
    lanes: [usize; 2],
}

/// The rows of all tables in memory, made by [`Device::place_tables`].
#[derive(Debug)]
pub struct TablePlaces {
    /// The base address, from which the starts of rows count in elements: the lowest address of
    /// tables in memory of their own; 0 for tables in one buffer, whose base the view gives.
    base: u64,
    /// The rows of each table, and behind them those of the table of each feature.
    host: Vec<TableRows>,
    device: Buffer<TableRows>,
}

/// The values of all tables as kernels find them. `P` is the pointer to the first value.
pub(crate) struct Placed<'p, P> {
    pub(crate) base: P,
    /// The rows of each table.
    pub(crate) tables: Ptr<TableRows>,
    /// The rows of the table of each feature.
    pub(crate) features: Ptr<TableRows>,
    places: &'p TablePlaces,
}

impl<P> Placed<'_, P> {
    /// Returns the rows of the table of each feature.
    pub(crate) fn rows_of_features(&self, tables: &TableBatch) -> &[TableRows] {
        &self.places.host[tables.tables().len()..]
    }

    /// Returns whether rows that allow it by their size are aligned for [`WIDE_COLUMNS`] elements,
    /// those of all tables.
    pub(crate) fn is_wide(&self) -> bool {
        self.places.host.iter().all(|rows| rows.is_wide != 0)
    }
}

impl TablePlaces {
    /// Copies the rows of each table, and those of the table of each feature, to the device.
    fn new(cuda: &Cuda, tables: &TableBatch, base: u64, of_tables: &[TableRows]) -> Result<Self> {
        let of_features = tables.features().iter().map(|feature| of_tables[feature.table]);
        let host: Vec<_> = of_tables.iter().copied().chain(of_features).collect();
        let device = cuda.to_device(&host)?;
        Ok(Self { base, host, device })
    }

    /// Describes tables that follow each other in one buffer.
    fn joined(cuda: &Cuda, tables: &TableBatch, per: Per) -> Result<Self> {
        let starts = match per {
            Per::Element => tables.weight_offsets(),
            Per::Row => tables.row_offsets(),
        };
        let describe = |(&start, table): (&usize, &crate::ops::Table)| {
            TableRows::new(start as u64, per.columns(table))
        };
        let rows: Vec<_> = starts.iter().zip(tables.tables()).map(describe).collect();
        Self::new(cuda, tables, 0, &rows)
    }

    /// Describes tables in memory of their own.
    pub(crate) fn separate<T: Scalar>(
        cuda: &Cuda,
        tables: &TableBatch,
        values: &[Matrix<'_, Cuda, T>],
    ) -> Result<Self> {
        const OP: &str = "SeparateTables";
        let base = values.iter().map(|matrix| matrix.data.pointer()).min().unwrap_or(0);
        let mut rows = Vec::with_capacity(values.len());
        for (t, matrix) in values.iter().enumerate() {
            matrix.data.on(cuda)?;
            let bytes = matrix.data.pointer() - base;
            if matrix.ld > MAX_COLUMNS {
                let reason = format!(
                    "table {t}: {} elements between rows, but on a CUDA device at most \
                     {MAX_COLUMNS} are possible",
                    matrix.ld
                );
                return Err(invalid(OP, "values", reason));
            }
            if !bytes.is_multiple_of(size_of::<T>() as u64) {
                let reason = format!("table {t} is not aligned as the others");
                return Err(invalid(OP, "values", reason));
            }
            rows.push(TableRows::new(bytes / size_of::<T>() as u64, matrix.ld));
        }
        Self::new(cuda, tables, base, &rows)
    }

    fn placed<P>(&self, cuda: &Cuda, tables: &TableBatch, base: P) -> Result<Placed<'_, P>> {
        let rows = Cuda::view(&self.device).on(cuda)?;
        let features = rows.add(tables.tables().len());
        Ok(Placed { base, tables: rows, features, places: self })
    }
}

impl TableRows {
    fn new(start: u64, stride: usize) -> Self {
        let is_wide =
            start.is_multiple_of(WIDE_COLUMNS as u64) && stride.is_multiple_of(WIDE_COLUMNS);
        Self { start, stride: stride as u32, is_wide: is_wide.into() }
    }
}

impl Tables {
    /// Copies the description of a batch of tables to the device.
    ///
    /// # Errors
    /// Returns [`Error::InvalidArgument`](crate::Error::InvalidArgument) if a row, or the pooled
    /// row of a sample, has more elements than kernels can count. Propagates errors of
    /// [`Device::to_device`].
    pub(crate) fn new(cuda: &Cuda, host: TableBatch) -> Result<Self> {
        let columns = host.max_dim().max(host.width());
        if columns > MAX_COLUMNS {
            let reason = format!(
                "{columns} elements in a row, but on a CUDA device at most {MAX_COLUMNS} are \
                 possible"
            );
            return Err(invalid("Cuda", "tables", reason));
        }
        let describe = |(f, feature): (usize, &crate::ops::Feature)| {
            let table = host.table_of(f);
            Feature {
                num_embeddings: table.num_embeddings as u64,
                padding_idx: feature.padding_idx.map_or(NO_PADDING, |padding| padding as i64),
                embedding_dim: table.embedding_dim as u32,
                column: host.column_offsets()[f] as u32,
                table: feature.table as u32,
                pooling: match feature.pooling {
                    Pooling::Sum => bags::Pooling::Sum,
                    Pooling::Mean => bags::Pooling::Mean,
                    Pooling::Max => bags::Pooling::Max,
                } as u32,
            }
        };
        let described: Vec<Feature> = host.features().iter().enumerate().map(describe).collect();
        let features = cuda.to_device(&described)?;
        let described = describe_tables(&host);
        let of_tables = &described[..host.tables().len()];
        let all_wide = of_tables.iter().all(|table| table.is_wide != 0);
        let lanes = [false, true].map(|is_wide| {
            let columns = if is_wide && all_wide { WIDE_COLUMNS as u32 } else { 1 };
            let lanes = of_tables.iter().map(|table| table.embedding_dim.div_ceil(columns));
            lanes.max().unwrap_or(0).next_power_of_two().min(32) as usize
        });
        let tables = cuda.to_device(&described)?;
        let (mut by_table, mut offsets) = (vec![], vec![0]);
        for table in 0..host.tables().len() {
            by_table.extend(host.features_of(table).iter().map(|&feature| feature as u32));
            offsets.push(by_table.len() as u32);
        }
        by_table.extend(offsets);
        let features_by_table = cuda.to_device(&by_table)?;
        let elements = TablePlaces::joined(cuda, &host, Per::Element)?;
        let rows = TablePlaces::joined(cuda, &host, Per::Row)?;
        Ok(Self { host, features, tables, features_by_table, elements, rows, lanes })
    }

    /// Returns the address of the descriptions of the features.
    pub(crate) fn features(&self, cuda: &Cuda) -> Result<Ptr<Feature>> {
        Cuda::view(&self.features).on(cuda)
    }

    /// Returns the address of the descriptions of the tables.
    pub(crate) fn tables(&self, cuda: &Cuda) -> Result<Ptr<Table>> {
        Cuda::view(&self.tables).on(cuda)
    }

    /// Returns the addresses of the numbers of the features, by table, and of the number of
    /// features of all tables before each table, with one more entry.
    pub(crate) fn features_by_table(&self, cuda: &Cuda) -> Result<(Ptr<u32>, Ptr<u32>)> {
        let features = Cuda::view(&self.features_by_table).on(cuda)?;
        Ok((features, features.add(self.host.features().len())))
    }

    /// Returns the places of tables in one buffer.
    fn joined(&self, per: Per) -> &TablePlaces {
        match per {
            Per::Element => &self.elements,
            Per::Row => &self.rows,
        }
    }

    /// Returns the number of lanes of a group that covers the longest row, at most a warp. A lane
    /// takes one column, or, if `is_wide`, [`WIDE_COLUMNS`] columns if the rows of all tables are
    /// aligned for that. One narrow table suffices to count single columns, since a warp that holds
    /// one of its rows loads single columns for all of its rows.
    pub(crate) fn lanes(&self, is_wide: bool) -> usize {
        self.lanes[usize::from(is_wide)]
    }
}

impl Cuda {
    /// Returns where kernels find the values of all tables.
    pub(crate) fn placed<'p, T: Scalar>(
        &self,
        tables: &'p Tables,
        values: &'p TableValues<'_, Self, T>,
        per: Per,
    ) -> Result<Placed<'p, Ptr<T>>> {
        let (base, places) = match values {
            TableValues::Joined(view) => (view.on(self)?, tables.joined(per)),
            TableValues::Separate(SeparateTables { values, places, .. }) => {
                values.iter().try_for_each(|matrix| matrix.data.on(self).map(drop))?;
                (Ptr::at(places.base), &**places)
            }
        };
        places.placed(self, &tables.host, base)
    }

    /// Returns where kernels find the values of all tables, which they write.
    pub(crate) fn placed_mut<'p, T: Scalar>(
        &self,
        tables: &'p Tables,
        values: &'p TableValuesMut<'_, Self, T>,
        per: Per,
    ) -> Result<Placed<'p, PtrMut<T>>> {
        let (base, places) = match values {
            TableValuesMut::Joined(view) => (view.on(self)?, tables.joined(per)),
            TableValuesMut::Separate(SeparateTablesMut { values, places, .. }) => {
                values.iter().try_for_each(|matrix| matrix.data.on(self).map(drop))?;
                (PtrMut::at(places.base), &**places)
            }
        };
        places.placed(self, &tables.host, base)
    }

    /// Describes the bags of a batch of these tables for kernels of an op.
    pub(crate) fn bags<I: Index>(
        &self,
        bags: &Bags<'_, Self, I>,
        tables: &TableBatch,
        op: FaultyOp,
    ) -> Result<bags::Bags> {
        let (offsets, length, offset_type) = match bags.offsets.0 {
            OffsetsOf::I32(offsets, _) => (offsets.on(self)?.cast(), 0, OffsetType::I32),
            OffsetsOf::I64(offsets, _) => (offsets.on(self)?.cast(), 0, OffsetType::I64),
            OffsetsOf::U32(offsets, _) => (offsets.on(self)?.cast(), 0, OffsetType::U32),
            OffsetsOf::Length(length) => (Ptr::NULL, length, OffsetType::Equal),
        };
        Ok(bags::Bags {
            offsets,
            num_offsets: bags.offsets.len() as u64,
            length: length as u64,
            num_indices: bags.num_indices() as u64,
            num_bags: bags.num_bags(tables) as u32,
            offset_type: offset_type as u32,
            has_slack: bags.has_slack.into(),
            has_unsigned_ids: bags.has_unsigned_ids.into(),
            op: op as u32,
            reserved: 0,
        })
    }
}

/// Describes all tables, with one more entry for the end of the last one.
fn describe_tables(host: &TableBatch) -> Vec<Table> {
    let tables = host.tables().iter();
    let mut wide: Vec<bool> =
        tables.map(|table| table.embedding_dim.is_multiple_of(WIDE_COLUMNS)).collect();
    for (f, feature) in host.features().iter().enumerate() {
        wide[feature.table] &= host.column_offsets()[f].is_multiple_of(WIDE_COLUMNS);
    }
    let describe = |t: usize| Table {
        first_row: host.row_offsets()[t] as u64,
        embedding_dim: host.tables().get(t).map_or(0, |table| table.embedding_dim as u32),
        is_wide: wide.get(t).is_some_and(|&wide| wide).into(),
    };
    (0..=host.tables().len()).map(describe).collect()
}

impl AsRef<TableBatch> for Tables {
    fn as_ref(&self) -> &TableBatch {
        &self.host
    }
}
