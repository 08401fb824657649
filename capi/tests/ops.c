/* Calls every function of bagdot.h once, with results that are known, and with arguments that must
 * be refused: ./ops [cuda] */

#include <bagdot.h>

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bagdot_context *context;

#define FAIL(...)                                                                                  \
    do {                                                                                           \
        fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                                            \
        fprintf(stderr, __VA_ARGS__);                                                              \
        fprintf(stderr, " (%s)\n", bagdot_last_error_message());                                   \
        exit(1);                                                                                   \
    } while (0)
#define CHECK(call)                                                                                \
    do {                                                                                           \
        int32_t status = (call);                                                                   \
        if (status != 0) FAIL("%s", bagdot_status_name(status));                                   \
    } while (0)
#define REFUSED(wanted, call)                                                                      \
    do {                                                                                           \
        int32_t status = (call);                                                                   \
        if (status != BAGDOT_STATUS_##wanted) {                                                    \
            FAIL("%s, but must be " #wanted, bagdot_status_name(status));                          \
        }                                                                                          \
    } while (0)
#define TRUE(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) FAIL("%s does not hold", #condition);                                    \
    } while (0)

static bagdot_buffer *owned[96];
static int num_owned;

/* Allocates memory of the device, with these bytes. */
static void *place(const void *values, uint64_t bytes) {
    bagdot_buffer *buffer = NULL;
    void *address = NULL;
    CHECK(bagdot_buffer_create(context, bytes, &buffer));
    owned[num_owned++] = buffer;
    CHECK(bagdot_buffer_data(buffer, &address));
    CHECK(bagdot_copy_to_device(context, address, values, bytes));
    return address;
}
#define PLACE(type, ...) ((type *)place((type[]){__VA_ARGS__}, sizeof((type[]){__VA_ARGS__})))

static void expect_bytes(int line, const void *found, const void *wanted, uint64_t bytes) {
    unsigned char values[256];
    CHECK(bagdot_synchronize(context));
    CHECK(bagdot_copy_to_host(context, values, found, bytes));
    if (memcmp(values, wanted, bytes) != 0) {
        for (uint64_t k = 0; k + 4 <= bytes; k += 4) {
            float value, want;
            memcpy(&value, values + k, 4);
            memcpy(&want, (const unsigned char *)wanted + k, 4);
            fprintf(stderr, "%g, wanted %g\n", (double)value, (double)want);
        }
        fprintf(stderr, "%s:%d: other bits\n", __FILE__, line);
        exit(1);
    }
}
#define EXPECT(type, found, ...)                                                                   \
    expect_bytes(__LINE__, found, (type[]){__VA_ARGS__}, sizeof((type[]){__VA_ARGS__}))

static bagdot_matrix matrix(int32_t dtype, void *data, uint64_t rows, uint64_t cols) {
    bagdot_matrix made = BAGDOT_INIT(bagdot_matrix);
    made.dtype = dtype;
    made.data = data;
    made.rows = rows;
    made.cols = cols;
    return made;
}
#define F32(data, rows, cols) matrix(BAGDOT_DTYPE_F32, data, rows, cols)

static const float zeros[16];

static bagdot_tables *joined_tables(void *weights, int32_t optimizer, float *state, int32_t pool) {
    const uint64_t rows = 3, dim = 2;
    bagdot_tables_options options = BAGDOT_INIT(bagdot_tables_options);
    options.num_tables = 1;
    options.num_embeddings = &rows;
    options.embedding_dims = &dim;
    options.poolings = &pool;
    options.joined_weights = weights;
    options.optimizer = optimizer;
    options.joined_first = state;
    bagdot_tables *tables = NULL;
    CHECK(bagdot_tables_create(context, &options, &tables));
    return tables;
}

/* Two samples with the bags [0, 2] and [2]. */
static bagdot_bags two_bags(void) {
    bagdot_bags bags = BAGDOT_INIT(bagdot_bags);
    bags.index_dtype = BAGDOT_DTYPE_I64;
    bags.offset_dtype = BAGDOT_DTYPE_I32;
    bags.batch_size = 2;
    bags.num_indices = 3;
    bags.indices = PLACE(int64_t, 0, 2, 2);
    bags.offsets = PLACE(int32_t, 0, 2, 3);
    return bags;
}

