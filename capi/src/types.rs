//! The structs and enumerations of the C interface, and how they are read.

use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;

use bagdot::ops::{
    Accum, Activation, Interaction, Optimizer, PairOrder, Pooling, Precision, Rounding, UpdateRule,
    WeightDecay,
};

use crate::error::{Error, Result, bagdot_status};
use crate::index_sort::bagdot_order;

/// A struct of the C interface, which may grow: later versions may add fields at its end.
///
/// # Safety
/// The type is `repr(C)`, begins with `struct_size: u32`, and has a value for any bits.
pub(crate) unsafe trait CStruct: Copy {
    /// The name in C.
    const NAME: &'static str;
}

/// Returns the first error of a pointer to a struct or an array: null, or not aligned.
pub(crate) fn check_pointer<T>(op: &str, argument: &str, pointer: *const T) -> Result<()> {
    check_address::<T>(op, argument, pointer as u64)
}

/// Returns the first error of an address, as [`check_pointer`] does.
pub(crate) fn check_address<T>(op: &str, argument: &str, address: u64) -> Result<()> {
    if address == 0 {
        return Err(Error::null(op, argument));
    }
    let align = align_of::<T>();
    if !address.is_multiple_of(align as u64) {
        let message = format!("{op}: {argument} is not at a multiple of {align} bytes");
        return Err(Error::Interface(bagdot_status::MISALIGNED, message));
    }
    Ok(())
}

/// Reads the size of a struct of the caller, and checks the pointer and the size.
///
/// # Safety
/// The pointer is null, or to at least the size of a struct of this name.
unsafe fn size_of_struct<T: CStruct>(op: &str, pointer: *const T) -> Result<usize> {
    check_pointer(op, T::NAME, pointer)?;
    // SAFETY: the struct begins with its size, and the pointer is aligned.
    let size = unsafe { pointer.cast::<u32>().read() } as usize;
    if size < size_of::<u32>() || size > 1 << 16 {
        let message =
            format!("{op}: struct_size of {} is {size}, but must be sizeof({})", T::NAME, T::NAME);
        return Err(Error::Interface(bagdot_status::STRUCT_SIZE, message));
    }
    Ok(size)
}

/// Reads a struct of the caller. Fields that the caller's version of the struct lacks are zero.
///
/// # Safety
/// The pointer is null or to as many bytes as the field `struct_size` says.
pub(crate) unsafe fn read_struct<T: CStruct>(op: &str, pointer: *const T) -> Result<T> {
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_struct(op, pointer)? };
    let known = size.min(size_of::<T>());
    let mut value = MaybeUninit::<T>::zeroed();
    // SAFETY: both are memory of at least as many bytes, and the target is a variable of this
    // function.
    unsafe { ptr::copy_nonoverlapping(pointer.cast::<u8>(), value.as_mut_ptr().cast(), known) };
    for byte in known..size {
        // SAFETY: the byte is within the struct of the caller.
        if unsafe { pointer.cast::<u8>().add(byte).read() } != 0 {
            let message = format!(
                "{op}: {} has fields that this version of bagdot does not know, and they are not 0",
                T::NAME
            );
            return Err(Error::Interface(bagdot_status::STRUCT_SIZE, message));
        }
    }
    // SAFETY: all bytes are initialised, and any bits are a value.
    Ok(unsafe { value.assume_init() })
}

/// Reads a struct of the caller, or returns `None` for null.
///
/// # Safety
/// As for [`read_struct`].
pub(crate) unsafe fn read_option<T: CStruct>(op: &str, pointer: *const T) -> Result<Option<T>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { read_struct(op, pointer).map(Some) }
}

/// Reads a struct of the caller; null stands for one whose fields are all 0.
///
/// # Safety
/// As for [`read_struct`].
pub(crate) unsafe fn read_or_zero<T: CStruct>(op: &str, pointer: *const T) -> Result<T> {
    // SAFETY: the caller's promise; any bits are a value of the struct.
    unsafe {
        Ok(read_option(op, pointer)?.unwrap_or_else(|| MaybeUninit::<T>::zeroed().assume_init()))
    }
}

/// Writes a struct of the caller, as far as the caller's version of it goes. Its size stays.
///
/// # Safety
/// As for [`read_struct`], and the struct can be written.
pub(crate) unsafe fn write_struct<T: CStruct>(op: &str, pointer: *mut T, value: T) -> Result<()> {
    const SIZE: usize = size_of::<u32>();
    // SAFETY: the caller's promise.
    let size = unsafe { size_of_struct(op, pointer)? };
    let known = size.min(size_of::<T>());
    let (source, target) = (ptr::from_ref(&value).cast::<u8>(), pointer.cast::<u8>());
    // SAFETY: both structs have at least as many bytes, and the size is at least that of its field.
    unsafe {
        ptr::copy_nonoverlapping(source.add(SIZE), target.add(SIZE), known - SIZE);
        ptr::write_bytes(target.add(known), 0, size - known);
    }
    Ok(())
}

