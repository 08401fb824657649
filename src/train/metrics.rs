//! The metrics of a click model: AUC, log-loss, normalised entropy, calibration, accuracy.

use serde::{Deserialize, Serialize};

use crate::nn::{NamedTensor, TensorSource};
use crate::ops::Loss;

/// The metrics of a set of predictions.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// The probability that a positive sample is ranked above a negative one, ties counting half:
    /// exact, from the ranks of all samples. `None` if all labels are of one class.
    pub auc: Option<f64>,
    /// The mean of `-y ln p - (1 - y) ln(1 - p)`, with `p` clamped to `[ε, 1 - ε]`, `ε = 1e-7`.
    pub logloss: f64,
    /// The normalised entropy (He et al., 2014): the log-loss divided by the log-loss of always
    /// predicting the base rate. A value below 1 is better than a constant. `None` if all labels
    /// are of one class.
    pub ne: Option<f64>,
    /// The sum of the predictions divided by the number of positive samples; 1 is ideal. `None`
    /// without positive samples.
    pub calibration: Option<f64>,
    /// The fraction of samples whose prediction is on the right side of 0.5.
    pub accuracy: f64,
    /// The number of samples.
    pub samples: u64,
    /// The number of positive samples.
    pub positives: u64,
    /// The mean of the loss that training minimises, unless it is the log-loss. A weighted log-loss
    /// clamps probabilities to the same bounds as `logloss`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
}

impl Metrics {
    /// Returns the mean of the loss that training minimises.
    pub fn minimised(&self) -> f64 {
        self.loss.unwrap_or(self.logloss)
    }

    /// Returns the smallest mean of `loss` that a constant probability for all samples can reach:
    /// the entropy of the labels, with their weights, or their variance. `None` if all labels are
    /// of one class.
    pub fn loss_of_a_constant(&self, loss: Loss) -> Option<f64> {
        let share = self.positives as f64 / self.samples as f64;
        let entropy = |negative: f64, positive: f64| {
            let (negative, positive) = (negative * (1.0 - share), positive * share);
            let sum = negative + positive;
            -(negative * (negative / sum).ln() + positive * (positive / sum).ln())
        };
        let has_both = self.positives > 0 && self.positives < self.samples;
        has_both.then(|| match loss {
            Loss::BceWithLogits => entropy(1.0, 1.0),
            Loss::WeightedBce { negative, positive } => entropy(negative.into(), positive.into()),
            Loss::Mse => share * (1.0 - share),
        })
    }
}

/// A collection of predictions with their labels.
#[derive(Clone, Debug, Default)]
pub struct Predictions {
    probabilities: Vec<f32>,
    labels: Vec<f32>,
}

/// The bound on probabilities in the log-loss: they are clamped to `[EPSILON, 1 - EPSILON]`.
const EPSILON: f64 = 1e-7;

impl Predictions {
    /// Adds a batch. Both slices have one entry for each sample. Samples whose label is not a
    /// number are left out.
    pub fn extend(&mut self, probabilities: &[f32], labels: &[f32]) {
        for (&p, &y) in probabilities.iter().zip(labels) {
            if !y.is_nan() {
                self.probabilities.push(p);
                self.labels.push(y);
            }
        }
    }

    /// Returns the predictions and the labels.
    pub(super) fn parts(&self) -> (&[f32], &[f32]) {
        (&self.probabilities, &self.labels)
    }

    /// Returns the number of samples.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Returns whether there are no samples.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Computes all metrics for a model that was trained to minimise `loss`. A label of 0.5 or more
    /// is positive. Returns `None` without samples.
    pub fn metrics_of(&self, loss: Loss) -> Option<Metrics> {
        let of_sample: fn(Loss, f64, f64) -> f64 = match loss {
            Loss::BceWithLogits => return self.metrics(),
            Loss::WeightedBce { .. } => |loss, p, y| label_weight(loss, y) * cross_entropy(p, y),
            Loss::Mse => |_, p, y| (p - y) * (p - y),
        };
        let samples = self.probabilities.iter().zip(&self.labels);
        let sum: f64 = samples.map(|(&p, &y)| of_sample(loss, f64::from(p), f64::from(y))).sum();
        self.metrics().map(|metrics| Metrics { loss: Some(sum / self.len() as f64), ..metrics })
    }

