//! Inputs of awkward shapes, drawn from [`Philox`].

use crate::ops::embedding_bag::{EmbeddingBagOps, Forward};
use crate::ops::{Bags, Device, Feature, MatrixMut, Pooling, Table, TableBatch};
use crate::{Index, Philox};
use rand_distr::{Distribution, StandardNormal, Zipf};

use super::memory::{download, poisoned, upload};
use super::tolerance::Stored;

/// Embedding dimensions just below, at and above the widths of vectors, cache lines and blocks.
pub const DIMS: [usize; 11] = [1, 3, 4, 16, 63, 64, 127, 128, 129, 1024, 2050];
/// All poolings.
pub const POOLINGS: [Pooling; 3] = [Pooling::Sum, Pooling::Mean, Pooling::Max];

/// A type of ids that is made of the `i64` of a case.
pub trait Id: Index {
    /// Converts a value that the type holds.
    fn id(value: i64) -> Self;
}
impl Id for i32 {
    fn id(value: i64) -> Self {
        value.try_into().unwrap()
    }
}
impl Id for u32 {
    fn id(value: i64) -> Self {
        value.try_into().unwrap()
    }
}
impl Id for i64 {
    fn id(value: i64) -> Self {
        value
    }
}

/// Draws `len` standard normal values.
pub fn draw(len: usize, seed: u64) -> Vec<f32> {
    StandardNormal.sample_iter(Philox::new(seed, 0x7e57)).take(len).collect()
}

/// Draws `len` standard normal values, rounded to a storage type.
pub fn draw_stored<E: Stored>(len: usize, seed: u64) -> Vec<E> {
    draw(len, seed).iter().map(|&x| E::store(f64::from(x))).collect()
}

/// Draws an id, each with the same probability.
pub fn uniform(random: &mut Philox, rows: u64) -> u64 {
    random.below(rows)
}

/// Draws an id by Zipf's law with exponent 1: id `k` has a probability proportional to `1 / (k +
/// 1)`.
pub fn zipf(random: &mut Philox, rows: u64) -> u64 {
    let rank = Zipf::new(rows as f64, 1.0).unwrap().sample(random);
    // Ranks count from 1. Rounding may carry a sample past the last one.
    (rank as u64).clamp(1, rows) - 1
}

/// Returns a feature of a table, without padding.
pub fn feature(table: usize, pooling: Pooling) -> Feature {
    Feature { table, pooling, padding_idx: None }
}

/// A batch of bags on the host, with the tables that they look up. Its ids are valid; bad ones are
/// for the tests that are about them.
#[derive(Clone, Debug)]
pub struct BagCase {
    /// The name, for messages.
    pub name: String,
    /// The tables.
    pub tables: Vec<Table>,
    /// The features.
    pub features: Vec<Feature>,
    /// The number of samples.
    pub batch_size: usize,
    /// The ids of all bags, key-major.
    pub indices: Vec<i64>,
    /// The CSR offsets of the bags.
    pub offsets: Vec<usize>,
    /// The factor of every id, if there are factors.
    pub per_sample_weights: Option<Vec<f32>>,
    /// The seed of all values of the case, a hash of its first name.
    pub seed: u64,
}