/// Writes a result through a pointer of the caller.
///
/// # Safety
/// The pointer is null or to memory for a value, which need not be initialised.
pub(crate) unsafe fn write<T>(op: &str, argument: &str, pointer: *mut T, value: T) -> Result<()> {
    check_pointer(op, argument, pointer)?;
    // SAFETY: the pointer is not null, and aligned; the rest is the caller's promise.
    unsafe { pointer.write(value) };
    Ok(())
}

/// Views an array of the caller in memory of the host.
///
/// # Safety
/// The pointer is null or to `len` elements, which nothing writes in the lifetime `'a`.
pub(crate) unsafe fn array<'a, T>(
    op: &str,
    argument: &str,
    pointer: *const T,
    len: usize,
) -> Result<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check_pointer(op, argument, pointer)?;
    check_len::<T>(op, argument, len)?;
    // SAFETY: the pointer is not null, aligned, and to fewer bytes than the address space; the rest
    // is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

/// Views an array of the caller, or returns `None` for null.
///
/// # Safety
/// As for [`array`].
pub(crate) unsafe fn array_option<'a, T>(
    op: &str,
    argument: &str,
    pointer: *const T,
    len: usize,
) -> Result<Option<&'a [T]>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    unsafe { array(op, argument, pointer, len).map(Some) }
}

/// Checks that elements fit into the address space.
pub(crate) fn check_len<T>(op: &str, argument: &str, len: usize) -> Result<()> {
    match len.checked_mul(size_of::<T>()) {
        Some(bytes) if bytes <= isize::MAX as usize => Ok(()),
        _ => Err(Error::invalid(op, argument, format!("{len} elements fit into no memory"))),
    }
}

/// Converts a number of the caller to a size.
pub(crate) fn size(op: &str, argument: &str, value: u64) -> Result<usize> {
    let too_large = || Error::invalid(op, argument, format!("{value} is too large"));
    usize::try_from(value).map_err(|_| too_large())
}

/// Makes the error for a number that is none of an enumeration.
pub(crate) fn unknown(op: &str, argument: &str, value: i32) -> Error {
    Error::invalid(op, argument, format!("{value} is none of its values"))
}

/// Makes a function that converts a number of the caller to a value of an enumeration. The
/// enumerations themselves are written out, since cbindgen does not expand macros.
macro_rules! conversion {
    ($convert:ident: $name:ident -> $Type:ty { $($variant:ident => $meaning:expr,)+ }) => {
        /// Converts a number of the caller.
        pub(crate) fn $convert(
            op: &str,
            argument: &str,
            value: i32,
        ) -> $crate::error::Result<$Type> {
            $(if value == $name::$variant as i32 {
                return Ok($meaning);
            })+
            Err($crate::types::unknown(op, argument, value))
        }
    };
}
pub(crate) use conversion;

/// The type of elements, ids or offsets.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_dtype {
    /// IEEE single precision.
    F32 = 0,
    /// IEEE half precision.
    F16 = 1,
    /// bfloat16.
    BF16 = 2,
    /// Signed integers of 32 bits.
    I32 = 3,
    /// Signed integers of 64 bits.
    I64 = 4,
    /// Unsigned integers of 32 bits.
    U32 = 5,
}

conversion! {
    dtype: bagdot_dtype -> bagdot_dtype {
        F32 => bagdot_dtype::F32,
        F16 => bagdot_dtype::F16,
        BF16 => bagdot_dtype::BF16,
        I32 => bagdot_dtype::I32,
        I64 => bagdot_dtype::I64,
        U32 => bagdot_dtype::U32,
    }
}

/// The pooling of the rows of a bag into one vector. An empty bag gives zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_pooling {
    /// The (weighted) sum.
    SUM = 0,
    /// The (weighted) sum divided by the number of ids without padding.
    MEAN = 1,
    /// The largest value of each column; takes no per-sample weights.
    MAX = 2,
}

conversion! {
    pooling: bagdot_pooling -> Pooling {
        SUM => Pooling::Sum,
        MEAN => Pooling::Mean,
        MAX => Pooling::Max,
    }
}

