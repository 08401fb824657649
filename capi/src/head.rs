//! The last layer, which has one output, with the loss and all gradients of both.

use std::ffi::c_void;

use bagdot::Element;
use bagdot::ops::head::{Forward, Grads, LossAndGrads};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Raw, Typed, dtype_of, matrix, matrix_mut, view, view_mut, view_mut_option, with_element,
};
use crate::error::{Result, guard};
use crate::loss::loss_of;
use crate::types::{CStruct, accum, bagdot_matrix, c_structs, dtype, read_struct, size, write};

/// The last layer: `z = X w + b`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_head {
    /// `sizeof(bagdot_head)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// X, `[batch_size, K]`, of f32, f16 or bf16.
    pub input: *const bagdot_matrix,
    /// w, `[K]`.
    pub weight: *const f32,
    /// b, one value.
    pub bias: *const f32,
    /// The output: the logits z, `[batch_size]`.
    pub logits: *mut f32,
}

/// The loss of the logits, and the gradients, all times `loss_scale`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_head_gradient {
    /// `sizeof(bagdot_head_gradient)`.
    pub struct_size: u32,
    /// A `bagdot_loss_kind`.
    pub kind: i32,
    /// The weight of a sample whose label rounds to 0.
    pub negative: f32,
    /// The weight of a sample whose label rounds to 1.
    pub positive: f32,
    /// The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`.
    pub threshold: f32,
    /// The factor of the gradients, a power of two; 0 for 1.
    pub loss_scale: f32,
    /// A `bagdot_accum`: the treatment of the values that the gradients of w and of biases hold.
    pub accum: i32,
    /// Zero.
    pub reserved: u32,
    /// The labels in [0, 1], `[batch_size]`.
    pub labels: *const f32,
    /// The output: the mean loss, one value.
    pub mean: *mut f64,
    /// The gradient of z, `[batch_size]`.
    pub grad_logits: *mut f32,
    /// The gradient of X, of its type.
    pub grad_input: *const bagdot_matrix,
    /// The gradient of w, `[K]`.
    pub grad_weight: *mut f32,
    /// The gradient of b, one value.
    pub grad_bias: *mut f32,
    /// The gradient of the bias of the layer with ReLU whose output X is, `[K]`: `grad_input` is
    /// then the gradient of that layer's affine map. Null if the gradient of X is wanted as it is.
    pub grad_bias_before: *mut f32,
}

c_structs! { bagdot_head bagdot_head_gradient }

/// # Safety
/// As for [`bagdot_head_forward`].
unsafe fn forward_of<'a, D: Raw, E: Element + Typed>(
    op: &str,
    head: &bagdot_head,
) -> Result<Forward<'a, D, E>> {
    // SAFETY: the caller's promise.
    unsafe {
        let input = matrix::<D, E>(op, "input", head.input)?;
        let weight = view(op, "weight", head.weight, input.cols)?;
        let bias = view(op, "bias", head.bias, 1)?;
        let logits = view_mut(op, "logits", head.logits, input.rows)?;
        Ok(Forward::new(input, weight, bias, logits))
    }
}

/// Computes the logits of a batch.
///
/// # Safety
/// `context` is a context, and `head` to a struct whose pointers are to as much memory of its
/// device as its fields say. `logits` overlaps nothing else. On CUDA all of it stays unchanged
/// until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_head_forward(
    context: *const bagdot_context,
    head: *const bagdot_head,
) -> i32 {
    const OP: &str = "bagdot_head_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let head = read_struct(OP, head)?;
        let dtype = dtype_of(OP, "input", head.input)?;
        on_device!(OP, context, on => with_element!(OP, "input", dtype, E => {
            Ok(forward_of::<_, E>(OP, &head)?.run(&on.device)?)
        }))
    })
}

/// Gets the size in bytes of the workspace of bagdot_head_loss_and_grads() for `inputs` inputs of
/// this type (K).
///
/// # Safety
/// `context` is a context, and `bytes` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_head_workspace_size(
    context: *const bagdot_context,
    input_dtype: i32,
    batch_size: u64,
    inputs: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_head_workspace_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (batch_size, inputs) =
            (size(OP, "batch_size", batch_size)?, size(OP, "inputs", inputs)?);
        let dtype = dtype(OP, "input_dtype", input_dtype)?;
        let words = on_device!(OP, context, on => with_element!(OP, "input_dtype", dtype, E => {
            Ok(LossAndGrads::<_, E>::workspace_len(&on.device, batch_size, inputs))
        }))?;
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

/// Computes the logits of a batch, the mean loss, and all gradients. A bad label is an error as a
/// bad id is: its loss and gradient are 0, and all else is computed.
///
/// # Safety
/// `context` is a context, and `head` and `gradient` to structs whose pointers are to as much
/// memory of its device as their fields say. Outputs and workspace, `workspace_size` bytes at a
/// multiple of 8, overlap nothing else. On CUDA all of it stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_head_loss_and_grads(
    context: *const bagdot_context,
    head: *const bagdot_head,
    gradient: *const bagdot_head_gradient,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_head_loss_and_grads";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (head, gradient) = (read_struct(OP, head)?, read_struct(OP, gradient)?);
        let dtype = dtype_of(OP, "input", head.input)?;
        on_device!(OP, context, on => with_element!(OP, "input", dtype, E => {
            loss_and_grads::<_, E>(OP, on, &head, &gradient, (workspace, workspace_size))
        }))
    })
}

/// # Safety
/// As for [`bagdot_head_loss_and_grads`].
unsafe fn loss_and_grads<D: Raw, E: Element + Typed>(
    op: &str,
    on: &On<D>,
    head: &bagdot_head,
    gradient: &bagdot_head_gradient,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    let loss = loss_of(op, gradient.kind, gradient.negative, gradient.positive)?;
    let accum = accum(op, "gradient.accum", gradient.accum)?;
    // SAFETY: the caller's promise.
    unsafe {
        let forward = forward_of::<D, E>(op, head)?;
        let (m, k) = (forward.input.rows, forward.input.cols);
        let labels = view(op, "labels", gradient.labels, m)?;
        let mean = view_mut(op, "mean", gradient.mean, 1)?;
        let grads = Grads::new(
            view_mut(op, "grad_logits", gradient.grad_logits, m)?,
            matrix_mut(op, "grad_input", gradient.grad_input)?,
            view_mut(op, "grad_weight", gradient.grad_weight, k)?,
            view_mut(op, "grad_bias", gradient.grad_bias, 1)?,
        );
        let grads = match view_mut_option(op, "grad_bias_before", gradient.grad_bias_before, k)? {
            Some(before) => grads.through_relu(before),
            None => grads,
        };
        let words = LossAndGrads::<D, E>::workspace_len(&on.device, m, k);
        on.with_workspace(op, workspace, words, |workspace| {
            let mut step = LossAndGrads::new(loss, forward, labels, mean, grads, workspace)
                .threshold(gradient.threshold)
                .accum(accum);
            if gradient.loss_scale != 0.0 {
                step = step.loss_scale(gradient.loss_scale);
            }
            Ok(step.run(&on.device)?)
        })
    }
}
