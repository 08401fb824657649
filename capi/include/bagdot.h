/* bagdot.h: the ops of bagdot for C and C++, on the CPU and on CUDA. docs/c.md is the guide.
 *
 * Made by cbindgen of capi/src: do not edit.
 *
 * Every function that can fail returns a bagdot_status as int32_t, 0 for success. Every struct that
 * begins with struct_size is set to zeros but for the fields that differ: a zero is the default of
 * its field. BAGDOT_INIT does both: bagdot_matrix m = BAGDOT_INIT(bagdot_matrix);
 */

#ifndef BAGDOT_H
#define BAGDOT_H

#include <stdint.h>
/* Makes a struct of all zeros with its size. */
#ifdef __cplusplus
template <typename T> inline T bagdot_init() {
    T value{};
    value.struct_size = sizeof(T);
    return value;
}
#define BAGDOT_INIT(type) (bagdot_init<type>())
#else
#define BAGDOT_INIT(type) ((type){.struct_size = sizeof(type)})
#endif

// The version of the interface: it changes when a function or a struct changes its meaning, and
// not when one is added. `BAGDOT_ABI_VERSION` is the one that a program was compiled with; it must
// be the one of bagdot_abi_version().
#define BAGDOT_ABI_VERSION 0

// The number of words of a verdict: gate, steps that were not finite, the first and the last of
// these, and a word that is not 0 if an earlier op has found a value that is not finite.
#define BAGDOT_VERDICT_WORDS 5

// The status of a call: 0 or the kind of its error. Numbers keep their meaning in all versions,
// and new ones may come.
typedef enum bagdot_status {
    // The call has done what it was asked for.
    BAGDOT_STATUS_OK = 0,
    // A buffer or dimension does not have the size that the other arguments call for.
    BAGDOT_STATUS_SHAPE_MISMATCH = 1,
    // A buffer holds fewer elements than the op accesses.
    BAGDOT_STATUS_TOO_SMALL = 2,
    // An argument has a value that is not valid for the op.
    BAGDOT_STATUS_INVALID_ARGUMENT = 3,
    // The offsets of bags do not start at 0, decrease, or do not end at the number of ids.
    BAGDOT_STATUS_INVALID_OFFSETS = 4,
    // An id is not a row of its table; bagdot_last_bad_id() has its fields. All valid ids have
    // been processed, and this one contributed nothing.
    BAGDOT_STATUS_INDEX_OUT_OF_RANGE = 5,
    // A label is NaN or not in [0, 1].
    BAGDOT_STATUS_LABEL_OUT_OF_RANGE = 6,
    // A tensor is missing.
    BAGDOT_STATUS_TENSOR_MISSING = 7,
    // A tensor has another shape.
    BAGDOT_STATUS_TENSOR_SHAPE = 8,
    // A matrix has another element type than the op takes there.
    BAGDOT_STATUS_DTYPE_MISMATCH = 9,
    // An allocation failed.
    BAGDOT_STATUS_OUT_OF_MEMORY = 10,
    // An allocation needs more memory than is free, and has not been tried.
    BAGDOT_STATUS_NOT_ENOUGH_MEMORY = 11,
    // There is no CUDA driver on this machine.
    BAGDOT_STATUS_NO_DRIVER = 12,
    // The CUDA driver is too old: it lacks functions that are called.
    BAGDOT_STATUS_DRIVER_TOO_OLD = 13,
    // There is no CUDA device with this number.
    BAGDOT_STATUS_NO_DEVICE = 14,
    // The library was built without CUDA kernels.
    BAGDOT_STATUS_KERNELS_NOT_BUILT = 15,
    // None of the kernels runs on this device.
    BAGDOT_STATUS_NO_KERNEL_IMAGE = 16,
    // cuBLASLt was requested, but cannot be loaded.
    BAGDOT_STATUS_NO_CUBLASLT = 17,
    // A handle belongs to another context.
    BAGDOT_STATUS_OTHER_BACKEND = 18,
    // The CUDA driver or cuBLASLt reports an error.
    BAGDOT_STATUS_CUDA = 19,
    // The call waits for the device or allocates, and the stream is being captured.
    BAGDOT_STATUS_RECORDING = 20,
    // The loss or a gradient of a step is infinite or NaN.
    BAGDOT_STATUS_NON_FINITE = 21,
    // Worker threads could not be started.
    BAGDOT_STATUS_THREAD_POOL = 22,
    // A pointer is null that must not be.
    BAGDOT_STATUS_NULL_POINTER = 100,
    // A pointer is not aligned for its elements.
    BAGDOT_STATUS_MISALIGNED = 101,
    // The `struct_size` of a struct is not valid, or the struct has fields that this version of
    // the library does not know.
    BAGDOT_STATUS_STRUCT_SIZE = 102,
    // A mistake in the library, which has been caught. The contents of outputs are unspecified.
    BAGDOT_STATUS_PANIC = 103,
    // An error of a kind that this version of the C interface does not know.
    BAGDOT_STATUS_OTHER = 104,
} bagdot_status;

// The type of elements, ids or offsets.
typedef enum bagdot_dtype {
    // IEEE single precision.
    BAGDOT_DTYPE_F32 = 0,
    // IEEE half precision.
    BAGDOT_DTYPE_F16 = 1,
    // bfloat16.
    BAGDOT_DTYPE_BF16 = 2,
    // Signed integers of 32 bits.
    BAGDOT_DTYPE_I32 = 3,
    // Signed integers of 64 bits.
    BAGDOT_DTYPE_I64 = 4,
    // Unsigned integers of 32 bits.
    BAGDOT_DTYPE_U32 = 5,
} bagdot_dtype;

// The pooling of the rows of a bag into one vector. An empty bag gives zeros.
typedef enum bagdot_pooling {
    // The (weighted) sum.
    BAGDOT_POOLING_SUM = 0,
    // The (weighted) sum divided by the number of ids without padding.
    BAGDOT_POOLING_MEAN = 1,
    // The largest value of each column; takes no per-sample weights.
    BAGDOT_POOLING_MAX = 2,
} bagdot_pooling;

// The optimizer. Formulas are FBGEMM's; see bagdot::ops::Optimizer.
typedef enum bagdot_optimizer {
    // Stochastic gradient descent, without state.
    BAGDOT_OPTIMIZER_SGD = 0,
    // Adagrad; its state is a sum of squares for each element.
    BAGDOT_OPTIMIZER_ADAGRAD = 1,
    // Row-wise Adagrad; its state is a sum of squares for each row.
    BAGDOT_OPTIMIZER_ROWWISE_ADAGRAD = 2,
    // Adam; its state is two moments for each element.
    BAGDOT_OPTIMIZER_ADAM = 3,
} bagdot_optimizer;

