#!/usr/bin/env python3
"""Reads the times of the benchmarks on a GPU, measures PyTorch at the same shapes on the same
device, and prints both side by side.

    gpu_compare.py CRITERION_FOLDER RECORD.json [--compile | --no-pytorch]
    gpu_compare.py --show RECORD.json

The benchmarks are in the folder that criterion wrote (CRITERION_HOME). Their names contain their
shapes. PyTorch gets its best chance: all tables in one call, several sets of ids in turn as in the
benchmarks, replayed from a CUDA graph. It runs in eager mode; `--compile` also measures models, and
ops of several passes, through torch.compile, which takes minutes. Without PyTorch, or with
`--no-pytorch`, the record has no peers. `--show` prints a record that was written before, of any
age. Part of the bundle that scripts/gpu_bundle.sh makes.

The columns of the table:

    GB/s       the bytes of the benchmark, in which lookups and updates count a row once for each id
    of stream  these, as a share of the bandwidth that the benchmark `stream` reached: by reading
               alone for ops that hardly write, else by a copy
    of floor   the time that the least bytes take at that bandwidth, as a share of the time; each
               distinct row counts once (floors.jsonl, which the benchmarks write)
    of copy    in records from before there was `stream`: the share of the bandwidth of the driver's
               memcpy, which is far below that of a kernel
"""

import argparse
import datetime
import json
import pathlib
import re
import statistics

try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

DEVICE = "cuda"
DTYPES = {"f32", "f16", "bf16", "tf32"}
ROTATED_BYTES = 256 << 20  # as in benches/common/mod.rs


def floors(folder):
    """Returns the least bytes of benchmarks, by op and shape. A later run replaces others."""
    file = pathlib.Path(folder) / "floors.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    notes = [json.loads(line) for line in lines]
    return {(note["op"], note["shape"]): note["floor_bytes"] for note in notes}


def measured(folder):
    """Returns the name, the median in ns and the bytes of every benchmark on the device."""
    found, least = [], floors(folder)
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
        if (group, shape) in least:
            entry["floor_bytes"] = least[group, shape]
        if "Elements" in throughput:
            entry["samples_per_second"] = round(throughput["Elements"] / median * 1e9)
        found.append(entry)
    return found


def bandwidths(benchmarks):
    """Returns the GB/s of the fastest read and of the fastest copy among the rows of `stream`."""
    found = {}
    for b in benchmarks:
        work = b["shape"].split()[0]
        if b["op"] == "stream" and work in ("read", "copy"):
            found[work] = max(found.get(work, 0), b["bytes"] / b["ns"])
    return found


def yardstick_of(b):
    """Returns the work of `stream` that an op is like: `read` if less than a quarter of its bytes
    are written."""
    if b["op"] == "finite_check":
        return "read"
    if b["op"] == "embedding_bag_forward":
        numbers, words = shape_of(b["shape"])
        written = numbers["t"] * numbers["b"] * numbers["d"] * (8 if "argmax" in words else 4)
        return "read" if written * 4 < b.get("floor_bytes", b["bytes"]) else "copy"
    return "copy"


def add_shares(benchmarks):
    """Adds to each benchmark its shares of the bandwidth of the device."""
    stream = bandwidths(benchmarks)
    for b in benchmarks:
        work = yardstick_of(b)
        is_loop = b["op"] == "stream" and not b["shape"].startswith("memcpy")
        if is_loop or not b["bytes"] or work not in stream:
            continue
        b["stream"] = work
        b["of_stream"] = round(b["bytes"] / b["ns"] / stream[work], 3)
        if "floor_bytes" in b:
            b["of_floor"] = round(b["floor_bytes"] / b["ns"] / stream[work], 3)


def shape_of(text):
    """Returns the numbers (t26: 26) and the words of the name of a shape."""
    words = set(text.split())
    numbers = re.findall(r"\b([a-z]+)(\d+)\b", " ".join(words - DTYPES))
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


# Each peer returns a function, and its arguments for each set of inputs.


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
    mode = "max" if "max" in words else "sum"
    sets = sets_of(bags * numbers["l"] * numbers["d"] * weight.element_size())
    return (
        lambda indices: F.embedding_bag(indices, weight, offsets, mode=mode),
        [(indices_of(numbers, words, k),) for k in range(sets)],
    )