impl BagCase {
    /// Makes bags of these lengths, key-major. `tables` gives the rows and the dimension of each
    /// table; `draw_id` draws an id from a stream and the number of rows.
    pub fn new(
        name: impl Into<String>,
        (tables, features): (&[(usize, usize)], &[Feature]),
        lengths: &[usize],
        mut draw_id: impl FnMut(&mut Philox, u64) -> u64,
    ) -> Self {
        let name = name.into();
        let seed = name
            .bytes()
            .fold(17, |hash: u64, byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
        let batch_size = lengths.len().checked_div(features.len()).unwrap_or(0);
        let mut random = Philox::new(seed, 1);
        let (mut indices, mut offsets) = (vec![], vec![0]);
        for (bag, &length) in lengths.iter().enumerate() {
            let rows = tables[features[bag / batch_size].table].0 as u64;
            indices.extend((0..length).map(|_| draw_id(&mut random, rows) as i64));
            offsets.push(indices.len());
        }
        let tables = tables
            .iter()
            .map(|&(num_embeddings, embedding_dim)| Table { num_embeddings, embedding_dim });
        let (tables, features) = (tables.collect(), features.to_vec());
        Self {
            name,
            tables,
            features,
            batch_size,
            indices,
            offsets,
            per_sample_weights: None,
            seed,
        }
    }

    /// Makes bags of one table of this many rows and columns, pooled by sum.
    pub fn one_table(
        name: impl Into<String>,
        table: (usize, usize),
        lengths: &[usize],
        draw_id: impl FnMut(&mut Philox, u64) -> u64,
    ) -> Self {
        Self::new(name, (&[table], &[feature(0, Pooling::Sum)]), lengths, draw_id)
    }

    /// Adds a per-sample weight for every id. No feature may be pooled by max.
    pub fn weighted(mut self) -> Self {
        self.name += ", weighted";
        self.per_sample_weights = Some(draw(self.indices.len(), self.seed + 3));
        self
    }

    /// Returns every awkward batch: one table pooled by `pooling`, and [`Self::mixed`].
    pub fn all(pooling: Pooling) -> Vec<Self> {
        let one = |rows, dim| ([(rows, dim)], [feature(0, pooling)]);
        let mut cases: Vec<Self> = DIMS
            .iter()
            .map(|&dim| {
                let (tables, features) = one(11, dim);
                Self::new(
                    format!("D = {dim}, {pooling:?}"),
                    (&tables, &features),
                    &[3, 0, 1, 4, 2],
                    uniform,
                )
            })
            .collect();
        let (tables, features) = one(40, 12);
        let mut add = |name: &str, lengths: &[usize], draw_id: fn(&mut Philox, u64) -> u64| {
            cases.push(Self::new(
                format!("{name}, {pooling:?}"),
                (&tables, &features),
                lengths,
                draw_id,
            ));
        };
        add("no samples", &[], uniform);
        add("one sample", &[7], uniform);
        add("only empty bags", &[0; 33], uniform);
        let full_bag = [[0; 16].as_slice(), &[700], &[0; 16]].concat();
        add("one bag with everything", &full_bag, uniform);
        add("all ids equal", &[5; 33], |_, _| 3);
        add("Zipf", &std::array::from_fn::<_, 33, _>(|k| k * 7 % 50), zipf);
        cases.push(Self::mixed(pooling));
        cases
    }

    /// Returns a batch for tables of several dimensions. Three features share one table, with
    /// different pooling and padding. Two features are pooled by `pooling`, the others by sum or
    /// mean.
    pub fn mixed(pooling: Pooling) -> Self {
        let tables = [(30, 5), (9, 129), (200, 16)];
        let padded = |table, pooling, padding| Feature {
            padding_idx: Some(padding),
            ..feature(table, pooling)
        };
        let features = [
            feature(2, Pooling::Mean),
            padded(0, pooling, 4),
            feature(0, Pooling::Sum),
            padded(1, Pooling::Mean, 0),
            feature(0, pooling),
        ];
        let lengths: Vec<usize> = (0..features.len() * 33).map(|k| k * 5 % 9).collect();
        let name = format!("mixed dimensions, shared table, padding, {pooling:?}");
        Self::new(name, (&tables, &features), &lengths, uniform)
    }

    /// Returns the tables and features.
    pub fn layout(&self) -> TableBatch {
        TableBatch::new(self.tables.clone(), self.features.clone()).unwrap()
    }

    /// Returns the number of weights of all tables.
    pub fn num_weights(&self) -> usize {
        self.tables.iter().map(|table| table.num_embeddings * table.embedding_dim).sum()
    }

    /// Returns the number of rows of all tables.
    pub fn num_rows(&self) -> usize {
        self.tables.iter().map(|table| table.num_embeddings).sum()
    }

    /// Returns the number of columns of the pooled output.
    pub fn width(&self) -> usize {
        self.features.iter().map(|feature| self.tables[feature.table].embedding_dim).sum()
    }

    /// Draws the weights of all tables.
    pub fn weights<E: Stored>(&self) -> Vec<E> {
        draw_stored(self.num_weights(), self.seed + 1)
    }

    /// Draws a gradient of the pooled output.
    pub fn grad_output(&self) -> Vec<f32> {
        draw(self.batch_size * self.width(), self.seed + 2)
    }

    /// Returns the pooled output for these weights.
    pub fn pool<B: EmbeddingBagOps, I: Id>(&self, device: &B, weights: &[f32]) -> Vec<f32> {
        let (bags, weights) = (self.upload::<B, I>(device), upload(device, weights));
        let mut output = upload(device, &poisoned::<f32>(self.batch_size * self.width()));
        let forward = Forward::new(
            &bags.tables,
            B::view(&weights),
            bags.view(),
            MatrixMut::contiguous(B::view_mut(&mut output), self.batch_size, self.width()),
        );
        assert_eq!(
            forward.run(device).and_then(|()| device.synchronize()),
            Ok(()),
            "{}",
            self.name
        );
        download(device, &output)
    }

    /// Uploads tables and bags.
    pub fn upload<B: Device, I: Id>(&self, device: &B) -> DeviceBags<B, I> {
        let ids: Vec<I> = self.indices.iter().map(|&id| I::id(id)).collect();
        let offsets: Vec<I> = self.offsets.iter().map(|&offset| I::id(offset as i64)).collect();
        DeviceBags {
            tables: device.tables(self.layout()).unwrap(),
            indices: upload(device, &ids),
            offsets: upload(device, &offsets),
            weights: self.per_sample_weights.as_ref().map(|weights| upload(device, weights)),
            batch_size: self.batch_size,
        }
    }
}

/// A [`BagCase`] on a device.
pub struct DeviceBags<B: Device, I: Index> {
    /// The tables and features.
    pub tables: B::Tables,
    /// The ids of all bags, key-major.
    pub indices: B::Buffer<I>,
    /// The CSR offsets of the bags.
    pub offsets: B::Buffer<I>,
    /// The factor of every id, if there are factors.
    pub weights: Option<B::Buffer<f32>>,
    /// The number of samples.
    pub batch_size: usize,
}

impl<B: Device, I: Index> DeviceBags<B, I> {
    /// Views the bags.
    pub fn view(&self) -> Bags<'_, B, I> {
        let bags = Bags::new(self.batch_size, B::view(&self.indices), B::view(&self.offsets));
        Bags { per_sample_weights: self.weights.as_ref().map(B::view), ..bags }
    }
}
