//! Parses and compares numbers in text.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::hash::length_of_word;

/// The largest magnitude of a number in a file: that of `f32`, the type that a model reads. Squares
/// of such numbers and their sums are finite in `f64`.
pub(crate) const MAX_NUMBER: f64 = f32::MAX as f64;

/// The reason for refusing a text that is no number.
pub(crate) const NOT_A_NUMBER: &str = "not a finite number of at most 3.4e38: correct it, leave it \
     empty to mark it missing, or name it in data.missing_values";

/// Returns the number that a text holds; `None` if there is none, or if it exceeds [`MAX_NUMBER`].
/// Spaces around it are ignored.
#[inline]
pub(crate) fn parse(text: &str) -> Option<f64> {
    if let Some(integer) = parse_integer(text.as_bytes()) {
        return Some(integer as f64);
    }
    text.trim_ascii().parse().ok().filter(|x: &f64| x.abs() <= MAX_NUMBER)
}

/// The notation of the numbers in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notation {
    /// The character between the whole and the fraction: `.` or `,`.
    pub(crate) decimal: char,
    /// The character between groups of digits, if there is one.
    pub(crate) thousands: Option<char>,
}

impl Notation {
    /// The notation of programming languages.
    pub(crate) const PLAIN: Self = Self { decimal: '.', thousands: None };

    /// Returns a number with a decimal point and without characters between digits, or `None` if
    /// the text is no number in this notation. Texts in the plain notation are not checked.
    ///
    /// Groups have two or three digits, the last one three: `1.5` is no number where the point
    /// stands between thousands, rather than 15.
    #[inline]
    pub(crate) fn plain(self, text: &str) -> Option<Cow<'_, str>> {
        if self == Self::PLAIN { Some(Cow::Borrowed(text)) } else { self.converted(text) }
    }

    /// Turns a number with a decimal point into one of this notation.
    pub(crate) fn write(self, number: &mut String) {
        if self.decimal != '.' {
            *number = number.replace('.', &self.decimal.to_string());
        }
    }

    fn converted(self, text: &str) -> Option<Cow<'_, str>> {
        let text = text.trim_ascii();
        let digits = text.trim_start_matches(['-', '+']);
        let sign = &text[..text.len() - digits.len()];
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let end = digits.find(['e', 'E']).unwrap_or(digits.len());
        let (mantissa, exponent) = digits.split_at(end);
        let (whole, fraction) = match mantissa.split_once(self.decimal) {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (mantissa, None),
        };
        if !fraction.is_none_or(is_number) || exponent.contains(',') {
            return None;
        }
        let mut plain = sign.to_owned();
        match self.thousands.filter(|&separator| whole.contains(separator)) {
            Some(separator) => {
                let groups: Vec<&str> = whole.split(separator).collect();
                for (k, group) in groups.iter().enumerate() {
                    let is_right = match group.len() {
                        3 => true,
                        2 => k + 1 < groups.len(),
                        1 => k == 0,
                        _ => false,
                    };
                    if !is_right || !is_number(group) {
                        return None;
                    }
                    plain += group;
                }
            }
            None if is_number(whole) => plain += whole,
            None => return None,
        }
        if let Some(fraction) = fraction {
            plain.push('.');
            plain += fraction;
        }
        Some(Cow::Owned(plain + exponent))
    }
}

/// Parses the common case, an integer of at most 15 digits, which `f64` holds exactly.
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

