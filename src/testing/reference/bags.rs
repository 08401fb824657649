//! Reference for bags: pooling, the gradients of rows and per-sample weights, the sorted order.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::ops::Pooling;

use crate::testing::cases::BagCase;
use crate::testing::tolerance::Approx;

/// The number of occurrences of a row that are summed one after another, as `sparse_update`
/// documents.
const CHUNK: usize = 64;
/// The source of the maximum of an empty bag, as `embedding_bag` documents.
const NO_SOURCE: u32 = u32::MAX;

/// The gradient of each row that has one, keyed by table and row.
pub type RowGradients = BTreeMap<(usize, usize), Vec<Approx>>;

impl BagCase {
    /// Returns the positions of the ids of a bag.
    fn positions(&self, bag: usize) -> Range<usize> {
        self.offsets[bag]..self.offsets[bag + 1]
    }

    /// Returns the table and row of the id at a position, or none if the id is padding or bad.
    fn row(&self, feature: usize, position: usize) -> Option<(usize, usize)> {
        let feature = self.features[feature];
        let row = usize::try_from(self.indices[position]).ok()?;
        let counts =
            row < self.tables[feature.table].num_embeddings && feature.padding_idx != Some(row);
        counts.then_some((feature.table, row))
    }

    /// Returns the number of bags.
    fn num_bags(&self) -> usize {
        self.features.len() * self.batch_size
    }

    /// Returns the positions of a bag that count, each with its table and row.
    fn rows(&self, bag: usize) -> Vec<(usize, (usize, usize))> {
        let feature = bag / self.batch_size;
        self.positions(bag).filter_map(|k| Some((k, self.row(feature, k)?))).collect()
    }

    /// Returns the elements of a row.
    fn elements<'a>(&self, weights: &'a [Approx], (table, row): (usize, usize)) -> &'a [Approx] {
        let before: usize =
            self.tables[..table].iter().map(|t| t.num_embeddings * t.embedding_dim).sum();
        let dim = self.tables[table].embedding_dim;
        &weights[before + row * dim..][..dim]
    }

    /// Returns the range of a bag in the pooled output, and its pooling.
    fn target(&self, bag: usize) -> (Range<usize>, Pooling) {
        let (feature, sample) = (bag / self.batch_size, bag % self.batch_size);
        let dim = |f: usize| self.tables[self.features[f].table].embedding_dim;
        let start = sample * self.width() + (0..feature).map(dim).sum::<usize>();
        (start..start + dim(feature), self.features[feature].pooling)
    }

    /// Returns the per-sample weight of a position, if there are any.
    fn factor(&self, position: usize) -> Option<Approx> {
        self.per_sample_weights.as_ref().map(|weights| Approx::exact(weights[position]))
    }
}

/// Returns the pooled output and the sources of maxima. The latter are none in columns that are not
/// pooled by max.
pub fn embedding_bag(case: &BagCase, weights: &[Approx]) -> (Vec<Approx>, Vec<Option<u32>>) {
    let mut output = vec![Approx::ZERO; case.batch_size * case.width()];
    let mut sources = vec![None; output.len()];
    for bag in 0..case.num_bags() {
        let (columns, pooling) = case.target(bag);
        let rows = case.rows(bag);
        for (d, column) in columns.enumerate() {
            if pooling == Pooling::Max {
                let mut best: Option<(usize, Approx)> = None;
                for &(position, row) in &rows {
                    let x = case.elements(weights, row)[d];
                    let larger = |x: f64, best: f64| x > best || (x.is_nan() && !best.is_nan());
                    if best.is_none_or(|(_, best)| larger(x.value, best.value)) {
                        best = Some((position, x));
                    }
                }
                output[column] = best.map_or(Approx::ZERO, |(_, x)| x);
                let source =
                    best.map_or(NO_SOURCE, |(position, _)| (position - case.offsets[bag]) as u32);
                sources[column] = Some(source);
                continue;
            }
            let terms: Vec<Approx> = rows
                .iter()
                .map(|&(position, row)| {
                    let x = case.elements(weights, row)[d];
                    case.factor(position).map_or(x, |factor| factor * x)
                })
                .collect();
            let sum = Approx::sum(&terms);
            output[column] = match pooling {
                Pooling::Mean if terms.len() > 1 => sum / Approx::exact(terms.len() as f64),
                _ => sum,
            };
        }
    }
    (output, sources)
}

/// Returns the gradient of each per-sample weight.
pub fn bag_weight_grad(case: &BagCase, weights: &[Approx], grad_output: &[Approx]) -> Vec<Approx> {
    let mut grads = vec![Approx::ZERO; case.indices.len()];
    for bag in 0..case.num_bags() {
        let (columns, pooling) = case.target(bag);
        let rows = case.rows(bag);
        for &(position, row) in &rows {
            let pairs = case
                .elements(weights, row)
                .iter()
                .copied()
                .zip(grad_output[columns.clone()].iter().copied());
            let dot = Approx::dot(pairs);
            grads[position] =
                if pooling == Pooling::Mean { dot / Approx::exact(rows.len() as f64) } else { dot };
        }
    }
    grads
}

/// Returns the gradient of each row: the contributions of its occurrences, summed in chunks.
/// `sources` comes from the forward pass.
pub fn row_gradients(
    case: &BagCase,
    grad_output: &[Approx],
    sources: &[Option<u32>],
    max_gradient: Option<f32>,
) -> RowGradients {
    let mut terms: BTreeMap<(usize, usize), Vec<Vec<Approx>>> = BTreeMap::new();
    for bag in 0..case.num_bags() {
        let (columns, pooling) = case.target(bag);
        let rows = case.rows(bag);
        for &(position, row) in &rows {
            let count = Approx::exact(rows.len() as f64);
            let factor = match (pooling, case.factor(position)) {
                (Pooling::Mean, factor) => factor.unwrap_or(Approx::exact(1.0)) / count,
                (_, factor) => factor.unwrap_or(Approx::exact(1.0)),
            };
            let of_row = terms.entry(row).or_insert_with(|| vec![vec![]; columns.len()]);
            for (d, column) in columns.clone().enumerate() {
                let g = grad_output[column].clamp(max_gradient);
                of_row[d].push(match pooling {
                    Pooling::Max
                        if sources[column] == Some((position - case.offsets[bag]) as u32) =>
                    {
                        g
                    }
                    Pooling::Max => Approx::ZERO,
                    _ => factor * g,
                });
            }
        }
    }
    let sum = |columns: Vec<Vec<Approx>>| {
        columns.iter().map(|terms| Approx::sum_in_chunks(terms, CHUNK)).collect()
    };
    terms.into_iter().map(|(row, columns)| (row, sum(columns))).collect()
}

/// The position and the bag of each occurrence of each row, keyed by linear row number.
pub type Occurrences = BTreeMap<u64, Vec<(u32, u32)>>;

/// Returns the occurrences of each row, and the number of ids of each bag that count.
pub fn sorted_order(case: &BagCase) -> (Occurrences, Vec<u32>) {
    let mut order = Occurrences::new();
    let mut counted = vec![];
    for bag in 0..case.num_bags() {
        let rows = case.rows(bag);
        counted.push(rows.len() as u32);
        for (position, (table, row)) in rows {
            let before: usize = case.tables[..table].iter().map(|t| t.num_embeddings).sum();
            order.entry((before + row) as u64).or_default().push((position as u32, bag as u32));
        }
    }
    (order, counted)
}
