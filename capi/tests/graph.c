/* Captures lookup, sort and update on a stream of the program's own, with the workspace that the
 * context keeps, replays the graph, and compares the rows with those of the same ops one by one. */

#include <bagdot.h>

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TRUE(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold (%s)\n", __FILE__, __LINE__, #condition,      \
                    bagdot_last_error_message());                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)
#define CHECK(call) TRUE((call) == 0)

/* The functions of the CUDA driver that this program calls. */
#define FUNCTIONS(X)                                                                               \
    X(cuInit, (unsigned))                                                                          \
    X(cuDevicePrimaryCtxRetain, (void **, int))                                                    \
    X(cuCtxSetCurrent, (void *))                                                                   \
    X(cuStreamCreate, (void **, unsigned))                                                         \
    X(cuStreamDestroy_v2, (void *))                                                                \
    X(cuStreamSynchronize, (void *))                                                               \
    X(cuStreamBeginCapture_v2, (void *, int))                                                      \
    X(cuStreamEndCapture, (void *, void **))                                                       \
    X(cuGraphInstantiateWithFlags, (void **, void *, unsigned long long))                          \
    X(cuGraphLaunch, (void *, void *))                                                             \
    X(cuGraphExecDestroy, (void *))                                                                \
    X(cuGraphDestroy, (void *))
#define DECLARE(name, arguments) static int(*name) arguments;
FUNCTIONS(DECLARE)

static bagdot_context *context;
static bagdot_buffer *owned[32];
static int num_owned;

static void *place(const void *values, uint64_t bytes) {
    void *address = NULL;
    CHECK(bagdot_buffer_create(context, bytes, &owned[num_owned]));
    CHECK(bagdot_buffer_data(owned[num_owned++], &address));
    CHECK(bagdot_copy_to_device(context, address, values, bytes));
    return address;
}

/* Allocates zeros of the device. */
static void *place_zeros(uint64_t bytes) {
    void *address = NULL;
    CHECK(bagdot_buffer_create(context, bytes, &owned[num_owned]));
    CHECK(bagdot_buffer_data(owned[num_owned++], &address));
    return address;
}

enum { ROWS = 100, DIM = 4, BATCH = 50, IDS = 150 };

/* One step: lookup, sort and update, without allocation. Without an order, it is the context's. */
static int32_t step(bagdot_tables *tables, const bagdot_bags *bags, bagdot_order *order,
                    const bagdot_matrix *pooled) {
    int32_t status = bagdot_embedding_bag_forward(context, tables, bags, pooled, NULL);
    if (status != 0) return status;
    /* The gradient of half the squares of the pooled vectors is these vectors. */
    bagdot_pooled_grad source = BAGDOT_INIT(bagdot_pooled_grad);
    source.bags = bags;
    source.order = order;
    source.grad_output = pooled;
    bagdot_rule rule = BAGDOT_INIT(bagdot_rule);
    rule.optimizer = BAGDOT_OPTIMIZER_ADAGRAD;
    rule.learning_rate = 0.125f;
    rule.eps = 1e-8f;
    if (!order) return bagdot_sparse_update_step(context, tables, bags, pooled, &rule);
    status = bagdot_index_sort(context, tables, bags, order, NULL, 0);
    if (status != 0) return status;
    return bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0);
}

static bagdot_tables *new_tables(const float *values, float **weights) {
    const uint64_t rows = ROWS, dim = DIM;
    const float zeros[ROWS * DIM] = {0};
    *weights = place(values, sizeof zeros);
    bagdot_tables_options options = BAGDOT_INIT(bagdot_tables_options);
    options.num_tables = 1;
    options.num_embeddings = &rows;
    options.embedding_dims = &dim;
    options.joined_weights = *weights;
    options.optimizer = BAGDOT_OPTIMIZER_ADAGRAD;
    options.joined_first = place(zeros, sizeof zeros);
    bagdot_tables *tables = NULL;
    CHECK(bagdot_tables_create(context, &options, &tables));
    return tables;
}

