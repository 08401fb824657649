//! Sets of bytes of a memory, one bit for each byte.

/// A set of bytes: the bytes that have been written, or the bytes that a copy will write.
#[derive(Clone, Debug, Default)]
pub(crate) struct ByteSet {
    bits: Vec<u8>,
}

impl ByteSet {
    pub(crate) fn new(bytes: usize) -> Self {
        // The slack of eight bytes lets a window of 64 bits be read anywhere.
        Self { bits: vec![0; bytes / 8 + 9] }
    }

    /// Makes this an empty set for a memory of `bytes` bytes.
    pub(crate) fn reset(&mut self, bytes: usize) {
        self.bits.clear();
        self.bits.resize(bytes / 8 + 9, 0);
    }

    /// Returns the 64 bits around byte `at`, which is in the first eight of them.
    fn window(&self, at: usize) -> u64 {
        let start = at / 8;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bits[start..start + 8]);
        u64::from_le_bytes(bytes)
    }

    /// Returns whether all of up to 32 bytes are in the set.
    pub(crate) fn all(&self, at: usize, bytes: usize) -> bool {
        let wanted = ((1u64 << bytes) - 1) << (at % 8);
        self.window(at) & wanted == wanted
    }

    /// Returns whether any of up to 32 bytes is in the set.
    pub(crate) fn any(&self, at: usize, bytes: usize) -> bool {
        let wanted = ((1u64 << bytes) - 1) << (at % 8);
        self.window(at) & wanted != 0
    }

    /// Returns whether all of any number of bytes are in the set.
    pub(crate) fn all_of(&self, at: usize, bytes: usize) -> bool {
        (0..bytes).step_by(32).all(|done| self.all(at + done, (bytes - done).min(32)))
    }

    /// Adds bytes to the set, or removes them.
    pub(crate) fn set(&mut self, at: usize, bytes: usize, value: bool) {
        if bytes <= 32 {
            let wanted = ((1u64 << bytes) - 1) << (at % 8);
            let window = self.window(at);
            let window = if value { window | wanted } else { window & !wanted };
            self.bits[at / 8..at / 8 + 8].copy_from_slice(&window.to_le_bytes());
            return;
        }
        let (mut at, end) = (at, at + bytes);
        while at % 8 != 0 && at < end {
            self.set(at, 1, value);
            at += 1;
        }
        let whole = (end - at) / 8;
        self.bits[at / 8..at / 8 + whole].fill(if value { 255 } else { 0 });
        at += 8 * whole;
        if at < end {
            self.set(at, end - at, value);
        }
    }

    /// Returns whether a byte is in the set.
    pub(crate) fn get(&self, at: usize) -> bool {
        self.bits[at / 8] >> (at % 8) & 1 == 1
    }
}
