//! Memory that each thread keeps between ops, so that ops need not allocate.

use std::cell::Cell;
use std::thread::LocalKey;

use bytemuck::{Pod, Zeroable, cast_slice_mut};

/// A cache line of values.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Line([f32; 16]);

thread_local! {
    /// The packed operand B of a matrix product, or of a part of it.
    pub(crate) static PACKED_B: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
    /// The scratch memory of a task.
    pub(crate) static TASK: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// A thread's memory, to be lent.
pub(crate) trait Scratch {
    /// Lends `len` values to `work`, with any contents, aligned to a cache line. A nested call on
    /// the same memory allocates other values.
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
