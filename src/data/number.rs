//! Numbers in text.

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

#[cfg(test)]
mod tests {
    use super::*;

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
