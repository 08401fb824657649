//! A batch of tables where kernels can read it.

use bytemuck::{Pod, Zeroable};

use super::{Buffer, Cuda};
use crate::error::{Result, invalid};
use crate::ops::{Device, Pooling, TableBatch};

/// A feature with its table. Mirrors `Feature` in kernels/common/bags.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
pub(super) struct DeviceFeature {
    weight_offset: u64,
    num_embeddings: u64,
    padding_idx: i64,
    embedding_dim: u32,
    column: u32,
    table: u32,
    pooling: u32,
}

/// A table. Mirrors `Table` in kernels/common/bags.cuh.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
struct DeviceTable {
    first_row: u64,
    weight_offset: u64,
    embedding_dim: u32,
    is_wide: u32,
}

/// The most columns that kernels count in 32 bits, with room for the steps that they take beyond
/// the last one.
const MAX_COLUMNS: usize = i32::MAX as usize;
/// Elements of the widest loads of 32-bit numbers.
pub(super) const WIDE: usize = 4;

/// A [`TableBatch`] on a device.
#[derive(Debug)]
pub struct Tables {
    host: TableBatch,
    features: Buffer<DeviceFeature>,
    tables: Buffer<DeviceTable>,
    lanes: [usize; 2],
}

impl Tables {
    /// # Errors
    /// Returns an error if a row, or the vectors of a sample side by side, have more elements than
    /// kernels can count, and the errors of allocation and upload.
    pub(super) fn new(cuda: &Cuda, host: TableBatch) -> Result<Self> {
        let columns = host.max_dim().max(host.width());
        if columns > MAX_COLUMNS {
            let reason = format!(
                "{columns} elements in a row, but on a CUDA device at most {MAX_COLUMNS} are possible"
            );
            return Err(invalid("Cuda", "tables", reason));
        }
        let describe = |(f, feature): (usize, &crate::ops::Feature)| {
            let table = host.table_of(f);
            DeviceFeature {
                weight_offset: host.weight_offsets()[feature.table] as u64,
                num_embeddings: table.num_embeddings as u64,
                padding_idx: feature.padding_idx.map_or(-1, |padding| padding as i64),
                embedding_dim: table.embedding_dim as u32,
                column: host.column_offsets()[f] as u32,
                table: feature.table as u32,
                pooling: match feature.pooling {
                    Pooling::Sum => 0,
                    Pooling::Mean => 1,
                    Pooling::Max => 2,
                },
            }
        };
        let described: Vec<DeviceFeature> =
            host.features().iter().enumerate().map(describe).collect();
        let mut features = cuda.alloc(described.len())?;
        cuda.upload(&described, Cuda::view_mut(&mut features))?;
        let described = describe_tables(&host);
        let lanes = [false, true].map(|is_wide| {
            let columns =
                |table: &DeviceTable| if is_wide && table.is_wide != 0 { WIDE as u32 } else { 1 };
            let lanes = described.iter().map(|table| table.embedding_dim.div_ceil(columns(table)));
            lanes.max().unwrap_or(0).next_power_of_two().min(32) as usize
        });
        let mut tables = cuda.alloc(described.len())?;
        cuda.upload(&described, Cuda::view_mut(&mut tables))?;
        Ok(Self { host, features, tables, lanes })
    }

    /// The address of the descriptions of the features.
    pub(super) fn features(&self, cuda: &Cuda) -> Result<u64> {
        Cuda::view(&self.features).on(cuda)
    }

    /// The address of the descriptions of the tables.
    pub(super) fn tables(&self, cuda: &Cuda) -> Result<u64> {
        Cuda::view(&self.tables).on(cuda)
    }

    /// The lanes of a group with a column each, enough for the longest row, a warp at most; if
    /// `is_wide`, with [`WIDE`] columns each of rows that lie so.
    pub(super) fn lanes(&self, is_wide: bool) -> usize {
        self.lanes[usize::from(is_wide)]
    }
}

/// All tables, and an entry for the end of the last one.
fn describe_tables(host: &TableBatch) -> Vec<DeviceTable> {
    let mut wide: Vec<bool> = (0..host.tables().len())
        .map(|t| {
            host.tables()[t].embedding_dim.is_multiple_of(WIDE)
                && host.weight_offsets()[t].is_multiple_of(WIDE)
        })
        .collect();
    for (f, feature) in host.features().iter().enumerate() {
        wide[feature.table] &= host.column_offsets()[f].is_multiple_of(WIDE);
    }
    let describe = |t: usize| DeviceTable {
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
