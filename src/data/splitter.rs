//! Assigns rows to parts.

use serde::{Deserialize, Serialize};

use super::config::Split;
use super::hash::mix;
use super::number::Time;
use super::part::Part;

/// The times at which the validation rows and the test rows begin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TimeCut {
    validation_from: Option<Time>,
    test_from: Option<Time>,
}

impl TimeCut {
    /// Chooses the times so that about these shares of `times` are validation and test. Rows of the
    /// same time all go to the later part.
    pub(crate) fn fit(mut times: Vec<Time>, validation: f64, test: f64) -> Self {
        let len = times.len();
        let mut from = |share: f64| {
            let rows = ((len as f64 * share).round() as usize).min(len);
            let first = (rows > 0).then(|| len - rows)?;
            Some(*times.select_nth_unstable(first).1)
        };
        let test_from = if test > 0.0 { from(test) } else { None };
        let validation_from = if validation > 0.0 { from(validation + test) } else { None };
        Self { validation_from, test_from }
    }

    fn part(&self, time: Time) -> Part {
        let reached = |from: Option<Time>| from.is_some_and(|from| time >= from);
        if reached(self.test_from) {
            Part::Test
        } else if reached(self.validation_from) {
            Part::Validation
        } else {
            Part::Train
        }
    }
}

/// A split that is ready for use.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Splitter {
    /// A split by hash: a row is a test row if its hash is below `test`, else a validation row if
    /// it is below `validation`.
    Hash { offset: u64, test: u128, validation: u128 },
    /// A split by the row's time.
    Time(TimeCut),
    /// A split by file: all rows of the current files belong to the same part.
    File,
}

impl Splitter {
    /// Prepares a split. `cut` is needed if the split is by time.
    pub(crate) fn new(split: &Split, cut: Option<TimeCut>) -> Self {
        match (split, cut) {
            (Split::Hash { seed, validation, test }, _) => {
                // Scaling by a power of two is exact, and a u128 holds a share of 1 too.
                let threshold = |share: f64| (share * 2f64.powi(64)) as u128;
                Self::Hash {
                    offset: mix(*seed),
                    test: threshold(*test),
                    validation: threshold(test + validation),
                }
            }
            (Split::Time { .. }, Some(cut)) => Self::Time(cut),
            _ => Self::File,
        }
    }

    /// Returns the part of row number `row`, which has this time; `None` if its file decides.
    pub(crate) fn part(&self, row: u64, time: Time) -> Option<Part> {
        match *self {
            Self::Hash { offset, test, validation } => {
                let hash = u128::from(row.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(offset));
                Some(if hash < test {
                    Part::Test
                } else if hash < validation {
                    Part::Validation
                } else {
                    Part::Train
                })
            }
            Self::Time(cut) => Some(cut.part(time)),
            Self::File => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteenths_are_exact() {
        let splitter = Splitter::new(&Split::default(), None);
        for row in (0..100_000).chain([u64::MAX, 1 << 63, (1 << 63) + 5]) {
            let expected = match row.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60 {
                0..=2 => Part::Test,
                3 => Part::Validation,
                _ => Part::Train,
            };
            assert_eq!(splitter.part(row, Time::default()), Some(expected), "row {row}");
        }
    }

    #[test]
    fn seeds_differ_and_keep_the_shares() {
        let parts = |seed| -> Vec<Part> {
            let splitter = Splitter::new(&Split::Hash { seed, validation: 0.1, test: 0.2 }, None);
            (0..10_000).map(|row| splitter.part(row, Time::default()).unwrap()).collect()
        };
        let (one, two) = (parts(1), parts(2));
        assert_ne!(one, two);
        for parts in [one, two] {
            let share = |part| parts.iter().filter(|&&p| p == part).count();
            // The golden ratio spreads rows evenly: the counts are off by a few rows only.
            assert!(
                share(Part::Test).abs_diff(2000) < 10
                    && share(Part::Validation).abs_diff(1000) < 10
            );
        }
    }

    #[test]
    fn the_latest_rows_test() {
        let time = |k: u64| Time::parse(&(1_700_000_000_000_000_000 + k).to_string()).unwrap();
        let cut = TimeCut::fit((0..10).map(|k| time(k * 7 % 10)).collect(), 0.3, 0.2);
        let parts: Vec<Part> = (0..10).map(|k| cut.part(time(k))).collect();
        assert!(parts[..5].iter().all(|&p| p == Part::Train));
        assert!(
            parts[5..8].iter().all(|&p| p == Part::Validation)
                && parts[8..].iter().all(|&p| p == Part::Test)
        );
        let tied = TimeCut::fit([1, 2, 2, 2].map(time).into(), 0.0, 0.25);
        assert_eq!((tied.part(time(1)), tied.part(time(2))), (Part::Train, Part::Test));
        assert_eq!(TimeCut::fit(vec![], 0.5, 0.2).part(time(1)), Part::Train);
    }
}
