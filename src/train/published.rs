//! Published models, of the sizes that benchmarks measure.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::nn::DlrmConfig;
use crate::ops::{Feature, Pooling, Table};

/// The file that scripts read, too.
const MODELS: &str = include_str!("../../benches/common/models.json");

/// A published DLRM, with one feature for each table and sums as pooling.
#[derive(Clone, Debug)]
pub struct PublishedModel {
    /// The name: `kaggle`, `terabyte` or `mlperf`.
    pub name: String,
    /// The shape. Tables have at most a million rows, so that all of them fit into any memory.
    pub config: DlrmConfig,
    /// The number of samples of a batch by the kind of device: `cpu` and `cuda`.
    pub batch_size: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct Models {
    most_rows: usize,
    models: BTreeMap<String, Shape>,
}

#[derive(Deserialize)]
struct Shape {
    bottom: Vec<usize>,
    top: Vec<usize>,
    rows: Vec<usize>,
    batch_size: BTreeMap<String, usize>,
}

impl PublishedModel {
    /// Returns all models, by their names.
    ///
    /// ```
    /// let models = bagdot::train::PublishedModel::all();
    /// assert_eq!(models.len(), 3);
    /// assert!(models.iter().all(|model| model.config.num_dense == 13));
    /// ```
    pub fn all() -> Vec<Self> {
        // The file is part of the program, and the example above reads it.
        let models = serde_json::from_str(MODELS).ok();
        let of = |Models { most_rows, models }: Models| {
            models.into_iter().map(move |(name, shape)| shape.named(name, most_rows))
        };
        models.into_iter().flat_map(of).collect()
    }
}

impl Shape {
    fn named(self, name: String, most_rows: usize) -> PublishedModel {
        let mut sizes = self.bottom.into_iter();
        let num_dense = sizes.next().unwrap_or(0);
        let bottom_mlp: Vec<usize> = sizes.collect();
        let embedding_dim = bottom_mlp.last().copied().unwrap_or(0);
        let table = |rows: usize| Table { num_embeddings: rows.min(most_rows), embedding_dim };
        let feature = |table| Feature { table, pooling: Pooling::Sum, padding_idx: None };
        let config = DlrmConfig {
            num_dense,
            bottom_mlp,
            features: (0..self.rows.len()).map(feature).collect(),
            tables: self.rows.into_iter().map(table).collect(),
            top_mlp: self.top,
            ..DlrmConfig::default()
        };
        PublishedModel { name, config, batch_size: self.batch_size }
    }
}
