//! Host-side batches of bags: the layout of TorchRec's `KeyedJaggedTensor`.

use crate::dtype::Index;
use crate::error::{Error, OffsetRule, Result, expect_size, invalid};

/// The name of the type in errors.
const OP: &str = "Jagged";

/// The ids of `num_features * batch_size` bags in CSR form, which the constructors check.
///
/// Bags are key-major: bag `(f, b)` holds `indices[offsets[f * batch_size + b] .. offsets[f *
/// batch_size + b + 1]]`.
///
/// ```
/// use bagdot::Jagged;
/// // Two features, three samples: [1, 2], [], [0] and [5], [6], [7, 7, 7].
/// let bags = Jagged::from_lengths(vec![1_i64, 2, 0, 5, 6, 7, 7, 7], &[2, 0, 1, 1, 1, 3], 3)?;
/// assert_eq!(bags.offsets(), [0, 2, 2, 3, 4, 5, 8]);
/// assert_eq!(bags.num_features(), 2);
/// # Ok::<(), bagdot::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Jagged<I> {
    indices: Vec<I>,
    offsets: Vec<I>,
    per_sample_weights: Option<Vec<f32>>,
    batch_size: usize,
}

impl<I: Index> Jagged<I> {
    /// Makes bags from their ids, bag after bag, and their CSR offsets,
    /// `[num_features * batch_size + 1]`, which are positions in `indices`.
    ///
    /// # Errors
    /// Returns [`Error::InvalidOffsets`] if the offsets do not start at 0, decrease, or do not end
    /// at `indices.len()`, and [`Error::InvalidArgument`] if the number of bags is no multiple of
    /// `batch_size`.
    pub fn from_offsets(indices: Vec<I>, offsets: Vec<I>, batch_size: usize) -> Result<Self> {
        check_offsets_of(OP, &offsets, indices.len())?;
        let bags = offsets.len() - 1;
        let whole = if batch_size == 0 { bags == 0 } else { bags.is_multiple_of(batch_size) };
        if !whole {
            return Err(invalid(
                "Jagged",
                "offsets",
                format!("{bags} bags are no multiple of the batch size {batch_size}"),
            ));
        }
        Ok(Self { indices, offsets, per_sample_weights: None, batch_size })
    }

    /// Makes bags from their ids, bag after bag, and their lengths in ids,
    /// `[num_features * batch_size]`, key-major.
    ///
    /// # Errors
    /// Propagates errors of [`Self::from_offsets`], and returns one if a length is negative, or if
    /// their sum is not the number of ids or does not fit `I`.
    pub fn from_lengths<L: Index>(
        indices: Vec<I>,
        lengths: &[L],
        batch_size: usize,
    ) -> Result<Self> {
        let mut offsets = Vec::with_capacity(lengths.len() + 1);
        let mut end = 0usize;
        offsets.push(I::default());
        for (position, length) in lengths.iter().enumerate() {
            let negative = || Error::InvalidOffsets {
                op: OP,
                position,
                value: length.to_i64(),
                rule: OffsetRule::NotNegative,
            };
            end = end.saturating_add(length.to_row().ok_or_else(negative)?);
            let too_long =
                || invalid(OP, "lengths", format!("their sum {end} does not fit the index type"));
            offsets.push(I::from_usize(end).ok_or_else(too_long)?);
        }
        if end != indices.len() {
            let reason = format!("they add up to {end}, but there are {} ids", indices.len());
            return Err(invalid(OP, "lengths", reason));
        }
        Self::from_offsets(indices, offsets, batch_size)
    }

    /// Gives every id a factor, `[num_indices]`. By default every factor is 1.
    ///
    /// # Errors
    /// Returns [`Error::ShapeMismatch`] if there are not as many weights as indices.
    pub fn with_per_sample_weights(mut self, weights: Vec<f32>) -> Result<Self> {
        expect_size("Jagged", "per_sample_weights", weights.len(), self.indices.len())?;
        self.per_sample_weights = Some(weights);
        Ok(self)
    }

