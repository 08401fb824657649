//! Buffers that are filled from beginning to end, one piece at a time, so that the host never holds
//! all values of a large buffer.

use std::ops::Range;

use crate::dtype::Scalar;
use crate::error::Result;
use crate::ops::{Device, Extent};
use crate::size::with_room;

/// The number of elements of a piece, large enough to amortise the cost of a transfer.
const LEN: usize = 1 << 20;

/// A buffer that is being filled.
pub(super) struct Pieces<'a, D: Device, E: Scalar> {
    device: &'a D,
    buffer: &'a mut D::Buffer<E>,
    /// The position in the buffer at which the piece begins.
    start: usize,
    /// The values that have not been sent.
    piece: Vec<E>,
}

impl<'a, D: Device, E: Scalar> Pieces<'a, D, E> {
    /// Begins to fill `buffer`.
    pub(super) fn of(device: &'a D, buffer: &'a mut D::Buffer<E>) -> Result<Self> {
        let piece = with_room(buffer.extent().min(LEN))?;
        Ok(Self { device, buffer, start: 0, piece })
    }

    /// Fills a range, which must begin no earlier than the one before ended. The elements between
    /// them become zeros.
    pub(super) fn fill(&mut self, range: Range<usize>, mut value: impl FnMut() -> E) -> Result<()> {
        for position in self.start + self.piece.len()..range.end {
            self.piece.push(if position < range.start { E::default() } else { value() });
            if self.piece.len() == LEN {
                self.send()?;
            }
        }
        Ok(())
    }

    /// Sends the last piece.
    pub(super) fn finish(mut self) -> Result<()> {
        self.send()
    }

    fn send(&mut self) -> Result<()> {
        let end = self.start + self.piece.len();
        self.device.upload(&self.piece, D::slice_mut(self.buffer, self.start..end))?;
        self.start = end;
        self.piece.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cpu;

    #[test]
    fn pieces_follow_each_other() {
        let cpu = Cpu::on_current_thread();
        let mut buffer = cpu.alloc::<u32>(3 * LEN + 7).unwrap();
        let mut next = 0;
        let mut count = || {
            next += 1;
            next
        };
        let mut pieces = Pieces::of(&cpu, &mut buffer).unwrap();
        // Across two ends of pieces, over a gap, and up to an end.
        for range in [0..5, 5..2 * LEN + 3, 2 * LEN + 10..3 * LEN, 3 * LEN..3 * LEN + 6] {
            pieces.fill(range, &mut count).unwrap();
        }
        pieces.finish().unwrap();
        let expected = |k: usize| match k {
            _ if k < 2 * LEN + 3 => k + 1,
            _ if k < 2 * LEN + 10 || k == 3 * LEN + 6 => 0,
            _ => k + 1 - 7,
        };
        assert!(buffer.iter().enumerate().all(|(k, &value)| value as usize == expected(k)));
    }
}
