/* A step on embedding tables in memory of the program's own: lookup, interaction, its gradient, the
 * sort of the ids, and the update of the rows by row-wise Adagrad. Then a bad id.
 *
 * cc embedding.c $(pkg-config --cflags --libs bagdot) -ldl -o embedding && ./embedding [cuda] */

#include <bagdot.h>

#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(call)                                                                                \
    do {                                                                                           \
        int32_t status = (call);                                                                   \
        if (status != 0) {                                                                         \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, bagdot_status_name(status),     \
                    bagdot_last_error_message());                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The functions of the CUDA driver that this program calls, if it runs on CUDA. */
static int (*cuda_alloc)(unsigned long long *, size_t);
static int (*cuda_free)(unsigned long long);
static int (*cuda_upload)(unsigned long long, const void *, size_t);
static int (*cuda_download)(void *, unsigned long long, size_t);

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    return found;
}

/* Makes the primary context of device 0 current. */
static void open_cuda(void) {
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) library = dlopen("libcuda.so", RTLD_NOW);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    int (*init)(unsigned), (*retain)(void **, int), (*set_current)(void *);
    *(void **)&init = symbol(library, "cuInit");
    *(void **)&retain = symbol(library, "cuDevicePrimaryCtxRetain");
    *(void **)&set_current = symbol(library, "cuCtxSetCurrent");
    *(void **)&cuda_alloc = symbol(library, "cuMemAlloc_v2");
    *(void **)&cuda_free = symbol(library, "cuMemFree_v2");
    *(void **)&cuda_upload = symbol(library, "cuMemcpyHtoD_v2");
    *(void **)&cuda_download = symbol(library, "cuMemcpyDtoH_v2");
    void *context = NULL;
    if (init(0) || retain(&context, 0) || set_current(context)) exit(1);
}

static int on_cuda;
static void *owned[32];
static int num_owned;

/* Allocates memory of the device, with these values. */
static void *place(const void *values, size_t bytes) {
    void *memory = NULL;
    if (on_cuda) {
        unsigned long long address = 0;
        if (cuda_alloc(&address, bytes) || cuda_upload(address, values, bytes)) exit(1);
        memory = (void *)(size_t)address;
    } else {
        memory = malloc(bytes);
        if (!memory) exit(1);
        memcpy(memory, values, bytes);
    }
    owned[num_owned++] = memory;
    return memory;
}

/* Copies memory of the device to the host. */
static void fetch(void *target, const void *source, size_t bytes) {
    if (!on_cuda) {
        memcpy(target, source, bytes);
    } else if (cuda_download(target, (size_t)source, bytes)) {
        exit(1);
    }
}

static bagdot_matrix matrix(void *data, uint64_t rows, uint64_t cols) {
    bagdot_matrix made = BAGDOT_INIT(bagdot_matrix);
    made.dtype = BAGDOT_DTYPE_F32;
    made.data = data;
    made.rows = rows;
    made.cols = cols;
    return made;
}

static void expect(const char *name, const void *found, const float *wanted, int len) {
    float values[16];
    fetch(values, found, (size_t)len * sizeof(float));
    printf("%s:", name);
    for (int k = 0; k < len; k++) {
        printf(" %g", values[k]);
        if (!(fabsf(values[k] - wanted[k]) <= 1e-5f)) {
            fprintf(stderr, "\n%s[%d] is %g, not %g\n", name, k, values[k], wanted[k]);
            exit(1);
        }
    }
    printf("\n");
}

