//! Dates and times in text.

use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// A part of a date or time, which a derived column holds as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DatePart {
    /// The seconds since 1970 began in UTC. A text without an offset is taken as UTC.
    Seconds,
    /// The days from 1970-01-01 to the date as it is written.
    Days,
    /// The year.
    Year,
    /// The month, 1 to 12.
    Month,
    /// The day of the month, 1 to 31.
    Day,
    /// The day of the week, 1 for Monday to 7 for Sunday.
    Weekday,
    /// The hour as it is written, 0 to 23; 0 without a time.
    Hour,
}

/// The order of year, month and day in dates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DateOrder {
    /// The order of ISO 8601, as in 2024-01-31.
    #[default]
    YearMonthDay,
    /// The day first, as in 31.01.2024.
    DayMonthYear,
    /// The month first, as in 01/31/2024.
    MonthDayYear,
}

/// A date, with a time if there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date<'a> {
    year: i64,
    month: i64,
    day: i64,
    /// The time of day in seconds, and the digits of its fraction.
    second: i64,
    fraction: &'a str,
    /// The offset from UTC in seconds.
    offset: i64,
    pub(crate) has_time: bool,
}

impl<'a> Date<'a> {
    /// Reads a date: three numbers between `-`, `/` or `.`, the year with four digits; then, after
    /// `T` or blanks, a time of hours and minutes, with seconds, `AM` or `PM`, and an offset from
    /// UTC if they are there. Returns `None` for any other text, and for dates that do not exist.
    pub(crate) fn parse(text: &'a str, order: DateOrder) -> Option<Self> {
        static DATE: LazyLock<Option<Regex>> = LazyLock::new(|| {
            let date = r"(\d{1,4})[-/.](\d{1,2})[-/.](\d{1,4})";
            let clock = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d+))?)?(?: ?([AaPp])[Mm])?";
            let zone = r"(?: ?(?:Z|UTC|([+-])(\d{2}):?(\d{2})))?";
            Regex::new(&format!("^{date}(?:[T ]+{clock}{zone})?$")).ok()
        });
        let text = text.trim_matches([' ', '\t']);
        let is_possible = match text.as_bytes() {
            bytes @ [b'0'..=b'9', a, b, c, d, _, _, _, ..] if bytes.len() <= 48 => {
                [a, b, c, d].into_iter().any(|byte| matches!(byte, b'-' | b'/' | b'.'))
            }
            _ => false,
        };
        let groups = is_possible.then(|| DATE.as_ref()?.captures(text)).flatten()?;
        let group = |k| groups.get(k).map_or("", |group| group.as_str());
        let number = |k| group(k).parse::<i64>().unwrap_or(0);
        let [year, month, day] = match order {
            DateOrder::YearMonthDay => [1, 2, 3],
            DateOrder::DayMonthYear => [3, 2, 1],
            DateOrder::MonthDayYear => [3, 1, 2],
        };
        if group(year).len() != 4 || group(day).len() > 2 || group(month).len() > 2 {
            return None;
        }
        let (year, month, day) = (number(year), number(month), number(day));
        let [hour, minute, second] = [4, 5, 6].map(number);
        let hour = match (group(8), hour) {
            ("", 0..=23) => hour,
            ("a" | "A", 1..=12) => hour % 12,
            ("p" | "P", 1..=12) => hour % 12 + 12,
            _ => return None,
        };
        let days = days_of_month(year, month)?;
        // A minute may have a leap second.
        if !(1..=days).contains(&day) || minute > 59 || second > 60 {
            return None;
        }
        let offset = 3600 * number(10) + 60 * number(11);
        Some(Self {
            year,
            month,
            day,
            second: 3600 * hour + 60 * minute + second,
            fraction: groups.get(7).map_or("", |group| group.as_str()),
            offset: if group(9) == "-" { -offset } else { offset },
            has_time: groups.get(4).is_some(),
        })
    }

    /// Returns a part as the text of a number.
    pub(crate) fn part(self, part: DatePart) -> String {
        let days = self.days();
        let seconds = 86_400 * days + self.second - self.offset;
        match part {
            DatePart::Seconds if seconds >= 0 && !self.fraction.is_empty() => {
                format!("{seconds}.{}", self.fraction)
            }
            DatePart::Seconds => seconds.to_string(),
            DatePart::Days => days.to_string(),
            DatePart::Year => self.year.to_string(),
            DatePart::Month => self.month.to_string(),
            DatePart::Day => self.day.to_string(),
            // 1970 began on a Thursday.
            DatePart::Weekday => ((days + 3).rem_euclid(7) + 1).to_string(),
            DatePart::Hour => (self.second / 3600).min(23).to_string(),
        }
    }

    /// Returns the days since 1970-01-01 in the Gregorian calendar. Years begin with March here, so
    /// that the day of a leap year is the last one, and 400 years have 146,097 days.
    fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let month = (self.month + 9) % 12;
        let of_year = (153 * month + 2) / 5 + self.day - 1;
        365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
            - 719_468
    }
}