/// The optimizer. Formulas are FBGEMM's; see bagdot::ops::Optimizer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_optimizer {
    /// Stochastic gradient descent, without state.
    SGD = 0,
    /// Adagrad; its state is a sum of squares for each element.
    ADAGRAD = 1,
    /// Row-wise Adagrad; its state is a sum of squares for each row.
    ROWWISE_ADAGRAD = 2,
    /// Adam; its state is two moments for each element.
    ADAM = 3,
}

conversion! {
    optimizer: bagdot_optimizer -> bagdot_optimizer {
        SGD => bagdot_optimizer::SGD,
        ADAGRAD => bagdot_optimizer::ADAGRAD,
        ROWWISE_ADAGRAD => bagdot_optimizer::ROWWISE_ADAGRAD,
        ADAM => bagdot_optimizer::ADAM,
    }
}

/// The kind of weight decay.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_weight_decay {
    /// No weight decay.
    NONE = 0,
    /// `rate * w` is added to the gradient.
    L2 = 1,
    /// `w` shrinks by `learning_rate * rate * w`.
    DECOUPLED = 2,
}

conversion! {
    weight_decay: bagdot_weight_decay -> bagdot_weight_decay {
        NONE => bagdot_weight_decay::NONE,
        L2 => bagdot_weight_decay::L2,
        DECOUPLED => bagdot_weight_decay::DECOUPLED,
    }
}

/// The rounding of updated weights of 16-bit tables.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_rounding {
    /// Rounding to the nearest value.
    NEAREST = 0,
    /// Rounding up or down at random, so that the expectation is exact.
    STOCHASTIC = 1,
}

conversion! {
    rounding: bagdot_rounding -> bagdot_rounding {
        NEAREST => bagdot_rounding::NEAREST,
        STOCHASTIC => bagdot_rounding::STOCHASTIC,
    }
}

/// The order of the pairs in the output of an interaction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_pair_order {
    /// (1,0), (2,0), (2,1), ...: facebookresearch/dlrm, NVIDIA, HugeCTR.
    LOWER_TRIANGLE = 0,
    /// (0,1), (0,2), ..., (1,2), ...: TorchRec.
    UPPER_TRIANGLE = 1,
}

conversion! {
    pair_order: bagdot_pair_order -> PairOrder {
        LOWER_TRIANGLE => PairOrder::LowerTriangle,
        UPPER_TRIANGLE => PairOrder::UpperTriangle,
    }
}

/// The kind of interaction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_interaction_kind {
    /// The dot products of all pairs of features.
    DOT = 0,
    /// The concatenation of all features.
    CAT = 1,
}

conversion! {
    interaction_kind: bagdot_interaction_kind -> bagdot_interaction_kind {
        DOT => bagdot_interaction_kind::DOT,
        CAT => bagdot_interaction_kind::CAT,
    }
}

/// The precision of products of f32; other elements ignore it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_precision {
    /// Exact products of all 24 bits of each factor.
    FULL = 0,
    /// Products of factors that may be rounded to tf32 where that is faster.
    TF32 = 1,
}

conversion! {
    precision: bagdot_precision -> Precision {
        FULL => Precision::Full,
        TF32 => Precision::Tf32,
    }
}

/// The activation function of a layer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_activation {
    /// The identity.
    NONE = 0,
    /// `max(x, 0)`.
    RELU = 1,
}

conversion! {
    activation: bagdot_activation -> Activation {
        NONE => Activation::None,
        RELU => Activation::Relu,
    }
}

/// The treatment of the values that an output holds before the op.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum bagdot_accum {
    /// The result overwrites them.
    REPLACE = 0,
    /// The result is added to them.
    ADD = 1,
}

conversion! {
    accum: bagdot_accum -> Accum {
        REPLACE => Accum::Replace,
        ADD => Accum::Add,
    }
}

/// The ids of a batch: `num_features * batch_size` bags, feature after feature and sample after
/// sample. Bag `k` holds the ids at `offsets[k] .. offsets[k + 1]`.
///
/// There are three ways to give bounds. Set `offsets`, of which there is one more than bags. Set
/// `offsets` and `has_starts`: there is one for each bag, and the last bag ends with the ids. Or
/// leave `offsets` null, and set `bag_length`: every bag has as many ids.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_bags {
    /// `sizeof(bagdot_bags)`.
    pub struct_size: u32,
    /// The type of the ids: `BAGDOT_DTYPE_I32`, `I64` or `U32`.
    pub index_dtype: i32,
    /// The type of the offsets, any of these.
    pub offset_dtype: i32,
    /// 1 if `offsets` has one entry for each bag and none for the end.
    pub has_starts: u32,
    /// 1 if there may be slack: ids after the last bag, which no op reads.
    pub has_slack: u32,
    /// Zero.
    pub reserved: u32,
    /// The number of samples.
    pub batch_size: u64,
    /// The number of ids, slack included.
    pub num_indices: u64,
    /// The ids, `[num_indices]`.
    pub indices: *const c_void,
    /// The bounds of the bags; null for bags of equal length.
    pub offsets: *const c_void,
    /// The number of ids of each bag, if `offsets` is null.
    pub bag_length: u64,
    /// The factor of each id, `[num_indices]`; null for factors of 1.
    pub per_sample_weights: *const f32,
}

