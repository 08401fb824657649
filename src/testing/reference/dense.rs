//! Reference for ops on dense matrices: interaction, linear layers, losses.

use crate::ops::{Activation, Interaction, Loss, PairOrder};

use crate::testing::tolerance::Approx;

/// Returns the pairs in the order of the output.
fn pairs(interaction: Interaction, num_features: usize) -> Vec<(usize, usize)> {
    let Interaction::Dot { order, include_self, .. } = interaction else { return vec![] };
    let mut pairs = vec![];
    for i in 0..num_features {
        for j in 0..num_features {
            let ahead = match order {
                PairOrder::LowerTriangle => j < i,
                PairOrder::UpperTriangle => j > i,
            };
            if ahead || (include_self && i == j) {
                pairs.push((i, j));
            }
        }
    }
    pairs
}

/// Returns the output for one sample, whose features lie side by side.
pub fn dots(
    interaction: Interaction,
    features: &[Approx],
    dim: usize,
    has_dense: bool,
) -> Vec<Approx> {
    let Interaction::Dot { pad_to, append_sparse, .. } = interaction else {
        return features.to_vec();
    };
    let feature = |i: usize| features[i * dim..][..dim].iter().copied();
    let mut output = vec![];
    if has_dense {
        output.extend(feature(0));
    }
    for (i, j) in pairs(interaction, features.len() / dim) {
        output.push(Approx::dot(feature(i).zip(feature(j))));
    }
    if append_sparse {
        output.extend(&features[if has_dense { dim } else { 0 }..]);
    }
    while output.len() % pad_to != 0 {
        output.push(Approx::ZERO);
    }
    output
}

/// Returns the gradient of the features of one sample.
pub fn dots_backward(
    interaction: Interaction,
    features: &[Approx],
    dim: usize,
    has_dense: bool,
    grad: &[Approx],
) -> Vec<Approx> {
    let Interaction::Dot { append_sparse, .. } = interaction else { return grad.to_vec() };
    let mut terms = vec![vec![]; features.len()];
    let direct = if has_dense { dim } else { 0 };
    for (column, &g) in grad[..direct].iter().enumerate() {
        terms[column].push(g);
    }
    let pairs = pairs(interaction, features.len() / dim);
    if append_sparse {
        let appended = &grad[direct + pairs.len()..];
        terms[direct..].iter_mut().zip(appended).for_each(|(terms, g)| terms.push(*g));
    }
    for (&g, (i, j)) in grad[direct..].iter().zip(pairs) {
        for d in 0..dim {
            let (x, y) = (features[i * dim + d], features[j * dim + d]);
            terms[i * dim + d].push(g * y);
            terms[j * dim + d].push(g * x);
        }
    }
    terms.iter().map(|terms| Approx::sum(terms)).collect()
}

/// Returns `act(X Wᵀ + b)`, with `X` `[m, k]` and `W` `[n, k]`.
pub fn linear(
    x: &[Approx],
    weight: &[Approx],
    bias: &[Approx],
    (m, n, k): (usize, usize, usize),
    relu: bool,
) -> Vec<Approx> {
    let mut output = vec![];
    for r in 0..m {
        for c in 0..n {
            let mut terms: Vec<Approx> = (0..k).map(|i| x[r * k + i] * weight[c * k + i]).collect();
            terms.push(bias[c]);
            let y = Approx::sum(&terms);
            // ReLU increases no error, and leaves none if the value is certain to be negative.
            let error = if y.value + y.error < 0.0 { 0.0 } else { y.error };
            output.push(if relu && y.value < 0.0 { Approx { value: 0.0, error } } else { y });
        }
    }
    output
}

/// The gradients that the backward pass of a layer computes.
pub struct LayerGrads {
    /// The gradient of the output before the activation.
    pub affine: Vec<Approx>,
    /// The gradient of the input.
    pub input: Vec<Approx>,
    /// The gradient of the weight.
    pub weight: Vec<Approx>,
    /// The gradient of the bias.
    pub bias: Vec<Approx>,
}