def random(*shape, words):
    return torch.rand(*shape, device="cuda").mul_(2).sub_(1).to(dtype_of(words))


def interaction(numbers, words, backward):
    """Computes the interaction as facebookresearch/dlrm does: all products, then those below the
    diagonal; backward by hand, in fewer steps than autograd takes."""
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
    sizes = [dim, (features - 1) * dim, dim + len(i)]
    sets = sets_of(batch * features * dim * (4 if dtype_of(words) == torch.float32 else 2))
    inputs = [[random(batch, size, words=words) for size in sizes] for _ in range(sets)]
    return gradient if backward else forward, inputs


def linear_forward(numbers, words):
    m, n, k = numbers["m"], numbers["n"], numbers["k"]
    weight, bias = random(n, k, words=words), random(n, words=words)
    sets = sets_of(m * (n + k) * weight.element_size())
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words
    return (
        lambda x: torch.relu_(F.linear(x, weight, bias)),
        [(random(m, k, words=words),) for _ in range(sets)],
    )


def linear_backward(numbers, words):
    """Computes the products and sums of the op: the gradients of input, weight and bias from that
    of the output."""
    m, n, k = numbers["m"], numbers["n"], numbers["k"]
    weight = random(n, k, words=words)
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words

    def call(x, output, grad):
        z = torch.where(output > 0, grad, 0)
        return z @ weight, z.t() @ x, z.sum(0)

    sets = sets_of(m * (n + k) * weight.element_size())
    inputs = [
        (random(m, k, words=words), random(m, n, words=words), random(m, n, words=words))
        for _ in range(sets)
    ]
    return call, inputs


def update_by_atomics(numbers, words):
    """Adds each gradient of SGD to its row with atomics: duplicates then need no sort, and bits
    differ from run to run. No other optimizer can do that."""
    if "sgd" not in words or dtype_of(words) != torch.float32:
        return None
    weight = random(numbers["t"] * numbers["r"], numbers["d"], words={"f32"})
    bags = numbers["t"] * numbers["b"]
    bag_of = torch.arange(bags, device="cuda").repeat_interleave(numbers["l"])
    sets = sets_of(bags * numbers["l"] * numbers["d"] * 4)
    return (
        lambda indices, grad: weight.index_add_(
            0, indices, grad if numbers["l"] == 1 else grad[bag_of], alpha=-1e-6
        ),
        [
            (indices_of(numbers, words, k), random(bags, numbers["d"], words={"f32"}))
            for k in range(sets)
        ],
    )


def radix_sort(numbers, words, dtype):
    """Sorts row numbers with their positions. PyTorch sorts so many keys by CUB's radix sort, over
    all bits of the type. It finds neither the segments nor the bags of the order."""
    ids = numbers["t"] * numbers["b"] * numbers["l"]
    sets = sets_of(ids * numbers["d"] * 4)
    return (
        lambda keys: torch.sort(keys, stable=True),
        [(indices_of(numbers, words, k).to(dtype),) for k in range(sets)],
    )


def cast(numbers, words, shape):
    n, (source, target) = numbers["n"], [{word} for word in shape.split() if word in DTYPES]
    sets = sets_of(n * (dtype_of(source).itemsize + dtype_of(target).itemsize))
    inputs = [
        (torch.empty(n, dtype=dtype_of(target), device="cuda"), random(n, words=source))
        for _ in range(sets)
    ]
    return lambda to, x: to.copy_(x), inputs


def dense_update(numbers, words):
    """Steps as torch.optim does in the fewest kernels: SGD and Adagrad by their formulas, Adam by
    the fused optimizer; then the copy in 16 bits, if there is one."""
    n, f32 = numbers["n"], {"f32"}
    rounded = torch.empty(n, dtype=dtype_of(words), device="cuda") if "bf16" in words else None
    passes = 7 if "adam" in words else 5 if "adagrad" in words else 3
    calls = [
        (random(n, words=f32), random(n, words=f32), torch.zeros(n, device="cuda"))
        for _ in range(sets_of(n * 4 * passes))
    ]

    def finish(p):
        if rounded is not None:
            rounded.copy_(p)

    def sgd(p, grad, _state):
        finish(p.add_(grad, alpha=-1e-6))

    def adagrad(p, grad, state):
        state.addcmul_(grad, grad)
        finish(p.addcdiv_(grad, state.sqrt().add_(1e-8), value=-1e-6))

    if "adam" not in words:
        return adagrad if "adagrad" in words else sgd, calls
    optimizers = []
    for p, grad, _ in calls:
        p.requires_grad_().grad = grad
        optimizer = torch.optim.Adam([p], lr=1e-6, fused=True, capturable=True)
        optimizers.append((optimizer, p))

    def adam(optimizer, p):
        optimizer.step()
        finish(p)

    return adam, optimizers


