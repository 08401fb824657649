//! Every kernel's signature, declared once, and the only place that launches anything.
//!
//! A kernel is declared as a struct of its parameters, in their order. A test compares
//! [`SIGNATURES`] with the `.param` lists of the compiled PTX, so a launch cannot pass anything
//! that the kernel does not expect.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::driver::{capability, check};
use super::linear::Products;
use super::{Cuda, images, sparse_update};
use crate::dtype::{DType, Element, Index};
use crate::error::{Error, Result};

/// The type of a parameter of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// 32 bits.
    U32,
    /// 64 bits: a number or a pointer.
    U64,
    /// A number of single precision.
    F32,
}

/// The signature of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The kernel file that it is in.
    pub stem: &'static str,
    /// Its name; if there are several instances, without the types that they are for.
    pub name: &'static str,
    /// How many instances there are: 9 if it is there for every pair of storage types, 6 if for
    /// every storage type with every type of ids, 3 if for every storage type, 2 if for both widths
    /// of ids or of keys, else 1.
    pub instances: usize,
    /// Its parameters, in their order: those that several kernels share are one entry.
    pub parameters: &'static [&'static [Parameter]],
}

/// What a launch passes: the address of each parameter. No kernel has more of them than there is
/// room for.
struct Arguments {
    addresses: [*mut c_void; 64],
    len: usize,
}

impl Arguments {
    fn new() -> Self {
        Self { addresses: [std::ptr::null_mut(); 64], len: 0 }
    }

    fn add<T>(&mut self, parameter: &mut T) {
        self.addresses[self.len] = (&raw mut *parameter).cast();
        self.len += 1;
    }
}

/// The types that a field of a kernel can have: those of parameters, and groups of parameters that
/// several kernels share.
trait Kind {
    const PARAMETERS: &'static [Parameter];
    fn add_to(&mut self, arguments: &mut Arguments);
}
macro_rules! kind {
    ($($kind:ty: $parameter:ident),+) => {
        $(
            impl Kind for $kind {
                const PARAMETERS: &'static [Parameter] = &[Parameter::$parameter];
                fn add_to(&mut self, arguments: &mut Arguments) {
                    arguments.add(self);
                }
            }
        )+
    };
}
kind!(u32: U32, u64: U64, f32: F32);

