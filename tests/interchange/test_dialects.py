"""PyTorch computes the same logits from exported parameters, and its files can be imported.

They need torch, numpy, safetensors and pytest; with torchrec, its own model reads a file, too.
"""

import pytest

numpy = pytest.importorskip("numpy")
torch = pytest.importorskip("torch")
load_file = pytest.importorskip("safetensors.torch").load_file
save_file = pytest.importorskip("safetensors.torch").save_file

from conftest import bagdot, make_model, predictions  # noqa: E402

SPARSE = ["page", "tags", "city", "words"]
# Sums of f32 in another order; see test_onnx.py.
TOLERANCE = 1e-5


def bag(weight, rows, name, mode="sum"):
    """Pools the rows of a table as `torch.nn.EmbeddingBag` does."""
    if name in rows:
        ids, offsets = rows[name], torch.arange(len(rows[name]))
        return torch.nn.functional.embedding_bag(ids, weight, offsets, mode=mode)
    ids, offsets = rows[f"{name}.values"], rows[f"{name}.offsets"]
    bags = torch.nn.functional.embedding_bag
    return bags(ids, weight, offsets, mode=mode, include_last_offset=True)


def linear(x, state, name):
    """A layer without its activation."""
    return torch.nn.functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def dlrm(state, rows, itself=False, cat=False):
    """The forward pass of `DLRM_Net` in facebookresearch/dlrm, to the logits."""
    x = rows["dense"]
    for k in (0, 2):
        x = linear(x, state, f"bot_l.{k}").relu()
    pooled = [bag(state[f"emb_l.{k}.weight"], rows, name) for k, name in enumerate(SPARSE)]
    if cat:
        z = torch.cat([x, *pooled], dim=1)
    else:
        t = torch.stack([x, *pooled], dim=1)
        products = torch.bmm(t, t.transpose(1, 2))
        li, lj = torch.tril_indices(5, 5, offset=0 if itself else -1)
        z = torch.cat([x, products[:, li, lj]], dim=1)
    for k in (0, 2):
        z = linear(z, state, f"top_l.{k}").relu()
    return linear(z, state, "top_l.4").squeeze(1)


def torchrec(state, rows, words="sum"):
    """The forward pass of `torchrec.models.dlrm.DLRM`, to the logits."""
    x = rows["dense"]
    for k in (0, 1):
        x = linear(x, state, f"dense_arch.model._mlp.{k}._linear").relu()
    tables = "sparse_arch.embedding_bag_collection.embedding_bags"
    modes = {"words": words}
    pooled = [
        bag(state[f"{tables}.t_{name}.weight"], rows, name, modes.get(name, "sum"))
        for name in SPARSE
    ]
    t = torch.stack([x, *pooled], dim=1)
    i, j = torch.triu_indices(5, 5, offset=1)
    z = torch.cat([x, torch.bmm(t, t.transpose(1, 2))[:, i, j]], dim=1)
    for k in (0, 1):
        z = linear(z, state, f"over_arch.model.0._mlp.{k}._linear").relu()
    return linear(z, state, "over_arch.model.1").squeeze(1)


def exported(model, dialect):
    """Returns the state dict of a model in a dialect, and all rows of its data."""
    parameters, rows = model.parent / f"{dialect}.safetensors", model.parent / "rows.safetensors"
    bagdot("export", model, "--format", dialect, "--output", parameters)
    bagdot("encode", model, model.parent / "clicks.csv", "--labels", "--output", rows)
    return load_file(parameters), load_file(rows)


def imported(model, state, dialect):
    """Saves a state dict and imports it. Returns the new model."""
    parameters, new = model.parent / "saved.safetensors", model.parent / "imported"
    save_file(state, parameters)
    like = ("--like", model, "--out", new, "--quiet")
    bagdot("import", parameters, "--format", dialect, *like)
    return new


