//! Numbers in text.

use super::dictionary::length_of_word;

/// The largest magnitude that a number in a file may have: that of `f32`, which is what a model reads. Squares of such numbers and
/// their sums are finite in `f64`.
pub(crate) const MAX_NUMBER: f64 = f32::MAX as f64;

/// Why a text is no number that a column can hold.
pub(crate) const NOT_A_NUMBER: &str =
    "not a finite number of at most 3.4e38: correct it, or leave it empty to mark it missing";

/// The number that a text holds, if it is one of at most [`MAX_NUMBER`]. Spaces around it do not matter.
#[inline]
pub(crate) fn parse(text: &str) -> Option<f64> {
    if let Some(integer) = parse_integer(text.as_bytes()) {
        return Some(integer as f64);
    }
    text.trim_ascii().parse().ok().filter(|x: &f64| x.abs() <= MAX_NUMBER)
}

/// The common case: an integer of so few digits that it is exact.
#[inline]
pub(crate) fn parse_integer(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || digits.len() > 15 {
        return None;
    }
    let mut value = 0;
    for &digit in digits {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + i64::from(digit - b'0');
    }
    Some(if negative { -value } else { value })
}

/// The integer that a text holds, of which there is the [`word_of`](super::dictionary::word_of), if it has nothing but digits.
#[inline]
pub(crate) fn parse_word(word: u64) -> Option<u32> {
    const ALL: u64 = 0x0101_0101_0101_0101;
    let length = length_of_word(word);
    // The digits' values, with zeros before them; the first one is the lowest byte.
    let digits = (word ^ (ALL * u64::from(b'0'))).checked_shl(8 * (8 - length))?;
    if (digits + ALL * (0x80 - 10)) & (ALL * 0x80) != 0 {
        return None;
    }
    // Two, four and eight at a time.
    let pairs = digits * 10 + (digits >> 8);
    let low = (pairs & 0xff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & 0xff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    Some((low.wrapping_add(high) >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::super::dictionary::{EMPTY, word_of};
    use super::*;

    #[test]
    fn words_are_the_integers_of_their_texts() {
        let counts = (0..1100).chain((1..8).flat_map(|k| [10u32.pow(k) - 1, 10u32.pow(k), 87_654_321 / 10u32.pow(k)]));
        for text in counts.map(|count| count.to_string()).chain(["007".into(), "00000000".into(), "99999999".into()]) {
            assert_eq!(word_of(text.as_bytes()).and_then(parse_word).map(i64::from), parse_integer(text.as_bytes()));
        }
        // Neighbours of digits, in each place.
        for length in 1..=8 {
            for (place, byte) in (0..length).flat_map(|place| (0..0x80).map(move |byte| (place, byte))) {
                let mut text = [b'5'; 8];
                text[place] = byte;
                let expected = byte.is_ascii_digit().then(|| parse_integer(&text[..length])).flatten();
                let got = word_of(&text[..length]).and_then(parse_word).map(i64::from);
                assert_eq!(got, expected, "{:?}", &text[..length]);
            }
        }
        assert_eq!(parse_word(EMPTY), None);
    }

    #[test]
    fn numbers_are_finite() {
        for (text, number) in [
            ("0", 0.0),
            ("-17", -17.0),
            (" 4.5 ", 4.5),
            ("123456789012345", 123456789012345.0),
            ("1234567890123456789", 1.2345678901234568e18),
            ("-1e-3", -0.001),
            ("+2", 2.0),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in ["", "-", "NaN", "inf", "-infinity", "1e39", "0x10", "1,5", "12a", "--1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