/// Computes the backward pass of [`linear`] from the output and its gradient. Gradients of weight
/// and bias are added to `before`, if it is given.
pub fn linear_backward(
    [x, weight, output, grad_output]: [&[Approx]; 4],
    (m, n, k): (usize, usize, usize),
    activation: Activation,
    before: Option<(&[Approx], &[Approx])>,
) -> LayerGrads {
    let z_of = |y: &Approx, g: &Approx| match activation {
        // The exact output may be 0 or not: the bound covers both.
        Activation::Relu if y.value <= y.error && y.error > 0.0 => {
            let value = if y.value > 0.0 { g.value } else { 0.0 };
            Approx { value, error: g.value.abs() + g.error }
        }
        Activation::Relu if y.value <= 0.0 => Approx::ZERO,
        _ => *g,
    };
    let z: Vec<Approx> = output.iter().zip(grad_output).map(|(y, g)| z_of(y, g)).collect();
    let (mut grad_input, mut grad_weight, mut grad_bias) = (vec![], vec![], vec![]);
    for r in 0..m {
        for i in 0..k {
            grad_input.push(Approx::dot((0..n).map(|c| (z[r * n + c], weight[c * k + i]))));
        }
    }
    for c in 0..n {
        for i in 0..k {
            let mut terms: Vec<Approx> = (0..m).map(|r| z[r * n + c] * x[r * k + i]).collect();
            terms.extend(before.map(|(weight, _)| weight[c * k + i]));
            grad_weight.push(Approx::sum(&terms));
        }
        let mut terms: Vec<Approx> = (0..m).map(|r| z[r * n + c]).collect();
        terms.extend(before.map(|(_, bias)| bias[c]));
        grad_bias.push(Approx::sum(&terms));
    }
    LayerGrads { affine: z, input: grad_input, weight: grad_weight, bias: grad_bias }
}

/// A mean loss with its gradient. The errors are those of `f64`, in which the op is documented to
/// work: each term takes about ten operations, bounded here by 16 of unit roundoff 2⁻⁵³ and of
/// magnitude at most 1 + |z|; the mean adds up `n` terms. An error of the logits is multiplied by
/// the slope of the loss, at most 1, or of the gradient, at most 1/2, and by the weight of the
/// label.
pub struct MeanLoss {
    /// The mean loss.
    pub mean: Approx,
    /// Its gradient with respect to each logit.
    pub grad: Vec<Approx>,
}

/// Returns the mean loss of a batch.
pub fn mean_loss(loss: Loss, threshold: f32, logits: &[Approx], labels: &[f64]) -> MeanLoss {
    const F64_U: f64 = f64::EPSILON / 2.0;
    let (n, t) = (logits.len().max(1) as f64, f64::from(threshold));
    let (mut terms, mut errors, mut grad) = (vec![], vec![], vec![]);
    for (&Approx { value: z, error: off }, &y) in logits.iter().zip(labels) {
        let p = 1.0 / (1.0 + (-z).exp());
        let inside = t == 0.0 || (t <= p && p <= 1.0 - t);
        let q = if inside { p } else { p.max(t).min(1.0 - t) };
        // ln p = -ln(1 + e⁻ᶻ), ln(1 - p) = -ln(1 + eᶻ): softplus, which equals z for a large z.
        let softplus = |z: f64| if z > 40.0 { z } else { z.exp().ln_1p() };
        let (log_p, log_not_p) =
            if inside { (-softplus(-z), -softplus(z)) } else { (q.ln(), (1.0 - q).ln()) };
        let weight = match loss {
            Loss::WeightedBce { negative, positive } => {
                f64::from(if y >= 0.5 { positive } else { negative })
            }
            _ => 1.0,
        };
        let (value, slope) = match loss {
            Loss::Mse => ((q - y).powi(2), 2.0 * (q - y) * p * (1.0 - p)),
            _ => (-weight * (y * log_p + (1.0 - y) * log_not_p), weight * (p - y)),
        };
        let error = 16.0 * F64_U * weight * (1.0 + z.abs());
        terms.push(value);
        errors.push(error + weight * off);
        grad.push(Approx {
            value: if inside { slope / n } else { 0.0 },
            error: (error + weight * off / 2.0) / n,
        });
    }
    let (sum, magnitude): (f64, f64) = (terms.iter().sum(), terms.iter().map(|t| t.abs()).sum());
    let error = (errors.iter().sum::<f64>() + (n + 2.0) * F64_U * magnitude) / n;
    MeanLoss { mean: Approx { value: sum / n, error }, grad }
}
