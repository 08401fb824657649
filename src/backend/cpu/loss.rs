//! [`loss`](crate::ops::loss) on the CPU. It runs on one thread: a batch has too few logits to be
//! worth a fork.

use super::Cpu;
use crate::error::{Error, Result};
use crate::ops::loss::{Forward, Loss, LossOps, OP};

impl LossOps for Cpu {
    fn loss_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        forward(OP, args)
    }

    fn loss_workspace_len(&self, _batch_size: usize) -> usize {
        0
    }
}

/// Runs [`Forward`] for the op of the name `op`.
pub(super) fn forward(op: &'static str, args: Forward<'_, Cpu>) -> Result<()> {
    let Forward { loss, threshold, loss_scale, logits, labels, mut mean, mut grad_logits, .. } =
        args;
    let scale = if logits.is_empty() { 0.0 } else { 1.0 / logits.len() as f64 };
    let (mut sum, mut bad, mut count) = (0.0, None, 0);
    for (k, (z, y)) in logits.iter().zip(labels.iter()).enumerate() {
        let is_label = (0.0..=1.0).contains(y);
        if !is_label {
            bad = bad.or(Some((k, *y)));
            count += 1;
        }
        let (value, grad) = match is_label {
            true => sample(loss, f64::from(threshold), f64::from(*z), f64::from(*y)),
            false => (0.0, 0.0),
        };
        sum += value;
        if let Some(grads) = grad_logits.as_deref_mut() {
            grads[k] = (grad * scale) as f32 * loss_scale;
        }
    }
    mean[0] = sum * scale;
    bad.map_or(Ok(()), |(position, value)| {
        Err(Error::LabelOutOfRange { op, position, value, count })
    })
}

/// Returns the loss of one sample, and its derivative with respect to the logit.
fn sample(loss: Loss, threshold: f64, z: f64, y: f64) -> (f64, f64) {
    let p = 1.0 / (1.0 + (-z).exp());
    // A NaN is not clamped: its gradient is a NaN, too.
    let clamped = threshold > 0.0 && (p < threshold || p > 1.0 - threshold);
    match loss {
        Loss::Mse => {
            let q = if clamped { p.clamp(threshold, 1.0 - threshold) } else { p };
            ((q - y) * (q - y), if clamped { 0.0 } else { 2.0 * (q - y) * p * (1.0 - p) })
        }
        Loss::BceWithLogits | Loss::WeightedBce { .. } => {
            let weight = match loss {
                Loss::WeightedBce { positive, .. } if y >= 0.5 => f64::from(positive),
                Loss::WeightedBce { negative, .. } => f64::from(negative),
                _ => 1.0,
            };
            let (value, grad) = if clamped {
                let q = p.clamp(threshold, 1.0 - threshold);
                (-y * q.ln() - (1.0 - y) * (1.0 - q).ln(), 0.0)
            } else if z.is_infinite() {
                // The formula below would be ∞ - ∞, or ∞ times 0.
                (if p == y { 0.0 } else { f64::INFINITY }, p - y)
            } else {
                (z.max(0.0) - z * y + (-z.abs()).exp().ln_1p(), p - y)
            };
            (weight * value, weight * grad)
        }
    }
}
