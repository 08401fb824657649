//! Transfers between host and device, and poison: values that mark memory that no op may touch.

use crate::ops::{Device, Matrix, MatrixMut, View};
use crate::{Scalar, bf16, f16};

use super::tolerance::assert_same_bits;

/// Returns a buffer with these values.
pub fn upload<B: Device, T: Scalar>(device: &B, values: &[T]) -> B::Buffer<T> {
    device.to_device(values).unwrap()
}

/// Returns the values of a buffer.
pub fn download<B: Device, T: Scalar>(device: &B, buffer: &B::Buffer<T>) -> Vec<T> {
    device.to_vec(buffer).unwrap()
}

/// Returns the values of a view.
pub fn download_view<B: Device, T: Scalar>(device: &B, view: View<'_, B, T>) -> Vec<T> {
    let mut values = vec![T::default(); view.len()];
    device.download(view, &mut values).unwrap();
    values
}

/// A type with a value that no op computes.
pub trait Poison: Scalar {
    /// The value.
    const POISON: Self;
}
impl Poison for f32 {
    /// A NaN with a payload, so that its bits differ from those of a computed NaN.
    const POISON: Self = f32::from_bits(0x7fc0_dead);
}
impl Poison for f64 {
    const POISON: Self = f64::from_bits(0x7ff8_0000_0000_dead);
}
impl Poison for f16 {
    const POISON: Self = f16::from_bits(0x7ead);
}
impl Poison for bf16 {
    const POISON: Self = bf16::from_bits(0x7fad);
}
impl Poison for u32 {
    const POISON: Self = 0xdead_beef;
}
impl Poison for u64 {
    const POISON: Self = 0xdead_beef_dead_beef;
}

/// Returns `len` poisoned values.
pub fn poisoned<T: Poison>(len: usize) -> Vec<T> {
    vec![T::POISON; len]
}

/// A row-major matrix on the host. The slack between its rows and behind the last one is poisoned.
#[derive(Clone)]
pub struct Grid<T> {
    /// The number of rows.
    pub rows: usize,
    /// The number of columns.
    pub cols: usize,
    /// The leading dimension: the distance of rows, in elements.
    pub ld: usize,
    /// The elements, slack included.
    pub data: Vec<T>,
}

impl<T: Poison> Grid<T> {
    /// Makes a matrix of poison, with `gap` elements of slack behind each row and `2 * gap` more
    /// behind the last one.
    pub fn poisoned(rows: usize, cols: usize, gap: usize) -> Self {
        let ld = cols + gap;
        Self { rows, cols, ld, data: poisoned(rows * ld + 2 * gap) }
    }

    /// Makes a matrix with these values, row after row, and slack as [`Self::poisoned`] has it.
    pub fn new(rows: usize, cols: usize, gap: usize, values: &[T]) -> Self {
        assert_eq!(values.len(), rows * cols);
        let mut grid = Self::poisoned(rows, cols, gap);
        for (k, value) in values.iter().enumerate() {
            grid.data[k / cols * grid.ld + k % cols] = *value;
        }
        grid
    }

    /// Uploads the matrix with its slack.
    pub fn upload<B: Device>(&self, device: &B) -> B::Buffer<T> {
        upload(device, &self.data)
    }

    /// Views an uploaded buffer as the matrix.
    pub fn view<'a, B: Device>(&self, buffer: &'a B::Buffer<T>) -> Matrix<'a, B, T> {
        Matrix { data: B::view(buffer), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// Views an uploaded buffer as the matrix, to be written.
    pub fn view_mut<'a, B: Device>(&self, buffer: &'a mut B::Buffer<T>) -> MatrixMut<'a, B, T> {
        MatrixMut { data: B::view_mut(buffer), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// Returns the values row after row. Fails unless the slack is still poisoned.
    #[track_caller]
    pub fn download<B: Device>(&self, device: &B, buffer: &B::Buffer<T>) -> Vec<T> {
        let data = download(device, buffer);
        let inside = |k: usize| self.ld > 0 && k % self.ld < self.cols && k / self.ld < self.rows;
        let around: Vec<T> = (0..data.len()).filter(|&k| !inside(k)).map(|k| data[k]).collect();
        assert_same_bits("the slack between rows", &around, &poisoned(around.len()));
        (0..data.len()).filter(|&k| inside(k)).map(|k| data[k]).collect()
    }
}
