//! Every kernel's signature, declared once, and the only place that launches anything.
//!
//! A kernel is declared as a struct of its parameters, in their order. A test compares [`SIGNATURES`] with the `.param` lists of the compiled
//! PTX, so a launch cannot pass anything that the kernel does not expect.

use std::ffi::{CString, c_void};
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::driver::{capability, check};
use super::linear::Products;
use super::{Cuda, images};
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
    /// How many instances there are: 6 if it is there for every storage type with every type of ids, 3 if for every storage type, else 1.
    pub instances: usize,
    /// Its parameters, in their order.
    pub parameters: &'static [Parameter],
}

/// The types that a parameter can have.
trait Kind {
    const PARAMETER: Parameter;
}
impl Kind for u32 {
    const PARAMETER: Parameter = Parameter::U32;
}
impl Kind for u64 {
    const PARAMETER: Parameter = Parameter::U64;
}
impl Kind for f32 {
    const PARAMETER: Parameter = Parameter::F32;
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
    /// Without dynamic shared memory.
    pub(super) fn new(blocks: (u32, u32), threads: u32) -> Self {
        Self { blocks, threads, shared: 0 }
    }
}

/// Declares kernels: a struct of parameters with a `launch` for each, under one name or several, and the table of their signatures.
macro_rules! kernels {
    ($($(#[$doc:meta])* $Kernel:ident = $stem:literal $($name:literal * $instances:literal),+ { $($parameter:ident: $kind:ty),+ $(,)? })+) => {
        $(
            $(#[$doc])*
            pub(super) struct $Kernel {
                $(pub(super) $parameter: $kind,)+
            }

            impl $Kernel {
                const PARAMETERS: &[Parameter] = &[$(<$kind as Kind>::PARAMETER),+];

                /// Launches the kernel on the backend's stream. An empty grid is no launch.
                ///
                /// # Safety
                /// `function` must be this kernel for the types that the pointers point to. Each pointer must be null where the kernel says that
                /// it may be, else point to as many elements as the kernel reads or writes for these sizes, and what is written must be
                /// nobody else's until the launch has run.
                pub(super) unsafe fn launch(mut self, cuda: &Cuda, function: Function, grid: Grid) -> Result<()> {
                    let mut parameters = [$((&raw mut self.$parameter).cast::<c_void>()),+];
                    // SAFETY: the parameters are those of the kernel, by the test of `SIGNATURES`; for what they say the caller vouches.
                    unsafe { cuda.launch(function, grid, &mut parameters) }
                }
            }
        )+

        /// All kernels.
        pub static SIGNATURES: &[Signature] = &[
            $($(Signature { stem: $stem, name: $name, instances: $instances, parameters: $Kernel::PARAMETERS },)+)+
        ];
    };
}

kernels! {
    /// See kernels/dense_update.cu.
    DenseUpdate = "dense_update" "dense_update_f32" * 1 {
        grad: u64,
        parameters: u64,
        first: u64,
        second: u64,
        len: u64,
        optimizer: u32,
        max_gradient: f32,
        learning_rate: f32,
        l2: f32,
        shrink: f32,
        beta1: f32,
        beta2: f32,
        eps: f32,
        first_correction: f32,
        second_correction: f32,
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
    }
    /// See kernels/linear.cu.
    LinearForward = "linear" "linear_forward_large_f32" * 1, "linear_forward_small_f32" * 1, "linear_forward_narrow_f32" * 1, "linear_forward_mma_large" * 3, "linear_forward_mma_small" * 3 {
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
    LinearInputGrad = "linear" "linear_input_grad_large_f32" * 1, "linear_input_grad_small_f32" * 1, "linear_input_grad_mma_large" * 3, "linear_input_grad_mma_small" * 3 {
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
    LinearWeightGrad = "linear" "linear_weight_grad_large_f32" * 1, "linear_weight_grad_small_f32" * 1, "linear_weight_grad_narrow_f32" * 1, "linear_weight_grad_mma_large" * 3, "linear_weight_grad_mma_small" * 3 {
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
        negative: f32,
        positive: f32,
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
        share: f32,
    }
}

/// A kernel that has been found in a module.
#[derive(Clone, Copy, Debug)]
pub(super) struct Function(sys::CUfunction);

// SAFETY: a function is a handle of the driver, which may be used from any thread with the context bound.
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
    pub(super) dense_update: Function,
    pub(super) embedding_bag_forward: ByTypes,
    pub(super) embedding_bag_weight_grad: ByTypes,
    pub(super) linear_forward: Products,
    pub(super) linear_input_grad: Products,
    pub(super) linear_weight_grad: Products,
    pub(super) linear_activation_grad: ByElement,
    pub(super) linear_sum_parts: Function,
    pub(super) loss_forward: Function,
    pub(super) loss_mean: Function,
    pub(super) moving_average: Function,
    /// Kept, since the functions are theirs.
    _modules: Vec<Module>,
}

impl Kernels {
    /// Loads the images for a context's device, which must be bound.
    pub(super) fn load(context: &Arc<CudaContext>) -> Result<Self> {
        let capability = capability(context)?;
        let module = |stem| Module::load(context, stem, capability);
        let dense_update = module("dense_update")?;
        let embedding_bag = module("embedding_bag")?;
        let linear = module("linear")?;
        let loss = module("loss")?;
        let moving_average = module("moving_average")?;
        Ok(Self {
            dense_update: dense_update.function("dense_update_f32")?,
            embedding_bag_forward: embedding_bag.by_types("embedding_bag_forward")?,
            embedding_bag_weight_grad: embedding_bag.by_types("embedding_bag_weight_grad")?,
            linear_forward: Products::find(&linear, "linear_forward", true)?,
            linear_input_grad: Products::find(&linear, "linear_input_grad", false)?,
            linear_weight_grad: Products::find(&linear, "linear_weight_grad", true)?,
            linear_activation_grad: linear.by_element("linear_activation_grad")?,
            linear_sum_parts: linear.function("linear_sum_parts_f32")?,
            loss_forward: loss.function("loss_forward_f32")?,
            loss_mean: loss.function("loss_mean_f64")?,
            moving_average: moving_average.function("moving_average_f32")?,
            _modules: vec![dense_update, embedding_bag, linear, loss, moving_average],
        })
    }
}

/// A loaded kernel file.
#[derive(Debug)]
pub(super) struct Module {
    module: sys::CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a module is a handle of the driver, which may be used from any thread with the context bound.
unsafe impl Send for Module {}
// SAFETY: as above; nothing is ever changed through it.
unsafe impl Sync for Module {}

impl Module {
    /// Loads the best image that the device takes. A cubin that it refuses, as an emulator does, leaves the next best.
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

    /// Lets a kernel use up to `bytes` of dynamic shared memory; beyond 48 KB a device wants to be asked.
    pub(super) fn allow_shared(&self, function: Function, bytes: u32) -> Result<()> {
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the function is of this module, which is loaded.
        let set = unsafe { result::function::set_function_attribute(function.0, attribute, bytes as i32) };
        check("ask for shared memory", set)
    }

    pub(super) fn by_element(&self, name: &str) -> Result<ByElement> {
        let [f32, f16, bf16] = ELEMENTS.map(|element| self.function(&format!("{name}_{element}")));
        Ok(ByElement([f32?, f16?, bf16?]))
    }

    fn by_types(&self, name: &str) -> Result<ByTypes> {
        let of_element = |element: &str| -> Result<[Function; 2]> {
            Ok([self.function(&format!("{name}_{element}_i32"))?, self.function(&format!("{name}_{element}_i64"))?])
        };
        let [f32, f16, bf16] = ELEMENTS.map(of_element);
        Ok(ByTypes([f32?, f16?, bf16?]))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: loaded by `load`, unloaded nowhere else; functions of it live in the same `Kernels`.
            let _ = unsafe { result::module::unload(self.module) };
        }
    }
}

impl Cuda {
    /// The one place where kernels are launched.
    ///
    /// # Safety
    /// As the `launch` of the kernel.
    unsafe fn launch(&self, function: Function, grid: Grid, parameters: &mut [*mut c_void]) -> Result<()> {
        let (blocks_x, blocks_y) = grid.blocks;
        if blocks_x == 0 || blocks_y == 0 {
            return Ok(());
        }
        self.bind()?;
        // SAFETY: the function is loaded, its parameters are right by the caller's promise, and the driver copies them before it returns.
        let launched = unsafe {
            let (blocks, threads) = ((blocks_x, blocks_y, 1), (grid.threads, 1, 1));
            result::launch_kernel(function.0, blocks, threads, grid.shared, self.raw_stream(), parameters)
        };
        check("launch a kernel", launched)
    }
}
