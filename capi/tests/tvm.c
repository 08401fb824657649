/* Calls the functions for TVM-FFI by their symbols, in a process that has no libtvm_ffi:
 * ./tvm [cuda]. The structs are those of tvm/ffi/c_api.h and dlpack.h. */

#include <bagdot.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *data;
    int32_t device_type, device_id, ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct {
    int32_t type_index;
    uint32_t zero_padding;
    union {
        int64_t integer;
        double number;
        DLTensor *tensor;
    } value;
} TVMFFIAny;

typedef int function(void *self, const TVMFFIAny *arguments, int32_t len, TVMFFIAny *result);
extern function __tvm_ffi_bagdot_embedding_bag, __tvm_ffi_bagdot_embedding_bag_sgd,
    __tvm_ffi_bagdot_embedding_bag_rowwise_adagrad, __tvm_ffi_bagdot_interaction,
    __tvm_ffi_bagdot_interaction_grad;

#define TRUE(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold (%s)\n", __FILE__, __LINE__, #condition,      \
                    bagdot_last_error_message());                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static int on_cuda;
static bagdot_context *context;
static bagdot_buffer *owned[32];
static int num_owned;
static DLTensor tensors[32];
static int64_t shapes[32][2];

/* Makes a tensor of f32 or i32, with these values. A tensor without columns has one dimension. */
static TVMFFIAny tensor(uint8_t code, const void *values, int64_t rows, int64_t cols) {
    DLTensor *made = &tensors[num_owned];
    int64_t *shape = shapes[num_owned];
    const uint64_t bytes = (uint64_t)(rows * (cols ? cols : 1)) * 4;
    TRUE(bagdot_buffer_create(context, bytes, &owned[num_owned]) == 0);
    TRUE(bagdot_buffer_data(owned[num_owned++], &made->data) == 0);
    TRUE(bagdot_copy_to_device(context, made->data, values, bytes) == 0);
    shape[0] = rows;
    shape[1] = cols;
    made->device_type = on_cuda ? 2 : 1;
    made->ndim = cols ? 2 : 1;
    made->code = code;
    made->bits = 32;
    made->lanes = 1;
    made->shape = shape;
    TVMFFIAny any = {.type_index = 7, .value.tensor = made};
    return any;
}
#define F32(rows, cols, ...) tensor(2, (float[]){__VA_ARGS__}, rows, cols)
#define I32(len, ...) tensor(0, (int32_t[]){__VA_ARGS__}, len, 0)

static TVMFFIAny integer(int64_t value) {
    TVMFFIAny any = {.type_index = 1, .value.integer = value};
    return any;
}

static TVMFFIAny number(double value) {
    TVMFFIAny any = {.type_index = 3, .value.number = value};
    return any;
}

static void expect(int line, TVMFFIAny any, const float *wanted, uint64_t bytes) {
    float found[16];
    TRUE(bagdot_copy_to_host(context, found, any.value.tensor->data, bytes) == 0);
    if (memcmp(found, wanted, bytes) != 0) {
        for (uint64_t k = 0; k < bytes / 4; k++) fprintf(stderr, " %g", (double)found[k]);
        fprintf(stderr, "\n%s:%d: other bits\n", __FILE__, line);
        exit(1);
    }
}
#define EXPECT(any, ...)                                                                           \
    expect(__LINE__, any, (float[]){__VA_ARGS__}, sizeof((float[]){__VA_ARGS__}))
#define CALL(function, ...)                                                                        \
    function(NULL, (TVMFFIAny[]){__VA_ARGS__},                                                     \
             (int32_t)(sizeof((TVMFFIAny[]){__VA_ARGS__}) / sizeof(TVMFFIAny)), &result)

