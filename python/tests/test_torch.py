"""The ops and modules of PyTorch."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import bagdot  # noqa: E402
import bagdot.torch as bt  # noqa: E402

SHAPES = [(20, 4), (10, 4)]
SPEC = bt.table_spec(SHAPES, ["sum", "mean"])
PADDED = bt.table_spec(SHAPES, ["sum", "mean"], padding_idx=[3, None])
MAX = bt.table_spec(SHAPES, ["max", "sum"])
IDS = torch.tensor([3, 5, 3, 7, 1, 2])
OFFSETS = torch.tensor([0, 2, 3, 3, 6])
LENGTHS = torch.tensor([2, 1, 0, 3], dtype=torch.int32)
DOT = ("dot", "lower", False, False, 1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def weights(dtype=torch.float32):
    return torch.randn(120, dtype=dtype, requires_grad=True)


def factors(dtype=torch.float32):
    return torch.rand(6, dtype=dtype, requires_grad=True)


def features(dtype=torch.float32):
    return [torch.randn(2, n, dtype=dtype, requires_grad=True) for n in (4, 8)]


@pytest.mark.parametrize("spec", [SPEC, PADDED, MAX])
def test_opcheck_of_the_lookup(spec):
    of_ids = None if spec == MAX else factors()
    arguments = (weights(), IDS, OFFSETS, of_ids, spec)
    torch.library.opcheck(torch.ops.bagdot.embedding_bag, arguments)


def test_opcheck_of_the_others():
    check = torch.library.opcheck
    check(torch.ops.bagdot.interaction, (*features(), *DOT))
    check(torch.ops.bagdot.interaction, (*features(), "cat", *DOT[1:]))
    dense, _ = features()
    arguments = (weights(), IDS, OFFSETS, factors(), dense, SPEC, *DOT)
    check(torch.ops.bagdot.pooled_interaction, arguments)
    half = dense.detach().bfloat16().requires_grad_()
    for spec in (SPEC, MAX):
        arguments = (weights(), IDS, OFFSETS, None, half, spec, *DOT)
        check(torch.ops.bagdot.pooled_interaction, arguments)
    table, grad = weights().detach(), torch.randn(2, 8)
    state, step, rate = torch.zeros(120), torch.zeros(1, dtype=torch.int64), torch.tensor(0.1)
    tail = (IDS, OFFSETS, grad, None, torch.empty(0, dtype=torch.int32), SPEC, "adam eps=1e-8")
    arguments = (table, state, state.clone(), step, rate, *tail)
    check(torch.ops.bagdot.sparse_update_, arguments)
    placeholder = torch.zeros(1, requires_grad=True)
    changed = (table, state.clone(), state.clone(), step.clone())
    arguments = (placeholder, *changed, rate, IDS, OFFSETS, factors(), SPEC, "adam eps=1e-8")
    check(torch.ops.bagdot.embedding_bag_step, arguments)


@pytest.mark.parametrize("spec", [SPEC, PADDED, MAX])
def test_gradcheck_of_the_lookup(spec):
    if spec == MAX:
        call, inputs = lambda w: bt.embedding_bag(w, IDS, OFFSETS, spec), [weights(torch.float64)]
    else:
        inputs = [weights(torch.float64), factors(torch.float64)]

        def call(w, f):
            return bt.embedding_bag(w, IDS, OFFSETS, spec, f)

    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("order", ["lower", "upper"])
@pytest.mark.parametrize("include_self", [False, True])
def test_gradcheck_of_the_interaction(order, include_self):
    settings = {"pair_order": order, "include_self": include_self, "append_sparse": True}

    def call(dense, sparse):
        return bt.interaction(dense, sparse, pad_to=4, **settings)

    assert torch.autograd.gradcheck(call, features(torch.float64))


def test_gradcheck_of_the_fused_op():
    def call(w, f, dense):
        return bt.pooled_interaction(w, IDS, OFFSETS, dense, SPEC, f)

    inputs = [weights(torch.float64), factors(torch.float64), features(torch.float64)[0]]
    assert torch.autograd.gradcheck(call, inputs)


@pytest.mark.parametrize("spec", [SPEC, PADDED, MAX])
def test_the_fused_op_in_16_bits_is_the_two_ops(spec):
    """The type is that of the dense vectors; the gradient of the tables is summed in float32."""
    w, f = weights(), None if spec == MAX else factors()
    dense = features()[0].detach().bfloat16().requires_grad_()
    vectors = bt.embedding_bag(w, IDS, OFFSETS, spec, f).bfloat16()
    results = []
    for out in (
        bt.interaction(dense, vectors),
        bt.pooled_interaction(w, IDS, OFFSETS, dense, spec, f),
    ):
        assert out.dtype == torch.bfloat16
        inputs = [w, dense] + ([] if f is None else [f])
        results.append([out, *torch.autograd.grad((out**2).sum(), inputs)])
    for one, other in zip(*results):
        assert one.dtype == other.dtype and torch.equal(one, other)


@pytest.mark.parametrize("spec", [SPEC, PADDED, MAX])
def test_float32_has_the_values_and_gradients_of_the_reference(spec):
    results = []
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(3)
        w = weights(torch.float32).detach().to(dtype).requires_grad_()
        f = None if spec == MAX else torch.rand(6).to(dtype).requires_grad_()
        dense = torch.randn(2, 4).to(dtype).requires_grad_()
        out = bt.pooled_interaction(w, IDS, OFFSETS, dense, spec, f)
        inputs = [w, dense] + ([] if f is None else [f])
        results.append([out, *torch.autograd.grad((out**2).sum(), inputs)])
    for got, want in zip(*results):
        # Sums of at most 12 terms, whose factors are below 40.
        assert torch.allclose(got.double(), want, rtol=1e-5, atol=1e-4)


def test_direct_calls_are_those_of_the_dispatcher():
    """Functions call the kernels directly in eager mode, and through the dispatcher elsewhere."""
    results = []
    for call in (bt._call_fused, torch.ops.bagdot.pooled_interaction.default):
        torch.manual_seed(4)
        w, f, dense = weights(), factors(), features()[0]
        out = call(w, IDS, OFFSETS, f, dense, SPEC, *DOT)[0]
        results.append([out, *torch.autograd.grad((out**2).sum(), [w, f, dense])])
    for direct, dispatched in zip(*results):
        assert torch.equal(direct, dispatched)
    with torch.profiler.profile() as profile:
        bt.embedding_bag(weights(), IDS, OFFSETS, SPEC)
    assert any(event.key == "bagdot::embedding_bag" for event in profile.key_averages())


def test_the_lookup_is_that_of_pytorch():
    w = weights()
    tables = [w[:80].view(20, 4), w[80:].view(10, 4)]
    parts = [
        nn.functional.embedding_bag(IDS[:3], tables[0], torch.tensor([0, 2]), mode="sum"),
        nn.functional.embedding_bag(IDS[3:], tables[1], torch.tensor([0, 0]), mode="mean"),
    ]
    want = torch.cat(parts, 1)
    out = bt.embedding_bag(w, IDS, OFFSETS, SPEC)
    assert torch.allclose(out, want)
    scale = torch.randn_like(out)
    grads = [torch.autograd.grad((o * scale).sum(), w, retain_graph=True)[0] for o in (out, want)]
    assert torch.allclose(*grads, atol=1e-6)
    for dtype in (torch.float16, torch.bfloat16):
        half = w.detach().to(dtype).requires_grad_()
        out = bt.embedding_bag(half, IDS, OFFSETS, SPEC)
        assert out.dtype == torch.float32
        (grad,) = torch.autograd.grad(out.sum(), half)
        assert grad.dtype == dtype and grad[12:16].tolist() == [2.0] * 4


def make(optimizer=None, **settings):
    torch.manual_seed(1)
    return bt.EmbeddingBagCollection(SHAPES, optimizer=optimizer, learning_rate=0.1, **settings)


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])
def test_steps_are_those_of_pytorch(optimizer):
    ours = make(optimizer, eps=1e-8)
    bags = make().to_embedding_bags()
    bags.load_state_dict({f"{k}.weight": t.clone() for k, t in
                          enumerate(ours.split_embedding_weights())})
    kind = {"sgd": torch.optim.SGD, "adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam}
    settings = {} if optimizer == "sgd" else {"eps": 1e-8}
    theirs = kind[optimizer](bags.parameters(), lr=0.1, **settings)
    # Adam on rows is lazy: all rows are looked up, so that it is not.
    ids = torch.cat([torch.arange(20), torch.arange(10)])
    offsets = torch.tensor([0, 7, 20, 26, 30])
    for _ in range(4):
        out = ours(ids, offsets=offsets)
        parts = [
            bags[0](ids[:20], torch.tensor([0, 7, 20])),
            bags[1](ids[20:], torch.tensor([0, 6, 10])),
        ]
        want = torch.cat(parts, 1)
        assert torch.allclose(out, want, atol=1e-5)
        (out**2).sum().backward()
        theirs.zero_grad()
        (want**2).sum().backward()
        theirs.step()
    assert ours.step.item() == 4 and ours.weights.grad is None
    for weight, bag in zip(ours.split_embedding_weights(), bags):
        assert torch.allclose(weight, bag.weight, atol=1e-5)


@pytest.mark.parametrize("optimizer", [None, "sgd", "adagrad", "rowwise_adagrad", "adam"])
def test_compiled_steps_have_the_same_bits(optimizer):
    ours, compiled = make(optimizer), make(optimizer)

    def loss(tables, ids, lengths):
        return (tables(ids, lengths) ** 2).sum()

    step = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for k in range(3):
        eager, of_graph = loss(ours, IDS, LENGTHS), step(compiled, IDS, LENGTHS)
        assert torch.equal(eager, of_graph)
        eager.backward()
        of_graph.backward()
        if optimizer is None:
            assert torch.equal(ours.weights.grad, compiled.weights.grad)
        else:
            assert (ours.step.item(), compiled.step.item()) == (k + 1, k + 1)
            compiled.learning_rate.fill_(0.2)
            ours.learning_rate.fill_(0.2)
        assert torch.equal(ours.weights, compiled.weights)


def test_inductor_compiles_a_whole_model():
    model = bt.Dlrm(3, SHAPES, [8, 4], [8, 1], optimizer="sgd")
    other = copy.deepcopy(model)
    compiled = torch.compile(other, fullgraph=True)
    dense = torch.randn(2, 3)
    for _ in range(2):
        logits, of_graph = model(dense, IDS, LENGTHS), compiled(dense, IDS, LENGTHS)
        assert torch.allclose(logits, of_graph, atol=1e-6)
        logits.sum().backward()
        of_graph.sum().backward()
    assert torch.allclose(model.embeddings.weights, other.embeddings.weights, atol=1e-6)


def test_autocast_lets_features_interact_in_16_bits():
    dense, sparse = features()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = bt.interaction(dense, sparse)
    assert out.dtype == torch.bfloat16
    want = bt.interaction(dense.bfloat16(), sparse.bfloat16())
    assert torch.equal(out, want)
    model = bt.Dlrm(3, SHAPES, [8, 4], [8, 1], optimizer="sgd")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        dense = torch.randn(2, 3)
        with torch.no_grad():
            fused = model(dense, IDS, LENGTHS)
        assert torch.equal(fused, model(dense, IDS, LENGTHS))
    before = model.embeddings.weights.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(2, 3), IDS, LENGTHS).float().sum().backward()
    assert not torch.equal(model.embeddings.weights, before)


def test_a_bad_id_is_an_exception_in_forward():
    tables = make("sgd")
    with pytest.raises(bagdot.IndexOutOfRange) as caught:
        tables(torch.tensor([3, 5, 3, 7, 1, 10]), LENGTHS)
    assert (caught.value.table, caught.value.bag, caught.value.value) == (1, 3, 10)


def test_shared_tables_and_names():
    tables = bt.EmbeddingBagCollection(
        [bt.TableConfig(20, 4, "page", ["page", "referrer"]), bt.TableConfig(10, 4, "user")]
    )
    assert tables.feature_names == ["page", "referrer", "user"]
    out = tables(torch.tensor([1, 1, 2]), torch.tensor([1, 1, 1]))
    assert torch.equal(out[:, :4], out[:, 4:8])
    assert list(tables.state_dict()) == [
        "embedding_bags.page.weight",
        "embedding_bags.user.weight",
    ]


def test_state_dicts_of_pytorch():
    tables = make("adam")
    bags = tables.to_embedding_bags()
    assert bags[0].weight.data_ptr() == tables.weights.data_ptr()
    again = bt.EmbeddingBagCollection.from_embedding_bags(bags, optimizer="adam")
    assert torch.equal(again.weights, tables.weights)
    other = bt.EmbeddingBagCollection(SHAPES)
    other.load_state_dict(bags.state_dict())
    assert torch.equal(other.weights, tables.weights)
    other.load_state_dict(tables.state_dict())
    with pytest.raises(RuntimeError, match="shape"):
        other.load_state_dict({"0.weight": torch.zeros(3, 4), "1.weight": torch.zeros(10, 4)})
    with pytest.raises(RuntimeError, match="Missing"):
        other.load_state_dict({"0.weight": torch.zeros(20, 4)})
    # A run that is resumed goes on as if it had not stopped.
    tables(IDS, LENGTHS).sum().backward()
    resumed = make("adam")
    resumed.load_state_dict(tables.state_dict())
    resumed.load_optimizer_state_dict(tables.optimizer_state_dict())
    for each in (tables, resumed):
        each(IDS, LENGTHS).sum().backward()
    assert torch.equal(tables.weights, resumed.weights)


class DlrmNet(nn.Module):
    """facebookresearch/dlrm's `DLRM_Net`: its names, its order of pairs, its logits."""

    def __init__(self, num_dense, tables, bottom, top):
        super().__init__()
        self.emb_l = nn.ModuleList(nn.EmbeddingBag(n, d, mode="sum") for n, d in tables)
        self.bot_l = self.mlp([num_dense, *bottom])
        pairs = (len(tables) + 1) * len(tables) // 2
        self.top_l = self.mlp([bottom[-1] + pairs, *top])

    def mlp(self, sizes):
        layers = []
        for size, following in zip(sizes, sizes[1:]):
            layers += [nn.Linear(size, following), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, dense, lists):
        x = self.bot_l(dense)
        vectors = [x] + [bag(ids, offsets) for bag, (ids, offsets) in zip(self.emb_l, lists)]
        block = torch.stack(vectors, 1)
        products = block @ block.transpose(1, 2)
        count = len(vectors)
        pairs = [products[:, i, j] for i in range(count) for j in range(i)]
        return self.top_l[:-1](torch.cat([x, torch.stack(pairs, 1)], 1)).squeeze(1)