    /// Returns all ids, bag after bag.
    pub fn indices(&self) -> &[I] {
        &self.indices
    }

    /// Returns the CSR offsets of the bags: one more than there are bags.
    pub fn offsets(&self) -> &[I] {
        &self.offsets
    }

    /// Returns the factor of every index, if the bags have factors.
    pub fn per_sample_weights(&self) -> Option<&[f32]> {
        self.per_sample_weights.as_deref()
    }

    /// Returns the number of samples.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Returns the number of bags of each sample; 0 for an empty batch.
    pub fn num_features(&self) -> usize {
        (self.offsets.len() - 1).checked_div(self.batch_size).unwrap_or(0)
    }
}

/// Checks that `offsets` start at 0, never decrease and end at `num_indices`.
///
/// # Errors
/// Returns [`Error::InvalidOffsets`] with the first entry that breaks a rule, and
/// [`Error::InvalidArgument`] for no offsets at all.
pub fn check_offsets<I: Index>(offsets: &[I], num_indices: usize) -> Result<()> {
    check_offsets_of("check_offsets", offsets, num_indices)
}

/// Does what [`check_offsets`] does. The error names `op`.
pub(crate) fn check_offsets_of<I: Index>(
    op: &'static str,
    offsets: &[I],
    num_indices: usize,
) -> Result<()> {
    let fault = |position: usize, rule| Error::InvalidOffsets {
        op,
        position,
        value: offsets[position].to_i64(),
        rule,
    };
    let Some(first) = offsets.first() else {
        return Err(invalid(op, "offsets", "0, but even without bags there is one offset, a 0"));
    };
    if first.to_i64() != 0 {
        return Err(fault(0, OffsetRule::FirstIsZero));
    }
    if let Some(k) = offsets.windows(2).position(|pair| pair[1] < pair[0]) {
        return Err(fault(k + 1, OffsetRule::NotBelow(offsets[k].to_i64())));
    }
    let last = offsets.len() - 1;
    if offsets[last].to_row() != Some(num_indices) {
        return Err(fault(last, OffsetRule::LastIs(num_indices)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_named() {
        let message = |offsets: Vec<i64>| {
            Jagged::from_offsets(vec![0_i64; 3], offsets, 1).unwrap_err().to_string()
        };
        assert_eq!(
            message(vec![1, 3]),
            "Jagged: offsets[0] is 1, but must be 0 (the first bag starts at the first index)"
        );
        assert_eq!(
            message(vec![0, 2, 1, 3]),
            "Jagged: offsets[2] is 1, but must be at least 2, the offset before it"
        );
        assert_eq!(
            message(vec![0, 2]),
            "Jagged: offsets[1] is 2, but must be 3, the number of indices"
        );
        assert!(message(vec![]).contains("there is one offset"));
        let uneven = Jagged::from_offsets(vec![0_i32; 3], vec![0, 1, 2, 3], 2).unwrap_err();
        assert!(
            uneven.to_string().contains("3 bags are no multiple of the batch size 2"),
            "{uneven}"
        );
        let negative = Jagged::from_lengths(vec![0_i32; 3], &[2, -1, 2], 1).unwrap_err();
        assert_eq!(
            negative.to_string(),
            "Jagged: offsets[1] is -1, but must be a length of 0 or more"
        );
        let sum = Jagged::from_lengths(vec![0_i64; 5], &[3_u32, 1], 1).unwrap_err();
        assert!(sum.to_string().contains("they add up to 4, but there are 5 ids"), "{sum}");
        let weights = Jagged::from_lengths(vec![0_i32; 3], &[3], 1)
            .unwrap()
            .with_per_sample_weights(vec![1.0]);
        assert_eq!(
            weights.unwrap_err().to_string(),
            "Jagged: per_sample_weights is 1, but must be 3"
        );
    }

    #[test]
    fn empty_batches_are_batches() {
        let empty = Jagged::<i64>::from_offsets(vec![], vec![0], 0).unwrap();
        assert_eq!((empty.batch_size(), empty.num_features()), (0, 0));
    }
}
