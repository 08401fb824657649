"""The ops on arrays of several libraries: values, pointers, errors."""

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import bagdot
from bagdot import ops

TABLES = ops.Tables(
    [(100, 8), (50, 4), (30, 8)],
    features=[0, 1, 2, 0],
    pooling=["sum", "mean", "max", "sum"],
    padding_idx=[None, 3, None, None],
)
PLAIN = ops.Tables([(100, 8), (50, 4)], pooling=["sum", "mean"])


class Producer:
    """An array of a library that knows DLPack alone, of version 1 or of the versions before."""

    def __init__(self, array, version=True):
        self.array, self.version = array, version

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()

    def __dlpack__(self, **arguments):
        if not self.version:
            if "max_version" in arguments:
                raise TypeError("unexpected keyword argument 'max_version'")
            return self.array.__dlpack__()
        return self.array.__dlpack__(**arguments)


def batch(rng, tables, batch_size, id_type=np.int64, offset_type=np.int64):
    lengths = rng.integers(0, 4, len(tables.features) * batch_size)
    rows = np.repeat([tables.shapes[table][0] for table in tables.features], batch_size)
    ids = np.concatenate([rng.integers(0, r, n) for r, n in zip(rows, lengths)])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return ids.astype(id_type), offsets.astype(offset_type)


def pooled(tables, weights, ids, offsets, factors=None):
    """The reference, in float64."""
    batch_size = (len(offsets) - 1) // len(tables.features)
    out = np.zeros((batch_size, tables.width))
    argmax = np.full(out.shape, -1)
    for f, table in enumerate(tables.features):
        start, end = tables.weight_offsets[table : table + 2]
        rows = weights[start:end].reshape(tables.shapes[table]).astype(np.float64)
        columns = slice(*tables.column_offsets[f : f + 2])
        for b in range(batch_size):
            bag = f * batch_size + b
            places = np.arange(offsets[bag], offsets[bag + 1])
            places = places[ids[places] != tables.padding_idx[f]]
            if tables.padding_idx[f] is None:
                places = np.arange(offsets[bag], offsets[bag + 1])
            if len(places) == 0:
                continue
            looked_up = rows[ids[places]]
            if tables.pooling[f] == "max":
                out[b, columns] = looked_up.max(0)
                argmax[b, columns] = places[looked_up.argmax(0)] - offsets[bag]
                continue
            if factors is not None:
                looked_up = looked_up * factors[places][:, None]
            divisor = len(places) if tables.pooling[f] == "mean" else 1
            out[b, columns] = looked_up.sum(0) / divisor
    return out, argmax


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("id_type", [np.int64, np.int32, np.uint32])
@pytest.mark.parametrize("offset_type", [np.int64, np.int32, np.uint32])
def test_lookup_of_every_type(rng, dtype, id_type, offset_type):
    weights = rng.standard_normal(TABLES.num_weights).astype(dtype)
    ids, offsets = batch(rng, TABLES, 9, id_type, offset_type)
    argmax = np.zeros((9, TABLES.width), np.uint32)
    out = ops.embedding_bag(TABLES, weights, ids, offsets, argmax=argmax)
    want, sources = pooled(TABLES, weights, ids.astype(np.int64), offsets.astype(np.int64))
    # At most 4 additions of numbers below 4, and one division, each rounded to 24 bits.
    np.testing.assert_allclose(out, want, rtol=0, atol=6 * 12 * 2.0**-24)
    columns = slice(*TABLES.column_offsets[2:4])
    np.testing.assert_array_equal(argmax.view(np.int32)[:, columns], sources[:, columns])


def test_factors_starts_and_bags_of_one_length(rng):
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 6)
    factors = rng.random(len(ids), dtype=np.float32)
    out = ops.embedding_bag(PLAIN, weights, ids, offsets, factors)
    want, _ = pooled(PLAIN, weights, ids, offsets, factors)
    np.testing.assert_allclose(out, want, rtol=0, atol=6 * 12 * 2.0**-24)
    starts = ops.embedding_bag(
        PLAIN, weights, ids, offsets[:-1], factors, include_last_offset=False
    )
    np.testing.assert_array_equal(starts, out)
    matrix = rng.integers(0, 50, (12, 3))
    of_length = ops.embedding_bag(PLAIN, weights, matrix)
    same = ops.embedding_bag(PLAIN, weights, matrix.ravel(), np.arange(0, 37, 3))
    np.testing.assert_array_equal(of_length, same)


