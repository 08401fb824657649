"""The ops on memory of a CUDA device, or of the stand-in driver of `emulator/`, if there is one.

The arrays are made by the driver alone, so that no other library is needed. With the stand-in
driver, `LD_LIBRARY_PATH` names the folder in which it is called libcuda.so.
"""

import ctypes as c

import numpy as np
import pytest

import bagdot
from bagdot import ops

pytestmark = pytest.mark.skipif(not bagdot.cuda_devices(), reason="no CUDA driver")


class Tensor(c.Structure):
    _fields_ = [
        ("data", c.c_void_p),
        ("device", c.c_int32 * 2),
        ("ndim", c.c_int32),
        ("code", c.c_uint8),
        ("bits", c.c_uint8),
        ("lanes", c.c_uint16),
        ("shape", c.POINTER(c.c_int64)),
        ("strides", c.POINTER(c.c_int64)),
        ("byte_offset", c.c_uint64),
    ]


class Managed(c.Structure):
    _fields_ = [("tensor", Tensor), ("context", c.c_void_p), ("deleter", c.c_void_p)]


READ = c.CFUNCTYPE(c.c_int, c.py_object, c.POINTER(Tensor))
STREAM = c.CFUNCTYPE(c.c_int, c.c_int32, c.c_int32, c.POINTER(c.c_void_p))


class Exchange(c.Structure):
    _fields_ = [
        ("version", c.c_uint32 * 2),
        ("previous", c.c_void_p),
        ("allocate", c.c_void_p),
        ("from_object", c.c_void_p),
        ("to_object", c.c_void_p),
        ("read", READ),
        ("stream", STREAM),
    ]


def capsule(structure, name):
    new = c.pythonapi.PyCapsule_New
    new.restype, new.argtypes = c.py_object, [c.c_void_p, c.c_char_p, c.c_void_p]
    return new(c.addressof(structure), name, None)


class Driver:
    """The calls of the driver that the tests need."""

    def __init__(self):
        self.library = c.CDLL("libcuda.so.1") if self.is_real() else c.CDLL("libcuda.so")
        context, device = c.c_void_p(), c.c_int()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", c.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", c.byref(context), device)
        self.call("cuCtxSetCurrent", context)

    @staticmethod
    def is_real():
        try:
            c.CDLL("libcuda.so.1")
        except OSError:
            return False
        return True

    def call(self, name, *arguments):
        assert getattr(self.library, name)(*arguments) == 0, name

    def stream(self):
        stream = c.c_void_p()
        self.call("cuStreamCreate", c.byref(stream), 1)
        return stream.value


class OnDevice:
    """An array on the device, exported by DLPack's capsules."""

    streams = []

    def __init__(self, driver, array):
        self.driver, self.like, self.pointer = driver, array, c.c_uint64()
        driver.call("cuMemAlloc_v2", c.byref(self.pointer), c.c_size_t(max(array.nbytes, 1)))
        source = c.c_void_p(array.ctypes.data)
        driver.call("cuMemcpyHtoD_v2", self.pointer, source, c.c_size_t(array.nbytes))
        self.shape = (c.c_int64 * array.ndim)(*array.shape)

    def numpy(self):
        out = np.empty_like(self.like)
        target = c.c_void_p(out.ctypes.data)
        self.driver.call("cuMemcpyDtoH_v2", target, self.pointer, c.c_size_t(out.nbytes))
        return out

    def tensor(self):
        code = {"i": 0, "u": 1, "f": 2}[self.like.dtype.kind]
        device, bits = (c.c_int32 * 2)(2, 0), 8 * self.like.itemsize
        ndim, data = self.like.ndim, self.pointer.value
        return Tensor(data, device, ndim, code, bits, 1, self.shape, None, 0)

    def __dlpack_device__(self):
        return (2, 0)

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        self.managed = Managed(self.tensor(), None, None)
        return capsule(self.managed, b"dltensor")


@pytest.fixture(scope="module")
def driver():
    return Driver()


TABLES = ops.Tables([(100, 8), (50, 8)], pooling=["sum", "mean"])


def arrays(rng):
    weights = rng.standard_normal(TABLES.num_weights).astype(np.float32)
    offsets = np.arange(0, 13, 2)
    ids = np.concatenate([rng.integers(0, 100, 6), rng.integers(0, 50, 6)])
    return weights, ids, offsets


