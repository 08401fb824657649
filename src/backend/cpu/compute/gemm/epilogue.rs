//! The epilogue: brings the sums of a tile to the output.

use super::microkernel::TileSums;
use super::product::Epilogue;
use crate::dtype::Element;
use crate::simd::{LANES, Lanes, Loop};

/// Stores a tile: columns `first_col..first_col + cols` of `rows` rows of the output, which are
/// `ld` elements apart.
pub(super) struct StoreTile<'a, O> {
    pub(super) sums: &'a TileSums,
    /// The output from the first row of the tile on.
    pub(super) out: &'a mut [O],
    pub(super) ld: usize,
    pub(super) rows: usize,
    pub(super) first_col: usize,
    pub(super) cols: usize,
    /// Set if the output holds the sums of the blocks of `k` before this one.
    pub(super) continues: bool,
    pub(super) epilogue: Epilogue<'a>,
}

impl<O: Element> Loop for StoreTile<'_, O> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(mut self, lanes: V) {
        match self.cols / LANES {
            2 => self.store_vectors::<V, 2>(lanes),
            1 => self.store_vectors::<V, 1>(lanes),
            _ => (),
        }
        if !self.cols.is_multiple_of(LANES) {
            self.store_tail(lanes);
        }
    }
}

impl<O: Element> StoreTile<'_, O> {
    /// Stores the columns that fill whole vectors.
    #[inline(always)]
    fn store_vectors<V: Lanes, const VECTORS: usize>(&mut self, lanes: V) {
        let Self { sums, ld, rows, first_col, continues, epilogue, .. } = *self;
        let add = continues || matches!(epilogue, Epilogue::Add);
        let (mut biases, mut relu) = (None, false);
        if let Epilogue::Bias { bias, relu: is_relu } = epilogue {
            let bias = &bias[first_col..].as_chunks::<LANES>().0[..VECTORS];
            let mut vectors = [lanes.splat(0.0); VECTORS];
            for v in 0..VECTORS {
                vectors[v] = lanes.load(&bias[v]);
            }
            (biases, relu) = (Some(vectors), is_relu);
        }
        for (sums, out) in sums.0.iter().zip(self.out.chunks_mut(ld.max(1))).take(rows) {
            let out = &mut out[first_col..].as_chunks_mut::<LANES>().0[..VECTORS];
            let sums = sums.as_chunks::<LANES>().0;
            for v in 0..VECTORS {
                let mut sum = lanes.load(&sums[v]);
                if add {
                    sum = lanes.add(lanes.load(&out[v]), sum);
                }
                if let Some(biases) = &biases {
                    sum = activate(lanes, lanes.add(sum, biases[v]), relu);
                }
                lanes.store(sum, &mut out[v]);
            }
        }
    }

    /// Stores the last columns, which fill part of a vector.
    #[inline(always)]
    fn store_tail<V: Lanes>(&mut self, lanes: V) {
        let Self { sums, ld, rows, first_col, cols, continues, epilogue, .. } = *self;
        let add = continues || matches!(epilogue, Epilogue::Add);
        let first = cols / LANES * LANES;
        for (sums, out) in sums.0.iter().zip(self.out.chunks_mut(ld.max(1))).take(rows) {
            let out = &mut out[first_col + first..first_col + cols];
            let mut sum = lanes.load_part(&sums[first..cols]);
            if add {
                sum = lanes.add(lanes.load_part(out), sum);
            }
            if let Epilogue::Bias { bias, relu } = epilogue {
                let bias = lanes.load_part(&bias[first_col + first..first_col + cols]);
                sum = activate(lanes, lanes.add(sum, bias), relu);
            }
            lanes.store_part(sum, out);
        }
    }
}

/// Applies ReLU if `relu`; a NaN stays one.
#[inline(always)]
fn activate<V: Lanes>(lanes: V, value: V::F32, relu: bool) -> V::F32 {
    if relu { lanes.max(lanes.splat(0.0), value) } else { value }
}
