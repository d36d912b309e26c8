"""The kernels in CuPy and CUDA C: arrays of the host or of the GPU in, results where the first of them lay.

Imports nothing but NumPy and CuPy, so that it runs on GPU hosts that have little else. Matrix products and all that
follows a product live in `kernels.dense` and `kernels.tiles`, which are tested without a GPU; the `.cu` files hold
the rest.
"""

import cupy

from kernels import cuda_arrays, cuda_exact, cuda_lanes, cuda_products, cuda_rerank
from kernels.cuda_arrays import COMPILE_OPTIONS, host_buffer, launch, resident, to_device, to_host, use_gpu
from kernels.cuda_exact import join, nearest_of
from kernels.cuda_lanes import decode, decode_resident
from kernels.cuda_products import nearest, non_finite, normalize, principal_axes, project, quantize, top_axes
from kernels.cuda_rerank import best_first, cascade, compare, rerank

xp = cupy
_launch = launch

__all__ = [
    "COMPILE_OPTIONS",
    "best_first",
    "cascade",
    "compare",
    "cuda_arrays",
    "cuda_exact",
    "cuda_lanes",
    "cuda_products",
    "cuda_rerank",
    "cupy",
    "decode",
    "decode_resident",
    "host_buffer",
    "join",
    "launch",
    "nearest",
    "nearest_of",
    "non_finite",
    "normalize",
    "principal_axes",
    "project",
    "quantize",
    "rerank",
    "resident",
    "to_device",
    "to_host",
    "top_axes",
    "use_gpu",
    "xp",
]