    /// Computes all metrics except the loss of training. Returns `None` without samples.
    pub fn metrics(&self) -> Option<Metrics> {
        if self.is_empty() {
            return None;
        }
        let samples = self.len() as f64;
        let positives = self.labels.iter().filter(|&&y| y >= 0.5).count();
        let (mut loss, mut sum, mut right) = (0.0, 0.0, 0u64);
        for (&p, &y) in self.probabilities.iter().zip(&self.labels) {
            let (p, y) = (f64::from(p), f64::from(y));
            loss += cross_entropy(p, y);
            sum += p;
            right += u64::from((p >= 0.5) == (y >= 0.5));
        }
        let logloss = loss / samples;
        let base_rate = positives as f64 / samples;
        let both_classes = positives > 0 && positives < self.len();
        let entropy = -(base_rate * base_rate.ln() + (1.0 - base_rate) * (1.0 - base_rate).ln());
        Some(Metrics {
            auc: self.auc(),
            logloss,
            ne: both_classes.then(|| logloss / entropy),
            calibration: (positives > 0).then(|| sum / positives as f64),
            accuracy: right as f64 / samples,
            samples: self.len() as u64,
            positives: positives as u64,
            loss: None,
        })
    }

    /// Returns the samples in increasing order of their predictions.
    fn order(&self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.len() as u32).collect();
        order.sort_unstable_by(|&a, &b| {
            self.probabilities[a as usize].total_cmp(&self.probabilities[b as usize])
        });
        order
    }

    /// Returns the runs of equal predictions in increasing order, each with its numbers of negative
    /// and positive samples.
    fn runs(&self) -> Vec<(f32, u64, u64)> {
        let mut runs: Vec<(f32, u64, u64)> = Vec::new();
        for k in self.order() {
            let (p, positive) =
                (self.probabilities[k as usize], u64::from(self.labels[k as usize] >= 0.5));
            match runs.last_mut() {
                Some((last, negatives, positives)) if *last == p => {
                    *negatives += 1 - positive;
                    *positives += positive;
                }
                _ => runs.push((p, 1 - positive, positive)),
            }
        }
        runs
    }

    fn auc(&self) -> Option<f64> {
        // The counts are exact: twice the number of won pairs fits 128 bits for any number of
        // samples.
        let (mut negatives_below, mut positives, mut twice_won) = (0u64, 0u64, 0u128);
        for (_, negative, positive) in self.runs() {
            twice_won += u128::from(positive) * u128::from(2 * negatives_below + negative);
            negatives_below += negative;
            positives += positive;
        }
        let pairs = u128::from(positives) * u128::from(negatives_below);
        (pairs > 0).then(|| twice_won as f64 / (2.0 * pairs as f64))
    }

    /// Returns points `(false positive rate, true positive rate)` of the ROC curve from (0, 0) to
    /// (1, 1), at most about `max_points`.
    pub fn roc(&self, max_points: usize) -> Vec<(f64, f64)> {
        let runs = self.runs();
        let totals = runs.iter().fold((0, 0), |sum, run| (sum.0 + run.1, sum.1 + run.2));
        let rate =
            |count: u64, total: u64| if total == 0 { 0.0 } else { count as f64 / total as f64 };
        let every = runs.len().div_ceil(max_points.max(1)).max(1);
        let (mut points, mut negatives, mut positives) = (vec![(0.0, 0.0)], 0, 0);
        for (k, run) in runs.iter().rev().enumerate() {
            negatives += run.1;
            positives += run.2;
            if (k + 1) % every == 0 || k + 1 == runs.len() {
                points.push((rate(negatives, totals.0), rate(positives, totals.1)));
            }
        }
        points
    }

    /// Returns points `(mean prediction, fraction of positive samples)` of `bins` groups of equal
    /// size, in increasing order of the predictions.
    pub fn calibration_curve(&self, bins: usize) -> Vec<(f64, f64)> {
        let order = self.order();
        order
            .chunks(order.len().div_ceil(bins.max(1)).max(1))
            .map(|group| {
                let mean = |values: &[f32]| {
                    group.iter().map(|&k| f64::from(values[k as usize])).sum::<f64>()
                        / group.len() as f64
                };
                (mean(&self.probabilities), mean(&self.labels))
            })
            .collect()
    }

    /// Returns points `(recall, precision)`, in increasing order of the recall, at most about
    /// `max_points`. None without positive samples.
    pub fn precision_recall(&self, max_points: usize) -> Vec<(f64, f64)> {
        let (chosen, positives) = (self.chosen(max_points), self.num_positives());
        if positives == 0 {
            return Vec::new();
        }
        let point = |(samples, right): (u64, u64)| {
            (right as f64 / positives as f64, right as f64 / samples as f64)
        };
        chosen.into_iter().map(point).collect()
    }

    /// Returns points `(share of the samples, lift)`, at most about `max_points`: how many times as
    /// many of the samples with the highest predictions are positive as of all. None without
    /// positive samples.
    pub fn lift(&self, max_points: usize) -> Vec<(f64, f64)> {
        let (chosen, positives) = (self.chosen(max_points), self.num_positives());
        if positives == 0 {
            return Vec::new();
        }
        let all = self.len() as f64;
        let base_rate = positives as f64 / all;
        let point = |(samples, right): (u64, u64)| {
            (samples as f64 / all, right as f64 / samples as f64 / base_rate)
        };
        chosen.into_iter().map(point).collect()
    }

    /// Returns the distribution of the predictions of each class over `bins` intervals of equal
    /// length from 0 to the highest prediction: the end of the last interval, and for negative and
    /// positive samples the share of each interval.
    pub fn histograms(&self, bins: usize) -> (f64, [Vec<f64>; 2]) {
        let end = f64::from(self.probabilities.iter().copied().fold(0.0, f32::max));
        let mut counts = [vec![0u64; bins.max(1)], vec![0u64; bins.max(1)]];
        for (&p, &y) in self.probabilities.iter().zip(&self.labels) {
            let of_class = &mut counts[usize::from(y >= 0.5)];
            let bin = (f64::from(p) / end * of_class.len() as f64) as usize;
            let last = of_class.len() - 1;
            of_class[bin.min(last)] += 1;
        }
        let shares = |counts: Vec<u64>| -> Vec<f64> {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            counts.into_iter().map(|count| count as f64 / all).collect()
        };
        (end, counts.map(shares))
    }

    fn num_positives(&self) -> u64 {
        self.labels.iter().filter(|&&y| y >= 0.5).count() as u64
    }

    /// Returns the numbers of samples and of positive samples above falling thresholds, about
    /// `max_points` of them at equal distances, up to all samples. Equal predictions stay together.
    fn chosen(&self, max_points: usize) -> Vec<(u64, u64)> {
        let every = (self.len() as u64).div_ceil(max_points.max(1) as u64).max(1);
        let (mut points, mut samples, mut positives, mut next) = (Vec::new(), 0, 0, every);
        for (_, negative, positive) in self.runs().into_iter().rev() {
            samples += negative + positive;
            positives += positive;
            if samples >= next || samples == self.len() as u64 {
                points.push((samples, positives));
                next = samples + every;
            }
        }
        points
    }

    /// Returns the predictions as tensors of a checkpoint.
    pub(super) fn export(&self) -> [NamedTensor; 2] {
        let (probabilities, labels) = self.parts();
        let tensor = |name: &str, values: &[f32]| {
            NamedTensor::new(name.to_owned(), vec![values.len()], values)
        };
        [tensor("epoch.probabilities", probabilities), tensor("epoch.labels", labels)]
    }

    /// Reads the tensors of [`Self::export`].
    pub(super) fn import(source: &impl TensorSource) -> Self {
        let read = |name| {
            source
                .tensor(name)
                .map_or(Vec::new(), |(_, _, bytes)| bytemuck::pod_collect_to_vec(bytes))
        };
        let (probabilities, labels): (Vec<f32>, Vec<f32>) =
            (read("epoch.probabilities"), read("epoch.labels"));
        let mut predictions = Self::default();
        predictions.extend(&probabilities, &labels);
        predictions
    }
}

