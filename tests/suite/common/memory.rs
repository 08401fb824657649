//! Host values and their counterparts on a device. What an op has no business to touch is poisoned.

use bagdot::ops::{Device, Extent, Matrix, MatrixMut};
use bagdot::{Scalar, bf16, f16};

use super::tolerance::assert_same_bits;

/// A buffer with these values.
pub fn upload<B: Device, T: Scalar>(device: &B, values: &[T]) -> B::Buffer<T> {
    let mut buffer = device.alloc(values.len()).unwrap();
    device.upload(values, B::view_mut(&mut buffer)).unwrap();
    buffer
}

/// The values of a buffer.
pub fn download<B: Device, T: Scalar>(device: &B, buffer: &B::Buffer<T>) -> Vec<T> {
    device.to_vec(buffer).unwrap()
}

/// The values of a view.
pub fn download_view<B: Device, T: Scalar>(device: &B, view: B::Slice<'_, T>) -> Vec<T> {
    let mut values = vec![T::default(); view.extent()];
    device.download(view, &mut values).unwrap();
    values
}

/// A value that no op computes.
pub trait Poison: Scalar {
    const POISON: Self;
}
impl Poison for f32 {
    /// A NaN with a payload, so that bits tell it from others.
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

/// `len` poisoned values.
pub fn poisoned<T: Poison>(len: usize) -> Vec<T> {
    vec![T::POISON; len]
}

/// A row-major matrix whose rows are `ld` apart. What lies between and behind them is poison.
#[derive(Clone)]
pub struct Grid<T> {
    pub rows: usize,
    pub cols: usize,
    pub ld: usize,
    pub data: Vec<T>,
}

impl<T: Poison> Grid<T> {
    /// All poison, with `gap` elements behind each row, and some more behind the last one.
    pub fn poisoned(rows: usize, cols: usize, gap: usize) -> Self {
        let ld = cols + gap;
        Self { rows, cols, ld, data: poisoned(rows * ld + 2 * gap) }
    }

    /// With these values, row after row.
    pub fn new(rows: usize, cols: usize, gap: usize, values: &[T]) -> Self {
        assert_eq!(values.len(), rows * cols);
        let mut grid = Self::poisoned(rows, cols, gap);
        for (k, value) in values.iter().enumerate() {
            grid.data[k / cols * grid.ld + k % cols] = *value;
        }
        grid
    }

    pub fn upload<B: Device>(&self, device: &B) -> B::Buffer<T> {
        upload(device, &self.data)
    }

    pub fn view<'a, B: Device>(&self, buffer: &'a B::Buffer<T>) -> Matrix<'a, B, T> {
        Matrix { data: B::view(buffer), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    pub fn view_mut<'a, B: Device>(&self, buffer: &'a mut B::Buffer<T>) -> MatrixMut<'a, B, T> {
        MatrixMut { data: B::view_mut(buffer), rows: self.rows, cols: self.cols, ld: self.ld }
    }

    /// The values row after row, after a check that the poison around them is still there.
    #[track_caller]
    pub fn download<B: Device>(&self, device: &B, buffer: &B::Buffer<T>) -> Vec<T> {
        let data = download(device, buffer);
        let inside = |k: usize| self.ld > 0 && k % self.ld < self.cols && k / self.ld < self.rows;
        let around: Vec<T> = (0..data.len()).filter(|&k| !inside(k)).map(|k| data[k]).collect();
        assert_same_bits("the gaps between rows", &around, &poisoned(around.len()));
        (0..data.len()).filter(|&k| inside(k)).map(|k| data[k]).collect()
    }
}
