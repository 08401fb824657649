//! The features of one sample, in whichever layout the batch has.

use std::ops::Range;

use super::super::Cpu;
use crate::dtype::Element;
use crate::ops::interaction::Features;
use crate::simd::prefetch_row;

/// The features of one sample.
#[derive(Clone, Copy)]
pub(crate) struct Sample<'a, E> {
    /// The first feature: the dense one, if there is one.
    pub(crate) head: &'a [E],
    /// The features that follow, side by side.
    pub(crate) tail: &'a [E],
    /// Set if the first feature is the dense one.
    pub(crate) has_dense: bool,
    /// The columns of a feature.
    pub(crate) dim: usize,
}

impl<'a, E: Element> Sample<'a, E> {
    /// Returns the features of a sample.
    pub(super) fn of(features: &Features<'a, Cpu, E>, sample: usize, dim: usize) -> Self {
        match features {
            Features::Joined { block, has_dense } => {
                let row = block.row(sample);
                let (head, tail) = row.split_at(dim.min(row.len()));
                Self { head, tail, has_dense: *has_dense, dim }
            }
            Features::Split { dense, sparse } => {
                Self { head: dense.row(sample), tail: sparse.row(sample), has_dense: true, dim }
            }
        }
    }

    /// Returns the number of features.
    #[inline(always)]
    pub(super) fn num_features(&self) -> usize {
        (self.head.len() + self.tail.len()) / self.dim
    }

    /// Returns feature `i`.
    #[inline(always)]
    pub(super) fn feature(&self, i: usize) -> &'a [E] {
        match i {
            0 => self.head,
            _ => &self.tail[(i - 1) * self.dim..][..self.dim],
        }
    }

    /// Prefetches some features.
    #[inline(always)]
    pub(super) fn prefetch(&self, features: Range<usize>) {
        for i in features {
            prefetch_row(self.feature(i), 0, self.dim);
        }
    }
}