@pytest.mark.parametrize("order", ["lower", "upper"])
def test_state_dicts_of_dlrm(order):
    shapes = [(20, 4), (10, 4), (5, 4)]
    theirs = DlrmNet(3, shapes, [8, 4], [8, 1])
    ours = bt.Dlrm(3, shapes, [8, 4], [8, 1], pair_order=order)
    ours.load_state_dict(theirs.state_dict())
    ids, offsets = torch.tensor([1, 2, 3, 4, 4, 0]), torch.tensor([0, 1, 2, 3, 4, 4, 6])
    lists = [
        (ids[0:2], torch.tensor([0, 1])),
        (ids[2:4], torch.tensor([0, 1])),
        (ids[4:6], torch.tensor([0, 0])),
    ]
    dense = torch.randn(2, 3)
    logits = theirs(dense, lists)
    assert torch.allclose(ours(dense, ids, offsets=offsets), logits, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(ours(dense, ids, offsets=offsets), logits, atol=1e-6)
    back = ours.dlrm_state_dict()
    assert set(back) == set(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(back[name], value), name


@pytest.fixture(scope="module")
def torchrec():
    return pytest.importorskip("torchrec")


def jagged(torchrec):
    return torchrec.KeyedJaggedTensor(
        keys=["b", "a"], values=torch.tensor([7, 1, 2, 3, 5, 3]), lengths=LENGTHS.flip(0)
    )


def test_keyed_jagged_tensors(torchrec):
    configs = [
        torchrec.EmbeddingBagConfig(
            name=f"table_{name}",
            num_embeddings=rows,
            embedding_dim=4,
            feature_names=[name],
            pooling=pooling,
        )
        for name, rows, pooling in [
            ("a", 20, torchrec.PoolingType.SUM),
            ("b", 10, torchrec.PoolingType.MEAN),
        ]
    ]
    theirs = torchrec.EmbeddingBagCollection(tables=configs)
    ours = bt.EmbeddingBagCollection(configs, optimizer="sgd")
    ours.load_state_dict(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    batch = jagged(torchrec)
    want, got = theirs(batch), ours(batch)
    assert got.keys() == want.keys()
    for name in ("a", "b"):
        assert torch.allclose(got[name], want[name], atol=1e-6)


@pytest.mark.parametrize("order", ["lower", "upper"])
def test_state_dicts_of_torchrec(torchrec, order):
    from torchrec.models.dlrm import DLRM

    configs = [
        torchrec.EmbeddingBagConfig(
            name=f"t_{name}", num_embeddings=rows, embedding_dim=4, feature_names=[name]
        )
        for name, rows in [("a", 20), ("b", 10)]
    ]
    theirs = DLRM(torchrec.EmbeddingBagCollection(tables=configs), 3, [8, 4], [8, 5, 1])
    ours = bt.Dlrm(3, configs, [8, 4], [8, 5, 1], pair_order=order)
    ours.load_state_dict(theirs.state_dict())
    dense, batch = torch.randn(2, 3), jagged(torchrec)
    logits = theirs(dense, batch).squeeze(1)
    assert torch.allclose(ours(dense, batch), logits, atol=1e-6)
    back = ours.torchrec_state_dict()
    assert set(back) == set(theirs.state_dict())
    for name, value in theirs.state_dict().items():
        assert torch.equal(back[name], value), name


def test_the_step_of_tables_is_one_call():
    """The backward pass leaves no gradient of the tables, and works without one of anything."""
    tables = make("sgd")
    before = tables.weights.clone()
    tables(IDS, LENGTHS).sum().backward()
    changed = (tables.weights != before).view(-1, 4).any(1).nonzero().flatten().tolist()
    assert changed == [3, 5, 21, 22, 27]
    with torch.no_grad():
        tables(IDS, LENGTHS)
    assert tables.step.item() == 1
