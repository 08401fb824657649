#!/usr/bin/env bash
# Installs PyTorch, TorchRec and FBGEMM for the CPU once, with what the comparisons and the tests of
# the adapters need beside them, and prints the path of their Python.
#
# The folder is `PEERS` (about 7 GB); default: ~/.cache/bagdot-peers.
set -euo pipefail
peers=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/bagdot-peers}

# The marks carry numbers, which rise with the lists behind them.
if [ ! -e "$peers/READY" ]; then
    python3 -m venv "$peers" >&2
    "$peers/bin/pip" install --quiet torch==2.14.1 tensordict==0.15.3 torchmetrics==1.0.3 \
        pyre-extensions==0.0.32 tqdm orjson pandas==3.1.1 scipy==1.17.1 matplotlib==3.11.2 >&2
    # torchrec depends on the build of FBGEMM for GPUs, which is not wanted here.
    "$peers/bin/pip" install --quiet --no-deps fbgemm-gpu-cpu==1.9.0 torchrec==1.9.2 >&2
    touch "$peers/READY"
fi
if [ ! -e "$peers/ADAPTERS-2" ]; then
    "$peers/bin/pip" install --quiet \
        maturin==1.16.0 mypy==2.4.1 pytest==9.2.0 polars==2.1.0 pyarrow==26.0.1 \
        scikit-learn==1.9.1 safetensors==0.8.0 onnx==1.23.2 onnxruntime==1.32.0 jax==0.10.2 \
        apache-tvm-ffi==0.1.15.post2 jax-tvm-ffi==0.1.3 tensorboard==2.21.0 >&2
    touch "$peers/ADAPTERS-2"
fi
echo "$peers/bin/python"
