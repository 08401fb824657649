//! Hashes of texts, and words: short texts packed into integers.
//!
//! A *word* is a text of at most 8 ASCII characters as one `u64`. Comparing two words takes one
//! instruction, so that most lookups touch no text.

use crate::simd::{LANES, Lanes, Loop};

/// Returns the hash of a text, which is the same on every machine and in every version: 64-bit
/// FNV-1a over its bytes, then the finaliser of splitmix64, which mixes the low bits.
///
/// ```
/// use bagdot::data::hash64;
/// assert_eq!(hash64(b""), 0xf52a_15e9_a9b5_e89b);
/// assert_ne!(hash64(b"a") % 1000, hash64(b"b") % 1000);
/// ```
#[inline]
pub fn hash64(text: &[u8]) -> u64 {
    mix(text.iter().fold(FNV_START, |hash, &byte| fnv(hash, byte)))
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

#[inline(always)]
fn fnv(hash: u64, byte: u8) -> u64 {
    (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
}

/// Applies the finaliser of splitmix64 without its increment, so that 0 stays 0.
#[inline]
pub(crate) fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

/// The word of the empty text.
pub(crate) const EMPTY: u64 = 0x80 << 56;

/// The mark of a text that has no word. It is no text's word.
pub(crate) const LONG: u64 = u64::MAX;

/// Returns the word of a text; `None` if the text is longer than 8 bytes or not ASCII.
#[inline]
pub(crate) fn word_of(text: &[u8]) -> Option<u64> {
    let mut bytes = [0; 8];
    match text.try_into() {
        Ok(all) => bytes = all,
        Err(_) => bytes.get_mut(..text.len())?.copy_from_slice(text),
    }
    word_of_bytes(u64::from_le_bytes(bytes), text.len())
}

/// Returns the [`word_of`] a text of `length` bytes, which are the lowest bytes of `bytes`. All
/// other bytes are 0.
#[inline]
pub(crate) fn word_of_bytes(bytes: u64, length: usize) -> Option<u64> {
    const NOT_ASCII: u64 = 0x8080_8080_8080_8080;
    // The last byte of a shorter text's word holds the length and a high bit, which no ASCII text
    // of 8 bytes has. This tells `a` from `a\0`.
    let mark = if length == 8 { 0 } else { EMPTY | (length as u64) << 56 };
    (bytes & NOT_ASCII == 0).then_some(bytes | mark)
}

/// Returns the text of a word; `None` if no text has this word.
pub(crate) fn text_of_word(word: u64) -> Option<String> {
    let bytes = word.to_le_bytes();
    // Words are ASCII.
    let text = std::str::from_utf8(bytes.get(..length_of_word(word) as usize)?).ok()?;
    Some(text.to_owned())
}

/// Returns the length of a word's text in bytes.
#[inline(always)]
pub(crate) fn length_of_word(word: u64) -> u32 {
    if word < EMPTY { 8 } else { (word >> 56) as u32 & 0x7f }
}

/// A loop that computes the [`hash64`] of each word's text. The hash of a value that is no word is
/// unspecified.
pub(crate) struct HashWords<'a> {
    pub(crate) words: &'a [u64],
    pub(crate) hashes: &'a mut [u64],
}

impl Loop for HashWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<V: Lanes>(self, _: V) {
        for (words, hashes) in self.words.chunks(LANES).zip(self.hashes.chunks_mut(LANES)) {
            let mut group = [EMPTY; LANES];
            group[..words.len()].copy_from_slice(words);
            hashes.copy_from_slice(&hashes_of(&group)[..words.len()]);
        }
    }
}

/// Computes the hashes side by side: the multiplications of different lanes are independent.
#[inline(always)]
fn hashes_of(words: &[u64; LANES]) -> [u64; LANES] {
    let mut hashes = [FNV_START; LANES];
    for byte in 0..8 {
        for (hash, &word) in hashes.iter_mut().zip(words) {
            let next = fnv(*hash, (word >> (8 * byte)) as u8);
            *hash = if byte < length_of_word(word) { next } else { *hash };
        }
    }
    for hash in &mut hashes {
        *hash = mix(*hash);
    }
    hashes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_is_fixed() {
        // FNV-1a of "foobar" is a published test vector; the finaliser is applied by hand.
        assert_eq!(hash64(b"foobar"), mix(0x85944171f73967e8));
        // The first output of splitmix64 with seed 0 is the finaliser of its increment.
        assert_eq!(mix(0x9e3779b97f4a7c15), 0xe220_a839_7b1d_cdaf);
    }
}
