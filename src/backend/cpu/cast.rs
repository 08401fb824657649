//! [`cast`](crate::ops::cast) on the CPU.

use super::Cpu;
use super::runtime::erased::{ByElement, with_elements};
use crate::dtype::{Element, bf16, f16};
use crate::error::Result;
use crate::ops::cast::{Cast, CastOps};
use crate::ops::{Matrix, MatrixMut};
use crate::simd::{LANES, Lanes, Loop};

/// The elements of a task: enough to be worth a fork.
const ELEMENTS_PER_TASK: usize = 1 << 16;

impl CastOps for Cpu {
    fn cast<A: Element, B: Element>(&self, args: Cast<'_, Self, A, B>) -> Result<()> {
        let Cast { factor, from, to } = args;
        cast(self, factor, ByElement::of(from), ByElement::of(to));
        Ok(())
    }
}

/// A matrix with elements of any type.
type AnyMatrix<'a> = ByElement<Matrix<'a, Cpu, f32>, Matrix<'a, Cpu, f16>, Matrix<'a, Cpu, bf16>>;

/// A matrix with elements of any type, for writing.
type AnyMatrixMut<'a> =
    ByElement<MatrixMut<'a, Cpu, f32>, MatrixMut<'a, Cpu, f16>, MatrixMut<'a, Cpu, bf16>>;

/// Restores both element types, and runs the op.
fn cast<'a>(cpu: &Cpu, factor: f32, from: AnyMatrix<'a>, to: AnyMatrixMut<'a>) {
    with_elements!(from => with_elements!(to => typed_cast(cpu, Cast { factor, from, to })));
}

fn typed_cast<A: Element, B: Element>(cpu: &Cpu, args: Cast<'_, Cpu, A, B>) {
    let Cast { factor, from, mut to } = args;
    let len = to.rows * to.cols;
    // To load an element from memory and to store one takes as long as several operations.
    let cpu = cpu.for_operations(8 * len);
    if from.ld == from.cols && to.ld == to.cols {
        cpu.for_each_chunk(&mut to.data[..len], ELEMENTS_PER_TASK, |k, to| {
            let from = &from.data[k * ELEMENTS_PER_TASK..][..to.len()];
            cpu.dispatch.run(Convert { factor, from, to });
        });
    } else {
        cpu.for_each_row(to, |row, to| {
            cpu.dispatch.run(Convert { factor, from: from.row(row), to })
        });
    }
}

/// Converts a run of elements.
pub(super) struct Convert<'a, A, B> {
    pub(super) factor: f32,
    pub(super) from: &'a [A],
    pub(super) to: &'a mut [B],
}

impl<A: Element, B: Element> Loop for Convert<'_, A, B> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, lanes: V) {
        let factor = lanes.splat(self.factor);
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        for (from, to) in from.iter().zip(to) {
            lanes.store(lanes.mul(lanes.load(from), factor), to);
        }
        lanes.store_part(lanes.mul(lanes.load_part(from_rest), factor), to_rest);
    }
}
