//! [`linear`](crate::ops::linear) on a CUDA device. The header of kernels/linear.cu describes the
//! algorithm.

use std::sync::Arc;

use cudarc::driver::CudaContext;

use super::Cuda;
use super::gemm::{Factor, Product};
use super::runtime::arrivals::Arrivals;
use super::runtime::launch::{Function, Grid, Kernel};
use super::runtime::module::{ByElement, Module};
use super::runtime::params::linear::{
    self as params, LARGE_PANELS, LARGE_SIDE, LARGE_THREADS, NARROW_COLS, NARROW_THREADS,
    SMALL_PANELS, SMALL_SIDE, SMALL_THREADS, THREADS, TINY_SIDE, TINY_THREADS,
};
use super::runtime::params::vec::VECTOR_BYTES;
use super::runtime::pointer::{Ptr, PtrMut};
use crate::dtype::Element;
use crate::error::Result;
use crate::ops::linear::{Activation, ActivationGrad, Backward, Forward, LinearOps};
use crate::ops::{Accum, Matrix, MatrixMut, Precision, ViewMut};
use crate::size::{next_multiple, product, sum};

/// The numbers of blocks that fill a large device, with large tiles and with small ones. They are
/// constants, so that results do not depend on the device.
const ENOUGH_BLOCKS: (usize, usize) = (264, 528);
/// The fewest samples of a split-K part of the weight gradient, and of the bias gradient.
const MIN_PART: (usize, usize) = (128, 32);
/// The most split-K parts of the bias gradient.
const MAX_BIAS_PARTS: usize = 64;
/// The kernels of kernels/linear.cu.
#[derive(Debug)]
pub(super) struct Kernels {
    forward: Products<params::LinearForward<()>>,
    input_grad: Products<params::LinearInputGrad<()>>,
    weight_grad: Products<params::LinearWeightGrad<()>>,
    activation_grad: ByElement<params::LinearActivationGrad<()>>,
    _module: Module,
}

impl Kernels {
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let module = Module::load(context, "linear")?;
        Ok(Self {
            forward: Products::find(&module, true)?,
            input_grad: Products::find(&module, false)?,
            weight_grad: Products::find(&module, true)?,
            activation_grad: module.by_element("")?,
            _module: module,
        })
    }
}

/// The kernels of a product, by the shape of their tiles. Only some products have narrow tiles.
#[derive(Debug)]
struct Products<K: Kernel> {
    /// Exact products of `f32`, in tiles of `LARGE_SIDE`.
    large: Function<K>,
    small: Function<K>,
    tiny: Function<K>,
    narrow: Option<Function<K>>,
    /// Products on the tensor cores, which round factors of `f32` to tf32.
    mma_large: ByElement<K>,
    mma_small: ByElement<K>,
}

/// A kernel, and the shape of its tiles: rows and columns of a tile, threads of a block, and bytes
/// of dynamic shared memory of a block.
struct Tile<K> {
    function: Function<K>,
    rows: usize,
    cols: usize,
    threads: usize,
    shared: usize,
}

/// The number of blocks that keeps half of a large device busy. If there are fewer tiles, smaller
/// ones are faster, although they read the factors more often.
const FEW_BLOCKS: usize = 66;

/// Returns whether a matrix is large enough for large tiles.
fn takes_large_tiles(rows: usize, cols: usize) -> bool {
    rows > SMALL_SIDE && cols > SMALL_SIDE
}

fn tiles(rows: usize, cols: usize, side: usize) -> usize {
    product([rows.div_ceil(side), cols.div_ceil(side)])
}

impl<K: Kernel> Products<K> {
    fn find(module: &Module, has_narrow: bool) -> Result<Self> {
        let exact = |tile: &str| module.instance(&format!("_{tile}_f32"));
        let mma = |tile: &str, shared: usize| -> Result<ByElement<K>> {
            let kernels = module.by_element(&format!("_mma_{tile}"))?;
            let allow = |kernel| module.allow_shared(kernel, shared as u32);
            kernels.all().into_iter().try_for_each(allow)?;
            Ok(kernels)
        };
        Ok(Self {
            large: exact("large")?,
            small: exact("small")?,
            tiny: exact("tiny")?,
            narrow: if has_narrow { Some(exact("narrow")?) } else { None },
            mma_large: mma("large", LARGE_PANELS)?,
            mma_small: mma("small", SMALL_PANELS)?,
        })
    }