// The kind of weight decay.
typedef enum bagdot_weight_decay {
    // No weight decay.
    BAGDOT_WEIGHT_DECAY_NONE = 0,
    // `rate * w` is added to the gradient.
    BAGDOT_WEIGHT_DECAY_L2 = 1,
    // `w` shrinks by `learning_rate * rate * w`.
    BAGDOT_WEIGHT_DECAY_DECOUPLED = 2,
} bagdot_weight_decay;

// The rounding of updated weights of 16-bit tables.
typedef enum bagdot_rounding {
    // Rounding to the nearest value.
    BAGDOT_ROUNDING_NEAREST = 0,
    // Rounding up or down at random, so that the expectation is exact.
    BAGDOT_ROUNDING_STOCHASTIC = 1,
} bagdot_rounding;

// The order of the pairs in the output of an interaction.
typedef enum bagdot_pair_order {
    // (1,0), (2,0), (2,1), ...: facebookresearch/dlrm, NVIDIA, HugeCTR.
    BAGDOT_PAIR_ORDER_LOWER_TRIANGLE = 0,
    // (0,1), (0,2), ..., (1,2), ...: TorchRec.
    BAGDOT_PAIR_ORDER_UPPER_TRIANGLE = 1,
} bagdot_pair_order;

// The kind of interaction.
typedef enum bagdot_interaction_kind {
    // The dot products of all pairs of features.
    BAGDOT_INTERACTION_KIND_DOT = 0,
    // The concatenation of all features.
    BAGDOT_INTERACTION_KIND_CAT = 1,
} bagdot_interaction_kind;

// The precision of products of f32; other elements ignore it.
typedef enum bagdot_precision {
    // Exact products of all 24 bits of each factor.
    BAGDOT_PRECISION_FULL = 0,
    // Products of factors that may be rounded to tf32 where that is faster.
    BAGDOT_PRECISION_TF32 = 1,
} bagdot_precision;

// The activation function of a layer.
typedef enum bagdot_activation {
    // The identity.
    BAGDOT_ACTIVATION_NONE = 0,
    // `max(x, 0)`.
    BAGDOT_ACTIVATION_RELU = 1,
} bagdot_activation;

// The treatment of the values that an output holds before the op.
typedef enum bagdot_accum {
    // The result overwrites them.
    BAGDOT_ACCUM_REPLACE = 0,
    // The result is added to them.
    BAGDOT_ACCUM_ADD = 1,
} bagdot_accum;

// The kind of device of a context.
typedef enum bagdot_device {
    // The CPU. Pointers of the ops are to memory of the host.
    BAGDOT_DEVICE_CPU = 0,
    // A CUDA device. Pointers of the ops are addresses on the device.
    BAGDOT_DEVICE_CUDA = 1,
} bagdot_device;

// The threads of a context on the CPU. Results are the same bits in each case.
typedef enum bagdot_threads {
    // The thread that calls an op. Many threads may call ops of one context at once.
    BAGDOT_THREADS_CALLING = 0,
    // A pool of `num_threads` threads of the context's own, or of as many as the machine runs at
    // once if that is 0.
    BAGDOT_THREADS_OWN = 1,
    // The global pool of the library, which all such contexts of the process share.
    BAGDOT_THREADS_GLOBAL = 2,
} bagdot_threads;

// The library that computes matrix products of layers on CUDA.
typedef enum bagdot_gemm {
    // cuBLASLt for the products that it computes faster, if it can be loaded.
    BAGDOT_GEMM_AUTO = 0,
    // Kernels of bagdot for every product.
    BAGDOT_GEMM_OWN = 1,
    // cuBLASLt for every product that it supports.
    BAGDOT_GEMM_CUBLASLT = 2,
} bagdot_gemm;

// The loss function.
typedef enum bagdot_loss_kind {
    // Binary cross-entropy of logits.
    BAGDOT_LOSS_KIND_BCE_WITH_LOGITS = 0,
    // Binary cross-entropy with the weights `negative` and `positive`.
    BAGDOT_LOSS_KIND_WEIGHTED_BCE = 1,
    // The squared error of the probability.
    BAGDOT_LOSS_KIND_MSE = 2,
} bagdot_loss_kind;

// The policy for a step whose loss or gradient is not finite.
typedef enum bagdot_non_finite {
    // Neither that step nor any later one changes anything.
    BAGDOT_NON_FINITE_ERROR = 0,
    // That step changes nothing, and the next one is taken as usual.
    BAGDOT_NON_FINITE_SKIP_STEP = 1,
} bagdot_non_finite;

// Memory of a device that the library has allocated: opaque.
typedef struct bagdot_buffer bagdot_buffer;

// A device with its threads or its stream: opaque.
typedef struct bagdot_context bagdot_context;

// A gradient that has values for some rows only: opaque. Its memory is the library's or the
// caller's.
typedef struct bagdot_gradient bagdot_gradient;

// The order of the ids of a batch: opaque. Its memory is the library's or the caller's.
typedef struct bagdot_order bagdot_order;

// Tables, the features that look them up, and the memory of weights and state: opaque.
//
// Lookups may use a handle from many threads at once; an update needs it alone.
typedef struct bagdot_tables bagdot_tables;

// A row-major matrix: element `(r, c)` lies at `data[r * ld + c]`. The memory has at least
// `(rows - 1) * ld + cols` elements.
typedef struct bagdot_matrix {
    // `sizeof(bagdot_matrix)`.
    uint32_t struct_size;
    // The type of the elements. Sources of maxima (`argmax`) are `BAGDOT_DTYPE_U32`.
    int32_t dtype;
    // The elements, at a multiple of their size.
    void *data;
    // The number of rows.
    uint64_t rows;
    // The number of columns.
    uint64_t cols;
    // The distance between the first elements of two rows, in elements; 0 for `cols`.
    uint64_t ld;
} bagdot_matrix;

// The options of a context. All zeros mean the CPU with the calling thread.
typedef struct bagdot_context_options {
    // `sizeof(bagdot_context_options)`.
    uint32_t struct_size;
    // A `bagdot_device`.
    int32_t device;
    // A `bagdot_threads`, for the CPU.
    int32_t threads;
    // The number of threads of a pool of its own.
    uint32_t num_threads;
    // The number of the CUDA device.
    uint32_t ordinal;
    // A `bagdot_gemm`, for CUDA.
    int32_t gemm;
    // 1 if `stream` is the stream of the context, for CUDA; 0 for a new stream.
    uint32_t has_stream;
    // Zero.
    uint32_t reserved;
    // A `CUstream` of the device's primary context, which outlives this context and everything
    // made with it; null for the legacy default stream, which cannot be captured.
    void *stream;
} bagdot_context_options;

