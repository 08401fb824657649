//! Tests of the reference itself: its backward passes against central differences of its forward
//! passes, in `f64`.
//!
//! Along one coordinate all ops here but the losses are polynomials of degree two at most, for
//! which a central difference is exact. Only rounding errors remain: with `N` terms of absolute sum
//! `M`, each of the two values is off by at most `N 2⁻⁵³ M`, and the quotient by `N 2⁻⁵³ M / h`.

use crate::common::*;
use bagdot::ops::{Activation, Interaction, Loss, PairOrder, Pooling};

/// The step `h`, a power of two, so that a sum with a value here is exact.
const H: f64 = 1.0 / 1024.0;

/// Draws multiples of 1/32, to which [`H`] can be added without rounding.
fn coarse(len: usize, seed: u64) -> Vec<f64> {
    draw(len, seed).iter().map(|x| (f64::from(*x) * 32.0).round() / 32.0).collect()
}

/// Returns the values without errors.
fn exactly(values: &[f64]) -> Vec<Approx> {
    values.iter().map(|&x| Approx::exact(x)).collect()
}

/// Returns `Σ g y`.
fn pair(grad: &[f64], output: &[Approx]) -> f64 {
    assert_eq!(grad.len(), output.len());
    grad.iter().zip(output).map(|(g, y)| g * y.value).sum()
}

/// Compares a gradient with central differences of `loss`, element by element.
#[track_caller]
fn check(what: &str, x: &[f64], gradient: &[Approx], bound: f64, loss: impl Fn(&[f64]) -> f64) {
    assert_eq!(x.len(), gradient.len(), "{what}");
    assert!(gradient.iter().any(|g| g.value != 0.0), "{what}: the gradient is all zeros");
    for k in 0..x.len() {
        let at = |step: f64| {
            let mut x = x.to_vec();
            x[k] += step;
            loss(&x)
        };
        let (difference, got) = ((at(H) - at(-H)) / (2.0 * H), gradient[k].value);
        assert!(
            (difference - got).abs() <= bound,
            "{what}: element {k} is {got}, not {difference}; bound {bound:e}"
        );
    }
}

/// Returns the bound of rounding errors for at most 10,000 terms. `absolute_loss` is their absolute
/// sum: the loss of the absolute values.
fn rounding(absolute_loss: f64) -> f64 {
    1e4 * f64::EPSILON / 2.0 * absolute_loss / H
}

fn abs(x: &[f64]) -> Vec<f64> {
    x.iter().map(|x| x.abs()).collect()
}

#[test]
fn bags() {
    for pooling in POOLINGS {
        let mut case = BagCase::mixed(pooling);
        case.tables[1].embedding_dim = 3;
        if pooling != Pooling::Max {
            case.per_sample_weights =
                Some(coarse(case.indices.len(), 5).iter().map(|&w| w as f32).collect());
        }
        // Weights are different multiples of 1/16, so no step of H changes which one is the
        // largest.
        let mut order: Vec<usize> = (0..case.num_weights()).collect();
        bagdot::Philox::new(1, 1).shuffle(&mut order);
        let weights: Vec<f64> = order.iter().map(|&k| k as f64 / 16.0).collect();
        let grad = coarse(case.batch_size * case.width(), 3);
        let loss = |case: &BagCase, weights: &[f64], grad: &[f64]| {
            pair(grad, &reference::embedding_bag(case, &exactly(weights)).0)
        };
        let (_, sources) = reference::embedding_bag(&case, &exactly(&weights));
        let rows = reference::row_gradients(&case, &exactly(&grad), &sources, None);
        let mut dense = vec![];
        for (table, shape) in case.tables.iter().enumerate() {
            for row in 0..shape.num_embeddings {
                let none = vec![Approx::ZERO; shape.embedding_dim];
                dense.extend(rows.get(&(table, row)).cloned().unwrap_or(none));
            }
        }
        let mut positive = case.clone();
        positive.per_sample_weights.iter_mut().flatten().for_each(|w| *w = w.abs());
        let bound = rounding(loss(&positive, &weights, &abs(&grad)));
        // Each difference runs over the whole batch, so only some elements are checked, those of
        // the shared table among them.
        let (some, rest) = (350, weights[350..].to_vec());
        check(&case.name, &weights[..some], &dense[..some], bound, |w| {
            loss(&case, &[w, &rest].concat(), &grad)
        });
        if let Some(factors) = case.per_sample_weights.clone() {
            let got = reference::bag_weight_grad(&case, &exactly(&weights), &exactly(&grad));
            check(&format!("{}, factors", case.name), &values(&factors), &got, bound, |factors| {
                let mut case = case.clone();
                case.per_sample_weights = Some(factors.iter().map(|&w| w as f32).collect());
                loss(&case, &weights, &grad)
            });
        }
    }
}

