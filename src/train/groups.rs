//! The metrics of groups of rows: those with the same text in a column.

use std::collections::HashMap;

use serde::Serialize;

use super::metrics::{Metrics, Predictions};
use crate::ops::Loss;

/// A partition of rows by the text of a column.
#[derive(Clone, Debug, Default)]
pub struct Groups {
    numbers: HashMap<String, u32>,
    /// The group of each row.
    of_rows: Vec<u32>,
}

/// The AUC within groups (group AUC; Zhu et al., 2017): the mean over the groups that have both
/// labels, weighted by their rows. Only the order of rows within a group counts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct GroupAuc {
    /// The column that makes the groups.
    pub column: String,
    /// The mean; `None` if no group has both labels.
    pub auc: Option<f64>,
    /// The number of groups.
    pub groups: u64,
    /// The number of groups that have both labels, and so an AUC.
    pub groups_with_both: u64,
    /// The number of rows in those groups.
    pub rows_with_both: u64,
}

/// The metrics of the rows with one value in a column.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Segment {
    /// The value; `None` for the rows of all values that are too rare for a segment of their own.
    pub value: Option<String>,
    /// The number of values: 1, or that of the rare ones.
    pub values: u64,
    /// The share of positive labels.
    pub base_rate: f64,
    /// The metrics.
    #[serde(flatten)]
    pub metrics: Metrics,
}

impl Groups {
    /// Adds the next row, by the text of its column. Each row of the [`Predictions`] needs one.
    pub fn push(&mut self, text: &str) {
        let next = self.numbers.len() as u32;
        let number = match self.numbers.get(text) {
            Some(&number) => number,
            None => *self.numbers.entry(text.to_owned()).or_insert(next),
        };
        self.of_rows.push(number);
    }

    /// Returns the predictions of each group.
    fn split(&self, predictions: &Predictions) -> Vec<Predictions> {
        let mut groups = vec![Predictions::default(); self.numbers.len()];
        let (probabilities, labels) = predictions.parts();
        for ((p, y), &group) in probabilities.iter().zip(labels).zip(&self.of_rows) {
            groups[group as usize].extend(&[*p], &[*y]);
        }
        groups
    }

    /// Returns the AUC within the groups of `column`.
    pub fn auc(&self, column: &str, predictions: &Predictions) -> GroupAuc {
        let groups = self.split(predictions);
        let of_group = |group: &Predictions| Some((group.metrics()?.auc?, group.len() as u64));
        let both: Vec<(f64, u64)> = groups.iter().filter_map(of_group).collect();
        let rows: u64 = both.iter().map(|(_, rows)| rows).sum();
        let sum: f64 = both.iter().map(|&(auc, rows)| auc * rows as f64).sum();
        GroupAuc {
            column: column.to_owned(),
            auc: (rows > 0).then(|| sum / rows as f64),
            groups: groups.len() as u64,
            groups_with_both: both.len() as u64,
            rows_with_both: rows,
        }
    }

    /// Returns the metrics of the `most` frequent values in decreasing order of their rows, and
    /// then those of all others together. `loss` is that of training.
    pub fn segments(&self, predictions: &Predictions, most: usize, loss: Loss) -> Vec<Segment> {
        let mut groups: Vec<(&str, Predictions)> = {
            let mut names = vec![""; self.numbers.len()];
            self.numbers.iter().for_each(|(name, &number)| names[number as usize] = name);
            names.into_iter().zip(self.split(predictions)).collect()
        };
        groups.sort_by(|a, b| b.1.len().cmp(&a.1.len()).then(a.0.cmp(b.0)));
        // One value alone needs no row for all others.
        let kept = if groups.len() <= most + 1 { groups.len() } else { most };
        let mut rest = Predictions::default();
        for (_, group) in &groups[kept..] {
            let (probabilities, labels) = group.parts();
            rest.extend(probabilities, labels);
        }
        let others = (groups.len() - kept) as u64;
        let named = groups[..kept].iter().map(|(name, group)| (Some(*name), 1, group));
        let all = named.chain([(None, others, &rest)]);
        let segment = |(value, values, group): (Option<&str>, u64, &Predictions)| {
            let metrics = group.metrics_of(loss)?;
            Some(Segment {
                value: value.map(str::to_owned),
                values,
                base_rate: metrics.positives as f64 / metrics.samples as f64,
                metrics,
            })
        };
        all.filter_map(segment).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of a user, a probability and a label.
    const ROWS: [(&str, f32, f32); 9] = [
        ("a", 0.9, 1.0),
        ("a", 0.2, 0.0),
        ("a", 0.95, 0.0),
        ("b", 0.1, 0.0),
        ("b", 0.3, 1.0),
        ("c", 0.99, 0.0),
        ("c", 0.98, 0.0),
        ("d", 0.01, 1.0),
        ("e", 0.5, 0.0),
    ];

    fn rows() -> (Groups, Predictions) {
        let (mut groups, mut predictions) = (Groups::default(), Predictions::default());
        for (user, p, y) in ROWS {
            groups.push(user);
            predictions.extend(&[p], &[y]);
        }
        (groups, predictions)
    }

    #[test]
    fn group_auc_is_the_mean_over_groups_with_both_labels() {
        let (groups, predictions) = rows();
        // `a` ranks its positive row above one of two others, `b` above its only other.
        let found = groups.auc("user", &predictions);
        assert_eq!(found.auc, Some((0.5 * 3.0 + 1.0 * 2.0) / 5.0));
        assert_eq!((found.groups, found.groups_with_both, found.rows_with_both), (5, 2, 5));
        let mut one = Groups::default();
        one.push("x");
        let mut p = Predictions::default();
        p.extend(&[0.5], &[1.0]);
        assert_eq!(one.auc("user", &p).auc, None);
    }

    #[test]
    fn rare_values_share_a_segment() {
        let (groups, predictions) = rows();
        let segments = groups.segments(&predictions, 2, Loss::BceWithLogits);
        let shown: Vec<_> =
            segments.iter().map(|s| (s.value.as_deref(), s.values, s.metrics.samples)).collect();
        assert_eq!(shown, [(Some("a"), 1, 3), (Some("b"), 1, 2), (None, 3, 4)]);
        assert_eq!((segments[0].base_rate, segments[2].base_rate), (1.0 / 3.0, 0.25));
        assert_eq!(segments[1].metrics.auc, Some(1.0));
        // All rows are in one of them.
        let all = groups.segments(&predictions, 4, Loss::BceWithLogits);
        assert!(all.len() == 5 && all.iter().all(|segment| segment.value.is_some()));
    }
}
