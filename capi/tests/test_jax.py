"""Calls the library from JAX through TVM-FFI, and compares results and gradients with jnp.

BAGDOT_LIBRARY is the path of libbagdot.so.
"""

import os

import jax
import jax.numpy as jnp
import jax_tvm_ffi
import numpy as np
import tvm_ffi

MODULE = tvm_ffi.load_module(os.environ["BAGDOT_LIBRARY"])
SUM, MEAN = 0, 1


def register(name, attributes, spec=("args", "rets")):
    """Makes a function of the library a target of JAX."""
    order = [f"attrs.{attribute}" for attribute in attributes]
    jax_tvm_ffi.register_ffi_target(name, MODULE[name], [*order, *spec], platform="cpu")


register("bagdot_embedding_bag", ["pooling"])
register("bagdot_embedding_bag_sgd", ["pooling", "learning_rate"], ["args"])
register(
    "bagdot_embedding_bag_rowwise_adagrad", ["pooling", "learning_rate", "eps"], ["args"]
)
register("bagdot_interaction", ["pair_order", "include_self"])
register("bagdot_interaction_grad", ["pair_order", "include_self"])


def like(array):
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


@jax.custom_vjp
def embedding_bag(tables, ids, offsets):
    """Sums the rows of each bag: a table for each feature, or one for all of them."""
    features = len(tables)
    batch = (offsets.shape[0] - 1) // features
    return pool(tables, ids, offsets, batch)


