"""The peers of Intel: its extension for PyTorch, with merged embedding bags, whose backward pass
does the step of SGD, the fused interaction, and layers that `ipex.optimize` has changed."""

import intel_extension_for_pytorch as ipex
import torch
from ids import SETS, read
from intel_extension_for_pytorch.nn.functional import interaction
from intel_extension_for_pytorch.nn.modules import MergedEmbeddingBag, MergedEmbeddingBagWithSGD
from layers import NUM_DENSE, Layers, autocast

LEARNING_RATE = 0.01


class FusedLayers(Layers):
    def interaction(self, dense, pooled):
        return interaction(dense, *(of_table.to(dense.dtype) for of_table in pooled))


def tables_of(request, dim):
    """Returns the tables; in training, the rows are updated in the backward pass."""
    count, rows = request["num_tables"], request["num_embeddings"]
    bags = [
        torch.nn.EmbeddingBag(rows, dim, mode="sum", include_last_offset=True, _weight=weight)
        for weight in torch.rand(count, rows, dim) * 0.02 - 0.01
    ]
    if request["optimizer"]:
        return MergedEmbeddingBagWithSGD.from_embeddingbag_list(bags, lr=LEARNING_RATE)
    return MergedEmbeddingBag.from_embeddingbag_list(bags)


def interaction_peer(request):
    size, count, dim = request["batch_size"], request["num_sparse"] + 1, request["dim"]
    sets = [[torch.rand(size, dim) * 2 - 1 for _ in range(count)] for _ in range(SETS)]
    grad = torch.rand(size, dim + count * (count - 1) // 2) * 2 - 1

    def forward(k):
        with torch.no_grad():
            interaction(*sets[k % SETS])

    def both(k):
        features = [x.detach().requires_grad_() for x in sets[k % SETS]]
        interaction(*features).backward(grad)

    return both if request["backward"] else forward


def embedding_peer(request, inputs):
    tables = tables_of(request, request["dim"])
    size, dim = request["batch_size"], request["dim"]
    grads = [torch.rand(size, dim) * 2 - 1 for _ in range(request["num_tables"])]

    def forward(k):
        with torch.no_grad():
            tables(*inputs(k))

    def step(k):
        torch.autograd.backward(list(tables(*inputs(k))), grads)

    return step if request["optimizer"] else forward


def dlrm_peer(request, inputs):
    precision = request.get("precision", "f32")
    dtype = torch.bfloat16 if precision == "bf16" else None
    tables = tables_of(request, request["bottom_mlp"][-1])
    layers = FusedLayers(request["num_tables"], request["bottom_mlp"], request["top_mlp"])
    size = request["batch_size"]
    dense = torch.rand(SETS, size, NUM_DENSE)
    labels = (torch.rand(size, 1) < 0.25).float()
    if not request["optimizer"]:
        layers = ipex.optimize(layers.eval(), dtype=dtype)

        def predict(k):
            with torch.no_grad(), autocast(precision):
                torch.sigmoid(layers(dense[k % SETS], tables(*inputs(k))))

        return predict
    rule = torch.optim.SGD(layers.parameters(), lr=LEARNING_RATE)
    layers, rule = ipex.optimize(layers.train(), dtype=dtype, optimizer=rule)
    loss_of = torch.nn.BCEWithLogitsLoss()

    def step(k):
        with autocast(precision):
            logits = layers(dense[k % SETS], tables(*inputs(k)))
        rule.zero_grad(set_to_none=True)
        loss_of(logits.float(), labels).backward()
        rule.step()

    return step


def peers_of(request):
    """Returns the peers of a request, functions of the number of a set."""
    if request["work"] == "interaction":
        return {"IPEX": interaction_peer(request)}
    # It has neither row-wise Adagrad nor tables in f16.
    if request["optimizer"] not in (None, "sgd") or request.get("dtype", "f32") != "f32":
        return {}
    flat, offsets = read(request)
    count = request["num_tables"]
    ids = [list(of_set.view(count, -1)) for of_set in flat]
    of_table = [offsets[: request["batch_size"] + 1]] * count
    peer = embedding_peer if request["work"] == "embedding" else dlrm_peer
    return {"IPEX": peer(request, lambda k: (ids[k % SETS], of_table))}
