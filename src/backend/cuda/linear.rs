//! [`linear`](crate::ops::linear) on a CUDA device: kernels/linear.cu says how.

use super::Cuda;
use super::kernels::{
    Function, Grid, LinearActivationGrad, LinearForward, LinearInputGrad, LinearSumParts, LinearWeightGrad,
};
use crate::error::Result;
use crate::ops::Accum;
use crate::ops::linear::{Activation, Backward, Forward, LinearOps};

/// Threads of a block of the kernels that are no products.
const THREADS: u32 = 256;
/// Blocks that fill a large device: of a product, and of sums over the batch. A constant, so that results do not depend on the device.
const ENOUGH_BLOCKS: usize = 264;
/// The fewest samples that are worth a part of the weight's gradient, and of the bias's.
const LEAST_PART: (usize, usize) = (128, 32);
/// The most parts that the bias's gradient is cut into.
const MOST_BIAS_PARTS: usize = 64;

/// The kernels of a product, one for each shape of tile.
#[derive(Debug)]
pub(super) struct Products {
    pub(super) large: Function,
    pub(super) small: Function,
    /// For products with few columns, if there is one.
    pub(super) narrow: Option<Function>,
}

/// A shape of tiles, as the kernels are compiled.
struct Tile {
    function: Function,
    rows: usize,
    cols: usize,
    threads: u32,
}

impl Products {
    /// The tiles for a product of this size, whose sums are cut into parts where `parts` says so.
    fn tile(&self, rows: usize, cols: usize, in_parts: bool) -> Tile {
        let large = Tile { function: self.large, rows: 128, cols: 128, threads: 256 };
        match self.narrow {
            Some(function) if cols <= 16 => Tile { function, rows: 128, cols: 16, threads: 128 },
            _ if rows > 64 && cols > 64 && (in_parts || 2 * large.count(rows, cols) >= ENOUGH_BLOCKS) => large,
            _ => Tile { function: self.small, rows: 64, cols: 64, threads: 128 },
        }
    }
}

impl Tile {
    /// How many of them there are.
    fn count(&self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(self.rows) * cols.div_ceil(self.cols)
    }

    fn grid(&self, rows: usize, cols: usize, parts: usize) -> Grid {
        Grid::new((self.count(rows, cols) as u32, parts as u32), self.threads)
    }
}

/// Sums over a batch that are cut into parts.
struct Parts {
    /// Samples of a part.
    len: usize,
    count: usize,
    /// At least `count`, and no less for a larger batch.
    room: usize,
}

impl Parts {
    /// At most `most` parts of at least `least` samples.
    fn new(batch_size: usize, least: usize, most: usize) -> Self {
        let len = batch_size.div_ceil(most).next_multiple_of(16).max(least);
        Self { len, count: batch_size.div_ceil(len), room: batch_size.div_ceil(least).min(most) }
    }
}

/// How the gradient of a weight `[outputs, inputs]` is computed.
struct WeightGradPlan {
    tile: Tile,
    /// Whether it is the transposed gradient that is computed, so that the fewer columns are columns of tiles.
    transposed: bool,
    weight: Parts,
    bias: Parts,
}

impl Cuda {
    fn weight_grad_plan(&self, batch_size: usize, outputs: usize, inputs: usize) -> WeightGradPlan {
        let transposed = outputs < inputs && outputs <= 16;
        let (rows, cols) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
        let tile = self.inner.kernels.linear_weight_grad.tile(rows, cols, true);
        let most = ENOUGH_BLOCKS.div_ceil(tile.count(rows, cols).max(1));
        let weight = Parts::new(batch_size, LEAST_PART.0, most);
        WeightGradPlan { tile, transposed, weight, bias: Parts::new(batch_size, LEAST_PART.1, MOST_BIAS_PARTS) }
    }
}

impl LinearOps for Cuda {
    fn linear_forward(&self, args: Forward<'_, Self>) -> Result<()> {
        let Forward { input, weight, bias, activation, output } = args;
        let (m, n, k) = (output.rows, output.cols, input.cols);
        let tile = self.inner.kernels.linear_forward.tile(m, n, false);
        let kernel = LinearForward {
            input: input.data.pointer(),
            weight: weight.data.pointer(),
            bias: bias.pointer(),
            output: output.data.pointer(),
            input_ld: input.ld as u64,
            weight_ld: weight.ld as u64,
            output_ld: output.ld as u64,
            batch_size: m as u64,
            outputs: n as u64,
            inputs: k as u64,
            relu: u32::from(activation == Activation::Relu),
        };
        // SAFETY: the function is one of the kernel's. The op has been validated: each matrix has the rows, columns and distances that are
        // passed, the bias a value for each output, and the output is an exclusive view. There is a block for each tile of the output.
        unsafe { kernel.launch(self, tile.function, tile.grid(m, n, 1)) }
    }