// The rule of one step of an optimizer.
typedef struct bagdot_rule {
    // `sizeof(bagdot_rule)`.
    uint32_t struct_size;
    // A `bagdot_optimizer`.
    int32_t optimizer;
    // The learning rate of this step.
    float learning_rate;
    // The term that Adagrad and Adam add to the root.
    float eps;
    // The decay of Adam's mean of gradients, in [0, 1).
    float beta1;
    // The decay of Adam's mean of their squares, in [0, 1).
    float beta2;
    // A `bagdot_weight_decay`.
    int32_t weight_decay;
    // The rate of the weight decay.
    float weight_decay_rate;
    // A `bagdot_rounding`.
    int32_t rounding;
    // Zero.
    uint32_t reserved;
    // The seed of stochastic rounding.
    uint64_t seed;
    // The number of this step, from 1, which Adam and stochastic rounding need; 0 if there is
    // none.
    uint64_t step;
} bagdot_rule;

// The values of a rule that change from step to step, in memory of the device: ops read them in
// place of those of the rule, so that a captured step can be replayed with others.
// bagdot_step_values_of() fills it on the host.
typedef struct bagdot_step_values {
    // The number of the step, from 1.
    uint64_t step;
    // The learning rate.
    float learning_rate;
    // The factor of parameters by decoupled weight decay.
    float shrink;
    // The factor `1 / (1 - beta1^t)` of Adam.
    float first_correction;
    // The factor `1 / (1 - beta2^t)` of Adam.
    float second_correction;
    // The weight of the old average in a moving average.
    float decay;
    // Zero.
    uint32_t reserved;
} bagdot_step_values;

// The memory of dense parameters and their step.
typedef struct bagdot_dense_step {
    // `sizeof(bagdot_dense_step)`.
    uint32_t struct_size;
    // The factor of the loss whose gradient `grad` is, a power of two; 0 for 1.
    float loss_scale;
    // The bound of every element of the gradient, which is clamped to `[-max, max]`; 0 for no
    // clamp.
    float max_gradient;
    // The type of `rounded`: `BAGDOT_DTYPE_F32`, `F16` or `BF16`.
    int32_t rounded_dtype;
    // The number N of parameters.
    uint64_t num_parameters;
    // The gradient, `[N]`.
    const float *grad;
    // The parameters, `[N]`, updated.
    float *parameters;
    // The sums of squares of Adagrad, or the first moments of Adam, `[N]`; else null.
    float *first;
    // The second moments of Adam, `[N]`; else null.
    float *second;
    // The output for the new parameters rounded to `rounded_dtype`, `[N]`; null if they are not
    // needed.
    void *rounded;
} bagdot_dense_step;

// Values that an op of a step reads from memory of the device.
typedef struct bagdot_step_control {
    // `sizeof(bagdot_step_control)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // The values of the step, one entry; null for those of the rule.
    const struct bagdot_step_values *values;
    // The gate, one word: the op does nothing unless it is 0. Null for an open gate. The first
    // word of the verdict of bagdot_finite_check() is one.
    const uint64_t *gate;
} bagdot_step_control;

// The ids of a batch: `num_features * batch_size` bags, feature after feature and sample after
// sample. Bag `k` holds the ids at `offsets[k] .. offsets[k + 1]`.
//
// There are three ways to give bounds. Set `offsets`, of which there is one more than bags. Set
// `offsets` and `has_starts`: there is one for each bag, and the last bag ends with the ids. Or
// leave `offsets` null, and set `bag_length`: every bag has as many ids.
typedef struct bagdot_bags {
    // `sizeof(bagdot_bags)`.
    uint32_t struct_size;
    // The type of the ids: `BAGDOT_DTYPE_I32`, `I64` or `U32`.
    int32_t index_dtype;
    // The type of the offsets, any of these.
    int32_t offset_dtype;
    // 1 if `offsets` has one entry for each bag and none for the end.
    uint32_t has_starts;
    // 1 if there may be slack: ids after the last bag, which no op reads.
    uint32_t has_slack;
    // Zero.
    uint32_t reserved;
    // The number of samples.
    uint64_t batch_size;
    // The number of ids, slack included.
    uint64_t num_indices;
    // The ids, `[num_indices]`.
    const void *indices;
    // The bounds of the bags; null for bags of equal length.
    const void *offsets;
    // The number of ids of each bag, if `offsets` is null.
    uint64_t bag_length;
    // The factor of each id, `[num_indices]`; null for factors of 1.
    const float *per_sample_weights;
} bagdot_bags;

// The fields of a bad id, filled by bagdot_last_bad_id().
typedef struct bagdot_bad_id {
    // `sizeof(bagdot_bad_id)`, set by the caller.
    uint32_t struct_size;
    // The table that was looked up.
    uint32_t table;
    // The bag, key-major: `feature * batch_size + sample`.
    uint64_t bag;
    // The position in the ids.
    uint64_t position;
    // The id that was found there.
    int64_t value;
    // The number of rows of the table.
    uint64_t rows;
    // The number of bad ids of the call; the other fields describe the one with the lowest
    // position.
    uint64_t count;
    // The name of the op, a string of the library that stays valid until the next failed call of
    // the thread.
    const char *op;
} bagdot_bad_id;

// The arguments of bagdot_finite_check().
typedef struct bagdot_finite_check_arguments {
    // `sizeof(bagdot_finite_check_arguments)`.
    uint32_t struct_size;
    // A `bagdot_non_finite`.
    int32_t policy;
    // The number of the step, from 1.
    uint64_t step;
    // One entry on the device whose `step` takes the place of `step`; or null.
    const struct bagdot_step_values *values;
    // The mean loss, one value.
    const double *loss;
    // Two gradients to check; null for none.
    const float *grads[2];
    // The number of elements of each.
    uint64_t num_grads[2];
    // The verdict, `[BAGDOT_VERDICT_WORDS]`: zeros before the first check, updated by each. Its
    // first word is a gate for bagdot_step_control.
    uint64_t *verdict;
} bagdot_finite_check_arguments;

// The last layer: `z = X w + b`.
typedef struct bagdot_head {
    // `sizeof(bagdot_head)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // X, `[batch_size, K]`, of f32, f16 or bf16.
    const struct bagdot_matrix *input;
    // w, `[K]`.
    const float *weight;
    // b, one value.
    const float *bias;
    // The output: the logits z, `[batch_size]`.
    float *logits;
} bagdot_head;

// The loss of the logits, and the gradients, all times `loss_scale`.
typedef struct bagdot_head_gradient {
    // `sizeof(bagdot_head_gradient)`.
    uint32_t struct_size;
    // A `bagdot_loss_kind`.
    int32_t kind;
    // The weight of a sample whose label rounds to 0.
    float negative;
    // The weight of a sample whose label rounds to 1.
    float positive;
    // The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`.
    float threshold;
    // The factor of the gradients, a power of two; 0 for 1.
    float loss_scale;
    // A `bagdot_accum`: the treatment of the values that the gradients of w and of biases hold.
    int32_t accum;
    // Zero.
    uint32_t reserved;
    // The labels in [0, 1], `[batch_size]`.
    const float *labels;
    // The output: the mean loss, one value.
    double *mean;
    // The gradient of z, `[batch_size]`.
    float *grad_logits;
    // The gradient of X, of its type.
    const struct bagdot_matrix *grad_input;
    // The gradient of w, `[K]`.
    float *grad_weight;
    // The gradient of b, one value.
    float *grad_bias;
    // The gradient of the bias of the layer with ReLU whose output X is, `[K]`: `grad_input` is
    // then the gradient of that layer's affine map. Null if the gradient of X is wanted as it is.
    float *grad_bias_before;
} bagdot_head_gradient;

