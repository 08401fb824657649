//! Arithmetic on sizes from untrusted sources, which saturates at the largest number, and vectors
//! whose allocation can fail.
//!
//! An allocation of a saturated size fails, and so does the comparison of a buffer with it.

use crate::error::{Error, Result};

/// Multiplies all factors. Saturates at the largest number.
pub(crate) fn product<const N: usize>(factors: [usize; N]) -> usize {
    factors.into_iter().fold(1, usize::saturating_mul)
}

/// Adds all terms. Saturates at the largest number.
pub(crate) fn sum(terms: impl IntoIterator<Item = usize>) -> usize {
    terms.into_iter().fold(0, usize::saturating_add)
}

/// Rounds `size` up to a multiple of `of`, which is not 0. Saturates at the largest number.
pub(crate) fn next_multiple(size: usize, of: usize) -> usize {
    size.checked_next_multiple_of(of).unwrap_or(usize::MAX)
}

/// Allocates an empty vector with room for `len` values.
pub(crate) fn with_room<T>(len: usize) -> Result<Vec<T>> {
    let mut values = Vec::new();
    let bytes = product([len, size_of::<T>()]);
    values.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes })?;
    Ok(values)
}

/// Allocates a vector of `len` equal values.
pub(crate) fn filled<T: Clone>(len: usize, value: T) -> Result<Vec<T>> {
    let mut values = with_room(len)?;
    values.resize(len, value);
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_ends_at_the_largest_number() {
        const MAX: usize = usize::MAX;
        assert_eq!(
            [product([3, 5]), product([MAX, 2]), product([MAX, 2, 0]), product([])],
            [15, MAX, 0, 1]
        );
        assert_eq!([sum([3, 5]), sum([MAX, 2]), sum([])], [8, MAX, 0]);
        assert_eq!([next_multiple(9, 8), next_multiple(MAX, 8), next_multiple(0, 8)], [16, MAX, 0]);
    }

    #[test]
    fn vectors_can_be_refused() {
        assert_eq!(filled(3, 7u8), Ok(vec![7; 3]));
        assert_eq!(filled(usize::MAX, 7u32), Err(Error::OutOfMemory { bytes: usize::MAX }));
        assert_eq!(with_room::<u32>(1 << 60), Err(Error::OutOfMemory { bytes: 1 << 62 }));
    }
}