int main(int argc, char **argv) {
    on_cuda = argc > 1 && strcmp(argv[1], "cuda") == 0;
    if (on_cuda) open_cuda();
    if (bagdot_abi_version() != BAGDOT_ABI_VERSION) return 1;

    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.device = on_cuda ? BAGDOT_DEVICE_CUDA : BAGDOT_DEVICE_CPU;
    bagdot_context *context = NULL;
    CHECK(bagdot_context_create(&options, &context));

    /* Two tables in memory of their own, the second with gaps; a sum of squares for each row. */
    const uint64_t rows[2] = {3, 2}, dims[2] = {2, 2}, lds[2] = {2, 4};
    const float users[6] = {1, 2, 3, 4, 5, 6}, items[8] = {7, 8, -1, -1, 9, 10, -1, -1};
    const float zeros[64] = {0};
    void *weights[2] = {place(users, sizeof users), place(items, sizeof items)};
    void *sums[2] = {place(zeros, 3 * sizeof(float)), place(zeros, 2 * sizeof(float))};
    bagdot_tables_options of_tables = BAGDOT_INIT(bagdot_tables_options);
    of_tables.num_tables = 2;
    of_tables.num_embeddings = rows;
    of_tables.embedding_dims = dims;
    of_tables.weights = weights;
    of_tables.weight_lds = lds;
    of_tables.optimizer = BAGDOT_OPTIMIZER_ROWWISE_ADAGRAD;
    of_tables.first = sums;
    bagdot_tables *tables = NULL;
    CHECK(bagdot_tables_create(context, &of_tables, &tables));

    /* Two samples: the bags [0, 2] and [2] of the users, [1] and [] of the items. */
    const uint32_t ids[4] = {0, 2, 2, 1};
    const int64_t offsets[5] = {0, 2, 3, 4, 4};
    bagdot_bags bags = BAGDOT_INIT(bagdot_bags);
    bags.index_dtype = BAGDOT_DTYPE_U32;
    bags.offset_dtype = BAGDOT_DTYPE_I64;
    bags.batch_size = 2;
    bags.num_indices = 4;
    bags.indices = place(ids, sizeof ids);
    bags.offsets = place(offsets, sizeof offsets);

    bagdot_matrix pooled = matrix(place(zeros, 8 * sizeof(float)), 2, 4);
    CHECK(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL));

    /* The dense vector, and the dot products of all pairs of the three features. */
    const float dense_values[4] = {1, 0, 0, 1};
    bagdot_interaction interaction = BAGDOT_INIT(bagdot_interaction);
    interaction.dim = 2;
    uint64_t width = 0;
    CHECK(bagdot_interaction_width(&interaction, 1, 2, &width));
    bagdot_matrix dense = matrix(place(dense_values, sizeof dense_values), 2, 2);
    bagdot_matrix output = matrix(place(zeros, 2 * width * sizeof(float)), 2, width);
    bagdot_features features = BAGDOT_INIT(bagdot_features);
    features.dense = &dense;
    features.sparse = &pooled;
    CHECK(bagdot_interaction_forward(context, &interaction, &features, &output));

    /* The gradient of the sum of the output's first pair, <users, dense>. */
    const float grad_values[10] = {0, 0, 1, 0, 0, 0, 0, 1, 0, 0};
    bagdot_matrix grad_output = matrix(place(grad_values, sizeof grad_values), 2, width);
    bagdot_matrix grad_dense = matrix(place(zeros, 4 * sizeof(float)), 2, 2);
    bagdot_matrix grad_pooled = matrix(place(zeros, 8 * sizeof(float)), 2, 4);
    bagdot_features grads = BAGDOT_INIT(bagdot_features);
    grads.dense = &grad_dense;
    grads.sparse = &grad_pooled;
    CHECK(bagdot_interaction_backward(context, &interaction, &features, &grad_output, &grads));

    /* The update. The workspace of the sort is the program's, that of the update the context's. */
    bagdot_order *order = NULL;
    CHECK(bagdot_order_create(context, bags.num_indices, 4, &order));
    uint64_t bytes = 0;
    CHECK(bagdot_index_sort_workspace_size(context, tables, bags.num_indices, &bytes));
    void *room = calloc(1, bytes + 8);
    if (!room) return 1;
    void *workspace = place(room, bytes + 8);
    free(room);
    CHECK(bagdot_index_sort(context, tables, &bags, order, workspace, bytes));
    bagdot_pooled_grad source = BAGDOT_INIT(bagdot_pooled_grad);
    source.bags = &bags;
    source.order = order;
    source.grad_output = &grad_pooled;
    bagdot_rule rule = BAGDOT_INIT(bagdot_rule);
    rule.optimizer = BAGDOT_OPTIMIZER_ROWWISE_ADAGRAD;
    rule.learning_rate = 0.5f;
    CHECK(bagdot_sparse_update(context, tables, &source, &rule, NULL, NULL, NULL, 0));
    CHECK(bagdot_synchronize(context));

    expect("pooled", pooled.data, (float[]){6, 8, 9, 10, 5, 6, 0, 0}, 8);
    expect("output", output.data, (float[]){1, 0, 6, 9, 134, 0, 1, 6, 0, 0}, 10);
    expect("gradient of the dense vectors", grad_dense.data, (float[]){6, 8, 5, 6}, 4);
    /* Row 0 has the gradient [1, 0], row 2 [1, 1]: the sums are the means of their squares. */
    expect("sums of squares", sums[0], (float[]){0.5f, 0, 1}, 3);
    const float moved = 1 - 0.5f / sqrtf(0.5f);
    expect("users", weights[0], (float[]){moved, 2, 3, 4, 4.5f, 5.5f}, 6);
    expect("items", weights[1], items, 8);

    /* A bad id: CUDA reports it when it is waited for. */
    const uint32_t bad_ids[4] = {0, 2, 7, 1};
    bags.indices = place(bad_ids, sizeof bad_ids);
    int32_t status = bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL);
    if (on_cuda) {
        CHECK(status);
        status = bagdot_synchronize(context);
    }
    bagdot_bad_id bad = BAGDOT_INIT(bagdot_bad_id);
    if (status != BAGDOT_STATUS_INDEX_OUT_OF_RANGE || bagdot_last_bad_id(&bad) != 0) return 1;
    printf("%s\n", bagdot_last_error_message());
    if (bad.table != 0 || bad.bag != 1 || bad.position != 2 || bad.value != 7 || bad.rows != 3) {
        return 1;
    }

    bagdot_order_destroy(order);
    bagdot_tables_destroy(tables);
    bagdot_context_destroy(context);
    for (int k = 0; k < num_owned; k++) {
        if (!on_cuda) {
            free(owned[k]);
        } else if (cuda_free((size_t)owned[k])) {
            return 1;
        }
    }
    return 0;
}
