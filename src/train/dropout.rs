//! Dropout of ids of multi-valued features in training, so that the model does not depend on any
//! one of them.

use crate::data::{Batch, EncodedFeature};
use crate::philox::Philox;

/// The random stream of the first step; each step has its own.
const STREAM: u64 = 1 << 40;

/// The ids that are dropped, and the probability of that.
pub(super) struct Dropout<'a> {
    pub(super) features: &'a [EncodedFeature],
    pub(super) rate: f32,
    pub(super) seed: u64,
}

impl Dropout<'_> {
    /// Drops each id of a multi-valued feature with the probability `rate`, and multiplies the
    /// factors of the others so that they compensate in expectation: by `1 / (1 - rate)`. Ids of
    /// other features stay as they are.
    pub(super) fn apply(&self, batch: &mut Batch, step: u64) {
        let mut random = Philox::new(self.seed, STREAM + step);
        let keep_from = (f64::from(self.rate) * 2f64.powi(32)) as u32;
        let scale = 1.0 / (1.0 - self.rate);
        if batch.weights.is_empty() {
            batch.weights.resize(batch.indices.len(), 1.0);
        }
        let (mut start, mut kept) = (0, 0);
        for (f, feature) in self.features.iter().enumerate() {
            for bag in f * batch.batch_size..(f + 1) * batch.batch_size {
                let end = batch.offsets[bag + 1] as usize;
                for position in start..end {
                    if !feature.multi_valued || random.next_u32() >= keep_from {
                        let factor = if feature.multi_valued { scale } else { 1.0 };
                        batch.indices[kept] = batch.indices[position];
                        batch.weights[kept] = factor * batch.weights[position];
                        kept += 1;
                    }
                }
                start = end;
                batch.offsets[bag + 1] = kept as i64;
            }
        }
        batch.indices.truncate(kept);
        batch.weights.truncate(kept);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Pooling;

    #[test]
    fn ids_of_bags_are_left_out_and_the_others_stay() {
        let feature = |multi_valued| EncodedFeature {
            name: "f".into(),
            num_embeddings: 1002,
            pooling: Pooling::Sum,
            multi_valued,
            interpolated: false,
        };
        let features = [feature(false), feature(true)];
        let (batch_size, bag) = (2, 500);
        let indices: Vec<u32> = (0..2 + 2 * bag as u32).collect();
        let batch = Batch {
            batch_size,
            indices,
            offsets: vec![0, 1, 2, 2 + bag, 2 + 2 * bag],
            ..Batch::default()
        };
        let dropped = |step| {
            let mut batch = batch.clone();
            Dropout { features: &features, rate: 0.25, seed: 1 }.apply(&mut batch, step);
            batch
        };
        let after = dropped(1);
        let weights = &after.weights;
        assert_eq!(after.indices[..2], [0, 1]);
        assert_eq!(weights[..2], [1.0, 1.0]);
        assert!(weights[2..].iter().all(|w| *w == 1.0 / 0.75));
        assert_eq!(
            (weights.len(), *after.offsets.last().unwrap()),
            (after.indices.len(), after.indices.len() as i64)
        );
        // 1000 ids remain with probability 3/4: the standard deviation is 13.7. A deviation of six
        // times that does not happen by chance.
        assert!((after.indices.len() as i64 - 2 - 750).abs() < 83, "{}", after.indices.len());
        // The remaining ids are in their old bags, in their old order.
        let middle = after.offsets[3] as usize;
        assert!(
            after.indices.is_sorted()
                && after.indices[middle - 1] < 2 + bag as u32
                && after.indices[middle] >= 2 + bag as u32
        );
        assert_eq!(dropped(1), after);
        assert_ne!(dropped(2), after);
    }
}
