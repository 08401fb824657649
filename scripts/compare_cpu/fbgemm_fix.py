"""Makes FBGEMM use the instruction sets of the CPU.

Wheels of torch export the table of the CPU's instruction sets from both libc10.so and libtorch.so,
and only one of the two copies is filled. If FBGEMM reads the other one, it silently runs its scalar
reference kernels, 4 to 15 times slower. This module, imported before FBGEMM runs, copies the filled
table over the empty one, so that FBGEMM is measured at its best.
"""

import ctypes
import os

import torch

SIZE_OF_CPUINFO_ISA = 85  # bytes, one flag each

folder = os.path.join(os.path.dirname(torch.__file__), "lib")
libraries = [ctypes.CDLL(os.path.join(folder, name)) for name in ("libtorch.so", "libc10.so")]
for library in libraries:
    library.cpuinfo_initialize()
tables = [
    (ctypes.c_ubyte * SIZE_OF_CPUINFO_ISA).in_dll(library, "cpuinfo_isa") for library in libraries
]
filled = max(tables, key=sum)
for table in tables:
    if sum(table) == 0:
        ctypes.memmove(table, filled, SIZE_OF_CPUINFO_ISA)
