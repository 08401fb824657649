//! Statistics of the numbers of a column.

use crate::Philox;

/// The largest number of values of a column that are kept for its quantiles.
pub(crate) const MAX_SAMPLE: usize = 1_000_000;

/// The mean and deviation of a stream of numbers (Welford's algorithm), and a sample of it if
/// quantiles are needed. The sample holds all numbers up to [`MAX_SAMPLE`], and beyond that a
/// uniform sample that depends only on the numbers and their order.
#[derive(Clone, Debug)]
pub(crate) struct Statistics {
    count: u64,
    mean: f64,
    squares: f64,
    sample: Option<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    numbers: Vec<f64>,
    random: Philox,
}

impl Statistics {
    pub(crate) fn new(with_quantiles: bool) -> Self {
        let sample =
            with_quantiles.then(|| Sample { numbers: Vec::new(), random: Philox::new(0, 0) });
        Self { count: 0, mean: 0.0, squares: 0.0, sample }
    }

    pub(crate) fn add(&mut self, x: f64) {
        self.count += 1;
        let difference = x - self.mean;
        self.mean += difference / self.count as f64;
        self.squares += difference * (x - self.mean);
        if let Some(Sample { numbers, random }) = &mut self.sample {
            if numbers.len() < MAX_SAMPLE {
                numbers.push(x);
            } else if let Some(place) = numbers.get_mut(random.below(self.count) as usize) {
                // Algorithm R: draw one of `count` places; the number is kept if the place is in
                // the sample.
                *place = x;
            }
        }
    }

    /// Returns the mean; 0 without numbers.
    pub(crate) fn mean(&self) -> f64 {
        self.mean
    }

    /// Returns the population standard deviation; 0 without numbers.
    pub(crate) fn std(&self) -> f64 {
        if self.count == 0 { 0.0 } else { (self.squares / self.count as f64).sqrt() }
    }

    /// Returns the sample in increasing order; empty if none was kept.
    pub(crate) fn into_sorted(self) -> Vec<f64> {
        let mut numbers = self.sample.map(|sample| sample.numbers).unwrap_or_default();
        numbers.sort_unstable_by(f64::total_cmp);
        numbers
    }
}

/// Returns at most `count` quantiles of sorted numbers, evenly spaced from the smallest to the
/// largest; all numbers if there are no more than `count`.
pub(crate) fn quantiles(sorted: &[f64], count: usize) -> Vec<f64> {
    if sorted.len() <= count {
        return sorted.to_vec();
    }
    (0..count).map(|k| quantile(sorted, k as f64 / (count - 1) as f64)).collect()
}

/// Returns the interpolated quantile at `share` of sorted numbers, of which there is at least one.
pub(crate) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let position = share * last as f64;
    let below = (position as usize).min(last);
    let above = (below + 1).min(last);
    let (low, high) = (sorted[below], sorted[above]);
    // The minimum keeps a rounding error from exceeding the upper neighbour.
    (low + (position - below as f64) * (high - low)).min(high)
}

/// Returns the rank of `x` among evenly spaced quantiles: 0 below all of them, 1 above, the middle
/// of equal ones; 0 without quantiles.
pub(crate) fn rank(quantiles: &[f64], x: f64) -> f64 {
    let (below, not_above) =
        (quantiles.partition_point(|&q| q < x), quantiles.partition_point(|&q| q <= x));
    let last = quantiles.len().saturating_sub(1);
    if quantiles.is_empty() || not_above == 0 {
        return 0.0;
    }
    if below > last {
        return 1.0;
    }
    if last == 0 {
        return 0.5;
    }
    let position = if below < not_above {
        (below + not_above - 1) as f64 / 2.0
    } else {
        let (low, high) = (quantiles[below - 1], quantiles[below]);
        (below - 1) as f64 + (x - low) / (high - low)
    };
    position / last as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_deviation() {
        let mut statistics = Statistics::new(false);
        assert_eq!((statistics.mean(), statistics.std()), (0.0, 0.0));
        for x in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            statistics.add(x);
        }
        assert_eq!((statistics.mean(), statistics.std()), (5.0, 2.0));
    }

    #[test]
    fn long_columns_are_sampled_evenly() {
        let mut statistics = Statistics::new(true);
        let count = 4 * MAX_SAMPLE;
        (0..count).for_each(|k| statistics.add(k as f64));
        let sorted = statistics.into_sorted();
        assert_eq!(sorted.len(), MAX_SAMPLE);
        for share in [0.1, 0.5, 0.9] {
            // The standard error of a quantile of a million numbers is 0.0005 at most.
            assert!((quantile(&sorted, share) / count as f64 - share).abs() < 0.0025, "{share}");
        }
    }

    #[test]
    fn ranks() {
        let sorted = [0.0, 1.0, 1.0, 1.0, 5.0];
        for (x, expected) in [
            (-1.0, 0.0),
            (0.0, 0.0),
            (0.5, 0.125),
            (1.0, 0.5),
            (3.0, 0.875),
            (5.0, 1.0),
            (6.0, 1.0),
        ] {
            assert_eq!(rank(&sorted, x), expected, "{x}");
        }
        assert_eq!((rank(&[], 1.0), rank(&[1.0], 1.0), rank(&[1.0], 2.0)), (0.0, 0.5, 1.0));
        assert_eq!(quantiles(&[0.0, 1.0, 2.0, 3.0, 4.0], 3), [0.0, 2.0, 4.0]);
        assert_eq!(quantiles(&sorted, 1000), sorted);
    }
}