def moving_average(numbers, words):
    n = numbers["n"]
    inputs = [(random(n, words=words), random(n, words=words)) for _ in range(sets_of(12 * n))]
    return lambda average, values: average.lerp_(values, 0.001), inputs


def finite_check(numbers, words):
    n = numbers["n"]
    inputs = [(random(n, words=words),) for _ in range(sets_of(4 * n))]
    return lambda grad: torch.isfinite(grad).all(), inputs


def loss(numbers, words):
    n = numbers["n"]
    inputs = [
        (random(n, words=words), (random(n, words=words) > 0).float())
        for _ in range(sets_of(12 * n))
    ]

    def call(logits, labels):
        mean = F.binary_cross_entropy_with_logits(logits, labels)
        return mean, (torch.sigmoid(logits) - labels) / n

    return call, inputs


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


def model_variants(shape, is_training, with_compile):
    """Returns the ns of each way to run a model, or the error of PyTorch."""
    numbers, words = shape
    name = next(word for word in ("kaggle", "terabyte", "mlperf") if word in words)
    model = Model(name, numbers["b"], words)
    batches = [model.batch(k) for k in range(4)]
    run = model.loss if is_training else model.logits
    is_bf16 = "bf16" in words
    torch.backends.cuda.matmul.allow_tf32 = "tf32" in words

    def call(run, batch):
        if is_training:
            model.step(run, *batch, is_bf16)
        else:
            model.predict(run, batch[0], batch[1], is_bf16)

    found = {"eager": time_or_error(lambda b: call(run, b), [(b,) for b in batches])}
    if with_compile:
        # PyTorch limits how often a function is compiled; earlier compilations are not needed.
        torch.compiler.reset()
        compiled = torch.compile(run)
        found["compile"] = time_or_error(lambda b: call(compiled, b), [(b,) for b in batches])
    return found


def time_or_error(function, inputs):
    """Returns the median ns of a call, or the first line of PyTorch's error."""
    try:
        return time_graph([lambda a=a: function(*a) for a in inputs])
    except Exception as error:  # PyTorch fails in many ways; the rest goes on
        return str(error).splitlines()[0] if str(error) else type(error).__name__


MODELS = {"train_step": True, "predict": False}
SORTS = {
    "torch.sort of int64, stable: CUB's radix sort": "int64",
    "torch.sort of int32, stable: CUB's radix sort": "int32",
}
PEERS = {
    "embedding_bag_forward": embedding_bag_forward,
    "interaction_forward": lambda numbers, words: interaction(numbers, words, backward=False),
    "interaction_backward": lambda numbers, words: interaction(numbers, words, backward=True),
    "linear_forward": linear_forward,
    "linear_backward": linear_backward,
    # The peer needs no sort: beside it stands all of our work, never the update alone.
    "sort_and_update": update_by_atomics,
    "dense_update": dense_update,
    "moving_average": moving_average,
    "finite_check": finite_check,
    "loss": loss,
}
# The ops of several passes, which torch.compile can fuse.
FUSIBLE = {
    "interaction_forward",
    "interaction_backward",
    "linear_forward",
    "linear_backward",
    "finite_check",
    "loss",
}


def op_variants(b, with_compile):
    """Returns the ns of each way in which PyTorch can do the work of an op, or its error."""
    numbers, words = shape_of(b["shape"])
    found = {}
    with torch.no_grad():
        if b["op"] == "index_sort":
            for name, dtype in SORTS.items():
                found[name] = time_or_error(*radix_sort(numbers, words, getattr(torch, dtype)))
            return found
        if b["op"] == "cast":
            peer = cast(numbers, words, b["shape"])
        else:
            peer = PEERS[b["op"]](numbers, words) if b["op"] in PEERS else None
        if peer is None:
            return found
        function, inputs = peer
        found["eager"] = time_or_error(function, inputs)
        if with_compile and b["op"] in FUSIBLE:
            torch.compiler.reset()
            found["compile"] = time_or_error(torch.compile(function), inputs)
    return found