/* Captures a step, replays it, and compares it with the same ops one by one. */
static void replays(void *stream, int own_order) {
    float values[ROWS * DIM], zeros[BATCH * DIM] = {0};
    for (int k = 0; k < ROWS * DIM; k++) values[k] = (float)(k % 17) / 16;
    int32_t ids[IDS];
    for (int k = 0; k < IDS; k++) ids[k] = k * 37 % ROWS;
    float *weights = NULL, *wanted = NULL;
    bagdot_tables *tables = new_tables(values, &weights), *others = new_tables(values, &wanted);
    bagdot_bags bags = BAGDOT_INIT(bagdot_bags);
    bags.index_dtype = BAGDOT_DTYPE_I32;
    bags.batch_size = BATCH;
    bags.num_indices = IDS;
    bags.bag_length = IDS / BATCH;
    bags.indices = place(ids, sizeof ids);
    bagdot_matrix pooled = BAGDOT_INIT(bagdot_matrix);
    pooled.data = place(zeros, sizeof zeros);
    pooled.rows = BATCH;
    pooled.cols = DIM;
    bagdot_order *order = NULL, *larger = NULL;
    if (own_order) CHECK(bagdot_order_create(context, IDS, BATCH, &order));

    /* The workspace cannot grow while the stream is captured. */
    void *graph = NULL, *replay = NULL;
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    TRUE(step(tables, &bags, order, &pooled) == BAGDOT_STATUS_RECORDING);
    TRUE(strstr(bagdot_last_error_message(), "call the op once before") != NULL);
    TRUE(bagdot_synchronize(context) == BAGDOT_STATUS_RECORDING);
    CHECK(cuStreamEndCapture(stream, &graph) || cuGraphDestroy(graph));

    for (int k = 0; k < 3; k++) CHECK(step(others, &bags, order, &pooled));
    CHECK(cuStreamBeginCapture_v2(stream, 0));
    CHECK(step(tables, &bags, order, &pooled));
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiateWithFlags(&replay, graph, 0));

    /* A larger batch replaces workspace and order of the context: the graph keeps those it has. */
    bagdot_bags more = bags;
    const uint64_t many = 100 * IDS;
    int32_t *repeated = calloc(many, sizeof *repeated);
    TRUE(repeated != NULL);
    more.batch_size = 100 * BATCH;
    more.num_indices = many;
    more.indices = place(repeated, many * sizeof *repeated);
    free(repeated);
    float *unused = NULL;
    bagdot_tables *third = new_tables(values, &unused);
    bagdot_matrix wide = pooled;
    wide.rows = more.batch_size;
    wide.data = place_zeros(many * DIM * sizeof(float));
    if (own_order) CHECK(bagdot_order_create(context, many, more.batch_size, &larger));
    CHECK(step(third, &more, larger, &wide));
    CHECK(bagdot_synchronize(context));

    for (int k = 0; k < 3; k++) CHECK(cuGraphLaunch(replay, stream));
    CHECK(cuStreamSynchronize(stream));
    float found[ROWS * DIM], want[ROWS * DIM];
    CHECK(bagdot_copy_to_host(context, found, weights, sizeof found));
    CHECK(bagdot_copy_to_host(context, want, wanted, sizeof want));
    TRUE(memcmp(found, want, sizeof found) == 0);
    TRUE(memcmp(found, values, sizeof found) != 0);

    CHECK(cuGraphExecDestroy(replay) || cuGraphDestroy(graph));
    bagdot_order_destroy(larger);
    bagdot_order_destroy(order);
    bagdot_tables_destroy(tables);
    bagdot_tables_destroy(others);
    bagdot_tables_destroy(third);
    while (num_owned > 0) bagdot_buffer_destroy(owned[--num_owned]);
}

int main(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    TRUE(library != NULL);
#define FIND(name, arguments) TRUE((*(void **)&name = dlsym(library, #name)) != NULL);
    FUNCTIONS(FIND)
    void *primary = NULL, *stream = NULL;
    CHECK(cuInit(0) || cuDevicePrimaryCtxRetain(&primary, 0) || cuCtxSetCurrent(primary));
    CHECK(cuStreamCreate(&stream, 1));
    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.device = BAGDOT_DEVICE_CUDA;
    options.gemm = BAGDOT_GEMM_OWN;
    options.has_stream = 1;
    options.stream = stream;
    CHECK(bagdot_context_create(&options, &context));

    replays(stream, 1);
    replays(stream, 0);
    bagdot_context_destroy(context);
    CHECK(cuStreamDestroy_v2(stream));
    printf("three replays of each captured step, the same bits\n");
    return 0;
}