static void lookups(void) {
    float *weights = PLACE(float, 1, 2, 3, 4, 5, 6);
    bagdot_tables *tables = joined_tables(weights, 0, NULL, BAGDOT_POOLING_SUM);
    bagdot_table_sizes sizes = BAGDOT_INIT(bagdot_table_sizes);
    CHECK(bagdot_tables_sizes(tables, &sizes));
    TRUE(sizes.num_features == 1 && sizes.num_rows == 3 && sizes.num_weights == 6);
    TRUE(sizes.width == 2 && sizes.max_dim == 2 && sizes.struct_size == sizeof sizes);

    bagdot_bags bags = two_bags();
    bagdot_matrix pooled = F32(place(zeros, 16), 2, 2);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    EXPECT(float, pooled.data, 6, 8, 5, 6);
    bags.per_sample_weights = PLACE(float, 2, 1, 3);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    EXPECT(float, pooled.data, 7, 10, 15, 18);
    float *grad_weights = place(zeros, 12);
    bagdot_matrix grad = F32(PLACE(float, 1, 0, 1, 1), 2, 2);
    CHECK(bagdot_embedding_bag_weight_grad(context, tables, &bags, &grad, grad_weights));
    EXPECT(float, grad_weights, 1, 5, 11);
    /* Outputs and gradients of 16 bits. */
    bagdot_matrix half = matrix(BAGDOT_DTYPE_F16, place(zeros, 8), 2, 2);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &half, NULL));
    EXPECT(uint16_t, half.data, 0x4700, 0x4900, 0x4b80, 0x4c80);
    half.dtype = BAGDOT_DTYPE_BF16;
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &half, NULL));
    EXPECT(uint16_t, half.data, 0x40e0, 0x4120, 0x4170, 0x4190);
    half.data = PLACE(uint16_t, 0x4000, 0, 0, 0x3f80);
    CHECK(bagdot_embedding_bag_weight_grad(context, tables, &bags, &half, grad_weights));
    EXPECT(float, grad_weights, 2, 10, 6);
    bags.per_sample_weights = NULL;

    /* Starts, equal lengths, slack, unsigned ids, and maxima with their sources. */
    bags.has_starts = 1;
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    EXPECT(float, pooled.data, 6, 8, 5, 6);
    bags.has_starts = 0;
    bags.offsets = NULL;
    bags.bag_length = 1;
    bags.has_slack = 1;
    bags.index_dtype = BAGDOT_DTYPE_U32;
    bags.indices = PLACE(uint32_t, 1, 2, 99);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    EXPECT(float, pooled.data, 3, 4, 5, 6);
    bagdot_tables *max = joined_tables(weights, 0, NULL, BAGDOT_POOLING_MAX);
    bags = two_bags();
    bagdot_matrix argmax = matrix(BAGDOT_DTYPE_U32, place(zeros, 16), 2, 2);
    CHECK(bagdot_embedding_bag_forward(context, max, &bags, &pooled, &argmax));
    EXPECT(float, pooled.data, 5, 6, 5, 6);
    EXPECT(uint32_t, argmax.data, 1, 1, 0, 0);

    /* Arguments that are not valid. */
    REFUSED(NULL_POINTER, bagdot_embedding_bag_forward(NULL, tables, &bags, &pooled, NULL));
    REFUSED(NULL_POINTER, bagdot_embedding_bag_forward(context, NULL, &bags, &pooled, NULL));
    REFUSED(NULL_POINTER, bagdot_embedding_bag_forward(context, tables, NULL, &pooled, NULL));
    REFUSED(NULL_POINTER, bagdot_embedding_bag_forward(context, tables, &bags, NULL, NULL));
    bagdot_matrix wrong = pooled;
    wrong.data = NULL;
    REFUSED(NULL_POINTER, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    wrong.data = (char *)pooled.data + 2;
    REFUSED(MISALIGNED, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    wrong = pooled;
    wrong.cols = 1;
    wrong.ld = 2;
    REFUSED(SHAPE_MISMATCH, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    wrong = pooled;
    wrong.rows = UINT64_MAX;
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    wrong = pooled;
    wrong.dtype = BAGDOT_DTYPE_I64;
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    REFUSED(DTYPE_MISMATCH, bagdot_embedding_bag_forward(context, max, &bags, &pooled, &pooled));
    wrong.dtype = 77;
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &bags, &wrong, NULL));
    bagdot_bags typed = bags;
    typed.index_dtype = BAGDOT_DTYPE_F32;
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &typed, &pooled, NULL));
    typed = bags;
    typed.batch_size = UINT64_MAX;
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &typed, &pooled, NULL));
    typed = bags;
    typed.struct_size = 0;
    REFUSED(STRUCT_SIZE, bagdot_embedding_bag_forward(context, tables, &typed, &pooled, NULL));

    /* A struct of a later version: fields that are zero are as good as not there. */
    struct {
        bagdot_matrix known;
        uint64_t later;
    } grown = {pooled, 0};
    grown.known.struct_size = sizeof grown;
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &grown.known, NULL));
    grown.later = 1;
    REFUSED(STRUCT_SIZE, bagdot_embedding_bag_forward(context, tables, &bags, &grown.known, NULL));
    /* A struct of an earlier version, without ld. */
    bagdot_matrix earlier = pooled;
    earlier.struct_size = sizeof earlier - sizeof earlier.ld;
    earlier.ld = 77;
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &earlier, NULL));

    bagdot_tables_destroy(max);
    bagdot_tables_destroy(tables);
    /* Without weights there is an order, but no lookup. */
    tables = joined_tables(NULL, 0, NULL, BAGDOT_POOLING_SUM);
    REFUSED(INVALID_ARGUMENT, bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    bagdot_tables_destroy(tables);
}

