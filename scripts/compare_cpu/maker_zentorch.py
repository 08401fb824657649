"""The peers of AMD: torch.compile with the backend of zentorch, for inference, which is what its
documentation promises. It fuses the lookups of all tables into one call. It changes nothing on CPUs
without AVX-512 (zentorch/_optimize.py), where it is torch.compile.

zentorch's user guide recommends freezing, which makes constants of the weights.
"""

import os

os.environ.setdefault("TORCHINDUCTOR_FREEZING", "1")

import fbgemm_fix  # noqa: E402,F401
import torch  # noqa: E402
import zentorch  # noqa: E402,F401
from ids import SETS, read  # noqa: E402
from layers import NUM_DENSE, Layers, autocast  # noqa: E402

torch._dynamo.config.recompile_limit = 64


def compiled(module):
    return torch.compile(module.eval(), backend="zentorch")


class Tables(torch.nn.Module):
    def __init__(self, request, dim):
        super().__init__()
        count, rows = request["num_tables"], request["num_embeddings"]
        self.tables = torch.nn.ModuleList(
            torch.nn.EmbeddingBag(rows, dim, mode="sum", include_last_offset=True, _weight=weight)
            for weight in (torch.rand(count, rows, dim) * 0.02 - 0.01)
        )

    def forward(self, ids, offsets):
        return [table(of_table, offsets) for table, of_table in zip(self.tables, ids)]


class Joined(torch.nn.Module):
    def __init__(self, tables):
        super().__init__()
        first = tables[0].weight
        # The tables lie one after another in one tensor.
        self.weight = torch.nn.Parameter(
            first.detach().as_strided((len(tables) * len(first), first.shape[1]), first.stride())
        )

    def forward(self, ids, offsets):
        return torch.nn.functional.embedding_bag(
            ids, self.weight, offsets, mode="sum", include_last_offset=True
        )


class Model(torch.nn.Module):
    def __init__(self, request):
        super().__init__()
        bottom = request["bottom_mlp"]
        self.tables = Tables(request, bottom[-1])
        self.layers = Layers(request["num_tables"], bottom, request["top_mlp"])

    def forward(self, dense, ids, offsets):
        pooled = torch.cat(self.tables(ids, offsets), 1)
        return torch.sigmoid(self.layers(dense, pooled))


def inference(run, precision="f32"):
    def of_set(k):
        with torch.no_grad(), autocast(precision):
            run(k % SETS)

    return of_set


def peers_of(request):
    """Returns the peers of a request, functions of the number of a set."""
    work = request["work"]
    if work == "interaction" and not request["backward"]:
        layers = Layers(request["num_sparse"], [request["dim"]], [1])
        run = torch.compile(layers.interaction, backend="zentorch")
        size, features = request["batch_size"], request["num_sparse"] + 1
        sets = torch.rand(SETS, size, features, request["dim"]) * 2 - 1
        pooled = [x[:, 1:].flatten(1) for x in sets]
        return {"zentorch": inference(lambda k: run(sets[k][:, 0], pooled[k]))}
    is_lookup = work == "embedding" and request["dtype"] == "f32"
    if request.get("optimizer") or not (is_lookup or work == "dlrm"):
        return {}
    flat, offsets = read(request)
    count = request["num_tables"]
    ids = [list(of_set.view(count, -1)) for of_set in flat]
    of_table = offsets[: request["batch_size"] + 1]
    if work == "dlrm":
        model, precision = compiled(Model(request)), request.get("precision", "f32")
        dense = torch.rand(SETS, request["batch_size"], NUM_DENSE)
        return {"zentorch": inference(lambda k: model(dense[k], ids[k], of_table), precision)}
    tables = Tables(request, request["dim"])
    each, joined = compiled(tables), compiled(Joined(tables.tables))
    first_rows = torch.arange(count) * request["num_embeddings"]
    linear = [of_set + first_rows.repeat_interleave(len(of_set) // count) for of_set in flat]
    return {
        "zentorch": inference(lambda k: each(ids[k], of_table)),
        "zentorch, joined table": inference(lambda k: joined(linear[k], offsets)),
    }
