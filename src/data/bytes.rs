//! Operations on the eight bytes of a `u64` at once.

/// A word with 1 in every byte.
pub(crate) const ALL: u64 = 0x0101_0101_0101_0101;

/// Marks the zero bytes of a word by their highest bits.
#[inline(always)]
pub(crate) fn zeros(word: u64) -> u64 {
    const LOW: u64 = 0x7f * ALL;
    // No sum of a byte's low bits carries over to the next byte.
    !(((word & LOW) + LOW) | word | LOW)
}

/// Marks the bytes of a word that equal `byte` by their highest bits.
#[inline(always)]
pub(crate) fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ (ALL * u64::from(byte)))
}

/// Returns whether a byte is a blank or a tab. These are trimmed around a text.
#[inline(always)]
pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// Returns a text without the blanks and tabs around it.
#[inline]
pub(crate) fn trimmed(text: &str) -> &str {
    match text.as_bytes() {
        [first, .., last] if !is_blank(*first) && !is_blank(*last) => text,
        _ => text.trim_matches([' ', '\t']),
    }
}
