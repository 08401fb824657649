//! A fully connected layer: `Y = act(X W^T + b)`.

use std::ffi::c_void;

use bagdot::Element;
use bagdot::ops::linear::{Backward, Forward, Pack};

use crate::context::{On, bagdot_context, on_device};
use crate::device::{
    Raw, Typed, dtype_of, matrix, matrix_mut, matrix_mut_option, view, view_mut, with_element,
};
use crate::error::{Result, guard};
use crate::types::{
    CStruct, accum, activation, bagdot_linear, bagdot_matrix, c_structs, dtype, precision,
    read_or_zero, read_struct, size, write,
};

/// Computes `Y = act(X W^T + b)`, with `input` X `[batch_size, K]`, `weight` W `[N, K]`, `bias` b
/// `[N]` and `output` Y `[batch_size, N]`.
///
/// X, W and Y are of one type: f32, f16 or bf16. `packed_weight` is null or the result of
/// bagdot_linear_pack() for W. Null options mean a layer without an activation.
///
/// # Safety
/// `context` is a context, and the other pointers are null or to structs and arrays whose pointers
/// are to as much memory of its device as their fields say. `output` overlaps nothing else. On CUDA
/// all of it stays unchanged until the op has run.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_linear_forward(
    context: *const bagdot_context,
    options: *const bagdot_linear,
    input: *const bagdot_matrix,
    weight: *const bagdot_matrix,
    packed_weight: *const u64,
    bias: *const f32,
    output: *const bagdot_matrix,
) -> i32 {
    const OP: &str = "bagdot_linear_forward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let options = read_or_zero(OP, options)?;
        let dtype = dtype_of(OP, "weight", weight)?;
        on_device!(OP, context, on => with_element!(OP, "weight", dtype, E => {
            let matrices = [input, weight, output];
            forward::<_, E>(OP, on, options, matrices, packed_weight, bias)
        }))
    })
}

/// # Safety
/// As for [`bagdot_linear_forward`].
unsafe fn forward<D: Raw, E: Element + Typed>(
    op: &str,
    on: &On<D>,
    options: bagdot_linear,
    [input, weight, output]: [*const bagdot_matrix; 3],
    packed_weight: *const u64,
    bias: *const f32,
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let input = matrix::<D, E>(op, "input", input)?;
        let weight = matrix(op, "weight", weight)?;
        let bias = view(op, "bias", bias, weight.rows)?;
        let output = matrix_mut(op, "output", output)?;
        let mut forward = Forward::new(input, weight, bias, output)
            .activation(activation(op, "options.activation", options.activation)?)
            .precision(precision(op, "options.precision", options.precision)?);
        if !packed_weight.is_null() {
            let words = Pack::<D, E>::len(&on.device, weight.rows, weight.cols);
            forward = forward.packed_weight(view(op, "packed_weight", packed_weight, words)?);
        }
        Ok(forward.run(&on.device)?)
    }
}

/// Gets the size in bytes of a packed weight `[outputs, inputs]` of this type; 0 if the device does
/// not pack weights.
///
/// # Safety
/// `context` is a context, and `bytes` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_linear_pack_size(
    context: *const bagdot_context,
    weight_dtype: i32,
    outputs: u64,
    inputs: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_linear_pack_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let (outputs, inputs) = (size(OP, "outputs", outputs)?, size(OP, "inputs", inputs)?);
        let dtype = dtype(OP, "weight_dtype", weight_dtype)?;
        let words = on_device!(OP, context, on => with_element!(OP, "weight_dtype", dtype, E => {
            Ok(Pack::<_, E>::len(&on.device, outputs, inputs))
        }))?;
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

/// Packs a weight `[N, K]` into the layout in which matrix products read it, which pays if many
/// batches use it. `packed` has bagdot_linear_pack_size() bytes, at a multiple of 8.
///
/// # Safety
/// As for bagdot_linear_forward(); `packed` overlaps nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_linear_pack(
    context: *const bagdot_context,
    weight: *const bagdot_matrix,
    packed: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_linear_pack";
    /// # Safety
    /// As for the function around this one.
    unsafe fn pack<D: Raw, E: Element + Typed>(
        on: &On<D>,
        weight: *const bagdot_matrix,
        packed: *mut u64,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe {
            let weight = matrix::<D, E>(OP, "weight", weight)?;
            let words = Pack::<D, E>::len(&on.device, weight.rows, weight.cols);
            let packed = view_mut(OP, "packed", packed, words)?;
            Ok(Pack::new(weight, packed).run(&on.device)?)
        }
    }
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let dtype = dtype_of(OP, "weight", weight)?;
        on_device!(OP, context, on => with_element!(OP, "weight", dtype, E => {
            pack::<_, E>(on, weight, packed)
        }))
    })
}

