/* Threads that use one context and one handle of tables at once: lookups, sorts with the workspace
 * of the context, and errors, of which each thread sees its own. */

#include <bagdot.h>

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 4, TURNS = 50, ROWS = 64, DIM = 8, IDS = 32 };

static bagdot_context *context;
static bagdot_tables *tables;
static float weights[ROWS * DIM];

#define TRUE(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: %s does not hold (%s)\n", __FILE__, __LINE__, #condition,      \
                    bagdot_last_error_message());                                                  \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void *work(void *argument) {
    const int thread = *(const int *)argument;
    int64_t ids[IDS];
    float output[IDS * DIM];
    bagdot_bags bags = BAGDOT_INIT(bagdot_bags);
    bags.index_dtype = BAGDOT_DTYPE_I64;
    bags.batch_size = IDS;
    bags.num_indices = IDS;
    bags.bag_length = 1;
    bags.indices = ids;
    bagdot_matrix pooled = BAGDOT_INIT(bagdot_matrix);
    pooled.data = output;
    pooled.rows = IDS;
    pooled.cols = DIM;
    bagdot_order *order = NULL;
    TRUE(bagdot_order_create(context, IDS, IDS, &order) == 0);
    for (int turn = 0; turn < TURNS; turn++) {
        for (int k = 0; k < IDS; k++) ids[k] = (k * 5 + turn + thread) % ROWS;
        TRUE(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL) == 0);
        for (int k = 0; k < IDS; k++) {
            TRUE(memcmp(output + k * DIM, weights + ids[k] * DIM, DIM * sizeof(float)) == 0);
        }
        TRUE(bagdot_index_sort(context, tables, &bags, order, NULL, 0) == 0);
        bagdot_order_memory memory = BAGDOT_INIT(bagdot_order_memory);
        TRUE(bagdot_order_get_memory(order, &memory) == 0);
        for (uint32_t k = 1; k < memory.counts[1]; k++) TRUE(memory.rows[k - 1] < memory.rows[k]);
        ids[thread] = 1000 + thread;
        TRUE(bagdot_embedding_bag_forward(context, tables, &bags, &pooled, NULL) ==
             BAGDOT_STATUS_INDEX_OUT_OF_RANGE);
        bagdot_bad_id bad = BAGDOT_INIT(bagdot_bad_id);
        TRUE(bagdot_last_bad_id(&bad) == 0);
        TRUE(bad.value == 1000 + thread && bad.position == (uint64_t)thread && bad.rows == ROWS);
    }
    bagdot_order_destroy(order);
    return NULL;
}

int main(void) {
    const uint64_t rows = ROWS, dim = DIM;
    for (int k = 0; k < ROWS * DIM; k++) weights[k] = (float)k;
    bagdot_context_options options = BAGDOT_INIT(bagdot_context_options);
    options.threads = BAGDOT_THREADS_OWN;
    options.num_threads = 2;
    TRUE(bagdot_context_create(&options, &context) == 0);
    bagdot_tables_options of_tables = BAGDOT_INIT(bagdot_tables_options);
    of_tables.num_tables = 1;
    of_tables.num_embeddings = &rows;
    of_tables.embedding_dims = &dim;
    of_tables.joined_weights = weights;
    TRUE(bagdot_tables_create(context, &of_tables, &tables) == 0);
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int k = 0; k < THREADS; k++) {
        numbers[k] = k;
        TRUE(pthread_create(&threads[k], NULL, work, &numbers[k]) == 0);
    }
    for (int k = 0; k < THREADS; k++) pthread_join(threads[k], NULL);
    bagdot_tables_destroy(tables);
    bagdot_context_destroy(context);
    printf("%d threads at once\n", THREADS);
    return 0;
}
