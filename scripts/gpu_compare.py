#!/usr/bin/env python3
"""Reads the times of the benchmarks on a GPU, measures PyTorch at the same shapes on the same
device, and prints both side by side.

    gpu_compare.py CRITERION_FOLDER RECORD.json [--eager]

The benchmarks are in the folder that criterion wrote (CRITERION_HOME). Their names contain their
shapes. PyTorch gets its best chance: all tables in one call, several sets of ids in turn as in the
benchmarks, replayed from a CUDA graph. Whole models, which are those of models.json, are measured
in eager mode and, without `--eager`, through torch.compile, which takes minutes. Without PyTorch
the record has no peers. Part of the bundle that scripts/gpu_bundle.sh makes.
"""

import datetime
import json
import pathlib
import re
import statistics
import sys

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

DEVICE = "cuda"
ROTATED_BYTES = 256 << 20  # as in benches/common/mod.rs


def measured(folder):
    """Returns the name, the median in ns and the bytes of every benchmark on the device."""
    found = []
    for estimates in sorted(pathlib.Path(folder).glob("**/new/estimates.json")):
        benchmark = json.loads((estimates.parent / "benchmark.json").read_text())
        group, shape = benchmark["group_id"], benchmark["value_str"]
        if not group.endswith("/cuda"):
            continue
        throughput = benchmark["throughput"] or {}
        median = json.loads(estimates.read_text())["median"]["point_estimate"]
        entry = {
            "op": group.removesuffix("/cuda"),
            "shape": shape,
            "ns": median,
            "bytes": throughput.get("BytesDecimal", 0),
        }
        if "Elements" in throughput:
            entry["samples_per_second"] = round(throughput["Elements"] / median * 1e9)
        found.append(entry)
    return found


def shape_of(text):
    """Returns the numbers (t26: 26) and the words of the name of a shape."""
    words = set(text.split())
    numbers = re.findall(r"\b([a-z]+)(\d+)\b", " ".join(words - {"f32", "f16", "bf16", "tf32"}))
    return {key: int(value) for key, value in numbers}, words


def dtype_of(words):
    return torch.bfloat16 if "bf16" in words else torch.float16 if "f16" in words else torch.float32