#[test]
fn interactions() {
    let (num_features, dim) = (5, 3);
    let features = coarse(num_features * dim, 1);
    for (order, include_self, has_dense) in [
        (PairOrder::LowerTriangle, false, true),
        (PairOrder::LowerTriangle, true, false),
        (PairOrder::UpperTriangle, false, false),
        (PairOrder::UpperTriangle, true, true),
    ] {
        let interaction = Interaction::Dot {
            order,
            include_self,
            append_sparse: has_dense == include_self,
            pad_to: 4,
        };
        let forward = |x: &[f64]| reference::dots(interaction, &exactly(x), dim, has_dense);
        let grad = coarse(forward(&features).len(), 2);
        let got = reference::dots_backward(
            interaction,
            &exactly(&features),
            dim,
            has_dense,
            &exactly(&grad),
        );
        let bound = rounding(pair(&abs(&grad), &forward(&abs(&features))));
        check(&format!("{interaction:?}"), &features, &got, bound, |x| pair(&grad, &forward(x)));
    }
}

#[test]
fn layers() {
    let shape @ (m, n, k) = (4, 3, 5);
    let (x, w, b, grad) = (coarse(m * k, 1), coarse(n * k, 2), coarse(n, 3), coarse(m * n, 4));
    for activation in [Activation::None, Activation::Relu] {
        let relu = activation == Activation::Relu;
        let forward = |x: &[f64], w: &[f64], b: &[f64]| {
            reference::linear(&exactly(x), &exactly(w), &exactly(b), shape, relu)
        };
        let output = forward(&x, &w, &b);
        // No step may carry a value over the kink of ReLU. A step changes a value by less than 4 H.
        let affine = reference::linear(&exactly(&x), &exactly(&w), &exactly(&b), shape, false);
        assert!(
            affine.iter().all(|z| z.value.abs() > 4.0 * H)
                && abs(&[&x[..], &w].concat()).iter().all(|&v| v < 4.0)
        );
        let got = reference::linear_backward(
            [&exactly(&x), &exactly(&w), &output, &exactly(&grad)].map(|v| &v[..]),
            shape,
            activation,
            None,
        );
        let bound = rounding(pair(&abs(&grad), &forward(&abs(&x), &abs(&w), &abs(&b))));
        check("input", &x, &got.input, bound, |x| pair(&grad, &forward(x, &w, &b)));
        check("weight", &w, &got.weight, bound, |w| pair(&grad, &forward(&x, w, &b)));
        check("bias", &b, &got.bias, bound, |b| pair(&grad, &forward(&x, &w, b)));
    }
}

/// Checks gradients of losses. A central difference is off by at most `h² / 6` times the largest
/// third derivative. For the binary cross-entropy that is `max σ'' < 0.1`, times the weight 3; for
/// the squared error it is `6 σ'σ'' + 2 σ''' < 0.4`.
#[test]
fn losses() {
    let logits = coarse(40, 1).iter().map(|z| z * 2.0).collect::<Vec<_>>();
    let labels: Vec<f64> = (0..40).map(|k| f64::from(k % 5) / 4.0).collect();
    for loss in [Loss::BceWithLogits, Loss::WeightedBce { negative: 0.5, positive: 3.0 }, Loss::Mse]
    {
        for threshold in [0.0, 0.2] {
            let mean = |z: &[f64]| reference::mean_loss(loss, threshold, &exactly(z), &labels);
            // The clamp starts at ln(0.2 / 0.8). No logit is within H of it.
            let kink = (0.2_f64 / 0.8).ln().abs();
            assert!(logits.iter().all(|z| (z.abs() - kink).abs() > H));
            let bound =
                H * H / 6.0 * 0.4 / 40.0 + rounding(mean(&logits).mean.value.abs() + 1.0) / 40.0;
            check(&format!("{loss:?}, {threshold}"), &logits, &mean(&logits).grad, bound, |z| {
                mean(z).mean.value
            });
        }
    }
}