    /// Returns the tiles for an output of this size whose sums are split into `parts` split-K
    /// parts: the largest tiles that make enough blocks. Large tiles need at least `enough_large`
    /// blocks.
    fn tile<E: Element>(
        &self,
        precision: Precision,
        (rows, cols): (usize, usize),
        parts: usize,
        enough_large: usize,
    ) -> Tile<K> {
        let blocks = |side| product([tiles(rows, cols, side), parts]);
        let is_large = takes_large_tiles(rows, cols) && blocks(LARGE_SIDE) >= enough_large;
        let square = |function, side, threads, shared| Tile {
            function,
            rows: side,
            cols: side,
            threads,
            shared,
        };
        match (precision.is_exact::<E>(), self.narrow) {
            (true, Some(function)) if cols <= NARROW_COLS => Tile {
                function,
                rows: LARGE_SIDE,
                cols: NARROW_COLS,
                threads: NARROW_THREADS,
                shared: 0,
            },
            (true, _) if is_large => square(self.large, LARGE_SIDE, LARGE_THREADS, 0),
            (true, _) if blocks(SMALL_SIDE) >= FEW_BLOCKS => {
                square(self.small, SMALL_SIDE, SMALL_THREADS, 0)
            }
            (true, _) => square(self.tiny, TINY_SIDE, TINY_THREADS, 0),
            (false, _) if is_large => {
                square(self.mma_large.of::<E>(), LARGE_SIDE, LARGE_THREADS, LARGE_PANELS)
            }
            (false, _) => square(self.mma_small.of::<E>(), SMALL_SIDE, SMALL_THREADS, SMALL_PANELS),
        }
    }

    /// Returns the tiles for an output of this size without split-K.
    fn tile_of_whole_sums<E: Element>(
        &self,
        precision: Precision,
        sizes: (usize, usize),
    ) -> Tile<K> {
        self.tile::<E>(precision, sizes, 1, ENOUGH_BLOCKS.0 / 2)
    }
}

impl<K> Tile<K> {
    /// Returns the number of tiles of a matrix.
    fn count(&self, rows: usize, cols: usize) -> usize {
        rows.div_ceil(self.rows) * cols.div_ceil(self.cols)
    }

    fn grid(&self, rows: usize, cols: usize, parts: usize) -> Grid {
        let blocks = self.count(rows, cols);
        Grid {
            shared: self.shared as u32,
            ..Grid::new((blocks as u32, parts as u32), self.threads)
        }
    }
}

/// The split-K parts of sums over a batch.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    /// The number of samples of a part.
    pub(super) len: usize,
    pub(super) count: usize,
    /// The number of parts in the workspace: at least `count` and 1, and no less for a larger
    /// batch.
    pub(super) room: usize,
}

impl Parts {
    /// Splits a batch into at most `most` parts of at least `least` samples, but for the last part.
    pub(super) fn new(batch_size: usize, least: usize, most: usize) -> Self {
        let len = next_multiple(batch_size.div_ceil(most), 32).max(least);
        Self {
            len,
            count: batch_size.div_ceil(len),
            room: batch_size.div_ceil(least).clamp(1, most),
        }
    }

    /// Returns the parts of the gradient of a weight `[outputs, inputs]`: as many as fill a device.
    fn of_weight_grad(batch_size: usize, outputs: usize, inputs: usize) -> Self {
        let (enough, side) = if takes_large_tiles(outputs, inputs) {
            (ENOUGH_BLOCKS.0, LARGE_SIDE)
        } else {
            (ENOUGH_BLOCKS.1, SMALL_SIDE)
        };
        Self::new(batch_size, MIN_PART.0, enough.div_ceil(tiles(outputs, inputs, side).max(1)))
    }

    fn of_bias_grad(batch_size: usize) -> Self {
        Self::new(batch_size, MIN_PART.1, MAX_BIAS_PARTS)
    }

    /// Returns these parts, or a single one if there are not enough counters for the groups of
    /// blocks, or no samples: the gradient of no samples is zeros, which one part writes.
    fn for_counters(&self, groups: usize, counters: usize, batch_size: usize) -> Self {
        match groups <= counters && self.count > 1 {
            true => *self,
            false => Self { len: batch_size.max(1), count: 1, room: self.room },
        }
    }
}

/// Returns the most rows of tiles of an output of `rows` rows, no less for more rows. Tiny tiles
/// make up only fewer than `FEW_BLOCKS` small ones.
fn most_row_tiles(rows: usize) -> usize {
    rows.div_ceil(SMALL_SIDE).max(rows.div_ceil(TINY_SIDE).min(2 * FEW_BLOCKS))
}