def test_numpy_is_read_and_written_in_place(rng):
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 5)
    wide = np.full((5, 20), 7, np.float32)
    out = wide[:, 4:16]
    returned = ops.embedding_bag(PLAIN, weights, ids, offsets, out=out)
    assert returned is out
    want, _ = pooled(PLAIN, weights, ids, offsets)
    np.testing.assert_allclose(wide[:, 4:16], want, atol=1e-5)
    assert (wide[:, :4] == 7).all() and (wide[:, 16:] == 7).all()
    tables = [weights[:800].reshape(100, 8), weights[800:].reshape(50, 4)]
    np.testing.assert_array_equal(ops.embedding_bag(PLAIN, tables, ids, offsets), out)


@pytest.mark.parametrize("version", [True, False])
def test_dlpack_is_read_without_a_copy(rng, version):
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 5)
    want = ops.embedding_bag(PLAIN, weights, ids, offsets)
    arrays = [Producer(array, version) for array in (weights, ids, offsets)]
    out = ops.embedding_bag(PLAIN, *arrays)
    assert isinstance(out, bagdot.Array)
    assert (out.shape, out.dtype, len(out)) == ((5, 12), "float32", 5)
    np.testing.assert_array_equal(np.from_dlpack(out), want)
    # An output is written through DLPack, too, and so without a copy.
    target = np.zeros((5, 12), np.float32)
    ops.embedding_bag(PLAIN, *arrays, out=Producer(target, version))
    np.testing.assert_array_equal(target, want)


def test_outputs_are_shared_with_numpy_pytorch_and_jax(rng):
    torch = pytest.importorskip("torch")
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 5)
    out = ops.embedding_bag(PLAIN, Producer(weights), Producer(ids), Producer(offsets))
    address = out.__array_interface__["data"][0]
    assert address % 64 == 0
    assert np.asarray(out).ctypes.data == address
    assert np.from_dlpack(out).ctypes.data == address
    assert torch.from_dlpack(out).data_ptr() == address
    jax = pytest.importorskip("jax")
    assert jax.dlpack.from_dlpack(out).unsafe_buffer_pointer() == address
    kept = torch.from_dlpack(out)
    del out
    assert torch.isfinite(kept).all()


def test_pytorch_in_and_out(rng):
    torch = pytest.importorskip("torch")
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 5)
    want = ops.embedding_bag(PLAIN, weights, ids, offsets)
    arrays = [torch.from_numpy(array) for array in (weights, ids, offsets)]
    out = ops.embedding_bag(PLAIN, *arrays)
    assert isinstance(out, torch.Tensor)
    np.testing.assert_array_equal(out.numpy(), want)
    given = torch.empty(5, 12)
    address = given.data_ptr()
    assert ops.embedding_bag(PLAIN, *arrays, out=given) is given
    assert given.data_ptr() == address and torch.equal(given, out)
    half = arrays[0].bfloat16()
    rounded = ops.embedding_bag(PLAIN, half, *arrays[1:])
    assert torch.equal(rounded, ops.embedding_bag(PLAIN, half.float(), *arrays[1:]))


def test_jax_in_and_out(rng):
    jax = pytest.importorskip("jax")
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 5, np.int32, np.int32)
    want = ops.embedding_bag(PLAIN, weights, ids, offsets)
    arrays = [jax.numpy.asarray(array) for array in (weights, ids, offsets)]
    out = ops.embedding_bag(PLAIN, *arrays)
    np.testing.assert_array_equal(np.asarray(jax.dlpack.from_dlpack(out)), want)


def test_a_bad_id_is_an_exception_with_its_place(rng):
    weights = np.zeros(PLAIN.num_weights, np.float32)
    ids, offsets = np.array([1, 2, 99, 50, 7]), np.array([0, 1, 3, 4, 5])
    with pytest.raises(bagdot.IndexOutOfRange) as caught:
        ops.embedding_bag(PLAIN, weights, ids, offsets)
    error = caught.value
    assert isinstance(error, IndexError)
    fields = (error.op, error.table, error.bag, error.position, error.value, error.count)
    assert fields == ("embedding_bag.forward", 1, 2, 3, 50, 1)
    assert error.num_embeddings == 50 and "index 50 is out of range for table 1" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.table, str(again)) == (1, str(error))
    grad = np.ones((2, 12), np.float32)
    with pytest.raises(bagdot.IndexOutOfRange):
        ops.sparse_update(PLAIN, weights, ids, offsets, grad, ops.Optimizer("sgd", 1.0))
    assert not weights.any()