def sets_of(bytes_of_set):
    return min(max(-(-ROTATED_BYTES // max(bytes_of_set, 1)), 2), 16)


def time_graph(calls):
    """Returns the median ns of a call, with all calls replayed together from a graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(20):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e6 / len(calls))
    return statistics.median(times)


def indices_of(numbers, words, set_number):
    """Draws the ids of all tables, as rows of one table that holds them all."""
    tables, rows = numbers["t"], numbers["r"]
    count = numbers["b"] * numbers["l"]
    generator = torch.Generator(device="cuda").manual_seed(set_number)
    if "zipf" in words:
        frequencies = torch.arange(1, rows + 1, dtype=torch.float64, device="cuda") ** -1.05
        cumulative = frequencies.cumsum(0) / frequencies.sum()
        order = torch.randperm(
            rows, generator=torch.Generator(device="cuda").manual_seed(0), device="cuda"
        )
        draws = torch.rand(tables, count, generator=generator, dtype=torch.float64, device="cuda")
        ids = order[torch.searchsorted(cumulative, draws).clamp(max=rows - 1)]
    else:
        ids = torch.randint(rows, (tables, count), generator=generator, device="cuda")
    return (ids + torch.arange(tables, device="cuda")[:, None] * rows).flatten()


def embedding_bag_forward(numbers, words):
    dtype = dtype_of(words)
    weight = (
        torch.rand(numbers["t"] * numbers["r"], numbers["d"], device="cuda")
        .mul_(2)
        .sub_(1)
        .to(dtype)
    )
    bags = numbers["t"] * numbers["b"]
    offsets = torch.arange(bags, device="cuda") * numbers["l"]
    sets = sets_of(bags * numbers["l"] * numbers["d"] * weight.element_size())
    calls = []
    for k in range(sets):
        indices = indices_of(numbers, words, k)
        calls.append(lambda indices=indices: F.embedding_bag(indices, weight, offsets, mode="sum"))
    with torch.no_grad():
        return time_graph(calls)


def random(*shape, words):
    return torch.rand(*shape, device="cuda").mul_(2).sub_(1).to(dtype_of(words))


def interaction(numbers, words, backward):
    """Measures the interaction as facebookresearch/dlrm computes it: all products, then those below
    the diagonal; backward by hand, in fewer steps than autograd takes."""
    features, dim, batch = numbers["f"], numbers["d"], numbers["b"]
    i, j = torch.tril_indices(features, features, offset=-1, device="cuda")

    def block(dense, sparse):
        return torch.cat([dense, sparse], dim=1).view(batch, features, dim)

    def forward(dense, sparse, _grad):
        x = block(dense, sparse)
        return torch.cat([dense, torch.bmm(x, x.transpose(1, 2))[:, i, j]], dim=1)

    def gradient(dense, sparse, grad):
        of_pairs = grad.new_zeros(batch, features, features)
        of_pairs[:, i, j] = grad[:, dim:]
        of_features = torch.bmm(of_pairs + of_pairs.transpose(1, 2), block(dense, sparse))
        of_features[:, 0] += grad[:, :dim]
        return of_features

    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words
    call = gradient if backward else forward
    sizes = [dim, (features - 1) * dim, dim + len(i)]
    sets = sets_of(batch * features * dim * (4 if dtype_of(words) == torch.float32 else 2))
    inputs = [[random(batch, size, words=words) for size in sizes] for _ in range(sets)]
    with torch.no_grad():
        return time_graph([lambda a=a: call(*a) for a in inputs])


def linear_forward(numbers, words):
    m, n, k = numbers["m"], numbers["n"], numbers["k"]
    weight, bias = random(n, k, words=words), random(n, words=words)
    inputs = [
        random(m, k, words=words) for _ in range(sets_of(m * (n + k) * weight.element_size()))
    ]
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words
    with torch.no_grad():
        return time_graph([lambda x=x: torch.relu_(F.linear(x, weight, bias)) for x in inputs])


def linear_backward(numbers, words):
    """Measures the products and sums of the op: the gradients of input, weight and bias from that
    of the output."""
    m, n, k = numbers["m"], numbers["n"], numbers["k"]
    weight = random(n, k, words=words)
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words

    def call(x, output, grad):
        z = torch.where(output > 0, grad, 0)
        return z @ weight, z.t() @ x, z.sum(0)

    sets = sets_of(m * (n + k) * weight.element_size())
    with torch.no_grad():
        inputs = [
            (random(m, k, words=words), random(m, n, words=words), random(m, n, words=words))
            for _ in range(sets)
        ]
        return time_graph([lambda a=a: call(*a) for a in inputs])


def sparse_update(numbers, words):
    """Measures SGD that adds each gradient to its row with atomics: duplicates then need no sort,
    and bits differ from run to run. No other optimizer can do that."""
    if "sgd" not in words:
        return None
    weight = random(numbers["t"] * numbers["r"], numbers["d"], words={"f32"})
    bags = numbers["t"] * numbers["b"]
    calls = []
    for k in range(sets_of(bags * numbers["l"] * numbers["d"] * 4)):
        indices, grad = indices_of(numbers, words, k), random(bags, numbers["d"], words={"f32"})
        bag_of = torch.arange(bags, device="cuda").repeat_interleave(numbers["l"])
        calls.append(
            lambda i=indices, g=grad, b=bag_of: weight.index_add_(
                0, i, g if numbers["l"] == 1 else g[b], alpha=-1e-6
            )
        )
    return time_graph(calls)


class Model:
    """A model of models.json as facebookresearch/dlrm has it, with all tables in one. SGD steps the
    rows by atomics and the layers as one list, which are PyTorch's fastest ways."""

    LEARNING_RATE = 1e-6

    def __init__(self, name, batch_size, words):
        published = json.loads((pathlib.Path(__file__).parent / "models.json").read_text())
        model = published["models"][name]
        self.rows = [min(rows, published["most_rows"]) for rows in model["rows"]]
        self.dim, self.batch_size, self.is_zipf = model["bottom"][-1], batch_size, "zipf" in words
        features = len(self.rows) + 1
        self.pairs = torch.tril_indices(features, features, offset=-1, device=DEVICE)
        self.table = torch.rand(sum(self.rows), self.dim, device=DEVICE).mul_(0.02).sub_(0.01)
        self.bottom = self.mlp(model["bottom"], last=[torch.nn.ReLU()])
        self.top = self.mlp([self.dim + self.pairs.shape[1]] + model["top"], last=[])
        self.parameters = [*self.bottom.parameters(), *self.top.parameters()]

    @staticmethod
    def mlp(sizes, last):
        layers = [
            layer
            for pair in zip(sizes, sizes[1:])
            for layer in (torch.nn.Linear(*pair), torch.nn.ReLU())
        ][:-1]
        return torch.nn.Sequential(*layers, *last).to(DEVICE)

    def batch(self, seed):
        generator = torch.Generator(device=DEVICE).manual_seed(seed)
        dense = (
            torch.rand(
                self.batch_size, self.bottom[0].in_features, generator=generator, device=DEVICE
            )
            * 2
            - 1
        )
        ids, first = [], 0
        for rows in self.rows:
            words = {"zipf"} if self.is_zipf else set()
            ids.append(
                indices_of({"t": 1, "r": rows, "b": self.batch_size, "l": 1}, words, seed) + first
            )
            first += rows
        labels = torch.randint(2, (self.batch_size,), generator=generator, device=DEVICE).float()
        return dense, torch.stack(ids, dim=1), labels

    def logits(self, dense, pooled):
        features = torch.cat(
            [self.bottom(dense).unsqueeze(1), pooled.view(self.batch_size, -1, self.dim)], dim=1
        )
        products = torch.bmm(features, features.transpose(1, 2))[:, self.pairs[0], self.pairs[1]]
        return self.top(torch.cat([features[:, 0], products], dim=1)).squeeze(1)

    def loss(self, dense, pooled, labels):
        return F.binary_cross_entropy_with_logits(self.logits(dense, pooled).float(), labels)

    def step(self, loss, dense, ids, labels, is_bf16):
        pooled = self.table[ids.flatten()].requires_grad_()
        with torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=is_bf16):
            value = loss(dense, pooled, labels)
        *grads, of_pooled = torch.autograd.grad(value, [*self.parameters, pooled])
        with torch.no_grad():
            self.table.index_add_(0, ids.flatten(), of_pooled, alpha=-self.LEARNING_RATE)
            torch._foreach_add_(self.parameters, grads, alpha=-self.LEARNING_RATE)

    def predict(self, logits, dense, ids, is_bf16):
        with torch.no_grad(), torch.autocast(DEVICE, dtype=torch.bfloat16, enabled=is_bf16):
            logits(dense, self.table[ids.flatten()])


def model_variants(shape, is_training):
    """Returns the ns of each way to run a model, or the error of PyTorch."""
    numbers, words = shape
    name = next(word for word in ("kaggle", "terabyte", "mlperf") if word in words)
    model = Model(name, numbers["b"], words)
    batches = [model.batch(k) for k in range(4)]
    run = model.loss if is_training else model.logits
    is_bf16, found = "bf16" in words, {}
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words
    for way in ("eager",) if "--eager" in sys.argv else ("eager", "compile"):
        # PyTorch limits how often a function is compiled; earlier compilations are not needed.
        torch.compiler.reset()
        of_way = torch.compile(run) if way == "compile" else run
        if is_training:
            calls = [lambda b=b, f=of_way: model.step(f, *b, is_bf16) for b in batches]
        else:
            calls = [lambda b=b, f=of_way: model.predict(f, b[0], b[1], is_bf16) for b in batches]
        try:
            found[way] = time_graph(calls)
        except Exception as error:  # torch.compile fails in many ways; the rest goes on
            found[way] = str(error).splitlines()[0] if str(error) else type(error).__name__
    return found


MODELS = {
    "train_step": lambda *shape: model_variants(shape, is_training=True),
    "predict": lambda *shape: model_variants(shape, is_training=False),
}
PEERS = {
    "embedding_bag_forward": embedding_bag_forward,
    "interaction_forward": lambda numbers, words: interaction(numbers, words, backward=False),
    "interaction_backward": lambda numbers, words: interaction(numbers, words, backward=True),
    "linear_forward": linear_forward,
    "linear_backward": linear_backward,
    "sparse_update": sparse_update,
}


def main():
    folder, record = (argument for argument in sys.argv[1:] if argument != "--eager")
    benchmarks = measured(folder)
    copies = [b["bytes"] / b["ns"] for b in benchmarks if b["op"] == "copy"]
    copy = copies[0] if copies else None
    print(f"{'benchmark':75} {'us':>9} {'GB/s':>7} {'of copy':>8} {'PyTorch us':>11} {'ratio':>6}")
    for b in benchmarks:
        gbps = b["bytes"] / b["ns"]
        line = f"{b['op'] + ' ' + b['shape']:75} {b['ns'] / 1e3:9.1f} {gbps:7.0f}"
        if copy:
            b["of_copy"] = round(gbps / copy, 3)
            line += f" {100 * b['of_copy']:7.0f}%"
        if torch and torch.cuda.is_available() and b["op"] in PEERS:
            try:
                b["pytorch_ns"] = PEERS[b["op"]](*shape_of(b["shape"]))
                if b["pytorch_ns"]:
                    line += f" {b['pytorch_ns'] / 1e3:11.1f} {b['pytorch_ns'] / b['ns']:6.2f}"
            except RuntimeError as error:  # the error is printed; the rest goes on
                b["pytorch_error"] = str(error).splitlines()[0]
                line += f" {b['pytorch_error']}"
            torch.cuda.empty_cache()
        print(line, flush=True)
        if torch and torch.cuda.is_available() and b["op"] in MODELS:
            b["pytorch_ns_of"] = MODELS[b["op"]](*shape_of(b["shape"]))
            for way, ns in b["pytorch_ns_of"].items():
                said = (
                    f"{ns / 1e3:11.1f} {ns / b['ns']:6.2f}" if isinstance(ns, float) else f" {ns}"
                )
                print(f"{'    PyTorch, ' + way:101} {said}", flush=True)
            torch.cuda.empty_cache()
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%FT%TZ"),
        "commit": commit(),
    }
    if torch and torch.cuda.is_available():
        about |= {"device": torch.cuda.get_device_name(), "pytorch": torch.__version__}
    pathlib.Path(record).write_text(json.dumps(about | {"benchmarks": benchmarks}, indent=1) + "\n")


def commit():
    file = pathlib.Path(__file__).parent / "commit"
    return file.read_text().strip() if file.exists() else None


if __name__ == "__main__":
    main()
