//! Memory that a thread keeps between ops, so that these need not allocate each time.

use std::cell::Cell;
use std::thread::LocalKey;

use bytemuck::{Pod, Zeroable, cast_slice_mut};

/// A cache line of values.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

thread_local! {
    /// The packed right factor of a product.
    pub(crate) static RIGHT_FACTOR: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// What a task has for itself.
    pub(crate) static TASK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

pub(crate) trait Scratch {
    /// Lends so many values, of any content, from a cache line on. While they are lent, others are
    /// made for who asks.
    fn lend<R>(&'static self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R;
}

impl Scratch for LocalKey<Cell<Vec<Line>>> {
    fn lend<R>(&'static self, len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
        let mut lines = self.take();
        let num_lines = len.div_ceil(16);
        if lines.len() < num_lines {
            lines.resize(num_lines, Line::zeroed());
        }
        let result = work(&mut cast_slice_mut::<Line, f32>(&mut lines)[..len]);
        self.set(lines);
        result
    }
}