// The memory of an order, on its device.
//
// Let `n` and `u` be the two numbers of `counts`: of ids without padding and bad ids, and of rows.
// Row `rows[k]`, `k < u`, counted through all tables, occurs at `positions[segments[k] ..
// segments[k + 1]]` of the ids, in the bags `bags[segments[k] .. segments[k + 1]]`. `rows`
// increases strictly.
typedef struct bagdot_order_memory {
    // `sizeof(bagdot_order_memory)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // The largest number of ids.
    uint64_t capacity;
    // The largest number of bags, those of all features together.
    uint64_t num_bags;
    // The rows, `[capacity]`.
    uint64_t *rows;
    // The bounds of each row's occurrences, `[capacity + 1]`.
    uint32_t *segments;
    // The positions of the ids, `[capacity]`.
    uint32_t *positions;
    // The bag of each of these positions, `[capacity]`.
    uint32_t *bags;
    // The number of ids of each bag without padding and bad ids, `[num_bags]`.
    uint32_t *bag_lengths;
    // `n` and `u`, `[2]`.
    uint32_t *counts;
} bagdot_order_memory;

// The interaction of the features of a sample.
typedef struct bagdot_interaction {
    // `sizeof(bagdot_interaction)`.
    uint32_t struct_size;
    // A `bagdot_interaction_kind`.
    int32_t kind;
    // A `bagdot_pair_order`.
    int32_t pair_order;
    // 1 if the pairs (i,i) are among the pairs.
    uint32_t include_self;
    // 1 if all features but the dense vector follow the pairs, unchanged.
    uint32_t append_sparse;
    // A `bagdot_precision`.
    int32_t precision;
    // The number of columns of which the output's width is a multiple; 0 or 1 for no padding.
    uint64_t pad_to;
    // The number of elements of a feature; concatenations ignore it.
    uint64_t dim;
} bagdot_interaction;

// The features of a batch, or their gradient: `dense` and `sparse`, or all of them in `joined`.
typedef struct bagdot_features {
    // `sizeof(bagdot_features)`.
    uint32_t struct_size;
    // 1 if the first feature of `joined` is the dense vector. A gradient ignores it.
    uint32_t has_dense;
    // The dense vectors, `[batch_size, dim]`.
    const struct bagdot_matrix *dense;
    // The pooled vectors, `[batch_size, T * dim]`.
    const struct bagdot_matrix *sparse;
    // All features of a sample side by side, `[batch_size, F * dim]`.
    const struct bagdot_matrix *joined;
} bagdot_features;

// The options of a layer.
typedef struct bagdot_linear {
    // `sizeof(bagdot_linear)`.
    uint32_t struct_size;
    // A `bagdot_activation`.
    int32_t activation;
    // A `bagdot_precision`.
    int32_t precision;
    // A `bagdot_accum`: the treatment of the values that the gradients of weight and bias hold.
    int32_t accum;
} bagdot_linear;

// The arguments of bagdot_linear_backward().
typedef struct bagdot_linear_gradient {
    // `sizeof(bagdot_linear_gradient)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // X of the forward pass.
    const struct bagdot_matrix *input;
    // W of the forward pass.
    const struct bagdot_matrix *weight;
    // Y of the forward pass.
    const struct bagdot_matrix *output;
    // The gradient, `[batch_size, N]`: of Y before the op, of the affine map after it.
    const struct bagdot_matrix *grad_output;
    // The gradient of X, overwritten; null if it is not needed.
    const struct bagdot_matrix *grad_input;
    // The gradient of W, f32.
    const struct bagdot_matrix *grad_weight;
    // The gradient of b, `[N]`.
    float *grad_bias;
} bagdot_linear_gradient;

// The loss of a batch: its options and its memory.
typedef struct bagdot_loss {
    // `sizeof(bagdot_loss)`.
    uint32_t struct_size;
    // A `bagdot_loss_kind`.
    int32_t kind;
    // The weight of a sample whose label rounds to 0.
    float negative;
    // The weight of a sample whose label rounds to 1.
    float positive;
    // The threshold, in [0, 0.5): probabilities are clamped to `[threshold, 1 - threshold]`.
    float threshold;
    // The factor of the gradient, a power of two; 0 for 1.
    float loss_scale;
    // The number of samples.
    uint64_t batch_size;
    // The logits, `[batch_size]`.
    const float *logits;
    // The labels in [0, 1], `[batch_size]`.
    const float *labels;
    // The output: the mean loss, one value.
    double *mean;
    // The gradient of the logits, `[batch_size]`; null if it is not needed.
    float *grad_logits;
} bagdot_loss;

// The arguments of bagdot_pooled_interaction_forward(). `dense`, `pooled` and `output` are of one
// type: f32, f16 or bf16, whatever the type of the tables.
typedef struct bagdot_pooled_interaction {
    // `sizeof(bagdot_pooled_interaction)`.
    uint32_t struct_size;
    // 1 if the op must write the pooled vectors to `pooled`, as a gradient needs them. Otherwise
    // the contents of `pooled` are unspecified afterwards.
    uint32_t keeps_pooled;
    // The ids.
    const struct bagdot_bags *bags;
    // The interaction.
    const struct bagdot_interaction *interaction;
    // The dense vectors, `[batch_size, dim]`.
    const struct bagdot_matrix *dense;
    // The pooled vectors, `[batch_size, width]`: an output, or workspace.
    const struct bagdot_matrix *pooled;
    // The sources of maxima, as for bagdot_embedding_bag_forward(); or null.
    const struct bagdot_matrix *argmax;
    // The output of the interaction.
    const struct bagdot_matrix *output;
} bagdot_pooled_interaction;

// The memory of a gradient, on its device.
//
// Let `u` be the number in `counts`. Row `rows[k]`, `k < u`, counted through all tables, has the
// gradient `values[starts[k] .. starts[k + 1]]`. `rows` increases strictly.
typedef struct bagdot_gradient_memory {
    // `sizeof(bagdot_gradient_memory)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // The largest number of rows.
    uint64_t capacity;
    // The number of elements of `values`, at least `capacity` times the largest dimension.
    uint64_t num_values;
    // The rows, `[capacity]`.
    uint64_t *rows;
    // The bounds of each row's values, `[capacity + 1]`.
    uint64_t *starts;
    // The values, `[num_values]`.
    float *values;
    // `u`, one number.
    uint32_t *counts;
} bagdot_gradient_memory;

