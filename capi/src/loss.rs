//! Losses of a batch of logits, and their gradients.

use std::ffi::c_void;

use bagdot::ops::loss::{Forward, Loss};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{Raw, view, view_mut, view_mut_option};
use crate::error::{Result, guard};
use crate::types::{CStruct, c_structs, conversion, read_struct, size, write};

/// The loss function.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_loss_kind {
    /// Binary cross-entropy of logits.
    BCE_WITH_LOGITS = 0,
    /// Binary cross-entropy with the weights `negative` and `positive`.
    WEIGHTED_BCE = 1,
    /// The squared error of the probability.
    MSE = 2,
}

conversion! {
    loss_kind: bagdot_loss_kind -> bagdot_loss_kind {
        BCE_WITH_LOGITS => bagdot_loss_kind::BCE_WITH_LOGITS,
        WEIGHTED_BCE => bagdot_loss_kind::WEIGHTED_BCE,
        MSE => bagdot_loss_kind::MSE,
    }
}

/// Returns the loss function of a `bagdot_loss_kind` with the weights of its classes.
pub(crate) fn loss_of(op: &str, kind: i32, negative: f32, positive: f32) -> Result<Loss> {
    Ok(match loss_kind(op, "kind", kind)? {
        bagdot_loss_kind::BCE_WITH_LOGITS => Loss::BceWithLogits,
        bagdot_loss_kind::WEIGHTED_BCE => Loss::WeightedBce { negative, positive },
        bagdot_loss_kind::MSE => Loss::Mse,
    })
}

/// The loss of a batch: its options and its memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_loss {
    /// `sizeof(bagdot_loss)`.
    pub struct_size: u32,
    /// A `bagdot_loss_kind`.
    pub kind: i32,
    /// The weight of a sample whose label rounds to 0.
    pub negative: f32,
    /// The weight of a sample whose label rounds to 1.
    pub positive: f32,
    /// The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`.
    pub threshold: f32,
    /// The factor of the gradient, a power of two; 0 for 1.
    pub loss_scale: f32,
    /// The number of samples.
    pub batch_size: u64,
    /// The logits, `[batch_size]`.
    pub logits: *const f32,
    /// The labels in [0, 1], `[batch_size]`.
    pub labels: *const f32,
    /// The output: the mean loss, one value.
    pub mean: *mut f64,
    /// The gradient of the logits, `[batch_size]`; null if it is not needed.
    pub grad_logits: *mut f32,
}

c_structs! { bagdot_loss }

/// Gets the size in bytes of the workspace of bagdot_loss_forward().
///
/// # Safety
/// `context` is a context, and `bytes` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_loss_workspace_size(
    context: *const bagdot_context,
    batch_size: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_loss_workspace_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch_size = size(OP, "batch_size", batch_size)?;
        let words = on_device!(OP, context, on => Forward::workspace_len(&on.device, batch_size));
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

/// Computes the mean loss of a batch and, in the same pass, its gradient. A bad label is an error
/// as a bad id is: its loss and gradient are 0, and those of all others are computed.
///
/// # Safety
/// `context` is a context, and `loss` to a struct whose pointers are to as much memory of its
/// device as its fields say. Outputs and workspace, `workspace_size` bytes at a multiple of 8,
/// overlap nothing else. On CUDA all of it stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_loss_forward(
    context: *const bagdot_context,
    loss: *const bagdot_loss,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_loss_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let loss = read_struct(OP, loss)?;
        on_device!(OP, context, on => forward(OP, on, &loss, (workspace, workspace_size)))
    })
}

/// # Safety
/// As for [`bagdot_loss_forward`].
unsafe fn forward<D: Raw>(
    op: &str,
    on: &On<D>,
    loss: &bagdot_loss,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    let kind = loss_of(op, loss.kind, loss.negative, loss.positive)?;
    let n = size(op, "batch_size", loss.batch_size)?;
    // SAFETY: the caller's promise.
    unsafe {
        let (logits, labels) =
            (view::<D, f32>(op, "logits", loss.logits, n)?, view(op, "labels", loss.labels, n)?);
        let mean = view_mut(op, "mean", loss.mean, 1)?;
        let grad_logits = view_mut_option(op, "grad_logits", loss.grad_logits, n)?;
        let words = Forward::workspace_len(&on.device, n);
        on.with_workspace(op, workspace, words, |workspace| {
            let mut forward =
                Forward::new(kind, logits, labels, mean, workspace).threshold(loss.threshold);
            if loss.loss_scale != 0.0 {
                forward = forward.loss_scale(loss.loss_scale);
            }
            let forward = match grad_logits {
                Some(grad_logits) => forward.grad_logits(grad_logits),
                None => forward,
            };
            Ok(forward.run(&on.device)?)
        })
    }
}