static void interactions(void) {
    bagdot_interaction interaction = BAGDOT_INIT(bagdot_interaction);
    interaction.dim = 2;
    uint64_t width = 0;
    CHECK(bagdot_interaction_width(&interaction, 1, 2, &width));
    TRUE(width == 5);
    bagdot_matrix block = F32(PLACE(float, 1, 2, 3, 4, 5, 6), 1, 6);
    bagdot_features features = BAGDOT_INIT(bagdot_features);
    features.has_dense = 1;
    features.joined = &block;
    bagdot_matrix output = F32(place(zeros, 20), 1, 5);
    CHECK(bagdot_interaction_forward(context, &interaction, &features, &output));
    EXPECT(float, output.data, 1, 2, 11, 17, 39);
    bagdot_matrix grad_output = F32(PLACE(float, 1, 0, 1, 0, 2), 1, 5);
    bagdot_matrix grad_block = F32(place(zeros, 24), 1, 6);
    bagdot_features grads = BAGDOT_INIT(bagdot_features);
    grads.joined = &grad_block;
    CHECK(bagdot_interaction_backward(context, &interaction, &features, &grad_output, &grads));
    EXPECT(float, grad_block.data, 4, 4, 11, 14, 6, 8);
    features.dense = &block;
    REFUSED(INVALID_ARGUMENT,
            bagdot_interaction_forward(context, &interaction, &features, &output));

    bagdot_tables *tables = joined_tables(PLACE(float, 1, 0, 2, 3, 0, 0), 0, NULL, 0);
    bagdot_bags bags = BAGDOT_INIT(bagdot_bags);
    bags.index_dtype = BAGDOT_DTYPE_I32;
    bags.batch_size = 1;
    bags.num_indices = bags.bag_length = 2;
    bags.indices = PLACE(int32_t, 0, 1);
    bagdot_matrix dense = F32(PLACE(float, 1, 2), 1, 2);
    bagdot_matrix pooled = F32(place(zeros, 8), 1, 2);
    output = F32(place(zeros, 12), 1, 3);
    bagdot_pooled_interaction arguments = BAGDOT_INIT(bagdot_pooled_interaction);
    arguments.keeps_pooled = 1;
    arguments.bags = &bags;
    arguments.interaction = &interaction;
    arguments.dense = &dense;
    arguments.pooled = &pooled;
    arguments.output = &output;
    CHECK(bagdot_pooled_interaction_forward(context, tables, &arguments));
    EXPECT(float, output.data, 1, 2, 9);
    EXPECT(float, pooled.data, 3, 3);
    /* In 16 bits. All three matrices are of one type. */
    pooled.dtype = BAGDOT_DTYPE_BF16;
    REFUSED(DTYPE_MISMATCH, bagdot_pooled_interaction_forward(context, tables, &arguments));
    dense = matrix(BAGDOT_DTYPE_BF16, PLACE(uint16_t, 0x3f80, 0x4000), 1, 2);
    output.dtype = BAGDOT_DTYPE_BF16;
    CHECK(bagdot_pooled_interaction_forward(context, tables, &arguments));
    EXPECT(uint16_t, output.data, 0x3f80, 0x4000, 0x4110);
    EXPECT(uint16_t, pooled.data, 0x4040, 0x4040);
    bagdot_tables_destroy(tables);
}