// The source of the gradient of rows: the order of the ids of a batch, and the gradient of its
// pooled output.
typedef struct bagdot_pooled_grad {
    // `sizeof(bagdot_pooled_grad)`.
    uint32_t struct_size;
    // The bound of every element of the gradient, which is clamped to `[-max, max]`; 0 for no
    // clamp.
    float max_gradient;
    // The ids, unchanged since they were sorted.
    const struct bagdot_bags *bags;
    // The order of the ids, made by bagdot_index_sort().
    const struct bagdot_order *order;
    // The gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16.
    const struct bagdot_matrix *grad_output;
    // The sources of maxima, which bagdot_embedding_bag_forward() wrote; needed if a feature is
    // pooled by max, else null.
    const struct bagdot_matrix *argmax;
    // The loss scale, a power of two: `grad_output` is the gradient of this many times the loss.
    // It is divided out of the sums, and `max_gradient` bounds the gradient without it; 0 for 1.
    float loss_scale;
    // Zero.
    uint32_t reserved;
} bagdot_pooled_grad;

// The description of tables. Arrays are in memory of the host, and may be freed when the handle is
// made. The memory of weights and state is the caller's: of the context's device, used by every
// call with the handle.
//
// Weights lie in one block (`joined_weights`), table after table, or in memory of each table's own
// (`weights`): an address for each table, and a leading dimension in elements. State is given in
// the same way. Without either, the handle has no weights, and serves bagdot_index_sort() and the
// gradients of rows.
typedef struct bagdot_tables_options {
    // `sizeof(bagdot_tables_options)`.
    uint32_t struct_size;
    // The type of the weights: `BAGDOT_DTYPE_F32`, `F16` or `BF16`.
    int32_t dtype;
    // The `bagdot_optimizer` whose state follows; `BAGDOT_OPTIMIZER_SGD` has none.
    int32_t optimizer;
    // Zero.
    uint32_t reserved;
    // The number of tables.
    uint64_t num_tables;
    // The number of rows of each table.
    const uint64_t *num_embeddings;
    // The number of elements of a row of each table.
    const uint64_t *embedding_dims;
    // The number of features; 0 for one feature for each table.
    uint64_t num_features;
    // The table of each feature; null if feature `f` looks up table `f`.
    const uint64_t *feature_tables;
    // A `bagdot_pooling` for each feature; null for sums.
    const int32_t *poolings;
    // The padding id of each feature, which is neither pooled nor updated, or -1; null for none.
    const int64_t *padding_indices;
    // The weights of all tables in one block; or null.
    void *joined_weights;
    // The address of the weights of each table; or null.
    void *const *weights;
    // The leading dimension of each table, 0 for its dimension; null for those of all tables.
    const uint64_t *weight_lds;
    // The sums of squares or first moments of all tables in one block; or null.
    float *joined_first;
    // The address of the sums of squares or first moments of each table; or null.
    void *const *first;
    // The leading dimension of each, 0 for its number of columns: 1 for row-wise Adagrad, else the
    // dimension. Null for those of all tables.
    const uint64_t *first_lds;
    // The second moments of all tables in one block; or null.
    float *joined_second;
    // The address of the second moments of each table; or null.
    void *const *second;
    // The leading dimension of each, as for the first moments.
    const uint64_t *second_lds;
} bagdot_tables_options;

// The sizes of tables.
typedef struct bagdot_table_sizes {
    // `sizeof(bagdot_table_sizes)`.
    uint32_t struct_size;
    // Zero.
    uint32_t reserved;
    // The number of features.
    uint64_t num_features;
    // The number of rows of all tables.
    uint64_t num_rows;
    // The number of elements of all tables.
    uint64_t num_weights;
    // The number of columns of the pooled output: the sum of the features' dimensions.
    uint64_t width;
    // The largest dimension.
    uint64_t max_dim;
} bagdot_table_sizes;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Converts a matrix: `to = factor * from`, where `factor` is a power of two. Each of both is f32,
// f16 or bf16.
//
// # Safety
// `context` is a context, and the matrices are structs whose pointers are to as much memory of its
// device as their fields say, which does not overlap. On CUDA all of it stays unchanged until the
// op has run.
int32_t bagdot_cast(const struct bagdot_context *context,
                    float factor,
                    const struct bagdot_matrix *from,
                    const struct bagdot_matrix *to);

// Returns the version of the interface of the library.
uint32_t bagdot_abi_version(void);

// Returns the version of the library, such as "0.1.0".
const char *bagdot_version_string(void);

// Makes a context; null options mean the CPU with the calling thread. A CUDA context loads all
// kernels: a program with several streams makes one, and the others by
// bagdot_context_on_stream().
//
// # Safety
// `options` is null or to a struct whose size is set, and `out` to memory for a pointer.
int32_t bagdot_context_create(const struct bagdot_context_options *options,
                              struct bagdot_context **out);

// Makes a context for another stream of the same CUDA device, which shares the loaded kernels. It
// reports the faults of its own ops, and refuses the handles of other contexts.
//
// # Safety
// `context` is a context, `stream` a stream as `bagdot_context_options` demands it, and `out` to
// memory for a pointer.
int32_t bagdot_context_on_stream(const struct bagdot_context *context,
                                 void *stream,
                                 struct bagdot_context **out);

// Destroys a context; null is nothing. Handles that were made with it stay valid, and are
// destroyed before or after it.
//
// # Safety
// `context` is null or a context that nothing uses any more. On CUDA, all work has run.
void bagdot_context_destroy(struct bagdot_context *context);

// Waits for all ops of the context, and reports the bad id, offset or label that CUDA kernels
// have found since the last call. On the CPU, ops are done when they return, and report by
// themselves.
//
// # Safety
// `context` is a context.
int32_t bagdot_synchronize(const struct bagdot_context *context);

// Reports what CUDA kernels have found so far, as bagdot_synchronize() does, without waiting for
// ops that have not run yet. The error stays until bagdot_synchronize() clears it.
//
// # Safety
// `context` is a context.
int32_t bagdot_poll(const struct bagdot_context *context);

// Gets the address on the device of a `uint32_t`, the number of bad ids, offsets and labels that
// ops of the context have found since the last bagdot_synchronize(). Kernels of the caller may
// read it on the context's stream. CUDA alone.
//
// # Safety
// `context` is a context, and `address` to memory for a number.
int32_t bagdot_fault_count_address(const struct bagdot_context *context, uint64_t *address);

// Gets the stream of a context, a `CUstream`; null on the CPU.
//
// # Safety
// `context` is a context, and `stream` to memory for a pointer.
int32_t bagdot_context_stream(const struct bagdot_context *context, void **stream);

// Allocates memory of the context's device, all zeros. On the CPU it begins at a cache line and
// lies in huge pages where the system has them, which makes lookups in large tables faster. Ops
// take memory of the caller as well.
//
// # Safety
// `context` is a context, and `out` to memory for a pointer.
int32_t bagdot_buffer_create(const struct bagdot_context *context,
                             uint64_t bytes,
                             struct bagdot_buffer **out);