    fn linear_backward(&self, args: Backward<'_, Self>) -> Result<()> {
        let Backward {
            input,
            weight,
            output,
            activation,
            grad_output,
            grad_input,
            grad_weight,
            grad_bias,
            accum,
            workspace,
        } = args;
        let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
        let plan = self.weight_grad_plan(m, n, k);
        let weight_parts = workspace.pointer();
        let bias_parts = weight_parts + (plan.weight.room * n * k * size_of::<f32>()) as u64;
        let output_pointer = if activation == Activation::None { 0 } else { output.data.pointer() };
        let wide = [(output_pointer, output.ld), (grad_output.data.pointer(), grad_output.ld)]
            .iter()
            .all(|(pointer, ld)| pointer.is_multiple_of(16) && ld.is_multiple_of(4))
            && n.is_multiple_of(4);
        let activation_grad = LinearActivationGrad {
            output: output_pointer,
            grad: grad_output.data.pointer(),
            bias_parts,
            output_ld: output.ld as u64,
            grad_ld: grad_output.ld as u64,
            batch_size: m as u64,
            outputs: n as u64,
            part_len: plan.bias.len as u64,
            wide: u32::from(wide),
        };
        // A row of threads is at most a warp, and a thread takes four columns or one.
        let columns = n.div_ceil(32 * if wide { 4 } else { 1 });
        let grid = Grid::new((columns as u32, plan.bias.count as u32), THREADS);
        // SAFETY: the functions are the kernels'. The op has been validated: each matrix has the rows, columns and distances that are passed, and
        // what is written is an exclusive view. The workspace is as long as `linear_backward_workspace_len` says, which has room for all parts of
        // the weight's gradient, and behind them for those of the bias's. Each launch reads what launches before it on the same stream wrote.
        unsafe { activation_grad.launch(self, self.inner.kernels.linear_activation_grad, grid)? };
        if let Some(grad_input) = grad_input {
            let tile = self.inner.kernels.linear_input_grad.tile(m, k, false);
            let kernel = LinearInputGrad {
                grad: grad_output.data.pointer(),
                weight: weight.data.pointer(),
                grad_input: grad_input.data.pointer(),
                grad_ld: grad_output.ld as u64,
                weight_ld: weight.ld as u64,
                grad_input_ld: grad_input.ld as u64,
                batch_size: m as u64,
                outputs: n as u64,
                inputs: k as u64,
            };
            // SAFETY: as above.
            unsafe { kernel.launch(self, tile.function, tile.grid(m, k, 1))? };
        }
        let (z, x) = ((grad_output.data.pointer(), grad_output.ld, n), (input.data.pointer(), input.ld, k));
        let ((a, a_ld, rows), (b, b_ld, cols)) = if plan.transposed { (x, z) } else { (z, x) };
        let (row_stride, col_stride) = if plan.transposed { (1, k) } else { (k, 1) };
        let kernel = LinearWeightGrad {
            a,
            b,
            parts: weight_parts,
            a_ld: a_ld as u64,
            b_ld: b_ld as u64,
            part_stride: (n * k) as u64,
            row_stride: row_stride as u64,
            col_stride: col_stride as u64,
            rows: rows as u64,
            cols: cols as u64,
            batch_size: m as u64,
            part_len: plan.weight.len as u64,
        };
        // SAFETY: as above.
        unsafe { kernel.launch(self, plan.tile.function, plan.tile.grid(rows, cols, plan.weight.count))? };
        let sum = LinearSumParts {
            weight_parts,
            bias_parts,
            grad_weight: grad_weight.data.pointer(),
            grad_bias: grad_bias.pointer(),
            grad_weight_ld: grad_weight.ld as u64,
            outputs: n as u64,
            inputs: k as u64,
            num_weight_parts: plan.weight.count as u32,
            num_bias_parts: plan.bias.count as u32,
            accumulate: u32::from(accum == Accum::Add),
        };
        let blocks = (n * k + n).div_ceil(THREADS as usize);
        // SAFETY: as above.
        unsafe { sum.launch(self, self.inner.kernels.linear_sum_parts, Grid::new((blocks as u32, 1), THREADS)) }
    }

    fn linear_backward_workspace_len(&self, batch_size: usize, outputs: usize, inputs: usize) -> usize {
        let plan = self.weight_grad_plan(batch_size, outputs, inputs);
        let floats = plan.weight.room * outputs * inputs + plan.bias.room * outputs;
        floats.div_ceil(size_of::<u64>() / size_of::<f32>())
    }
}