def test_wrong_arguments_are_named(rng):
    weights = np.zeros(PLAIN.num_weights, np.float32)
    ids, offsets = np.array([1, 2]), np.array([0, 1, 2])
    call = ops.embedding_bag

    def refuses(error, text, *arguments, **options):
        with pytest.raises(error, match=text):
            call(PLAIN, *arguments, **options)

    refuses(ValueError, "weights is 1, but must be 1000", weights[:1], ids, offsets)
    refuses(ValueError, "no multiple of the 2 features", weights, ids, np.array([0, 2]))
    refuses(ValueError, "contiguous", weights, np.arange(4)[::2], offsets)
    refuses(TypeError, "float64", weights.astype(np.float64), ids, offsets)
    refuses(TypeError, "indices: float32", weights, ids.astype(np.float32), offsets)
    refuses(TypeError, "offsets: uint64", weights, ids, offsets.astype(np.uint64))
    refuses(TypeError, "a list is no array", weights, [1, 2], offsets)
    refuses(TypeError, "order of this machine", weights.astype(">f4"), ids, offsets)
    refuses(ValueError, "offsets: needed", weights, ids)
    refuses(ValueError, r"offsets\[2\] is 2", weights, ids, np.array([0, 3, 2]))
    out = np.zeros((1, 12), np.float32)
    out.flags.writeable = False
    refuses(ValueError, "read-only", weights, ids, offsets, out=out)
    refuses(ValueError, "shares memory", weights, ids, offsets, out=weights[:12].reshape(1, 12))
    refuses(ValueError, "output.cols is 11", weights, ids, offsets, out=np.zeros((1, 11), "f4"))
    one = [np.zeros((100, 8), np.float32)]
    refuses(ValueError, "1 of them, but there are 2 tables", one, ids, offsets)
    swapped = [np.zeros((50, 4), np.float32), *one]
    refuses(ValueError, r"table 0 is \[50, 4\]", swapped, ids, offsets)
    with pytest.raises(ValueError, match="pooling"):
        ops.Tables([(1, 1)], pooling="median")
    with pytest.raises(ValueError, match="table 0 has 0 rows"):
        ops.Tables([(0, 1)])


@pytest.mark.parametrize("kind", ["sgd", "rowwise_adagrad", "adam"])
def test_tables_may_lie_apart(rng, kind):
    """Tables in memory of their own, the second with gaps, give the bits of a joined array."""
    joined = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    wide = np.full((50, 7), 9, np.float32)
    wide[:, 1:5] = joined[800:].reshape(50, 4)
    apart = [joined[:800].reshape(100, 8).copy(), wide[:, 1:5]]
    ids, offsets = batch(rng, PLAIN, 6)
    want = ops.embedding_bag(PLAIN, joined, ids, offsets)
    np.testing.assert_array_equal(ops.embedding_bag(PLAIN, apart, ids, offsets), want)
    optimizer = ops.Optimizer(kind, 0.1)
    sizes = optimizer.state_sizes(PLAIN)
    state = [np.zeros(size, np.float32) for size in sizes]
    by_row = kind == "rowwise_adagrad"
    shapes = [(100,), (50,)] if by_row else [(100, 8), (50, 4)]
    of_tables = [[np.zeros(shape, np.float32) for shape in shapes] for _ in sizes]
    grad = rng.standard_normal((6, PLAIN.width)).astype(np.float32)
    for step in (1, 2):
        ops.sparse_update(PLAIN, joined, ids, offsets, grad, optimizer, state, step=step)
        ops.sparse_update(PLAIN, apart, ids, offsets, grad, optimizer, of_tables, step=step)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in apart]), joined)
    for one, each in zip(state, of_tables):
        np.testing.assert_array_equal(np.concatenate([a.ravel() for a in each]), one)
    assert (wide[:, :1] == 9).all() and (wide[:, 5:] == 9).all()