// Gets the address of a buffer, on its device. Without bytes it may be null.
//
// # Safety
// `buffer` is a buffer, and `address` to memory for a pointer.
int32_t bagdot_buffer_data(struct bagdot_buffer *buffer, void **address);

// Frees a buffer; null is nothing.
//
// # Safety
// `buffer` is null or a buffer that nothing uses any more. On CUDA, all work on it has run.
void bagdot_buffer_destroy(struct bagdot_buffer *buffer);

// Copies bytes from the host to the context's device, after the ops called before, and waits.
//
// # Safety
// `context` is a context; `target` is memory of its device and `source` memory of the host of as
// many bytes, which do not overlap.
int32_t bagdot_copy_to_device(const struct bagdot_context *context,
                              void *target,
                              const void *source,
                              uint64_t bytes);

// Copies bytes from the context's device to the host, after the ops called before, and waits.
//
// # Safety
// As for bagdot_copy_to_device(), with `target` on the host and `source` on the device.
int32_t bagdot_copy_to_host(const struct bagdot_context *context,
                            void *target,
                            const void *source,
                            uint64_t bytes);

// Computes the values of a rule, with the decay of a moving average, for bagdot_step_control.
//
// # Safety
// `rule` is to a struct whose size is set, and `values` to memory of the host for the values.
int32_t bagdot_step_values_of(const struct bagdot_rule *rule,
                              float decay,
                              struct bagdot_step_values *values);

// Takes a step on N dense parameters: parameters and state are updated in place. Row-wise Adagrad
// means Adagrad here.
//
// # Safety
// `context` is a context, and the other pointers are null or to structs whose pointers are to as
// much memory of its device as their fields say. Parameters, state and `rounded` overlap nothing
// else. On CUDA all of it stays unchanged until the op has run.
int32_t bagdot_dense_update(const struct bagdot_context *context,
                            const struct bagdot_rule *rule,
                            const struct bagdot_dense_step *step,
                            const struct bagdot_step_control *control);

// Computes the pooled vectors of all bags: for each feature, the sum, mean or maximum of the rows
// of a bag.
//
// `output` is `[batch_size, width]`, of f32, f16 or bf16, whatever the type of the tables.
// `argmax`, of the same shape and of u32, receives the sources of maxima in columns of features
// that are pooled by max; null if no gradient follows. A bad id adds nothing to its bag, and all
// others are pooled.
//
// # Safety
// `context` is a context, `tables` are tables of the same context with weights, and the other
// pointers are null or to structs whose pointers are to as much memory of its device as their
// fields say. `output` and `argmax` overlap nothing else. On CUDA all of it stays unchanged until
// the op has run.
int32_t bagdot_embedding_bag_forward(const struct bagdot_context *context,
                                     const struct bagdot_tables *tables,
                                     const struct bagdot_bags *bags,
                                     const struct bagdot_matrix *output,
                                     const struct bagdot_matrix *argmax);

// Computes the gradient of the per-sample weights, from the rows before any update: one value for
// each id, zero for padding and for bad ids.
//
// `grad_output` is the gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16.
// `grad_weights` has `num_indices` elements.
//
// # Safety
// As for bagdot_embedding_bag_forward(); `grad_weights` overlaps nothing else.
int32_t bagdot_embedding_bag_weight_grad(const struct bagdot_context *context,
                                         const struct bagdot_tables *tables,
                                         const struct bagdot_bags *bags,
                                         const struct bagdot_matrix *grad_output,
                                         float *grad_weights);

// Returns the message of the last call of this thread that failed, an empty string if none has.
// The string belongs to the library and stays valid until the next failed call of the thread.
const char *bagdot_last_error_message(void);

// Gets the fields of the bad id that the last failed call of this thread has reported with
// `BAGDOT_STATUS_INDEX_OUT_OF_RANGE`. After another error, returns
// `BAGDOT_STATUS_INVALID_ARGUMENT` and leaves message and fields as they are.
//
// # Safety
// `bad_id` points to a `bagdot_bad_id` whose `struct_size` is set.
int32_t bagdot_last_bad_id(struct bagdot_bad_id *bad_id);

// Returns the name of a status, such as "INDEX_OUT_OF_RANGE"; "unknown" for other numbers.
const char *bagdot_status_name(int32_t status);

// Shuts the gate of a step if its loss or a gradient is not finite, or if ops have found a bad id,
// offset or label that no call has reported yet. The result stays on the device.
//
// # Safety
// `context` is a context, and the pointers of the arguments are null or to as much memory of its
// device as they say. The verdict overlaps nothing else. On CUDA all of it stays unchanged until
// the op has run.
int32_t bagdot_finite_check(const struct bagdot_context *context,
                            const struct bagdot_finite_check_arguments *arguments);

// Computes the logits of a batch.
//
// # Safety
// `context` is a context, and `head` to a struct whose pointers are to as much memory of its
// device as its fields say. `logits` overlaps nothing else. On CUDA all of it stays unchanged
// until the op has run.
int32_t bagdot_head_forward(const struct bagdot_context *context, const struct bagdot_head *head);

// Gets the size in bytes of the workspace of bagdot_head_loss_and_grads() for `inputs` inputs of
// this type (K).
//
// # Safety
// `context` is a context, and `bytes` to memory for a number.
int32_t bagdot_head_workspace_size(const struct bagdot_context *context,
                                   int32_t input_dtype,
                                   uint64_t batch_size,
                                   uint64_t inputs,
                                   uint64_t *bytes);

// Computes the logits of a batch, the mean loss, and all gradients. A bad label is an error as a
// bad id is: its loss and gradient are 0, and all else is computed.
//
// # Safety
// `context` is a context, and `head` and `gradient` to structs whose pointers are to as much
// memory of its device as their fields say. Outputs and workspace, `workspace_size` bytes at a
// multiple of 8, overlap nothing else. On CUDA all of it stays unchanged until the op has run.
int32_t bagdot_head_loss_and_grads(const struct bagdot_context *context,
                                   const struct bagdot_head *head,
                                   const struct bagdot_head_gradient *gradient,
                                   void *workspace,
                                   uint64_t workspace_size);

// Allocates an order for at most `capacity` ids in at most `num_bags` bags.
//
// # Safety
// `context` is a context, and `out` to memory for a pointer.
int32_t bagdot_order_create(const struct bagdot_context *context,
                            uint64_t capacity,
                            uint64_t num_bags,
                            struct bagdot_order **out);

// Makes an order on memory of the caller, whatever it holds.
//
// # Safety
// `context` is a context, `out` to memory for a pointer, and `memory` to a struct with the
// addresses of as many initialised elements of its device. Until the order is destroyed, and on
// CUDA until all work on it has run, nothing but the order uses them.
int32_t bagdot_order_create_on(const struct bagdot_context *context,
                               const struct bagdot_order_memory *memory,
                               struct bagdot_order **out);

// Gets the memory of an order: `capacity`, `num_bags`, and addresses on its device, whose contents
// stay until the next sort into it.
//
// # Safety
// `order` is an order, and `memory` to a struct whose size is set.
int32_t bagdot_order_get_memory(const struct bagdot_order *order,
                                struct bagdot_order_memory *memory);