/// Returns the cross-entropy of one sample.
fn cross_entropy(p: f64, y: f64) -> f64 {
    let kept = p.clamp(EPSILON, 1.0 - EPSILON);
    -(y * kept.ln() + (1.0 - y) * (1.0 - kept).ln())
}

/// Returns the weight of a label in a weighted loss.
fn label_weight(loss: Loss, y: f64) -> f64 {
    match loss {
        Loss::WeightedBce { negative, positive } => {
            f64::from(if y >= 0.5 { positive } else { negative })
        }
        Loss::BceWithLogits | Loss::Mse => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn predictions(pairs: &[(f32, f32)]) -> Predictions {
        let mut predictions = Predictions::default();
        for &(p, y) in pairs {
            predictions.extend(&[p], &[y]);
        }
        predictions
    }

    #[test]
    fn auc_counts_pairs() {
        let mut random = crate::Philox::new(3, 0);
        for n in [2usize, 3, 10, 100] {
            // Few distinct values make ties.
            let pairs: Vec<(f32, f32)> = (0..n)
                .map(|k| {
                    (
                        random.below(8) as f32 / 8.0,
                        if k == 0 { 1.0 } else { random.below(2) as f32 * (k > 1) as u8 as f32 },
                    )
                })
                .collect();
            let (mut won, mut all) = (0.0, 0.0);
            for (p, _) in pairs.iter().filter(|(_, y)| *y == 1.0) {
                for (q, _) in pairs.iter().filter(|(_, y)| *y == 0.0) {
                    won += if p > q {
                        1.0
                    } else if p == q {
                        0.5
                    } else {
                        0.0
                    };
                    all += 1.0;
                }
            }
            let auc = predictions(&pairs).metrics().unwrap().auc;
            assert_eq!(auc, Some(won / all), "{pairs:?}");
        }
    }

    #[test]
    fn known_values() {
        let m = predictions(&[(0.9, 1.0), (0.2, 0.0), (0.6, 0.0), (0.5, 1.0)]).metrics().unwrap();
        let logloss = -(0.9f64.ln() + 0.8f64.ln() + 0.4f64.ln() + 0.5f64.ln()) / 4.0;
        // Predictions are stored in f32: the error is half a unit in the last place, times the
        // derivative 1/p of the logarithm.
        assert!((m.logloss - logloss).abs() < 4.0 * 2f64.powi(-24), "{m:?}");
        assert!((m.ne.unwrap() - logloss / 2f64.ln()).abs() < 1e-6);
        assert!((m.calibration.unwrap() - 1.1).abs() < 1e-6);
        assert_eq!((m.auc, m.accuracy, m.samples, m.positives), (Some(0.75), 0.75, 4, 2));
    }

    #[test]
    fn the_loss_of_training_has_its_weights() {
        let p = predictions(&[(0.75, 1.0), (0.25, 0.0), (0.5, 0.0)]);
        let loss = |loss| p.metrics_of(loss).unwrap().minimised();
        let (quarter, half) = (-(0.75f64.ln()), -(0.5f64.ln()));
        // The probabilities are exact here: only the rounding of f64 remains.
        assert!((loss(Loss::BceWithLogits) - (2.0 * quarter + half) / 3.0).abs() < 1e-15);
        let weighted = Loss::WeightedBce { negative: 1.0, positive: 10.0 };
        assert!((loss(weighted) - (11.0 * quarter + half) / 3.0).abs() < 1e-14);
        assert!((loss(Loss::Mse) - (2.0 * 0.0625 + 0.25) / 3.0).abs() < 1e-15);
        assert_eq!(
            (p.metrics_of(Loss::BceWithLogits).unwrap().loss, p.metrics().unwrap().loss),
            (None, None)
        );
    }

    #[test]
    fn no_constant_has_less_loss_than_is_said() {
        let labels = [1.0, 0.0, 0.0, 0.0];
        let of = |p: f32, loss| predictions(&labels.map(|y| (p, y))).metrics_of(loss).unwrap();
        for loss in
            [Loss::BceWithLogits, Loss::WeightedBce { negative: 1.0, positive: 10.0 }, Loss::Mse]
        {
            let least = of(0.5, loss).loss_of_a_constant(loss).unwrap();
            let tried: Vec<f64> =
                (1..1000).map(|k| of(k as f32 / 1000.0, loss).minimised()).collect();
            let best = tried.into_iter().fold(f64::INFINITY, f64::min);
            // The best of the tried probabilities is at most 0.0005 from the optimum, where the
            // second derivative is below 70.
            assert!(
                (-1e-7..70.0 * 0.0005f64.powi(2)).contains(&(best - least)),
                "{loss:?}: {best} {least}"
            );
        }
        assert_eq!(
            predictions(&[(0.5, 1.0)]).metrics().unwrap().loss_of_a_constant(Loss::Mse),
            None
        );
    }

    #[test]
    fn one_class_has_no_auc() {
        let m = predictions(&[(0.9, 1.0), (0.2, 1.0)]).metrics().unwrap();
        assert_eq!((m.auc, m.ne), (None, None));
        assert!(m.calibration.is_some());
        assert_eq!(predictions(&[(0.9, 0.0)]).metrics().unwrap().calibration, None);
        assert!(Predictions::default().metrics().is_none());
    }

    #[test]
    fn missing_labels_do_not_count() {
        assert_eq!(predictions(&[(0.9, 1.0), (0.1, f32::NAN)]).len(), 1);
    }

    #[test]
    fn curves_run_from_end_to_end() {
        let p = predictions(&[(0.9, 1.0), (0.8, 1.0), (0.7, 0.0), (0.1, 0.0)]);
        assert_eq!(p.roc(100), [(0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0)]);
        assert_eq!(p.roc(1).last(), Some(&(1.0, 1.0)));
        // The two samples with the highest predictions are positive, the other two are not.
        let third = 2.0 / 3.0;
        assert_eq!(p.precision_recall(100), [(0.5, 1.0), (1.0, 1.0), (1.0, third), (1.0, 0.5)]);
        assert_eq!(p.lift(100), [(0.25, 2.0), (0.5, 2.0), (0.75, third / 0.5), (1.0, 1.0)]);
        assert_eq!(p.lift(2), [(0.5, 2.0), (1.0, 1.0)]);
        // The intervals are 0.3 long.
        let (end, [negatives, positives]) = p.histograms(3);
        assert_eq!(
            (end, negatives, positives),
            (0.9f32.into(), vec![0.5, 0.0, 0.5], vec![0.0, 0.0, 1.0])
        );
        // Equal predictions cannot be told apart.
        let ties = predictions(&[(0.5, 1.0), (0.5, 0.0), (0.5, 0.0), (0.5, 1.0)]);
        assert_eq!(
            (ties.lift(100), ties.precision_recall(100)),
            (vec![(1.0, 1.0)], vec![(1.0, 0.5)])
        );
        let none = predictions(&[(0.0, 0.0)]);
        assert!(none.lift(9).is_empty() && none.precision_recall(9).is_empty());
        assert_eq!(none.histograms(2), (0.0, [vec![1.0, 0.0], vec![0.0, 0.0]]));
        let curve = p.calibration_curve(2);
        assert_eq!((curve[0].1, curve[1].1), (0.0, 1.0));
        assert!((curve[0].0 - 0.4).abs() < 1e-6 && (curve[1].0 - 0.85).abs() < 1e-6);
    }
}
