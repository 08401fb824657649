//! Finds columns that give the label away: alone they tell it almost perfectly, most often because
//! they are known only together with it.

use std::collections::HashMap;

use crate::train::Predictions;

/// The AUC from which on a column is taken to give the label away.
pub(super) const SUSPICIOUS: f64 = 0.99;

/// The number of groups of equal size into which numbers are divided.
const GROUPS: usize = 32;

/// The smallest number of rows of each class that an AUC is worth something for.
const MIN_CLASS: usize = 5;

/// Returns the AUC of scoring rows by one column, of texts or of `numbers`; `None` if there are too
/// few rows. A value scores the share of its rows with label 1, which is learned from one half of
/// the rows and measured on the other; numbers are also scored by their order.
pub(super) fn auc(texts: &[&str], numbers: Option<&[Option<f64>]>, labels: &[f32]) -> Option<f64> {
    let Some(numbers) = numbers else {
        let mut ids = HashMap::new();
        let values: Vec<usize> = texts
            .iter()
            .map(|text| {
                let next = ids.len();
                *ids.entry(*text).or_insert(next)
            })
            .collect();
        return by_value(&values, labels);
    };
    let ranks = ranks(numbers);
    let by_order = match ranks.iter().all(Option::is_some) {
        true => auc_of(ranks.iter().flatten().map(|&rank| rank as f32).zip(labels.iter().copied())),
        false => None,
    };
    let size = ranks.len().div_ceil(GROUPS).max(1);
    let groups: Vec<usize> = ranks.iter().map(|rank| rank.map_or(0, |k| 1 + k / size)).collect();
    let best = by_order.map(|auc| auc.max(1.0 - auc));
    [best, by_value(&groups, labels)].into_iter().flatten().reduce(f64::max)
}

/// Returns the number of smaller numbers for each number.
fn ranks(numbers: &[Option<f64>]) -> Vec<Option<usize>> {
    let mut sorted: Vec<f64> = numbers.iter().copied().flatten().collect();
    sorted.sort_by(f64::total_cmp);
    numbers.iter().map(|number| number.map(|x| sorted.partition_point(|&y| y < x))).collect()
}

fn by_value(values: &[usize], labels: &[f32]) -> Option<f64> {
    let mut shares: HashMap<usize, (f64, f64)> = HashMap::new();
    let rows = || values.iter().zip(labels).enumerate();
    let (mut positives, mut learned) = (0.0, 0.0);
    for (_, (value, &label)) in rows().filter(|(k, _)| k % 2 == 0) {
        let share = shares.entry(*value).or_default();
        share.0 += f64::from(label);
        share.1 += 1.0;
        positives += f64::from(label);
        learned += 1.0;
    }
    let prior = positives / f64::max(learned, 1.0);
    auc_of(rows().filter(|(k, _)| k % 2 == 1).map(|(_, (value, &label))| {
        let (positives, rows) = shares.get(value).copied().unwrap_or_default();
        (((positives + prior) / (rows + 1.0)) as f32, label)
    }))
}

fn auc_of(rows: impl Iterator<Item = (f32, f32)>) -> Option<f64> {
    let (scores, labels): (Vec<f32>, Vec<f32>) = rows.unzip();
    let positives = labels.iter().filter(|&&label| label == 1.0).count();
    if positives < MIN_CLASS || labels.len() - positives < MIN_CLASS {
        return None;
    }
    let mut predictions = Predictions::default();
    predictions.extend(&scores, &labels);
    predictions.metrics()?.auc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_give_the_label_away_are_told_from_others() {
        let labels: Vec<f32> = (0..400).map(|k| f32::from(u8::from(k * 7 % 10 < 3))).collect();
        let number = |of: &dyn Fn(usize, f32) -> Option<f64>| {
            let numbers: Vec<_> = labels.iter().enumerate().map(|(k, &y)| of(k, y)).collect();
            auc(&[], Some(&numbers), &labels).unwrap()
        };
        assert!(number(&|k, y| Some(k as f64 % 50.0 - 100.0 * f64::from(y))) > SUSPICIOUS);
        // Both ends of the range belong to one class.
        let both_ends = |k: usize, y: f32| match y == 1.0 {
            true => Some(if k.is_multiple_of(2) { 1e3 } else { -1e3 } + k as f64),
            false => Some(k as f64 / 1e3),
        };
        assert!(number(&both_ends) > 0.95);
        assert!(number(&|k, y| (y == 1.0).then_some((k % 9) as f64)) > SUSPICIOUS);
        assert!(number(&|k, _| Some((k * 31 % 101) as f64)) < 0.8);
        assert!(number(&|k, y| Some((k * 31 % 101) as f64 + 20.0 * f64::from(y))) < 0.9);
        let text = |of: &dyn Fn(usize, f32) -> String| {
            let texts: Vec<_> = labels.iter().enumerate().map(|(k, &y)| of(k, y)).collect();
            auc(&texts.iter().map(String::as_str).collect::<Vec<_>>(), None, &labels).unwrap()
        };
        assert!(text(&|k, y| format!("{y}{}", k % 3)) > SUSPICIOUS);
        // Values that occur once tell nothing, although each of them has one label.
        assert!(text(&|k, _| k.to_string()) < 0.6);
        assert_eq!(auc(&["a"; 8], None, &labels[..8]), None);
    }
}