// Destroys an order; null is nothing. Memory of the caller stays.
//
// # Safety
// `order` is null or an order that nothing uses any more. On CUDA, all work on it has run.
void bagdot_order_destroy(struct bagdot_order *order);

// Gets the size in bytes of the workspace of bagdot_index_sort() for a batch of this size.
//
// # Safety
// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
int32_t bagdot_index_sort_workspace_size(const struct bagdot_context *context,
                                         const struct bagdot_tables *tables,
                                         uint64_t num_indices,
                                         uint64_t *bytes);

// Sorts the ids of a batch by row, without padding and bad ids. `order` must have room for its ids
// and bags. If there is a bad id, the order is complete for the others.
//
// # Safety
// `context` is a context, `tables` and `order` are handles of the same context, and `bags` is to a
// struct whose pointers are to as much memory of its device as its fields say. `workspace` is null
// or to `workspace_size` bytes of the device, at a multiple of 8 bytes. Nothing else uses order
// and workspace meanwhile. On CUDA all of it stays unchanged until the op has run.
int32_t bagdot_index_sort(const struct bagdot_context *context,
                          const struct bagdot_tables *tables,
                          const struct bagdot_bags *bags,
                          struct bagdot_order *order,
                          void *workspace,
                          uint64_t workspace_size);

// Gets the number of columns of the output for `num_sparse` pooled vectors, with or without a
// dense vector.
//
// # Safety
// `interaction` is to a struct whose size is set, and `width` to memory for a number.
int32_t bagdot_interaction_width(const struct bagdot_interaction *interaction,
                                 uint32_t has_dense,
                                 uint64_t num_sparse,
                                 uint64_t *width);

// Computes the dense vector followed by the dot products of all pairs of features, or the
// concatenation of the features.
//
// Features and output, `[batch_size, width]`, are of one type: f32, f16 or bf16.
//
// # Safety
// `context` is a context, and the other pointers are to structs whose pointers are to as much
// memory of its device as their fields say. `output` overlaps nothing else. On CUDA all of it
// stays unchanged until the op has run.
int32_t bagdot_interaction_forward(const struct bagdot_context *context,
                                   const struct bagdot_interaction *interaction,
                                   const struct bagdot_features *features,
                                   const struct bagdot_matrix *output);

// Computes the gradient of the features from that of the output. `grad_features` has the layout of
// the features, and is overwritten.
//
// # Safety
// As for bagdot_interaction_forward(); the memory of `grad_features` overlaps nothing else.
int32_t bagdot_interaction_backward(const struct bagdot_context *context,
                                    const struct bagdot_interaction *interaction,
                                    const struct bagdot_features *features,
                                    const struct bagdot_matrix *grad_output,
                                    const struct bagdot_features *grad_features);

// Computes `Y = act(X W^T + b)`, with `input` X `[batch_size, K]`, `weight` W `[N, K]`, `bias` b
// `[N]` and `output` Y `[batch_size, N]`.
//
// X, W and Y are of one type: f32, f16 or bf16. `packed_weight` is null or the result of
// bagdot_linear_pack() for W. Null options mean a layer without an activation.
//
// # Safety
// `context` is a context, and the other pointers are null or to structs and arrays whose pointers
// are to as much memory of its device as their fields say. `output` overlaps nothing else. On CUDA
// all of it stays unchanged until the op has run.
int32_t bagdot_linear_forward(const struct bagdot_context *context,
                              const struct bagdot_linear *options,
                              const struct bagdot_matrix *input,
                              const struct bagdot_matrix *weight,
                              const uint64_t *packed_weight,
                              const float *bias,
                              const struct bagdot_matrix *output);

// Gets the size in bytes of a packed weight `[outputs, inputs]` of this type; 0 if the device does
// not pack weights.
//
// # Safety
// `context` is a context, and `bytes` to memory for a number.
int32_t bagdot_linear_pack_size(const struct bagdot_context *context,
                                int32_t weight_dtype,
                                uint64_t outputs,
                                uint64_t inputs,
                                uint64_t *bytes);

// Packs a weight `[N, K]` into the layout in which matrix products read it, which pays if many
// batches use it. `packed` has bagdot_linear_pack_size() bytes, at a multiple of 8.
//
// # Safety
// As for bagdot_linear_forward(); `packed` overlaps nothing else.
int32_t bagdot_linear_pack(const struct bagdot_context *context,
                           const struct bagdot_matrix *weight,
                           uint64_t *packed);

// Gets the size in bytes of the workspace of bagdot_linear_backward() for a layer
// `[outputs, inputs]` of this type.
//
// # Safety
// `context` is a context, and `bytes` to memory for a number.
int32_t bagdot_linear_backward_workspace_size(const struct bagdot_context *context,
                                              int32_t weight_dtype,
                                              uint64_t batch_size,
                                              uint64_t outputs,
                                              uint64_t inputs,
                                              uint64_t *bytes);

// Computes the gradients of a layer. Null options mean a layer without an activation.
//
// # Safety
// As for bagdot_linear_forward(); gradients and workspace, `workspace_size` bytes at a multiple of
// 8, overlap nothing else.
int32_t bagdot_linear_backward(const struct bagdot_context *context,
                               const struct bagdot_linear *options,
                               const struct bagdot_linear_gradient *gradient,
                               void *workspace,
                               uint64_t workspace_size);

// Gets the size in bytes of the workspace of bagdot_loss_forward().
//
// # Safety
// `context` is a context, and `bytes` to memory for a number.
int32_t bagdot_loss_workspace_size(const struct bagdot_context *context,
                                   uint64_t batch_size,
                                   uint64_t *bytes);

// Computes the mean loss of a batch and, in the same pass, its gradient. A bad label is an error
// as a bad id is: its loss and gradient are 0, and those of all others are computed.
//
// # Safety
// `context` is a context, and `loss` to a struct whose pointers are to as much memory of its
// device as its fields say. Outputs and workspace, `workspace_size` bytes at a multiple of 8,
// overlap nothing else. On CUDA all of it stays unchanged until the op has run.
int32_t bagdot_loss_forward(const struct bagdot_context *context,
                            const struct bagdot_loss *loss,
                            void *workspace,
                            uint64_t workspace_size);

// Takes one step of the average of `num_values` parameters:
// `average += (1 - decay) (value - average)`. Values of `control` take the place of `decay`.
//
// # Safety
// `context` is a context, `control` is null or to a struct with addresses on its device, and the
// arrays have `num_values` elements there. `average` overlaps nothing else. On CUDA all of it
// stays unchanged until the op has run.
int32_t bagdot_moving_average(const struct bagdot_context *context,
                              float decay,
                              uint64_t num_values,
                              const float *values,
                              float *average,
                              const struct bagdot_step_control *control);