int main(int argc, char **argv) {
    on_cuda = argc > 1 && strcmp(argv[1], "cuda") == 0;
    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.device = on_cuda ? BAGDOT_DEVICE_CUDA : BAGDOT_DEVICE_CPU;
    TRUE(bagdot_context_create(&options, &context) == 0);

    /* Two features, two samples: the bags [0, 2] and [2], [1] and []. */
    TVMFFIAny result, users = F32(3, 2, 1, 2, 3, 4, 5, 6), items = F32(2, 2, 7, 8, 9, 10);
    TVMFFIAny ids = I32(4, 0, 2, 2, 1), offsets = I32(5, 0, 2, 3, 4, 4);
    TVMFFIAny pooled = F32(2, 4, 0, 0, 0, 0, 0, 0, 0, 0);
    TVMFFIAny sum = integer(0);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, users, items, pooled) == 0);
    TRUE(result.type_index == 0);
    EXPECT(pooled, 6, 8, 9, 10, 5, 6, 0, 0);
    /* One table for both features. */
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, users, pooled) == 0);
    EXPECT(pooled, 6, 8, 3, 4, 5, 6, 0, 0);
    /* Pooled vectors of bfloat16 take half of the memory. */
    pooled.value.tensor->code = 4;
    pooled.value.tensor->bits = 16;
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, users, pooled) == 0);
    const uint16_t halves[8] = {0x40c0, 0x4100, 0x4040, 0x4080, 0x40a0, 0x40c0, 0, 0};
    uint16_t found[8];
    TRUE(bagdot_copy_to_host(context, found, pooled.value.tensor->data, sizeof found) == 0);
    TRUE(memcmp(found, halves, sizeof found) == 0);

    TVMFFIAny grad = F32(2, 4, 1, 0, 0, 0, 0, 1, 0, 0), rate = number(0.5);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag_sgd, sum, rate, ids, offsets, grad, users, items) ==
         0);
    EXPECT(users, 0.5f, 2, 3, 4, 4.5f, 5.5f);
    TVMFFIAny sums = F32(3, 0, 0, 0, 0), others = F32(2, 0, 0, 0);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag_rowwise_adagrad, sum, rate, number(0), ids, offsets,
              grad, users, items, sums, others) == 0);
    EXPECT(sums, 0.5f, 0, 1);

    TVMFFIAny dense = F32(1, 2, 1, 2), sparse = F32(1, 4, 3, 4, 5, 6);
    TVMFFIAny output = F32(1, 5, 0, 0, 0, 0, 0);
    TRUE(CALL(__tvm_ffi_bagdot_interaction, integer(0), integer(0), dense, sparse, output) == 0);
    EXPECT(output, 1, 2, 11, 17, 39);
    TVMFFIAny grad_output = F32(1, 5, 1, 0, 1, 0, 2);
    TVMFFIAny grad_dense = F32(1, 2, 0, 0), grad_sparse = F32(1, 4, 0, 0, 0, 0);
    TRUE(CALL(__tvm_ffi_bagdot_interaction_grad, integer(0), integer(0), dense, sparse,
              grad_output, grad_dense, grad_sparse) == 0);
    EXPECT(grad_dense, 4, 4);
    EXPECT(grad_sparse, 11, 14, 6, 8);

    /* What is refused: a bad id, too few arguments, other types, gaps within rows, two devices. */
    TVMFFIAny bad = I32(4, 0, 2, 9, 1);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, bad, offsets, users, items, pooled) == -1);
    TRUE(strstr(bagdot_last_error_message(), "index 9 is out of range for table 0") != NULL);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids) == -1);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, rate, pooled) == -1);
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, integer(7), ids, offsets, users, pooled) == -1);
    int64_t strides[2] = {1, 3};
    users.value.tensor->strides = strides;
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, users, pooled) == -1);
    TRUE(strstr(bagdot_last_error_message(), "gaps") != NULL);
    users.value.tensor->strides = NULL;
    users.value.tensor->device_type = on_cuda ? 1 : 2;
    TRUE(CALL(__tvm_ffi_bagdot_embedding_bag, sum, ids, offsets, users, pooled) == -1);
    TRUE(strstr(bagdot_last_error_message(), "different devices") != NULL);

    while (num_owned > 0) bagdot_buffer_destroy(owned[--num_owned]);
    bagdot_context_destroy(context);
    printf("every function for TVM-FFI on %s\n", on_cuda ? "CUDA" : "the CPU");
    return 0;
}