/// Returns the integer in a text that is given as its [`word_of`](super::hash::word_of), if the
/// text has digits only.
#[inline]
pub(crate) fn parse_word(word: u64) -> Option<u32> {
    const ALL: u64 = 0x0101_0101_0101_0101;
    let length = length_of_word(word);
    // The values of the digits, preceded by zeros; the first digit is the lowest byte.
    let digits = (word ^ (ALL * u64::from(b'0'))).checked_shl(8 * (8 - length))?;
    if (digits + ALL * (0x80 - 10)) & (ALL * 0x80) != 0 {
        return None;
    }
    // Combine two, four and eight digits at a time.
    let pairs = digits * 10 + (digits >> 8);
    let low = (pairs & 0xff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let high = ((pairs >> 16) & 0xff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    Some((low.wrapping_add(high) >> 32) as u32)
}

/// Compares the numbers of two texts as decimals, exactly at any size: `f64` would confuse
/// neighbouring integers beyond 2^53. Returns `None` if one of the texts holds no number.
pub(crate) fn compare(left: &str, right: &str) -> Option<Ordering> {
    let (x, y) = (parse(left)?, parse(right)?);
    let is_exact = |text: &str| parse_integer(text.as_bytes()).is_some();
    match x.partial_cmp(&y)? {
        // Rounding to f64 is monotonic: only numbers that are equal in f64 can be different
        // decimals.
        Ordering::Equal if !(is_exact(left) && is_exact(right)) => {
            Some(Decimal::of(left).compare(&Decimal::of(right)))
        }
        order => Some(order),
    }
}

/// Rounds the number of a text down to a multiple of `bucket`, which is above 0. Returns `None` if
/// the text holds no number.
///
/// The result is exact if both numbers are integers times the same power of ten within `i128`; in
/// `f64`, 0.3 / 0.1 is less than 3, and integers beyond 2^53 are rounded. Otherwise the result is
/// rounded to `f64`.
pub(crate) fn bucket(text: &str, bucket: f64) -> Option<String> {
    let number = parse(text)?;
    // Adding 0 turns -0 into 0.
    let rounded = || ((number / bucket).floor() * bucket + 0.0).to_string();
    Some(
        bucket_exactly(Decimal::of(text), Decimal::of(&bucket.to_string())).unwrap_or_else(rounded),
    )
}

fn bucket_exactly(number: Decimal<'_>, bucket: Decimal<'_>) -> Option<String> {
    let decimals = number.decimals().max(bucket.decimals());
    let (number, bucket) = (number.times_ten_to_the(decimals)?, bucket.times_ten_to_the(decimals)?);
    let multiple = number.checked_div_euclid(bucket)?.checked_mul(bucket)?;
    let (sign, digits) = (if multiple < 0 { "-" } else { "" }, multiple.unsigned_abs().to_string());
    let digits = format!("{digits:0>width$}", width = decimals as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals as usize);
    let fraction = fraction.trim_end_matches('0');
    Some(format!("{sign}{whole}{}{fraction}", if fraction.is_empty() { "" } else { "." }))
}

/// The decimal in the text of a number: `±0.d₁d₂d₃… · 10^point`, where `d₁` is not 0 unless all
/// digits are.
#[derive(Clone, Copy, Debug)]
struct Decimal<'a> {
    negative: bool,
    point: i64,
    whole: &'a [u8],
    fraction: &'a [u8],
}

impl<'a> Decimal<'a> {
    /// Splits the text of a number that [`parse`] has accepted.
    fn of(text: &'a str) -> Self {
        let text = text.trim_ascii();
        let (negative, text) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let (digits, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        // With an exponent beyond i64 a number is 0, or has been refused.
        let exponent = exponent.parse().unwrap_or(i64::MIN / 2).clamp(i64::MIN / 2, i64::MAX / 2);
        let (mut whole, mut fraction) = (whole.as_bytes(), fraction.as_bytes());
        let mut point = exponent.saturating_add(whole.len() as i64);
        while let [b'0', rest @ ..] = whole {
            (whole, point) = (rest, point - 1);
        }
        if whole.is_empty() {
            while let [b'0', rest @ ..] = fraction {
                (fraction, point) = (rest, point - 1);
            }
        }
        Self { negative, point, whole, fraction }
    }

    /// Returns the digits from the first nonzero one on.
    fn digits(&self) -> impl Iterator<Item = u8> {
        self.whole.iter().chain(self.fraction).map(|digit| digit - b'0')
    }

    fn len(&self) -> usize {
        self.whole.len() + self.fraction.len()
    }

    /// Returns the number of digits after the decimal point, at most 99.
    fn decimals(&self) -> u32 {
        (self.len() as i64).saturating_sub(self.point).clamp(0, 99) as u32
    }

    /// Returns `self · 10^power` if it is an integer within `i128`.
    fn times_ten_to_the(&self, power: u32) -> Option<i128> {
        let digits = self
            .digits()
            .try_fold(0_i128, |number, digit| number.checked_mul(10)?.checked_add(digit.into()))?;
        let zeros = self.point.checked_add(i64::from(power))?.checked_sub(self.len() as i64)?;
        let magnitude = digits.checked_mul(10_i128.checked_pow(u32::try_from(zeros).ok()?)?)?;
        Some(if self.negative { -magnitude } else { magnitude })
    }

    fn is_zero(&self) -> bool {
        self.whole.is_empty() && self.fraction.is_empty()
    }

    fn compare(&self, other: &Self) -> Ordering {
        let sign = |decimal: &Self| match (decimal.is_zero(), decimal.negative) {
            (true, _) => 0,
            (_, true) => -1,
            (_, false) => 1,
        };
        let magnitude = || {
            let len = self.len().max(other.len());
            let padded = |decimal: Self| {
                decimal.digits().chain(std::iter::repeat(0)).take(len).collect::<Vec<u8>>()
            };
            self.point.cmp(&other.point).then_with(|| padded(*self).cmp(&padded(*other)))
        };
        match (sign(self), sign(other)) {
            (1, 1) => magnitude(),
            (-1, -1) => magnitude().reverse(),
            (left, right) => left.cmp(&right),
        }
    }
}

/// A time by which rows are split. It orders numbers as decimals of up to 33 digits, so that
/// nanoseconds since 1970 keep their order, which they would lose as `f64`.
///
/// The lower 110 bits hold the digits, the bits above them the order of magnitude. A negative
/// number is the negation of its magnitude.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(i128);

impl Time {
    const DIGITS: usize = 33;
    const DIGIT_BITS: u32 = 110;
    /// Numbers below 10^-400 count as 0.
    const MIN_POINT: i64 = -400;

    /// Returns the time in a text, if it is a number.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        parse(text)?;
        let decimal = Decimal::of(text);
        if decimal.is_zero() || decimal.point < Self::MIN_POINT {
            return Some(Self(0));
        }
        let digits = decimal.digits().chain(std::iter::repeat(0)).take(Self::DIGITS);
        let digits = digits.fold(0, |number, digit| 10 * number + i128::from(digit));
        let magnitude =
            i128::from(decimal.point - Self::MIN_POINT + 1) << Self::DIGIT_BITS | digits;
        Some(Self(if decimal.negative { -magnitude } else { magnitude }))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        if magnitude == 0 {
            return f.write_str("0");
        }
        let digits = (magnitude & ((1 << Self::DIGIT_BITS) - 1)).to_string();
        let exponent = (magnitude >> Self::DIGIT_BITS) as i64 - 1 + Self::MIN_POINT - 1;
        let sign = if self.0 < 0 { "-" } else { "" };
        let (first, rest) = digits.split_at(1);
        write!(f, "{sign}{first}.{:0<1}e{exponent}", rest.trim_end_matches('0'))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    /// Reads the output of [`Self::serialize`], or the number that earlier versions stored.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a time")]
        enum Stored {
            Text(String),
            Number(f64),
        }
        let text = match Stored::deserialize(deserializer)? {
            Stored::Text(text) => text,
            Stored::Number(number) => format!("{number:e}"),
        };
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no time")))
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::{EMPTY, word_of};
    use super::*;

    #[test]
    fn numbers_in_other_notations() {
        let notation = |decimal, thousands| Notation { decimal, thousands };
        let (comma, german) = (notation(',', None), notation(',', Some('.')));
        let (english, blank) = (notation('.', Some(',')), notation(',', Some('\u{202f}')));
        for (notation, text, expected) in [
            (Notation::PLAIN, "1.5", Some(1.5)),
            (Notation::PLAIN, "1,5", None),
            (comma, "1,5", Some(1.5)),
            (comma, " -0,25e2 ", Some(-25.0)),
            (comma, ",5", Some(0.5)),
            (comma, "7", Some(7.0)),
            (comma, "1.5", None),
            (comma, "1,5,0", None),
            (comma, "", None),
            (comma, "x", None),
            (german, "1.234.567,5", Some(1_234_567.5)),
            (german, "1234,5", Some(1234.5)),
            (german, "1.5", None),
            (german, "1.23", None),
            (german, "1234.567", None),
            (german, ".123", None),
            (german, "1..234", None),
            (english, "12,34,567.25", Some(1_234_567.25)),
            (english, "1,234", Some(1234.0)),
            (english, "1,5", None),
            (blank, "1\u{202f}234,5", Some(1234.5)),
        ] {
            let plain = notation.plain(text);
            assert_eq!(plain.and_then(|text| parse(&text)), expected, "{notation:?} {text}");
        }
    }

    #[test]
    fn words_are_the_integers_of_their_texts() {
        let counts = (0..1100).chain(
            (1..8).flat_map(|k| [10u32.pow(k) - 1, 10u32.pow(k), 87_654_321 / 10u32.pow(k)]),
        );
        for text in counts.map(|count| count.to_string()).chain([
            "007".into(),
            "00000000".into(),
            "99999999".into(),
        ]) {
            assert_eq!(
                word_of(text.as_bytes()).and_then(parse_word).map(i64::from),
                parse_integer(text.as_bytes())
            );
        }
        // All ASCII characters, including the neighbours of digits, in each position.
        for length in 1..=8 {
            for (place, byte) in
                (0..length).flat_map(|place| (0..0x80).map(move |byte| (place, byte)))
            {
                let mut text = [b'5'; 8];
                text[place] = byte;
                let expected =
                    byte.is_ascii_digit().then(|| parse_integer(&text[..length])).flatten();
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

    /// Texts of numbers in increasing order; the texts of a line are equal. Many neighbours are
    /// equal in `f64`.
    const ORDERED: &[&[&str]] = &[
        &["-3.4e38"],
        &["-9007199254740993", "-9007199254740993.0"],
        &["-9007199254740992", " -9.007199254740992e15 "],
        &["-1", "-1.0", "-0.1e1"],
        &["-1e-320"],
        &["0", "-0", "0.0", "00", "0e9", "-.0", "0."],
        &["4.9e-324"],
        &["0.1", ".1", "1e-1", "0.10"],
        &["0.1000000000000000000001"],
        &["1", "+1", "001", "1.", "10e-1"],
        &["1700000000.123456788"],
        &["1700000000.123456789", "1700000000123456789e-9"],
        &["9007199254740992", "9007199254740992.0", "9007199254740992.000"],
        &["9007199254740993", "09007199254740993", "9007199254740.993E3"],
        &["18446744073709551615"],
        &["18446744073709551616"],
        &["123456789012345678901234567890123"],
        &["123456789012345678901234567890124"],
        &["3.4e38", "340000000000000000000000000000000000000"],
    ];

    #[test]
    fn decimals_are_compared_as_they_are_written() {
        let all = || {
            ORDERED
                .iter()
                .enumerate()
                .flat_map(|(rank, texts)| texts.iter().map(move |&text| (rank, text)))
        };
        for ((i, left), (j, right)) in all().flat_map(|left| all().map(move |right| (left, right)))
        {
            assert_eq!(compare(left, right), Some(i.cmp(&j)), "{left} {right}");
            let (left, right) = (Time::parse(left).unwrap(), Time::parse(right).unwrap());
            // A time has 33 digits, and numbers below 10^-400 count as 0.
            assert_eq!(left.cmp(&right), i.cmp(&j), "{left} {right}");
        }
        for text in ["", "nan", "NA", "-", "inf", "1e39", "1,5"] {
            assert_eq!(
                (compare(text, "1"), compare("1", text), Time::parse(text)),
                (None, None, None),
                "{text}"
            );
        }
        // `compare` goes beyond the digits of a time.
        let long =
            ["340000000000000000000000000000000000001", "340000000000000000000000000000000000002"];
        assert_eq!(compare(long[0], long[1]), Some(Ordering::Less));
        assert_eq!(compare("1e-99999999999999999999", "0"), Some(Ordering::Greater));
    }

    #[test]
    fn buckets_are_exact() {
        for (text, size, expected) in [
            ("1995", 10.0, "1990"),
            ("-1", 10.0, "-10"),
            ("-1.2", 0.5, "-1.5"),
            ("-0", 0.5, "0"),
            ("0.3", 0.1, "0.3"),
            ("0.35", 0.1, "0.3"),
            ("-0.3", 0.1, "-0.3"),
            ("9007199254740993", 1.0, "9007199254740993"),
            ("1700000000123456789", 1000.0, "1700000000123456000"),
            ("0.05", 0.25, "0"),
            ("7", 2.5e-1, "7"),
            ("12e2", 7.0, "1197"),
            // This number has too many digits for an exact result.
            ("1e38", 1e-30, "100000000000000000000000000000000000000"),
        ] {
            assert_eq!(bucket(text, size).as_deref(), Some(expected), "{text} / {size}");
        }
        assert_eq!((bucket("NA", 1.0), bucket("", 1.0)), (None, None));
    }

    #[test]
    fn times_are_stored_as_text_and_were_as_numbers() {
        for text in ORDERED.iter().map(|texts| texts[0]).chain(["1e300000", "0.000", "-5e-399"]) {
            let Some(time) = Time::parse(text) else { continue };
            let json = serde_json::to_string(&time).unwrap();
            assert_eq!(serde_json::from_str::<Time>(&json).unwrap(), time, "{text} {json}");
        }
        assert_eq!(
            serde_json::to_string(&Time::parse("-1700000000123456789").unwrap()).unwrap(),
            "\"-1.700000000123456789e18\""
        );
        for number in ["964982703", "964982703.0", "-0.5", "1e18", "0", "0.1"] {
            assert_eq!(serde_json::from_str::<Time>(number).unwrap(), Time::parse(number).unwrap());
        }
        assert!(
            serde_json::from_str::<Time>("\"noon\"")
                .unwrap_err()
                .to_string()
                .contains("\"noon\" is no time")
        );
    }
}
