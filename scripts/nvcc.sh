#!/usr/bin/env bash
# Installs the CUDA compiler into .cuda/ unless it is there, and prints the path of nvcc. Nothing
# else of CUDA is needed to build, and nothing of it to run. The versions are pinned: a driver
# refuses cubins of a later major version of CUDA. ptxas of CUDA 12.0 makes the cubins for drivers
# of CUDA 12. This needs python3 with pip, and gcc, which nvcc calls. An argument names another
# folder.
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-.cuda}
wheels=(
    nvidia-cuda-nvcc==13.0.88
    nvidia-cuda-crt==13.0.88
    nvidia-nvvm==13.0.88
    nvidia-cuda-runtime==13.0.96 # cuda_runtime.h and the other headers
    nvidia-cuda-cccl==13.0.85    # cuda_bf16.h includes <nv/target> from it
    nvidia-cuda-nvcc-cu12==12.0.140 # ptxas alone is used, of nvidia/cuda_nvcc
    # The disassemblers. There are none of 13.0; these read its cubins.
    nvidia-cuda-cuobjdump==13.2.86
    nvidia-cuda-nvdisasm==13.2.86
)
stamp="$folder/installed"
wanted=$(printf '%s\n' "${wheels[@]}")
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
    # Two test programs may call this at once: the first installs, the others wait for it.
    mkdir -p "$folder"
    exec 9> "$folder/.lock"
    flock 9
    if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$wanted" ]; then
        rm -rf "$folder/nvidia"
        python3 -m pip install --quiet --disable-pip-version-check --root-user-action ignore \
            --no-deps --no-cache-dir --upgrade --target "$folder" "${wheels[@]}" >&2
        # `grep -q` would close the pipe before all is written, which fails by `pipefail`.
        is_release() { [[ "$("$1" --version)" == *"release $2,"* ]]; }
        is_release "$folder/nvidia/cu13/bin/nvcc" 13.0 || {
            echo "nvcc in $folder is not release 13.0" >&2
            exit 1
        }
        # Only ptxas stays: other tools and headers of this wheel must not shadow those of nvcc.
        mv "$folder/nvidia/cuda_nvcc" "$folder/nvidia/whole"
        mkdir -p "$folder/nvidia/cuda_nvcc/bin"
        mv "$folder/nvidia/whole/bin/ptxas" "$folder/nvidia/cuda_nvcc/bin"
        rm -r "$folder/nvidia/whole"
        is_release "$folder/nvidia/cuda_nvcc/bin/ptxas" 12.0 || {
            echo "ptxas in $folder is not release 12.0" >&2
            exit 1
        }
        printf '%s\n' "$wanted" > "$stamp"
    fi
fi
realpath "$folder/nvidia/cu13/bin/nvcc"