fn days_of_month(year: i64, month: i64) -> Option<i64> {
    let is_leap_year = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    Some(match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if is_leap_year => 29,
        2 => 28,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DatePart; 7] = [
        DatePart::Seconds,
        DatePart::Days,
        DatePart::Year,
        DatePart::Month,
        DatePart::Day,
        DatePart::Weekday,
        DatePart::Hour,
    ];

    fn parts(text: &str, order: DateOrder) -> Option<String> {
        let date = Date::parse(text, order)?;
        Some(ALL.map(|part| date.part(part)).join(" "))
    }

    /// The expected values are those of Python's `datetime`.
    #[test]
    fn parts_of_dates() {
        use DateOrder::{DayMonthYear, MonthDayYear, YearMonthDay};
        for (text, order, expected) in [
            ("1970-01-01", YearMonthDay, "0 0 1970 1 1 4 0"),
            ("2024-02-29", YearMonthDay, "1709164800 19782 2024 2 29 4 0"),
            ("2000-03-01T00:00:01Z", YearMonthDay, "951868801 11017 2000 3 1 3 0"),
            ("1900-03-01", YearMonthDay, "-2203891200 -25508 1900 3 1 4 0"),
            ("2024/1/1 23:59", YearMonthDay, "1704153540 19723 2024 1 1 1 23"),
            ("31.12.2023", DayMonthYear, "1703980800 19722 2023 12 31 7 0"),
            ("12/31/2023 1:05 PM", MonthDayYear, "1704027900 19722 2023 12 31 7 13"),
            ("12/31/2023 12:05 am", MonthDayYear, "1703981100 19722 2023 12 31 7 0"),
            ("2024-01-31T01:00:00.25+02:00", YearMonthDay, "1706655600.25 19753 2024 1 31 3 1"),
            ("2024-01-31 23:00 -0130", YearMonthDay, "1706747400 19753 2024 1 31 3 23"),
        ] {
            assert_eq!(parts(text, order).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn dates_are_told_from_other_texts() {
        for text in [
            "2023-02-29",
            "1900-02-29",
            "2024-13-01",
            "2024-00-01",
            "2024-04-31",
            "2024-01-31T24:00",
            "2024-01-31T12:60",
            "2024-01-31 13:00 PM",
            "31.12.2023",
            "24-01-31",
            "2024-01-2024",
            "2024-01",
            "12:00",
            "192.168.1.2004",
            "2024-01-31x",
            "a2024-01-31",
            "",
        ] {
            assert_eq!(Date::parse(text, DateOrder::YearMonthDay), None, "{text}");
        }
        assert!(!Date::parse("2024-01-31", DateOrder::YearMonthDay).unwrap().has_time);
        assert!(Date::parse("2024-01-31 00:00", DateOrder::YearMonthDay).unwrap().has_time);
    }
}
