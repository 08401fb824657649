//! The descriptions of tables and bags for kernels.

use super::super::Cuda;
use super::buffer::Buffer;
use super::params::bags::{self, Feature, NO_PADDING, OffsetType, Table, WIDE_COLUMNS};
use super::pointer::Ptr;
use crate::dtype::Index;
use crate::error::{Result, invalid};
use crate::ops::bags::OffsetsOf;
use crate::ops::{Bags, Device, Pooling, TableBatch};

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
    lanes: [usize; 2],
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
                weight_offset: host.weight_offsets()[feature.table] as u64,
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
        Ok(Self { host, features, tables, lanes })
    }

    /// Returns the address of the descriptions of the features.
    pub(crate) fn features(&self, cuda: &Cuda) -> Result<Ptr<Feature>> {
        Cuda::view(&self.features).on(cuda)
    }

    /// Returns the address of the descriptions of the tables.
    pub(crate) fn tables(&self, cuda: &Cuda) -> Result<Ptr<Table>> {
        Cuda::view(&self.tables).on(cuda)
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
    /// Describes the bags of a batch of these tables for kernels.
    pub(crate) fn bags<I: Index>(
        &self,
        bags: &Bags<'_, Self, I>,
        tables: &TableBatch,
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
        })
    }
}

/// Describes all tables, with one more entry for the end of the last one.
fn describe_tables(host: &TableBatch) -> Vec<Table> {
    let mut wide: Vec<bool> = (0..host.tables().len())
        .map(|t| {
            host.tables()[t].embedding_dim.is_multiple_of(WIDE_COLUMNS)
                && host.weight_offsets()[t].is_multiple_of(WIDE_COLUMNS)
        })
        .collect();
    for (f, feature) in host.features().iter().enumerate() {
        wide[feature.table] &= host.column_offsets()[f].is_multiple_of(WIDE_COLUMNS);
    }
    let describe = |t: usize| Table {
        first_row: host.row_offsets()[t] as u64,
        weight_offset: host.weight_offsets()[t] as u64,
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