@pytest.mark.parametrize("order", ["lower", "upper"])
@pytest.mark.parametrize("include_self", [False, True])
def test_interaction_and_its_gradient(rng, order, include_self):
    dense = rng.standard_normal((7, 8)).astype(np.float32)
    sparse = rng.standard_normal((7, 3, 8)).astype(np.float32)
    settings = {"pair_order": order, "include_self": include_self}
    out = ops.interaction(dense, sparse, append_sparse=True, pad_to=8, **settings)
    block = np.concatenate([dense[:, None], sparse], 1).astype(np.float64)
    pairs = ops.interaction_pairs(4, **settings)
    products = np.stack([(block[:, i] * block[:, j]).sum(1) for i, j in pairs], 1)
    want = np.concatenate([dense, products, sparse.reshape(7, 24)], 1)
    assert out.shape[1] % 8 == 0 and not out[:, want.shape[1] :].any()
    # A sum of 8 products, of numbers below 5.
    np.testing.assert_allclose(out[:, : want.shape[1]], want, rtol=0, atol=8 * 8 * 25 * 2.0**-24)
    grad = rng.standard_normal((7, 8 + len(pairs))).astype(np.float32)
    to_dense, to_sparse = ops.interaction_backward(grad, dense, sparse, **settings)
    to_block = np.zeros_like(block)
    to_block[:, 0] += grad[:, :8]
    for k, (i, j) in enumerate(pairs):
        to_block[:, i] += grad[:, 8 + k, None] * block[:, j]
        to_block[:, j] += grad[:, 8 + k, None] * block[:, i]
    assert to_sparse.shape == sparse.shape
    got = np.concatenate([to_dense[:, None], to_sparse], 1)
    np.testing.assert_allclose(got, to_block, rtol=0, atol=6 * 6 * 25 * 2.0**-24)


def test_the_fused_op_is_the_two_ops(rng):
    tables = ops.Tables([(100, 8), (50, 8)])
    weights = rng.standard_normal(tables.num_weights).astype(np.float32)
    ids, offsets = batch(rng, tables, 5)
    dense = rng.standard_normal((5, 8)).astype(np.float32)
    out, none = ops.pooled_interaction(tables, weights, ids, offsets, dense)
    assert none is None
    vectors = ops.embedding_bag(tables, weights, ids, offsets)
    np.testing.assert_array_equal(out, ops.interaction(dense, vectors))
    _, kept = ops.pooled_interaction(tables, weights, ids, offsets, dense, keep_pooled=True)
    np.testing.assert_array_equal(kept, vectors)


