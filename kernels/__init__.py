"""Arithmetic on arrays: decode, check, quantize, re-rank. Knows no files, no FAISS, no settings.

`reference` says what each kernel means, in NumPy; `cpu` is the same in Numba, `cuda` the same in CuPy and CUDA C.
All three offer the same functions (`Kernels`), and `load` is the one door to them.
"""

from kernels.contract import CodeKind, Codes, Kernels, Metric, Step, code_width
from kernels.device import Device, DeviceUnavailableError, load, parse_device

__all__ = [
    "CodeKind",
    "Codes",
    "Device",
    "DeviceUnavailableError",
    "Kernels",
    "Metric",
    "Step",
    "code_width",
    "load",
    "parse_device",
]