def add_peers(b, with_compile):
    """Measures the peers of a benchmark. `pytorch_ns` is the first of `pytorch_ns_of`."""
    try:
        if b["op"] in MODELS:
            found = model_variants(shape_of(b["shape"]), MODELS[b["op"]], with_compile)
        else:
            found = op_variants(b, with_compile)
    except RuntimeError as error:  # such as too little memory; the rest goes on
        found = {"eager": str(error).splitlines()[0]}
    torch.cuda.empty_cache()
    if not found:
        return
    b["pytorch_ns_of"] = found
    first = next(iter(found.values()))
    if isinstance(first, float):
        b["pytorch_ns"] = first


def header(has_stream):
    shares = f"{'of stream':>9} {'of floor':>8}" if has_stream else f"{'of copy':>18}"
    return f"{'benchmark':75} {'us':>9} {'GB/s':>7} {shares} {'PyTorch us':>11} {'ratio':>6}"


def lines_of(b):
    """Returns the lines of the table for a benchmark of a record, of any age."""

    def percent(key, width):
        return f"{100 * b[key]:{width - 1}.0f}%" if key in b else " " * width

    gbps = f"{b['bytes'] / b['ns']:7.0f}" if b.get("bytes") else " " * 7
    shares = (
        percent("of_copy", 18)
        if "of_copy" in b
        else f"{percent('of_stream', 9)} {percent('of_floor', 8)}"
    )
    line = f"{b['op'] + ' ' + b['shape']:75} {b['ns'] / 1e3:9.1f} {gbps} {shares}"
    others = dict(b.get("pytorch_ns_of", {}))
    if len(others) == 1 and isinstance(next(iter(others.values())), float):
        others = {}
    if not others and b.get("pytorch_ns"):
        line += f" {b['pytorch_ns'] / 1e3:11.1f} {b['pytorch_ns'] / b['ns']:6.2f}"
    lines = [line + (f" {b['pytorch_error']}" if "pytorch_error" in b else "")]
    for way, ns in others.items():
        is_time = isinstance(ns, (int, float))
        said = f"{ns / 1e3:11.1f} {ns / b['ns']:6.2f}" if is_time else f" {ns}"
        lines.append(f"{'    PyTorch, ' + way:{len(line)}} {said}")
    return lines


def show(record):
    benchmarks = json.loads(pathlib.Path(record).read_text())["benchmarks"]
    print(header(any("of_stream" in b for b in benchmarks)))
    for b in benchmarks:
        print("\n".join(lines_of(b)))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", nargs="?", help="the folder that criterion wrote")
    parser.add_argument("record", nargs="?", help="the file to write")
    parser.add_argument("--show", metavar="RECORD", help="print a record that was written before")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile, too")
    parser.add_argument("--no-pytorch", action="store_true", help="do not measure PyTorch")
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.show)
        return
    if arguments.record is None:
        parser.error("a folder and a record are needed")
    benchmarks = measured(arguments.folder)
    add_shares(benchmarks)
    has_pytorch = torch and torch.cuda.is_available() and not arguments.no_pytorch
    about = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%FT%TZ"),
        "commit": commit(),
    }
    if has_pytorch:
        about |= {"device": torch.cuda.get_device_name(), "pytorch": torch.__version__}
    about["stream"] = {work: round(gbps) for work, gbps in bandwidths(benchmarks).items()}
    if not about["stream"]:
        print("no benchmark `stream`: shares of the bandwidth are left out")

    def write():
        text = json.dumps(about | {"benchmarks": benchmarks}, indent=1)
        pathlib.Path(arguments.record).write_text(text + "\n")

    print(header(has_stream=True))
    for b in benchmarks:
        # What has been measured is kept if the peers take too long.
        write()
        if has_pytorch:
            add_peers(b, arguments.compile)
        print("\n".join(lines_of(b)), flush=True)
    write()


def commit():
    file = pathlib.Path(__file__).parent / "commit"
    return file.read_text().strip() if file.exists() else None


if __name__ == "__main__":
    main()