@pytest.mark.parametrize("kind", ["sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_updates(rng, kind):
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 6)
    grad = rng.standard_normal((6, PLAIN.width)).astype(np.float32)
    optimizer = ops.Optimizer(kind, 0.1, eps=1e-8)
    state = [np.zeros(size, np.float32) for size in optimizer.state_sizes(PLAIN)]
    before = weights.astype(np.float64)
    ops.sparse_update(PLAIN, weights, ids, offsets, grad, optimizer, state, step=1)
    full = np.zeros(PLAIN.num_weights)
    for f, (rows, dim) in enumerate(PLAIN.shapes):
        start = PLAIN.weight_offsets[f]
        for bag in range(6):
            of_bag = ids[offsets[f * 6 + bag] : offsets[f * 6 + bag + 1]]
            g = grad[bag, slice(*PLAIN.column_offsets[f : f + 2])].astype(np.float64)
            for row in of_bag:
                scale = len(of_bag) if PLAIN.pooling[f] == "mean" else 1
                full[start + row * dim : start + (row + 1) * dim] += g / scale
    step = full
    if kind in ("adagrad", "adam"):
        step = np.where(full == 0, 0, full / (np.abs(full) + 1e-8))
    elif kind == "rowwise_adagrad":
        step = np.zeros_like(full)
        for f, (rows, dim) in enumerate(PLAIN.shapes):
            part = slice(PLAIN.weight_offsets[f], PLAIN.weight_offsets[f + 1])
            of_rows = full[part].reshape(rows, dim)
            root = np.sqrt((of_rows**2).mean(1, keepdims=True)) + 1e-8
            step[part] = (of_rows / root).ravel()
    np.testing.assert_allclose(weights, before - 0.1 * step, rtol=0, atol=1e-5)
    # Rows without a gradient keep their bits.
    np.testing.assert_array_equal(weights[full == 0], before[full == 0].astype(np.float32))


def test_the_gradient_of_factors(rng):
    weights = rng.standard_normal(PLAIN.num_weights).astype(np.float32)
    ids, offsets = batch(rng, PLAIN, 4)
    grad = rng.standard_normal((4, PLAIN.width)).astype(np.float32)
    out = ops.embedding_bag_weight_grad(PLAIN, weights, ids, offsets, grad)
    basis = np.eye(len(ids), dtype=np.float32)
    for k, factors in enumerate(basis):
        of_one = ops.embedding_bag(PLAIN, weights, ids, offsets, factors)
        assert out[k] == pytest.approx((of_one.astype(np.float64) * grad).sum(), abs=1e-5)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_pooled_vectors_and_gradients_of_16_bits(rng, name):
    """They have the bits of float32, rounded where they are stored."""
    numbers = np if name == "float16" else pytest.importorskip("ml_dtypes")
    dtype = np.dtype(getattr(numbers, name))
    tables = ops.Tables([(100, 8), (50, 8)], pooling=["sum", "mean"])
    weights = rng.standard_normal(tables.num_weights).astype(np.float32)
    ids, offsets = batch(rng, tables, 5)
    vectors = ops.embedding_bag(tables, weights, ids, offsets)
    half = np.empty(vectors.shape, dtype)
    assert ops.embedding_bag(tables, weights, ids, offsets, out=half) is half
    np.testing.assert_array_equal(half, vectors.astype(dtype))
    with pytest.raises(TypeError, match="out: float64"):
        ops.embedding_bag(tables, weights, ids, offsets, out=np.empty(vectors.shape))

    # The type of the dense vectors is that of the outputs.
    dense = rng.standard_normal((5, 8)).astype(dtype)
    call = (tables, weights, ids, offsets, dense)
    made, pooled = ops.pooled_interaction(*call, keep_pooled=True)
    assert (str(made.dtype), str(pooled.dtype)) == (name, name)
    out, pooled = np.empty((5, 11), dtype), np.empty_like(half)
    ops.pooled_interaction(*call, out=out, pooled=pooled)
    np.testing.assert_array_equal(pooled, half)
    np.testing.assert_array_equal(out, ops.interaction(dense, half, np.empty_like(out)))
    with pytest.raises(TypeError, match="pooled: float32"):
        ops.pooled_interaction(*call, pooled=vectors)

    grad = rng.standard_normal(half.shape).astype(dtype)
    same = grad.astype(np.float32)
    of_factors = [ops.embedding_bag_weight_grad(*call[:4], g) for g in (grad, same)]
    np.testing.assert_array_equal(*of_factors)
    # The bound of the gradient is that of the loss without its scale.
    sgd = ops.Optimizer("sgd", 0.5, max_gradient=1.0)
    updated = [weights.copy(), weights.copy()]
    ops.sparse_update(tables, updated[0], ids, offsets, same, sgd)
    scaled = grad * dtype.type(1024)
    ops.sparse_update(tables, updated[1], ids, offsets, scaled, sgd, loss_scale=1024)
    np.testing.assert_array_equal(*updated)
    assert not np.array_equal(updated[0], weights)
    with pytest.raises(ValueError, match="loss_scale"):
        ops.sparse_update(tables, updated[1], ids, offsets, scaled, sgd, loss_scale=3)


def test_threads_give_the_same_bits(rng):
    tables = ops.Tables([(5000, 64)] * 4)
    weights = rng.standard_normal(tables.num_weights).astype(np.float32)
    ids, offsets = batch(rng, tables, 500)
    before = ops.get_num_threads()
    try:
        outputs = []
        for threads in (1, 2, 3):
            ops.set_num_threads(threads)
            assert ops.get_num_threads() == threads
            outputs.append(ops.embedding_bag(tables, weights, ids, offsets))
        np.testing.assert_array_equal(outputs[0], outputs[1])
        np.testing.assert_array_equal(outputs[0], outputs[2])
        # Calls of several threads at once: each has a scratch of its own.
        grad, results = np.ones((500, tables.width), np.float32), [weights.copy() for _ in "abc"]
        sgd = ops.Optimizer("sgd", 0.1)
        threads = [
            threading.Thread(
                target=ops.sparse_update, args=(tables, result, ids, offsets, grad, sgd)
            )
            for result in results
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])
        assert not np.array_equal(results[0], weights)
    finally:
        ops.set_num_threads(before)


def test_ops_work_after_a_fork():
    program = """
import os, numpy as np
from bagdot import ops
ops.set_num_threads(2)
tables = ops.Tables([(5000, 64)])
weights, ids = np.ones(tables.num_weights, np.float32), np.arange(5000)
call = lambda: ops.embedding_bag(tables, weights, ids, np.arange(5001))
call()
child = os.fork()
if child == 0:
    os._exit(0 if call().all() else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=60)


def test_the_ops_need_no_other_library():
    program = """
import sys, bagdot
assert not {"numpy", "torch", "pandas"} & set(sys.modules), "an import too many"
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
