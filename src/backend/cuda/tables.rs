//! A batch of tables where kernels can read it.

use bytemuck::{Pod, Zeroable};

use super::{Buffer, Cuda};
use crate::error::Result;
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

/// A [`TableBatch`] on a device.
#[derive(Debug)]
pub struct Tables {
    host: TableBatch,
    features: Buffer<DeviceFeature>,
}

impl Tables {
    pub(super) fn new(cuda: &Cuda, host: TableBatch) -> Result<Self> {
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
        let described: Vec<DeviceFeature> = host.features().iter().enumerate().map(describe).collect();
        let mut features = cuda.alloc(described.len())?;
        cuda.upload(&described, Cuda::view_mut(&mut features))?;
        Ok(Self { host, features })
    }

    /// The address of the descriptions of the features.
    pub(super) fn pointer(&self) -> u64 {
        Cuda::view(&self.features).pointer()
    }
}

impl AsRef<TableBatch> for Tables {
    fn as_ref(&self) -> &TableBatch {
        &self.host
    }
}