/// Declares groups of parameters, as [`kernels!`] declares kernels.
macro_rules! groups {
    ($($(#[$doc:meta])* $Group:ident { $($parameter:ident: $kind:ty),+ $(,)? })+) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy)]
            pub(super) struct $Group {
                $(pub(super) $parameter: $kind,)+
            }

            impl Kind for $Group {
                const PARAMETERS: &'static [Parameter] = &[$(<$kind as Kind>::PARAMETERS[0]),+];
                fn add_to(&mut self, arguments: &mut Arguments) {
                    $(self.$parameter.add_to(arguments);)+
                }
            }
        )+
    };
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// Blocks.
    pub(super) blocks: (u32, u32),
    /// Threads of a block.
    pub(super) threads: u32,
    /// Bytes of dynamic shared memory of a block.
    pub(super) shared: u32,
}

impl Grid {
    /// Enough blocks to fill any device.
    pub(super) const FILLING: usize = 4096;
    /// The limit of the second dimension.
    pub(super) const MAX_Y: usize = 65_535;

    /// Without dynamic shared memory.
    pub(super) fn new(blocks: (u32, u32), threads: u32) -> Self {
        Self { blocks, threads, shared: 0 }
    }

    /// For a kernel whose blocks, `most` at most, loop over `work` of the threads.
    pub(super) fn looping(work: usize, threads: u32, most: usize) -> Self {
        Self::new((work.div_ceil(threads as usize).min(most) as u32, 1), threads)
    }
}

/// Declares kernels: a struct of parameters with a `launch` for each, under one name or several,
/// and the table of their signatures.
macro_rules! kernels {
    ($($(#[$doc:meta])* $Kernel:ident = $stem:literal $($name:literal * $instances:literal),+ { $($parameter:ident: $kind:ty),+ $(,)? })+) => {
        $(
            $(#[$doc])*
            pub(super) struct $Kernel {
                $(pub(super) $parameter: $kind,)+
            }

            impl $Kernel {
                const PARAMETERS: &[&[Parameter]] = &[$(<$kind as Kind>::PARAMETERS),+];

                /// Launches the kernel on the backend's stream. An empty grid is no launch.
                ///
                /// # Safety
                /// `function` must be this kernel for the types that the pointers point to. Each
                /// pointer must be null where the kernel says that it may be, else point to as many
                /// elements as the kernel reads or writes for these sizes, and what is written must
                /// be nobody else's until the launch has run.
                pub(super) unsafe fn launch(mut self, cuda: &Cuda, function: Function, grid: Grid) -> Result<()> {
                    let mut arguments = Arguments::new();
                    $(self.$parameter.add_to(&mut arguments);)+
                    // SAFETY: the parameters are those of the kernel, by the test of `SIGNATURES`,
                    // and stay in their places until the launch has been made; for what they say
                    // the caller vouches.
                    unsafe { cuda.launch(function, grid, &mut arguments.addresses[..arguments.len]) }
                }
            }
        )+

        /// All kernels.
        pub static SIGNATURES: &[Signature] = &[
            $($(Signature { stem: $stem, name: $name, instances: $instances, parameters: $Kernel::PARAMETERS },)+)+
        ];
    };
}

groups! {
    /// What the gradient of rows is made of: see kernels/common/row_gradient.cuh.
    RowGradientSource {
        features: u64,
        tables: u64,
        rows: u64,
        segments: u64,
        positions: u64,
        bags: u64,
        bag_lengths: u64,
        counts: u64,
        offsets: u64,
        per_sample_weights: u64,
        grad_output: u64,
        argmax: u64,
        run_sums: u64,
        grad_output_ld: u64,
        argmax_ld: u64,
        run_sums_ld: u64,
        num_tables: u32,
        num_indices: u32,
        num_bags: u32,
        batch_size: u32,
        offset_bytes: u32,
        is_wide: u32,
        max_gradient: f32,
    }
    /// What the forward pass of the interaction reads and writes: see kernels/common/pairs.cuh.
    InteractionForwardMatrices {
        head: u64,
        tail: u64,
        output: u64,
        head_ld: u64,
        tail_ld: u64,
        output_ld: u64,
        width: u64,
        num_features: u32,
        dim: u32,
        flags: u32,
    }
    /// The same of the backward pass.
    InteractionBackwardMatrices {
        head: u64,
        tail: u64,
        grad_output: u64,
        grad_head: u64,
        grad_tail: u64,
        head_ld: u64,
        tail_ld: u64,
        grad_output_ld: u64,
        grad_head_ld: u64,
        grad_tail_ld: u64,
        num_features: u32,
        dim: u32,
        flags: u32,
    }
    /// What an optimizer step changes, and how: see kernels/sparse_update.cu.
    OptimizerTarget {
        decay_scale: u64,
        weights: u64,
        first: u64,
        second: u64,
        seed: u64,
        step_number: u64,
        is_stochastic: u32,
        is_wide_target: u32,
    }
    /// An optimizer step, the same for all parameters: see kernels/common/optimizer.cuh.
    OptimizerStep {
        optimizer: u32,
        learning_rate: f32,
        l2: f32,
        shrink: f32,
        eps: f32,
        beta1: f32,
        beta2: f32,
        first_correction: f32,
        second_correction: f32,
    }
    /// What a step finds on the device: see kernels/common/optimizer.cuh.
    StepPointers {
        values: u64,
        gate: u64,
    }
}

kernels! {
    /// See kernels/cast.cu.
    Cast = "cast" "cast" * 9 {
        from: u64,
        to: u64,
        from_ld: u64,
        to_ld: u64,
        rows: u64,
        cols: u64,
        factor: f32,
    }
    /// See kernels/dense_update.cu.
    DenseUpdate = "dense_update" "dense_update" * 3 {
        grad: u64,
        parameters: u64,
        first: u64,
        second: u64,
        rounded: u64,
        len: u64,
        factor: f32,
        max_gradient: f32,
        step: OptimizerStep,
        control: StepPointers,
    }
    /// See kernels/embedding_bag.cu.
    EmbeddingBagForward = "embedding_bag" "embedding_bag_forward" * 6 {
        features: u64,
        weights: u64,
        indices: u64,
        offsets: u64,
        per_sample_weights: u64,
        output: u64,
        argmax: u64,
        status: u64,
        output_ld: u64,
        argmax_ld: u64,
        num_indices: u64,
        num_features: u32,
        batch_size: u32,
        run_bags: u32,
        has_slack: u32,
    }
    /// See kernels/embedding_bag.cu.
    EmbeddingBagWeightGrad = "embedding_bag" "embedding_bag_weight_grad" * 6 {
        features: u64,
        weights: u64,
        indices: u64,
        offsets: u64,
        grad_output: u64,
        grad_weights: u64,
        status: u64,
        grad_output_ld: u64,
        num_indices: u64,
        num_features: u32,
        batch_size: u32,
        has_slack: u32,
    }
    /// See kernels/finite_check.cu.
    FiniteCheckScan = "finite_check" "finite_check_scan_f32" * 1 {
        a: u64,
        b: u64,
        a_len: u64,
        b_len: u64,
        verdict: u64,
    }
    /// See kernels/finite_check.cu.
    FiniteCheckJudge = "finite_check" "finite_check_judge" * 1 {
        loss: u64,
        values: u64,
        status: u64,
        verdict: u64,
        step: u64,
        stays_shut: u32,
    }
    /// See kernels/index_sort.cu.
    IndexSortRows = "index_sort" "index_sort_rows" * 2 {
        features: u64,
        tables: u64,
        indices: u64,
        offsets: u64,
        keys: u64,
        bag_of: u64,
        bag_lengths: u64,
        histograms: u64,
        status: u64,
        num_indices: u64,
        end_key: u64,
        num_bags: u32,
        batch_size: u32,
        lanes: u32,
        passes: u32,
        digit_bits: u32,
        key_bytes: u32,
        has_slack: u32,
    }
    /// See kernels/index_sort.cu.
    IndexSortPass = "index_sort" "index_sort_pass_large" * 2, "index_sort_pass_small" * 2 {
        keys: u64,
        positions: u64,
        keys_out: u64,
        positions_out: u64,
        histograms: u64,
        words: u64,
        tickets: u64,
        num_keys: u64,
        pass: u32,
        digit_bits: u32,
    }
    /// See kernels/index_sort.cu.
    IndexSortSegments = "index_sort" "index_sort_segments_large" * 2, "index_sort_segments_small" * 2 {
        keys: u64,
        positions: u64,
        bag_of: u64,
        rows: u64,
        segments: u64,
        bags: u64,
        counts: u64,
        words: u64,
        tickets: u64,
        num_keys: u64,
        end_key: u64,
    }
    /// See kernels/interaction.cu.
    InteractionForward = "interaction" "interaction_forward_f32" * 1 {
        matrices: InteractionForwardMatrices,
        batch_size: u32,
        team_threads: u32,
        pitch: u32,
        slices: u32,
    }
    /// See kernels/interaction.cu.
    InteractionBackward = "interaction" "interaction_backward_f32" * 1 {
        matrices: InteractionBackwardMatrices,
        batch_size: u32,
        team_threads: u32,
    }
    /// See kernels/interaction.cu.
    InteractionCopy = "interaction" "interaction_copy" * 3 {
        from: u64,
        to: u64,
        from_ld: u64,
        to_ld: u64,
        rows: u64,
        cols: u64,
    }
    /// See kernels/interaction_mma.cu.
    InteractionMmaForward = "interaction_mma" "interaction_mma_forward" * 3 {
        matrices: InteractionForwardMatrices,
        batch_size: u32,
        team_threads: u32,
    }
    /// See kernels/interaction_mma.cu.
    InteractionMmaBackward = "interaction_mma" "interaction_mma_backward_few" * 3, "interaction_mma_backward_many" * 3 {
        matrices: InteractionBackwardMatrices,
        batch_size: u32,
        team_threads: u32,
    }
    /// See kernels/interaction_tiled.cu.
    InteractionTiledForward = "interaction_tiled" "interaction_tiled_forward" * 3 {
        matrices: InteractionForwardMatrices,
    }
    /// See kernels/interaction_tiled.cu.
    InteractionTiledBackward = "interaction_tiled" "interaction_tiled_backward" * 3 {
        matrices: InteractionBackwardMatrices,
    }
    /// See kernels/linear.cu.
    LinearForward = "linear" "linear_forward_large_f32" * 1, "linear_forward_small_f32" * 1, "linear_forward_tiny_f32" * 1, "linear_forward_narrow_f32" * 1, "linear_forward_mma_large" * 3, "linear_forward_mma_small" * 3 {
        input: u64,
        weight: u64,
        bias: u64,
        output: u64,
        input_ld: u64,
        weight_ld: u64,
        output_ld: u64,
        batch_size: u64,
        outputs: u64,
        inputs: u64,
        relu: u32,
    }
    /// See kernels/linear.cu.
    LinearInputGrad = "linear" "linear_input_grad_large_f32" * 1, "linear_input_grad_small_f32" * 1, "linear_input_grad_tiny_f32" * 1, "linear_input_grad_mma_large" * 3, "linear_input_grad_mma_small" * 3 {
        grad: u64,
        weight: u64,
        grad_input: u64,
        grad_ld: u64,
        weight_ld: u64,
        grad_input_ld: u64,
        batch_size: u64,
        outputs: u64,
        inputs: u64,
    }
    /// See kernels/linear.cu.
    LinearWeightGrad = "linear" "linear_weight_grad_large_f32" * 1, "linear_weight_grad_small_f32" * 1, "linear_weight_grad_tiny_f32" * 1, "linear_weight_grad_narrow_f32" * 1, "linear_weight_grad_mma_large" * 3, "linear_weight_grad_mma_small" * 3 {
        a: u64,
        b: u64,
        parts: u64,
        a_ld: u64,
        b_ld: u64,
        part_stride: u64,
        row_stride: u64,
        col_stride: u64,
        rows: u64,
        cols: u64,
        batch_size: u64,
        part_len: u64,
    }
    /// See kernels/linear.cu.
    LinearActivationGrad = "linear" "linear_activation_grad" * 3 {
        output: u64,
        grad: u64,
        bias_parts: u64,
        output_ld: u64,
        grad_ld: u64,
        batch_size: u64,
        outputs: u64,
        part_len: u64,
        wide: u32,
    }
    /// See kernels/linear.cu.
    LinearSumParts = "linear" "linear_sum_parts_f32" * 1 {
        weight_parts: u64,
        bias_parts: u64,
        grad_weight: u64,
        grad_bias: u64,
        grad_weight_ld: u64,
        outputs: u64,
        inputs: u64,
        num_weight_parts: u32,
        num_bias_parts: u32,
        accumulate: u32,
    }
    /// See kernels/loss.cu.
    LossForward = "loss" "loss_forward_f32" * 1 {
        logits: u64,
        labels: u64,
        grad_logits: u64,
        partial_sums: u64,
        batch_size: u64,
        squared: u32,
        threshold: f32,
        loss_scale: f32,
        negative: f32,
        positive: f32,
        status: u64,
    }
    /// See kernels/loss.cu.
    LossMean = "loss" "loss_mean_f64" * 1 {
        partial_sums: u64,
        mean: u64,
        num_partial_sums: u64,
        batch_size: u64,
    }
    /// See kernels/moving_average.cu.
    MovingAverage = "moving_average" "moving_average_f32" * 1 {
        values: u64,
        average: u64,
        len: u64,
        decay: f32,
        control: StepPointers,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateChunks = "sparse_update" "sparse_update_chunks" * 1 {
        source: RowGradientSource,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateRuns = "sparse_update" "sparse_update_runs" * 1 {
        source: RowGradientSource,
        shorter_sums: u64,
        sums: u64,
        shift: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateStarts = "sparse_update" "sparse_update_starts" * 1 {
        tables: u64,
        rows: u64,
        num_rows: u64,
        places: u64,
        starts: u64,
        counts: u64,
        num_tables: u32,
        capacity: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateInterleave = "sparse_update" "sparse_update_interleave" * 1 {
        a_rows: u64,
        a_count: u64,
        b_rows: u64,
        b_count: u64,
        rows: u64,
        sources: u64,
        end_key: u64,
        a_capacity: u32,
        b_capacity: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateAdd = "sparse_update" "sparse_update_add" * 1 {
        tables: u64,
        rows: u64,
        segments: u64,
        sources: u64,
        places: u64,
        a_starts: u64,
        a_values: u64,
        b_starts: u64,
        b_values: u64,
        out_rows: u64,
        out_starts: u64,
        out_values: u64,
        out_count: u64,
        num_a_values: u64,
        num_b_values: u64,
        num_out_values: u64,
        a_capacity: u32,
        b_capacity: u32,
        num_tables: u32,
        lanes: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateReduce = "sparse_update" "sparse_update_reduce" * 1 {
        source: RowGradientSource,
        places: u64,
        grad_rows: u64,
        starts: u64,
        values: u64,
        num_values: u64,
        capacity: u32,
        lanes: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateUpdate = "sparse_update" "sparse_update_update" * 3 {
        source: RowGradientSource,
        target: OptimizerTarget,
        step: OptimizerStep,
        control: StepPointers,
        lanes: u32,
    }
    /// See kernels/sparse_update.cu.
    SparseUpdateApply = "sparse_update" "sparse_update_apply" * 3 {
        tables: u64,
        rows: u64,
        starts: u64,
        values: u64,
        counts: u64,
        num_values: u64,
        num_tables: u32,
        capacity: u32,
        target: OptimizerTarget,
        step: OptimizerStep,
        lanes: u32,
    }
}

/// A kernel that has been found in a module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a function is a handle of the driver, which may be used from any thread with the context
// bound.
unsafe impl Send for Function {}
// SAFETY: as above; nothing is ever changed through it.
unsafe impl Sync for Function {}

/// A kernel for every storage type with every type of ids.
#[derive(Debug)]
pub(super) struct ByTypes([[Function; 2]; 3]);

impl ByTypes {
    /// The kernel for tables of `E` and ids of `I`.
    pub(super) fn of<E: Element, I: Index>(&self) -> Function {
        self.0[element_number::<E>()][usize::from(size_of::<I>() == 8)]
    }
}

/// A kernel for every pair of storage types.
#[derive(Debug)]
pub(super) struct ByPair([ByElement; 3]);

impl ByPair {
    /// The kernel from elements of `A` to those of `B`.
    pub(super) fn of<A: Element, B: Element>(&self) -> Function {
        self.0[element_number::<A>()].of::<B>()
    }
}

/// A kernel for every storage type.
#[derive(Debug)]
pub(super) struct ByElement([Function; 3]);

impl ByElement {
    /// The kernel for elements of `E`.
    pub(super) fn of<E: Element>(&self) -> Function {
        self.0[element_number::<E>()]
    }

    /// All of them.
    pub(super) fn all(&self) -> [Function; 3] {
        self.0
    }
}

/// A kernel for 32 and for 64 bits.
#[derive(Debug)]
pub(super) struct ByWidth([Function; 2]);

impl ByWidth {
    /// The kernel for ids or keys of so many bytes.
    pub(super) fn of(&self, bytes: usize) -> Function {
        self.0[usize::from(bytes == 8)]
    }
}

/// A kernel for small and for large tiles of keys.
#[derive(Debug)]
pub(super) struct ByTile([ByWidth; 2]);

impl ByTile {
    /// The kernel for large tiles, or for small ones.
    pub(super) fn of(&self, is_large: bool) -> &ByWidth {
        &self.0[usize::from(is_large)]
    }
}

/// The storage types, in the order of [`element_number`], as the names of kernels have them.
const ELEMENTS: [&str; 3] = ["f32", "f16", "bf16"];

fn element_number<E: Element>() -> usize {
    match E::DTYPE {
        DType::F32 => 0,
        DType::F16 => 1,
        DType::BF16 => 2,
    }
}

/// All kernels, found when the backend is made.
#[derive(Debug)]
pub(super) struct Kernels {
    pub(super) cast: ByPair,
    pub(super) dense_update: ByElement,
    pub(super) embedding_bag_forward: ByTypes,
    pub(super) embedding_bag_weight_grad: ByTypes,
    pub(super) finite_check_scan: Function,
    pub(super) finite_check_judge: Function,
    pub(super) index_sort_rows: ByWidth,
    pub(super) index_sort_pass: ByTile,
    pub(super) index_sort_segments: ByTile,
    pub(super) interaction_forward: Function,
    pub(super) interaction_backward: Function,
    pub(super) interaction_copy: ByElement,
    pub(super) interaction_mma_forward: ByElement,
    /// For few features, and for many.
    pub(super) interaction_mma_backward: [ByElement; 2],
    pub(super) interaction_tiled_forward: ByElement,
    pub(super) interaction_tiled_backward: ByElement,
    pub(super) linear_forward: Products,
    pub(super) linear_input_grad: Products,
    pub(super) linear_weight_grad: Products,
    pub(super) linear_activation_grad: ByElement,
    pub(super) linear_sum_parts: Function,
    pub(super) loss_forward: Function,
    pub(super) loss_mean: Function,
    pub(super) moving_average: Function,
    pub(super) sparse_update_chunks: Function,
    pub(super) sparse_update_runs: Function,
    pub(super) sparse_update_starts: Function,
    pub(super) sparse_update_reduce: Function,
    pub(super) sparse_update_interleave: Function,
    pub(super) sparse_update_add: Function,
    pub(super) sparse_update_update: ByElement,
    pub(super) sparse_update_apply: ByElement,
    /// How many blocks of `sparse_update_update` run at the same time.
    pub(super) sparse_update_blocks: usize,
    /// Kept, since the functions are theirs.
    _modules: Vec<Module>,
}

impl Kernels {
    /// Loads the images for a context's device, which must be bound.
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let capability = capability(context)?;
        let module = |stem| Module::load(context, stem, capability);
        let cast = module("cast")?;
        let dense_update = module("dense_update")?;
        let embedding_bag = module("embedding_bag")?;
        let finite_check = module("finite_check")?;
        let index_sort = module("index_sort")?;
        let interaction = module("interaction")?;
        let interaction_mma = module("interaction_mma")?;
        let interaction_tiled = module("interaction_tiled")?;
        let linear = module("linear")?;
        let loss = module("loss")?;
        let moving_average = module("moving_average")?;
        let sparse_update = module("sparse_update")?;
        let sparse_update_update = sparse_update.by_element("sparse_update_update")?;
        let sparse_update_blocks = sparse_update
            .blocks_at_once(sparse_update_update.of::<f32>(), sparse_update::THREADS)?;
        Ok(Self {
            cast: cast.by_pair("cast")?,
            dense_update: dense_update.by_element("dense_update")?,
            embedding_bag_forward: embedding_bag.by_types("embedding_bag_forward")?,
            embedding_bag_weight_grad: embedding_bag.by_types("embedding_bag_weight_grad")?,
            finite_check_scan: finite_check.function("finite_check_scan_f32")?,
            finite_check_judge: finite_check.function("finite_check_judge")?,
            index_sort_rows: index_sort.by_width("index_sort_rows", ["i32", "i64"])?,
            index_sort_pass: index_sort.by_tile("index_sort_pass")?,
            index_sort_segments: index_sort.by_tile("index_sort_segments")?,
            interaction_forward: interaction.function("interaction_forward_f32")?,
            interaction_backward: interaction.function("interaction_backward_f32")?,
            interaction_copy: interaction.by_element("interaction_copy")?,
            interaction_mma_forward: interaction_mma.by_element("interaction_mma_forward")?,
            interaction_mma_backward: [
                interaction_mma.by_element("interaction_mma_backward_few")?,
                interaction_mma.by_element("interaction_mma_backward_many")?,
            ],
            interaction_tiled_forward: interaction_tiled.by_element("interaction_tiled_forward")?,
            interaction_tiled_backward: interaction_tiled
                .by_element("interaction_tiled_backward")?,
            linear_forward: Products::find(&linear, "linear_forward", true)?,
            linear_input_grad: Products::find(&linear, "linear_input_grad", false)?,
            linear_weight_grad: Products::find(&linear, "linear_weight_grad", true)?,
            linear_activation_grad: linear.by_element("linear_activation_grad")?,
            linear_sum_parts: linear.function("linear_sum_parts_f32")?,
            loss_forward: loss.function("loss_forward_f32")?,
            loss_mean: loss.function("loss_mean_f64")?,
            moving_average: moving_average.function("moving_average_f32")?,
            sparse_update_chunks: sparse_update.function("sparse_update_chunks")?,
            sparse_update_runs: sparse_update.function("sparse_update_runs")?,
            sparse_update_starts: sparse_update.function("sparse_update_starts")?,
            sparse_update_reduce: sparse_update.function("sparse_update_reduce")?,
            sparse_update_interleave: sparse_update.function("sparse_update_interleave")?,
            sparse_update_add: sparse_update.function("sparse_update_add")?,
            sparse_update_update,
            sparse_update_apply: sparse_update.by_element("sparse_update_apply")?,
            sparse_update_blocks,
            _modules: vec![
                cast,
                dense_update,
                embedding_bag,
                finite_check,
                index_sort,
                interaction,
                interaction_mma,
                interaction_tiled,
                linear,
                loss,
                moving_average,
                sparse_update,
            ],
        })
    }
}

/// A loaded kernel file.
#[derive(Debug)]
pub(super) struct Module {
    module: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module is a handle of the driver, which may be used from any thread with the context
// bound.
unsafe impl Send for Module {}
// SAFETY: as above; nothing is ever changed through it.
unsafe impl Sync for Module {}

impl Module {
    /// Loads the best image that the device takes. A cubin that it refuses, as an emulator does,
    /// leaves the next best.
    fn load(context: &Arc<CudaContext>, stem: &str, capability: (u32, u32)) -> Result<Self> {
        let mut refusal = Err(Error::NoKernelImage { capability });
        for image in images::candidates(stem, capability)? {
            // PTX must end with a zero byte; a cubin does not mind one.
            let bytes = [image.bytes, &[0]].concat();
            // SAFETY: the bytes are a whole image, as nvcc wrote it; they are copied by the driver.
            match unsafe { result::module::load_data(bytes.as_ptr().cast()) } {
                Ok(module) => return Ok(Self { module, context: Arc::clone(context) }),
                Err(error) => refusal = check("load a kernel image", Err(error)),
            }
        }
        refusal
    }

    pub(super) fn function(&self, name: &str) -> Result<Function> {
        let symbol = CString::new(name).unwrap_or_default();
        // SAFETY: the module is loaded, and stays so as long as `Kernels` keeps it.
        let found = unsafe { result::module::get_function(self.module, symbol) };
        Ok(Function(check("find a kernel", found)?))
    }

    /// Lets a kernel use up to `bytes` of dynamic shared memory; beyond 48 KB a device wants to be
    /// asked.
    pub(super) fn allow_shared(&self, function: Function, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of this module, which is loaded.
        let set = unsafe {
            result::function::set_function_attribute(function.0, attribute, bytes as i32)
        };
        check("ask for shared memory", set)
    }

    /// How many blocks of so many threads, without dynamic shared memory, run on the device at the
    /// same time.
    fn blocks_at_once(&self, function: Function, threads: u32) -> Result<usize> {
        let mut blocks = 0;
        // SAFETY: the function is of this module, which is loaded, and the count is written before
        // the call returns.
        let asked = unsafe {
            sys::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &mut blocks,
                function.0,
                threads as i32,
                0,
            )
        };
        check("ask for the occupancy of a kernel", asked.result())?;
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT;
        let multiprocessors = check("ask for an attribute", self.context.attribute(attribute))?;
        Ok((blocks * multiprocessors).max(1) as usize)
    }

    pub(super) fn by_element(&self, name: &str) -> Result<ByElement> {
        let [f32, f16, bf16] = ELEMENTS.map(|element| self.function(&format!("{name}_{element}")));
        Ok(ByElement([f32?, f16?, bf16?]))
    }

    fn by_pair(&self, name: &str) -> Result<ByPair> {
        let [f32, f16, bf16] = ELEMENTS.map(|from| self.by_element(&format!("{name}_{from}")));
        Ok(ByPair([f32?, f16?, bf16?]))
    }

    fn by_width(&self, name: &str, types: [&str; 2]) -> Result<ByWidth> {
        let [narrow, wide] = types.map(|width| self.function(&format!("{name}_{width}")));
        Ok(ByWidth([narrow?, wide?]))
    }

    fn by_tile(&self, name: &str) -> Result<ByTile> {
        let [small, large] =
            ["small", "large"].map(|tile| self.by_width(&format!("{name}_{tile}"), ["u32", "u64"]));
        Ok(ByTile([small?, large?]))
    }

    fn by_types(&self, name: &str) -> Result<ByTypes> {
        let of_element = |element: &str| -> Result<[Function; 2]> {
            Ok([
                self.function(&format!("{name}_{element}_i32"))?,
                self.function(&format!("{name}_{element}_i64"))?,
            ])
        };
        let [f32, f16, bf16] = ELEMENTS.map(of_element);
        Ok(ByTypes([f32?, f16?, bf16?]))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: loaded by `load`, unloaded nowhere else; functions of it live in the same
            // `Kernels`.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

impl Cuda {
    /// The one place where kernels are launched.
    ///
    /// # Safety
    /// As the `launch` of the kernel.
    unsafe fn launch(
        &self,
        function: Function,
        grid: Grid,
        parameters: &mut [*mut c_void],
    ) -> Result<()> {
        let (blocks_x, blocks_y) = grid.blocks;
        if blocks_x == 0 || blocks_y == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the function is loaded, its parameters are right by the caller's promise, and the
        // driver copies them before it returns.
        let launched = unsafe {
            let (blocks, threads) = ((blocks_x, blocks_y, 1), (grid.threads, 1, 1));
            result::launch_kernel(
                function.0,
                blocks,
                threads,
                grid.shared,
                self.raw_stream(),
                parameters,
            )
        };
        check("launch a kernel", launched)
    }
}