/// A row-major matrix: element `(r, c)` lies at `data[r * ld + c]`. The memory has at least
/// `(rows - 1) * ld + cols` elements.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_matrix {
    /// `sizeof(bagdot_matrix)`.
    pub struct_size: u32,
    /// The type of the elements. Sources of maxima (`argmax`) are `BAGDOT_DTYPE_U32`.
    pub dtype: i32,
    /// The elements, at a multiple of their size.
    pub data: *mut c_void,
    /// The number of rows.
    pub rows: u64,
    /// The number of columns.
    pub cols: u64,
    /// The distance between the first elements of two rows, in elements; 0 for `cols`.
    pub ld: u64,
}

/// The rule of one step of an optimizer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_rule {
    /// `sizeof(bagdot_rule)`.
    pub struct_size: u32,
    /// A `bagdot_optimizer`.
    pub optimizer: i32,
    /// The learning rate of this step.
    pub learning_rate: f32,
    /// The term that Adagrad and Adam add to the root.
    pub eps: f32,
    /// The decay of Adam's mean of gradients, in [0, 1).
    pub beta1: f32,
    /// The decay of Adam's mean of their squares, in [0, 1).
    pub beta2: f32,
    /// A `bagdot_weight_decay`.
    pub weight_decay: i32,
    /// The rate of the weight decay.
    pub weight_decay_rate: f32,
    /// A `bagdot_rounding`.
    pub rounding: i32,
    /// Zero.
    pub reserved: u32,
    /// The seed of stochastic rounding.
    pub seed: u64,
    /// The number of this step, from 1, which Adam and stochastic rounding need; 0 if there is
    /// none.
    pub step: u64,
}

/// The values of a rule that change from step to step, in memory of the device: ops read them in
/// place of those of the rule, so that a captured step can be replayed with others.
/// bagdot_step_values_of() fills it on the host.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_step_values {
    /// The number of the step, from 1.
    pub step: u64,
    /// The learning rate.
    pub learning_rate: f32,
    /// The factor of parameters by decoupled weight decay.
    pub shrink: f32,
    /// The factor `1 / (1 - beta1^t)` of Adam.
    pub first_correction: f32,
    /// The factor `1 / (1 - beta2^t)` of Adam.
    pub second_correction: f32,
    /// The weight of the old average in a moving average.
    pub decay: f32,
    /// Zero.
    pub reserved: u32,
}

/// Values that an op of a step reads from memory of the device.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_step_control {
    /// `sizeof(bagdot_step_control)`.
    pub struct_size: u32,
    /// Zero.
    pub reserved: u32,
    /// The values of the step, one entry; null for those of the rule.
    pub values: *const bagdot_step_values,
    /// The gate, one word: the op does nothing unless it is 0. Null for an open gate. The first
    /// word of the verdict of bagdot_finite_check() is one.
    pub gate: *const u64,
}

/// The interaction of the features of a sample.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_interaction {
    /// `sizeof(bagdot_interaction)`.
    pub struct_size: u32,
    /// A `bagdot_interaction_kind`.
    pub kind: i32,
    /// A `bagdot_pair_order`.
    pub pair_order: i32,
    /// 1 if the pairs (i,i) are among the pairs.
    pub include_self: u32,
    /// 1 if all features but the dense vector follow the pairs, unchanged.
    pub append_sparse: u32,
    /// A `bagdot_precision`.
    pub precision: i32,
    /// The number of columns of which the output's width is a multiple; 0 or 1 for no padding.
    pub pad_to: u64,
    /// The number of elements of a feature; concatenations ignore it.
    pub dim: u64,
}

/// The features of a batch, or their gradient: `dense` and `sparse`, or all of them in `joined`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_features {
    /// `sizeof(bagdot_features)`.
    pub struct_size: u32,
    /// 1 if the first feature of `joined` is the dense vector. A gradient ignores it.
    pub has_dense: u32,
    /// The dense vectors, `[batch_size, dim]`.
    pub dense: *const bagdot_matrix,
    /// The pooled vectors, `[batch_size, T * dim]`.
    pub sparse: *const bagdot_matrix,
    /// All features of a sample side by side, `[batch_size, F * dim]`.
    pub joined: *const bagdot_matrix,
}