/// The gradient of the bias of a layer with ReLU, whose output is the input of the layer at hand.
struct BiasBefore<'a, E: Element> {
    input: Matrix<'a, Cuda, E>,
    /// The workspace.
    parts: PtrMut<f32>,
    grad_bias: ViewMut<'a, Cuda, f32>,
    accum: Accum,
}

impl LinearOps for Cuda {
    fn linear_forward<E: Element>(&self, args: Forward<'_, Self, E>) -> Result<()> {
        let Forward { input, weight, bias, rounded_bias, activation, precision, output, .. } = args;
        let (m, n, k) = (output.rows, output.cols, input.cols);
        let product = Product {
            left: Factor::new(input.data.on(self)?, input.ld),
            right: Factor::new(weight.data.on(self)?, weight.ld).transposed(),
            terms: k,
            precision,
            bias: Some((bias, activation)),
            rounded_bias,
            accum: Accum::Replace,
        };
        // SAFETY: the op has been validated: each matrix has elements of `E` and the rows, columns
        // and leading dimension that are passed, and the bias has a value for each output.
        if unsafe { self.multiply::<E, E>(product, &output)? } {
            return Ok(());
        }
        let tile = self.inner.kernels.linear.forward.tile_of_whole_sums::<E>(precision, (m, n));
        let parameters = params::LinearForward {
            input: input.data.on(self)?,
            weight: weight.data.on(self)?,
            bias: bias.on(self)?,
            output: output.data.on(self)?,
            input_ld: input.ld as u64,
            weight_ld: weight.ld as u64,
            output_ld: output.ld as u64,
            batch_size: m as u64,
            outputs: n as u64,
            inputs: k as u64,
            relu: u32::from(activation == Activation::Relu),
        };
        // SAFETY: the function is an instance of the kernel for `E`. The op has been validated:
        // each matrix has the rows, columns and leading dimension that are passed, the bias has a
        // value for each output, and the output is an exclusive view. There is a block for each
        // tile of the output.
        unsafe { tile.function.launch(self, tile.grid(m, n, 1), parameters) }
    }

    fn linear_backward<E: Element>(&self, args: Backward<'_, Self, E>) -> Result<()> {
        let Backward {
            input, weight, output, activation, precision, grad_output, grad_input, ..
        } = args;
        let Backward { grad_weight, grad_bias, grad_bias_before, accum, workspace, branch, .. } =
            args;
        let (m, n, k) = (grad_output.rows, grad_output.cols, input.cols);
        let of_weight = Parts::of_weight_grad(m, n, k);
        let workspace = workspace.on(self)?.cast::<f32>();
        // The gradient of the weight is computed by the branch, if there is one.
        let (on, weight_parts, bias_parts) = match &branch {
            Some((branch, of_branch)) => (*branch, of_branch.on(branch)?.cast::<f32>(), workspace),
            None => (self, workspace, workspace.add(of_weight.room * n * k)),
        };
        if let Some(grad_bias) = grad_bias {
            let output = (activation != Activation::None).then_some(output);
            self.activation_grad(output, &grad_output, bias_parts, (grad_bias, accum))?;
        }
        if branch.is_some() {
            on.follow(self)?;
        }
        if let Some(grad_input) = grad_input {
            let before = grad_bias_before.map(|grad_bias| BiasBefore {
                input,
                parts: bias_parts,
                grad_bias,
                accum,
            });
            self.input_grad(&grad_output, &weight, precision, &grad_input, before)?;
        }
        let product = Product {
            left: Factor::new(grad_output.data.on(self)?.as_const(), grad_output.ld).transposed(),
            right: Factor::new(input.data.on(self)?, input.ld),
            terms: m,
            precision,
            bias: None,
            rounded_bias: None,
            accum,
        };
        // SAFETY: the op has been validated: each matrix has the element type, rows, columns and
        // leading dimension that are passed; there is no bias.
        let is_done = unsafe { on.multiply::<E, f32>(product, &grad_weight)? };
        if is_done {
            return Ok(());
        }
        let parts = (weight_parts, &of_weight);
        on.weight_grad(&grad_output, &input, precision, parts, (&grad_weight, accum))
    }

    fn linear_activation_grad<E: Element>(&self, args: ActivationGrad<'_, Self, E>) -> Result<()> {
        let ActivationGrad { output, activation, grad_output, grad_bias, accum, workspace } = args;
        let output = (activation != Activation::None).then_some(output);
        let parts = workspace.on(self)?.cast::<f32>();
        self.activation_grad(output, &grad_output, parts, (grad_bias, accum))
    }

