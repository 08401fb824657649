//! Encoded rows as a file: the inputs of an exported model.

use std::collections::HashSet;
use std::io::{self, Write};

use crate::data::{Batch, EncodedFeature, Encoder, position_of};
use crate::dtype::DType;
use crate::size::product;
use crate::train::error::{Result, TrainError};
use crate::train::tensor_file::{TensorRef, write_safetensors};

/// The name of the matrix of the dense features.
pub(super) const DENSE: &str = "dense";
/// The name of the labels.
const LABEL: &str = "label";

/// The names of the ids of a sparse feature.
pub(super) enum Input {
    /// One id for each row, under the name of the feature.
    Id { ids: String },
    /// A position between two ids for each row, under the name of the feature.
    Position { position: String },
    /// Bags of ids.
    Bag {
        /// The ids of all bags, bag after bag: `NAME.values`.
        values: String,
        /// The bounds of the bags, one more than there are rows: `NAME.offsets`.
        offsets: String,
    },
}

/// Returns the names of the ids of all features, or the reason if names would not be different
/// from each other, from `dense` and `label`, and from the `others`.
pub(super) fn inputs(encoder: &Encoder, others: &[&str]) -> Result<Vec<Input>, String> {
    let mut taken: HashSet<String> =
        others.iter().chain(&[DENSE, LABEL]).map(|&name| name.to_owned()).collect();
    let mut take = |name: String| match taken.insert(name.clone()) {
        true => Ok(name),
        false => Err(format!("two of the inputs or outputs would be {name:?}: rename the column")),
    };
    let input = |feature: &EncodedFeature| {
        let name = &feature.name;
        Ok(match feature.multi_valued {
            false if feature.interpolated => Input::Position { position: take(name.clone())? },
            false => Input::Id { ids: take(name.clone())? },
            true => Input::Bag {
                values: take(format!("{name}.values"))?,
                offsets: take(format!("{name}.offsets"))?,
            },
        })
    };
    encoder.features().iter().map(input).collect()
}

/// Encoded rows, under the names that the inputs of an [`Onnx`](super::Onnx) model have.
pub struct EncodedRows {
    num_dense: usize,
    dense: Vec<f32>,
    labels: Vec<f32>,
    features: Vec<Feature>,
}

/// The ids of a feature in all rows.
struct Feature {
    input: Input,
    values: Vec<i64>,
    offsets: Vec<i64>,
    positions: Vec<f32>,
}

impl EncodedRows {
    /// Makes room for the rows of an encoder.
    ///
    /// # Errors
    /// Returns a message if two features would have the same name.
    pub fn new(encoder: &Encoder) -> Result<Self, String> {
        let feature =
            |input| Feature { input, values: Vec::new(), offsets: vec![0], positions: Vec::new() };
        Ok(Self {
            num_dense: encoder.num_dense(),
            dense: Vec::new(),
            labels: Vec::new(),
            features: inputs(encoder, &[])?.into_iter().map(feature).collect(),
        })
    }

    /// Adds the rows of a batch of the same encoder.
    ///
    /// # Errors
    /// Returns [`Error::OutOfMemory`](crate::Error::OutOfMemory) if there is no memory for them.
    pub fn push(&mut self, batch: &Batch) -> Result<()> {
        append(&mut self.dense, batch.dense.iter().copied())?;
        append(&mut self.labels, batch.labels.iter().copied())?;
        let bounds = batch.offsets.windows(batch.batch_size + 1).step_by(batch.batch_size.max(1));
        for (feature, bounds) in self.features.iter_mut().zip(bounds) {
            let [first, .., last] = *bounds else { continue };
            let start = feature.values.len() as i64;
            let of_feature = first as usize..last as usize;
            let ids = batch.indices.get(of_feature.clone()).unwrap_or_default();
            if let Input::Position { .. } = feature.input {
                let weights = batch.weights.get(of_feature).unwrap_or_default();
                let pairs = ids.chunks_exact(2).zip(weights.chunks_exact(2));
                append(&mut feature.positions, pairs.map(|(ids, of)| position_of(ids, of)))?;
                continue;
            }
            append(&mut feature.values, ids.iter().copied().map(i64::from))?;
            append(&mut feature.offsets, bounds[1..].iter().map(|end| end - first + start))?;
        }
        Ok(())
    }

    /// Writes a safetensors file with `dense` (`[rows, num_dense]`), the ids of each feature, and
    /// `label` unless no row has one.
    ///
    /// # Errors
    /// Propagates the errors of `out`.
    pub fn write(&self, out: impl Write) -> io::Result<()> {
        let floats = |name: &str, shape, values| {
            let bytes: &[u8] = bytemuck::cast_slice(values);
            TensorRef::new(name.to_owned(), DType::F32, shape, bytes)
        };
        let rows = self.labels.len();
        let mut tensors = vec![floats(DENSE, vec![rows, self.num_dense], &self.dense)];
        if self.labels.iter().any(|label| !label.is_nan()) {
            tensors.push(floats(LABEL, vec![rows], &self.labels));
        }
        for Feature { input, values, offsets, positions } in &self.features {
            match input {
                Input::Id { ids } => tensors.push(TensorRef::integers(ids.clone(), values)),
                Input::Position { position } => {
                    tensors.push(floats(position, vec![rows], positions));
                }
                Input::Bag { values: ids, offsets: bounds } => tensors.extend([
                    TensorRef::integers(ids.clone(), values),
                    TensorRef::integers(bounds.clone(), offsets),
                ]),
            }
        }
        write_safetensors(out, &[], &tensors)
    }
}

/// Appends values, or returns an error if there is no memory for them.
fn append<T>(to: &mut Vec<T>, values: impl ExactSizeIterator<Item = T>) -> Result<()> {
    let bytes = product([to.len().saturating_add(values.len()), size_of::<T>()]);
    to.try_reserve(values.len())
        .map_err(|_| TrainError::Engine(crate::Error::OutOfMemory { bytes }))?;
    to.extend(values);
    Ok(())
}
