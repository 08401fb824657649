//! Click logs that nobody clicked: rows in the format of Criteo, drawn from a model that is known.
//!
//! A row has 26 categories of [`values`](Synthetic::values) each and 13 counts. Each value has a
//! weight, normal with standard deviation 1, and so does each number; the logit of a click is their
//! sum, scaled to a standard deviation of [`SIGNAL`], plus [`BIAS`]. Whoever knows the weights can
//! predict no better than that, whatever the number of rows.

use std::io::Write;

use crate::philox::Philox;

const NUMBERS: usize = 13;
const CATEGORIES: usize = 26;
/// The standard deviation of the logit.
const SIGNAL: f64 = 1.5;
/// About a quarter of the rows are clicks, as in the Kaggle set.
const BIAS: f64 = -1.5;
/// The stream of the rows; those of the categories' weights lie below.
const ROW_STREAM: u64 = 1 << 20;

/// How often which value of a category occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdDistribution {
    /// As often as `1 / rank`, about: few values make up most rows.
    Zipf,
    /// All alike.
    Uniform,
}

/// A description of rows, which are the same for the same description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// The number of rows.
    pub rows: u64,
    /// The number of values of each category, 1 or more.
    pub values: u64,
    /// How often they occur.
    pub ids: IdDistribution,
    /// The seed of rows and weights.
    pub seed: u64,
}

impl Synthetic {
    /// Writes the rows: label, 13 counts and 26 categories of 8 hexadecimal digits, with tabs
    /// between them.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<()> {
        let scale = SIGNAL / ((NUMBERS + CATEGORIES) as f64).sqrt();
        let number_weights: [f64; NUMBERS] =
            std::array::from_fn(|k| self.weight(CATEGORIES + k, 0));
        for row in 0..self.rows {
            let mut random = Philox::new(self.seed, ROW_STREAM + row);
            let mut logit = 0.0;
            let numbers: [u64; NUMBERS] = std::array::from_fn(|k| {
                let normal = random.normal();
                logit += number_weights[k] * normal;
                // Counts, of which a logarithm is normal.
                (1.0 + normal).exp().round() as u64
            });
            let categories: [u64; CATEGORIES] = std::array::from_fn(|k| {
                let id = self.draw(&mut random);
                logit += self.weight(k, id);
                id
            });
            let chance = 1.0 / (1.0 + (-(BIAS + scale * logit)).exp());
            write!(out, "{}", u8::from(random.uniform() < chance))?;
            numbers.iter().try_for_each(|count| write!(out, "\t{count}"))?;
            categories.iter().try_for_each(|id| write!(out, "\t{id:08x}"))?;
            writeln!(out)?;
        }
        Ok(())
    }

    /// The weight of a value, found again from its number, so that there need be no table of them.
    fn weight(&self, column: usize, id: u64) -> f64 {
        Philox::new(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15), column as u64).normal()
    }

    fn draw(&self, random: &mut Philox) -> u64 {
        match self.ids {
            IdDistribution::Uniform => random.below(self.values),
            // The inverse of the distribution function `ln(1 + id) / ln(1 + values)`.
            IdDistribution::Zipf => (((self.values as f64 + 1.0).powf(random.uniform()) - 1.0)
                as u64)
                .min(self.values - 1),
        }
    }
}