// Does bagdot_embedding_bag_forward() and bagdot_interaction_forward() in one pass, with the same
// bits. On the CPU the pooled vectors stay in the cache meanwhile.
//
// # Safety
// As for these two.
int32_t bagdot_pooled_interaction_forward(const struct bagdot_context *context,
                                          const struct bagdot_tables *tables,
                                          const struct bagdot_pooled_interaction *arguments);

// Allocates a gradient for at most `capacity` rows of these tables. A batch needs at most as many
// as it has ids.
//
// # Safety
// `context` is a context, `tables` are its tables, and `out` is to memory for a pointer.
int32_t bagdot_gradient_create(const struct bagdot_context *context,
                               const struct bagdot_tables *tables,
                               uint64_t capacity,
                               struct bagdot_gradient **out);

// Makes a gradient without rows on memory of the caller, whatever it holds.
//
// # Safety
// `context` is a context, `tables` are its tables, `out` is to memory for a pointer, and `memory`
// to a struct with the addresses of as many initialised elements of its device. Until the gradient
// is destroyed, and on CUDA until all work on it has run, nothing but the gradient uses them.
int32_t bagdot_gradient_create_on(const struct bagdot_context *context,
                                  const struct bagdot_tables *tables,
                                  const struct bagdot_gradient_memory *memory,
                                  struct bagdot_gradient **out);

// Gets the memory of a gradient: `capacity`, `num_values`, and addresses on its device, whose
// contents stay until the next op that writes the gradient.
//
// # Safety
// `gradient` is a gradient, and `memory` to a struct whose size is set.
int32_t bagdot_gradient_get_memory(const struct bagdot_gradient *gradient,
                                   struct bagdot_gradient_memory *memory);

// Destroys a gradient; null is nothing. Memory of the caller stays.
//
// # Safety
// `gradient` is null or a gradient that nothing uses any more. On CUDA, all work on it has run.
void bagdot_gradient_destroy(struct bagdot_gradient *gradient);

// Gets the size in bytes of the workspace of bagdot_sparse_update() and
// bagdot_sparse_update_reduce() for a batch of this size.
//
// # Safety
// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
int32_t bagdot_sparse_update_workspace_size(const struct bagdot_context *context,
                                            const struct bagdot_tables *tables,
                                            uint64_t num_indices,
                                            uint64_t *bytes);

// Takes one step of the optimizer on each row that the batch looks up, without a gradient in
// memory. The tables must have the state of the rule's optimizer.
//
// `control` is null or values and gate of the step on the device. `decay_scale` is null or the
// factor of the weight decay of each row, by row number through all tables.
//
// # Safety
// `context` is a context, and the handles are of the same context. The other pointers are null or
// to structs and arrays whose pointers are to as much memory of its device as their fields say;
// `workspace` to `workspace_size` bytes, at a multiple of 8. Nothing else uses the tables, their
// weights and state, and the workspace meanwhile. On CUDA all of it stays unchanged until the op
// has run.
int32_t bagdot_sparse_update(const struct bagdot_context *context,
                             struct bagdot_tables *tables,
                             const struct bagdot_pooled_grad *source,
                             const struct bagdot_rule *rule,
                             const struct bagdot_step_control *control,
                             const float *decay_scale,
                             void *workspace,
                             uint64_t workspace_size);

// Sorts the ids of a batch and takes one step of the optimizer on each row that it looks up:
// bagdot_index_sort() and bagdot_sparse_update() in one call, with an order and a workspace that
// the context keeps. They grow with the largest batch so far.
//
// `grad_output` is the gradient of the pooled output, `[batch_size, width]`, of f32, f16 or bf16;
// there is no loss scale. No feature may be pooled by max. After a bad id no row has changed on
// the CPU; on CUDA the rows of the valid ids have.
//
// # Safety
// As for bagdot_sparse_update().
int32_t bagdot_sparse_update_step(const struct bagdot_context *context,
                                  struct bagdot_tables *tables,
                                  const struct bagdot_bags *bags,
                                  const struct bagdot_matrix *grad_output,
                                  const struct bagdot_rule *rule);

// Sums the gradient of each row of a batch. `gradient` must have room for a row for each id, or
// for all rows if there are fewer.
//
// # Safety
// As for bagdot_sparse_update(); nothing else uses the gradient meanwhile.
int32_t bagdot_sparse_update_reduce(const struct bagdot_context *context,
                                    const struct bagdot_tables *tables,
                                    const struct bagdot_pooled_grad *source,
                                    struct bagdot_gradient *gradient,
                                    void *workspace,
                                    uint64_t workspace_size);

// Gets the size in bytes of the workspace of bagdot_sparse_update_merge() for gradients with room
// for `num_rows` rows together.
//
// # Safety
// `context` is a context, `tables` are its tables, and `bytes` is to memory for a number.
int32_t bagdot_sparse_update_merge_workspace_size(const struct bagdot_context *context,
                                                  const struct bagdot_tables *tables,
                                                  uint64_t num_rows,
                                                  uint64_t *bytes);

// Adds two gradients: `sum = a + b`. `sum` must have room for as many rows as both have room for,
// or for all rows if there are fewer.
//
// # Safety
// As for bagdot_sparse_update(); the three gradients are different.
int32_t bagdot_sparse_update_merge(const struct bagdot_context *context,
                                   const struct bagdot_tables *tables,
                                   const struct bagdot_gradient *a,
                                   const struct bagdot_gradient *b,
                                   struct bagdot_gradient *sum,
                                   void *workspace,
                                   uint64_t workspace_size);

// Takes one step of the optimizer on each row of a gradient. The tables must have the state of the
// rule's optimizer. `decay_scale` is as for bagdot_sparse_update().
//
// # Safety
// As for bagdot_sparse_update().
int32_t bagdot_sparse_update_apply(const struct bagdot_context *context,
                                   struct bagdot_tables *tables,
                                   const struct bagdot_gradient *gradient,
                                   const struct bagdot_rule *rule,
                                   const float *decay_scale);

// Makes tables of a description. On CUDA, copies the layout and the addresses to the device.
//
// # Safety
// `context` is a context and `out` to memory for a pointer. The pointers in `options` are null or
// to as much memory as its fields say. Weights and state stay where they are until the handle is
// destroyed. While an op reads them nothing writes them, and while an op writes them nothing else
// uses them: on CUDA, until the op has run.
int32_t bagdot_tables_create(const struct bagdot_context *context,
                             const struct bagdot_tables_options *options,
                             struct bagdot_tables **out);

// Destroys tables; null is nothing. Their memory stays.
//
// # Safety
// `tables` is null or tables that nothing uses any more. On CUDA, all work on them has run.
void bagdot_tables_destroy(struct bagdot_tables *tables);

// Gets the sizes of tables.
//
// # Safety
// `tables` are tables, and `sizes` to a struct whose size is set.
int32_t bagdot_tables_sizes(const struct bagdot_tables *tables, struct bagdot_table_sizes *sizes);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* BAGDOT_H */