def pool(tables, ids, offsets, batch, pooling=SUM):
    features = (offsets.shape[0] - 1) // batch
    width = sum(table.shape[1] for table in tables) * (features // len(tables))
    out = jax.ShapeDtypeStruct((batch, width), jnp.float32)
    call = jax.ffi.ffi_call("bagdot_embedding_bag", out)
    return call(ids, offsets, *tables, pooling=np.int64(pooling))


def step(name, ids, offsets, grad, arrays, **attributes):
    """Updates arrays in place, which JAX sees as new ones."""
    aliases = {3 + k: k for k in range(len(arrays))}
    call = jax.ffi.ffi_call(name, [like(a) for a in arrays], input_output_aliases=aliases)
    return call(ids, offsets, grad, *arrays, pooling=np.int64(SUM), **attributes)


def forward(tables, ids, offsets):
    return embedding_bag(tables, ids, offsets), (tables, ids, offsets)


def backward(kept, grad):
    tables, ids, offsets = kept
    zeros = [jnp.zeros_like(table) for table in tables]
    rate = np.float32(1)
    grads = step("bagdot_embedding_bag_sgd", ids, offsets, -grad, zeros, learning_rate=rate)
    return list(grads), None, None


embedding_bag.defvjp(forward, backward)


@jax.custom_vjp
def interaction(dense, sparse):
    """Computes the dense vector and the dot products of all pairs, in dlrm's order."""
    features = 1 + sparse.shape[1] // dense.shape[1]
    width = dense.shape[1] + features * (features - 1) // 2
    out = jax.ShapeDtypeStruct((dense.shape[0], width), dense.dtype)
    call = jax.ffi.ffi_call("bagdot_interaction", out)
    return call(dense, sparse, pair_order=np.int64(0), include_self=np.int64(0))


def interaction_backward(kept, grad):
    call = jax.ffi.ffi_call("bagdot_interaction_grad", [like(array) for array in kept])
    return tuple(call(*kept, grad, pair_order=np.int64(0), include_self=np.int64(0)))


interaction.defvjp(lambda *features: (interaction(*features), features), interaction_backward)


def reference_bag(tables, ids, offsets):
    """Does what embedding_bag does, by jnp alone."""
    batch = (offsets.shape[0] - 1) // len(tables)
    bag = jnp.searchsorted(offsets, jnp.arange(ids.shape[0]), side="right") - 1
    pooled = []
    for feature, table in enumerate(tables):
        mine = (bag // batch == feature)[:, None]
        rows = jnp.where(mine, table[jnp.where(mine[:, 0], ids, 0)], 0)
        segment = jnp.where(mine[:, 0], bag % batch, batch)
        pooled.append(jax.ops.segment_sum(rows, segment, batch + 1)[:batch])
    return jnp.concatenate(pooled, axis=1)


def reference_interaction(dense, sparse):
    batch, dim = dense.shape
    vectors = jnp.concatenate([dense[:, None], sparse.reshape(batch, -1, dim)], axis=1)
    products = jnp.einsum("bid,bjd->bij", vectors, vectors)
    i, j = np.tril_indices(vectors.shape[1], -1)
    return jnp.concatenate([dense, products[:, i, j]], axis=1)


def close(found, wanted):
    # Sums of at most 64 products of numbers of about 1, in f32.
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=2e-5, atol=2e-5)


def case():
    random = np.random.default_rng(7)
    batch, dim, rows = 6, 8, [20, 3, 50]
    lengths = random.integers(0, 5, (3, batch))
    offsets = np.concatenate([[0], np.cumsum(lengths.ravel())]).astype(np.int32)
    ids = np.concatenate(
        [random.integers(0, n, lengths[f].sum()) for f, n in enumerate(rows)]
    ).astype(np.int32)
    tables = [jnp.asarray(random.normal(size=(n, dim)), jnp.float32) for n in rows]
    dense = jnp.asarray(random.normal(size=(batch, dim)), jnp.float32)
    return tables, jnp.asarray(ids), jnp.asarray(offsets), dense


def test_values_and_gradients():
    tables, ids, offsets, dense = case()

    def loss(bag, interact):
        def of(tables, dense):
            return jnp.sum(jnp.sin(interact(dense, bag(tables, ids, offsets))))

        return of

    ours, wanted = loss(embedding_bag, interaction), loss(reference_bag, reference_interaction)
    close(jax.jit(embedding_bag)(tables, ids, offsets), reference_bag(tables, ids, offsets))
    close(jax.jit(ours)(tables, dense), wanted(tables, dense))
    found = jax.jit(jax.grad(ours, argnums=(0, 1)))(tables, dense)
    expected = jax.grad(wanted, argnums=(0, 1))(tables, dense)
    jax.tree.map(close, found, (expected[0], expected[1]))


def test_one_table_and_means():
    tables, _, _, _ = case()
    ids, offsets = jnp.asarray([1, 4, 4, 7], jnp.int32), jnp.asarray([0, 2, 3, 3, 4], jnp.int32)
    # Two features of one table: the bags [1, 4] and [4], [] and [7].
    pooled = pool(tables[:1], ids, offsets, 2, MEAN)
    table = tables[0]
    zeros = jnp.zeros(8)
    wanted = [[(table[1] + table[4]) / 2, zeros], [table[4], table[7]]]
    close(pooled.reshape(2, 2, 8), jnp.asarray([[r for r in row] for row in wanted]))


def test_fused_step():
    tables, ids, offsets, _ = case()
    grad = jnp.ones((6, 24))
    sums = [jnp.full(table.shape[0], 0.25) for table in tables]

    @jax.jit
    def train(tables, sums):
        name = "bagdot_embedding_bag_rowwise_adagrad"
        rate, eps = np.float32(0.5), np.float32(1e-8)
        arrays = [*tables, *sums]
        return step(name, ids, offsets, grad, arrays, learning_rate=rate, eps=eps)

    found = train(tables, sums)
    dense = jax.grad(lambda t: jnp.sum(reference_bag(t, ids, offsets)))(tables)
    for table, total, grads, new, new_total in zip(tables, sums, dense, found[:3], found[3:]):
        want_total = total + jnp.mean(grads**2, axis=1)
        close(new_total, want_total)
        close(new, table - 0.5 * grads / (jnp.sqrt(want_total)[:, None] + 1e-8))


def test_bad_id():
    tables, ids, offsets, _ = case()
    bad = ids.at[3].set(99)
    try:
        pool(tables, bad, offsets, 6).block_until_ready()
    except Exception as error:  # JAX has no type of its own for it.
        assert "index 99 is out of range for table 0 with 20 rows" in str(error), error
    else:
        raise AssertionError("a bad id was not reported")


if __name__ == "__main__":
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            test()
            print(name)
