/* bagdot.hpp: the handles of bagdot.h as C++17 objects, and its errors as exceptions. Everything
 * else is bagdot.h: pass `handle.get()` to its functions, and their result to bagdot::check(). */

#ifndef BAGDOT_HPP
#define BAGDOT_HPP

#include "bagdot.h"

#include <memory>
#include <stdexcept>
#include <string>

namespace bagdot {

/* An error of the library. */
class error : public std::runtime_error {
  public:
    error(int32_t status, const std::string &message)
        : std::runtime_error(message), status_(status) {}
    /* The bagdot_status. */
    int32_t status() const noexcept { return status_; }

  private:
    int32_t status_;
};

/* A bad id: BAGDOT_STATUS_INDEX_OUT_OF_RANGE with its fields. */
class bad_id : public error {
  public:
    bad_id(const std::string &message, const bagdot_bad_id &fields)
        : error(BAGDOT_STATUS_INDEX_OUT_OF_RANGE, message), fields_(fields) {
        fields_.op = nullptr; /* It would not outlive the next error; the message names the op. */
    }
    const bagdot_bad_id &fields() const noexcept { return fields_; }

  private:
    bagdot_bad_id fields_;
};

/* Throws the error of a call that has failed. */
inline void check(int32_t status) {
    if (status == BAGDOT_STATUS_OK) return;
    const std::string message = bagdot_last_error_message();
    if (status == BAGDOT_STATUS_INDEX_OUT_OF_RANGE) {
        auto fields = BAGDOT_INIT(bagdot_bad_id);
        if (bagdot_last_bad_id(&fields) == BAGDOT_STATUS_OK) throw bad_id(message, fields);
    }
    throw error(status, message);
}

template <typename T, void (*destroy)(T *)> struct deleter {
    void operator()(T *handle) const noexcept { destroy(handle); }
};
template <typename T, void (*destroy)(T *)> using owner = std::unique_ptr<T, deleter<T, destroy>>;

using context = owner<bagdot_context, bagdot_context_destroy>;
using tables = owner<bagdot_tables, bagdot_tables_destroy>;
using order = owner<bagdot_order, bagdot_order_destroy>;
using gradient = owner<bagdot_gradient, bagdot_gradient_destroy>;
using buffer = owner<bagdot_buffer, bagdot_buffer_destroy>;

/* Makes a handle: bagdot::make<bagdot::order>(bagdot_order_create, context.get(), ids, bags). */
template <typename Owner, typename Create, typename... Arguments>
Owner make(Create create, Arguments... arguments) {
    typename Owner::pointer handle = nullptr;
    check(create(arguments..., &handle));
    return Owner(handle);
}

/* Returns the address of a buffer. */
template <typename T> T *data(const buffer &memory) {
    void *address = nullptr;
    check(bagdot_buffer_data(memory.get(), &address));
    return static_cast<T *>(address);
}

template <typename T> struct dtype_of;
template <> struct dtype_of<float> { static constexpr int32_t value = BAGDOT_DTYPE_F32; };
template <> struct dtype_of<int32_t> { static constexpr int32_t value = BAGDOT_DTYPE_I32; };
template <> struct dtype_of<int64_t> { static constexpr int32_t value = BAGDOT_DTYPE_I64; };
template <> struct dtype_of<uint32_t> { static constexpr int32_t value = BAGDOT_DTYPE_U32; };

/* Makes a matrix without gaps. Ops write through the matrices of their outputs alone. */
template <typename T> bagdot_matrix matrix(const T *data, uint64_t rows, uint64_t cols) {
    auto made = BAGDOT_INIT(bagdot_matrix);
    made.dtype = dtype_of<T>::value;
    made.data = const_cast<T *>(data);
    made.rows = rows;
    made.cols = cols;
    return made;
}

/* Makes bags from ids and CSR offsets, one more than bags. */
template <typename I, typename O>
bagdot_bags bags(uint64_t batch_size, const I *ids, uint64_t num_ids, const O *offsets) {
    auto made = BAGDOT_INIT(bagdot_bags);
    made.index_dtype = dtype_of<I>::value;
    made.offset_dtype = dtype_of<O>::value;
    made.batch_size = batch_size;
    made.num_indices = num_ids;
    made.indices = ids;
    made.offsets = offsets;
    return made;
}

} // namespace bagdot

#endif