static void updates(void) {
    float *weights = PLACE(float, 1, 1, 2, 2, 3, 3);
    bagdot_tables *tables = joined_tables(weights, BAGDOT_OPTIMIZER_SGD, NULL, 0);
    bagdot_bags bags = two_bags();
    bagdot_order *order = NULL;
    /* An order on memory of the caller. */
    bagdot_order_memory memory = BAGDOT_INIT(bagdot_order_memory);
    memory.capacity = 3;
    memory.num_bags = 2;
    memory.rows = place(zeros, 24);
    memory.segments = place(zeros, 16);
    memory.positions = place(zeros, 12);
    memory.bags = place(zeros, 12);
    memory.bag_lengths = place(zeros, 8);
    memory.counts = place(zeros, 8);
    CHECK(bagdot_order_create_on(context, &memory, &order));
    uint64_t bytes = 0;
    CHECK(bagdot_index_sort_workspace_size(context, tables, 3, &bytes));
    bagdot_buffer *room = NULL;
    void *workspace = NULL;
    CHECK(bagdot_buffer_create(context, bytes + 8, &room));
    CHECK(bagdot_buffer_data(room, &workspace));
    if (bytes >= 8) {
        REFUSED(TOO_SMALL,
                bagdot_index_sort(context, tables, &bags, order, workspace, bytes - 8));
    }
    CHECK(bagdot_index_sort(context, tables, &bags, order, workspace, bytes + 8));
    EXPECT(uint32_t, memory.counts, 3, 2);
    EXPECT(uint64_t, memory.rows, 0, 2);
    EXPECT(uint32_t, memory.segments, 0, 1, 3);
    EXPECT(uint32_t, memory.positions, 0, 1, 2);
    bagdot_order_memory found = BAGDOT_INIT(bagdot_order_memory);
    CHECK(bagdot_order_get_memory(order, &found));
    TRUE(found.capacity == 3 && found.num_bags == 2 && found.rows == memory.rows);
    TRUE(found.counts == memory.counts && found.bag_lengths == memory.bag_lengths);

    /* The gradient of the rows, twice, and their sum; one of them on memory of the caller. */
    bagdot_matrix grad_output = F32(PLACE(float, 1, 2, 3, 4), 2, 2);
    bagdot_pooled_grad source = BAGDOT_INIT(bagdot_pooled_grad);
    source.bags = &bags;
    source.order = order;
    source.grad_output = &grad_output;
    bagdot_gradient *a = NULL, *b = NULL, *sum = NULL;
    bagdot_gradient_memory of_a = BAGDOT_INIT(bagdot_gradient_memory);
    of_a.capacity = 3;
    of_a.num_values = 6;
    of_a.rows = place(zeros, 24);
    of_a.starts = place(zeros, 32);
    of_a.values = place(zeros, 24);
    of_a.counts = place(zeros, 4);
    CHECK(bagdot_gradient_create_on(context, tables, &of_a, &a));
    CHECK(bagdot_gradient_create(context, tables, 3, &b));
    CHECK(bagdot_gradient_create(context, tables, 6, &sum));
    CHECK(bagdot_sparse_update_workspace_size(context, tables, 3, &bytes));
    CHECK(bagdot_sparse_update_reduce(context, tables, &source, a, NULL, 0));
    CHECK(bagdot_sparse_update_reduce(context, tables, &source, b, NULL, 0));
    EXPECT(float, of_a.values, 1, 2, 4, 6);
    CHECK(bagdot_sparse_update_merge_workspace_size(context, tables, 6, &bytes));
    CHECK(bagdot_sparse_update_merge(context, tables, a, b, sum, NULL, 0));
    REFUSED(INVALID_ARGUMENT, bagdot_sparse_update_merge(context, tables, a, b, b, NULL, 0));
    bagdot_gradient_memory of_sum = BAGDOT_INIT(bagdot_gradient_memory);
    CHECK(bagdot_gradient_get_memory(sum, &of_sum));
    EXPECT(uint32_t, of_sum.counts, 2);
    EXPECT(uint64_t, of_sum.rows, 0, 2);
    EXPECT(float, of_sum.values, 2, 4, 8, 12);

    bagdot_rule rule = BAGDOT_INIT(bagdot_rule);
    rule.learning_rate = 0.5f;
    CHECK(bagdot_sparse_update_apply(context, tables, sum, &rule, NULL));
    EXPECT(float, weights, 0, -1, 2, 2, -1, -3);
    /* A gate that is shut, and one that is open. */
    bagdot_step_control control = BAGDOT_INIT(bagdot_step_control);
    control.gate = PLACE(uint64_t, 1);
    CHECK(bagdot_sparse_update(context, tables, &source, &rule, &control, NULL, NULL, 0));
    EXPECT(float, weights, 0, -1, 2, 2, -1, -3);
    control.gate = PLACE(uint64_t, 0);
    bagdot_step_values values;
    CHECK(bagdot_step_values_of(&rule, 0.75f, &values));
    TRUE(values.learning_rate == 0.5f && values.decay == 0.75f);
    control.values = place(&values, sizeof values);
    float *decay = PLACE(float, 1, 1, 1);
    CHECK(bagdot_sparse_update(context, tables, &source, &rule, &control, decay, NULL, 0));
    EXPECT(float, weights, -0.5f, -2, 2, 2, -3, -6);

    /* The gradient in 16 bits, of 8 times the loss: the clamp is that of the loss itself. */
    void *of_8 = PLACE(uint16_t, 0x4800, 0x4c00, 0x4e00, 0x5000);
    grad_output = matrix(BAGDOT_DTYPE_F16, of_8, 2, 2);
    source.loss_scale = 8;
    source.max_gradient = 2.5f;
    CHECK(bagdot_sparse_update_reduce(context, tables, &source, a, NULL, 0));
    EXPECT(float, of_a.values, 1, 2, 3.5f, 4.5f);
    CHECK(bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    EXPECT(float, weights, -1, -3, 2, 2, -4.75f, -8.25f);
    source.loss_scale = 3;
    REFUSED(INVALID_ARGUMENT,
            bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    /* A struct of an earlier version has no loss scale. */
    source.struct_size = offsetof(bagdot_pooled_grad, loss_scale);
    source.max_gradient = 0;
    CHECK(bagdot_sparse_update_reduce(context, tables, &source, a, NULL, 0));
    EXPECT(float, of_a.values, 8, 16, 32, 48);
    source.struct_size = sizeof source;
    source.loss_scale = 0;
    grad_output = matrix(BAGDOT_DTYPE_BF16, PLACE(uint16_t, 0x3f80, 0x4000, 0x4040, 0x4080), 2, 2);
    CHECK(bagdot_sparse_update_reduce(context, tables, &source, a, NULL, 0));
    EXPECT(float, of_a.values, 1, 2, 4, 6);
    CHECK(bagdot_sparse_update_step(context, tables, &bags, &grad_output, &rule));
    EXPECT(float, weights, -1.5f, -4, 2, 2, -6.75f, -11.25f);

    /* The tables have no state for other optimizers, and rules must be valid. */
    rule.optimizer = BAGDOT_OPTIMIZER_ADAGRAD;
    REFUSED(INVALID_ARGUMENT,
            bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    rule.optimizer = 9;
    REFUSED(INVALID_ARGUMENT,
            bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    source.order = NULL;
    rule.optimizer = 0;
    REFUSED(NULL_POINTER,
            bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));

    bagdot_gradient_destroy(a);
    bagdot_gradient_destroy(b);
    bagdot_gradient_destroy(sum);
    bagdot_order_destroy(order);
    bagdot_buffer_destroy(room);
    bagdot_tables_destroy(tables);
}

/* A table of f16 in memory of its own, with gaps, and the moments of Adam. */
static void half_precision(void) {
    const uint64_t rows = 3, dim = 2, ld = 3;
    void *weights = PLACE(uint16_t, 0x3c00, 0x4000, 7, 0x4200, 0x4400, 7, 0x4500, 0x4600, 7);
    void *first = place(zeros, 24);
    bagdot_tables_options options = BAGDOT_INIT(bagdot_tables_options);
    options.dtype = BAGDOT_DTYPE_F16;
    options.num_tables = 1;
    options.num_embeddings = &rows;
    options.embedding_dims = &dim;
    options.weights = &weights;
    options.weight_lds = &ld;
    options.optimizer = BAGDOT_OPTIMIZER_ADAM;
    options.first = &first;
    options.joined_second = place(zeros, 24);
    bagdot_tables *tables = NULL;
    CHECK(bagdot_tables_create(context, &options, &tables));
    bagdot_bags bags = two_bags();
    bagdot_matrix pooled = F32(place(zeros, 16), 2, 2);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));
    EXPECT(float, pooled.data, 6, 8, 5, 6);
    bagdot_order *order = NULL;
    CHECK(bagdot_order_create(context, 3, 2, &order));
    CHECK(bagdot_index_sort(context, tables, &bags, order, NULL, 0));
    bagdot_matrix grad_output = F32(PLACE(float, 1, 2, 3, 4), 2, 2);
    bagdot_pooled_grad source = BAGDOT_INIT(bagdot_pooled_grad);
    source.bags = &bags;
    source.order = order;
    source.grad_output = &grad_output;
    bagdot_rule rule = BAGDOT_INIT(bagdot_rule);
    rule.optimizer = BAGDOT_OPTIMIZER_ADAM;
    rule.learning_rate = 0.5f;
    rule.beta1 = 0.5f;
    rule.beta2 = 0.75f;
    /* Adam needs the number of the step. The first one moves a weight by the learning rate. */
    REFUSED(INVALID_ARGUMENT,
            bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    rule.step = 1;
    CHECK(bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    EXPECT(uint16_t, weights, 0x3800, 0x3e00, 7, 0x4200, 0x4400, 7, 0x4480, 0x4580, 7);
    EXPECT(float, first, 0.5f, 1, 0, 0, 2, 3);
    EXPECT(float, options.joined_second, 0.25f, 1, 0, 0, 4, 9);
    /* The sort and the update in one call: the second step of a gradient moves on. */
    rule.step = 2;
    rule.learning_rate = 0.25f;
    CHECK(bagdot_sparse_update_step(context, tables, &bags, &grad_output, &rule));
    EXPECT(uint16_t, weights, 0x3400, 0x3d00, 7, 0x4200, 0x4400, 7, 0x4440, 0x4540, 7);
    EXPECT(float, first, 0.75f, 1.5f, 0, 0, 3, 4.5f);
    REFUSED(NULL_POINTER, bagdot_sparse_update_step(context, tables, &bags, NULL, &rule));
    bagdot_order_destroy(order);
    bagdot_tables_destroy(tables);

    /* Descriptions that are not valid. */
    options.joined_weights = weights;
    REFUSED(INVALID_ARGUMENT, bagdot_tables_create(context, &options, &tables));
    options.joined_weights = NULL;
    options.dtype = BAGDOT_DTYPE_I32;
    REFUSED(INVALID_ARGUMENT, bagdot_tables_create(context, &options, &tables));
    options.dtype = BAGDOT_DTYPE_F16;
    const uint64_t too_small = 1;
    options.weight_lds = &too_small;
    REFUSED(INVALID_ARGUMENT, bagdot_tables_create(context, &options, &tables));
    options.weight_lds = NULL;
    options.num_features = 2;
    REFUSED(NULL_POINTER, bagdot_tables_create(context, &options, &tables));
    options.num_features = 0;
    const int64_t padding = 3;
    options.padding_indices = &padding;
    REFUSED(INVALID_ARGUMENT, bagdot_tables_create(context, &options, &tables));
    options.padding_indices = NULL;
    void *null = NULL;
    options.weights = &null;
    REFUSED(NULL_POINTER, bagdot_tables_create(context, &options, &tables));
}

static void layers(void) {
    bagdot_matrix x = F32(PLACE(float, 1, 2), 1, 2), w = F32(PLACE(float, 1, 1, 1, -1), 2, 2);
    bagdot_matrix y = F32(place(zeros, 8), 1, 2);
    float *bias = PLACE(float, 0.5f, 0);
    bagdot_linear options = BAGDOT_INIT(bagdot_linear);
    options.activation = BAGDOT_ACTIVATION_RELU;
    CHECK(bagdot_linear_forward(context, &options, &x, &w, NULL, bias, &y));
    EXPECT(float, y.data, 3.5f, 0);
    uint64_t bytes = 0;
    CHECK(bagdot_linear_pack_size(context, BAGDOT_DTYPE_F32, 2, 2, &bytes));
    bagdot_buffer *packed = NULL;
    void *address = NULL;
    CHECK(bagdot_buffer_create(context, bytes + 8, &packed));
    CHECK(bagdot_buffer_data(packed, &address));
    CHECK(bagdot_linear_pack(context, &w, address));
    CHECK(bagdot_linear_forward(context, &options, &x, &w, address, bias, &y));
    EXPECT(float, y.data, 3.5f, 0);
    bagdot_matrix grad_y = F32(PLACE(float, 1, 1), 1, 2), grad_x = F32(place(zeros, 8), 1, 2);
    bagdot_matrix grad_w = F32(place(zeros, 16), 2, 2);
    bagdot_linear_gradient gradient = BAGDOT_INIT(bagdot_linear_gradient);
    gradient.input = &x;
    gradient.weight = &w;
    gradient.output = &y;
    gradient.grad_output = &grad_y;
    gradient.grad_input = &grad_x;
    gradient.grad_weight = &grad_w;
    gradient.grad_bias = place(zeros, 8);
    CHECK(bagdot_linear_backward_workspace_size(context, BAGDOT_DTYPE_F32, 1, 2, 2, &bytes));
    CHECK(bagdot_linear_backward(context, &options, &gradient, NULL, 0));
    EXPECT(float, grad_x.data, 1, 1);
    EXPECT(float, grad_w.data, 1, 2, 0, 0);
    EXPECT(float, gradient.grad_bias, 1, 0);
    bagdot_buffer_destroy(packed);

    bagdot_loss loss = BAGDOT_INIT(bagdot_loss);
    loss.kind = BAGDOT_LOSS_KIND_MSE;
    loss.batch_size = 2;
    loss.logits = PLACE(float, 0, 0);
    loss.labels = PLACE(float, 1, 0);
    loss.mean = place(zeros, 8);
    loss.grad_logits = place(zeros, 8);
    CHECK(bagdot_loss_workspace_size(context, 2, &bytes));
    CHECK(bagdot_loss_forward(context, &loss, NULL, 0));
    EXPECT(double, loss.mean, 0.25);
    EXPECT(float, loss.grad_logits, -0.125f, 0.125f);

    /* z = (1 2) (0.5 -0.25) + 0 = 0, p = 0.5: the gradient of z is 2 (p - y) p (1 - p) = -0.25. */
    bagdot_matrix last = F32(PLACE(float, 1, 2), 1, 2), grad_last = F32(place(zeros, 8), 1, 2);
    bagdot_head head = BAGDOT_INIT(bagdot_head);
    head.input = &last;
    head.weight = PLACE(float, 0.5f, -0.25f);
    head.bias = PLACE(float, 0);
    head.logits = place(zeros, 4);
    CHECK(bagdot_head_forward(context, &head));
    EXPECT(float, head.logits, 0);
    bagdot_head_gradient through = BAGDOT_INIT(bagdot_head_gradient);
    through.kind = BAGDOT_LOSS_KIND_MSE;
    through.loss_scale = 2;
    through.labels = PLACE(float, 1);
    through.mean = place(zeros, 8);
    through.grad_logits = place(zeros, 4);
    through.grad_input = &grad_last;
    through.grad_weight = place(zeros, 8);
    through.grad_bias = PLACE(float, 1);
    through.grad_bias_before = place(zeros, 8);
    CHECK(bagdot_head_workspace_size(context, BAGDOT_DTYPE_F32, 1, 2, &bytes));
    CHECK(bagdot_head_loss_and_grads(context, &head, &through, NULL, 0));
    EXPECT(double, through.mean, 0.25);
    EXPECT(float, through.grad_logits, -0.5f);
    EXPECT(float, through.grad_weight, -0.5f, -1);
    EXPECT(float, through.grad_bias, -0.5f);
    EXPECT(float, grad_last.data, -0.25f, 0.125f);
    EXPECT(float, through.grad_bias_before, -0.25f, 0.125f);
    through.accum = BAGDOT_ACCUM_ADD;
    CHECK(bagdot_head_loss_and_grads(context, &head, &through, NULL, 0));
    EXPECT(float, through.grad_bias, -1);
    through.mean = NULL;
    REFUSED(NULL_POINTER, bagdot_head_loss_and_grads(context, &head, &through, NULL, 0));

    bagdot_matrix from = F32(PLACE(float, 1.5f, 257), 1, 2);
    bagdot_matrix to = matrix(BAGDOT_DTYPE_BF16, place(zeros, 4), 1, 2);
    CHECK(bagdot_cast(context, 2, &from, &to));
    EXPECT(uint16_t, to.data, 0x4040, 0x4400);
    REFUSED(INVALID_ARGUMENT, bagdot_cast(context, 3, &from, &to));

    bagdot_rule rule = BAGDOT_INIT(bagdot_rule);
    rule.optimizer = BAGDOT_OPTIMIZER_ADAGRAD;
    rule.learning_rate = 0.5f;
    bagdot_dense_step step = BAGDOT_INIT(bagdot_dense_step);
    step.num_parameters = 2;
    step.grad = PLACE(float, 2, -4);
    step.parameters = PLACE(float, 1, 2);
    step.first = place(zeros, 8);
    step.rounded_dtype = BAGDOT_DTYPE_BF16;
    step.rounded = place(zeros, 4);
    CHECK(bagdot_dense_update(context, &rule, &step, NULL));
    EXPECT(float, step.parameters, 0.5f, 2.5f);
    EXPECT(float, step.first, 4, 16);
    EXPECT(uint16_t, step.rounded, 0x3f00, 0x4020);
    step.first = NULL;
    REFUSED(NULL_POINTER, bagdot_dense_update(context, &rule, &step, NULL));

    float *average = PLACE(float, 0, 4);
    CHECK(bagdot_moving_average(context, 0.75f, 2, PLACE(float, 4, 0), average, NULL));
    EXPECT(float, average, 1, 3);

    bagdot_finite_check_arguments check = BAGDOT_INIT(bagdot_finite_check_arguments);
    check.policy = BAGDOT_NON_FINITE_SKIP_STEP;
    check.step = 1;
    check.loss = PLACE(double, 0.5);
    check.grads[0] = PLACE(float, 1, 2);
    check.num_grads[0] = 2;
    check.verdict = place(zeros, 8 * BAGDOT_VERDICT_WORDS);
    CHECK(bagdot_finite_check(context, &check));
    EXPECT(uint64_t, check.verdict, 0, 0, 0, 0);
    const uint32_t nan[2] = {0, 0x7fc00000};
    check.step = 2;
    check.grads[0] = place(nan, 8);
    CHECK(bagdot_finite_check(context, &check));
    EXPECT(uint64_t, (char *)check.verdict + 8, 1, 2, 2);
}

static void contexts(int on_cuda) {
    bagdot_context *other = NULL;
    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.device = 5;
    REFUSED(INVALID_ARGUMENT, bagdot_context_create(&options, &other));
    options.device = BAGDOT_DEVICE_CPU;
    options.threads = BAGDOT_THREADS_GLOBAL;
    CHECK(bagdot_context_create(&options, &other));
    bagdot_context_destroy(other);
    REFUSED(NULL_POINTER, bagdot_context_create(NULL, NULL));
    bagdot_bad_id bad = BAGDOT_INIT(bagdot_bad_id);
    TRUE(bagdot_last_bad_id(&bad) == BAGDOT_STATUS_INVALID_ARGUMENT);

    void *stream = NULL;
    uint64_t address = 0;
    CHECK(bagdot_context_stream(context, &stream));
    CHECK(bagdot_poll(context));
    if (on_cuda) {
        CHECK(bagdot_fault_count_address(context, &address));
        TRUE(address != 0);
        /* Another stream, here the same one, refuses the handles of this context. */
        CHECK(bagdot_context_on_stream(context, stream, &other));
        bagdot_order *order = NULL;
        CHECK(bagdot_order_create(other, 3, 2, &order));
        bagdot_tables *tables = joined_tables(NULL, 0, NULL, 0);
        bagdot_bags bags = two_bags();
        REFUSED(OTHER_BACKEND, bagdot_index_sort(context, tables, &bags, order, NULL, 0));
        bagdot_tables_destroy(tables);
        bagdot_order_destroy(order);
        bagdot_context_destroy(other);
        /* And so does the CPU. */
        CHECK(bagdot_context_create(NULL, &other));
        CHECK(bagdot_order_create(other, 3, 2, &order));
        tables = joined_tables(NULL, 0, NULL, 0);
        REFUSED(OTHER_BACKEND, bagdot_index_sort(context, tables, &bags, order, NULL, 0));
        bagdot_tables_destroy(tables);
        bagdot_order_destroy(order);
        bagdot_context_destroy(other);
    } else {
        TRUE(stream == NULL);
        REFUSED(INVALID_ARGUMENT, bagdot_fault_count_address(context, &address));
        REFUSED(INVALID_ARGUMENT, bagdot_context_on_stream(context, NULL, &other));
    }
    bagdot_context_destroy(NULL);
    bagdot_tables_destroy(NULL);
    bagdot_order_destroy(NULL);
    bagdot_gradient_destroy(NULL);
    bagdot_buffer_destroy(NULL);
}

int main(int argc, char **argv) {
    int on_cuda = argc > 1 && strcmp(argv[1], "cuda") == 0;
    TRUE(bagdot_abi_version() == BAGDOT_ABI_VERSION);
    TRUE(strlen(bagdot_version_string()) > 0);
    TRUE(strcmp(bagdot_last_error_message(), "") == 0);
    TRUE(strcmp(bagdot_status_name(BAGDOT_STATUS_PANIC), "PANIC") == 0);
    TRUE(strcmp(bagdot_status_name(999), "unknown") == 0);
    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.device = on_cuda ? BAGDOT_DEVICE_CUDA : BAGDOT_DEVICE_CPU;
    CHECK(bagdot_context_create(&options, &context));
    contexts(on_cuda);
    lookups();
    interactions();
    updates();
    half_precision();
    layers();
    CHECK(bagdot_synchronize(context));
    while (num_owned > 0) bagdot_buffer_destroy(owned[--num_owned]);
    bagdot_context_destroy(context);
    printf("every op on %s\n", on_cuda ? "CUDA" : "the CPU");
    return 0;
}
