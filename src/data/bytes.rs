//! Bytes, eight at a time.

/// One in every byte.
pub(crate) const ALL: u64 = 0x0101_0101_0101_0101;

/// The bytes of a word that are 0, marked by their highest bits.
#[inline(always)]
pub(crate) fn zeros(word: u64) -> u64 {
    const LOW: u64 = 0x7f * ALL;
    // No sum of a byte's low bits carries over to the next byte.
    !(((word & LOW) + LOW) | word | LOW)
}

/// The bytes of a word that equal `byte`, marked by their highest bits.
#[inline(always)]
pub(crate) fn equal(word: u64, byte: u8) -> u64 {
    zeros(word ^ (ALL * u64::from(byte)))
}

/// Checks whether a byte is a blank or a tab, which do not belong to a text that they surround.
#[inline(always)]
pub(crate) fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// A text without the blanks and tabs that surround it.
#[inline]
pub(crate) fn trimmed(text: &str) -> &str {
    match text.as_bytes() {
        [first, .., last] if !is_blank(*first) && !is_blank(*last) => text,
        _ => text.trim_matches([' ', '\t']),
    }
}