def test_arrays_by_capsules(driver, rng):
    host = arrays(rng)
    want = ops.embedding_bag(TABLES, *host)
    weights, ids, offsets = (OnDevice(driver, array) for array in host)
    out = OnDevice(driver, np.zeros_like(want))
    OnDevice.streams.clear()
    ops.embedding_bag(TABLES, weights, ids, offsets, out=out)
    # The producer was told the stream of the op, and the call has waited.
    assert len(set(OnDevice.streams)) == 1 and OnDevice.streams[0] not in (None, 0)
    np.testing.assert_array_equal(out.numpy(), want)
    half = OnDevice(driver, np.zeros_like(want, np.float16))
    ops.embedding_bag(TABLES, weights, ids, offsets, out=half)
    np.testing.assert_array_equal(half.numpy(), want.astype(np.float16))
    dense = rng.standard_normal((3, 8)).astype(np.float32)
    pairs = ops.interaction(dense, want)
    to = OnDevice(driver, np.zeros_like(pairs))
    ops.interaction(OnDevice(driver, dense), out, to)
    np.testing.assert_allclose(to.numpy(), pairs, rtol=1e-5, atol=1e-5)
    grad = rng.standard_normal(want.shape).astype(np.float32)
    optimizer = ops.Optimizer("rowwise_adagrad", 0.1)
    state = np.zeros(150, np.float32)
    on_device = OnDevice(driver, state)
    gradient = OnDevice(driver, grad)
    ops.sparse_update(TABLES, weights, ids, offsets, gradient, optimizer, [on_device])
    ops.sparse_update(TABLES, *host, grad, optimizer, [state])
    grad = (8 * grad).astype(np.float16)
    gradient = OnDevice(driver, grad)
    ops.sparse_update(
        TABLES, weights, ids, offsets, gradient, optimizer, [on_device], loss_scale=8
    )
    ops.sparse_update(TABLES, *host, grad, optimizer, [state], loss_scale=8)
    np.testing.assert_array_equal(weights.numpy(), host[0])
    np.testing.assert_array_equal(on_device.numpy(), state)
    with pytest.raises(TypeError, match="pass an output"):
        ops.embedding_bag(TABLES, weights, ids, offsets)
    with pytest.raises(ValueError, match="different devices"):
        ops.embedding_bag(TABLES, host[0], ids, offsets, out=out)


def test_tables_apart(driver, rng):
    host = arrays(rng)
    want = ops.embedding_bag(TABLES, *host)
    tables = [host[0][:800].reshape(100, 8), host[0][800:].reshape(50, 8)]
    apart = [OnDevice(driver, table.copy()) for table in reversed(tables)][::-1]
    out = OnDevice(driver, np.zeros_like(want))
    ops.embedding_bag(TABLES, apart, *(OnDevice(driver, array) for array in host[1:]), out=out)
    np.testing.assert_array_equal(out.numpy(), want)


def test_a_bad_id(driver, rng):
    weights, ids, offsets = arrays(rng)
    ids[7] = 50
    out = OnDevice(driver, np.zeros((3, 16), np.float32))
    with pytest.raises(bagdot.IndexOutOfRange) as caught:
        on_device = (OnDevice(driver, array) for array in (weights, ids, offsets))
        ops.embedding_bag(TABLES, *on_device, out=out)
    error = caught.value
    assert (error.table, error.bag, error.position, error.value) == (1, 3, 7, 50)


def test_the_stream_of_the_producer(driver, rng):
    """Arrays of a library with a table of C functions run on its current stream, unawaited."""
    stream = driver.stream()
    asked = []

    @READ
    def read(array, tensor):
        tensor[0] = array.tensor()
        return 0

    @STREAM
    def current(kind, device, place):
        asked.append((kind, device))
        place[0] = stream
        return 0

    api = Exchange((c.c_uint32 * 2)(1, 3), None, None, None, None, read, current)

    class Streamed(OnDevice):
        __dlpack_c_exchange_api__ = capsule(api, b"dlpack_exchange_api")

    # The table must live as long as the process, as every library's does.
    TABLES_OF_C.append((api, read, current, Streamed))
    host = arrays(rng)
    want = ops.embedding_bag(TABLES, *host)
    on_device = [Streamed(driver, array) for array in host]
    out = Streamed(driver, np.zeros_like(want))
    ops.embedding_bag(TABLES, *on_device, out=out)
    bagdot.synchronize()
    assert asked == [(2, 0)]
    np.testing.assert_array_equal(out.numpy(), want)
    host[1][0] = 100
    bad = Streamed(driver, host[1])
    # The call has returned before the id is found.
    ops.embedding_bag(TABLES, on_device[0], bad, on_device[2], out=out)
    with pytest.raises(bagdot.IndexOutOfRange, match="index 100"):
        bagdot.synchronize()
    bagdot.synchronize()


TABLES_OF_C = []