/// Gets the size in bytes of the workspace of bagdot_linear_backward() for a layer
/// `[outputs, inputs]` of this type.
///
/// # Safety
/// `context` is a context, and `bytes` to memory for a number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_linear_backward_workspace_size(
    context: *const bagdot_context,
    weight_dtype: i32,
    batch_size: u64,
    outputs: u64,
    inputs: u64,
    bytes: *mut u64,
) -> i32 {
    const OP: &str = "bagdot_linear_backward_workspace_size";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let batch_size = size(OP, "batch_size", batch_size)?;
        let (outputs, inputs) = (size(OP, "outputs", outputs)?, size(OP, "inputs", inputs)?);
        let dtype = dtype(OP, "weight_dtype", weight_dtype)?;
        let words = on_device!(OP, context, on => with_element!(OP, "weight_dtype", dtype, E => {
            Ok(Backward::<_, E>::workspace_len(&on.device, batch_size, outputs, inputs))
        }))?;
        write(OP, "bytes", bytes, (words as u64).saturating_mul(8))
    })
}

/// The arguments of bagdot_linear_backward().
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_linear_gradient {
    /// `sizeof(bagdot_linear_gradient)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// X of the forward pass.
    pub input: *const bagdot_matrix,
    /// W of the forward pass.
    pub weight: *const bagdot_matrix,
    /// Y of the forward pass.
    pub output: *const bagdot_matrix,
    /// The gradient, `[batch_size, N]`: of Y before the op, of the affine map after it.
    pub grad_output: *const bagdot_matrix,
    /// The gradient of X, overwritten; null if it is not needed.
    pub grad_input: *const bagdot_matrix,
    /// The gradient of W, f32.
    pub grad_weight: *const bagdot_matrix,
    /// The gradient of b, `[N]`.
    pub grad_bias: *mut f32,
}

c_structs! { bagdot_linear_gradient }

/// Computes the gradients of a layer. Null options mean a layer without an activation.
///
/// # Safety
/// As for bagdot_linear_forward(); gradients and workspace, `workspace_size` bytes at a multiple of
/// 8, overlap nothing else.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bagdot_linear_backward(
    context: *const bagdot_context,
    options: *const bagdot_linear,
    gradient: *const bagdot_linear_gradient,
    workspace: *mut c_void,
    workspace_size: u64,
) -> i32 {
    const OP: &str = "bagdot_linear_backward";
    // SAFETY: the caller's promise.
    guard(|| unsafe {
        let options = read_or_zero(OP, options)?;
        let gradient = read_struct(OP, gradient)?;
        let dtype = dtype_of(OP, "weight", gradient.weight)?;
        on_device!(OP, context, on => with_element!(OP, "weight", dtype, E => {
            backward::<_, E>(OP, on, options, &gradient, (workspace, workspace_size))
        }))
    })
}

/// # Safety
/// As for [`bagdot_linear_backward`].
unsafe fn backward<D: Raw, E: Element + Typed>(
    op: &str,
    on: &On<D>,
    options: bagdot_linear,
    gradient: &bagdot_linear_gradient,
    workspace: (*mut c_void, u64),
) -> Result<()> {
    // SAFETY: the caller's promise.
    unsafe {
        let input = matrix::<D, E>(op, "input", gradient.input)?;
        let weight = matrix(op, "weight", gradient.weight)?;
        let output = matrix(op, "output", gradient.output)?;
        let grad_output = matrix_mut(op, "grad_output", gradient.grad_output)?;
        let grad_input = matrix_mut_option(op, "grad_input", gradient.grad_input)?;
        let grad_weight = matrix_mut(op, "grad_weight", gradient.grad_weight)?;
        let grad_bias = view_mut(op, "grad_bias", gradient.grad_bias, weight.rows)?;
        let activation = activation(op, "options.activation", options.activation)?;
        let precision = precision(op, "options.precision", options.precision)?;
        let accum = accum(op, "options.accum", options.accum)?;
        let (m, n, k) = (grad_output.rows, weight.rows, weight.cols);
        let words = Backward::<D, E>::workspace_len(&on.device, m, n, k);
        on.with_workspace(op, workspace, words, |workspace| {
            let backward = Backward::new(
                input,
                weight,
                output,
                grad_output,
                grad_weight,
                grad_bias,
                workspace,
            );
            let backward = backward.activation(activation).precision(precision).accum(accum);
            let backward = match grad_input {
                Some(grad_input) => backward.grad_input(grad_input),
                None => backward,
            };
            Ok(backward.run(&on.device)?)
        })
    }
}