def same(logits, model):
    """Returns the largest difference of probabilities from those of the program."""
    expected = predictions(model, model.parent / "clicks.csv")
    assert expected.std() > 1000 * TOLERANCE, "the rows are too alike to show much"
    return numpy.abs(torch.sigmoid(logits.double()).detach().numpy() - expected).max()


CASES = [
    ("dlrm", dlrm, "", {}, {}),
    ("dlrm", dlrm, 'pair_order = "upper_triangle"', {}, {}),
    ("dlrm", dlrm, "include_self = true", {}, {"itself": True}),
    ("dlrm", dlrm, 'interaction = "cat"', {}, {"cat": True}),
    ("torchrec", torchrec, "", {}, {}),
    ("torchrec", torchrec, 'pair_order = "upper_triangle"', {"words": "mean"}, {"words": "mean"}),
]


@pytest.mark.parametrize("dialect, forward, setting, pooling, options", CASES)
def test_logits_are_the_same(tmp_path, dialect, forward, setting, pooling, options):
    model = make_model(tmp_path, f"append_sparse = false\n{setting}", **pooling)
    state, rows = exported(model, dialect)
    assert same(forward(state, rows, **options), model) < TOLERANCE
    # Parameters that PyTorch has changed are predicted with after an import.
    state = {name: torch.nn.Parameter(values) for name, values in state.items()}
    optimizer = torch.optim.Adam(state.values(), lr=0.02)
    for _ in range(20):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            forward(state, rows, **options), rows["label"]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = forward(state, rows, **options)
    assert same(logits, model) > 100 * TOLERANCE, "training must change the predictions"
    state = {name: values.detach() for name, values in state.items()}
    assert same(logits, imported(model, state, dialect)) < TOLERANCE


@pytest.mark.parametrize("dialect", ["dlrm", "torchrec"])
@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_tables_of_16_bits_keep_their_type(tmp_path, dialect, dtype):
    model = make_model(tmp_path, f'append_sparse = false\ntable_dtype = "{dtype}"')
    state, rows = exported(model, dialect)
    types = {tensor.dtype for name, tensor in state.items() if "emb" in name}
    assert types == {{"f16": torch.float16, "bf16": torch.bfloat16}[dtype]}
    wide = {name: tensor.float() for name, tensor in state.items()}
    forward = {"dlrm": dlrm, "torchrec": torchrec}[dialect]
    assert same(forward(wide, rows), model) < TOLERANCE
    # A file that PyTorch has written has the same tensors in another order.
    new = imported(model, {f"model.{name}": state[name] for name in reversed(state)}, dialect)
    data = tmp_path / "clicks.csv"
    assert (predictions(new, data) == predictions(model, data)).all()


def test_torchrec_itself_reads_the_file(tmp_path):
    pytest.importorskip("torchrec")
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.models.dlrm import DLRM

    model = make_model(tmp_path)
    state, rows = exported(model, "torchrec")
    tables = "sparse_arch.embedding_bag_collection.embedding_bags"
    bags = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=f"t_{name}",
                embedding_dim=8,
                num_embeddings=len(state[f"{tables}.t_{name}.weight"]),
                feature_names=[name],
            )
            for name in SPARSE
        ]
    )
    network = DLRM(bags, 2, dense_arch_layer_sizes=[16, 8], over_arch_layer_sizes=[16, 8, 1])
    network.load_state_dict(state, strict=True)
    values, lengths = [], []
    for name in SPARSE:
        if name in rows:
            values.append(rows[name])
            lengths.append(torch.ones_like(rows[name]))
        else:
            values.append(rows[f"{name}.values"])
            lengths.append(rows[f"{name}.offsets"].diff())
    ids = KeyedJaggedTensor(SPARSE, torch.cat(values), lengths=torch.cat(lengths))
    with torch.no_grad():
        logits = network(rows["dense"], ids).squeeze(1)
    assert same(logits, model) < TOLERANCE
    # Its own state dict goes back, bit for bit.
    new = imported(model, network.state_dict(), "torchrec")
    data = tmp_path / "clicks.csv"
    assert (predictions(new, data) == predictions(model, data)).all()
