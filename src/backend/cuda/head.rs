//! [`head`](crate::ops::head) on a CUDA device. The header of kernels/head.cu describes the
//! algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::linear::Parts;
use super::loss::label_weights;
use super::runtime::arrivals::Arrivals;
use super::runtime::launch::Grid;
use super::runtime::module::{ByElement, Module};
use super::runtime::params::head::{self as params, SAMPLES, THREADS};
use super::runtime::params::vec::VECTOR_BYTES;
use super::runtime::pointer::Ptr;
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::head::{Forward, HeadOps, LossAndGrads};
use crate::ops::{Accum, Loss, ViewMut};
use crate::size::{product, sum};

/// The most parts of a batch: two blocks for each multiprocessor of a large device. It is a
/// constant, so that results do not depend on the device.
const MAX_PARTS: usize = 264;

/// The kernels of kernels/head.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    forward: ByElement<params::HeadForward<()>>,
    loss_and_grads: ByElement<params::HeadLossAndGrads<()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "head")?;
        Ok(Self {
            forward: module.by_element("")?,
            loss_and_grads: module.by_element("")?,
            _module: module,
        })
    }
}

/// Returns the parts of a batch, whose lengths are multiples of [`SAMPLES`].
fn parts(batch_size: usize) -> Parts {
    Parts::new(batch_size, SAMPLES, MAX_PARTS)
}

/// Returns whether rows `[_, columns]` of `E` begin and end at multiples of [`VECTOR_BYTES`].
fn is_wide<E>(pointer: Ptr<E>, ld: usize, columns: usize) -> bool {
    let is_multiple = |elements: usize| product([elements, size_of::<E>()]) % VECTOR_BYTES == 0;
    pointer.is_aligned_to(VECTOR_BYTES) && is_multiple(ld) && is_multiple(columns)
}

impl HeadOps for Cuda {
    fn head_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { input, weight, bias, logits } = args;
        let (m, k) = (input.rows, input.cols);
        let (of_input, of_weight) = (input.data.on(self)?, weight.on(self)?);
        let parameters = params::HeadForward {
            input: of_input,
            weight: of_weight,
            bias: bias.on(self)?,
            logits: logits.on(self)?,
            input_ld: input.ld as u64,
            batch_size: m as u64,
            inputs: k as u64,
            wide: u32::from(is_wide(of_input, input.ld, k) && is_wide(of_weight, k, k)),
        };
        let grid = Grid::new((m.div_ceil(SAMPLES) as u32, 1), THREADS);
        // SAFETY: the function is the instance of the kernel for `E`. The op has been validated:
        // the input has the rows, columns and leading dimension that are passed, the weight a value
        // for each column, and the logits, an exclusive view, one for each row.
        unsafe { self.inner.kernels.head.forward.of::<E>().launch(self, grid, parameters) }
    }

    fn head_loss_and_grads<E: Element>(&self, args: LossAndGrads<'_, Self, E>) -> Result<()> {
        let LossAndGrads { forward, loss, threshold, loss_scale, labels, mean, grads, .. } = args;
        let Forward { input, weight, bias, logits } = forward;
        let (m, k, parts) = (input.rows, input.cols, parts(input.rows));
        let (negative, positive) = label_weights(loss);
        let (of_input, of_weight) = (input.data.on(self)?, weight.on(self)?);
        let (grad_input, grad_weight) = (grads.input.data.on(self)?, grads.weight.on(self)?);
        // The parts of the weight come first, where they are aligned.
        let workspace = args.workspace.on(self)?;
        let weight_parts = workspace.cast::<f32>();
        let floats = words_of_parts(parts, k);
        let before_parts = weight_parts.add(parts.room * k);
        let grad_bias_before = ViewMut::on_or_null(&grads.bias_before, self)?;
        let wide = is_wide(of_input, input.ld, k)
            && is_wide(grad_input.as_const(), grads.input.ld, k)
            && is_wide(of_weight, k, k)
            && is_wide(weight_parts.as_const(), k, k);
        let parameters = params::HeadLossAndGrads {
            input: of_input,
            weight: of_weight,
            bias: bias.on(self)?,
            labels: labels.on(self)?,
            logits: logits.on(self)?,
            grad_logits: grads.logits.on(self)?,
            grad_input,
            grad_weight,
            grad_bias: grads.bias.on(self)?,
            grad_bias_before,
            mean: mean.on(self)?,
            weight_parts,
            before_parts,
            bias_parts: before_parts.add(parts.room * k),
            loss_sums: workspace.add(floats).cast::<f64>(),
            arrivals: self.inner.arrivals.of(Arrivals::HEAD),
            input_ld: input.ld as u64,
            grad_input_ld: grads.input.ld as u64,
            batch_size: m as u64,
            inputs: k as u64,
            part_len: parts.len as u64,
            wide: u32::from(wide),
            squared: u32::from(loss == Loss::Mse),
            threshold,
            loss_scale,
            negative,
            positive,
            accumulate: u32::from(args.accum == Accum::Add),
            status: self.inner.faults.pointer(),
        };
        let grid = Grid::new((parts.count.max(1) as u32, 1), THREADS);
        // SAFETY: the function is the instance of the kernel for `E`. The op has been validated:
        // input and its gradient have the rows, columns and leading dimensions that are passed,
        // weight, its gradient and that of the bias before a value for each column, labels, logits
        // and their gradient one for each row, and the workspace has the length of
        // `head_workspace_len`. All memory that is written is an exclusive view, and counters and
        // status are the backend's own.
        unsafe { self.inner.kernels.head.loss_and_grads.of::<E>().launch(self, grid, parameters) }
    }

    fn head_workspace_len<E: Element>(&self, batch_size: usize, inputs: usize) -> usize {
        sum([words_of_parts(parts(batch_size), inputs), batch_size.div_ceil(SAMPLES)])
    }
}

/// Returns the words of the parts of the gradients of the weight, of the bias before, and of the
/// bias.
fn words_of_parts(parts: Parts, inputs: usize) -> usize {
    product([parts.room, sum([inputs, inputs, 1])]).div_ceil(size_of::<u64>() / size_of::<f32>())
}
