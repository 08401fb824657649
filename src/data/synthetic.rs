//! Synthetic click logs: rows in the format of Criteo, drawn from a known model.
//!
//! A row has 13 counts and 26 categories:
//!
//! - The count of column `k` is `exp(1 + z_k)`, rounded, where `z_k` is standard normal.
//! - The category of column `k` is an id below [`values`](Synthetic::values), drawn by
//!   [`IdDistribution`].
//! - The weight of each number column, and of each id of each category, is standard normal. It is
//!   a function of the seed, the column and the id alone.
//! - The logit of a click is `BIAS + SIGNAL / sqrt(39) · (Σ w_k z_k + Σ w_id)`. Over all weights
//!   its standard deviation is `SIGNAL = 1.5`; with `BIAS = -1.5`, about a quarter of the rows are
//!   clicks, as in Criteo's Kaggle set. The label is drawn with this probability.
//!
//! No model can predict better than this logit, whatever the number of rows.

use std::io::{self, ErrorKind, Write};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{Rng, RngExt, SeedableRng};
use rand_distr::{Distribution, StandardNormal, Uniform, Zipf};

use super::hash::mix;

const NUMBERS: usize = 13;
const CATEGORIES: usize = 26;
/// The standard deviation of the logit.
const SIGNAL: f64 = 1.5;
/// The mean of the logit.
const BIAS: f64 = -1.5;

/// The distribution of the ids of a category.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdDistribution {
    /// Zipf's law with exponent 1: id `k` has a probability proportional to `1 / (k + 1)`, so that
    /// few values make up most rows.
    Zipf,
    /// All ids have the same probability.
    Uniform,
}

/// A description of synthetic rows. The same description gives the same rows, and a smaller number
/// of rows gives the first ones of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// The number of rows.
    pub rows: u64,
    /// The number of values of each category, 1 or more.
    pub values: u64,
    /// The distribution of the values.
    pub ids: IdDistribution,
    /// The seed of rows and weights.
    pub seed: u64,
}

/// A sampler of ids.
enum Ids {
    Zipf(Zipf<f64>),
    Uniform(Uniform<u64>),
}

impl Synthetic {
    /// Writes the rows: the label, 13 counts and 26 categories of 8 hexadecimal digits, with tabs
    /// between them.
    ///
    /// # Errors
    /// Propagates errors of `out`; fails with [`ErrorKind::InvalidInput`] if `values` is 0.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let ids = self.sampler()?;
        let scale = SIGNAL / ((NUMBERS + CATEGORIES) as f64).sqrt();
        let number_weights: [f64; NUMBERS] =
            std::array::from_fn(|k| self.weight(CATEGORIES + k, 0));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(self.seed);
        for _ in 0..self.rows {
            let mut logit = 0.0;
            let numbers: [u64; NUMBERS] = std::array::from_fn(|k| {
                let normal: f64 = random.sample(StandardNormal);
                logit += number_weights[k] * normal;
                (1.0 + normal).exp().round() as u64
            });
            let categories: [u64; CATEGORIES] = std::array::from_fn(|k| {
                let id = self.id(&ids, &mut random);
                logit += self.weight(k, id);
                id
            });
            let click = 1.0 / (1.0 + (-(BIAS + scale * logit)).exp());
            write!(out, "{}", u8::from(random.random::<f64>() < click))?;
            numbers.iter().try_for_each(|count| write!(out, "\t{count}"))?;
            categories.iter().try_for_each(|id| write!(out, "\t{id:08x}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    fn sampler(&self) -> io::Result<Ids> {
        let no_values = || io::Error::new(ErrorKind::InvalidInput, "a category needs a value");
        match self.ids {
            IdDistribution::Zipf => Zipf::new(self.values as f64, 1.0).ok().map(Ids::Zipf),
            IdDistribution::Uniform => Uniform::new(0, self.values).ok().map(Ids::Uniform),
        }
        .ok_or_else(no_values)
    }

    /// Draws an id.
    fn id(&self, ids: &Ids, random: &mut impl Rng) -> u64 {
        match ids {
            // Ranks count from 1. Rounding may carry a sample past the last one.
            Ids::Zipf(ranks) => (ranks.sample(random) as u64).clamp(1, self.values) - 1,
            Ids::Uniform(ids) => ids.sample(random),
        }
    }

    /// Returns the weight of an id. It is drawn anew each time from a generator of its own, since a
    /// table of all weights might not fit in memory.
    fn weight(&self, column: usize, id: u64) -> f64 {
        let key = mix((self.seed ^ mix(column as u64 + 1)).wrapping_add(0x9e37_79b9_7f4a_7c15));
        Xoshiro256PlusPlus::seed_from_u64(key ^ id).sample(StandardNormal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(rows: u64, ids: IdDistribution, seed: u64) -> String {
        let mut out = vec![];
        Synthetic { rows, values: 30, ids, seed }.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn rows_depend_on_the_description_alone() {
        let rows = text(50, IdDistribution::Zipf, 1);
        assert_eq!(rows, text(50, IdDistribution::Zipf, 1));
        assert!(text(60, IdDistribution::Zipf, 1).starts_with(&rows));
        assert_ne!(rows, text(50, IdDistribution::Zipf, 2));
        assert_ne!(rows, text(50, IdDistribution::Uniform, 1));
        let nothing = Synthetic { rows: 1, values: 0, ids: IdDistribution::Zipf, seed: 1 };
        for ids in [IdDistribution::Zipf, IdDistribution::Uniform] {
            let error = Synthetic { ids, ..nothing }.write(&mut vec![]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn ids_follow_their_distribution() {
        let harmonic: f64 = (1..=30).map(|rank| 1.0 / f64::from(rank)).sum();
        for (ids, expected) in [
            (IdDistribution::Zipf, [1.0 / harmonic, 0.5 / harmonic, 1.0 / (30.0 * harmonic)]),
            (IdDistribution::Uniform, [1.0 / 30.0; 3]),
        ] {
            let rows = text(4000, ids, 3);
            let drawn: Vec<u64> = rows
                .lines()
                .flat_map(|row| row.split('\t').skip(14))
                .map(|id| u64::from_str_radix(id, 16).unwrap())
                .collect();
            assert!(drawn.len() == 4000 * CATEGORIES && drawn.iter().all(|&id| id < 30));
            for (id, p) in [0, 1, 29].into_iter().zip(expected) {
                let count = drawn.iter().filter(|&&drawn| drawn == id).count() as f64;
                let samples = drawn.len() as f64;
                // Six standard deviations of a binomial count.
                let bound = 6.0 * (samples * p * (1.0 - p)).sqrt();
                assert!((count - samples * p).abs() < bound, "{ids:?} {id}: {count}");
            }
        }
    }

    #[test]
    fn weights_are_standard_normal() {
        let rows = Synthetic { rows: 0, values: 1, ids: IdDistribution::Zipf, seed: 5 };
        let weights: Vec<f64> =
            (0..40_000).map(|k| rows.weight(k % CATEGORIES, (k / CATEGORIES) as u64)).collect();
        let mean =
            |f: fn(f64) -> f64| weights.iter().map(|&w| f(w)).sum::<f64>() / weights.len() as f64;
        // Six standard errors: those of the mean and of the mean square are 1/200 and sqrt(2)/200.
        assert!(mean(|w| w).abs() < 0.03, "{}", mean(|w| w));
        assert!((mean(|w| w * w) - 1.0).abs() < 0.043, "{}", mean(|w| w * w));
    }
}
