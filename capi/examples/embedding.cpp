// Lookup and update of one table in memory of the library's, with the handles and exceptions of
// bagdot.hpp. CMakeLists.txt beside this file builds it: ./embedding [cuda]

#include <bagdot.hpp>

#include <cstdio>
#include <cstring>
#include <vector>

namespace {

const bagdot::context *current;

// Copies values to new memory of the device.
template <typename T> bagdot::buffer place(const std::vector<T> &values) {
    const uint64_t bytes = values.size() * sizeof(T);
    auto memory = bagdot::make<bagdot::buffer>(bagdot_buffer_create, current->get(), bytes);
    bagdot::check(bagdot_copy_to_device(current->get(), bagdot::data<void>(memory), values.data(),
                                        bytes));
    return memory;
}

std::vector<float> fetch(const bagdot::buffer &memory, size_t len) {
    std::vector<float> values(len);
    bagdot::check(bagdot_copy_to_host(current->get(), values.data(), bagdot::data<void>(memory),
                                      len * sizeof(float)));
    return values;
}

void expect(const char *name, const std::vector<float> &found, const std::vector<float> &wanted) {
    std::printf("%s:", name);
    for (float value : found) std::printf(" %g", value);
    std::printf("\n");
    if (found != wanted) throw std::runtime_error(std::string(name) + " is wrong");
}

int run(bool on_cuda) {
    auto options = BAGDOT_INIT(bagdot_context_options);
    options.device = on_cuda ? BAGDOT_DEVICE_CUDA : BAGDOT_DEVICE_CPU;
    options.threads = BAGDOT_THREADS_OWN;
    options.num_threads = 2;
    auto context = bagdot::make<bagdot::context>(bagdot_context_create, &options);
    current = &context;

    auto weights = place<float>({1, 2, 3, 4, 5, 6});
    const uint64_t rows = 3, dim = 2;
    auto of_tables = BAGDOT_INIT(bagdot_tables_options);
    of_tables.num_tables = 1;
    of_tables.num_embeddings = &rows;
    of_tables.embedding_dims = &dim;
    of_tables.joined_weights = bagdot::data<void>(weights);
    const bagdot_tables_options *described = &of_tables;
    auto tables =
        bagdot::make<bagdot::tables>(bagdot_tables_create, context.get(), described);

    // The bags [0, 2] and [2].
    auto ids = place<int32_t>({0, 2, 2});
    auto offsets = place<int64_t>({0, 2, 3});
    auto bags = bagdot::bags(2, bagdot::data<int32_t>(ids), 3, bagdot::data<int64_t>(offsets));
    auto pooled = place<float>({0, 0, 0, 0});
    auto output = bagdot::matrix(bagdot::data<float>(pooled), 2, 2);
    bagdot::check(
        bagdot_embedding_bag_forward(context.get(), tables.get(), &bags, &output, nullptr));
    expect("pooled", fetch(pooled, 4), {6, 8, 5, 6});

    auto grad = place<float>({1, 0, 0, 1});
    auto grad_output = bagdot::matrix(bagdot::data<float>(grad), 2, 2);
    auto order = bagdot::make<bagdot::order>(bagdot_order_create, context.get(), 3, 2);
    bagdot::check(
        bagdot_index_sort(context.get(), tables.get(), &bags, order.get(), nullptr, 0));
    auto source = BAGDOT_INIT(bagdot_pooled_grad);
    source.bags = &bags;
    source.order = order.get();
    source.grad_output = &grad_output;
    auto rule = BAGDOT_INIT(bagdot_rule);
    rule.optimizer = BAGDOT_OPTIMIZER_SGD;
    rule.learning_rate = 0.5f;
    bagdot::check(bagdot_sparse_update(context.get(), tables.get(), &source, &rule, nullptr,
                                       nullptr, nullptr, 0));
    expect("weights", fetch(weights, 6), {0.5, 2, 3, 4, 4.5, 5.5});

    auto bad_ids = place<int32_t>({0, -1, 2});
    bags.indices = bagdot::data<void>(bad_ids);
    try {
        bagdot::check(
            bagdot_embedding_bag_forward(context.get(), tables.get(), &bags, &output, nullptr));
        bagdot::check(bagdot_synchronize(context.get()));
    } catch (const bagdot::bad_id &bad) {
        std::printf("%s\n", bad.what());
        return bad.fields().position == 1 && bad.fields().value == -1 ? 0 : 1;
    }
    return 1;
}

} // namespace

int main(int argc, char **argv) {
    try {
        return run(argc > 1 && std::strcmp(argv[1], "cuda") == 0);
    } catch (const std::exception &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