/// The source of the gradient of rows: the order of the ids of a batch, and the gradient of its
/// pooled output.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_pooled_grad {
    /// `sizeof(bagdot_pooled_grad)`.
    pub struct_size: u32,
    /// The bound of every element of the gradient, which is clamped to `[-max, max]`; 0 for no
    /// clamp.
    pub max_gradient: f32,
    /// The ids, unchanged since they were sorted.
    pub bags: *const bagdot_bags,
    /// The order of the ids, made by bagdot_index_sort().
    pub order: *const bagdot_order,
    /// The gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16.
    pub grad_output: *const bagdot_matrix,
    /// The sources of maxima, which bagdot_embedding_bag_forward() wrote; needed if a feature is
    /// pooled by max, else null.
    pub argmax: *const bagdot_matrix,
    /// The loss scale, a power of two: `grad_output` is the gradient of this many times the loss.
    /// It is divided out of the sums, and `max_gradient` bounds the gradient without it; 0 for 1.
    pub loss_scale: f32,
    /// Zero.
    pub reserved: u32,
}

/// The options of a layer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct bagdot_linear {
    /// `sizeof(bagdot_linear)`.
    pub struct_size: u32,
    /// A `bagdot_activation`.
    pub activation: i32,
    /// A `bagdot_precision`.
    pub precision: i32,
    /// A `bagdot_accum`: the treatment of the values that the gradients of weight and bias hold.
    pub accum: i32,
}

macro_rules! c_structs {
    ($($Name:ident)+) => {$(
        // SAFETY: the struct is `repr(C)`, begins with its size, and consists of integers, floats
        // and raw pointers, for which any bits are values.
        unsafe impl CStruct for $Name {
            const NAME: &'static str = stringify!($Name);
        }
    )+};
}
pub(crate) use c_structs;
c_structs! {
    bagdot_bags bagdot_matrix bagdot_rule bagdot_step_control bagdot_interaction bagdot_features
    bagdot_pooled_grad bagdot_linear
}

impl bagdot_rule {
    /// Returns the rule as ops take it.
    pub(crate) fn to_rule(self, op: &str) -> Result<UpdateRule> {
        let Self { eps, beta1, beta2, weight_decay_rate: rate, seed, .. } = self;
        let optimizer = match optimizer(op, "rule.optimizer", self.optimizer)? {
            bagdot_optimizer::SGD => Optimizer::Sgd,
            bagdot_optimizer::ADAGRAD => Optimizer::Adagrad { eps },
            bagdot_optimizer::ROWWISE_ADAGRAD => Optimizer::RowwiseAdagrad { eps },
            bagdot_optimizer::ADAM => Optimizer::Adam { beta1, beta2, eps },
        };
        let weight_decay = match weight_decay(op, "rule.weight_decay", self.weight_decay)? {
            bagdot_weight_decay::NONE => WeightDecay::None,
            bagdot_weight_decay::L2 => WeightDecay::L2(rate),
            bagdot_weight_decay::DECOUPLED => WeightDecay::Decoupled(rate),
        };
        let rounding = match rounding(op, "rule.rounding", self.rounding)? {
            bagdot_rounding::NEAREST => Rounding::Nearest,
            bagdot_rounding::STOCHASTIC => Rounding::Stochastic { seed },
        };
        let (learning_rate, step) = (self.learning_rate, self.step);
        Ok(UpdateRule { optimizer, learning_rate, step, weight_decay, rounding })
    }
}

impl bagdot_interaction {
    /// Returns the kind of interaction, the dimension of a feature, and the precision.
    pub(crate) fn parts(self, op: &str) -> Result<(Interaction, usize, Precision)> {
        let interaction = match interaction_kind(op, "interaction.kind", self.kind)? {
            bagdot_interaction_kind::CAT => Interaction::Cat,
            bagdot_interaction_kind::DOT => Interaction::Dot {
                order: pair_order(op, "interaction.pair_order", self.pair_order)?,
                include_self: self.include_self != 0,
                append_sparse: self.append_sparse != 0,
                pad_to: size(op, "interaction.pad_to", self.pad_to.max(1))?,
            },
        };
        let precision = precision(op, "interaction.precision", self.precision)?;
        Ok((interaction, size(op, "interaction.dim", self.dim)?, precision))
    }
}