    fn linear_backward_workspace_len<E: Element>(
        &self,
        batch_size: usize,
        outputs: usize,
        inputs: usize,
    ) -> usize {
        let of_weight = Parts::of_weight_grad(batch_size, outputs, inputs);
        let columns = if batch_size == 0 { 0 } else { outputs.max(inputs) };
        let of_bias = product([Parts::of_bias_grad(batch_size).room, columns]);
        let of_tiles = product([most_row_tiles(batch_size), inputs]);
        let floats = sum([product([of_weight.room, outputs, inputs]), of_bias.max(of_tiles)]);
        floats.div_ceil(size_of::<u64>() / size_of::<f32>())
    }
}

impl Cuda {
    /// Computes `grad_input = grad weight`, and with `before` the gradient through the ReLU before
    /// the layer.
    fn input_grad<E: Element>(
        &self,
        grad: &MatrixMut<'_, Self, E>,
        weight: &Matrix<'_, Self, E>,
        precision: Precision,
        grad_input: &MatrixMut<'_, Self, E>,
        before: Option<BiasBefore<'_, E>>,
    ) -> Result<()> {
        // The gradient through ReLU, in a launch of its own.
        let through_relu = |BiasBefore { input, parts, grad_bias, accum }: BiasBefore<'_, E>| {
            self.activation_grad(Some(input), grad_input, parts, (grad_bias, accum))
        };
        let product = Product {
            left: Factor::new(grad.data.on(self)?.as_const(), grad.ld),
            right: Factor::new(weight.data.on(self)?, weight.ld),
            terms: grad.cols,
            precision,
            bias: None,
            rounded_bias: None,
            accum: Accum::Replace,
        };
        // SAFETY: the op has been validated: each matrix has elements of `E` and the rows, columns
        // and leading dimension that are passed.
        if unsafe { self.multiply::<E, E>(product, grad_input)? } {
            return before.map_or(Ok(()), through_relu);
        }
        let (m, k) = (grad_input.rows, grad_input.cols);
        let tile = self.inner.kernels.linear.input_grad.tile_of_whole_sums::<E>(precision, (m, k));
        // There is a counter for each column of tiles, and a tile that writes the column sums.
        let (fused, alone) = match before {
            Some(before) if m > 0 && k.div_ceil(tile.cols) <= Arrivals::BIAS_RUNS => {
                (Some(before), None)
            }
            other => (None, other),
        };
        let (input, input_ld, bias_parts, grad_bias, accum) = match &fused {
            Some(BiasBefore { input, parts, grad_bias, accum }) => {
                (input.data.on(self)?, input.ld, *parts, grad_bias.on(self)?, *accum)
            }
            None => (Ptr::NULL, 0, PtrMut::NULL, PtrMut::NULL, Accum::Replace),
        };
        let parameters = params::LinearInputGrad {
            grad: grad.data.on(self)?.as_const(),
            weight: weight.data.on(self)?,
            grad_input: grad_input.data.on(self)?,
            input,
            bias_parts,
            grad_bias,
            arrivals: self.inner.arrivals.of(Arrivals::BIAS_GRAD),
            grad_ld: grad.ld as u64,
            weight_ld: weight.ld as u64,
            grad_input_ld: grad_input.ld as u64,
            input_ld: input_ld as u64,
            batch_size: m as u64,
            outputs: grad.cols as u64,
            inputs: k as u64,
            accumulate: u32::from(accum == Accum::Add),
        };
        // SAFETY: as above, and the function is an instance of the kernel for `E`. Earlier launches
        // on this stream have written what is read. There is a block for each tile of the output,
        // which is an exclusive view. With `before`, the input has the rows and columns of the
        // output, the workspace has room for a row of column sums for each row of tiles, and there
        // is a counter for each column of tiles.
        unsafe { tile.function.launch(self, tile.grid(m, k, 1), parameters)? };
        alone.map_or(Ok(()), through_relu)
    }

    /// Computes `gradᵀ input` in split-K parts.
    fn weight_grad<E: Element>(
        &self,
        grad: &MatrixMut<'_, Self, E>,
        input: &Matrix<'_, Self, E>,
        precision: Precision,
        (weight_parts, parts): (PtrMut<f32>, &Parts),
        (grad_weight, accum): (&MatrixMut<'_, Self, f32>, Accum),
    ) -> Result<()> {
        let (m, n, k) = (grad.rows, grad.cols, input.cols);
        // If the gradient has few rows, its transpose is computed instead, which has few columns
        // and fits narrow tiles.
        let transposed = n < k && n <= NARROW_COLS;
        let z = (grad.data.on(self)?.as_const(), grad.ld, n);
        let x = (input.data.on(self)?, input.ld, k);
        let ((a, a_ld, rows), (b, b_ld, cols)) = if transposed { (x, z) } else { (z, x) };
        let (row_stride, col_stride) = if transposed { (1, k) } else { (k, 1) };
        let tile = self.inner.kernels.linear.weight_grad.tile::<E>(
            precision,
            (rows, cols),
            parts.count,
            FEW_BLOCKS,
        );
        // A gradient that is split has fewer than `ENOUGH_BLOCKS` tiles.
        let parts = parts.for_counters(tile.count(rows, cols), Arrivals::WEIGHT_TILES, m);
        let parameters = params::LinearWeightGrad {
            a,
            b,
            parts: weight_parts,
            grad_weight: grad_weight.data.on(self)?,
            arrivals: self.inner.arrivals.of(Arrivals::WEIGHT_GRAD),
            a_ld: a_ld as u64,
            b_ld: b_ld as u64,
            part_stride: (n * k) as u64,
            row_stride: row_stride as u64,
            col_stride: col_stride as u64,
            rows: rows as u64,
            cols: cols as u64,
            batch_size: m as u64,
            part_len: parts.len as u64,
            grad_weight_ld: grad_weight.ld as u64,
            accumulate: u32::from(accum == Accum::Add),
        };
        let grid = tile.grid(rows, cols, parts.count);
        // SAFETY: as above. The workspace has the length of `linear_backward_workspace_len`: room
        // for all parts of the weight gradient, and behind them for all parts of the bias gradient.
        // There is a counter for each tile. The gradient is an exclusive view.
        unsafe { tile.function.launch(self, grid, parameters) }
    }

    /// Computes the gradient of the affine map in place, and its column sums in parts. `output` is
    /// `None` if there is no activation.
    fn activation_grad<E: Element>(
        &self,
        output: Option<Matrix<'_, Self, E>>,
        grad: &MatrixMut<'_, Self, E>,
        bias_parts: PtrMut<f32>,
        (mut grad_bias, accum): (ViewMut<'_, Self, f32>, Accum),
    ) -> Result<()> {
        let bias = grad_bias.on(self)?;
        if grad.rows == 0 {
            // There is no room for parts of a batch without samples, whose sums are zeros.
            return match accum {
                Accum::Replace => grad_bias.clear(self.raw_stream()),
                Accum::Add => Ok(()),
            };
        }
        let (output, output_ld) = match output {
            Some(output) => (output.data.on(self)?, output.ld),
            None => (Ptr::NULL, 0),
        };
        let columns = VECTOR_BYTES / size_of::<E>();
        let is_wide = |pointer: Ptr<E>, ld: usize| {
            pointer.is_aligned_to(VECTOR_BYTES) && ld.is_multiple_of(columns)
        };
        let wide = grad.cols.is_multiple_of(columns)
            && is_wide(grad.data.on(self)?.as_const(), grad.ld)
            && is_wide(output, output_ld);
        // The threads of a block lie in rows of at most a warp, with a vector of columns each if
        // `wide`, else with one column.
        let blocks = grad.cols.div_ceil(32 * if wide { columns } else { 1 });
        let parts = Parts::of_bias_grad(grad.rows);
        let parts = parts.for_counters(blocks, Arrivals::BIAS_RUNS, grad.rows);
        let parameters = params::LinearActivationGrad {
            output,
            grad: grad.data.on(self)?,
            bias_parts,
            grad_bias: bias,
            arrivals: self.inner.arrivals.of(Arrivals::BIAS_GRAD),
            output_ld: output_ld as u64,
            grad_ld: grad.ld as u64,
            batch_size: grad.rows as u64,
            outputs: grad.cols as u64,
            part_len: parts.len as u64,
            wide: u32::from(wide),
            accumulate: u32::from(accum == Accum::Add),
        };
        let grid = Grid::new((blocks as u32, parts.count as u32), THREADS);
        // SAFETY: the function is the instance of the kernel for `E`. The op has been validated:
        // output and gradient have the same rows and columns, the gradient is an exclusive view,
        // and the workspace has room for all parts.
        unsafe {
            self.inner.kernels.linear.activation_grad.of::<E>().launch(self, grid, parameters)
        }
    }
}
